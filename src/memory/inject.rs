//! Where tests let an admission or the draw on a reserve fail, or take its time.
//!
//! Source: the design's section on memory (proofs: fault injection by draw).
//! Invariants: a refusal is one that the budget itself could give at that point; without a test nothing is asked.

use super::{Memory, Reserve};
use std::sync::Arc;

/// Where memory is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// An operation, or its next step, before it has anything.
    Admission,
    Draw(Reserve),
}

/// Decides; called under any lock.
pub trait Inject: Send + Sync {
    /// Whether the budget goes on as always; else there is none at first: a request is refused, all others make room.
    fn grants(&self, point: Point) -> bool;
}

impl Memory {
    /// From now on `inject` is asked; once.
    pub fn inject(&self, inject: Arc<dyn Inject>) {
        let _ = self.injected.set(inject);
    }

    pub(super) fn granted(&self, point: Point) -> bool {
        let injected = self.injected.get();
        injected.is_none_or(|inject| inject.grants(point))
    }

    pub(super) fn draw(&self, reserve: Reserve, bytes: u64) -> bool {
        self.granted(Point::Draw(reserve)) && self.ledger.draw(reserve, bytes)
    }
}

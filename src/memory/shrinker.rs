//! What can give memory back, and in which order it is asked.
//!
//! Source: the design's section on memory (shrinkers).
//! Invariants: a shrinker waits for nothing: it takes locks with `try_lock` alone, reads and writes nothing.

use std::sync::{Arc, Weak};

/// Something that can give memory back.
pub trait Shrinker: Send + Sync {
    /// Frees up to `frames` frames without waiting; returns how many it freed. Takes locks with try_lock only.
    fn shrink(&self, frames: usize) -> usize;
}

/// The shrinkers of a budget, cheapest first. The list is replaced as a whole, so that callers use it unlocked.
#[derive(Default)]
pub(super) struct Shrinkers(Arc<Vec<Weak<dyn Shrinker>>>);

impl Shrinkers {
    pub(super) fn push(&mut self, shrinker: Weak<dyn Shrinker>) {
        let mut all = Vec::clone(&self.0);
        all.push(shrinker);
        self.0 = Arc::new(all);
    }

    pub(super) fn all(&self) -> Arc<Vec<Weak<dyn Shrinker>>> {
        Arc::clone(&self.0)
    }
}

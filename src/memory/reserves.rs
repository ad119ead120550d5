//! Private memory of those whose work gives memory back: never lent, refilled before anybody else is served.
//!
//! Source: the design's section on memory (sizes; private, never lent).
//! Invariants: `left` is promised in the ledger; it never falls below zero; what was drawn comes back from the next
//! memory that is given back, before any waiter is served.

use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};

/// Whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reserve {
    /// Descriptor, commit block, escape copies.
    Committer,
    /// One step of writeback each.
    Flushers,
    /// One step of freeing, and the load of a buddy.
    Evictor,
    /// Spare loads of buddies, for the eviction policy of that name.
    Spare,
}

impl Reserve {
    pub const ALL: [Self; 4] = [Self::Committer, Self::Flushers, Self::Evictor, Self::Spare];
}

/// One reserve, in bytes.
#[derive(Default)]
pub(super) struct Pool {
    size: AtomicU64,
    left: AtomicU64,
    low: AtomicU64,
    draws: AtomicU64,
}

impl Pool {
    /// What is put aside at the mount, promised by the caller.
    pub(super) fn fill(&self, bytes: u64) {
        self.size.store(bytes, Ordering::Relaxed);
        self.left.store(bytes, Ordering::Relaxed);
        self.low.store(bytes, Ordering::Relaxed);
    }

    /// All of `bytes`, or nothing.
    pub(super) fn draw(&self, bytes: u64) -> bool {
        let drawn = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(bytes)
            });
        if let Ok(before) = drawn {
            self.low.fetch_min(before - bytes, Ordering::Relaxed);
            self.draws.fetch_add(1, Ordering::Relaxed);
        }
        drawn.is_ok()
    }

    pub(super) fn missing(&self) -> u64 {
        self.size.load(Ordering::Relaxed) - self.left.load(Ordering::SeqCst)
    }

    pub(super) fn put_back(&self, bytes: u64) {
        self.left.fetch_add(bytes, Ordering::SeqCst);
    }

    /// Ends the reserve: what was left.
    pub(super) fn close(&self) -> u64 {
        self.size.store(0, Ordering::Relaxed);
        self.left.swap(0, Ordering::SeqCst)
    }

    pub(super) fn snapshot(&self, reserve: Reserve) -> ReserveSnapshot {
        ReserveSnapshot {
            reserve,
            size: self.size.load(Ordering::Relaxed),
            left: self.left.load(Ordering::Relaxed),
            low: self.low.load(Ordering::Relaxed),
            draws: self.draws.load(Ordering::Relaxed),
        }
    }
}

/// A reserve at one moment, in bytes; `low` is the least that was ever left.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ReserveSnapshot {
    pub reserve: Reserve,
    pub size: u64,
    pub left: u64,
    pub low: u64,
    pub draws: u64,
}

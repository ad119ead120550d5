//! Claims: blocks promised to somebody who does not need to know yet which ones they will be.
//!
//! Source: the design's sections on the allocator and on delayed allocation.
//! Invariants: claiming is one step on one counter, so no two claims are promised one block; what is claimed is
//! free in some group until a search takes it; dropping a claim gives back what is left of it.

use super::groups::Groups;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Blocks counted out of what is available, not chosen yet.
pub struct Claim {
    groups: Arc<Groups>,
    blocks: u64,
}

impl Claim {
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Takes up to `blocks` out into a claim of their own.
    pub fn split(&mut self, blocks: u64) -> Self {
        let blocks = blocks.min(self.blocks);
        self.blocks -= blocks;
        Self {
            groups: Arc::clone(&self.groups),
            blocks,
        }
    }

    /// Takes in another claim on the same volume.
    pub fn join(&mut self, mut other: Self) {
        self.blocks += std::mem::take(&mut other.blocks);
    }

    /// Gives up to `blocks` back.
    pub fn release(&mut self, blocks: u64) {
        drop(self.split(blocks));
    }

    /// Blocks that a search has taken, or is about to: they are no longer claimed.
    pub(super) fn spend(&mut self, blocks: u64) {
        let blocks = blocks.min(self.blocks);
        self.blocks -= blocks;
        self.groups
            .totals
            .claimed
            .fetch_sub(blocks, Ordering::Relaxed);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let totals = &self.groups.totals;
        totals.claimed.fetch_sub(self.blocks, Ordering::Relaxed);
        totals.available.fetch_add(self.blocks, Ordering::Relaxed);
    }
}

impl Groups {
    /// All of `blocks`, or nothing; `floor` blocks stay available.
    pub(super) fn claim(self: &Arc<Self>, blocks: u64, floor: u64) -> Option<Claim> {
        let take = |available: u64| {
            let left = available.checked_sub(blocks)?;
            (blocks == 0 || left >= floor).then_some(left)
        };
        let totals = &self.totals;
        totals
            .available
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .ok()?;
        totals.claimed.fetch_add(blocks, Ordering::Relaxed);
        Some(Claim {
            groups: Arc::clone(self),
            blocks,
        })
    }
}

//! Claims: blocks promised to somebody who does not need to know yet which ones they will be.
//!
//! Source: the design's sections on the allocator and on delayed allocation.
//! Invariants: claiming is one step on one counter, so no two claims are promised one block; what is claimed is
//! free in some group until a search takes it; dropping a claim gives back what is left of it.

use super::groups::Groups;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Blocks counted out of what is available, not chosen yet. With clusters, whole ones.
pub struct Claim {
    groups: Arc<Groups>,
    clusters: u64,
}

impl Claim {
    pub fn blocks(&self) -> u64 {
        self.groups.blocks(self.clusters)
    }

    /// Takes up to `blocks` out into a claim of their own.
    pub fn split(&mut self, blocks: u64) -> Self {
        let clusters = self.groups.clusters(blocks).min(self.clusters);
        self.clusters -= clusters;
        Self {
            groups: Arc::clone(&self.groups),
            clusters,
        }
    }

    /// Takes in another claim on the same volume.
    pub fn join(&mut self, mut other: Self) {
        self.clusters += std::mem::take(&mut other.clusters);
    }

    /// Gives up to `blocks` back.
    pub fn release(&mut self, blocks: u64) {
        drop(self.split(blocks));
    }

    pub(super) fn clusters(&self) -> u64 {
        self.clusters
    }

    /// A search has taken clusters: they are no longer claimed.
    pub(super) fn spend(&mut self, clusters: u64) {
        let clusters = clusters.min(self.clusters);
        self.clusters -= clusters;
        let claimed = &self.groups.totals.claimed;
        claimed.fetch_sub(clusters, Ordering::Relaxed);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let totals = &self.groups.totals;
        totals.claimed.fetch_sub(self.clusters, Ordering::Relaxed);
        totals.available.fetch_add(self.clusters, Ordering::Relaxed);
    }
}

impl Groups {
    /// Room for all of `blocks`, or nothing; `floor` blocks stay available.
    pub(super) fn claim(self: &Arc<Self>, blocks: u64, floor: u64) -> Option<Claim> {
        let (clusters, floor) = (self.clusters(blocks), self.clusters(floor));
        let take = |available: u64| {
            let left = available.checked_sub(clusters)?;
            (clusters == 0 || left >= floor).then_some(left)
        };
        let totals = &self.totals;
        totals
            .available
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .ok()?;
        totals.claimed.fetch_add(clusters, Ordering::Relaxed);
        Some(Claim {
            groups: Arc::clone(self),
            clusters,
        })
    }
}

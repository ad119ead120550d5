//! R: runs that were handed out, their bits not yet set.
//!
//! Source: the design's section on block ownership.
//! Invariants: the record belongs to the value: dropping it gives the blocks back, marking it ends it.

use super::groups::{Group, Groups, sub};
use super::owner::GroupState;
use crate::ids::FsBlock;
use std::sync::Arc;

/// A run in set R: handed out, its bit not yet set. Dropping it gives the blocks back (R to free).
pub struct Reserved {
    groups: Arc<Groups>,
    pub(super) group: Arc<Group>,
    pub(super) bit: u32,
    /// Clusters; 0 once it is marked.
    pub(super) count: u32,
}

impl Reserved {
    pub(super) fn new(groups: Arc<Groups>, group: Arc<Group>, bit: u32, count: u32) -> Self {
        Self {
            groups,
            group,
            bit,
            count,
        }
    }

    pub fn start(&self) -> FsBlock {
        self.groups.block_at(self.group.index, self.bit)
    }

    /// Blocks, at least 1; whole clusters.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u32 {
        self.count << self.groups.geo.cluster_ratio_bits
    }

    /// R to B for the first `len` clusters, the rest to free: the caller sets the bits in the same critical section.
    pub(super) fn settle(&mut self, state: &mut GroupState, len: u32) {
        if state.unreserve(self.bit).is_some() {
            sub(&self.groups.totals.held, len);
            self.groups.release(state, self.bit + len, self.count - len);
        }
        self.count = 0;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if self.count == 0 {
            return;
        }
        let group = Arc::clone(&self.group);
        let mut state = group.lock();
        if state.unreserve(self.bit).is_some() {
            self.groups.release(&mut state, self.bit, self.count);
        }
    }
}

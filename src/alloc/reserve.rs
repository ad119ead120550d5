//! Serving a request: preallocation first, then a claim on the free blocks, then the search.
//!
//! Source: the design's section on the allocator.
//! Invariants: what is claimed is counted out of `available` before the search, so no two requests are
//! promised one block; what the search did not find goes back.

use super::Request;
use super::groups::Groups;
use super::normalize;
use super::prealloc::PreallocTree;
use super::reserved::Reserved;
use super::search::Want;
use crate::error::{Posix, Result};
use crate::ids::FsBlock;
use crate::sync::Mutex;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Searches before blocks that are free by count, but taken whenever we look, are given up.
const MAX_ROUNDS: u32 = 4;

impl Groups {
    pub(super) fn reserve(
        self: &Arc<Self>,
        request: &Request,
        tree: Option<&Mutex<PreallocTree>>,
        reserved_blocks: u64,
    ) -> Result<Reserved> {
        let place = request.logical.zip(tree);
        let least = request.len.clamp(1, self.geo.blocks_per_group);
        let mut len = least;
        if let Some((logical, tree)) = place {
            if let Some(reserved) = self.hand_out(tree, logical, least) {
                return Ok(reserved);
            }
            let next = self.next_prealloc(tree, logical);
            let group = self.geo.blocks_per_group;
            len = normalize::length(
                logical.get(),
                least,
                request.file_blocks,
                self.geo.block_bits,
                group,
                next,
            );
        }
        let floor = if request.privileged {
            0
        } else {
            reserved_blocks
        };
        let goal = self.inside(request.goal);
        for _ in 0..MAX_ROUNDS {
            let claimed = self.claim(len, least, floor).ok_or(Posix::NoSpc)?;
            let want = Want {
                goal,
                len: claimed,
                least: least.min(claimed),
            };
            let found = self.search(want);
            let taken = found
                .as_ref()
                .map_or(0, |found| found.as_ref().map_or(0, |run| run.len));
            self.unclaim(claimed - taken);
            if let Some(run) = found? {
                let mut reserved = Reserved::new(Arc::clone(self), run.group, run.start, run.len);
                if let Some((logical, tree)) = place
                    && reserved.len() > least
                {
                    self.keep_rest(tree, &mut reserved, logical, least);
                }
                return Ok(reserved);
            }
        }
        Err(Posix::NoSpc.into())
    }

    /// Counts blocks out of `available`: `len` if there are as many, else what was asked for, else what there is.
    fn claim(&self, len: u32, least: u32, floor: u64) -> Option<u32> {
        let mut claimed = 0;
        let claim = |available: u64| {
            let usable = u32::try_from(available.saturating_sub(floor)).unwrap_or(u32::MAX);
            claimed = if usable >= len {
                len
            } else {
                least.min(usable)
            };
            (claimed > 0).then(|| available - u64::from(claimed))
        };
        let total = &self.totals.available;
        total
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, claim)
            .ok()?;
        Some(claimed)
    }

    fn unclaim(&self, len: u32) {
        super::groups::add(&self.totals.available, len);
    }

    /// A goal that lies on the volume.
    fn inside(&self, goal: FsBlock) -> FsBlock {
        let first = u64::from(self.geo.first_data_block);
        if goal.get() < first || goal.get() >= self.geo.blocks_count {
            FsBlock::new(first)
        } else {
            goal
        }
    }
}

//! Serving a request: preallocation first, then a claim on the free blocks, then the search.
//!
//! Source: the design's section on the allocator.
//! Invariants: what is claimed is counted out of `available` before the search, so no two requests are
//! promised one block; what the search did not find goes back.

use super::claim::Claim;
use super::groups::{Groups, add};
use super::normalize;
use super::prealloc::PreallocTree;
use super::reserved::Reserved;
use super::search::Want;
use super::{Growth, Request};
use crate::error::{Posix, Result};
use crate::ids::FsBlock;
use crate::sync::Mutex;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Searches before blocks that are free by count, but taken whenever we look, are given up.
const MAX_ROUNDS: u32 = 4;
/// The same for a claim, whose blocks are surely there: others can only be in the middle of taking theirs.
const CLAIMED_ROUNDS: u32 = 1000;

impl Groups {
    /// `claim` pays for the run as far as it reaches; the rest comes out of what is available.
    pub(super) fn reserve(
        self: &Arc<Self>,
        request: &Request,
        tree: Option<&Mutex<PreallocTree>>,
        reserved_blocks: u64,
        mut claim: Option<&mut Claim>,
    ) -> Result<Reserved> {
        let place = request.logical.zip(tree);
        let least = request.len.clamp(1, self.geo.blocks_per_group);
        let mut len = least;
        if let Some((logical, tree)) = place {
            if let Some(reserved) = self.hand_out(tree, logical, least) {
                if let Some(claim) = claim {
                    claim.release(u64::from(reserved.len()));
                }
                return Ok(reserved);
            }
            if request.growth == Growth::Open {
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
        }
        let floor = if request.privileged {
            0
        } else {
            reserved_blocks
        };
        let goal = self.inside(request.goal);
        let rounds = if claim.is_some() {
            CLAIMED_ROUNDS
        } else {
            MAX_ROUNDS
        };
        for _ in 0..rounds {
            let paid = claim.as_ref().map_or(0, |claim| claim.blocks());
            let paid = least.min(u32::try_from(paid).unwrap_or(u32::MAX));
            let counted = self.count_out(len - paid, least - paid, floor);
            if paid + counted == 0 {
                return Err(Posix::NoSpc.into());
            }
            let want = Want {
                goal,
                len: paid + counted,
                least: least.min(paid + counted),
            };
            let found = self.search(want);
            let taken = found
                .as_ref()
                .map_or(0, |found| found.as_ref().map_or(0, |run| run.len));
            let from_claim = taken.min(paid);
            if let Some(claim) = claim.as_deref_mut() {
                claim.spend(u64::from(from_claim));
            }
            add(&self.totals.available, counted - (taken - from_claim));
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

    /// Counts blocks out of `available`: `len` if there are as many, else `least`, else what there is.
    fn count_out(&self, len: u32, least: u32, floor: u64) -> u32 {
        let mut counted = 0;
        let count = |available: u64| {
            let usable = u32::try_from(available.saturating_sub(floor)).unwrap_or(u32::MAX);
            counted = if usable >= len {
                len
            } else {
                least.min(usable)
            };
            Some(available - u64::from(counted))
        };
        let total = &self.totals.available;
        let _ = total.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count);
        counted
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

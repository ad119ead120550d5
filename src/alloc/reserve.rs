//! Serving a request: preallocation first, then a claim on the free blocks, then the search.
//!
//! Source: the design's section on the allocator.
//! Invariants: what a search may take is counted out of `available` before it starts, so no two requests are
//! promised one block; what the search did not find goes back.

use super::claim::Claim;
use super::groups::{Groups, add};
use super::locality::SMALL_FILE_BLOCKS;
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

/// What happens to the part of a run that was not asked for. Cluster numbers.
#[derive(Clone, Copy)]
enum Rest<'t> {
    /// There is none.
    Nothing,
    /// It is the file's, from this logical cluster on.
    Inode(&'t Mutex<PreallocTree>, u32),
    Shared,
}

/// A request in clusters.
struct Plan<'t> {
    want: Want,
    rest: Rest<'t>,
    /// Clusters that stay available.
    floor: u64,
}

impl Groups {
    /// `claim` pays for the run as far as it reaches; the rest comes out of what is available.
    pub(super) fn reserve(
        self: &Arc<Self>,
        request: &Request,
        tree: Option<&Mutex<PreallocTree>>,
        reserved_blocks: u64,
        mut claim: Option<&mut Claim>,
    ) -> Result<Reserved> {
        if let Some(reserved) = self.from_preallocations(request, tree) {
            if let Some(claim) = claim {
                claim.release(u64::from(reserved.len()));
            }
            return Ok(reserved);
        }
        let plan = self.plan(request, tree, reserved_blocks);
        let rounds = if claim.is_some() {
            CLAIMED_ROUNDS
        } else {
            MAX_ROUNDS
        };
        for round in 0..rounds {
            if round >= MAX_ROUNDS {
                // Whoever is in the middle of it may be waiting for this processor.
                std::thread::yield_now();
            }
            if let Some(reserved) = self.attempt(&plan, claim.as_deref_mut())? {
                return Ok(reserved);
            }
        }
        Err(Posix::NoSpc.into())
    }

    pub(super) fn from_preallocations(
        self: &Arc<Self>,
        request: &Request,
        tree: Option<&Mutex<PreallocTree>>,
    ) -> Option<Reserved> {
        let logical = request.logical?;
        let least = self.least(request);
        if let Some(tree) = tree
            && let Some(reserved) = self.hand_out(tree, self.logical_cluster(logical.get()), least)
        {
            return Some(reserved);
        }
        is_small(request).then(|| self.hand_out_shared(self.inside(request.goal), least))?
    }

    fn plan<'t>(
        &self,
        request: &Request,
        tree: Option<&'t Mutex<PreallocTree>>,
        reserved_blocks: u64,
    ) -> Plan<'t> {
        let least = self.least(request);
        let mut want = Want {
            goal: self.inside(request.goal),
            len: least,
            least,
            data: request.logical.is_some(),
            stream: None,
        };
        let mut rest = Rest::Nothing;
        if is_small(request) {
            want.len = self.shared_run(least);
            rest = Rest::Shared;
        } else if let Some((logical, tree)) = request.logical.zip(tree)
            && request.growth == Growth::Open
        {
            let logical = self.logical_cluster(logical.get());
            want.len = normalize::length(
                logical,
                least,
                self.clusters(request.file_blocks),
                self.geo.block_bits + self.geo.cluster_ratio_bits,
                self.geo.clusters_per_group,
                self.next_prealloc(tree, logical),
            );
            want.stream = Some(request.ino.get() as usize % self.streams.len());
            rest = Rest::Inode(tree, logical);
        }
        let floor = if request.privileged {
            0
        } else {
            self.clusters(reserved_blocks)
        };
        Plan { want, rest, floor }
    }

    /// One search. `None`: what is free by count was taken whenever we looked.
    fn attempt(
        self: &Arc<Self>,
        plan: &Plan<'_>,
        claim: Option<&mut Claim>,
    ) -> Result<Option<Reserved>> {
        let Want { len, least, .. } = plan.want;
        let paid = claim.as_ref().map_or(0, |claim| claim.clusters());
        let paid = least.min(u32::try_from(paid).unwrap_or(u32::MAX));
        let counted = self.count_out(len - paid, least - paid, plan.floor);
        if paid + counted == 0 {
            return Err(Posix::NoSpc.into());
        }
        let found = self.search(Want {
            len: paid + counted,
            least: least.min(paid + counted),
            ..plan.want
        });
        let run = found.as_ref().ok().and_then(Option::as_ref);
        let taken = run.map_or(0, |run| run.len);
        let from_claim = taken.min(paid);
        if let Some(claim) = claim {
            claim.spend(u64::from(from_claim));
        }
        add(&self.totals.available, counted - (taken - from_claim));
        let Some(run) = found? else {
            return Ok(None);
        };
        self.stats.allocations.fetch_add(1, Ordering::Relaxed);
        let mut reserved = Reserved::new(Arc::clone(self), run.group, run.start, run.len);
        if reserved.count > least {
            match plan.rest {
                Rest::Inode(tree, logical) => self.keep_rest(tree, &mut reserved, logical, least),
                Rest::Shared => self.share_rest(&mut reserved, least),
                Rest::Nothing => {}
            }
        }
        Ok(Some(reserved))
    }

    /// Counts clusters out of `available`: `len` if there are as many, else `least`, else what there is.
    pub(super) fn count_out(&self, len: u32, least: u32, floor: u64) -> u32 {
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

    /// The clusters asked for.
    fn least(&self, request: &Request) -> u32 {
        let clusters = self.clusters(u64::from(request.len)) as u32;
        clusters.clamp(1, self.geo.clusters_per_group)
    }

    pub(super) fn logical_cluster(&self, logical: u32) -> u32 {
        logical >> self.geo.cluster_ratio_bits
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

/// Whether it is data of a file that shares its runs with others.
pub(super) fn is_small(request: &Request) -> bool {
    let Some(logical) = request.logical.filter(|_| request.growth != Growth::Exact) else {
        return false;
    };
    let end = u64::from(logical.get()) + u64::from(request.len);
    request.file_blocks.max(end) <= SMALL_FILE_BLOCKS
}

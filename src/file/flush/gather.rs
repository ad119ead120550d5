//! Small inodes are flushed together: their data goes to the device in few large writes, and while it is under way the map
//! learns of what was written before.
//!
//! Source: the design's section on delayed allocation.
//! Invariants: those of `flush`, for each inode; who holds one inode against other flushers does not wait for another one.

use super::{Piece, TRANSFER, TRANSFER_FRAMES};
use crate::alloc::Claim;
use crate::device::submit::{self, Transfer, UnderWay};
use crate::error::Result;
use crate::file::Files;
use crate::inode::NodeRef;
use crate::inode::delayed::DirtyRun;
use crate::memory::Token;
use crate::sync::MutexGuard;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of an inode that is small.
const SMALL: usize = 256 << 10;
/// Bytes, and inodes, that are under way together.
const TOGETHER: usize = 4 << 20;
pub(super) const INODES: usize = 128;

/// An inode whose data is under way.
struct Member<'n> {
    node: &'n NodeRef,
    _alone: MutexGuard<'n, ()>,
    ranges: Vec<Range<u32>>,
    claim: Option<Claim>,
    pieces: Vec<Piece>,
}

struct Gathered<'n> {
    members: Vec<Member<'n>>,
    under_way: Arc<UnderWay>,
}

/// The first error is kept.
fn keep(result: &mut Result<()>, done: Result<()>) {
    if result.is_ok() {
        *result = done;
    }
}

impl Files {
    /// Flushes all of `nodes`; the first error, after all have been tried.
    pub(super) fn flush_nodes(&self, token: &mut Token, nodes: &[NodeRef]) -> Result<()> {
        let mut result = Ok(());
        let mut alone = Vec::new();
        if let [node] = nodes {
            return self.flush(token, node);
        }
        let mut rest = nodes.iter();
        let mut before: Option<Gathered<'_>> = None;
        loop {
            let next = self.gather(token, &mut rest, &mut alone, &mut result);
            let ended = next.is_none();
            if let Some(before) = std::mem::replace(&mut before, next) {
                keep(&mut result, self.finish_gathered(token, before));
            }
            if ended {
                break;
            }
        }
        for node in alone {
            // The one before has used up what was promised.
            token.renew();
            keep(&mut result, self.flush(token, node));
        }
        result
    }

    /// How many blocks are gathered.
    pub(super) fn together(&self) -> usize {
        TOGETHER >> self.geo.block_bits
    }

    /// Finds a place for the data of the next small inodes and sends it there. The others of them go to `alone`.
    fn gather<'n>(
        &self,
        token: &mut Token,
        rest: &mut std::slice::Iter<'n, NodeRef>,
        alone: &mut Vec<&'n NodeRef>,
        result: &mut Result<()>,
    ) -> Option<Gathered<'n>> {
        let (mut members, mut transfers, mut blocks) = (Vec::new(), Vec::new(), 0);
        while blocks < self.together() && members.len() < INODES {
            let Some(node) = rest.next() else { break };
            let Some((guard, runs)) = self.take_small(node, result) else {
                alone.push(node);
                continue;
            };
            token.renew();
            match self.place_small(node, guard, runs) {
                Ok(member) => {
                    blocks += member
                        .pieces
                        .iter()
                        .map(|p| p.len() as usize)
                        .sum::<usize>();
                    transfers.extend(self.transfers(&member.pieces));
                    members.push(member);
                }
                Err(error) => keep(result, Err(error)),
            }
        }
        let under_way = submit::submit_all(self.device.as_ref(), self.merge(transfers));
        (!members.is_empty()).then_some(Gathered { members, under_way })
    }

    /// All that is dirty of an inode, unless somebody else is at it or it is not small.
    fn take_small<'n>(
        &self,
        node: &'n NodeRef,
        result: &mut Result<()>,
    ) -> Option<(MutexGuard<'n, ()>, Vec<DirtyRun>)> {
        let limit = SMALL >> self.geo.block_bits;
        let guard = node.writeback.try_lock()?;
        let mut delayed = node.delayed.lock();
        if delayed.blocks() > limit {
            return None;
        }
        if let Some(error) = delayed.error() {
            keep(result, Err(error.clone()));
            return Some((guard, Vec::new()));
        }
        let runs = delayed.take(0, limit);
        Some((guard, runs))
    }

    fn place_small<'n>(
        &self,
        node: &'n NodeRef,
        guard: MutexGuard<'n, ()>,
        runs: Vec<DirtyRun>,
    ) -> Result<Member<'n>> {
        let ranges: Vec<_> = runs.iter().map(DirtyRun::range).collect();
        let mut claim = self.borrow_claim(node, &ranges);
        match self.place(node, runs, &mut claim) {
            Ok(pieces) => Ok(Member {
                node,
                _alone: guard,
                ranges,
                claim,
                pieces,
            }),
            Err(error) => {
                self.settle_runs(node, &ranges, claim, Err(error.clone()))?;
                Err(error)
            }
        }
    }

    /// What lies side by side on the device goes there in one piece.
    fn merge(&self, mut transfers: Vec<Transfer>) -> Vec<Transfer> {
        let limit = (TRANSFER >> self.geo.block_bits).clamp(1, TRANSFER_FRAMES);
        transfers.sort_unstable_by_key(|(offset, _)| *offset);
        let mut merged: Vec<Transfer> = Vec::new();
        for (offset, frames) in transfers {
            match merged.last_mut() {
                Some((start, last))
                    if *start + ((last.len() as u64) << self.geo.block_bits) == offset
                        && last.len() + frames.len() <= limit =>
                {
                    last.extend(frames);
                }
                _ => merged.push((offset, frames)),
            }
        }
        merged
    }

    fn finish_gathered(&self, token: &mut Token, gathered: Gathered<'_>) -> Result<()> {
        let written = gathered.under_way.wait();
        let mut result = Ok(());
        for member in gathered.members {
            let Member {
                node,
                _alone,
                ranges,
                mut claim,
                pieces,
            } = member;
            let done = match &written {
                Ok(()) => self.map_pieces(token, node, pieces, &mut claim),
                Err(error) => {
                    drop(pieces);
                    Err(error.clone())
                }
            };
            let done = self
                .settle_runs(node, &ranges, claim, done)
                .and_then(|()| self.finish_flush(token, node));
            keep(&mut result, done);
        }
        self.memory.less_is_dirty();
        result
    }
}

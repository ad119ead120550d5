//! Committed transactions whose blocks are not home yet, and how their log space comes back.
//!
//! Source: the design's section on the journal; jbd2's checkpoint lists.
//! Invariants: a block stands in the list of the newest committed transaction that changed it, and nowhere else; a
//! forgotten block stands in none; log space is reused only after: blocks home, sync, journal superblock, sync.

use crate::cache::{BufferRef, Snapshot};
use crate::canary::{Canary, canary};
use crate::error::Result;
use crate::ids::{FsBlock, NumberMap, Tid};
use crate::journal::log::{Log, LogPosition};
use crate::journal::{Committer, Journal};
use std::collections::VecDeque;
use std::sync::atomic::Ordering;

#[derive(Default)]
pub(super) struct Checkpoints {
    oldest_first: VecDeque<Checkpoint>,
    /// The list that a block stands in.
    list_of: NumberMap<FsBlock, Tid>,
}

struct Checkpoint {
    tid: Tid,
    first: LogPosition,
    /// The buffer is held so that the cache does not read older bytes from home.
    blocks: NumberMap<FsBlock, (BufferRef, Snapshot)>,
}

impl Checkpoints {
    pub(super) fn push(
        &mut self,
        tid: Tid,
        first: LogPosition,
        blocks: Vec<(BufferRef, Snapshot)>,
    ) {
        for (buffer, _) in &blocks {
            self.remove(buffer.block());
            self.list_of.insert(buffer.block(), tid);
        }
        let blocks = blocks
            .into_iter()
            .map(|(b, s)| (b.block(), (b, s)))
            .collect();
        self.oldest_first
            .push_back(Checkpoint { tid, first, blocks });
    }

    pub(super) fn remove(&mut self, block: FsBlock) {
        let Some(tid) = self.list_of.remove(&block) else {
            return;
        };
        let index = self
            .oldest_first
            .partition_point(|list| tid.is_after(list.tid));
        if let Some(list) = self.oldest_first.get_mut(index) {
            debug_assert_eq!(list.tid, tid, "transactions stand in their order");
            list.blocks.remove(&block);
        }
    }

    /// Where the log must be kept from: the oldest transaction that is still here.
    fn tail(&self) -> Option<(Tid, LogPosition)> {
        self.oldest_first.front().map(|list| (list.tid, list.first))
    }
}

impl Journal {
    pub(super) fn note_running(&self, count: usize) {
        self.pinned.running.store(count as u64, Ordering::Relaxed);
    }

    pub(super) fn note_checkpoints(&self, checkpoints: &Checkpoints) {
        let count = checkpoints.list_of.len() as u64;
        self.pinned.checkpoints.store(count, Ordering::Relaxed);
    }

    /// Writes transactions home, oldest first, until `enough` says so or none is left.
    pub(super) fn checkpoint_until(
        &self,
        committer: &mut Committer,
        enough: impl Fn(&Log) -> bool,
    ) -> Result<()> {
        let Committer {
            log: Some(log),
            checkpoints,
            ..
        } = committer
        else {
            return Ok(());
        };
        while !log.is_empty() && !enough(log) {
            // A quarter of the log at a time: few syncs, many blocks to sort.
            let goal = log.free() + log.capacity() / 4;
            let mut blocks = Vec::new();
            while let Some(list) = checkpoints.oldest_first.pop_front() {
                for block in list.blocks.keys() {
                    checkpoints.list_of.remove(block);
                }
                blocks.extend(list.blocks.into_values());
                let reached = match checkpoints.tail() {
                    Some((_, first)) => log.free_with_tail(first) >= goal,
                    None => true,
                };
                if reached {
                    break;
                }
            }
            let begun = self.clock.monotonic();
            self.write_home(&blocks)?;
            drop(blocks);
            self.note_checkpoints(checkpoints);
            if !canary(Canary::EarlyTail) {
                self.cache.device().sync()?;
            }
            log.move_tail(self.cache.device().as_ref(), checkpoints.tail())?;
            if !canary(Canary::TailUnsynced) {
                self.cache.device().sync()?;
            }
            log.reuse_freed();
            let took = self.clock.monotonic().saturating_sub(begun);
            self.stats.checkpoint_times.record(took);
            self.stats.checkpoints.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

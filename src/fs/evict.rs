//! Where memory comes from when it is short: eviction, writeback, commits; and what can be seen of it.
//!
//! Source: the design's sections on memory and on the eviction path.
//! Invariants: called with nothing held; nothing here fails what somebody has asked for.

use crate::alloc::AllocStats;
use crate::evict;
use crate::evict::Cause;
use crate::fs::known::KnownStats;
use crate::fs::{Fs, need};
use crate::ids::InodeNumber;
use crate::journal;
use crate::memory::{Reclaimer, Relief, Reserve, Snapshot};
use serde::Serialize;
use std::time::Duration;

/// Inodes written in one round when memory is short.
const FLUSH_BATCH: usize = 64;

/// What `uext4 stats` shows.
#[derive(Clone, Debug, Serialize)]
pub struct Stats {
    pub memory: Snapshot,
    pub eviction: evict::Snapshot,
    pub alloc: AllocStats,
    pub journal: journal::StatsSnapshot,
    pub inodes: usize,
    /// Inodes that the kernel knows or has open.
    pub known: KnownStats,
    /// Blocks in transactions, or committed but not at home.
    pub pinned_blocks: u64,
    /// Set aside, handed out, or freed but not committed.
    pub held_blocks: u64,
    /// Requests that were served by another thread than the worker that received them, since enough workers waited.
    pub put_aside: u64,
}

impl Fs {
    pub fn stats(&self) -> Stats {
        Stats {
            memory: self.memory.snapshot(),
            eviction: self.evictor.snapshot(),
            alloc: self.alloc.stats(),
            journal: self.journal.stats(),
            inodes: self.table.len(),
            known: self.known.stats(),
            pinned_blocks: self.journal.pinned(),
            held_blocks: self.alloc.counts().held_blocks,
            put_aside: self.put_aside(),
        }
    }

    /// Evicts all that can be, as drop_caches; returns how many inodes are left in memory.
    pub fn evict_all(&self) -> usize {
        let _ = self.flush_all();
        {
            let mut token = self.memory.admit(need::FLUSH);
            while matches!(self.files.flush_now(&mut token), Ok(true)) {}
        }
        self.unpin();
        self.alloc.discard_localities();
        let left = self.evictor.evict_all();
        self.memory.drop_clean();
        left
    }

    /// What to ask the kernel to forget, waiting until there is something; `None` after `stop_pruning`. Holds nothing.
    pub fn next_to_prune(&self) -> Option<Vec<InodeNumber>> {
        self.known.next_to_prune()
    }

    /// The kernel has been asked.
    pub fn pruned(&self, inodes: usize) {
        self.known.pruned(inodes);
    }

    pub fn stop_pruning(&self) {
        self.known.stop_pruning();
    }

    /// One round of the evictor's thread.
    pub fn evict_step(&self) {
        self.memory.serve_step();
    }

    /// Sleeps until there is something for `evict_step` to do.
    pub(crate) fn wait_for_pressure(&self, limit: Duration) {
        self.memory.wait_for_pressure(limit);
    }
}

impl Relief for Fs {
    fn prune(&self, bytes: u64, by: Reclaimer) {
        let cause = match by {
            Reclaimer::Direct => Cause::Direct,
            Reclaimer::Evictor => Cause::Evictor,
        };
        self.evictor.prune_icache(bytes, by, cause);
    }

    fn unpin(&self) {
        // An error has ended all writing; whoever writes next is told.
        if !self.is_read_only()
            && let Err(error) = self.journal.unpin()
        {
            self.report(&error);
        }
    }

    fn write_back(&self) {
        if self.memory.dirty() == 0 || self.is_read_only() {
            return;
        }
        // What a step beyond the first takes, too.
        let _reserve = self.memory.draw_on(Reserve::Evictor);
        let own = self.memory.admit_from(Reserve::Evictor, need::FLUSH);
        match own.or_else(|| self.memory.admit_free(need::FLUSH)) {
            // An error stays with its file.
            Some(mut token) => {
                for _ in 0..FLUSH_BATCH {
                    if !matches!(self.files.flush_now(&mut token), Ok(true)) {
                        break;
                    }
                }
            }
            None => self.press(),
        }
    }

    fn prunes_directly(&self) -> bool {
        self.evictor.prunes_directly()
    }
}

//! The running transaction and who waits for which.
//!
//! Source: the design's section on the journal; jbd2's running and committing transactions.
//! Invariants: a transaction is taken for commit only when it has no open handle; transaction numbers have no gap.

use crate::cache::BufferRef;
use crate::canary::{Canary, canary};
use crate::error::{Error, Result};
use crate::ids::{FsBlock, NumberMap, NumberSet, Tid};
use crate::journal::batch::Batch;
use std::time::Duration;

/// Told once whether something has become durable.
pub type Waiter = Box<dyn FnOnce(Result<()>) + Send>;

pub(super) struct State {
    pub(super) running: Option<Transaction>,
    /// No handle may join: the running transaction waits for its open handles.
    pub(super) locked: bool,
    /// No handle may join: the file system is being marked clean.
    pub(super) held: bool,
    pub(super) next: Tid,
    /// The newest durable transaction.
    pub(super) committed: Tid,
    /// Commit up to this one soon.
    pub(super) requested: Option<Tid>,
    pub(super) waiters: Vec<(Tid, Waiter)>,
    /// Who waits for a sync of the device alone.
    pub(super) flushes: Vec<Waiter>,
    pub(super) batch: Batch,
    /// Blocks should go home soon.
    pub(super) crowded: bool,
    pub(super) aborted: Option<Error>,
    pub(super) stopping: bool,
}

impl State {
    pub(super) fn new(next: Tid) -> Self {
        Self {
            running: None,
            locked: false,
            held: false,
            next,
            committed: Tid::new(next.get().wrapping_sub(1)),
            requested: None,
            waiters: Vec::new(),
            flushes: Vec::new(),
            batch: Batch::default(),
            crowded: false,
            aborted: None,
            stopping: false,
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.aborted.is_some() {
            Err(Error::Aborted)
        } else {
            Ok(())
        }
    }

    /// The running transaction, begun if there is none.
    pub(super) fn running(&mut self, now: Duration) -> &mut Transaction {
        let next = self.next;
        if self.running.is_none() {
            self.next = next.next();
        }
        self.running
            .get_or_insert_with(|| Transaction::new(next, now))
    }

    pub(super) fn request(&mut self, tid: Tid) {
        if self
            .requested
            .is_none_or(|requested| tid.is_after(requested))
        {
            self.requested = Some(tid);
        }
    }

    /// Those who wait for `tid` or earlier.
    pub(super) fn take_waiters(&mut self, tid: Tid) -> Vec<Waiter> {
        let (ready, rest): (Vec<_>, Vec<_>) = self
            .waiters
            .drain(..)
            .partition(|(wanted, _)| tid.is_at_or_after(*wanted));
        self.waiters = rest;
        ready.into_iter().map(|(_, waiter)| waiter).collect()
    }

    pub(super) fn take_all_waiters(&mut self) -> Vec<Waiter> {
        let mut all: Vec<_> = self.waiters.drain(..).map(|(_, waiter)| waiter).collect();
        all.append(&mut self.flushes);
        all
    }
}

pub(super) struct Transaction {
    pub(super) tid: Tid,
    pub(super) started: Duration,
    pub(super) handles: u32,
    /// Credits of open handles not used yet.
    pub(super) reserved: u32,
    pub(super) buffers: NumberMap<FsBlock, BufferRef>,
    /// Older copies of these blocks in the log must not be replayed.
    pub(super) revoked: NumberSet<FsBlock>,
    /// Freed metadata blocks: nothing may write them home once this has committed.
    pub(super) forgotten: NumberSet<FsBlock>,
}

impl Transaction {
    fn new(tid: Tid, started: Duration) -> Self {
        Self {
            tid,
            started,
            handles: 0,
            reserved: 0,
            buffers: NumberMap::default(),
            revoked: NumberSet::default(),
            forgotten: NumberSet::default(),
        }
    }

    /// Blocks that are or may yet be in it. Revokes are small: 500 and more to a block.
    pub(super) fn load(&self) -> u32 {
        let blocks = self.buffers.len() + self.revoked.len() / 128;
        u32::try_from(blocks)
            .unwrap_or(u32::MAX)
            .saturating_add(self.reserved)
    }

    /// Adds a block; returns whether it is new here.
    pub(super) fn add(&mut self, block: FsBlock, buffer: &BufferRef) -> bool {
        if !canary(Canary::RevokeStays) {
            self.revoked.remove(&block);
        }
        self.forgotten.remove(&block);
        self.buffers
            .insert(block, BufferRef::clone(buffer))
            .is_none()
    }

    pub(super) fn forget(&mut self, block: FsBlock) {
        self.buffers.remove(&block);
        if !canary(Canary::NoRevoke) {
            self.revoked.insert(block);
        }
        self.forgotten.insert(block);
    }
}

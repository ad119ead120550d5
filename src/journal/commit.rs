//! Makes the running transaction durable.
//!
//! Source: the kernel's ext4 documentation, "Journal (jbd2)"; the design's section on the journal.
//! Invariants: blocks are taken while no handle is open, so they are all of one moment; the commit block is written only
//! after a sync that covers them and all file data that completed before; listeners hear of a transaction after the second
//! sync, and before those who wait for it. Whoever asks for durability may do the committer's work, if nobody is at it.

use crate::cache::{BufferRef, Snapshot};
use crate::canary::{Canary, canary};
use crate::error::Result;
use crate::ids::{FsBlock, Tid};
use crate::journal::log::LogPosition;
use crate::journal::{Committer, Journal, Waiter};
use crate::memory::Reserve;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A transaction as it goes into the log.
pub(super) struct Frozen {
    tid: Tid,
    /// Sorted by block.
    blocks: Vec<(BufferRef, Snapshot)>,
    revoked: Vec<FsBlock>,
    forgotten: Vec<FsBlock>,
}

impl Journal {
    /// As `when_durable`, and does the committer's work here and now if nobody else is at it and it is short: a hop to
    /// another thread costs more. The caller holds no lock, no handle and no token. An error is also told to `done`.
    pub fn make_durable(&self, tid: Option<Tid>, asker: u32, done: Waiter) -> Result<()> {
        let committer = self.committer.try_lock();
        let Some(mut committer) = committer.filter(|committer| self.is_roomy(committer)) else {
            self.when_durable(tid, asker, done);
            return Ok(());
        };
        let result = self.commit_here(&mut committer, tid, asker);
        let is_roomy = self.is_roomy(&committer);
        drop(committer);
        // Now that somebody else can be the next.
        done(result.clone());
        if !is_roomy {
            self.want_room();
        }
        result
    }

    fn commit_here(&self, committer: &mut Committer, tid: Option<Tid>, asker: u32) -> Result<()> {
        if tid.is_some_and(|tid| self.is_running(tid)) {
            self.state.lock().batch.ask(asker);
            return self.commit_for_all(committer);
        }
        self.state.lock().check()?;
        self.flush_for(self.take_flushes())
    }

    /// Commits the running transaction, of which there is one, for all who have asked and those who will in a moment. What
    /// they wait for has been written before.
    pub(super) fn commit_for_all(&self, committer: &mut Committer) -> Result<()> {
        let flushes = self.gather()?;
        let result = self.commit_running_locked(committer);
        for done in flushes {
            done(result.clone());
        }
        result
    }

    /// Waits for those whom the last commit served, if that is worth while; returns who needs a sync alone.
    fn gather(&self) -> Result<Vec<Waiter>> {
        let mut state = self.state.lock();
        state.check()?;
        let patience = state.batch.patience();
        if !patience.is_zero() {
            let until = self.clock.monotonic() + patience;
            state.batch.gathering = true;
            self.stats.gatherings.fetch_add(1, Ordering::Relaxed);
            while !state.batch.is_complete() && state.aborted.is_none() {
                let left = until.saturating_sub(self.clock.monotonic());
                if left.is_zero() {
                    break;
                }
                self.came.wait_for(&mut state, left);
            }
            state.batch.gathering = false;
            state.batch.waited();
        }
        Ok(std::mem::take(&mut state.flushes))
    }

    fn take_flushes(&self) -> Vec<Waiter> {
        std::mem::take(&mut self.state.lock().flushes)
    }

    /// One sync for all of them, and for who calls.
    fn flush_for(&self, flushes: Vec<Waiter>) -> Result<()> {
        let result = self.flush();
        for done in flushes {
            done(result.clone());
        }
        result
    }

    /// Syncs for those who wait for that alone. Under the committer's lock: they may also wait for the commit before it.
    pub(super) fn flush_for_waiters(&self) {
        let flushes = self.take_flushes();
        if !flushes.is_empty() {
            // They have been told.
            let _ = self.flush_for(flushes);
        }
    }

    /// Commits the running transaction if there is one; an error aborts the journal.
    pub(super) fn commit_running_locked(&self, committer: &mut Committer) -> Result<()> {
        let _memory = self.memory.draw_on(Reserve::Committer);
        let activated = self.activate(committer);
        self.abort_on_error(committer, activated)?;
        let frozen = self.freeze();
        let Some(frozen) = self.abort_on_error(committer, frozen)? else {
            return Ok(());
        };
        let begun = self.clock.monotonic();
        let written = self.write_transaction(committer, &frozen);
        let first = self.abort_on_error(committer, written)?;
        let took = self.clock.monotonic().saturating_sub(begun);
        self.stats.commit_times.record(took);
        self.state.lock().batch.took(took);
        self.stats.commits.fetch_add(1, Ordering::Relaxed);
        let blocks = frozen.blocks.len() as u64;
        self.stats
            .blocks_logged
            .fetch_add(blocks, Ordering::Relaxed);
        self.finish(committer, frozen, first);
        Ok(())
    }

    /// Before the first commit since the file system was marked clean, and before its blocks are taken: the superblock may
    /// be one of them.
    fn activate(&self, committer: &mut Committer) -> Result<()> {
        if committer.active || self.state.lock().running.is_none() {
            return Ok(());
        }
        let activation = self.activation.lock().clone();
        if let Some(activation) = activation {
            activation.activate()?;
        }
        if committer.log.is_none() {
            // Blocks go straight home: before the first of them it must be known that they may not all get there.
            self.cache.device().sync()?;
        }
        (committer.active, committer.clean) = (true, false);
        Ok(())
    }

    /// Takes the running transaction once its open handles are closed. New handles wait only meanwhile.
    fn freeze(&self) -> Result<Option<Frozen>> {
        let mut state = self.state.lock();
        if state.running.is_none() {
            return Ok(None);
        }
        state.locked = true;
        while state.running.as_ref().is_some_and(|tx| tx.handles > 0) {
            self.changed.wait(&mut state);
        }
        if let Err(aborted) = state.check() {
            // One of the handles was cut off.
            state.locked = false;
            self.changed.notify_all();
            return Err(aborted);
        }
        let tx = state.running.take();
        state.batch.taken();
        let frozen = tx.map(|tx| {
            let mut blocks: Vec<_> = tx
                .buffers
                .into_values()
                .map(|buffer| (Arc::clone(&buffer), buffer.snapshot()))
                .collect();
            blocks.sort_unstable_by_key(|(buffer, _)| buffer.block());
            let mut revoked: Vec<_> = tx.revoked.into_iter().collect();
            revoked.sort_unstable();
            #[cfg(feature = "canaries")]
            crate::canary::keep_revokes(&mut revoked);
            Frozen {
                tid: tx.tid,
                blocks,
                revoked,
                forgotten: tx.forgotten.into_iter().collect(),
            }
        });
        let count = frozen.as_ref().map_or(0, |frozen| frozen.blocks.len());
        self.note_running(0);
        self.pinned
            .committing
            .store(count as u64, Ordering::Relaxed);
        state.locked = false;
        self.changed.notify_all();
        Ok(frozen)
    }

    fn write_transaction(
        &self,
        committer: &mut Committer,
        frozen: &Frozen,
    ) -> Result<Option<LogPosition>> {
        let device = Arc::clone(self.cache.device());
        if committer.log.is_none() {
            self.write_home(&frozen.blocks)?;
            device.sync()?;
            return Ok(None);
        }
        let needed = committer.log.as_ref().map_or(0, |log| {
            log.blocks_for(frozen.blocks.len(), frozen.revoked.len())
        });
        self.checkpoint_until(committer, |log| log.free() >= needed)?;
        let Some(log) = &mut committer.log else {
            return Ok(None);
        };
        let first = log.begin(device.as_ref(), frozen.tid)?;
        log.write_revokes(device.as_ref(), &self.memory, frozen.tid, &frozen.revoked)?;
        let blocks: Vec<(FsBlock, &Snapshot)> = frozen
            .blocks
            .iter()
            .map(|(buffer, bytes)| (buffer.block(), bytes))
            .collect();
        log.write_blocks(device.as_ref(), &self.memory, frozen.tid, &blocks)?;
        if !canary(Canary::EarlyCommit) {
            device.sync()?;
        }
        // Aborted meanwhile: nothing becomes valid any more.
        self.state.lock().check()?;
        log.write_commit(device.as_ref(), &self.memory, frozen.tid, self.clock.wall())?;
        device.sync()?;
        Ok(Some(first))
    }

    fn finish(&self, committer: &mut Committer, frozen: Frozen, first: Option<LogPosition>) {
        let forgotten = frozen.forgotten.iter();
        for block in forgotten.filter(|_| !canary(Canary::NotForgotten)) {
            committer.checkpoints.remove(*block);
        }
        if let Some(first) = first {
            committer.checkpoints.push(frozen.tid, first, frozen.blocks);
        }
        self.note_checkpoints(&committer.checkpoints);
        self.pinned.committing.store(0, Ordering::Relaxed);
        let waiters = {
            let mut state = self.state.lock();
            state.committed = frozen.tid;
            state.take_waiters(frozen.tid)
        };
        self.changed.notify_all();
        let listeners = self.listeners.lock().clone();
        for listener in listeners {
            listener.committed(frozen.tid);
        }
        for waiter in waiters {
            waiter(Ok(()));
        }
    }
}

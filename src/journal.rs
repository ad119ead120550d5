//! The jbd2 journal: handles, transactions, commit, checkpoint, revoke, recovery.
//!
//! Source: the kernel's ext4 documentation, "Journal (jbd2)"; the design's section on the journal.
//! Invariants: an open handle never waits; a block is written home only after the commit block of the transaction that
//! changed it is durable; the tail moves only after that, with a sync on each side; transactions commit in order, one at a
//! time, under the committer's lock; what a committing transaction took does not change any more.

mod batch;
mod checkpoint;
mod commit;
pub mod handle;
pub mod log;
pub mod recover;
mod stats;
mod tx;
mod write_home;

pub use handle::Handle;

use crate::cache::BlockCache;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::ids::Tid;
use crate::memory::{Memory, Reserve, Token};
use crate::sync::{Condvar, Mutex, Rank};
use checkpoint::Checkpoints;
use handle::CommitListener;
use log::Log;
pub use stats::Snapshot as StatsSnapshot;
use stats::{Cause, Stats};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tx::State;
pub use tx::Waiter;

/// Credits of one step of work without a bound (truncation, freeing).
pub const STEP_CREDITS: u32 = 64;
/// Credits of the largest handle of all: a creation that splits a large directory to its root. Every journal and every memory
/// cap allows it.
pub const CREDITS_MAX: u32 = 96;

/// What has to happen on the device before the first change since the file system was marked clean becomes durable.
pub trait Activation: Send + Sync {
    /// Writes the superblock so that it asks for recovery (or is not marked clean); the caller syncs later.
    fn activate(&self) -> Result<()>;
}

/// The journal of a mount. On an image without one, a commit writes the blocks home and syncs.
pub struct Journal {
    cache: Arc<BlockCache>,
    memory: Arc<Memory>,
    clock: Arc<dyn Clock>,
    /// Blocks that one transaction may change.
    limit: u32,
    /// How old a running transaction may grow.
    interval: Duration,
    /// Guards the running transaction, its open handles, and who waits for what.
    state: Mutex<State>,
    /// A transaction was locked, drained, unlocked or committed.
    changed: Condvar,
    /// There is something for `step` to do.
    wanted: Condvar,
    /// Somebody for whom a commit waits has asked.
    came: Condvar,
    /// Guards the log and the checkpoint list; held through a whole commit or checkpoint.
    committer: Mutex<Committer>,
    listeners: Mutex<Vec<Arc<dyn CommitListener>>>,
    activation: Mutex<Option<Arc<dyn Activation>>>,
    pinned: Pinned,
    /// How many of them there may be.
    pinned_max: u64,
    stats: Stats,
}

/// Blocks whose memory only a commit or a checkpoint frees.
#[derive(Default)]
struct Pinned {
    running: AtomicU64,
    committing: AtomicU64,
    checkpoints: AtomicU64,
}

impl Pinned {
    fn total(&self) -> u64 {
        let parts = [&self.running, &self.committing, &self.checkpoints];
        parts.map(|part| part.load(Ordering::Relaxed)).iter().sum()
    }
}

struct Committer {
    /// `None` on an image without a journal.
    log: Option<Log>,
    checkpoints: Checkpoints,
    /// The superblock says that the file system is in use, as this mount made it say.
    active: bool,
    /// The superblock says that the file system is clean.
    clean: bool,
}

impl Journal {
    /// `log` is what recovery left: clean, and with the next transaction number.
    pub fn new(
        cache: Arc<BlockCache>,
        clock: Arc<dyn Clock>,
        log: Option<Log>,
        interval: Duration,
    ) -> Arc<Self> {
        let memory = Arc::clone(cache.memory());
        let next = log.as_ref().map_or(Tid::new(1), Log::next_tid);
        let by_log = log.as_ref().map_or(u32::MAX, |log| log.capacity() / 4);
        let by_memory = u32::try_from(memory.cap() / 6 / u64::from(cache.geometry().block_size))
            .unwrap_or(u32::MAX);
        let limit = by_log.min(by_memory).clamp(2 * CREDITS_MAX, 65_536);
        let pinned_max = memory.cap() / 3 / memory.frame_cost();
        Arc::new(Self {
            cache,
            memory,
            clock,
            limit,
            interval,
            state: Mutex::new(Rank::Transaction, State::new(next)),
            changed: Condvar::new(),
            wanted: Condvar::new(),
            came: Condvar::new(),
            committer: Mutex::new(
                Rank::Drain,
                Committer {
                    log,
                    checkpoints: Checkpoints::default(),
                    active: false,
                    clean: true,
                },
            ),
            listeners: Mutex::new(Rank::Leaf, Vec::new()),
            activation: Mutex::new(Rank::Leaf, None),
            pinned: Pinned::default(),
            pinned_max: pinned_max.max(u64::from(2 * limit)),
            stats: Stats::default(),
        })
    }

    pub fn listen(&self, listener: Arc<dyn CommitListener>) {
        self.listeners.lock().push(listener);
    }

    pub fn set_activation(&self, activation: Arc<dyn Activation>) {
        *self.activation.lock() = Some(activation);
    }

    /// The superblock still asks for the recovery that has been done: `quiesce` takes that back even if nothing changes.
    pub fn set_unclean(&self) {
        self.committer.lock().clean = false;
    }

    /// Opens a handle for at most `credits` dirtied blocks. Waits for a transaction being locked, and commits one that is full;
    /// the caller holds at most inode locks. Handles do not nest.
    pub fn start(&self, token: &mut Token, credits: u32) -> Result<Handle<'_>> {
        debug_assert!(
            credits <= self.max_credits(),
            "{credits} credits in one handle"
        );
        token.renew();
        let tid = self.join(credits)?;
        Ok(Handle::new(self, tid, token.take(credits)))
    }

    /// The most credits one handle may ask for.
    pub fn max_credits(&self) -> u32 {
        self.limit / 2
    }

    /// Commits everything up to and including `tid`, waiting for it.
    pub fn commit(&self, tid: Tid) -> Result<()> {
        loop {
            {
                let state = self.state.lock();
                if state.committed.is_at_or_after(tid) {
                    return Ok(());
                }
                state.check()?;
            }
            let mut committer = self.committer.lock();
            if self.state.lock().committed.is_at_or_after(tid) {
                return Ok(());
            }
            self.commit_running_locked(&mut committer)?;
        }
    }

    /// Commits the running transaction, if there is one, and waits; also for one that is being committed.
    pub fn commit_running(&self) -> Result<()> {
        let mut committer = self.committer.lock();
        self.state.lock().check()?;
        self.commit_running_locked(&mut committer)
    }

    /// The newest transaction that anything can be waiting for: the running one, else the last.
    pub fn newest(&self) -> Tid {
        let state = self.state.lock();
        state.running.as_ref().map_or(state.committed, |tx| tx.tid)
    }

    /// Whether a commit of `tid` has yet to begin: it will cover what has been written to the device until now.
    pub fn is_running(&self, tid: Tid) -> bool {
        let state = self.state.lock();
        state
            .running
            .as_ref()
            .is_some_and(|tx| tid.is_at_or_after(tx.tid))
    }

    /// Calls `done` once `tid` and everything written to the device so far is durable, without waiting; `step` makes
    /// it so. A commit under way may have synced the device before it was written: then it takes one more sync. `asker`: the
    /// process id.
    pub fn when_durable(&self, tid: Option<Tid>, asker: u32, done: Waiter) {
        let mut state = self.state.lock();
        if let Err(error) = state.check() {
            drop(state);
            return done(Err(error));
        }
        let running = state.running.as_ref().map(|tx| tx.tid);
        match tid {
            Some(tid) if running.is_some_and(|running| tid.is_at_or_after(running)) => {
                state.request(tid);
                state.batch.ask(asker);
                state.waiters.push((tid, done));
            }
            _ => state.flushes.push(done),
        }
        if state.batch.gathering {
            self.came.notify_one();
        } else {
            self.wanted.notify_one();
        }
    }

    /// Everything written to the device so far is durable when it returns.
    pub fn flush(&self) -> Result<()> {
        self.state.lock().check()?;
        let synced = self.cache.device().sync();
        if let Err(error) = &synced {
            self.abort(error);
        }
        synced
    }

    /// Whether an error has ended all writing.
    pub fn is_aborted(&self) -> bool {
        self.state.lock().aborted.is_some()
    }

    /// Nothing is changed any more: every later start fails, what is not committed never will be.
    pub fn abort(&self, error: &Error) {
        let waiters = {
            let mut state = self.state.lock();
            if state.aborted.is_none() {
                ::log::error!(target: "uext4::journal", "journal aborted: {error}");
                state.aborted = Some(error.clone());
            }
            state.take_all_waiters()
        };
        self.changed.notify_all();
        for waiter in waiters {
            waiter(Err(error.clone()));
        }
    }

    /// The same inside of an open handle, which is half done. Who waits is told by the next `abort` or `step`.
    fn abort_half_done(&self, error: &Error) {
        let mut state = self.state.lock();
        if state.aborted.is_none() {
            ::log::error!(target: "uext4::journal", "journal aborted, a change was cut off: {error}");
            state.aborted = Some(error.clone());
        }
        self.wanted.notify_one();
    }

    /// Tells those who still wait after an abort.
    fn fail_waiters(&self) {
        let (waiters, error) = {
            let mut state = self.state.lock();
            let Some(error) = state.aborted.clone() else {
                return;
            };
            (state.take_all_waiters(), error)
        };
        for waiter in waiters {
            waiter(Err(error.clone()));
        }
    }

    /// Runs `work` while nothing is committed and no block goes home.
    pub fn alone<R>(&self, work: impl FnOnce() -> R) -> R {
        let _committer = self.committer.lock();
        work()
    }

    /// Tells the next mount, in the journal's superblock, that the journal was aborted.
    pub fn record_abort(&self) {
        if let Some(log) = &mut self.committer.lock().log {
            log.record_error(self.cache.device().as_ref());
        }
    }

    /// One round of the committer: commits when asked to or when the running transaction is old enough, syncs for
    /// those who wait for that alone, and writes blocks home when the log is half full.
    pub fn step(&self) -> Result<()> {
        self.fail_waiters();
        let mut committer = self.committer.lock();
        if self.commit_is_due() {
            self.commit_for_all(&mut committer)?;
        }
        self.flush_for_waiters();
        if !self.is_roomy(&committer) {
            let crowded = self.is_crowded();
            self.state.lock().check()?;
            let _memory = self.memory.draw_on(Reserve::Committer);
            let done = self.checkpoint_until(&mut committer, |log| {
                !crowded && log.free() >= log.capacity() / 4 * 3
            });
            self.abort_on_error(&mut committer, done)?;
        }
        Ok(())
    }

    fn is_crowded(&self) -> bool {
        self.pinned.total() > self.pinned_max / 3 * 2
    }

    /// Whether no block has to go home yet.
    fn is_roomy(&self, committer: &Committer) -> bool {
        committer
            .log
            .as_ref()
            .is_none_or(|log| !self.is_crowded() && log.free() >= log.capacity() / 2)
    }

    /// Blocks are to go home, by the committer's thread.
    fn want_room(&self) {
        self.state.lock().crowded = true;
        self.wanted.notify_one();
    }

    /// Sleeps until there is something for `step` to do, at most `limit` long. For the committer's thread.
    pub fn wait_for_work(&self, limit: Duration) {
        let mut state = self.state.lock();
        let crowded = std::mem::take(&mut state.crowded);
        let asked = state.requested.is_some() || !state.flushes.is_empty();
        if asked || crowded || state.stopping {
            return;
        }
        let age = state.running.as_ref().map(|tx| {
            self.interval
                .saturating_sub(self.clock.monotonic().saturating_sub(tx.started))
        });
        self.wanted
            .wait_for(&mut state, age.unwrap_or(limit).min(limit));
    }

    /// Wakes the committer's thread and keeps it from sleeping again.
    pub fn stop(&self) {
        self.state.lock().stopping = true;
        self.wanted.notify_all();
    }

    /// Free blocks of the log, and those between its head and its end; `None` without a journal. Waits for a commit.
    pub fn log_room(&self) -> Option<(u32, u32)> {
        let committer = self.committer.lock();
        let log = committer.log.as_ref()?;
        Some((log.free(), log.until_end()))
    }

    /// Blocks in the running transaction, or committed but not at home yet: memory that only a commit or a checkpoint frees.
    pub fn pinned(&self) -> u64 {
        self.pinned.total()
    }

    /// Commits the running transaction and writes everything home; the caller holds at most inode locks.
    pub fn unpin(&self) -> Result<()> {
        let mut committer = self.committer.lock();
        self.state.lock().check()?;
        self.commit_running_locked(&mut committer)?;
        let _memory = self.memory.draw_on(Reserve::Committer);
        let done = self.checkpoint_until(&mut committer, |_| false);
        self.abort_on_error(&mut committer, done)
    }

    /// The same for a handle that found no room: of many who wait, the first makes it for all.
    fn unpin_for(&self, credits: u32) -> Result<()> {
        let mut committer = self.committer.lock();
        self.state.lock().check()?;
        let has_room = || self.pinned.total() + u64::from(credits) <= self.pinned_max;
        if has_room() {
            return Ok(());
        }
        let _memory = self.memory.draw_on(Reserve::Committer);
        let done = self.checkpoint_until(&mut committer, |_| has_room());
        self.abort_on_error(&mut committer, done)?;
        if has_room() {
            return Ok(());
        }
        self.commit_running_locked(&mut committer)?;
        let done = self.checkpoint_until(&mut committer, |_| false);
        self.abort_on_error(&mut committer, done)
    }

    /// Whether nothing has changed since the last commit.
    pub fn is_idle(&self) -> bool {
        self.state.lock().running.is_none()
    }

    /// Commits and writes home everything, marks the log empty, then runs `mark_clean` (which writes the superblock) and
    /// syncs. New handles wait for the last part of it, so that the superblock tells of nothing that could still be lost.
    pub fn quiesce(&self, mark_clean: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let mut committer = self.committer.lock();
        self.state.lock().check()?;
        self.commit_running_locked(&mut committer)?;
        if committer.clean {
            return self.flush();
        }
        let done = self.checkpoint_until(&mut committer, |_| false);
        self.abort_on_error(&mut committer, done)?;
        self.state.lock().held = true;
        let done = self.quiesce_held(&mut committer, mark_clean);
        let done = self.abort_on_error(&mut committer, done);
        self.state.lock().held = false;
        self.changed.notify_all();
        done
    }

    fn quiesce_held(
        &self,
        committer: &mut Committer,
        mark_clean: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        self.commit_running_locked(committer)?;
        self.checkpoint_until(committer, |_| false)?;
        mark_clean()?;
        self.cache.device().sync()?;
        (committer.active, committer.clean) = (false, true);
        Ok(())
    }

    /// What could not be written home or into the log is lost with its transaction: nothing may follow it.
    fn abort_on_error<T>(&self, committer: &mut Committer, done: Result<T>) -> Result<T> {
        if let Err(error) = &done {
            if let Some(log) = &mut committer.log {
                log.record_error(self.cache.device().as_ref());
            }
            self.abort(error);
        }
        done
    }

    fn commit_is_due(&self) -> bool {
        let mut state = self.state.lock();
        if state.aborted.is_some() {
            return false;
        }
        let committed = state.committed;
        let requested = state
            .requested
            .take_if(|tid| !committed.is_at_or_after(*tid));
        state.requested = None;
        let old = state
            .running
            .as_ref()
            .is_some_and(|tx| self.clock.monotonic().saturating_sub(tx.started) >= self.interval);
        requested.is_some() || old
    }

    /// Counts one more handle into the running transaction.
    fn join(&self, credits: u32) -> Result<Tid> {
        let mut state = self.state.lock();
        let mut waited = None;
        loop {
            state.check()?;
            if state.locked || state.held {
                self.begin_wait(&mut waited, Cause::Closing);
                self.changed.wait(&mut state);
                continue;
            }
            let now = self.clock.monotonic();
            let tx = state.running(now);
            if tx.load() != 0 && tx.load() + credits > self.limit {
                let tid = tx.tid;
                drop(state);
                self.begin_wait(&mut waited, Cause::Full);
                self.commit(tid)?;
                state = self.state.lock();
                continue;
            }
            if self.pinned.total() + u64::from(credits) > self.pinned_max {
                drop(state);
                self.begin_wait(&mut waited, Cause::Pinned);
                self.unpin_for(credits)?;
                state = self.state.lock();
                continue;
            }
            tx.handles += 1;
            tx.reserved += credits;
            let tid = tx.tid;
            if tx.load() > self.limit / 2 && state.requested.is_none() {
                state.request(tid);
                self.wanted.notify_one();
            }
            drop(state);
            if let Some((cause, since)) = waited {
                let waited = self.clock.monotonic().saturating_sub(since);
                self.stats.held_up[cause as usize].record(waited);
            }
            return Ok(tid);
        }
    }

    fn begin_wait(&self, waited: &mut Option<(Cause, Duration)>, cause: Cause) {
        let since = waited.map_or_else(|| self.clock.monotonic(), |(_, since)| since);
        *waited = Some((cause, since));
    }

    pub fn stats(&self) -> StatsSnapshot {
        self.stats.snapshot()
    }
}

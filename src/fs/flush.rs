//! Who flushes delayed data, and when: age, pressure, fsync, closes and renames that replace a file.
//!
//! Source: the design's section on delayed allocation; its FUSE facts (workers do not sleep for a sync).
//! Invariants: a flusher takes no inode lock and has memory of its own, so it waits for no request; where no thread serves the
//! queue, whoever asks does the work.

use crate::error::{Error, Posix, Result};
use crate::fs::{Fs, need};
use crate::ids::InodeNumber;
use crate::inode::NodeRef;
use crate::journal::Waiter;
use crate::memory::{Reserve, Token};
use crossbeam_channel::{Receiver, Sender, unbounded};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How many threads flush.
pub(super) const THREADS: usize = 2;
/// How often a flusher looks for data that has grown old.
const TICK: Duration = Duration::from_millis(250);
/// So much is flushed where fsync was asked for: a hop to another thread costs more.
const IN_PLACE_BLOCKS: usize = 64;

/// Who was held up for so long is not held up any more when a flusher finds nothing that it can do.
const HELD_MAX: Duration = Duration::from_secs(1);

/// Slices without any progress that a write waits.
const PATIENCE: u32 = 3000;

/// What fsync or fdatasync asks for.
pub(super) struct SyncRequest {
    /// The process id.
    pub(super) asker: u32,
    /// What no reader of the data needs may be left out.
    pub(super) data_only: bool,
    pub(super) done: Waiter,
}

enum Work {
    /// Flush, then make durable, then tell.
    Sync { node: NodeRef, sync: SyncRequest },
    /// Flush now what would have had time.
    Early(NodeRef),
    /// Look whether something is due.
    Look,
}

pub(crate) struct Flushers {
    sender: Sender<Work>,
    receiver: Receiver<Work>,
    served: AtomicBool,
    /// A `Look` for pressure is in the queue.
    pressed: AtomicBool,
}

impl Flushers {
    pub(super) fn new() -> Self {
        let (sender, receiver) = unbounded();
        Self {
            sender,
            receiver,
            served: AtomicBool::new(false),
            pressed: AtomicBool::new(false),
        }
    }

    fn send(&self, work: Work) {
        // The receiver lives as long as the sender.
        let _ = self.sender.send(work);
    }

    fn is_served(&self) -> bool {
        self.served.load(Ordering::Acquire)
    }

    pub(super) fn set_served(&self, served: bool) {
        self.served.store(served, Ordering::Release);
    }

    pub(super) fn wake(&self) {
        (0..THREADS).for_each(|_| self.send(Work::Look));
    }
}

impl Fs {
    /// Flushes inodes whose data is due; false when there is none.
    pub fn flush_step(&self) -> Result<bool> {
        self.flush_step_with(&mut self.memory.admit(need::FLUSH))
    }

    fn flush_step_with(&self, token: &mut Token) -> Result<bool> {
        self.files
            .flush_step(token)
            .inspect_err(|error| self.report(error))
    }

    /// Flushes everything; the first error, after all has been tried.
    pub(crate) fn flush_all(&self) -> Result<()> {
        let mut token = self.memory.admit(need::FLUSH);
        self.files
            .flush_all(&mut token)
            .inspect_err(|error| self.report(error))
    }

    /// Until `stop_threads`: serves the queue, and what has grown old.
    pub(super) fn flush_loop(&self) {
        let mut token = self.memory.admit_private(need::FLUSH);
        let _reserve = self.memory.draw_on(Reserve::Flushers);
        while !self.is_stopping() {
            if let Ok(work) = self.flushers.receiver.recv_timeout(TICK) {
                self.flush_work(&mut token, work);
            }
            while self.flushers.receiver.is_empty()
                && self.flush_step_with(&mut token).unwrap_or(false)
            {}
            // Whether there was nothing to do, or it failed.
            let now = self.clock.monotonic();
            self.memory.answer_all(now.saturating_sub(HELD_MAX));
        }
    }

    /// The answer to a write of `bytes`: now, or when what is delayed has become less.
    pub fn answer_in_time(&self, bytes: usize, answer: impl FnOnce() + Send + 'static) {
        if self.flushers.is_served() {
            self.memory.answer_in_time(bytes as u64, answer);
        } else {
            answer();
        }
    }

    /// Serves what is left in the queue after its threads have ended.
    pub(super) fn flush_rest(&self) {
        let mut token = self.memory.admit(need::FLUSH);
        while let Ok(work) = self.flushers.receiver.try_recv() {
            self.flush_work(&mut token, work);
        }
    }

    fn flush_work(&self, token: &mut Token, work: Work) {
        match work {
            Work::Sync { node, sync } => {
                let flushed = self.flush_node(token, &node);
                // A flusher has data of others to write meanwhile.
                self.sync_flushed(&node, flushed, sync, false);
            }
            Work::Early(node) => {
                let _ = self.flush_node(token, &node);
            }
            Work::Look => self.flushers.pressed.store(false, Ordering::Relaxed),
        }
    }

    pub(super) fn flush_node(&self, token: &mut Token, node: &NodeRef) -> Result<()> {
        self.files
            .flush(token, node)
            .inspect_err(|error| self.report(error))
    }

    /// Flushes the inode and tells when it is durable; large amounts are left to a flusher.
    pub(super) fn flush_and_sync(&self, mut token: Token, node: NodeRef, sync: SyncRequest) {
        let blocks = node.delayed.lock().blocks();
        let flushed = if !self.flushers.is_served() {
            Some(self.files.flush(&mut token, &node))
        } else if blocks <= IN_PLACE_BLOCKS {
            self.files.try_flush(&mut token, &node)
        } else {
            None
        };
        drop(token);
        match flushed {
            Some(flushed) => {
                let flushed = flushed.inspect_err(|error| self.report(error));
                let place = self.in_place();
                let here = place.is_some() || !self.flushers.is_served();
                self.sync_flushed(&node, flushed, sync, here);
            }
            None => self.flushers.send(Work::Sync { node, sync }),
        }
    }

    /// `here`: whoever calls may wait for the device.
    fn sync_flushed(&self, node: &NodeRef, flushed: Result<()>, sync: SyncRequest, here: bool) {
        let SyncRequest {
            asker,
            data_only,
            done,
        } = sync;
        if let Err(error) = flushed {
            return done(Err(error));
        }
        let change = if data_only {
            node.last_data_change()
        } else {
            node.last_change()
        };
        if here {
            if let Err(error) = self.journal.make_durable(change, asker, done) {
                self.report(&error);
            }
        } else {
            self.journal.when_durable(change, asker, done);
        }
    }

    /// The inode's data should not wait any longer.
    pub(super) fn flush_early(&self, node: NodeRef) {
        if node.delayed.lock().is_clean() {
            return;
        }
        if self.flushers.is_served() {
            self.flushers.send(Work::Early(node));
        } else {
            let _ = self.flush_node(&mut self.memory.admit(need::FLUSH), &node);
        }
    }

    /// A rename is about to put this inode in the place of another: its data is to be there first. Holds no lock.
    pub(super) fn flush_before_replacing(&self, ino: InodeNumber) -> Result<()> {
        match self.table.peek(ino) {
            Some(node) if !node.delayed.lock().is_clean() => {
                self.flush_node(&mut self.memory.admit(need::FLUSH), &node)
            }
            _ => Ok(()),
        }
    }

    /// Waits, before a write takes its first lock, while too much is delayed. Its end is the flushers' progress, or an error
    /// that ends all writing.
    pub(super) fn throttle(&self) -> Result<()> {
        if !self.memory.is_over_dirty_limit() {
            return Ok(());
        }
        let since = self.clock.monotonic();
        let done = self.wait_for_less_dirty();
        let waited = self.clock.monotonic().saturating_sub(since);
        self.memory.note_dirty_wait(waited);
        done
    }

    fn wait_for_less_dirty(&self) -> Result<()> {
        let mut least = self.memory.dirty();
        let mut slices = 0;
        while self.memory.is_over_dirty_limit() {
            let dirty = self.memory.dirty();
            (least, slices) = if dirty < least {
                (dirty, 0)
            } else {
                (least, slices + 1)
            };
            if slices > PATIENCE {
                // What is delayed finds no place, against all claims: nothing may be added to it.
                return Err(Posix::NoSpc.into());
            }
            if self.is_read_only() {
                return Err(Error::Aborted);
            }
            if self.flushers.is_served() {
                self.press();
                self.memory.wait_for_less_dirty();
            } else if !self.flush_step()? {
                break;
            }
        }
        Ok(())
    }

    /// Wakes a flusher when much is delayed.
    pub(super) fn press(&self) {
        if self.memory.dirty() > self.memory.dirty_background()
            && self.flushers.is_served()
            && !self.flushers.pressed.swap(true, Ordering::Relaxed)
        {
            self.flushers.send(Work::Look);
        }
    }
}

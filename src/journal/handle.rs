//! Handles: sets of changes that become durable together or not at all.
//!
//! Source: the design's section on the journal; jbd2's handles and credits.
//! Invariants: a handle belongs to one thread and never waits; the first change of a block costs one credit; write access
//! ends before the handle does.

use crate::cache::{BufferRef, BufferWrite};
use crate::error::{Error, Result};
use crate::ids::{FsBlock, Tid};
use crate::journal::Journal;
use crate::memory::{Class, Credits};
use crate::sync::{Rank, RankToken};
use std::cell::{Cell, RefCell};

/// Called once each time a transaction has become durable.
pub trait CommitListener: Send + Sync {
    /// `tid` has committed: what it freed may be used again. Takes no lock below `Rank::Prealloc`.
    fn committed(&self, tid: Tid);
}

/// An open handle. Dropping it closes it.
pub struct Handle<'j> {
    journal: &'j Journal,
    tid: Tid,
    frames: RefCell<Credits>,
    /// Credits not used yet.
    left: Cell<u32>,
    /// Changes of blocks so far.
    changes: Cell<u64>,
    _rank: RankToken,
}

impl<'j> Handle<'j> {
    pub(super) fn new(journal: &'j Journal, tid: Tid, frames: Credits) -> Self {
        let left = Cell::new(frames.left());
        Self {
            journal,
            tid,
            frames: RefCell::new(frames),
            left,
            changes: Cell::new(0),
            _rank: RankToken::acquire(Rank::Handle),
        }
    }

    pub fn tid(&self) -> Tid {
        self.tid
    }

    pub fn credits_left(&self) -> u32 {
        self.left.get()
    }

    /// Write access to a metadata block; it joins the transaction.
    pub fn write<'b>(&'b self, buffer: &'b BufferRef) -> Result<BufferWrite<'b>> {
        let joined = {
            let mut state = self.journal.state.lock();
            state.check()?;
            let now = self.journal.clock.monotonic();
            let tx = state.running(now);
            let joined = tx.add(buffer.block(), buffer);
            self.changes.set(self.changes.get() + 1);
            if joined {
                tx.reserved = tx.reserved.saturating_sub(u32::from(self.left.get() > 0));
                self.journal.note_running(tx.buffers.len());
            }
            joined
        };
        let frame = if joined {
            if self.left.get() == 0 {
                log::error!(target: "uext4::journal", "handle out of credits at block {}", buffer.block());
                debug_assert!(!joined, "handle out of credits at block {}", buffer.block());
            }
            self.left.set(self.left.get().saturating_sub(1));
            self.frames.borrow_mut().frame(Class::Meta)
        } else {
            self.journal.memory.frame(Class::Meta)
        };
        Ok(buffer.begin_write(frame))
    }

    /// A metadata block is freed: its buffer leaves the transaction and older copies in the log are revoked.
    /// (`Allocator::free` marks the bitmap; call both.)
    pub fn forget(&self, block: FsBlock) {
        let mut state = self.journal.state.lock();
        let now = self.journal.clock.monotonic();
        state.running(now).forget(block);
        drop(state);
        self.changes.set(self.changes.get() + 1);
        self.journal.cache.discard(block);
    }

    /// How the work of this handle ended; the last thing done with it. Where damage or a failing device cut the work off
    /// after a block had been changed, nothing of the transaction may be committed: the journal is aborted before the
    /// handle closes. (Plain outcomes have taken back what they did.)
    pub fn settle<T>(&self, done: Result<T>) -> Result<T> {
        if let Err(error @ (Error::Io(_) | Error::Corrupt { .. })) = &done
            && self.changes.get() > 0
        {
            self.journal.abort_half_done(error);
        }
        done
    }

    /// Counts changes of blocks: as long as it stays the same, nothing was changed.
    pub fn changes(&self) -> u64 {
        self.changes.get()
    }
}

impl Drop for Handle<'_> {
    fn drop(&mut self) {
        let mut state = self.journal.state.lock();
        if let Some(tx) = &mut state.running {
            tx.handles = tx.handles.saturating_sub(1);
            tx.reserved = tx.reserved.saturating_sub(self.left.get());
            if tx.handles == 0 && state.locked {
                self.journal.changed.notify_all();
            }
        }
    }
}

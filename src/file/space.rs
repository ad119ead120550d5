//! What is tried before a full file system is reported.
//!
//! Source: the design's section on the allocator, "Before any ENOSPC".
//! Invariants: runs with no handle open; ends when a round frees nothing.

use crate::error::{Posix, Result};
use crate::file::Files;

/// Others may take what a round has freed; so many times in a row they hardly do while there is enough for all.
const ROUNDS: u32 = 32;

/// Inodes without a name that are about to be freed.
pub trait PendingFrees: Send + Sync {
    /// Waits until they are free; false when there were none. The caller may hold locks of inodes that have names, and no
    /// handle.
    fn wait(&self) -> bool;

    /// How many have been freed since the mount.
    fn freed(&self) -> u64;
}

impl Files {
    /// Runs `attempt`, and again after making space for as long as that helps.
    pub fn retry_for_space<T>(&self, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        for _ in 0..ROUNDS {
            let freed = self.pending.freed();
            match attempt() {
                Err(error) if error.is_posix(Posix::NoSpc) => {}
                result => return result,
            }
            // What was freed between the attempt and the round leaves nothing to find for it.
            if !self.make_space()? && self.pending.freed() == freed {
                break;
            }
        }
        attempt()
    }

    /// Waits for what is being freed, flushes delayed data, gives up all preallocations and commits what was freed; whether that
    /// made anything free.
    fn make_space(&self) -> Result<bool> {
        let claimed = self.alloc.counts().claimed_blocks;
        // An error is for those to know whose data it is.
        let _ = self.flush_all(&mut self.spare.lock());
        let returned = self.alloc.counts().claimed_blocks < claimed;
        let waited = self.pending.wait();
        let discarded = self.alloc.discard_all() > 0;
        let freed = self.alloc.has_uncommitted_frees();
        if freed {
            self.journal.commit_running()?;
        }
        while self.alloc.discard_step() {}
        Ok(returned || waited || discarded || freed)
    }
}

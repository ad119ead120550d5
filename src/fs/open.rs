//! Opening, closing and forgetting; what the last user of an inode leaves behind.
//!
//! Source: POSIX open, close; FUSE OPEN, RELEASE, FORGET; chattr(1) for immutable and append-only files.
//! Invariants: forgetting neither waits nor does I/O.

use crate::error::{Posix, Result};
use crate::format::inode::flag;
use crate::fs::{Fs, need};
use crate::ids::InodeNumber;

impl Fs {
    /// Checks what the kernel cannot know and counts the open file.
    pub fn open(&self, ino: InodeNumber, write: bool, append: bool, truncate: bool) -> Result<()> {
        let _token = self.memory.request(need::GETATTR)?;
        if write {
            self.check_writable()?;
        }
        let node = self.node(ino)?;
        let flags = node.core.read().flags;
        if (write || truncate) && flags & flag::IMMUTABLE != 0 {
            return Err(Posix::Perm.into());
        }
        if flags & flag::APPEND != 0 && ((write && !append) || truncate) {
            return Err(Posix::Perm.into());
        }
        self.known.opened(ino, write);
        Ok(())
    }

    /// Counts the open file that comes with a creation.
    pub fn opened(&self, ino: InodeNumber, write: bool) {
        self.known.opened(ino, write);
    }

    pub fn uses_acls(&self) -> bool {
        self.options.acl
    }

    /// The end of one open file; the last close of a writer gives up the file's preallocations, after its delayed
    /// data has been flushed (at once, where that replaces what the file held before).
    pub fn release(&self, ino: InodeNumber, write: bool) {
        let (last_writer, unused) = self.known.closed(ino, write);
        if last_writer && let Some(node) = self.table.peek(ino) {
            let (clean, replaced) = {
                let mut delayed = node.delayed.lock();
                (delayed.is_clean(), delayed.set_replaced(false))
            };
            if clean {
                self.alloc.discard_preallocations(&node.prealloc);
            } else if replaced {
                self.flush_early(node);
            }
        }
        if unused {
            self.unused(ino);
        }
    }

    /// The kernel forgets `lookups` of its lookups.
    pub fn forget(&self, ino: InodeNumber, lookups: u64) {
        if self.known.forget(ino, lookups) {
            self.unused(ino);
        }
    }

    fn unused(&self, ino: InodeNumber) {
        if self.reaper.is_nameless(ino) {
            self.reaper.queue(ino);
        }
    }
}

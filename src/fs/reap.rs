//! Frees inodes that have no name and no user, in bounded steps, on a worker of its own.
//!
//! Source: the design's eviction path (unlinked inodes) and lock order; POSIX unlink.
//! Invariants: an inode comes here only on the orphan list, so a crash at any step leaves it to the next mount.

use crate::error::Result;
use crate::format::inode::mode;
use crate::fs::{Fs, need};
use crate::ids::InodeNumber;
use crate::sync::{Condvar, Mutex, Rank};
use crate::xattr::Xattrs;
use std::collections::{HashSet, VecDeque};
use std::time::Duration;

pub(crate) struct Reaper {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    /// Without a name, on the orphan list, perhaps still in use.
    nameless: HashSet<InodeNumber>,
    /// Those that nobody uses any more.
    queue: VecDeque<InodeNumber>,
}

impl Reaper {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::new(Rank::Shard, State::default()), wake: Condvar::new() }
    }

    /// The inode has lost its last name (or its truncation was cut off); it stands on the orphan list.
    pub(crate) fn add_nameless(&self, ino: InodeNumber) {
        self.state.lock().nameless.insert(ino);
    }

    pub(crate) fn is_nameless(&self, ino: InodeNumber) -> bool {
        self.state.lock().nameless.contains(&ino)
    }

    pub(crate) fn queue(&self, ino: InodeNumber) {
        self.state.lock().queue.push_back(ino);
        self.wake.notify_one();
    }

    pub(crate) fn wait(&self, limit: Duration) {
        let mut state = self.state.lock();
        if state.queue.is_empty() {
            self.wake.wait_for(&mut state, limit);
        }
    }

    pub(crate) fn wake(&self) {
        self.wake.notify_all();
    }

    fn next(&self) -> Option<InodeNumber> {
        self.state.lock().queue.pop_front()
    }

    fn done(&self, ino: InodeNumber) {
        self.state.lock().nameless.remove(&ino);
    }
}

impl Fs {
    /// Frees one queued inode; false when none is queued.
    pub fn reap_step(&self) -> bool {
        let Some(ino) = self.reaper.next() else {
            return false;
        };
        if self.known.is_used(ino) || !self.reaper.is_nameless(ino) || self.is_read_only() {
            return true;
        }
        if let Err(error) = self.free_inode(ino) {
            self.report(&error);
            log::error!("inode {ino} could not be freed: {error}");
        }
        self.reaper.done(ino);
        true
    }

    /// Frees the blocks, attributes and the inode itself; it stands on the orphan list until the last handle.
    pub(crate) fn free_inode(&self, ino: InodeNumber) -> Result<()> {
        let mut token = self.memory.admit(need::REAP);
        let node = self.node(ino)?;
        let _exclusive = node.lock.write();
        let is_dir = {
            let core = node.core.read();
            if core.links_count > 0 {
                return Ok(());
            }
            core.is_dir()
        };
        if self.has_blocks(&node.core.read()) {
            self.files.free_blocks(&mut token, &node)?;
        }
        {
            let handle = self.journal.start(&mut token, Xattrs::CREDITS + 8)?;
            let mut core = node.core.write();
            if core.file_acl != 0 {
                self.xattrs.free_all(&handle, ino, &mut core)?;
            }
            self.orphans.remove(&handle, ino, &mut core)?;
            core.dtime = u32::try_from(self.now().seconds).unwrap_or(u32::MAX);
            core.links_count = 0;
            core.size = 0;
            self.save(&handle, &node, &core)?;
            self.store.set_dtime(&handle, ino, core.dtime)?;
            self.alloc.free_inode(&handle, ino, is_dir)?;
        }
        self.table.remove(ino);
        Ok(())
    }

    fn has_blocks(&self, inode: &crate::format::inode::Inode) -> bool {
        matches!(inode.mode & mode::FMT, mode::REG | mode::DIR | mode::LNK)
            && !inode.is_fast_symlink(&self.geo)
            && !inode.has_flag(crate::format::inode::flag::INLINE_DATA)
    }
}

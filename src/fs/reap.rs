//! Frees inodes that have no name and no user, in bounded steps, on a worker of its own.
//!
//! Source: the design's eviction path (unlinked inodes) and lock order; POSIX unlink.
//! Invariants: an inode comes here only on the orphan list, so a crash at any step leaves it to the next mount.

use crate::canary::{Canary, canary};
use crate::error::Result;
use crate::file::PendingFrees;
use crate::format::inode::mode;
use crate::fs::{Fs, need};
use crate::ids::InodeNumber;
use crate::inode::NodeRef;
use crate::journal::Handle;
use crate::memory::{Charge, Class, Memory};
use crate::sync::{Condvar, Mutex, Rank};
use crate::xattr::Xattrs;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub(crate) struct Reaper {
    state: Mutex<State>,
    wake: Condvar,
    /// The queue has become empty.
    idle: Condvar,
}

#[derive(Default)]
struct State {
    /// Without a name, on the orphan list, perhaps still in use.
    nameless: BTreeSet<InodeNumber>,
    /// Those that nobody uses any more.
    queue: VecDeque<InodeNumber>,
    /// One is being freed.
    busy: bool,
    /// A thread works on the queue.
    served: bool,
    /// Counts those that are done.
    freed: u64,
    /// For what the two lists take.
    charge: Option<Charge>,
}

/// What a nameless inode costs in a tree whose nodes are half full.
const NAMELESS_BYTES: usize = 16;

impl State {
    /// Charges what the lists take now.
    fn settle(&mut self) {
        let queue = self.queue.capacity() * size_of::<InodeNumber>();
        let bytes = self.nameless.len() * NAMELESS_BYTES + queue;
        if let Some(charge) = &mut self.charge
            && charge.bytes() != bytes as u64
        {
            charge.resize(bytes);
        }
    }
}

/// How long the worker lets the queue fill: to wake it for each inode costs more than to free one.
const GATHER: Duration = Duration::from_millis(5);
/// A queue of this length is not left to fill any more.
const MANY: usize = 256;

impl Reaper {
    pub(crate) fn new(memory: &Arc<Memory>) -> Self {
        let state = State {
            charge: Some(memory.charge(Class::Handle, 0)),
            ..State::default()
        };
        Self {
            state: Mutex::new(Rank::Shard, state),
            wake: Condvar::new(),
            idle: Condvar::new(),
        }
    }

    /// The inode has lost its last name (or its truncation was cut off); it stands on the orphan list.
    pub(crate) fn add_nameless(&self, ino: InodeNumber) {
        let mut state = self.state.lock();
        state.nameless.insert(ino);
        state.settle();
    }

    pub(crate) fn is_nameless(&self, ino: InodeNumber) -> bool {
        self.state.lock().nameless.contains(&ino)
    }

    pub(crate) fn queue(&self, ino: InodeNumber) {
        let length = {
            let mut state = self.state.lock();
            state.queue.push_back(ino);
            state.settle();
            state.queue.len()
        };
        if length == 1 || length == MANY {
            self.wake.notify_one();
        }
    }

    /// Returns some time after something has been queued, at the latest after `limit`.
    pub(crate) fn wait(&self, limit: Duration) {
        let mut state = self.state.lock();
        if state.queue.is_empty() {
            self.wake.wait_for(&mut state, limit);
        }
        if (1..MANY).contains(&state.queue.len()) {
            self.wake.wait_for(&mut state, GATHER);
        }
    }

    pub(crate) fn wake(&self) {
        self.wake.notify_all();
    }

    /// Whether a thread works on the queue from now on.
    pub(crate) fn set_served(&self, served: bool) {
        self.state.lock().served = served;
        self.idle.notify_all();
    }

    /// Queues all that are left, at the end of the mount.
    pub(crate) fn queue_all(&self) {
        let mut state = self.state.lock();
        state.queue = state.nameless.iter().copied().collect();
        state.settle();
    }

    fn next(&self) -> Option<InodeNumber> {
        let mut state = self.state.lock();
        let next = state.queue.pop_front();
        state.busy = next.is_some();
        if next.is_none() {
            state.queue = VecDeque::new();
            state.settle();
            self.idle.notify_all();
        }
        next
    }

    fn done(&self, ino: InodeNumber) {
        let mut state = self.state.lock();
        state.nameless.remove(&ino);
        state.freed += 1;
        state.settle();
    }
}

/// Longer than any single inode should take; then the caller goes on as if there were nothing to wait for.
const PATIENCE: Duration = Duration::from_secs(5);

impl PendingFrees for Reaper {
    fn wait(&self) -> bool {
        let mut state = self.state.lock();
        let pending = |state: &State| state.served && (state.busy || !state.queue.is_empty());
        let waits = pending(&state);
        while pending(&state) {
            if self.idle.wait_for(&mut state, PATIENCE) {
                break;
            }
        }
        waits
    }

    fn freed(&self) -> u64 {
        self.state.lock().freed
    }
}

impl Fs {
    /// Frees one queued inode; false when none is queued.
    pub fn reap_step(&self) -> bool {
        let Some(ino) = self.reaper.next() else {
            return false;
        };
        let is_used = self.known.is_used(ino) && !canary(Canary::ReapedInUse);
        if is_used || !self.reaper.is_nameless(ino) || self.is_read_only() {
            return true;
        }
        if let Err(error) = self.free_inode(ino) {
            self.report(&error);
            log::error!("inode {ino} could not be freed: {error}");
            self.reaper.done(ino);
        }
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
                self.reaper.done(ino);
                return Ok(());
            }
            core.is_dir()
        };
        if self.has_blocks(&node.core.read()) {
            self.files.free_blocks(&mut token, &node)?;
        }
        {
            let handle = self.journal.start(&mut token, Xattrs::CREDITS + 8)?;
            let freed = self.free_inode_in(&handle, &node, is_dir);
            handle.settle(freed)?;
        }
        Ok(())
    }

    fn free_inode_in(&self, handle: &Handle<'_>, node: &NodeRef, is_dir: bool) -> Result<()> {
        let ino = node.ino;
        let mut core = node.core.write();
        if core.file_acl != 0 {
            self.xattrs.free_all(handle, ino, &mut core)?;
        }
        self.orphans.remove(handle, ino, &mut core)?;
        core.dtime = u32::try_from(self.now().seconds).unwrap_or(u32::MAX);
        core.links_count = 0;
        core.size = 0;
        self.store.bury(handle, ino, &core)?;
        node.changed_in(handle.tid());
        // From here on the number may be given out again: nothing may be left that would be taken for the new inode's.
        self.table.remove(ino);
        self.reaper.done(ino);
        self.alloc.free_inode(handle, ino, is_dir)
    }

    fn has_blocks(&self, inode: &crate::format::inode::Inode) -> bool {
        matches!(inode.mode & mode::FMT, mode::REG | mode::DIR | mode::LNK)
            && !inode.is_fast_symlink(&self.geo)
            && !inode.has_flag(crate::format::inode::flag::INLINE_DATA)
    }
}

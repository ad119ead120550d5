//! The file system: mounting, and one operation for each POSIX call. It speaks our own types and knows neither FUSE nor
//! errno, so that it works without a mount (image builders, tests, simulators).
//!
//! Source: POSIX and the Linux manual pages of the calls; the design's sections on layers, lock order and memory.
//! Invariants: an operation is admitted before its first lock; parents are locked before children, two parents ancestor
//! first, else by number; every change of names or attributes is one transaction.

mod acl;
mod attr;
mod create;
mod descriptors;
mod ending;
mod errors;
mod evict;
mod flush;
mod ioctl;
#[cfg(all(test, feature = "shuttle"))]
mod judge;
mod known;
mod link;
mod lookup;
mod mount;
pub mod need;
mod open;
mod park;
mod readdir;
mod reap;
mod rename;
mod setattr;
mod super_state;
mod sync;
mod threads;
mod trim;
mod write;
mod xattr;

pub use attr::Attr;
pub use create::NewNode;
pub use ioctl::FsXattr;
pub use lookup::StatFs;
pub use park::ReadReply;
pub use readdir::DirItem;
pub use rename::RenameMode;
pub use setattr::{SetAttr, SetTime};
pub use write::{Bytes, WriteMode};

// What callers of the operations need of lower layers.
pub use crate::clock::Clock;
pub use crate::xattr::SetMode;

use crate::alloc::Allocator;
use crate::cache::BlockCache;
use crate::device::Device;
use crate::dir::Directories;
use crate::error::{Posix, Result};
use crate::evict::Evictor;
use crate::file::Files;
use crate::format::geometry::Geometry;
use crate::format::inode::Inode;
use crate::format::time::Timestamp;
use crate::ids::InodeNumber;
use crate::inode::orphan::Orphans;
use crate::inode::{InodeStore, InodeTable, NodeRef};
use crate::journal::{Handle, Journal};
use crate::memory::Memory;
use crate::sync::Mutex;
use crate::xattr::Xattrs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// How to mount.
#[derive(Clone, Debug)]
pub struct Options {
    pub read_only: bool,
    /// Leave the journal alone (read-only mounts only).
    pub no_load: bool,
    /// What to do when the image turns out to be corrupt; `None`: as the superblock says.
    pub errors: Option<ErrorPolicy>,
    /// The age at which changes are committed.
    pub commit_interval: Duration,
    /// Every change is durable before its call returns.
    pub sync: bool,
    /// The same for changes of directories.
    pub dirsync: bool,
    pub acl: bool,
    pub user_xattr: bool,
    /// The cap in bytes.
    pub memory: u64,
    /// Workers that will call at the same time; 0: one caller does everything, and no thread of ours is started.
    pub threads: usize,
    /// Bytes of the largest request.
    pub max_write: u32,
    /// How old data may grow that was written but has no blocks yet.
    pub delay: Duration,
    /// Without the kernel's writeback cache: every write(2) comes here, and a full file system is reported by it.
    pub writethrough: bool,
    /// Whether reading updates access times (with relatime's rule).
    pub atime: bool,
    /// Tell the device about blocks that were freed.
    pub discard: bool,
    /// How inodes leave memory.
    pub evict: crate::evict::Settings,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            read_only: false,
            no_load: false,
            errors: None,
            commit_interval: Duration::from_secs(5),
            sync: false,
            dirsync: false,
            acl: true,
            user_xattr: true,
            memory: 256 << 20,
            threads: 4,
            max_write: 1 << 20,
            delay: Duration::from_secs(5),
            writethrough: false,
            atime: true,
            discard: false,
            evict: crate::evict::Settings::default(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorPolicy {
    Continue,
    RemountRo,
    Panic,
}

/// Who asks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
}

/// A mounted file system.
pub struct Fs {
    pub(crate) options: Options,
    pub(crate) device: Arc<dyn Device>,
    pub(crate) geo: Arc<Geometry>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) cache: Arc<BlockCache>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) alloc: Arc<Allocator>,
    pub(crate) store: Arc<InodeStore>,
    pub(crate) table: Arc<InodeTable>,
    pub(crate) evictor: Evictor,
    pub(crate) orphans: Arc<Orphans>,
    pub(crate) dirs: Directories,
    pub(crate) xattrs: Arc<Xattrs>,
    pub(crate) files: Files,
    /// What the kernel knows of and has open.
    pub(crate) known: Arc<known::Known>,
    /// Inodes without a name that nobody uses any more.
    pub(crate) reaper: Arc<reap::Reaper>,
    /// One rename that moves a directory at a time, so that nobody makes a loop.
    pub(crate) rename_lock: Mutex<()>,
    pub(crate) superblock: super_state::SuperblockState,
    pub(crate) policy: ErrorPolicy,
    pub(crate) read_only: AtomicBool,
    pub(crate) reported: errors::Reported,
    pub(crate) notices: Mutex<Vec<String>>,
    pub(crate) threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
    pub(crate) stopping: AtomicBool,
    pub(crate) generation: AtomicU32,
    pub(crate) flushers: flush::Flushers,
    pub(crate) reading: park::Reading,
    /// Last, so that it goes last.
    pub(crate) ending: ending::Ending,
}

impl Fs {
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Relaxed) || self.journal.is_aborted()
    }

    /// Whether the kernel has a writeback cache, and with it the last word on times.
    pub fn kernel_keeps_times(&self) -> bool {
        !self.options.writethrough
    }

    pub fn geometry(&self) -> &Geometry {
        &self.geo
    }

    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// What a person should know about this mount, a line each.
    pub fn notices(&self) -> Vec<String> {
        self.notices.lock().clone()
    }

    pub(crate) fn now(&self) -> Timestamp {
        let (seconds, nanoseconds) = self.clock.wall();
        self.storable(Timestamp {
            seconds,
            nanoseconds,
        })
    }

    /// The nearest time that an inode of this file system can hold.
    pub(crate) fn storable(&self, time: Timestamp) -> Timestamp {
        if self.has_fine_times() {
            time.clamp_to_34_bits()
        } else {
            time.clamp_to_32_bits()
        }
    }

    /// Whether inodes have room for nanoseconds.
    pub fn has_fine_times(&self) -> bool {
        self.geo.inode_size > 128
    }

    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.is_read_only() {
            Err(Posix::RoFs.into())
        } else {
            Ok(())
        }
    }

    /// A generation for a new inode, so that a reused number is told from its last user.
    pub(crate) fn next_generation(&self) -> u32 {
        // An odd step visits every value before one comes again.
        self.generation.fetch_add(0x9e37_79b9, Ordering::Relaxed)
    }

    /// The inode in memory, for an operation that names it.
    pub(crate) fn node(&self, ino: InodeNumber) -> Result<NodeRef> {
        self.table.get(ino)
    }

    /// The directory of that number.
    pub(crate) fn directory(&self, ino: InodeNumber) -> Result<NodeRef> {
        let node = self.node(ino)?;
        if !node.core.read().is_dir() {
            return Err(Posix::NotDir.into());
        }
        Ok(node)
    }

    /// Writes the changed inode into its table within the handle.
    pub(crate) fn save(&self, handle: &Handle<'_>, node: &NodeRef, inode: &Inode) -> Result<()> {
        self.store.write(handle, node.ino, inode)?;
        node.changed_in(handle.tid());
        Ok(())
    }
}

/// Names are 1 to 255 bytes.
pub(crate) fn check_name(name: &[u8]) -> Result<()> {
    match name.len() {
        0 => Err(Posix::NoEnt.into()),
        1..=255 => Ok(()),
        _ => Err(Posix::NameTooLong.into()),
    }
}

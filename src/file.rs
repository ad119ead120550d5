//! Regular files: reading, writing, truncation, holes and preallocation.
//!
//! Source: POSIX read, write, ftruncate; Linux fallocate(2) and lseek(2); the design's section on writeback.
//! Invariants: data is on the device before the handle that makes it visible opens, so nothing stale is ever shown; blocks
//! leave a file only after I/O in flight has ended; bytes behind the end of a file read as zeros after it grows. Unless said
//! otherwise the caller holds the inode lock exclusively and no handle.

mod delay;
mod dirty;
mod edges;
mod fallocate;
mod flush;
mod read;
mod seek;
mod space;
mod truncate;
mod write;

pub use dirty::DirtyInodes;
pub use fallocate::Fallocate;
pub use read::{PlannedRead, ReadData};
pub use seek::Whence;
pub use space::PendingFrees;

use crate::alloc::Allocator;
use crate::clock::Clock;
use crate::device::Device;
use crate::device::ahead::Ahead;
use crate::error::{Error, Posix, Result};
use crate::format::geometry::Geometry;
use crate::format::inode::{Inode, flag};
use crate::ids::{FileBlock, InodeNumber};
use crate::inode::orphan::Orphans;
use crate::inode::{InodeStore, NodeRef};
use crate::journal::{Handle, Journal};
use crate::map::Map;
use crate::memory::{Memory, Token};
use crate::sync::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// Contents of all regular files.
pub struct Files {
    pub device: Arc<dyn Device>,
    /// The same; for small files.
    pub ahead: Arc<Ahead>,
    pub geo: Arc<Geometry>,
    pub memory: Arc<Memory>,
    pub map: Arc<Map>,
    pub alloc: Arc<Allocator>,
    pub store: Arc<InodeStore>,
    pub journal: Arc<Journal>,
    pub orphans: Arc<Orphans>,
    /// s_def_resuid and s_def_resgid: whose files may use the reserved blocks.
    pub reserved_for: (u32, u32),
    pub pending: Arc<dyn PendingFrees>,
    pub users: Arc<dyn Users>,
    pub clock: Arc<dyn Clock>,
    /// How old delayed data may grow.
    pub delay: Duration,
    pub dirty: DirtyInodes,
    /// What pays for flushing when space is short; who holds it flushes, and waits for nobody who might want it. Rank `Inode`.
    pub spare: Mutex<Token>,
}

/// Who has files open.
pub trait Users: Send + Sync {
    fn has_writer(&self, ino: InodeNumber) -> bool;
}

impl Files {
    /// Whether the file's owner may use the reserved blocks. It goes by the owner because cached writes carry no
    /// credentials.
    pub fn is_privileged(&self, inode: &Inode) -> bool {
        let (uid, gid) = self.reserved_for;
        inode.uid == 0 || inode.uid == uid || (gid != 0 && inode.gid == gid)
    }

    /// The largest size this file can have.
    pub fn max_size(&self, inode: &Inode) -> u64 {
        self.geo.max_file_size(inode.has_flag(flag::EXTENTS))
    }

    fn block_size(&self) -> u64 {
        u64::from(self.geo.block_size)
    }

    /// The file block that holds a byte.
    fn block_of(&self, offset: u64) -> Result<FileBlock> {
        let block = offset >> self.geo.block_bits;
        u32::try_from(block)
            .map(FileBlock::new)
            .map_err(|_| Error::Posix(Posix::FBig))
    }

    /// The first file block that begins at or behind a byte.
    fn block_from(&self, offset: u64) -> Result<FileBlock> {
        self.block_of(offset.saturating_add(self.block_size() - 1))
    }

    /// Writes the changed inode into its table within the handle.
    fn save(&self, handle: &Handle<'_>, node: &NodeRef, inode: &Inode) -> Result<()> {
        self.store.write(handle, node.ino, inode)?;
        node.changed_in(handle.tid());
        Ok(())
    }
}

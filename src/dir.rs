//! Directories: linear blocks and hash trees behind one interface.
//!
//! Source: the kernel's ext4 documentation, "Directory Entries", "Hash Tree Directories".
//! Invariants: names are 1 to 255 bytes without '/' and NUL; every entry's length is checked before it is followed; a
//! reader's cookie stays right while others insert, remove and split.

use crate::cache::BlockCache;
use crate::error::Result;
use crate::format::inode::Inode;
use crate::ids::InodeNumber;
use crate::journal::Handle;
use crate::map::Map;
use crate::alloc::Allocator;
use std::sync::Arc;

/// The file type in a directory entry (`EXT4_FT_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FileType {
    Unknown = 0,
    Regular = 1,
    Directory = 2,
    CharDevice = 3,
    BlockDevice = 4,
    Fifo = 5,
    Socket = 6,
    Symlink = 7,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub ino: InodeNumber,
    pub file_type: FileType,
}

/// All directories. Methods take the directory's inode as it is; they change `size`, `block`, `blocks`, `flags` in it and
/// leave times, link counts and writing the inode to the caller (same handle). The caller holds the inode lock.
pub struct Directories {}

impl Directories {
    pub fn new(cache: Arc<BlockCache>, map: Arc<Map>, alloc: Arc<Allocator>) -> Self {
        let _ = (cache, map, alloc);
        todo!()
    }

    pub fn lookup(&self, ino: InodeNumber, dir: &Inode, name: &[u8]) -> Result<Option<Entry>> {
        let _ = (ino, dir, name);
        todo!()
    }

    /// Adds a name that is known not to be there. May split leaves or grow the tree (converting a linear directory when
    /// dir_index is on). NoSpc leaves the directory as it was.
    pub fn insert(&self, handle: &Handle<'_>, ino: InodeNumber, dir: &mut Inode, name: &[u8], entry: Entry) -> Result<()> {
        let _ = (handle, ino, dir, name, entry);
        todo!()
    }

    /// Removes a name; NoEnt when it is not there.
    pub fn remove(&self, handle: &Handle<'_>, ino: InodeNumber, dir: &mut Inode, name: &[u8]) -> Result<Entry> {
        let _ = (handle, ino, dir, name);
        todo!()
    }

    /// Points an existing name at another inode; ".." included.
    pub fn replace(&self, handle: &Handle<'_>, ino: InodeNumber, dir: &mut Inode, name: &[u8], entry: Entry) -> Result<Entry> {
        let _ = (handle, ino, dir, name, entry);
        todo!()
    }

    /// Gives a new directory its first block with "." and "..".
    pub fn create(&self, handle: &Handle<'_>, ino: InodeNumber, dir: &mut Inode, parent: InodeNumber) -> Result<()> {
        let _ = (handle, ino, dir, parent);
        todo!()
    }

    /// Only "." and ".." are left.
    pub fn is_empty(&self, ino: InodeNumber, dir: &Inode) -> Result<bool> {
        let _ = (ino, dir);
        todo!()
    }

    /// Entries after `cookie` (0: from the start, "." and ".." first) in hash order, until `sink` returns false (that entry
    /// was not taken). `sink` gets the cookie to continue *after* the entry, the entry, and its name.
    pub fn read(
        &self,
        ino: InodeNumber,
        dir: &Inode,
        cookie: u64,
        sink: &mut dyn FnMut(u64, Entry, &[u8]) -> bool,
    ) -> Result<()> {
        let _ = (ino, dir, cookie, sink);
        todo!()
    }

    /// Credits for one `insert` in the worst case (splits, tree growth), without the directory's inode.
    pub fn insert_credits(&self, dir: &Inode) -> u32 {
        let _ = dir;
        todo!()
    }

    /// Credits for `remove` and `replace`.
    pub const CHANGE_CREDITS: u32 = 1;
}

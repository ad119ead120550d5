//! Logical to physical: extent trees and indirect blocks behind one interface.
//!
//! Source: the kernel's ext4 documentation, "The Contents of inode.i_block".
//! Invariants: holes are `Mapping::Hole`, never block 0; walks are bounded by depth; a run given to `insert` is a hole
//! before; every block that leaves the map is freed in the same handle.

use crate::alloc::Allocator;
use crate::cache::BlockCache;
use crate::error::Result;
use crate::format::inode::Inode;
use crate::ids::{FileBlock, FsBlock, InodeNumber};
use crate::journal::Handle;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    Hole,
    /// Allocated, reads as zeros.
    Unwritten(FsBlock),
    Written(FsBlock),
    /// Accepted, not yet allocated.
    Delayed,
}

/// A run of file blocks with one mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub start: FileBlock,
    pub len: u32,
    pub mapping: Mapping,
}

/// Maps of all inodes. Methods take the inode's on-disk form, change `block` and `blocks` in it, and leave it to the caller to
/// write the inode in the same handle.
pub struct Map {
    _cache: Arc<BlockCache>,
    _alloc: Arc<Allocator>,
}

impl Map {
    pub fn new(cache: Arc<BlockCache>, alloc: Arc<Allocator>) -> Self {
        Self { _cache: cache, _alloc: alloc }
    }

    /// The longest run from `at` with one mapping and contiguous blocks, at most `max_len` (at least 1) long.
    /// Beyond the last extent it is a hole.
    pub fn lookup(&self, ino: InodeNumber, inode: &Inode, at: FileBlock, max_len: u32) -> Result<Segment> {
        let _ = (ino, inode, at, max_len);
        todo!()
    }

    /// Where the block before `at` (or else the next one after) lies, so that data stays together.
    pub fn goal(&self, ino: InodeNumber, inode: &Inode, at: FileBlock) -> FsBlock {
        let _ = (ino, inode, at);
        todo!()
    }

    /// Puts an allocated run into a hole; merges with neighbours. Adds to `inode.blocks` the run and new tree blocks.
    pub fn insert(
        &self,
        handle: &Handle<'_>,
        ino: InodeNumber,
        inode: &mut Inode,
        at: FileBlock,
        start: FsBlock,
        len: u32,
        unwritten: bool,
    ) -> Result<()> {
        let _ = (handle, ino, inode, at, start, len, unwritten);
        todo!()
    }

    /// Unwritten to written for the whole range (what is written or a hole in it stays).
    pub fn mark_written(&self, handle: &Handle<'_>, ino: InodeNumber, inode: &mut Inode, at: FileBlock, len: u32) -> Result<()> {
        let _ = (handle, ino, inode, at, len);
        todo!()
    }

    /// Written to unwritten for the whole range (extent-mapped files only).
    pub fn mark_unwritten(&self, handle: &Handle<'_>, ino: InodeNumber, inode: &mut Inode, at: FileBlock, len: u32) -> Result<()> {
        let _ = (handle, ino, inode, at, len);
        todo!()
    }

    /// Removes mappings from the end of `from..to` backwards and frees their blocks, until the range is empty or
    /// the handle has fewer than `Map::REMOVE_STEP` credits left. `None`: done. `Some(block)`: call again, in a new
    /// handle, with `to = block`. `meta` frees data blocks as metadata (directories: forget each).
    pub fn remove(
        &self,
        handle: &Handle<'_>,
        ino: InodeNumber,
        inode: &mut Inode,
        from: FileBlock,
        to: FileBlock,
        meta: bool,
    ) -> Result<Option<FileBlock>> {
        let _ = (handle, ino, inode, from, to, meta);
        todo!()
    }

    /// Credits that `insert`, `mark_written` or `mark_unwritten` of one run may need, without inode and data bitmap.
    pub fn insert_credits(&self, inode: &Inode) -> u32 {
        let _ = inode;
        todo!()
    }

    /// Credits below which `remove` stops and asks for a new handle.
    pub const REMOVE_STEP: u32 = 24;
}

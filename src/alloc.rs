//! Who owns a block: groups, buddies, preallocations, freed extents; and the placement of inodes.
//!
//! Source: the design's sections on block ownership and the allocator.
//! Invariants: in every initialised group each block is in exactly one of B, U, R, F and free; every move
//! between them is one critical section under the group's lock.

use crate::cache::BlockCache;
use crate::error::Result;
use crate::format::geometry::Geometry;
use crate::ids::{FileBlock, FsBlock, GroupIndex, InodeNumber};
use crate::journal::Handle;
use crate::memory::Memory;
use std::sync::Arc;

/// What a file asks for.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub ino: InodeNumber,
    /// Where in the file; `None` for metadata (no preallocation, no normalisation).
    pub logical: Option<FileBlock>,
    /// Where on the volume it would be best.
    pub goal: FsBlock,
    /// Blocks wanted, at least 1; fewer may be given.
    pub len: u32,
    /// The file's size in blocks after the write: what normalisation predicts from.
    pub file_blocks: u64,
    /// May use the reserved blocks (owner is 0, s_def_resuid or in s_def_resgid).
    pub privileged: bool,
}

/// Per-inode preallocations, kept in the in-memory inode.
#[derive(Default)]
pub struct PreallocTree {}

/// A run in set R: handed out, its bit not yet set. Dropping it gives the blocks back (R to free).
pub struct Reserved {}
impl Reserved {
    pub fn start(&self) -> FsBlock {
        todo!()
    }
    pub fn len(&self) -> u32 {
        todo!()
    }
}

pub struct Allocator {}
impl Allocator {
    /// Streams all descriptors, verifies them and sums the free counts.
    pub fn new(cache: Arc<BlockCache>, memory: Arc<Memory>, settings: Settings) -> Result<Arc<Self>> {
        let _ = (cache, memory, settings);
        todo!()
    }
    pub fn geometry(&self) -> &Arc<Geometry> {
        todo!()
    }
    /// free or U to R. `tree` is the inode's preallocations. NoSpc when nothing is left for this owner.
    pub fn reserve(&self, request: &Request, tree: Option<&crate::sync::Mutex<PreallocTree>>) -> Result<Reserved> {
        let _ = (request, tree);
        todo!()
    }
    /// R to B for the first `len` blocks of the run (all of them: `reserved.len()`); the rest goes back.
    /// Dirties bitmap and descriptor: 2 credits.
    pub fn mark(&self, handle: &Handle<'_>, reserved: Reserved, len: u32) -> Result<()> {
        let _ = (handle, reserved, len);
        todo!()
    }
    /// Reserve and mark one metadata block near `goal`: 2 credits.
    pub fn new_meta_block(&self, handle: &Handle<'_>, ino: InodeNumber, goal: FsBlock, privileged: bool) -> Result<FsBlock> {
        let _ = (handle, ino, goal, privileged);
        todo!()
    }
    /// B to F: free after the handle's transaction has committed. 2 credits for each group touched.
    /// Errors (EUCLEAN) when a block is already free or lies in a system zone; checks before it changes anything.
    pub fn free(&self, handle: &Handle<'_>, start: FsBlock, len: u32) -> Result<()> {
        let _ = (handle, start, len);
        todo!()
    }
    /// U to free for every preallocation of an inode. No memory, no read.
    pub fn discard_preallocations(&self, tree: &crate::sync::Mutex<PreallocTree>) {
        let _ = tree;
        todo!()
    }
    /// Where a file's first block should go: in or near its inode's group.
    pub fn inode_goal(&self, ino: InodeNumber) -> FsBlock {
        let _ = ino;
        todo!()
    }
    /// Whether a run lies outside of all metadata that mkfs laid down.
    pub fn is_data_run(&self, start: FsBlock, len: u32) -> bool {
        let _ = (start, len);
        todo!()
    }
    pub fn counts(&self) -> Counts {
        todo!()
    }
    /// Allocates an inode: Orlov for directories, the parent's group for others. Sets bitmap and descriptor,
    /// initialises the table of an uninitialised group as needed. 4 credits.
    pub fn new_inode(&self, handle: &Handle<'_>, parent: InodeNumber, is_dir: bool) -> Result<InodeNumber> {
        let _ = (handle, parent, is_dir);
        todo!()
    }
    /// Clears the inode's bit. 2 credits.
    pub fn free_inode(&self, handle: &Handle<'_>, ino: InodeNumber, is_dir: bool) -> Result<()> {
        let _ = (handle, ino, is_dir);
        todo!()
    }
    pub fn inode_in_use(&self, ino: InodeNumber) -> Result<bool> {
        let _ = ino;
        todo!()
    }
    pub fn inode_table_block(&self, group: GroupIndex) -> Result<FsBlock> {
        let _ = group;
        todo!()
    }
}

/// What the superblock says about reservation and placement.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// s_r_blocks_count.
    pub reserved_blocks: u64,
    pub read_only: bool,
}

/// Totals, summed at mount and kept exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Not in B (what the superblock shows).
    pub free_blocks: u64,
    pub free_inodes: u64,
    /// Blocks in U, R and F: not in B, but not free either.
    pub held_blocks: u64,
    pub directories: u64,
}

//! Logical to physical: extent trees and indirect blocks behind one interface.
//!
//! Source: the kernel's ext4 documentation, "The Contents of inode.i_block".
//! Invariants: holes are `Mapping::Hole`, never block 0; walks are bounded by depth; a run given to `insert` is a hole
//! before; every block that leaves the map is freed in the same handle.

mod bound;
mod extents;
mod indirect;
mod path;
mod split;

use crate::alloc::{Allocator, Claim};
use crate::cache::BlockCache;
use crate::error::{Posix, Result};
use crate::format::extent::{Header, MAX_DEPTH};
use crate::format::geometry::Geometry;
use crate::format::inode::{Inode, flag};
use crate::format::raw::le16;
use crate::ids::{FileBlock, FsBlock, InodeNumber};
use crate::journal::Handle;
use indirect::Blocks;
use path::Tree;
use std::cell::RefCell;
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
    cache: Arc<BlockCache>,
    alloc: Arc<Allocator>,
}

impl Map {
    pub fn new(cache: Arc<BlockCache>, alloc: Arc<Allocator>) -> Self {
        Self { cache, alloc }
    }

    /// Makes the map of a new inode an empty extent tree.
    pub fn init_root(&self, inode: &mut Inode) {
        inode.flags |= crate::format::inode::flag::EXTENTS;
        inode.block = [0; 60];
        crate::format::extent::init(&mut inode.block, 0);
    }

    /// A run from `at` with one mapping and contiguous blocks, at least 1 and at most `max_len` long. It ends
    /// early only where the leaf or indirect block that holds it ends. Beyond the last extent it is a hole.
    pub fn lookup(
        &self,
        ino: InodeNumber,
        inode: &Inode,
        at: FileBlock,
        max_len: u32,
    ) -> Result<Segment> {
        if inode.has_flag(flag::EXTENTS) {
            self.tree(ino, inode).lookup(inode, at.get(), max_len)
        } else {
            self.blocks(ino).lookup(inode, at.get(), max_len)
        }
    }

    /// Whether looking up the first blocks reads nothing.
    pub fn is_in_inode(&self, inode: &Inode) -> bool {
        !inode.has_flag(flag::EXTENTS)
            || Header::parse(&inode.block, None).is_ok_and(|header| header.depth == 0)
    }

    /// Where the block before `at` (or else the next one after) lies, so that data stays together.
    pub fn goal(&self, ino: InodeNumber, inode: &Inode, at: FileBlock) -> FsBlock {
        let found = if inode.has_flag(flag::EXTENTS) {
            self.tree(ino, inode).goal(inode, at.get())
        } else {
            self.blocks(ino).goal(inode, at.get())
        };
        let last = self.cache.geometry().blocks_count;
        match found {
            Ok(Some(goal)) if goal.get() < last => goal,
            _ => self.alloc.inode_goal(ino),
        }
    }

    /// Puts an allocated run into a hole; merges with neighbours. Adds to `inode.blocks` the run and new tree blocks.
    /// Nothing has changed when it fails with NoSpc. Block-mapped files take no unwritten run (OpNotSupp).
    #[allow(clippy::too_many_arguments)] // a run, where it goes and what it is
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
        if len == 0 {
            return Ok(());
        }
        if !unwritten {
            return self.insert_claimed(handle, ino, inode, at, start, len, None);
        }
        if !inode.has_flag(flag::EXTENTS) {
            return Err(Posix::OpNotSupp.into());
        }
        let tree = self.tree(ino, inode);
        tree.insert(handle, inode, at.get(), start, len, true)?;
        self.count(inode, len);
        Ok(())
    }

    /// The same with a written run; a claim pays for map blocks.
    #[allow(clippy::too_many_arguments)]
    pub fn insert_claimed(
        &self,
        handle: &Handle<'_>,
        ino: InodeNumber,
        inode: &mut Inode,
        at: FileBlock,
        start: FsBlock,
        len: u32,
        claim: Option<&mut Claim>,
    ) -> Result<()> {
        let claim = RefCell::new(claim);
        if inode.has_flag(flag::EXTENTS) {
            let tree = Tree {
                claim: Some(&claim),
                ..self.tree(ino, inode)
            };
            tree.insert(handle, inode, at.get(), start, len, false)?;
        } else {
            let blocks = Blocks {
                claim: Some(&claim),
                ..self.blocks(ino)
            };
            blocks.insert(handle, inode, at.get(), start, len)?;
        }
        self.count(inode, len);
        Ok(())
    }

    /// The inode has `len` blocks more.
    fn count(&self, inode: &mut Inode, len: u32) {
        let added = sectors(self.cache.geometry(), len);
        inode.blocks = inode.blocks.saturating_add(added);
    }

    /// Unwritten to written for the whole range (what is written or a hole in it stays).
    pub fn mark_written(
        &self,
        handle: &Handle<'_>,
        ino: InodeNumber,
        inode: &mut Inode,
        at: FileBlock,
        len: u32,
    ) -> Result<()> {
        self.mark_written_claimed(handle, ino, inode, at, len, None)
    }

    /// The same; a claim pays for map blocks.
    pub fn mark_written_claimed(
        &self,
        handle: &Handle<'_>,
        ino: InodeNumber,
        inode: &mut Inode,
        at: FileBlock,
        len: u32,
        claim: Option<&mut Claim>,
    ) -> Result<()> {
        if !inode.has_flag(flag::EXTENTS) {
            return Ok(());
        }
        let claim = RefCell::new(claim);
        let tree = Tree {
            claim: Some(&claim),
            ..self.tree(ino, inode)
        };
        tree.mark(handle, inode, at.get(), len, false)
    }

    /// Written to unwritten for the whole range (extent-mapped files only).
    pub fn mark_unwritten(
        &self,
        handle: &Handle<'_>,
        ino: InodeNumber,
        inode: &mut Inode,
        at: FileBlock,
        len: u32,
    ) -> Result<()> {
        if !inode.has_flag(flag::EXTENTS) {
            return Err(Posix::OpNotSupp.into());
        }
        self.tree(ino, inode)
            .mark(handle, inode, at.get(), len, true)
    }

    /// Removes mappings from the end of `from..to` backwards and frees their blocks, until the range is empty or
    /// the handle has fewer than `Map::REMOVE_STEP` credits left. `None`: done. `Some(block)`: call again, in a new
    /// handle, with `to = block`. `meta` frees data blocks as metadata (directories: forget each). Damage that is met after
    /// a part was removed ends that part; the next call meets it before it has changed anything.
    pub fn remove(
        &self,
        handle: &Handle<'_>,
        ino: InodeNumber,
        inode: &mut Inode,
        from: FileBlock,
        to: FileBlock,
        meta: bool,
    ) -> Result<Option<FileBlock>> {
        let (from, mut to) = (from.get(), to.get());
        let all = to;
        while to > from {
            if handle.credits_left() < Self::REMOVE_STEP {
                return Ok(Some(FileBlock::new(to)));
            }
            let changes = handle.changes();
            match self.remove_once(handle, ino, inode, from, to, meta) {
                Ok(Some(end)) => to = end,
                Ok(None) => break,
                Err(_) if to < all && handle.changes() == changes => {
                    return Ok(Some(FileBlock::new(to)));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Removes what the same handle has put into `from..to`: what that takes beyond the credits of the insertions is at most
    /// `Map::UNDO`.
    pub fn undo_insert(
        &self,
        handle: &Handle<'_>,
        ino: InodeNumber,
        inode: &mut Inode,
        range: std::ops::Range<FileBlock>,
        meta: bool,
    ) -> Result<()> {
        let (from, mut to) = (range.start.get(), range.end.get());
        while let Some(end) = self.remove_once(handle, ino, inode, from, to, meta)? {
            to = end;
        }
        Ok(())
    }

    /// A node that goes back into the inode is freed, which an insertion does not do: bitmap and descriptor.
    pub const UNDO: u32 = 2;

    /// One step of a removal: the new end of the range, or `None` when nothing is left in it.
    fn remove_once(
        &self,
        handle: &Handle<'_>,
        ino: InodeNumber,
        inode: &mut Inode,
        from: u32,
        to: u32,
        meta: bool,
    ) -> Result<Option<u32>> {
        if to <= from {
            return Ok(None);
        }
        let left = if inode.has_flag(flag::EXTENTS) {
            self.tree(ino, inode)
                .remove_step(handle, inode, from, to, meta)?
        } else {
            self.blocks(ino)
                .remove_step(handle, inode, from, to, meta)?
        };
        Ok(left.filter(|&end| end < to))
    }

    /// Credits that `insert`, `mark_written` or `mark_unwritten` of one run may need, without inode and data bitmap.
    /// A run of a block-mapped file is at most `run_max` long.
    pub fn insert_credits(&self, inode: &Inode) -> u32 {
        if inode.has_flag(flag::EXTENTS) {
            // New nodes (bitmap, descriptor, node each) for every level and a new root, their old halves, and the
            // second split of a run that ends in another leaf.
            let depth = le16(&inode.block, 6).min(MAX_DEPTH);
            4 * (u32::from(depth) + 2)
        } else {
            // Five indirect blocks, two double ones, one triple (bitmap, descriptor, block each), and old ones.
            3 * 8 + 4
        }
    }

    /// Blocks of the longest run that one handle inserts.
    pub fn run_max(&self, inode: &Inode) -> u32 {
        if inode.has_flag(flag::EXTENTS) {
            u32::from(u16::MAX)
        } else {
            // As many as four indirect blocks hold: it touches five.
            self.cache.geometry().block_size
        }
    }

    /// Credits below which `remove` stops and asks for a new handle. One step is, at worst, a split of a tree of
    /// depth 4 or 5 (5 new nodes with bitmap and descriptor: 15; 5 old nodes) and bitmap and descriptor
    /// of the blocks freed in one group: 22. Freeing a whole path of nodes takes 2 each, 10, and the same 2.
    pub const REMOVE_STEP: u32 = 24;

    fn tree(&self, ino: InodeNumber, inode: &Inode) -> Tree<'_> {
        Tree {
            cache: &self.cache,
            alloc: &self.alloc,
            ino,
            seed: inode.csum_seed(self.cache.geometry(), ino),
            claim: None,
        }
    }

    fn blocks(&self, ino: InodeNumber) -> Blocks<'_> {
        Blocks {
            cache: &self.cache,
            alloc: &self.alloc,
            ino,
            claim: None,
        }
    }
}

/// What pays for map blocks, if anything does.
type Payment<'a> = Option<&'a RefCell<Option<&'a mut Claim>>>;

/// A map block near `goal`.
fn new_block(
    alloc: &Allocator,
    handle: &Handle<'_>,
    ino: InodeNumber,
    goal: FsBlock,
    payment: Payment<'_>,
) -> Result<FsBlock> {
    match payment.map(RefCell::borrow_mut).as_deref_mut() {
        Some(Some(claim)) => alloc.new_meta_block_claimed(handle, ino, goal, claim),
        _ => alloc.new_meta_block(handle, ino, goal, true),
    }
}

/// Frees a run that a map held; with `meta` its buffers leave the transaction as well.
fn free_data(
    alloc: &Allocator,
    handle: &Handle<'_>,
    start: FsBlock,
    len: u32,
    meta: bool,
) -> Result<()> {
    alloc.free(handle, start, len)?;
    if meta {
        for step in 0..u64::from(len) {
            if let Some(block) = start.checked_add(step) {
                handle.forget(block);
            }
        }
    }
    Ok(())
}

/// Blocks in the unit of `Inode::blocks`.
fn sectors(geo: &Geometry, blocks: u32) -> u64 {
    u64::from(blocks) * u64::from(geo.block_size / 512)
}

#[cfg(test)]
mod tests;

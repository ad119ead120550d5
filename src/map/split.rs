//! Making room in an extent tree: leaf and index splits, and growing in depth.
//!
//! Source: the kernel's ext4 documentation, "Extent Tree".
//! Invariants: all blocks that a split needs are allocated before the first node changes; each single split leaves
//! the tree valid and what it maps the same.

use super::path::{Level, Tree};
use crate::error::{Posix, Result};
use crate::format::extent::{self, MAX_DEPTH};
use crate::format::inode::Inode;
use crate::ids::FsBlock;
use crate::journal::Handle;

impl Tree<'_> {
    /// Splits nodes until the leaf of `at` has room for `need` more extents; the path to it.
    pub(super) fn make_room(
        &self,
        handle: &Handle<'_>,
        inode: &mut Inode,
        at: u32,
        need: usize,
    ) -> Result<Vec<Level>> {
        let path = self.descend(inode, at)?;
        let count = full_levels(&path, need);
        if count == 0 {
            return Ok(path);
        }
        if count == path.len() && path.len() > usize::from(MAX_DEPTH) {
            return Err(Posix::NoSpc.into());
        }
        let mut pool = self.take_blocks(handle, inode, &path, count)?;
        let result = self.split_down(handle, inode, at, need, &mut pool);
        while let Some(block) = pool.pop() {
            self.give_back(handle, inode, block)?;
        }
        result
    }

    fn split_down(
        &self,
        handle: &Handle<'_>,
        inode: &mut Inode,
        at: u32,
        need: usize,
        pool: &mut Vec<FsBlock>,
    ) -> Result<Vec<Level>> {
        loop {
            let path = self.descend(inode, at)?;
            let count = full_levels(&path, need);
            if count == 0 {
                return Ok(path);
            }
            let block = pool.pop().ok_or_else(|| {
                self.locate(extent::field("eh_max", path[0].header.max as u64), None)
            })?;
            if count == path.len() {
                self.grow(handle, inode, block)?;
            } else {
                self.split(handle, inode, &path, path.len() - count, block)?;
            }
        }
    }

    /// Moves the root's entries into `block`, the root's only child from now on.
    fn grow(&self, handle: &Handle<'_>, inode: &mut Inode, block: FsBlock) -> Result<()> {
        let root = inode.block;
        let header = extent::Header::parse(&root, None)?;
        let buffer = self.cache.fresh(block, self.kind());
        let mut node = handle.write(&buffer)?;
        extent::init(&mut node, header.depth);
        extent::append(&mut node, extent::entries(&root, 0, header.entries));
        drop(node);
        extent::init(&mut inode.block, header.depth + 1);
        extent::set_entries(&mut inode.block, 1);
        extent::put_index(&mut inode.block, 0, extent::key(&root, 0), block);
        Ok(())
    }

    /// Moves the upper half of a node into `block`, or its last entry alone when the path leads there: files
    /// grow at their end, and so full nodes stay behind.
    fn split(
        &self,
        handle: &Handle<'_>,
        inode: &mut Inode,
        path: &[Level],
        level: usize,
        block: FsBlock,
    ) -> Result<()> {
        let (node, parent) = (&path[level], &path[level - 1]);
        let entries = node.header.entries;
        if entries < 2 {
            return Err(self.locate(
                extent::field("eh_max", node.header.max as u64),
                node.block(),
            ));
        }
        let middle = if node.found == entries {
            entries - 1
        } else {
            entries / 2
        };
        let buffer = self.cache.fresh(block, self.kind());
        let mut new = handle.write(&buffer)?;
        extent::init(&mut new, node.header.depth);
        extent::append(&mut new, extent::entries(node.bytes(), middle, entries));
        drop(new);
        self.edit(handle, inode, node, |bytes| {
            extent::close_gap(bytes, middle, entries - middle);
        })?;
        let key = extent::key(node.bytes(), middle);
        self.edit(handle, inode, parent, |bytes| {
            extent::open_gap(bytes, parent.found, 1);
            extent::put_index(bytes, parent.found, key, block);
        })
    }

    /// `count` blocks for tree nodes, or none and no change but in the allocator's statistics.
    fn take_blocks(
        &self,
        handle: &Handle<'_>,
        inode: &mut Inode,
        path: &[Level],
        count: usize,
    ) -> Result<Vec<FsBlock>> {
        let goal = path.iter().rev().find_map(Level::block);
        let goal = match goal {
            Some(block) => block,
            None if path[0].header.depth == 0 && path[0].header.entries > 0 => {
                self.extent(path[0].bytes(), 0)?.physical
            }
            None => self.alloc.inode_goal(self.ino),
        };
        let mut pool = Vec::with_capacity(count);
        for _ in 0..count {
            match super::new_block(self.alloc, handle, self.ino, goal, self.claim) {
                Ok(block) => {
                    inode.blocks = inode.blocks.saturating_add(self.sectors(1));
                    pool.push(block);
                }
                Err(error) => {
                    while let Some(block) = pool.pop() {
                        self.give_back(handle, inode, block)?;
                    }
                    return Err(error);
                }
            }
        }
        Ok(pool)
    }

    fn give_back(&self, handle: &Handle<'_>, inode: &mut Inode, block: FsBlock) -> Result<()> {
        inode.blocks = inode.blocks.saturating_sub(self.sectors(1));
        self.alloc.free(handle, block, 1)
    }
}

/// How many levels, from the leaf up, have no room: one block is needed for each.
fn full_levels(path: &[Level], need: usize) -> usize {
    let mut need = need;
    let mut full = 0;
    for level in path.iter().rev() {
        if level.header.free() >= need {
            break;
        }
        full += 1;
        need = 1;
    }
    full
}

//! The way from an extent tree's root to a leaf, and changes of nodes on it.
//!
//! Source: the kernel's ext4 documentation, "Extent Tree".
//! Invariants: the depth falls by one each level, so a walk ends; all nodes on a path were checked as a whole.

use crate::alloc::Allocator;
use crate::cache::{BlockCache, BufferRef, Snapshot};
use crate::error::{CorruptKind, Error, Location, Result, Structure};
use crate::format::checksum::BlockKind;
use crate::format::extent::{self, Extent, FILE_BLOCKS, Header};
use crate::format::inode::Inode;
use crate::ids::{FsBlock, InodeNumber};
use crate::journal::Handle;

/// One inode's extent tree.
pub(super) struct Tree<'a> {
    pub(super) cache: &'a BlockCache,
    pub(super) alloc: &'a Allocator,
    pub(super) ino: InodeNumber,
    /// Seed of the nodes' checksums.
    pub(super) seed: u32,
    pub(super) claim: super::Payment<'a>,
}

/// A node on a path, as it was when the path was made.
pub(super) struct Level {
    /// `None`: the root, in the inode.
    pub(super) node: Option<(BufferRef, Snapshot)>,
    root: [u8; 60],
    pub(super) header: Header,
    /// Entries that begin at or before the path's block; in an index node at least 1.
    pub(super) found: usize,
}

impl Level {
    pub(super) fn bytes(&self) -> &[u8] {
        self.node.as_ref().map_or(&self.root, |(_, bytes)| bytes)
    }

    pub(super) fn block(&self) -> Option<FsBlock> {
        self.node.as_ref().map(|(buffer, _)| buffer.block())
    }
}

pub(super) fn bytes<'a>(node: &'a Option<Snapshot>, root: &'a [u8; 60]) -> &'a [u8] {
    node.as_ref().map_or(root, |bytes| bytes)
}

/// The last level. A path is never empty.
pub(super) fn leaf(path: &[Level]) -> &Level {
    path.last().expect("a path has a root")
}

/// The first key behind the path's block, in any node on it.
pub(super) fn next_key(path: &[Level]) -> u64 {
    path.iter()
        .filter(|level| level.found < level.header.entries)
        .map(|level| u64::from(extent::key(level.bytes(), level.found)))
        .min()
        .unwrap_or(FILE_BLOCKS)
}

/// The leaf's key in its parent; `None` for a leaf in the inode.
pub(super) fn key_of_leaf(path: &[Level]) -> Option<u32> {
    let parent = path.get(path.len().checked_sub(2)?)?;
    Some(extent::key(parent.bytes(), parent.found.checked_sub(1)?))
}

impl Tree<'_> {
    pub(super) fn kind(&self) -> BlockKind {
        BlockKind::ExtentNode { seed: self.seed }
    }

    /// The path to the leaf that holds `at` or would hold it.
    pub(super) fn descend(&self, inode: &Inode, at: u32) -> Result<Vec<Level>> {
        let mut path = Vec::with_capacity(usize::from(extent::MAX_DEPTH) + 1);
        let mut node: Option<(BufferRef, Snapshot)> = None;
        let mut depth = None;
        loop {
            let block = node.as_ref().map(|(buffer, _)| buffer.block());
            let bytes: &[u8] = node.as_ref().map_or(&inode.block, |(_, bytes)| bytes);
            let header = Header::parse(bytes, depth).map_err(|e| self.locate(e, block))?;
            extent::check(bytes, &header, self.cache.geometry())
                .map_err(|e| self.locate(e, block))?;
            if header.entries == 0 && block.is_some() {
                return Err(self.locate(extent::field("eh_entries", 0), block));
            }
            let mut found = extent::search(bytes, header.entries, at);
            let mut child = None;
            if header.depth > 0 {
                found = found.max(1);
                child = Some(self.child(bytes, found - 1)?);
            }
            depth = header.depth.checked_sub(1);
            path.push(Level {
                node,
                root: inode.block,
                header,
                found,
            });
            let Some(child) = child else { return Ok(path) };
            let buffer = self.read(child)?;
            let bytes = buffer.snapshot();
            node = Some((buffer, bytes));
        }
    }

    pub(super) fn read(&self, block: FsBlock) -> Result<BufferRef> {
        self.cache
            .read(block, self.kind())
            .map_err(|e| self.locate(e, Some(block)))
    }

    pub(super) fn child(&self, bytes: &[u8], index: usize) -> Result<FsBlock> {
        let child =
            extent::child(bytes, index, self.cache.geometry()).map_err(|e| self.locate(e, None))?;
        self.check_run(child, 1)?;
        Ok(child)
    }

    pub(super) fn extent(&self, bytes: &[u8], index: usize) -> Result<Extent> {
        let extent = extent::extent(bytes, index, self.cache.geometry())
            .map_err(|e| self.locate(e, None))?;
        self.check_run(extent.physical, extent.len)?;
        Ok(extent)
    }

    fn check_run(&self, start: FsBlock, len: u32) -> Result<()> {
        if self.alloc.is_data_run(start, len) {
            return Ok(());
        }
        Err(Error::corrupt(
            CorruptKind::BlockRange {
                what: Structure::ExtentNode,
                block: start.get(),
            },
            Location::inode(self.ino),
        ))
    }

    pub(super) fn locate(&self, error: Error, block: Option<FsBlock>) -> Error {
        let at = Location::inode(self.ino);
        error.located(Location { block, ..at })
    }

    /// Changes a node.
    pub(super) fn edit(
        &self,
        handle: &Handle<'_>,
        inode: &mut Inode,
        level: &Level,
        change: impl FnOnce(&mut [u8]),
    ) -> Result<()> {
        match &level.node {
            None => change(&mut inode.block),
            Some((buffer, _)) => change(&mut handle.write(buffer)?),
        }
        Ok(())
    }

    /// The first key of the path's leaf has become `key`: corrects it in the nodes above.
    pub(super) fn fix_keys(
        &self,
        handle: &Handle<'_>,
        inode: &mut Inode,
        path: &[Level],
        key: u32,
    ) -> Result<()> {
        let above = &path[..path.len().saturating_sub(1)];
        for level in above.iter().rev() {
            let index = level.found - 1;
            if extent::key(level.bytes(), index) != key {
                self.edit(handle, inode, level, |bytes| {
                    extent::set_key(bytes, index, key)
                })?;
            }
            if index > 0 {
                break;
            }
        }
        Ok(())
    }

    /// Takes the path's leaf, whose last extent goes, out of the tree, with all nodes that become empty by it.
    pub(super) fn remove_leaf(
        &self,
        handle: &Handle<'_>,
        inode: &mut Inode,
        path: &[Level],
    ) -> Result<()> {
        for (level, depth) in path.iter().rev().zip(0..) {
            let above = &path[..path.len() - depth];
            if depth > 0 && level.header.entries > 1 {
                let index = level.found - 1;
                self.edit(handle, inode, level, |bytes| {
                    extent::close_gap(bytes, index, 1)
                })?;
                if index == 0 {
                    let key = extent::key(level.bytes(), 1);
                    self.fix_keys(handle, inode, above, key)?;
                }
                return Ok(());
            }
            match level.block() {
                Some(block) => self.free_node(handle, inode, block)?,
                None => extent::init(&mut inode.block, 0),
            }
        }
        Ok(())
    }

    /// A leaf that is the root's only child and fits moves into the inode.
    pub(super) fn pull_up(&self, handle: &Handle<'_>, inode: &mut Inode) -> Result<()> {
        let root = Header::parse(&inode.block, None)?;
        if root.depth != 1 || root.entries != 1 {
            return Ok(());
        }
        let child = self.child(&inode.block, 0)?;
        let bytes = self.read(child)?.snapshot();
        let header = Header::parse(&bytes, Some(0)).map_err(|e| self.locate(e, Some(child)))?;
        if header.entries > extent::capacity(inode.block.len()) {
            return Ok(());
        }
        self.free_node(handle, inode, child)?;
        extent::init(&mut inode.block, 0);
        extent::append(&mut inode.block, extent::entries(&bytes, 0, header.entries));
        Ok(())
    }

    fn free_node(&self, handle: &Handle<'_>, inode: &mut Inode, block: FsBlock) -> Result<()> {
        self.alloc.free(handle, block, 1)?;
        handle.forget(block);
        inode.blocks = inode.blocks.saturating_sub(self.sectors(1));
        Ok(())
    }

    pub(super) fn free_data(
        &self,
        handle: &Handle<'_>,
        inode: &mut Inode,
        start: FsBlock,
        len: u32,
        meta: bool,
    ) -> Result<()> {
        super::free_data(self.alloc, handle, start, len, meta).map_err(|e| self.locate(e, None))?;
        inode.blocks = inode.blocks.saturating_sub(self.sectors(len));
        Ok(())
    }

    /// Blocks in the unit of `Inode::blocks`.
    pub(super) fn sectors(&self, blocks: u32) -> u64 {
        super::sectors(self.cache.geometry(), blocks)
    }
}

//! The extent tree of an inode.
//!
//! Source: the kernel's ext4 documentation, "Extent Tree".
//! Invariants: a walk visits no node twice, so that it ends; damaged parts are left out of `kept`, and the tree is
//! written anew once pass 1 knows what is free.

use super::check::Check;
use crate::Result;
use crate::alloc::cluster_of;
use crate::map::{Map, Run, in_volume, raw_extent, raw_index};
use crate::problem::{At, Problem};
use std::collections::HashSet;
use uext4::format::checksum::{self, BlockKind};
use uext4::format::extent::{self, FILE_BLOCKS, Header};
use uext4::format::raw::{le16, put_le16};
use uext4::ids::FsBlock;

/// Blocks of a file end before the last number, which stands for none.
pub const EXTENT_END: u64 = FILE_BLOCKS - 1;

#[derive(Default)]
pub struct Tree {
    pub kept: Map,
    /// The tree must be written anew.
    pub changed: bool,
    seen: HashSet<u64>,
    /// The next file block that may be mapped.
    next: u64,
}

impl Check<'_, '_> {
    /// `None` to empty the inode.
    pub fn extent_tree(&mut self) -> Result<Option<Tree>> {
        let mut tree = Tree::default();
        let mut root = self.raw.i_block().to_vec();
        if let Some(depth) = self.depth_of_root(&root)?
            && self.fix(
                Problem::ExtentDepth,
                At::ino(self.ino)
                    .found(le16(&root, 6).into())
                    .expected(depth.into()),
            )?
        {
            put_le16(&mut root, 6, depth);
            self.raw.i_block_mut().copy_from_slice(&root);
            self.dirty = true;
        }
        let Ok(header) = Header::parse(&root, None) else {
            if self.fix_here(Problem::ExtentHeader)? {
                // A file that never had a block loses nothing.
                if self.raw.size() != 0 || self.raw.sectors(self.around.geo) != 0 {
                    return Ok(None);
                }
                extent::init(self.raw.i_block_mut(), 0);
                self.dirty = true;
            }
            return Ok(Some(tree));
        };
        self.node(&root, header, &mut tree)?;
        Ok(Some(tree))
    }

    /// What the depth must be instead, where what follows the root shows that it is wrong.
    fn depth_of_root(&self, root: &[u8]) -> Result<Option<u16>> {
        let geo = self.around.geo;
        let mut leaf = root.to_vec();
        put_le16(&mut leaf, 6, 0);
        let Ok(header) = Header::parse(&leaf, None) else {
            return Ok(None);
        };
        if header.entries == 0 {
            return Ok(None);
        }
        let depth = le16(root, 6);
        let (key, child) = raw_index(root, 0);
        if in_volume(geo, child, 1) && !self.around.zones.contains(cluster_of(geo, child)) {
            let node = self.around.image.read(child)?;
            let below = Header::parse(&node, None);
            let by_itself = below.as_ref().is_ok_and(|b| self.belongs(&node, b, key));
            if !by_itself && depth > 0 && self.with_depth(&node, depth - 1, key).is_some() {
                // It is the node's depth that is wrong.
                return Ok(None);
            }
            if let Ok(below) = below {
                let right = below.depth + 1;
                return Ok((right != depth && right <= extent::MAX_DEPTH).then_some(right));
            }
        }
        let mut next = 0;
        let sound = (0..header.entries).all(|index| {
            let found = raw_extent(&leaf, index);
            let (start, len) = (u64::from(found.lblk), u64::from(found.len));
            let follows = start >= next && len > 0;
            next = start + len;
            follows && in_volume(geo, found.pblk, len)
        });
        Ok((depth != 0 && sound).then_some(0))
    }

    fn node(&mut self, bytes: &[u8], header: Header, tree: &mut Tree) -> Result<()> {
        let room = extent::capacity(bytes.len());
        // Two entries less are allowed for what may stand behind them.
        if header.max + 2 < room {
            let at = At::ino(self.ino)
                .found(header.max as u64)
                .expected(room as u64);
            tree.changed |= self.fix(Problem::ExtentMax, at)?;
        }
        for index in 0..header.entries {
            if header.depth == 0 {
                self.leaf_entry(bytes, index, tree)?;
            } else {
                self.index_entry(bytes, index, header.depth, tree)?;
            }
        }
        Ok(())
    }

    fn index_entry(
        &mut self,
        bytes: &[u8],
        index: usize,
        depth: u16,
        tree: &mut Tree,
    ) -> Result<()> {
        let geo = self.around.geo;
        let (key, child) = raw_index(bytes, index);
        let at = At::ino(self.ino).block(child).lblk(key.into());
        let cluster = crate::alloc::cluster_of(geo, child);
        if !in_volume(geo, child, 1) || self.around.zones.contains(cluster) {
            return self.leave_out(Problem::ExtentRange, at, tree);
        }
        if u64::from(key) < tree.next {
            return self.leave_out(Problem::ExtentOrder, at, tree);
        }
        if !tree.seen.insert(child) {
            return self.leave_out(Problem::ExtentNode, at, tree);
        }
        let mut node = self.around.image.read(child)?.to_vec();
        let found = le16(&node, 6);
        let other_depth = found != depth - 1;
        let header = if other_depth {
            let Some((with_depth, header)) = self.with_depth(&node, depth - 1, key) else {
                return self.leave_out(Problem::ExtentNode, at, tree);
            };
            let at = at.clone().found(found.into());
            // Written anew with the right depth.
            self.leave_out(
                Problem::ExtentNodeDepth,
                at.expected(u64::from(depth) - 1),
                tree,
            )?;
            node = with_depth;
            header
        } else if let Ok(header) = Header::parse(&node, Some(depth - 1)) {
            header
        } else {
            return self.leave_out(Problem::ExtentNode, at, tree);
        };
        let first = crate::map::raw_extent(&node, 0).lblk;
        if header.entries > 0 && first != key {
            let at = at.clone().found(key.into()).expected(first.into());
            if u64::from(first) < tree.next {
                return self.leave_out(Problem::ExtentOrder, at, tree);
            }
            tree.changed |= self.fix(Problem::ExtentIndexKey, at)?;
        }
        let kind = BlockKind::ExtentNode {
            seed: self.raw.seed(geo, self.ino),
        };
        let was_changed = tree.changed;
        let wrong = checksum::verify(kind, geo, FsBlock::new(child), &node).is_err();
        tree.kept.meta.push(child);
        self.node(&node, header, tree)?;
        let as_it_was = !other_depth && tree.changed == was_changed;
        if wrong && as_it_was && self.fix(Problem::ExtentChecksum, at)? {
            checksum::stamp(kind, geo, FsBlock::new(child), &mut node);
            self.around
                .image
                .write(child, node, crate::image::Stage::Body)?;
        }
        Ok(())
    }

    /// A node whose depth alone is wrong, with the right one; `None` where it is not the one that an index entry means.
    fn with_depth(&self, node: &[u8], depth: u16, key: u32) -> Option<(Vec<u8>, Header)> {
        let mut node = node.to_vec();
        put_le16(&mut node, 6, depth);
        let header = Header::parse(&node, Some(depth)).ok()?;
        self.belongs(&node, &header, key).then_some((node, header))
    }

    /// Whether a node begins where the index entry above says, and its entries are in order and in the volume.
    fn belongs(&self, node: &[u8], header: &Header, key: u32) -> bool {
        let geo = self.around.geo;
        let mut next = u64::from(key);
        header.entries > 0
            && raw_extent(node, 0).lblk == key
            && (0..header.entries).all(|index| {
                let (start, block, len) = if header.depth == 0 {
                    let extent = raw_extent(node, index);
                    (extent.lblk, extent.pblk, u64::from(extent.len))
                } else {
                    let (start, child) = raw_index(node, index);
                    (start, child, 1)
                };
                let follows = u64::from(start) >= next && len > 0;
                next = u64::from(start) + len;
                follows && in_volume(geo, block, len)
            })
    }

    fn leaf_entry(&mut self, bytes: &[u8], index: usize, tree: &mut Tree) -> Result<()> {
        let geo = self.around.geo;
        let extent = raw_extent(bytes, index);
        let (lblk, len) = (u64::from(extent.lblk), u64::from(extent.len));
        let at = At::ino(self.ino).block(extent.pblk).lblk(lblk);
        let problem = if !in_volume(geo, extent.pblk, 1) {
            Some(Problem::ExtentRange)
        } else if len == 0 || !in_volume(geo, extent.pblk, len) {
            Some(Problem::ExtentLength)
        } else if lblk + len > EXTENT_END {
            Some(Problem::ExtentPastEnd)
        } else if lblk < tree.next {
            Some(Problem::ExtentOrder)
        } else {
            None
        };
        if let Some(problem) = problem {
            return self.leave_out(problem, at.found(len), tree);
        }
        let mut run = Run {
            lblk,
            pblk: extent.pblk,
            len,
            unwritten: extent.unwritten,
        };
        if run.end() > self.block_limit() {
            if !self.too_big {
                self.too_big = true;
                self.fix(Problem::TooBig, at)?;
            }
            tree.changed = true;
            return Ok(());
        }
        if self.raw.is_dir() {
            self.directory_run(&mut run, tree)?;
        }
        tree.next = run.end();
        tree.kept.push(run);
        Ok(())
    }

    /// Directories have no holes and no unwritten extents.
    fn directory_run(&mut self, run: &mut Run, tree: &mut Tree) -> Result<()> {
        let at = At::ino(self.ino).lblk(run.lblk);
        let expected = tree.kept.data.last().map_or(0, Run::end);
        if run.lblk > expected && self.fix(Problem::DirHole, at.clone().expected(expected))? {
            run.lblk = expected;
            tree.changed = true;
        }
        if run.unwritten && self.fix(Problem::ExtentUnwrittenDir, at)? {
            run.unwritten = false;
            tree.changed = true;
        }
        Ok(())
    }

    fn leave_out(&mut self, problem: Problem, at: At, tree: &mut Tree) -> Result<()> {
        self.fix(problem, at)?;
        tree.changed = true;
        Ok(())
    }
}

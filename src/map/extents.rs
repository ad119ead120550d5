//! Extent trees: finding, inserting, converting and removing extents.
//!
//! Source: the kernel's ext4 documentation, "Extent Tree".
//! Invariants: a change of the tree is one `substitute`, which leaves it valid: leaves hold no empty extents, nodes
//! are not empty, and the key of a node in its parent is its first entry's key.

use super::path::{self, Level, Tree};
use super::{Mapping, Segment};
use crate::error::{CorruptKind, Error, Location, Posix, Result, Structure};
use crate::format::extent::{self, Extent, FILE_BLOCKS, Header};
use crate::format::inode::Inode;
use crate::ids::{FileBlock, FsBlock};
use crate::journal::Handle;

/// Pieces that one insertion may be cut into.
const PIECES_MAX: usize = 16;
/// Blocks that one step frees when each of them must be forgotten.
const FORGET_MAX: u32 = 1024;

impl Tree<'_> {
    pub(super) fn lookup(&self, inode: &Inode, at: u32, max_len: u32) -> Result<Segment> {
        let mut held = None;
        let mut end = FILE_BLOCKS;
        let mut header = Header::parse(&inode.block, None).map_err(|e| self.locate(e, None))?;
        loop {
            let bytes: &[u8] = path::bytes(&held, &inode.block);
            let found = extent::search(bytes, header.entries, at);
            if found < header.entries {
                end = end.min(extent::key(bytes, found).into());
            }
            if header.depth == 0 {
                return self.segment(bytes, &header, found, at, end, max_len);
            }
            let Some(index) = found.checked_sub(1) else {
                return Ok(segment(at, end, max_len, Mapping::Hole));
            };
            let child = self.child(bytes, index)?;
            let node = self.read(child)?.snapshot();
            header = Header::parse(&node, header.depth.checked_sub(1))
                .map_err(|e| self.locate(e, Some(child)))?;
            held = Some(node);
        }
    }

    /// The segment in a leaf in which `found` extents begin at or before `at`.
    fn segment(
        &self,
        bytes: &[u8],
        header: &Header,
        found: usize,
        at: u32,
        end: u64,
        max_len: u32,
    ) -> Result<Segment> {
        let Some(index) = found.checked_sub(1) else {
            return Ok(segment(at, end, max_len, Mapping::Hole));
        };
        let extent = self.extent(bytes, index)?;
        let Some(part) = extent.part(at.into(), FILE_BLOCKS) else {
            return Ok(segment(at, end, max_len, Mapping::Hole));
        };
        let mut part_end = part.end();
        let mut last = extent;
        for index in found..header.entries {
            if part_end - u64::from(at) >= u64::from(max_len) {
                break;
            }
            let next = self.extent(bytes, index)?;
            let next_physical = last.physical.checked_add(last.len.into());
            if last.end() != u64::from(next.logical)
                || next_physical != Some(next.physical)
                || last.unwritten != next.unwritten
            {
                break;
            }
            part_end = next.end();
            last = next;
        }
        let mapping = if part.unwritten {
            Mapping::Unwritten(part.physical)
        } else {
            Mapping::Written(part.physical)
        };
        Ok(segment(at, part_end, max_len, mapping))
    }

    /// Where a block at `at` would continue what is there.
    pub(super) fn goal(&self, inode: &Inode, at: u32) -> Result<Option<FsBlock>> {
        let path = self.descend(inode, at)?;
        let leaf = path::leaf(&path);
        let near = match leaf.found.checked_sub(1) {
            Some(index) => Some(index),
            None if leaf.header.entries > 0 => Some(0),
            None => None,
        };
        let Some(index) = near else {
            return Ok(leaf.block());
        };
        let extent = self.extent(leaf.bytes(), index)?;
        let (at, logical) = (u64::from(at), u64::from(extent.logical));
        Ok(match at.checked_sub(logical) {
            Some(ahead) => extent.physical.checked_add(ahead),
            None => extent.physical.checked_sub(logical - at),
        }
        .or(Some(extent.physical)))
    }

    pub(super) fn insert(
        &self,
        handle: &Handle<'_>,
        inode: &mut Inode,
        at: u32,
        start: FsBlock,
        len: u32,
        unwritten: bool,
    ) -> Result<()> {
        let mut pieces = Vec::new();
        let end = u64::from(at) + u64::from(len);
        let mut cursor = u64::from(at);
        while cursor < end {
            let piece_len = (end - cursor).min(Extent::max_len(unwritten).into());
            let physical = start.checked_add(cursor - u64::from(at));
            pieces.push(Extent {
                logical: u32::try_from(cursor).map_err(|_| Posix::FBig)?,
                len: u32::try_from(piece_len).map_err(|_| Posix::FBig)?,
                physical: physical.ok_or(Posix::Inval)?,
                unwritten,
            });
            cursor += piece_len;
        }
        if pieces.len() > PIECES_MAX || end > FILE_BLOCKS {
            return Err(Posix::FBig.into());
        }
        let here = self.lookup(inode, at, len)?;
        if here.mapping != Mapping::Hole || here.len != len {
            return Err(self.locate(extent::field("ee_block", at.into()), None));
        }
        self.substitute(handle, inode, at, false, &pieces)
    }

    /// Written or unwritten, whatever in `at..at + len` is mapped.
    pub(super) fn mark(
        &self,
        handle: &Handle<'_>,
        inode: &mut Inode,
        at: u32,
        len: u32,
        unwritten: bool,
    ) -> Result<()> {
        let end = (u64::from(at) + u64::from(len)).min(FILE_BLOCKS);
        let mut cursor = u64::from(at);
        while cursor < end {
            let Ok(here) = u32::try_from(cursor) else {
                break;
            };
            let path = self.descend(inode, here)?;
            let leaf = path::leaf(&path);
            let extent = match leaf.found.checked_sub(1) {
                Some(index) => Some(self.extent(leaf.bytes(), index)?),
                None => None,
            };
            let Some(extent) = extent.filter(|extent| extent.end() > cursor) else {
                cursor = path::next_key(&path);
                continue;
            };
            let limit = cursor + u64::from(Extent::max_len(unwritten));
            let stop = extent.end().min(end).min(limit);
            if extent.unwritten != unwritten {
                let marked = extent
                    .part(cursor, stop)
                    .map(|part| Extent { unwritten, ..part });
                let pieces: Vec<Extent> = [
                    extent.part(0, cursor),
                    marked,
                    extent.part(stop, FILE_BLOCKS),
                ]
                .into_iter()
                .flatten()
                .collect();
                self.substitute(handle, inode, extent.logical, true, &pieces)?;
            }
            cursor = stop;
        }
        Ok(())
    }

    /// One step of `Map::remove`: frees the last piece of `from..to` that one group holds. The new end of the
    /// range, or `None` when nothing is left in it.
    pub(super) fn remove_step(
        &self,
        handle: &Handle<'_>,
        inode: &mut Inode,
        from: u32,
        to: u32,
        meta: bool,
    ) -> Result<Option<u32>> {
        let Some(last) = to.checked_sub(1).filter(|&last| last >= from) else {
            return Ok(None);
        };
        let path = self.descend(inode, last)?;
        let leaf = path::leaf(&path);
        let Some(index) = leaf.found.checked_sub(1) else {
            // The leaf begins behind its key: what is left lies in an earlier one.
            return Ok(path::key_of_leaf(&path).filter(|&key| key > from && key < to));
        };
        let extent = self.extent(leaf.bytes(), index)?;
        let Some(piece) = extent.part(from.into(), to.into()) else {
            return Ok(None);
        };
        let start = self.last_part(&piece, meta);
        let pieces: Vec<Extent> = [extent.part(0, start), extent.part(piece.end(), FILE_BLOCKS)]
            .into_iter()
            .flatten()
            .collect();
        let freed = extent.part(start, piece.end()).ok_or(Posix::Inval)?;
        if pieces.len() > 1 {
            self.make_room(handle, inode, extent.logical, 1)?;
        }
        self.free_data(handle, inode, freed.physical, freed.len, meta)?;
        self.substitute(handle, inode, extent.logical, true, &pieces)?;
        self.pull_up(handle, inode)?;
        Ok(Some(freed.logical))
    }

    /// Where the part of a run begins that lies in its last block's group.
    fn last_part(&self, piece: &Extent, meta: bool) -> u64 {
        let end = piece.physical.get() + u64::from(piece.len) - 1;
        let geo = self.cache.geometry();
        let (group, _) = geo.group_of(FsBlock::new(end));
        let skipped = geo
            .first_block(group)
            .checked_offset_from(piece.physical)
            .unwrap_or(0);
        let skipped = if meta {
            skipped.max(piece.len.saturating_sub(FORGET_MAX).into())
        } else {
            skipped
        };
        u64::from(piece.logical) + skipped
    }

    /// Puts `pieces` into the place of the extent that holds `at` (`replace`) or into the hole there, and
    /// merges them with their neighbours. All blocks that it needs are allocated before anything changes.
    fn substitute(
        &self,
        handle: &Handle<'_>,
        inode: &mut Inode,
        at: u32,
        replace: bool,
        pieces: &[Extent],
    ) -> Result<()> {
        let mut path = self.descend(inode, at)?;
        let mut plan = self.plan(path::leaf(&path), replace, pieces)?;
        let more = (plan.extents.len()).saturating_sub(plan.end - plan.start);
        if more > path::leaf(&path).header.free() {
            path = self.make_room(handle, inode, at, more)?;
            plan = self.plan(path::leaf(&path), replace, pieces)?;
        }
        let leaf = path::leaf(&path);
        if leaf.header.entries - (plan.end - plan.start) + plan.extents.len() == 0 {
            return self.remove_leaf(handle, inode, &path);
        }
        self.edit(handle, inode, leaf, |bytes| {
            extent::close_gap(bytes, plan.start, plan.end - plan.start);
            extent::open_gap(bytes, plan.start, plan.extents.len());
            for (extent, index) in plan.extents.iter().zip(plan.start..) {
                extent::put_extent(bytes, index, extent);
            }
        })?;
        if plan.start == 0
            && let Some(first) = plan.extents.first()
        {
            self.fix_keys(handle, inode, &path, first.logical)?;
        } else if plan.start == 0 {
            let key = extent::key(leaf.bytes(), plan.end);
            self.fix_keys(handle, inode, &path, key)?;
        }
        Ok(())
    }

    /// Which entries of the leaf to exchange for which extents.
    fn plan(&self, leaf: &Level, replace: bool, pieces: &[Extent]) -> Result<Plan> {
        let found = leaf.found;
        let mut start = if replace {
            found.checked_sub(1)
        } else {
            Some(found)
        }
        .ok_or_else(|| {
            Error::corrupt(
                CorruptKind::Depth {
                    what: Structure::ExtentNode,
                },
                Location::inode(self.ino),
            )
        })?;
        let mut end = found;
        let mut extents: Vec<Extent> = Vec::with_capacity(pieces.len() + 2);
        let mut put = |extent: Extent| match extents.last_mut() {
            Some(last) if last.merged(&extent).is_some() => {
                *last = last.merged(&extent).unwrap_or(*last);
            }
            _ => extents.push(extent),
        };
        if !pieces.is_empty() {
            if let Some(left) = start.checked_sub(1) {
                put(self.extent(leaf.bytes(), left)?);
                start = left;
            }
            pieces.iter().for_each(|&piece| put(piece));
            if end < leaf.header.entries {
                put(self.extent(leaf.bytes(), end)?);
                end += 1;
            }
        }
        Ok(Plan {
            start,
            end,
            extents,
        })
    }
}

/// Entries `start..end` become `extents`.
struct Plan {
    start: usize,
    end: usize,
    extents: Vec<Extent>,
}

/// From `at` to before `end`, at most `max_len` blocks.
fn segment(at: u32, end: u64, max_len: u32, mapping: Mapping) -> Segment {
    let len = end
        .saturating_sub(at.into())
        .clamp(1, max_len.max(1).into());
    Segment {
        start: FileBlock::new(at),
        len: u32::try_from(len).unwrap_or(u32::MAX),
        mapping,
    }
}

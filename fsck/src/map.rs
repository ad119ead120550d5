//! Reading an inode's block map without judging it: what cannot be read is left out.
//!
//! Source: the kernel's ext4 documentation, "The Contents of inode.i_block".
//! Invariants: every run lies inside the volume; a walk is bounded by the tree's depth and by the volume's size.

use crate::Result;
use crate::image::Image;
use crate::inode::Raw;
use uext4::format::extent::{self, MAX_WRITTEN};
use uext4::format::geometry::Geometry;
use uext4::format::indirect;
use uext4::format::inode::flag;
use uext4::format::raw::{join, le16, le32};

/// Blocks that follow each other in the file and on the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub lblk: u64,
    pub pblk: u64,
    pub len: u64,
    pub unwritten: bool,
}

impl Run {
    pub fn end(&self) -> u64 {
        self.lblk.saturating_add(self.len)
    }
}

#[derive(Clone, Debug, Default)]
pub struct Map {
    /// Ascending in the file as far as the map itself is.
    pub data: Vec<Run>,
    /// Index blocks, in the order of the walk.
    pub meta: Vec<u64>,
}

impl Map {
    pub fn push(&mut self, run: Run) {
        if let Some(last) = self.data.last_mut()
            && last.end() == run.lblk
            && last.pblk + last.len == run.pblk
            && last.unwritten == run.unwritten
        {
            last.len += run.len;
            return;
        }
        self.data.push(run);
    }

    /// Where a block of the file lies.
    pub fn find(&self, lblk: u64) -> Option<u64> {
        let index = self.data.partition_point(|run| run.end() <= lblk);
        let run = self.data.get(index).filter(|run| run.lblk <= lblk)?;
        Some(run.pblk + (lblk - run.lblk))
    }
}

/// One entry of an extent leaf, raw.
#[derive(Clone, Copy, Debug)]
pub struct RawExtent {
    pub lblk: u32,
    pub len: u32,
    pub pblk: u64,
    pub unwritten: bool,
}

pub fn raw_extent(bytes: &[u8], index: usize) -> RawExtent {
    let at = 12 + 12 * index;
    let stored = u32::from(le16(bytes, at + 4));
    let unwritten = stored > MAX_WRITTEN;
    RawExtent {
        lblk: le32(bytes, at),
        len: if unwritten {
            stored - MAX_WRITTEN
        } else {
            stored
        },
        pblk: join(le32(bytes, at + 8), u32::from(le16(bytes, at + 6))),
        unwritten,
    }
}

/// Child block and first key of an index entry.
pub fn raw_index(bytes: &[u8], index: usize) -> (u32, u64) {
    let at = 12 + 12 * index;
    (
        le32(bytes, at),
        join(le32(bytes, at + 4), u32::from(le16(bytes, at + 8))),
    )
}

pub fn in_volume(geo: &Geometry, block: u64, len: u64) -> bool {
    let first = u64::from(geo.first_data_block).max(1);
    block >= first
        && block
            .checked_add(len)
            .is_some_and(|end| end <= geo.blocks_count)
}

/// Whether `i_block` is a map at all.
pub fn has_map(raw: &Raw) -> bool {
    (raw.is_reg() || raw.is_dir() || raw.is_symlink())
        && !raw.has(flag::INLINE_DATA)
        && !raw.is_fast_symlink()
}

pub fn read(image: &Image, geo: &Geometry, raw: &Raw) -> Result<Map> {
    let mut map = Map::default();
    if raw.has(flag::EXTENTS) {
        let mut left = geo.blocks_count.min(1 << 28);
        walk_extents(image, geo, raw.i_block(), None, &mut left, &mut map)?;
        map.data.sort_by_key(|run| run.lblk);
    } else {
        for slot in 0..indirect::SLOTS {
            let block = raw.pointer(slot as usize);
            let start = indirect::slot_start(slot, geo.block_bits);
            let level = indirect::slot_level(slot);
            walk_pointers(image, geo, block, level, start, &mut map)?;
        }
    }
    Ok(map)
}

fn walk_extents(
    image: &Image,
    geo: &Geometry,
    bytes: &[u8],
    depth: Option<u16>,
    left: &mut u64,
    map: &mut Map,
) -> Result<()> {
    let Ok(header) = extent::Header::parse(bytes, depth) else {
        return Ok(());
    };
    for index in 0..header.entries {
        *left = left.saturating_sub(1);
        if *left == 0 {
            return Ok(());
        }
        if header.depth == 0 {
            let extent = raw_extent(bytes, index);
            if extent.len > 0 && in_volume(geo, extent.pblk, extent.len.into()) {
                map.push(Run {
                    lblk: extent.lblk.into(),
                    pblk: extent.pblk,
                    len: extent.len.into(),
                    unwritten: extent.unwritten,
                });
            }
            continue;
        }
        let (_, child) = raw_index(bytes, index);
        if in_volume(geo, child, 1) {
            map.meta.push(child);
            let node = image.read(child)?;
            walk_extents(image, geo, &node, Some(header.depth - 1), left, map)?;
        }
    }
    Ok(())
}

fn walk_pointers(
    image: &Image,
    geo: &Geometry,
    block: u32,
    level: u32,
    lblk: u64,
    map: &mut Map,
) -> Result<()> {
    if block == 0 || !in_volume(geo, block.into(), 1) {
        return Ok(());
    }
    if level == 0 {
        map.push(Run {
            lblk,
            pblk: block.into(),
            len: 1,
            unwritten: false,
        });
        return Ok(());
    }
    map.meta.push(block.into());
    let bytes = image.read(block.into())?;
    let span = indirect::span(level - 1, geo.block_bits);
    for index in 0..geo.block_size as usize / 4 {
        let child = indirect::pointer(&bytes, index);
        walk_pointers(
            image,
            geo,
            child,
            level - 1,
            lblk + span * index as u64,
            map,
        )?;
    }
    Ok(())
}

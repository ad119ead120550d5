//! Writing a whole block map anew, from a list of runs.
//!
//! Source: the kernel's ext4 documentation, "The Contents of inode.i_block".
//! Invariants: index blocks come from where nothing lies yet, so that the old map stays whole until the inode is
//! written; only without space are the old index blocks used again.

use crate::Result;
use crate::image::{Image, Stage};
use crate::inode::Raw;
use crate::map::{Map, Run};
use uext4::format::checksum::{self, BlockKind};
use uext4::format::extent::{self, Extent};
use uext4::format::geometry::Geometry;
use uext4::format::indirect;
use uext4::format::inode::flag;
use uext4::ids::FsBlock;

/// Where index blocks come from.
pub trait Space {
    /// A block that nothing uses, near another.
    fn block(&mut self, near: u64) -> Option<u64>;
}

/// The new map's index blocks, or `None` when there was no space.
pub fn rewrite(
    image: &Image,
    geo: &Geometry,
    ino: u32,
    raw: &mut Raw,
    data: &[Run],
    space: &mut dyn Space,
) -> Result<Option<Vec<u64>>> {
    if raw.has(flag::EXTENTS) {
        write_extents(image, geo, ino, raw, data, space)
    } else {
        write_pointers(image, geo, raw, data, space)
    }
}

fn pieces(data: &[Run]) -> Vec<Extent> {
    let mut all = Vec::new();
    for run in data {
        let most = u64::from(Extent::max_len(run.unwritten));
        let mut done = 0;
        while done < run.len {
            let len = (run.len - done).min(most);
            all.push(Extent {
                logical: (run.lblk + done) as u32,
                len: len as u32,
                physical: FsBlock::new(run.pblk + done),
                unwritten: run.unwritten,
            });
            done += len;
        }
    }
    all
}

fn write_extents(
    image: &Image,
    geo: &Geometry,
    ino: u32,
    raw: &mut Raw,
    data: &[Run],
    space: &mut dyn Space,
) -> Result<Option<Vec<u64>>> {
    let extents = pieces(data);
    let near = data.first().map_or(0, |run| run.pblk);
    let root = extent::capacity(raw.i_block().len());
    let room = extent::capacity(geo.block_size as usize);
    let seed = raw.seed(geo, ino);
    let mut meta = Vec::new();
    let mut root_bytes = vec![0; raw.i_block().len()];
    if extents.len() <= root {
        extent::init(&mut root_bytes, 0);
        fill(&mut root_bytes, &extents);
        raw.i_block_mut().copy_from_slice(&root_bytes);
        return Ok(Some(meta));
    }
    let mut depth = 0;
    let mut children = Vec::new();
    for chunk in extents.chunks(room) {
        let Some(block) = space.block(near) else {
            return Ok(None);
        };
        let mut bytes = vec![0; geo.block_size as usize];
        extent::init(&mut bytes, depth);
        fill(&mut bytes, chunk);
        put(image, geo, block, bytes, seed)?;
        children.push((chunk.first().map_or(0, |e| e.logical), block));
        meta.push(block);
    }
    while children.len() > root {
        depth += 1;
        let mut upper = Vec::new();
        for chunk in children.chunks(room) {
            let Some(block) = space.block(near) else {
                return Ok(None);
            };
            let mut bytes = vec![0; geo.block_size as usize];
            extent::init(&mut bytes, depth);
            fill_index(&mut bytes, chunk);
            put(image, geo, block, bytes, seed)?;
            upper.push((chunk.first().map_or(0, |child| child.0), block));
            meta.push(block);
        }
        children = upper;
    }
    extent::init(&mut root_bytes, depth + 1);
    fill_index(&mut root_bytes, &children);
    raw.i_block_mut().copy_from_slice(&root_bytes);
    Ok(Some(meta))
}

fn fill(bytes: &mut [u8], extents: &[Extent]) {
    for (index, extent) in extents.iter().enumerate() {
        extent::put_extent(bytes, index, extent);
    }
    extent::set_entries(bytes, extents.len());
}

fn fill_index(bytes: &mut [u8], children: &[(u32, u64)]) {
    for (index, (key, child)) in children.iter().enumerate() {
        extent::put_index(bytes, index, *key, FsBlock::new(*child));
    }
    extent::set_entries(bytes, children.len());
}

fn put(image: &Image, geo: &Geometry, block: u64, mut bytes: Vec<u8>, seed: u32) -> Result<()> {
    checksum::stamp(
        BlockKind::ExtentNode { seed },
        geo,
        FsBlock::new(block),
        &mut bytes,
    );
    image.write(block, bytes, Stage::Fresh)
}

fn write_pointers(
    image: &Image,
    geo: &Geometry,
    raw: &mut Raw,
    data: &[Run],
    space: &mut dyn Space,
) -> Result<Option<Vec<u64>>> {
    let mut meta = Vec::new();
    let mut slots = [0_u32; 15];
    let near = data.first().map_or(0, |run| run.pblk);
    for slot in 0..indirect::SLOTS {
        let start = indirect::slot_start(slot, geo.block_bits);
        let level = indirect::slot_level(slot);
        let part = Part {
            image,
            geo,
            data,
            near,
        };
        match part.tree(level, start, space, &mut meta)? {
            Some(block) => slots[slot as usize] = block,
            None => return Ok(None),
        }
    }
    raw.i_block_mut().fill(0);
    for (slot, block) in slots.iter().enumerate() {
        raw.set_pointer(slot, *block);
    }
    Ok(Some(meta))
}

struct Part<'a> {
    image: &'a Image,
    geo: &'a Geometry,
    data: &'a [Run],
    near: u64,
}

impl Part<'_> {
    /// The root of the tree over `span(level)` blocks from `start`; 0 when it would be empty.
    fn tree(
        &self,
        level: u32,
        start: u64,
        space: &mut dyn Space,
        meta: &mut Vec<u64>,
    ) -> Result<Option<u32>> {
        let end = start.saturating_add(indirect::span(level, self.geo.block_bits));
        let first = self.data.partition_point(|run| run.end() <= start);
        let Some(run) = self.data.get(first).filter(|run| run.lblk < end) else {
            return Ok(Some(0));
        };
        if level == 0 {
            return Ok(Some((run.pblk + (start - run.lblk)) as u32));
        }
        let Some(block) = space.block(self.near) else {
            return Ok(None);
        };
        meta.push(block);
        let mut bytes = vec![0; self.geo.block_size as usize];
        let span = indirect::span(level - 1, self.geo.block_bits);
        for index in 0..self.geo.block_size as usize / 4 {
            match self.tree(level - 1, start + span * index as u64, space, meta)? {
                Some(child) => indirect::set_pointer(&mut bytes, index, child),
                None => return Ok(None),
            }
        }
        self.image.write(block, bytes, Stage::Fresh)?;
        Ok(Some(block as u32))
    }
}

/// The runs without file blocks `from..to`.
pub fn without(map: &Map, from: u64, to: u64) -> Vec<Run> {
    let mut left = Vec::new();
    for run in &map.data {
        if run.lblk < from {
            let len = run.len.min(from - run.lblk);
            left.push(Run { len, ..*run });
        }
        if run.end() > to {
            let skip = to.saturating_sub(run.lblk);
            left.push(Run {
                lblk: run.lblk + skip,
                pblk: run.pblk + skip,
                len: run.len - skip,
                unwritten: run.unwritten,
            });
        }
    }
    left
}

/// Splices one run in; the file blocks must be free.
pub fn with(data: &[Run], new: Run) -> Vec<Run> {
    let mut map = Map::default();
    let at = data.partition_point(|run| run.lblk < new.lblk);
    for run in data[..at].iter().chain([&new]).chain(&data[at..]) {
        map.push(*run);
    }
    map.data
}

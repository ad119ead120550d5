//! The maps of the files that a new file system starts with: extents, or direct and indirect pointers.
//!
//! Source: the kernel's ext4 documentation, "Extent Tree", "Direct/Indirect Block Addressing".
//! Invariants: an extent tree has depth 0, or depth 1 with one leaf; extents are written ones.

use super::plan::{FilePlace, MapKind};
use super::space::Run;
use crate::format::raw::{put_le16, put_le32, split};

const MAGIC: u16 = 0xf30a;
const HEADER: usize = 12;
const ENTRY: usize = 12;
const DIRECT: u64 = 12;

/// A block of a map, without its checksum.
pub struct Node {
    pub block: u64,
    pub bytes: Vec<u8>,
}

/// `i_block` of the file.
pub fn root(place: &FilePlace, block_size: usize) -> [u8; 60] {
    match place.kind {
        MapKind::Extents => extent_root(place),
        MapKind::Pointers => pointers(place, block_size).0,
    }
}

/// The blocks of the map.
pub fn nodes(place: &FilePlace, block_size: usize) -> Vec<Node> {
    match place.kind {
        MapKind::Extents => place
            .map_blocks
            .iter()
            .map(|&block| {
                let mut bytes = vec![0u8; block_size];
                put_extents(&mut bytes, (block_size - HEADER) / ENTRY, &place.runs);
                Node { block, bytes }
            })
            .collect(),
        MapKind::Pointers => pointers(place, block_size).1,
    }
}

/// How many indirect blocks a file of `data` blocks needs.
pub fn indirect_blocks(data: u64, pointers: u64) -> u64 {
    let mut left = data.saturating_sub(DIRECT);
    let mut count = 0;
    let mut reach = pointers;
    while left > 0 {
        let here = left.min(reach);
        let mut below = pointers;
        while below <= reach {
            count += here.div_ceil(below);
            below *= pointers;
        }
        left -= here;
        reach *= pointers;
    }
    count
}

/// How many indirect blocks come before data block `index`, when blocks are taken in the order of use.
pub fn indirect_before(index: u64, pointers: u64) -> usize {
    let Some(mut at) = index.checked_sub(DIRECT) else {
        return 0;
    };
    let mut reach = pointers;
    for levels in 1..=3 {
        if at < reach {
            let mut below = reach;
            let mut count = 0;
            for _ in 0..levels {
                count += usize::from(at % below == 0);
                below /= pointers;
            }
            return count;
        }
        at -= reach;
        reach *= pointers;
    }
    0
}

fn extent_root(place: &FilePlace) -> [u8; 60] {
    let mut out = [0u8; 60];
    let max = (60 - HEADER) / ENTRY;
    match place.map_blocks.first() {
        None => put_extents(&mut out, max, &place.runs),
        Some(&leaf) => {
            put_header(&mut out, 1, max, 1);
            let (lo, hi) = split(leaf);
            put_le32(&mut out, HEADER + 4, lo); // ei_leaf_lo; ei_block is 0
            put_le16(&mut out, HEADER + 8, hi as u16);
        }
    }
    out
}

fn put_extents(out: &mut [u8], max: usize, runs: &[Run]) {
    put_header(out, runs.len(), max, 0);
    let mut logical = 0;
    for (index, run) in runs.iter().enumerate() {
        let at = HEADER + index * ENTRY;
        let (lo, hi) = split(run.start);
        put_le32(out, at, logical);
        put_le16(out, at + 4, run.len as u16);
        put_le16(out, at + 6, hi as u16);
        put_le32(out, at + 8, lo);
        logical += run.len as u32;
    }
}

fn put_header(out: &mut [u8], entries: usize, max: usize, depth: u16) {
    put_le16(out, 0, MAGIC);
    put_le16(out, 2, entries as u16);
    put_le16(out, 4, max as u16);
    put_le16(out, 6, depth);
}

/// `i_block` and the indirect blocks.
fn pointers(place: &FilePlace, block_size: usize) -> ([u8; 60], Vec<Node>) {
    let mut data = place.runs.iter().flat_map(|run| run.blocks()).peekable();
    let mut map = place.map_blocks.iter().copied();
    let mut out = [0u8; 60];
    let mut nodes = Vec::new();
    for slot in 0..15usize {
        let pointer = match slot.checked_sub(DIRECT as usize) {
            _ if data.peek().is_none() => None,
            None => data.next(),
            Some(level) => indirect(level, block_size, &mut data, &mut map, &mut nodes),
        };
        put_le32(&mut out, slot * 4, pointer.unwrap_or(0) as u32);
    }
    (out, nodes)
}

/// Fills one indirect block of pointers to data (level 0) or to indirect blocks of the level below.
fn indirect<D: Iterator<Item = u64>>(
    level: usize,
    block_size: usize,
    data: &mut std::iter::Peekable<D>,
    map: &mut dyn Iterator<Item = u64>,
    nodes: &mut Vec<Node>,
) -> Option<u64> {
    let block = map.next()?;
    let mut bytes = vec![0u8; block_size];
    for at in (0..block_size).step_by(4) {
        if data.peek().is_none() {
            break;
        }
        let pointer = match level.checked_sub(1) {
            None => data.next(),
            Some(below) => indirect(below, block_size, data, map, nodes),
        };
        put_le32(&mut bytes, at, pointer.unwrap_or(0) as u32);
    }
    nodes.push(Node { block, bytes });
    Some(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_indirect_block_is_used() {
        for data in [1, 12, 13, 268, 269, 524, 525, 65804, 65805, 70000] {
            let count = indirect_blocks(data, 256);
            let place = FilePlace {
                runs: vec![Run {
                    start: 1 << 20,
                    len: data,
                }],
                kind: MapKind::Pointers,
                map_blocks: (1..=count).collect(),
            };
            assert_eq!(nodes(&place, 1024).len() as u64, count, "{data}");
        }
        assert_eq!(indirect_blocks(12 + 256 + 1, 256), 3);
        for data in [12, 13, 268, 269, 525, 65804, 65805, 70000] {
            let before: usize = (0..data).map(|index| indirect_before(index, 256)).sum();
            assert_eq!(before as u64, indirect_blocks(data, 256), "{data}");
        }
    }
}

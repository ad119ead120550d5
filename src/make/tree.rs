//! Extent trees of the files that a new file system starts with.
//!
//! Source: the kernel's ext4 documentation, "Extent Tree".
//! Invariants: depth 0 in the inode, or depth 1 with one leaf; extents are written ones.

use super::plan::FilePlace;
use super::space::Run;
use crate::format::raw::{put_le16, put_le32, split};

const MAGIC: u16 = 0xf30a;
const HEADER: usize = 12;
const ENTRY: usize = 12;

/// `i_block` of the file.
pub fn root(place: &FilePlace) -> [u8; 60] {
    let mut out = [0u8; 60];
    match place.leaf {
        None => put_extents(&mut out, (60 - HEADER) / ENTRY, &place.runs),
        Some(leaf) => {
            put_header(&mut out, 1, (60 - HEADER) / ENTRY, 1);
            let (lo, hi) = split(leaf);
            put_le32(&mut out, HEADER + 4, lo); // ei_leaf_lo; ei_block is 0
            put_le16(&mut out, HEADER + 8, hi as u16);
        }
    }
    out
}

/// The leaf block, without its checksum.
pub fn leaf(place: &FilePlace, block_size: usize) -> Vec<u8> {
    let mut out = vec![0u8; block_size];
    put_extents(&mut out, (block_size - HEADER) / ENTRY, &place.runs);
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

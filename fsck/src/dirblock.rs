//! Entries of a directory block, raw: read and written without trust.
//!
//! Source: the kernel's ext4 documentation, "Directory Entries".
//! Invariants: lengths of 64 KiB blocks are decoded; nothing is read beyond the bytes.

use uext4::format::geometry::Geometry;
use uext4::format::raw::{le16, le32, put_le16, put_le32, u8_at};

pub const HEADER: usize = 8;
/// The false entry with the checksum at a block's end.
pub const TAIL: usize = 12;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub at: usize,
    pub ino: u32,
    pub rec_len: usize,
    pub file_type: u8,
    pub name: Vec<u8>,
}

pub fn size_of(name_len: usize) -> usize {
    (HEADER + name_len).next_multiple_of(4)
}

pub fn rec_len(bytes: &[u8], at: usize) -> usize {
    let stored = le16(bytes, at + 4);
    if bytes.len() > 0xffff && (stored == 0 || stored == 0xffff) {
        0x1_0000
    } else {
        usize::from(stored)
    }
}

pub fn set_rec_len(bytes: &mut [u8], at: usize, length: usize) {
    put_le16(bytes, at + 4, u16::try_from(length).unwrap_or(u16::MAX));
}

pub fn name_len(bytes: &[u8], at: usize) -> usize {
    usize::from(u8_at(bytes, at + 6))
}

pub fn file_type(bytes: &[u8], at: usize) -> u8 {
    u8_at(bytes, at + 7)
}

pub fn set_u8(bytes: &mut [u8], at: usize, value: u8) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte = value;
    }
}

pub fn ino(bytes: &[u8], at: usize) -> u32 {
    le32(bytes, at)
}

pub fn set_ino(bytes: &mut [u8], at: usize, ino: u32) {
    put_le32(bytes, at, ino);
}

pub fn name(bytes: &[u8], at: usize) -> Vec<u8> {
    let start = at + HEADER;
    bytes
        .get(start..start + name_len(bytes, at))
        .unwrap_or(&[])
        .to_vec()
}

/// Where entries end: before the checksum, with metadata_csum.
pub fn end(geo: &Geometry, block_size: usize) -> usize {
    if geo.features.metadata_csum() {
        block_size - TAIL
    } else {
        block_size
    }
}

pub fn has_tail(bytes: &[u8]) -> bool {
    let Some(at) = bytes.len().checked_sub(TAIL) else {
        return false;
    };
    le32(bytes, at) == 0 && le16(bytes, at + 4) == 12 && le16(bytes, at + 6) == 0xde00
}

pub fn put_tail(bytes: &mut [u8]) {
    let at = bytes.len() - TAIL;
    put_le32(bytes, at, 0);
    put_le16(bytes, at + 4, 12);
    put_le16(bytes, at + 6, 0xde00);
}

/// Writes an entry over whatever is there.
pub fn put(bytes: &mut [u8], at: usize, length: usize, ino: u32, file_type: u8, name: &[u8]) {
    set_ino(bytes, at, ino);
    set_rec_len(bytes, at, length);
    set_u8(bytes, at + 6, name.len() as u8);
    set_u8(bytes, at + 7, file_type);
    if let Some(place) = bytes.get_mut(at + HEADER..at + HEADER + name.len()) {
        place.copy_from_slice(name);
    }
}

/// A block without entries.
pub fn empty(geo: &Geometry) -> Vec<u8> {
    let size = geo.block_size as usize;
    let mut bytes = vec![0; size];
    set_rec_len(&mut bytes, 0, end(geo, size));
    if geo.features.metadata_csum() {
        put_tail(&mut bytes);
    }
    bytes
}

/// Live entries of a block whose lengths were checked.
pub fn entries(geo: &Geometry, bytes: &[u8]) -> Vec<Entry> {
    let mut all = Vec::new();
    let last = if has_tail(bytes) {
        end(geo, bytes.len())
    } else {
        bytes.len()
    };
    let mut at = 0;
    while at + HEADER <= last {
        let length = rec_len(bytes, at);
        if length < HEADER || at + length > bytes.len() {
            break;
        }
        if ino(bytes, at) != 0 {
            all.push(Entry {
                at,
                ino: ino(bytes, at),
                rec_len: length,
                file_type: file_type(bytes, at),
                name: name(bytes, at),
            });
        }
        at += length;
    }
    all
}

//! Checksums of metadata blocks: what a block is decides how its checksum is found, verified and stamped.
//!
//! Source: the kernel's ext4 documentation, "Checksums", "Directory Entries", "Extent Tree", "Orphan file".
//! Invariants: `verify` accepts exactly what `stamp` writes; without metadata_csum both do nothing.

use crate::error::{CorruptKind, Error, Location, Result, Structure};
use crate::format::geometry::Geometry;
use crate::format::raw::{le16, le32, put_le32, u8_at};
use crate::ids::FsBlock;

/// What a metadata block holds, as far as its checksum is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockKind {
    /// No checksum in the block itself: bitmaps, descriptors, inode tables, indirect blocks, symlinks, the superblock.
    Plain,
    /// An extent tree node; the seed is the inode's.
    ExtentNode { seed: u32 },
    /// A directory block, leaf or index (its contents tell); the seed is the inode's.
    Directory { seed: u32 },
    /// An extended attribute block (seeded by the file system and the block number).
    Xattr,
    /// A block of the orphan file; the seed is the inode's.
    OrphanFile { seed: u32 },
}

/// crc32c as ext4 uses it: no final inversion, `seed` is the running value.
pub fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    !::crc32c::crc32c_append(!seed, bytes)
}

/// crc16 of uninit_bg, `seed` is the running value (0xffff at the start).
pub fn crc16(seed: u16, bytes: &[u8]) -> u16 {
    const CRC: crc::Crc<u16> = crc::Crc::<u16>::new(&crc::CRC_16_MODBUS);
    // The algorithm reflects its bits, and so must the running value.
    let mut digest = CRC.digest_with_initial(seed.reverse_bits());
    digest.update(bytes);
    digest.finalize()
}

const XATTR_CSUM: usize = 0x10;
/// Inode 0, length 12, no name, file type 0xde: the false entry that holds a leaf's checksum.
const LEAF_TAIL: [u8; 8] = [0, 0, 0, 0, 12, 0, 0, 0xde];
const LEAF_TAIL_SIZE: usize = 12;
/// Where the index entries of a root begin (behind ".", ".." and the root's information), and of other nodes.
const ROOT_ENTRIES: usize = 0x20;
const NODE_ENTRIES: usize = 8;
const ORPHAN_TAIL_SIZE: usize = 8;

/// Where a block's checksum lies and what it must be; `None` where it has no room for one.
struct Found {
    at: usize,
    expected: u32,
}

/// Checks the block's own checksum.
pub fn verify(kind: BlockKind, geo: &Geometry, block: FsBlock, bytes: &[u8]) -> Result<()> {
    if !geo.features.metadata_csum() || kind == BlockKind::Plain {
        return Ok(());
    }
    let what = structure(kind, bytes);
    let fail = |kind| Err(Error::corrupt(kind, Location::block(block)));
    let Some(Found { at, expected }) = find(kind, geo, block, bytes) else {
        return fail(CorruptKind::Short { what });
    };
    let found = le32(bytes, at);
    if found == expected {
        Ok(())
    } else {
        fail(CorruptKind::Checksum {
            what,
            found,
            expected,
        })
    }
}

/// Writes the block's own checksum.
pub fn stamp(kind: BlockKind, geo: &Geometry, block: FsBlock, bytes: &mut [u8]) {
    if !geo.features.metadata_csum() {
        return;
    }
    if let Some(Found { at, expected }) = find(kind, geo, block, bytes) {
        put_le32(bytes, at, expected);
    }
}

/// The block bitmap's checksum for `GroupDesc::block_bitmap_csum` (over clusters_per_group / 8 bytes).
pub fn block_bitmap(geo: &Geometry, bitmap: &[u8]) -> u32 {
    bitmap_checksum(geo, bitmap, geo.clusters_per_group)
}

/// The inode bitmap's checksum for `GroupDesc::inode_bitmap_csum` (over inodes_per_group / 8 bytes).
pub fn inode_bitmap(geo: &Geometry, bitmap: &[u8]) -> u32 {
    bitmap_checksum(geo, bitmap, geo.inodes_per_group)
}

/// 32-byte descriptors hold only the lower half.
fn bitmap_checksum(geo: &Geometry, bitmap: &[u8], bits: u32) -> u32 {
    let length = usize::try_from(bits >> 3).unwrap_or(0);
    let crc = crc32c(geo.csum_seed, bitmap.get(..length).unwrap_or(bitmap));
    if geo.desc_size >= 64 {
        crc
    } else {
        crc & 0xffff
    }
}

fn find(kind: BlockKind, geo: &Geometry, block: FsBlock, bytes: &[u8]) -> Option<Found> {
    match kind {
        BlockKind::Plain => None,
        BlockKind::ExtentNode { seed } => {
            let max = usize::from(le16(bytes, 4));
            let at = max.checked_mul(12)?.checked_add(12)?;
            let body = bytes.get(..at)?;
            bytes.get(at..at.checked_add(4)?)?;
            Some(Found {
                at,
                expected: crc32c(seed, body),
            })
        }
        BlockKind::Directory { seed } => match index_entries(bytes) {
            Some(entries) => find_index(seed, bytes, entries),
            None => find_leaf(seed, bytes),
        },
        BlockKind::Xattr => {
            let mut crc = crc32c(geo.csum_seed, &block.get().to_le_bytes());
            crc = crc32c(crc, bytes.get(..XATTR_CSUM)?);
            crc = crc32c(crc, &[0; 4]);
            crc = crc32c(crc, bytes.get(XATTR_CSUM.checked_add(4)?..)?);
            Some(Found {
                at: XATTR_CSUM,
                expected: crc,
            })
        }
        BlockKind::OrphanFile { seed } => {
            let tail = bytes.len().checked_sub(ORPHAN_TAIL_SIZE)?;
            let crc = crc32c(crc32c(seed, &block.get().to_le_bytes()), bytes.get(..tail)?);
            Some(Found {
                at: tail.checked_add(4)?,
                expected: crc,
            })
        }
    }
}

/// The last 12 bytes, if they are the false entry of a leaf.
fn find_leaf(seed: u32, bytes: &[u8]) -> Option<Found> {
    let tail = bytes.len().checked_sub(LEAF_TAIL_SIZE)?;
    if bytes.get(tail..tail.checked_add(LEAF_TAIL.len())?)? != LEAF_TAIL {
        return None;
    }
    Some(Found {
        at: tail.checked_add(8)?,
        expected: crc32c(seed, bytes.get(..tail)?),
    })
}

/// Behind the entries that there is room for: reserved word and checksum. The used entries count, then the tail with
/// the checksum as zero.
fn find_index(seed: u32, bytes: &[u8], entries: usize) -> Option<Found> {
    let limit = usize::from(le16(bytes, entries));
    let count = usize::from(le16(bytes, entries.checked_add(2)?));
    let tail = limit.checked_mul(8)?.checked_add(entries)?;
    let used = count.checked_mul(8)?.checked_add(entries)?;
    bytes.get(tail..tail.checked_add(8)?)?;
    if count > limit {
        return None;
    }
    let mut crc = crc32c(seed, bytes.get(..used)?);
    crc = crc32c(crc, bytes.get(tail..tail.checked_add(4)?)?);
    crc = crc32c(crc, &[0; 4]);
    Some(Found {
        at: tail.checked_add(4)?,
        expected: crc,
    })
}

/// Where the index entries of a directory block begin; `None` for a leaf. A node's first entry spans the whole block; a
/// root's second entry, "..", spans the rest behind ".", and its information has length 8.
fn index_entries(bytes: &[u8]) -> Option<usize> {
    let first_len = rec_len(le16(bytes, 4), bytes.len());
    let is_fake = le32(bytes, 0) == 0 && u8_at(bytes, 6) == 0;
    if first_len == bytes.len() && is_fake && bytes.len() > NODE_ENTRIES {
        return plausible(bytes, NODE_ENTRIES);
    }
    let dotdot_len = rec_len(le16(bytes, 16), bytes.len());
    let is_root = first_len == 12
        && dotdot_len == bytes.len().checked_sub(12)?
        && le32(bytes, 0x18) == 0
        && u8_at(bytes, 0x1d) == 8;
    if is_root {
        plausible(bytes, ROOT_ENTRIES)
    } else {
        None
    }
}

/// An empty leaf looks like a node but for the limit of its entries.
fn plausible(bytes: &[u8], entries: usize) -> Option<usize> {
    let room = bytes
        .len()
        .checked_sub(entries)?
        .checked_sub(8)?
        .checked_div(8)?;
    (usize::from(le16(bytes, entries)) == room).then_some(entries)
}

/// An entry's length; 64 KiB blocks say 0 or 65535 for all of it.
fn rec_len(raw: u16, block_size: usize) -> usize {
    if block_size > 0xffff && (raw == 0 || raw == 0xffff) {
        block_size
    } else {
        usize::from(raw)
    }
}

fn structure(kind: BlockKind, bytes: &[u8]) -> Structure {
    match kind {
        BlockKind::Plain => Structure::InodeBitmap,
        BlockKind::ExtentNode { .. } => Structure::ExtentNode,
        BlockKind::Directory { .. } if index_entries(bytes).is_some() => Structure::DirectoryIndex,
        BlockKind::Directory { .. } => Structure::DirectoryBlock,
        BlockKind::Xattr => Structure::XattrBlock,
        BlockKind::OrphanFile { .. } => Structure::OrphanFile,
    }
}

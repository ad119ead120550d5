//! Checksums of metadata blocks: what a block is decides how its checksum is found, verified and stamped.
//!
//! Source: the kernel's ext4 documentation, "Checksums".
//! Invariants: `verify` accepts exactly what `stamp` writes; without metadata_csum both do nothing.

use crate::error::Result;
use crate::format::geometry::Geometry;
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
    let _ = (seed, bytes);
    todo!()
}

/// Checks the block's own checksum.
pub fn verify(kind: BlockKind, geo: &Geometry, block: FsBlock, bytes: &[u8]) -> Result<()> {
    let _ = (kind, geo, block, bytes);
    todo!()
}

/// Writes the block's own checksum.
pub fn stamp(kind: BlockKind, geo: &Geometry, block: FsBlock, bytes: &mut [u8]) {
    let _ = (kind, geo, block, bytes);
    todo!()
}

/// The block bitmap's checksum for `GroupDesc::block_bitmap_csum` (over clusters_per_group / 8 bytes).
pub fn block_bitmap(geo: &Geometry, bitmap: &[u8]) -> u32 {
    let _ = (geo, bitmap);
    todo!()
}

/// The inode bitmap's checksum for `GroupDesc::inode_bitmap_csum` (over inodes_per_group / 8 bytes).
pub fn inode_bitmap(geo: &Geometry, bitmap: &[u8]) -> u32 {
    let _ = (geo, bitmap);
    todo!()
}

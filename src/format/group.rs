//! The group descriptor, 32 or 64 bytes.
//!
//! Source: the kernel's ext4 documentation, "Block Group Descriptors".
//! Invariants: block numbers are range-checked when parsed; counts are at most the group's size.

use crate::error::Result;
use crate::format::geometry::Geometry;
use crate::ids::{FsBlock, GroupIndex};

pub mod flag {
    pub const INODE_UNINIT: u16 = 0x1;
    pub const BLOCK_UNINIT: u16 = 0x2;
    pub const INODE_ZEROED: u16 = 0x4;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupDesc {
    pub block_bitmap: FsBlock,
    pub inode_bitmap: FsBlock,
    pub inode_table: FsBlock,
    /// In clusters, as on disk.
    pub free_blocks: u32,
    pub free_inodes: u32,
    pub used_dirs: u32,
    pub flags: u16,
    pub block_bitmap_csum: u32,
    pub inode_bitmap_csum: u32,
    /// Inodes at the end of the table that were never used.
    pub itable_unused: u32,
}

impl GroupDesc {
    /// Parses and verifies one descriptor (`geo.desc_size` bytes).
    pub fn parse(bytes: &[u8], geo: &Geometry, group: GroupIndex) -> Result<Self> {
        let _ = (bytes, geo, group);
        todo!()
    }

    /// Writes the fields and stamps the checksum; other bytes survive.
    pub fn write_to(&self, bytes: &mut [u8], geo: &Geometry, group: GroupIndex) {
        let _ = (bytes, geo, group);
        todo!()
    }
}

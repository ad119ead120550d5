//! The group descriptor, 32 or 64 bytes.
//!
//! Source: the kernel's ext4 documentation, "Block Group Descriptors", "Checksums".
//! Invariants: block numbers are range-checked when parsed; counts are at most the group's size; `write_to` keeps
//! unknown fields.

use crate::error::{CorruptKind, Error, Location, Result, Structure};
use crate::format::checksum::{crc16, crc32c};
use crate::format::geometry::Geometry;
use crate::format::raw::{join, le16, le32, put_le16, put_le32, split};
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
    /// Of 32-byte descriptors only the low 16 bits.
    pub block_bitmap_csum: u32,
    pub inode_bitmap_csum: u32,
    /// Inodes at the end of the table that were never used.
    pub itable_unused: u32,
}

/// Bytes of a descriptor without the 64bit feature; what lies behind them holds the upper halves.
const SMALL: u32 = 32;
const CHECKSUM_AT: usize = 0x1e;

impl GroupDesc {
    /// Parses and verifies one descriptor (`geo.desc_size` bytes).
    pub fn parse(bytes: &[u8], geo: &Geometry, group: GroupIndex) -> Result<Self> {
        let what = Structure::GroupDescriptor;
        let fail = |kind| Error::corrupt(kind, Location::group(group));
        let size = usize::try_from(geo.desc_size).unwrap_or(0);
        let bytes = bytes
            .get(..size)
            .ok_or_else(|| fail(CorruptKind::Short { what }))?;
        if geo.features.group_csum() {
            let (found, expected) = (le16(bytes, CHECKSUM_AT), checksum(bytes, geo, group));
            if found != expected {
                let (found, expected) = (u32::from(found), u32::from(expected));
                return Err(fail(CorruptKind::Checksum {
                    what,
                    found,
                    expected,
                }));
            }
        }
        let wide = geo.desc_size > SMALL;
        let block = |lo: usize, hi: usize| -> Result<FsBlock> {
            let raw = join(le32(bytes, lo), if wide { le32(bytes, hi) } else { 0 });
            geo.fs_block(raw, what)
                .map_err(|error| error.located(Location::group(group)))
        };
        let count = |lo: usize, hi: usize| -> u32 {
            let hi = if wide { u32::from(le16(bytes, hi)) } else { 0 };
            u32::from(le16(bytes, lo)) | (hi << 16)
        };
        let inode_table = block(0x08, 0x28)?;
        geo.fs_run(inode_table.get(), u64::from(geo.itable_blocks), what)
            .map_err(|error| error.located(Location::group(group)))?;
        let desc = Self {
            block_bitmap: block(0x00, 0x20)?,
            inode_bitmap: block(0x04, 0x24)?,
            inode_table,
            free_blocks: count(0x0c, 0x2c),
            free_inodes: count(0x0e, 0x2e),
            used_dirs: count(0x10, 0x30),
            flags: if geo.features.group_csum() {
                le16(bytes, 0x12)
            } else {
                0
            },
            block_bitmap_csum: count(0x18, 0x38),
            inode_bitmap_csum: count(0x1a, 0x3a),
            itable_unused: if geo.features.group_csum() {
                count(0x1c, 0x32)
            } else {
                0
            },
        };
        let bounds = [
            (
                "bg_free_blocks_count",
                desc.free_blocks,
                geo.clusters_per_group,
            ),
            (
                "bg_free_inodes_count",
                desc.free_inodes,
                geo.inodes_per_group,
            ),
            ("bg_used_dirs_count", desc.used_dirs, geo.inodes_per_group),
            ("bg_itable_unused", desc.itable_unused, geo.inodes_per_group),
        ];
        for (field, found, most) in bounds {
            if found > most {
                return Err(fail(CorruptKind::Field {
                    what,
                    field,
                    found: u64::from(found),
                }));
            }
        }
        Ok(desc)
    }

    /// Writes the fields and stamps the checksum; other bytes survive.
    pub fn write_to(&self, bytes: &mut [u8], geo: &Geometry, group: GroupIndex) {
        let wide = geo.desc_size > SMALL;
        let blocks = [
            (self.block_bitmap, 0x00, 0x20),
            (self.inode_bitmap, 0x04, 0x24),
            (self.inode_table, 0x08, 0x28),
        ];
        for (block, lo_at, hi_at) in blocks {
            let (lo, hi) = split(block.get());
            put_le32(bytes, lo_at, lo);
            if wide {
                put_le32(bytes, hi_at, hi);
            }
        }
        let mut counts = vec_of_counts(self);
        if !geo.features.group_csum() {
            counts.truncate(3);
        } else if !geo.features.metadata_csum() {
            counts.retain(|&(_, lo_at, _)| lo_at != 0x18 && lo_at != 0x1a);
        }
        for (count, lo_at, hi_at) in counts {
            let [a, b, c, d] = count.to_le_bytes();
            put_le16(bytes, lo_at, u16::from_le_bytes([a, b]));
            if wide {
                put_le16(bytes, hi_at, u16::from_le_bytes([c, d]));
            }
        }
        if geo.features.group_csum() {
            put_le16(bytes, 0x12, self.flags);
            let checksum = checksum(bytes, geo, group);
            put_le16(bytes, CHECKSUM_AT, checksum);
        }
    }

    pub fn has_flag(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// The counts and where their halves lie.
fn vec_of_counts(desc: &GroupDesc) -> Vec<(u32, usize, usize)> {
    vec![
        (desc.free_blocks, 0x0c, 0x2c),
        (desc.free_inodes, 0x0e, 0x2e),
        (desc.used_dirs, 0x10, 0x30),
        (desc.block_bitmap_csum, 0x18, 0x38),
        (desc.inode_bitmap_csum, 0x1a, 0x3a),
        (desc.itable_unused, 0x1c, 0x32),
    ]
}

/// crc32c's low 16 bits with metadata_csum, else crc16; the stored checksum counts as zero, or is left out.
fn checksum(bytes: &[u8], geo: &Geometry, group: GroupIndex) -> u16 {
    let size = usize::try_from(geo.desc_size).unwrap_or(0).min(bytes.len());
    let number = group.get().to_le_bytes();
    let head = bytes.get(..CHECKSUM_AT).unwrap_or(&[]);
    let tail = bytes
        .get(CHECKSUM_AT.saturating_add(2)..size)
        .unwrap_or(&[]);
    if geo.features.metadata_csum() {
        let crc = crc32c(crc32c(geo.csum_seed, &number), head);
        let [a, b, _, _] = crc32c(crc32c(crc, &[0, 0]), tail).to_le_bytes();
        u16::from_le_bytes([a, b])
    } else {
        let crc = crc16(crc16(crc16(0xffff, &geo.uuid), &number), head);
        crc16(crc, tail)
    }
}

//! Group descriptors without trust: every field as it is on disk.
//!
//! Source: the kernel's ext4 documentation, "Block Group Descriptors".
//! Invariants: fields that have no name here survive; the checksum is stamped by `store`.

use crate::Result;
use crate::image::{Image, Stage};
use uext4::format::geometry::Geometry;
use uext4::format::group::GroupDesc;
use uext4::format::raw::{join, le16, le32, put_le16};
use uext4::ids::{FsBlock, GroupIndex};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub block_bitmap: u64,
    pub inode_bitmap: u64,
    pub inode_table: u64,
    pub free_blocks: u32,
    pub free_inodes: u32,
    pub used_dirs: u32,
    /// As on disk, whatever the features say.
    pub flags: u16,
    pub block_bitmap_csum: u32,
    pub inode_bitmap_csum: u32,
    pub itable_unused: u32,
    raw: Vec<u8>,
}

const FLAGS_AT: usize = 0x12;
const UNUSED_AT: usize = 0x1c;
const CHECKSUM_AT: usize = 0x1e;

impl Group {
    fn parse(raw: &[u8]) -> Self {
        let wide = raw.len() > 32;
        let block = |lo, hi| join(le32(raw, lo), if wide { le32(raw, hi) } else { 0 });
        let count = |lo, hi| {
            u32::from(le16(raw, lo)) | (if wide { u32::from(le16(raw, hi)) } else { 0 } << 16)
        };
        Self {
            block_bitmap: block(0x00, 0x20),
            inode_bitmap: block(0x04, 0x24),
            inode_table: block(0x08, 0x28),
            free_blocks: count(0x0c, 0x2c),
            free_inodes: count(0x0e, 0x2e),
            used_dirs: count(0x10, 0x30),
            flags: le16(raw, FLAGS_AT),
            block_bitmap_csum: count(0x18, 0x38),
            inode_bitmap_csum: count(0x1a, 0x3a),
            itable_unused: count(0x1c, 0x32),
            raw: raw.to_vec(),
        }
    }

    fn desc(&self) -> GroupDesc {
        GroupDesc {
            block_bitmap: FsBlock::new(self.block_bitmap),
            inode_bitmap: FsBlock::new(self.inode_bitmap),
            inode_table: FsBlock::new(self.inode_table),
            free_blocks: self.free_blocks,
            free_inodes: self.free_inodes,
            used_dirs: self.used_dirs,
            flags: self.flags,
            block_bitmap_csum: self.block_bitmap_csum,
            inode_bitmap_csum: self.inode_bitmap_csum,
            itable_unused: self.itable_unused,
        }
    }

    fn to_bytes(&self, geo: &Geometry, group: u32) -> Vec<u8> {
        let mut bytes = self.raw.clone();
        put_le16(&mut bytes, FLAGS_AT, self.flags);
        put_le16(&mut bytes, UNUSED_AT, self.itable_unused as u16);
        self.desc()
            .write_to(&mut bytes, geo, GroupIndex::new(group));
        bytes
    }

    /// The checksum as it is and as it should be.
    pub fn checksums(&self, geo: &Geometry, group: u32) -> (u16, u16) {
        if !geo.features.group_csum() {
            return (0, 0);
        }
        let expected = le16(&self.to_bytes(geo, group), CHECKSUM_AT);
        (le16(&self.raw, CHECKSUM_AT), expected)
    }

    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// All descriptors of the primary table.
pub fn load(image: &Image, geo: &Geometry) -> Result<Vec<Group>> {
    let mut groups = Vec::new();
    let size = geo.desc_size as usize;
    for index in 0..geo.group_count {
        let (block, at) = geo.desc_location(GroupIndex::new(index));
        let bytes = image.read(block.get())?;
        groups.push(Group::parse(bytes.get(at..at + size).unwrap_or(&[])));
    }
    Ok(groups)
}

/// All descriptors from the copy behind the superblock of another group; meta groups are read at their own place.
pub fn load_copy(image: &Image, geo: &Geometry, superblock: u64) -> Result<Vec<Group>> {
    let mut groups = Vec::new();
    let size = geo.desc_size as usize;
    let per_block = geo.descs_per_block.max(1);
    for index in 0..geo.group_count {
        let (primary, at) = geo.desc_location(GroupIndex::new(index));
        let table = index / per_block;
        let is_meta = geo
            .features
            .has_incompat(uext4::format::features::incompat::META_BG)
            && table >= geo.first_meta_bg;
        let block = if is_meta {
            geo.desc_copies(table)
                .next()
                .map_or(primary.get(), FsBlock::get)
        } else {
            superblock + 1 + u64::from(table)
        };
        if block >= geo.blocks_count {
            groups.push(Group::parse(&vec![0; size]));
            continue;
        }
        let bytes = image.read(block)?;
        groups.push(Group::parse(bytes.get(at..at + size).unwrap_or(&[])));
    }
    Ok(groups)
}

/// Writes those that changed, and with `copies` the backups too.
pub fn store(image: &Image, geo: &Geometry, groups: &[Group], copies: bool) -> Result<()> {
    let per_block = geo.descs_per_block.max(1);
    for (table, chunk) in groups.chunks(per_block as usize).enumerate() {
        let table = table as u32;
        let (block, _) = geo.desc_location(GroupIndex::new(table * per_block));
        let mut bytes = image.read(block.get())?.to_vec();
        for (index, group) in chunk.iter().enumerate() {
            let number = table * per_block + index as u32;
            let (_, at) = geo.desc_location(GroupIndex::new(number));
            let new = group.to_bytes(geo, number);
            bytes[at..at + new.len()].copy_from_slice(&new);
        }
        image.write(block.get(), bytes.clone(), Stage::Summary)?;
        if copies {
            for copy in geo.desc_copies(table) {
                if copy.get() < geo.blocks_count {
                    image.write(copy.get(), bytes.clone(), Stage::Summary)?;
                }
            }
        }
    }
    Ok(())
}

//! Group descriptors without trust: every field as it is on disk.
//!
//! Source: the kernel's ext4 documentation, "Block Group Descriptors".
//! Invariants: fields that have no name here survive; the checksum is stamped by `store`, and until then is the one that
//! was read; a block of descriptors is a page, so that those of a large volume need not stay in memory.

use crate::Result;
use crate::image::{Image, Stage};
use crate::pages::{Page, Pages};
use crate::spill::Spill;
use std::sync::Arc;
use uext4::format::features::incompat;
use uext4::format::geometry::Geometry;
use uext4::format::group::GroupDesc;
use uext4::format::raw::{join, le16, le32, put_le16};
use uext4::ids::{FsBlock, GroupIndex};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
}

const FLAGS_AT: usize = 0x12;
const UNUSED_AT: usize = 0x1c;
const CHECKSUM_AT: usize = 0x1e;

impl Group {
    fn parse(raw: &[u8]) -> Self {
        let wide = raw.len() > 32;
        let count = |lo, hi| {
            u32::from(le16(raw, lo)) | (if wide { u32::from(le16(raw, hi)) } else { 0 } << 16)
        };
        Self {
            block_bitmap: block_at(raw, 0x00, 0x20),
            inode_bitmap: block_at(raw, 0x04, 0x24),
            inode_table: block_at(raw, 0x08, 0x28),
            free_blocks: count(0x0c, 0x2c),
            free_inodes: count(0x0e, 0x2e),
            used_dirs: count(0x10, 0x30),
            flags: le16(raw, FLAGS_AT),
            block_bitmap_csum: count(0x18, 0x38),
            inode_bitmap_csum: count(0x1a, 0x3a),
            itable_unused: count(0x1c, 0x32),
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

    /// Puts the fields into a descriptor, and its checksum.
    fn stamp(&self, raw: &mut [u8], geo: &Geometry, group: u32) {
        put_le16(raw, FLAGS_AT, self.flags);
        put_le16(raw, UNUSED_AT, self.itable_unused as u16);
        self.desc().write_to(raw, geo, GroupIndex::new(group));
    }

    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

fn block_at(raw: &[u8], lo: usize, hi: usize) -> u64 {
    let high = if raw.len() > 32 { le32(raw, hi) } else { 0 };
    join(le32(raw, lo), high)
}

/// A block of descriptors.
struct Table(Box<[u8]>);

impl Page for Table {
    fn memory(&self) -> usize {
        size_of::<Self>() + self.0.len()
    }

    fn store(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.0);
    }

    fn load(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

/// The descriptors of a volume. Those that a failed spill file keeps are zero.
pub struct Groups {
    tables: Pages<Table>,
    count: u32,
    size: usize,
    per_block: u32,
}

impl Groups {
    fn new(geo: &Geometry, spill: &Arc<Spill>) -> Self {
        Self {
            tables: Pages::new(spill),
            count: geo.group_count,
            size: geo.desc_size as usize,
            per_block: geo.descs_per_block.max(1),
        }
    }

    /// All descriptors of the primary table.
    pub fn load(image: &Image, geo: &Geometry) -> Result<Self> {
        let mut groups = Self::new(geo, image.spill());
        for table in 0..groups.table_count() {
            groups.add(table, &image.read(place(geo, table))?);
        }
        Ok(groups)
    }

    /// Those of the first block alone, among them that of the first inodes' group.
    pub fn load_first(image: &Image, geo: &Geometry) -> Result<Self> {
        let mut groups = Self::new(geo, image.spill());
        groups.count = groups.count.min(groups.per_block);
        groups.add(0, &image.read(place(geo, 0))?);
        Ok(groups)
    }

    /// Visits all descriptors of the primary table and keeps none.
    pub fn each(image: &Image, geo: &Geometry, mut visit: impl FnMut(Group)) -> Result<()> {
        let groups = Self::new(geo, image.spill());
        for table in 0..groups.table_count() {
            let block = image.read(place(geo, table))?;
            let left = groups.count - table * groups.per_block;
            let descriptors = block.chunks_exact(groups.size).take(left as usize);
            descriptors
                .take(groups.per_block as usize)
                .map(Group::parse)
                .for_each(&mut visit);
        }
        Ok(())
    }

    /// All descriptors from the copy behind the superblock of another group; meta groups are read at their own place.
    pub fn load_copy(image: &Image, geo: &Geometry, superblock: u64) -> Result<Self> {
        let mut groups = Self::new(geo, image.spill());
        let with_meta = geo.features.has_incompat(incompat::META_BG);
        for table in 0..groups.table_count() {
            let block = if with_meta && table >= geo.first_meta_bg {
                let copy = geo.desc_copies(table).next();
                copy.map_or(place(geo, table), FsBlock::get)
            } else {
                superblock + 1 + u64::from(table)
            };
            if block < geo.blocks_count {
                groups.add(table, &image.read(block)?);
            } else {
                groups.add(table, &vec![0; image.block_size()]);
            }
        }
        Ok(groups)
    }

    fn add(&mut self, table: u32, block: &[u8]) {
        self.tables
            .change(table as usize, || Table(block.into()), |_| ());
    }

    fn table_count(&self) -> u32 {
        self.count.div_ceil(self.per_block)
    }

    /// Which table a descriptor is in, and where.
    fn place(&self, index: u32) -> Option<(usize, std::ops::Range<usize>)> {
        let at = (index % self.per_block) as usize * self.size;
        let table = (index / self.per_block) as usize;
        (index < self.count).then_some((table, at..at + self.size))
    }

    fn with<R>(&self, index: u32, look: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let (table, range) = self.place(index)?;
        let found = self
            .tables
            .with(table, |table| table.0.get(range).map(look));
        found.flatten()
    }

    /// One that is not there is zero.
    pub fn get(&self, index: u32) -> Group {
        self.with(index, Group::parse).unwrap_or_default()
    }

    /// `get(index).inode_table`
    pub fn inode_table(&self, index: u32) -> Option<u64> {
        self.with(index, |raw| block_at(raw, 0x08, 0x28))
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, Group)> + '_ {
        (0..self.count).map(|index| (index, self.get(index)))
    }

    pub fn change(&mut self, geo: &Geometry, index: u32, change: impl FnOnce(&mut Group)) {
        let Some((table, range)) = self.place(index) else {
            return;
        };
        self.tables.change_old(table, |table| {
            let Some(raw) = table.0.get_mut(range) else {
                return;
            };
            let mut group = Group::parse(raw);
            change(&mut group);
            let sum = le16(raw, CHECKSUM_AT);
            group.stamp(raw, geo, index);
            put_le16(raw, CHECKSUM_AT, sum);
        });
    }

    /// The checksum as it is and as it should be.
    pub fn checksums(&self, geo: &Geometry, index: u32) -> (u16, u16) {
        if !geo.features.group_csum() {
            return (0, 0);
        }
        let both = self.with(index, |raw| {
            let mut stamped = raw.to_vec();
            Group::parse(raw).stamp(&mut stamped, geo, index);
            (le16(raw, CHECKSUM_AT), le16(&stamped, CHECKSUM_AT))
        });
        both.unwrap_or_default()
    }

    /// Writes those that changed, and with `copies` the backups too.
    pub fn store(&self, image: &Image, geo: &Geometry, copies: bool) -> Result<()> {
        for table in 0..self.table_count() {
            let block = place(geo, table);
            let mut bytes = image.read(block)?.to_vec();
            let first = table * self.per_block;
            let last = self.count.min(first.saturating_add(self.per_block));
            for (slot, index) in bytes.chunks_exact_mut(self.size).zip(first..last) {
                let found = self.with(index, |raw| {
                    slot.copy_from_slice(raw);
                    Group::parse(raw)
                });
                if let Some(group) = found {
                    group.stamp(slot, geo, index);
                }
            }
            if copies {
                for copy in geo.desc_copies(table) {
                    if copy.get() < geo.blocks_count {
                        image.write(copy.get(), bytes.clone(), Stage::Summary)?;
                    }
                }
            }
            image.write(block, bytes, Stage::Summary)?;
        }
        Ok(())
    }
}

/// The block of a table.
fn place(geo: &Geometry, table: u32) -> u64 {
    let first = table.saturating_mul(geo.descs_per_block.max(1));
    geo.desc_location(GroupIndex::new(first)).0.get()
}

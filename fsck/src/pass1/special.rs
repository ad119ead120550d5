//! The inodes of bad blocks and of blocks kept for growing.
//!
//! Source: the kernel's ext4 documentation, "Special inodes".
//! Invariants: both are looked at before everything else, since their blocks lie among the metadata.

use crate::Result;
use crate::alloc::{cluster_of, clusters_of};
use crate::image::Stage;
use crate::inode::Raw;
use crate::map::in_volume;
use crate::problem::{At, Problem};
use crate::session::Fsck;
use uext4::format::features::compat;
use uext4::format::inode::{flag, mode};
use uext4::format::raw::{le32, put_le32};
use uext4::ids::GroupIndex;

const BAD_BLOCKS: u32 = 1;
const RESIZE: u32 = 7;
/// The slot of the double-indirect block.
const DOUBLE: usize = 13;

impl Fsck<'_, '_> {
    pub fn check_bad_blocks(&mut self) -> Result<()> {
        let mut raw = self.read_inode(BAD_BLOCKS)?;
        if raw.is_zero() {
            return Ok(());
        }
        let times_and_checksums_aside = (0..15).all(|slot| raw.pointer(slot) == 0);
        let odd_flags = raw.flags() & !0x1ff != 0;
        let invalid = odd_flags || raw.mode() != 0 || raw.links() != 0 || raw.size_high() != 0;
        if invalid || raw.file_acl() != 0 {
            if self
                .report
                .fix(Problem::BadBlocksInvalid, At::ino(BAD_BLOCKS))?
            {
                raw.bytes.fill(0);
                self.write_inode(BAD_BLOCKS, &mut raw)?;
            }
            return Ok(());
        }
        if !raw.checksum_is_right(&self.geo, BAD_BLOCKS)
            && self
                .report
                .fix(Problem::InodeChecksum, At::ino(BAD_BLOCKS))?
        {
            self.write_inode(BAD_BLOCKS, &mut raw)?;
        }
        let time = raw.dtime();
        if (1..=self.geo.inodes_count).contains(&time)
            && self.report.fix(Problem::InUseDtime, At::ino(BAD_BLOCKS))?
        {
            raw.set_dtime(0);
            self.write_inode(BAD_BLOCKS, &mut raw)?;
        }
        if times_and_checksums_aside {
            return Ok(());
        }
        let mut as_file = raw.clone();
        as_file.set_mode(mode::REG);
        let map = crate::map::read(&self.image, &self.geo, &as_file)?;
        let mut drop = Vec::new();
        for run in &map.data {
            for (index, block) in (run.pblk..run.pblk + run.len).enumerate() {
                if self.is_primary(block) {
                    let at = At::new().block(block);
                    if self.report.fix(Problem::BadBlockPrimary, at)? {
                        drop.push(run.lblk + index as u64);
                    }
                } else {
                    self.relocate_off(block)?;
                    self.used.add(cluster_of(&self.geo, block), 1);
                }
            }
        }
        for block in &map.meta {
            self.used.add(cluster_of(&self.geo, *block), 1);
        }
        for lblk in drop {
            if lblk < 12 {
                raw.set_pointer(lblk as usize, 0);
                let left = raw
                    .sectors(&self.geo)
                    .saturating_sub(u64::from(self.geo.block_size >> 9));
                raw.set_sectors(&self.geo, left);
            }
        }
        self.write_inode(BAD_BLOCKS, &mut raw)
    }

    fn is_primary(&self, block: u64) -> bool {
        let first = self.geo.first_block(GroupIndex::new(0)).get();
        let base = u64::from(self.geo.base_meta_blocks(GroupIndex::new(0)));
        block < first + base.max(1)
    }

    pub fn check_resize_inode(&mut self) -> Result<()> {
        let has = self.geo.features.has_compat(compat::RESIZE_INODE);
        if !has {
            if self.geo.reserved_gdt_blocks != 0
                && self.report.fix(
                    Problem::ReservedWithoutResize,
                    At::new().found(self.geo.reserved_gdt_blocks.into()),
                )?
            {
                self.sb.set_s_reserved_gdt_blocks(0);
                self.geo.reserved_gdt_blocks = 0;
                return Err(crate::Stop::Restart);
            }
            return Ok(());
        }
        let raw = self.read_inode(RESIZE)?;
        let block = u64::from(raw.pointer(DOUBLE));
        let right = raw.checksum_is_right(&self.geo, RESIZE);
        let counted = raw.sectors(&self.geo) == self.sectors_of(self.resize_blocks());
        let plain = raw.is_reg() && raw.links() != 0 && raw.file_acl() == 0;
        let shape = right
            && plain
            && counted
            && raw.flags() & (flag::EXTENTS | flag::INLINE_DATA) == 0
            && raw.size() <= self.geo.max_file_size(false)
            && raw.size() >= self.resize_size()
            && in_volume(&self.geo, block, 1)
            && !self.zones.contains(cluster_of(&self.geo, block))
            && (0..15).all(|slot| (slot == DOUBLE) == (raw.pointer(slot) != 0));
        if shape && self.resize_blocks_are_right(block)? {
            let (first, count) = clusters_of(&self.geo, block, 1);
            self.zones.add(first, count);
            let twice = &mut self.twice;
            self.used.insert(first, count, |a, n| twice.add(a, n));
            return Ok(());
        }
        if self
            .report
            .fix(Problem::ResizeInodeInvalid, At::ino(RESIZE))?
        {
            self.give_up_resize(raw)?;
            return Err(crate::Stop::Restart);
        }
        Ok(())
    }

    /// Blocks that the inode counts: its own, those kept, and the copies of these.
    fn resize_blocks(&self) -> u64 {
        let copies = self
            .geo
            .groups()
            .skip(1)
            .filter(|group| self.geo.has_super(*group));
        let per_block = self.geo.block_size as usize / 4;
        let each = 1 + copies.take(per_block).count() as u64;
        1 + u64::from(self.geo.reserved_gdt_blocks) * each
    }

    /// Each of these blocks counts as a whole cluster.
    fn sectors_of(&self, blocks: u64) -> u64 {
        (blocks << self.geo.cluster_ratio_bits) * u64::from(self.geo.block_size >> 9)
    }

    /// The least size that reaches to the last block.
    fn resize_size(&self) -> u64 {
        let per_block = u64::from(self.geo.block_size / 4);
        let copies = self
            .geo
            .groups()
            .skip(1)
            .filter(|group| self.geo.has_super(*group));
        let copies = copies.take(per_block as usize).count() as u64;
        let last = self.resize_tables().into_iter().map(|(slot, _)| slot).max();
        let (Some(slot), Some(copy)) = (last, copies.checked_sub(1)) else {
            return 0;
        };
        let block = 12 + per_block * (1 + slot as u64) + copy;
        block * u64::from(self.geo.block_size)
    }

    fn resize_tables(&self) -> Vec<(usize, u64)> {
        let per_block = self.geo.block_size as usize / 4;
        let first = self.geo.super_block(GroupIndex::ZERO).get() + 1;
        (0..self.geo.reserved_gdt_blocks)
            .map(|index| {
                let table = u64::from(self.geo.desc_blocks) + u64::from(index);
                ((table as usize) % per_block, first + table)
            })
            .collect()
    }

    /// Every block kept for descriptors, with its copies, where the format wants it.
    fn resize_blocks_are_right(&self, block: u64) -> Result<bool> {
        let per_block = self.geo.block_size as usize / 4;
        let double = self.image.read(block)?;
        let tables = self.resize_tables();
        for slot in 0..per_block {
            let expected = tables
                .iter()
                .find(|(at, _)| *at == slot)
                .map_or(0, |(_, block)| *block);
            if u64::from(le32(&double, 4 * slot)) != expected {
                return Ok(false);
            }
        }
        for (_, table) in tables {
            let bytes = self.image.read(table)?;
            let groups = self
                .geo
                .groups()
                .skip(1)
                .filter(|group| self.geo.has_super(*group));
            for (slot, group) in groups.enumerate() {
                let offset = u64::from(group.get()) * u64::from(self.geo.blocks_per_group);
                if slot < per_block && u64::from(le32(&bytes, 4 * slot)) != table + offset {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Makes the inode anew in the place of the old one.
    fn give_up_resize(&mut self, old: Raw) -> Result<()> {
        let mut raw = Raw::zeroed(&self.geo);
        let block = u64::from(old.pointer(DOUBLE));
        let keep =
            in_volume(&self.geo, block, 1) && !self.zones.contains(cluster_of(&self.geo, block));
        let block = if keep {
            Some(block)
        } else {
            self.free_by_bitmap()?
        };
        let Some(block) = block else {
            self.sb
                .set_feature_compat(self.sb.features().compat & !compat::RESIZE_INODE);
            self.sb.set_s_reserved_gdt_blocks(0);
            self.geo.reserved_gdt_blocks = 0;
            self.geo.features = self.sb.features();
            return self.write_inode(RESIZE, &mut raw);
        };
        let per_block = self.geo.block_size as usize / 4;
        let mut double = vec![0; self.geo.block_size as usize];
        let mut blocks = 1_u64;
        for (slot, table) in self.resize_tables() {
            put_le32(&mut double, 4 * slot, table as u32);
            let mut bytes = vec![0; self.geo.block_size as usize];
            let groups = self
                .geo
                .groups()
                .skip(1)
                .filter(|group| self.geo.has_super(*group));
            blocks += 1;
            for (slot, group) in groups.enumerate().take(per_block) {
                let offset = u64::from(group.get()) * u64::from(self.geo.blocks_per_group);
                put_le32(&mut bytes, 4 * slot, (table + offset) as u32);
                blocks += 1;
            }
            self.image.write(table, bytes, Stage::Body)?;
        }
        self.image.write(block, double, Stage::Fresh)?;
        raw.set_mode(mode::REG | 0o600);
        raw.set_links(1);
        raw.set_pointer(DOUBLE, block as u32);
        let apb = per_block as u64;
        raw.set_size((12 + apb + apb * apb) * u64::from(self.geo.block_size));
        raw.set_sectors(&self.geo, self.sectors_of(blocks));
        let now = self.options.now as u32;
        for at in [0x08, 0x0c, 0x10] {
            raw.put32(at, now);
        }
        if self.geo.inode_size > 128 {
            raw.put16(0x80, self.geo.want_extra_isize as u16);
        }
        self.write_inode(RESIZE, &mut raw)
    }

    /// A block that the bitmaps on disk call free, and that is no metadata.
    fn free_by_bitmap(&self) -> Result<Option<u64>> {
        for (index, group) in self.groups.iter() {
            if !in_volume(&self.geo, group.block_bitmap, 1) {
                continue;
            }
            let bits = self.image.read(group.block_bitmap)?;
            let per = u64::from(self.geo.clusters_per_group);
            for bit in 0..self.geo.clusters_per_group {
                let cluster = u64::from(index) * per + u64::from(bit);
                if !uext4::format::bitmap::get(&bits, bit) && !self.zones.contains(cluster) {
                    let block = (cluster << self.geo.cluster_ratio_bits)
                        + u64::from(self.geo.first_data_block);
                    return Ok(in_volume(&self.geo, block, 1).then_some(block));
                }
            }
        }
        Ok(None)
    }
}

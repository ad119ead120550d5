//! Pass 5: bitmaps, counts, and the flags of groups.
//!
//! Source: the kernel's ext4 documentation, "Block and inode Bitmaps", "Block Group Descriptors".
//! Invariants: bitmaps are written as a whole from what the run found; a group that was never initialised stays so
//! while nothing in it is in use.

use crate::Result;
use crate::image::Stage;
use crate::problem::{At, Problem};
use crate::session::Fsck;
use uext4::format::bitmap;
use uext4::format::checksum;
use uext4::format::group::flag;
use uext4::ids::GroupIndex;

impl Fsck<'_, '_> {
    pub fn pass5(&mut self) -> Result<()> {
        let (mut free_clusters, mut free_inodes) = (0_u64, 0_u64);
        self.files = 0;
        for group in 0..self.geo.group_count {
            if group % 64 == 0 {
                self.report
                    .progress(5, group.into(), self.geo.group_count.into())?;
            }
            free_clusters += u64::from(self.block_bitmap(group)?);
            free_inodes += u64::from(self.inode_bitmap(group)?);
        }
        let all = u64::from(self.geo.group_count);
        self.report.progress(5, all, all)?;
        self.files = u64::from(self.geo.inodes_count).saturating_sub(free_inodes);
        let free_blocks = free_clusters << self.geo.cluster_ratio_bits;
        // The kernel writes the superblock's totals at unmount only, and believes the descriptors.
        let found = self.sb.s_free_blocks_count();
        let at = At::new().found(found).expected(free_blocks);
        if found != free_blocks && self.report.hint(Problem::FreeBlocks, at)? {
            self.sb.set_s_free_blocks_count(free_blocks);
        }
        let found = u64::from(self.sb.s_free_inodes_count());
        let at = At::new().found(found).expected(free_inodes);
        if found != free_inodes && self.report.hint(Problem::FreeInodes, at)? {
            self.sb.set_s_free_inodes_count(free_inodes as u32);
        }
        Ok(())
    }

    fn clusters_in(&self, group: u32) -> u32 {
        let blocks = self.geo.blocks_in_group(GroupIndex::new(group));
        blocks.div_ceil(1 << self.geo.cluster_ratio_bits)
    }

    /// Free clusters of the group.
    fn block_bitmap(&mut self, index: u32) -> Result<u32> {
        let clusters = self.clusters_in(index);
        let used = self.used.count(index, clusters);
        let free = clusters - used;
        let group = self.groups[index as usize].clone();
        let mut wanted = vec![0; self.geo.block_size as usize];
        for (from, to) in self.used.runs(index) {
            bitmap::fill(
                &mut wanted,
                from,
                to.min(clusters) - from.min(clusters),
                true,
            );
        }
        let end = self.geo.block_size * 8;
        bitmap::fill(&mut wanted, clusters, end - clusters, true);
        let uninit = self.geo.features.group_csum() && group.has(flag::BLOCK_UNINIT);
        if uninit && self.only_own_metadata(index) {
            self.group_counts(index, Some(free), None)?;
            return Ok(free);
        }
        let before = self.image.read(group.block_bitmap)?;
        let differ = |from: u32, to: u32| {
            (from..to).filter(|&bit| bitmap::get(&before, bit) != bitmap::get(&wanted, bit))
        };
        let (mut write, mut wrong) = (false, 0_u64);
        if uninit {
            write |= self.report.fix(Problem::UninitInUse, At::group(index))?;
            self.groups[index as usize].flags &= !flag::BLOCK_UNINIT;
        } else if *before != *wanted {
            wrong = differ(0, clusters).count() as u64;
            if let Some(first) = differ(0, clusters).next() {
                let cluster =
                    u64::from(index) * u64::from(self.geo.clusters_per_group) + u64::from(first);
                let block =
                    (cluster << self.geo.cluster_ratio_bits) + u64::from(self.geo.first_data_block);
                let at = At::group(index).found(wrong).block(block);
                write |= self.report.fix(Problem::BlockBitmap, at)?;
            } else if differ(clusters, end).next().is_some() {
                write |= self
                    .report
                    .fix(Problem::BlockBitmapPadding, At::group(index))?;
            }
        }
        let sum = checksum::block_bitmap(&self.geo, &wanted);
        if self.geo.features.metadata_csum() && sum != group.block_bitmap_csum {
            let silent = write || uninit;
            if silent
                || self
                    .report
                    .fix(Problem::BlockBitmapChecksum, At::group(index))?
            {
                self.groups[index as usize].block_bitmap_csum = sum;
            }
        }
        if write {
            self.image
                .write(group.block_bitmap, wanted, Stage::Bitmap)?;
        }
        let _ = wrong;
        self.group_counts(index, Some(free), None)?;
        Ok(free)
    }

    /// Whether nothing but the group's own metadata lies in it.
    fn only_own_metadata(&self, index: u32) -> bool {
        let zones = self.zones.count(index, self.geo.clusters_per_group);
        zones == self.used.count(index, self.geo.clusters_per_group)
    }

    /// Free inodes of the group.
    fn inode_bitmap(&mut self, index: u32) -> Result<u32> {
        let per_group = self.geo.inodes_per_group;
        let base = index * per_group;
        let mut wanted = vec![0; self.geo.block_size as usize];
        let (mut used, mut directories, mut last) = (0, 0, 0);
        for (ino, known) in self.inodes.of_group(index) {
            let bit = ino - 1 - base;
            bitmap::put(&mut wanted, bit, true);
            used += 1;
            directories += u32::from(known.file_type == 2);
            last = bit + 1;
        }
        let end = self.geo.block_size * 8;
        bitmap::fill(&mut wanted, per_group, end - per_group, true);
        let free = per_group - used;
        let group = self.groups[index as usize].clone();
        let sums = self.geo.features.group_csum();
        let uninit = sums && group.has(flag::INODE_UNINIT);
        if uninit && used == 0 {
            self.group_counts(index, None, Some((free, 0)))?;
            return Ok(free);
        }
        let before = self.image.read(group.inode_bitmap)?;
        let differ = |from: u32, to: u32| {
            (from..to).filter(|&bit| bitmap::get(&before, bit) != bitmap::get(&wanted, bit))
        };
        let mut write = false;
        if uninit {
            write |= self.report.fix(Problem::UninitInUse, At::group(index))?;
            self.groups[index as usize].flags &= !flag::INODE_UNINIT;
        } else if *before != *wanted {
            if let Some(first) = differ(0, per_group).next() {
                let wrong = differ(0, per_group).count() as u64;
                let at = At::group(index).found(wrong).target(base + first + 1);
                write |= self.report.fix(Problem::InodeBitmap, at)?;
            } else if differ(per_group, end).next().is_some() {
                write |= self
                    .report
                    .fix(Problem::InodeBitmapPadding, At::group(index))?;
            }
        }
        let sum = checksum::inode_bitmap(&self.geo, &wanted);
        if self.geo.features.metadata_csum() && sum != group.inode_bitmap_csum {
            let silent = write || uninit;
            if silent
                || self
                    .report
                    .fix(Problem::InodeBitmapChecksum, At::group(index))?
            {
                self.groups[index as usize].inode_bitmap_csum = sum;
            }
        }
        if write {
            self.image
                .write(group.inode_bitmap, wanted, Stage::Bitmap)?;
        }
        if sums && last > per_group.saturating_sub(group.itable_unused) {
            let at = At::group(index)
                .found(group.itable_unused.into())
                .expected((per_group - last).into());
            if self.report.fix(Problem::UnusedTooMany, at)? {
                self.groups[index as usize].itable_unused = per_group - last;
            }
        }
        self.group_counts(index, None, Some((free, directories)))?;
        Ok(free)
    }

    fn group_counts(
        &mut self,
        index: u32,
        clusters: Option<u32>,
        inodes: Option<(u32, u32)>,
    ) -> Result<()> {
        let group = self.groups[index as usize].clone();
        let mut wanted = Vec::new();
        if let Some(free) = clusters {
            wanted.push((Problem::GroupFreeBlocks, group.free_blocks, free));
        }
        if let Some((free, directories)) = inodes {
            wanted.push((Problem::GroupFreeInodes, group.free_inodes, free));
            wanted.push((Problem::GroupDirectories, group.used_dirs, directories));
        }
        for (problem, found, expected) in wanted {
            if found == expected {
                continue;
            }
            let at = At::group(index)
                .found(found.into())
                .expected(expected.into());
            if self.report.fix(problem, at)? {
                let group = &mut self.groups[index as usize];
                match problem {
                    Problem::GroupFreeBlocks => group.free_blocks = expected,
                    Problem::GroupFreeInodes => group.free_inodes = expected,
                    _ => group.used_dirs = expected,
                }
            }
        }
        Ok(())
    }
}

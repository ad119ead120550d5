//! Pass 5: bitmaps, counts, and the flags of groups.
//!
//! Source: the kernel's ext4 documentation, "Block and inode Bitmaps", "Block Group Descriptors".
//! Invariants: bitmaps are written as a whole from what the run found; a group that was never initialised stays so
//! while nothing in it is in use.

use crate::Result;
use crate::alloc::clusters_of;
use crate::image::Stage;
use crate::problem::{At, Problem};
use crate::session::Fsck;
use uext4::format::bitmap;
use uext4::format::checksum;
use uext4::format::group::flag;
use uext4::ids::GroupIndex;

/// Free clusters: as they are in the end, and as they were before the run's own moves.
#[derive(Clone, Copy, Default)]
struct Free {
    now: u64,
    before: u64,
}

impl Free {
    fn of(now: u32, before: u32) -> Self {
        Self {
            now: now.into(),
            before: before.into(),
        }
    }
}

impl Fsck<'_, '_> {
    pub fn pass5(&mut self) -> Result<()> {
        let mut free = Free::default();
        let mut free_inodes = 0_u64;
        self.files = 0;
        for group in 0..self.geo.group_count {
            if group % 64 == 0 {
                self.report
                    .progress(5, group.into(), self.geo.group_count.into())?;
            }
            let one = self.block_bitmap(group)?;
            free.now += one.now;
            free.before += one.before;
            free_inodes += u64::from(self.inode_bitmap(group)?);
        }
        let all = u64::from(self.geo.group_count);
        self.report.progress(5, all, all)?;
        self.files = u64::from(self.geo.inodes_count).saturating_sub(free_inodes);
        // The kernel writes the superblock's totals at unmount only, and believes the descriptors.
        let bits = self.geo.cluster_ratio_bits;
        let found = self.sb.s_free_blocks_count();
        let (before, now) = (free.before << bits, free.now << bits);
        let at = At::new().found(found).expected(before);
        if found == before || self.report.hint(Problem::FreeBlocks, at)? {
            self.sb.set_s_free_blocks_count(now);
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

    fn block_bitmap(&mut self, index: u32) -> Result<Free> {
        let clusters = self.clusters_in(index);
        let mut wanted = vec![0; self.geo.block_size as usize];
        for (from, to) in self.used.runs(index) {
            let (from, to) = (from.min(clusters), to.min(clusters));
            bitmap::fill(&mut wanted, from, to - from, true);
        }
        let now = clusters - bitmap::count(&wanted, clusters);
        let end = self.geo.block_size * 8;
        bitmap::fill(&mut wanted, clusters, end - clusters, true);
        let group = self.groups.get(index);
        let uninit = self.geo.features.group_csum() && group.has(flag::BLOCK_UNINIT);
        let moved = self.moved.runs(index);
        if uninit && moved.is_empty() && self.only_own_metadata(index) {
            let free = Free::of(now, now);
            self.group_clusters(index, free)?;
            return Ok(free);
        }
        let found = self.image.read(group.block_bitmap)?;
        // What the bitmap should say before the run's own moves.
        let mut expected = wanted.clone();
        for bit in moved.iter().flat_map(|&(from, to)| from..to.min(clusters)) {
            let value = !uninit && bitmap::get(&found, bit);
            bitmap::put(&mut expected, bit, value);
        }
        let free = Free::of(now, clusters - bitmap::count(&expected, clusters));
        let differ = |from: u32, to: u32| {
            (from..to).filter(|&bit| bitmap::get(&found, bit) != bitmap::get(&expected, bit))
        };
        let mut write = !moved.is_empty();
        if uninit {
            let only_moves = self.holds_own_metadata(index, &expected);
            write |= only_moves || self.report.fix(Problem::UninitInUse, At::group(index))?;
            self.change_group(index, |group| group.flags &= !flag::BLOCK_UNINIT);
        } else if *found != *expected {
            if let Some(first) = differ(0, clusters).next() {
                let wrong = differ(0, clusters).count() as u64;
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
                self.change_group(index, |group| group.block_bitmap_csum = sum);
            }
        }
        if write {
            self.image
                .write(group.block_bitmap, wanted, Stage::Bitmap)?;
        }
        self.group_clusters(index, free)?;
        Ok(free)
    }

    /// Whether a bitmap of the group has nothing in use but the group's own metadata.
    fn holds_own_metadata(&self, index: u32, bits: &[u8]) -> bool {
        let clusters = self.clusters_in(index);
        self.own_clusters(index) == bitmap::count(bits, clusters)
    }

    /// Whether nothing but the group's own metadata lies in it.
    fn only_own_metadata(&self, index: u32) -> bool {
        self.own_clusters(index) == self.used.count(index, self.geo.clusters_per_group)
    }

    /// Clusters in the group with its own metadata: what stands for its bitmap while it was never used. Another group's
    /// metadata, which flexible groups may have anywhere, is not among them.
    fn own_clusters(&self, index: u32) -> u32 {
        let group = self.groups.get(index);
        let base = self.geo.base_meta_blocks(GroupIndex::new(index));
        let start = self.geo.first_block(GroupIndex::new(index)).get();
        let places = [
            (start, u64::from(base)),
            (group.block_bitmap, 1),
            (group.inode_bitmap, 1),
            (group.inode_table, self.geo.itable_blocks.into()),
        ];
        let first = u64::from(index) * u64::from(self.geo.clusters_per_group);
        let end = first + u64::from(self.geo.clusters_per_group);
        let mut runs = places.map(|(block, count)| match (block, count) {
            (0, _) | (_, 0) => (end, end),
            (block, count) => {
                let (at, count) = clusters_of(&self.geo, block, count);
                (at.clamp(first, end), (at + count).clamp(first, end))
            }
        });
        runs.sort_unstable();
        let (mut sum, mut counted) = (0, first);
        for (from, to) in runs {
            sum += to.saturating_sub(from.max(counted));
            counted = counted.max(to);
        }
        sum as u32
    }

    /// Free inodes of the group.
    fn inode_bitmap(&mut self, index: u32) -> Result<u32> {
        let per_group = self.geo.inodes_per_group;
        let base = index * per_group;
        let mut wanted = vec![0; self.geo.block_size as usize];
        let in_use = self.inodes.fill_bitmap(index, &mut wanted);
        let (used, directories, last) = (in_use.inodes, in_use.directories, in_use.end);
        let end = self.geo.block_size * 8;
        bitmap::fill(&mut wanted, per_group, end - per_group, true);
        let free = per_group - used;
        let group = self.groups.get(index);
        let sums = self.geo.features.group_csum();
        let uninit = sums && group.has(flag::INODE_UNINIT);
        if uninit && used == 0 {
            self.group_inodes(index, free, 0)?;
            return Ok(free);
        }
        let before = self.image.read(group.inode_bitmap)?;
        let differ = |from: u32, to: u32| {
            (from..to).filter(|&bit| bitmap::get(&before, bit) != bitmap::get(&wanted, bit))
        };
        let mut write = false;
        if uninit {
            write |= self.report.fix(Problem::UninitInUse, At::group(index))?;
            self.change_group(index, |group| group.flags &= !flag::INODE_UNINIT);
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
                self.change_group(index, |group| group.inode_bitmap_csum = sum);
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
                self.change_group(index, |group| group.itable_unused = per_group - last);
            }
        }
        self.group_inodes(index, free, directories)?;
        Ok(free)
    }

    fn group_clusters(&mut self, index: u32, free: Free) -> Result<()> {
        let found = u64::from(self.groups.get(index).free_blocks);
        let at = At::group(index).found(found).expected(free.before);
        let right = found == free.before;
        if right && free.now == free.before {
            return Ok(());
        }
        if right || self.report.fix(Problem::GroupFreeBlocks, at)? {
            self.change_group(index, |group| group.free_blocks = free.now as u32);
        }
        Ok(())
    }

    fn group_inodes(&mut self, index: u32, free: u32, directories: u32) -> Result<()> {
        let group = self.groups.get(index);
        let wanted = [
            (Problem::GroupFreeInodes, group.free_inodes, free),
            (Problem::GroupDirectories, group.used_dirs, directories),
        ];
        for (problem, found, expected) in wanted {
            if found == expected {
                continue;
            }
            let at = At::group(index)
                .found(found.into())
                .expected(expected.into());
            if self.report.fix(problem, at)? {
                self.change_group(index, |group| match problem {
                    Problem::GroupFreeInodes => group.free_inodes = expected,
                    _ => group.used_dirs = expected,
                });
            }
        }
        Ok(())
    }
}

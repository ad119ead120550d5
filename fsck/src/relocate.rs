//! Where each group's bitmaps and inode table lie, and new places for those that cannot stay.
//!
//! Source: the kernel's ext4 documentation, "Block Group Descriptors", "Flexible block groups".
//! Invariants: a place of 0 stands for "to be found once pass 1 knows what is free"; bitmaps are written by pass 5, so
//! that only inode tables are copied.

use crate::alloc::{Free, clusters_of};
use crate::blockset::BlockSet;
use crate::groups::{Group, Groups};
use crate::image::Stage;
use crate::inodes::{Known, known};
use crate::map::in_volume;
use crate::problem::{At, Problem};
use crate::session::Fsck;
use crate::{Result, Stop};
use uext4::format::features::incompat;
use uext4::format::group::flag;
use uext4::ids::GroupIndex;

impl Fsck<'_, '_> {
    /// Checksums, flags and places of all descriptors; the copies are used where the originals are impossible.
    pub fn check_descriptors(&mut self, copy: Option<u64>) -> Result<()> {
        let wrong = self.impossible_group();
        let copies: Vec<u64> = self
            .geo
            .groups()
            .skip(1)
            .filter(|group| self.geo.has_super(*group))
            .map(|group| self.geo.first_block(group).get())
            .collect();
        if let Some(first) = wrong {
            for block in copy.into_iter().chain(copies) {
                let Ok(other) = Groups::load_copy(&self.image, &self.geo, block) else {
                    continue;
                };
                let mine = std::mem::replace(&mut self.groups, other);
                if self.impossible_group().is_none() {
                    let at = At::group(first).block(block);
                    if self.report.fix(Problem::DescriptorsBad, at)? {
                        self.copies = true;
                        self.forget_hints();
                        break;
                    }
                }
                self.groups = mine;
            }
        }
        self.check_each_descriptor()
    }

    fn forget_hints(&mut self) {
        for index in 0..self.geo.group_count {
            self.forget_hints_of(index);
        }
    }

    fn forget_hints_of(&mut self, index: u32) {
        self.change_group(index, |group| {
            group.flags &= flag::INODE_ZEROED;
            group.itable_unused = 0;
        });
    }

    /// A group whose metadata cannot lie where its descriptor says.
    fn impossible_group(&self) -> Option<u32> {
        let bad = |(index, group): (u32, Group)| {
            let good = self.may_lie(index, group.block_bitmap, 1)
                && self.may_lie(index, group.inode_bitmap, 1)
                && self.may_lie(index, group.inode_table, self.geo.itable_blocks.into());
            (!good).then_some(index)
        };
        let outside = self.groups.iter().find_map(bad);
        outside.or_else(|| self.group_on_a_table())
    }

    /// A group with an inode table on other metadata, or the other way round: no table can be given up.
    fn group_on_a_table(&self) -> Option<u32> {
        let table = u64::from(self.geo.itable_blocks);
        let mut tables = BlockSet::new(
            self.geo.blocks_per_group,
            self.geo.group_count,
            self.image.spill(),
        );
        let from_first = |block: u64| block.saturating_sub(self.geo.first_data_block.into());
        for (index, group) in self.groups.iter() {
            let mut on_another = false;
            tables.insert(from_first(group.inode_table), table, |_, _| {
                on_another = true
            });
            if on_another {
                return Some(index);
            }
        }
        let mut groups = self.groups.iter();
        let on_one = |(_, group): &(u32, Group)| {
            let bitmaps = [group.block_bitmap, group.inode_bitmap];
            bitmaps.iter().any(|at| tables.overlaps(from_first(*at), 1))
        };
        groups.find(on_one).map(|(index, _)| index)
    }

    /// Without flexible groups each group's metadata lies in the group itself.
    fn may_lie(&self, group: u32, block: u64, len: u64) -> bool {
        if !in_volume(&self.geo, block, len) {
            return false;
        }
        if self.geo.features.has_incompat(incompat::FLEX_BG) {
            return true;
        }
        let index = GroupIndex::new(group);
        let first = self.geo.first_block(index).get();
        block >= first && block + len <= first + u64::from(self.geo.blocks_in_group(index))
    }

    fn check_each_descriptor(&mut self) -> Result<()> {
        let with_sums = self.geo.features.group_csum();
        for index in 0..self.geo.group_count {
            let group = self.groups.get(index);
            let uninit = flag::INODE_UNINIT | flag::BLOCK_UNINIT;
            let (found, expected) = self.groups.checksums(&self.geo, index);
            if found != expected {
                let at = At::group(index)
                    .found(found.into())
                    .expected(expected.into());
                if self.report.fix(Problem::DescriptorChecksum, at)? {
                    self.forget_hints_of(index);
                }
            } else if !with_sums && (group.has(uninit) || group.itable_unused != 0) {
                if self
                    .report
                    .fix(Problem::UninitWithoutFeature, At::group(index))?
                {
                    self.change_group(index, |group| {
                        group.flags &= !uninit;
                        group.itable_unused = 0;
                    });
                }
            } else if with_sums && group.itable_unused > self.geo.inodes_per_group {
                let at = At::group(index).found(group.itable_unused.into());
                if self.report.fix(Problem::UnusedInodes, at)? {
                    self.change_group(index, |group| group.itable_unused = 0);
                }
            }
            self.check_places(index)?;
        }
        Ok(())
    }

    fn check_places(&mut self, index: u32) -> Result<()> {
        let group = self.groups.get(index);
        let table = u64::from(self.geo.itable_blocks);
        let damaged = index == 0 || {
            let (found, expected) = self.groups.checksums(&self.geo, index);
            found != expected
        };
        if damaged
            && self.may_lie(index, group.inode_table, table)
            && self.table_is_elsewhere(index)?
            && let Some(found) = self.find_table(index)?
            && found != group.inode_table
        {
            let at = At::group(index).block(group.inode_table);
            if self.report.fix(Problem::InodeTablePlace, at)? {
                self.change_group(index, |group| group.inode_table = found);
                self.copies = true;
            }
        }
        let group = self.groups.get(index);
        let places = [
            (Problem::BlockBitmapPlace, group.block_bitmap, 1),
            (Problem::InodeBitmapPlace, group.inode_bitmap, 1),
            (Problem::InodeTablePlace, group.inode_table, table),
        ];
        for (what, (problem, block, len)) in places.into_iter().enumerate() {
            if self.may_lie(index, block, len) {
                continue;
            }
            if !self.report.fix(problem, At::group(index).block(block))? {
                return Err(Stop::Unusable(format!("group {index} cannot be used")));
            }
            self.unplace(index, what);
            if what == 2
                && let Some(found) = self.find_table(index)?
            {
                self.change_group(index, |group| group.inode_table = found);
            }
        }
        Ok(())
    }

    fn unplace(&mut self, index: u32, what: usize) {
        self.change_group(index, |group| match what {
            0 => group.block_bitmap = 0,
            1 => group.inode_bitmap = 0,
            _ => group.inode_table = 0,
        });
        self.copies = true;
    }

    /// The file system's own blocks; those that lie on others get a new place later.
    pub fn mark_zones(&mut self) -> Result<()> {
        for group in self.geo.groups() {
            let count = u64::from(self.geo.base_meta_blocks(group));
            if count > 0 {
                let (first, count) =
                    clusters_of(&self.geo, self.geo.first_block(group).get(), count);
                self.zones.add(first, count);
            }
        }
        // Blocks before the first data block have no cluster; with blocks of 1 KiB that is the boot block.
        for index in 0..self.geo.group_count {
            let group = self.groups.get(index);
            let table = u64::from(self.geo.itable_blocks);
            let places = [
                (Problem::BlockBitmapConflict, group.block_bitmap, 1),
                (Problem::InodeBitmapConflict, group.inode_bitmap, 1),
                (Problem::InodeTableConflict, group.inode_table, table),
            ];
            for (what, (problem, block, len)) in places.into_iter().enumerate() {
                if block == 0 {
                    continue;
                }
                let mut conflict = false;
                let (first, count) = clusters_of(&self.geo, block, len);
                let single = self.geo.cluster_ratio_bits == 0;
                self.zones.insert(first, count, |_, _| conflict = single);
                if conflict
                    && what < 2
                    && self.report.fix(problem, At::group(index).block(block))?
                {
                    self.unplace(index, what);
                } else if conflict && what == 2 {
                    self.report.fix(problem, At::group(index).block(block))?;
                    return Err(Stop::Unusable(format!(
                        "the inode table of group {index} lies on other metadata"
                    )));
                }
            }
        }
        self.used.add_all(&self.zones);
        Ok(())
    }

    /// Moves a group's metadata off a block that the device cannot keep.
    pub fn relocate_off(&mut self, block: u64) -> Result<()> {
        for index in 0..self.geo.group_count {
            let group = self.groups.get(index);
            let at = At::group(index).block(block);
            if group.block_bitmap == block {
                if self.report.fix(Problem::BlockBitmapPlace, at)? {
                    self.unplace(index, 0);
                }
            } else if group.inode_bitmap == block {
                if self.report.fix(Problem::InodeBitmapPlace, at)? {
                    self.unplace(index, 1);
                }
            } else if block >= group.inode_table
                && block < group.inode_table + u64::from(self.geo.itable_blocks)
                && group.inode_table != 0
            {
                self.lose_inodes(index, block - group.inode_table);
            }
        }
        Ok(())
    }

    /// Inodes in a bad block cannot be used again.
    fn lose_inodes(&mut self, group: u32, block: u64) {
        let per_block = self.geo.inodes_per_block;
        let first = group * self.geo.inodes_per_group + block as u32 * per_block + 1;
        for ino in first..first + per_block {
            let known = Known {
                file_type: 1,
                flags: known::SPECIAL | known::BAD_PLACE,
                ..Known::default()
            };
            self.lost_inodes.insert(ino);
            self.inodes.set(ino, known);
        }
    }

    /// Finds new places, once it is known what is free.
    pub fn place_groups(&mut self) -> Result<()> {
        let mut again = false;
        for index in 0..self.geo.group_count {
            let near = self.geo.first_block(GroupIndex::new(index)).get();
            for what in 0..2 {
                let group = self.groups.get(index);
                let place = if what == 0 {
                    group.block_bitmap
                } else {
                    group.inode_bitmap
                };
                if place != 0 {
                    continue;
                }
                let Some(block) = self.free().cluster(near) else {
                    return Err(Stop::Unusable(format!(
                        "no space for a bitmap of group {index}"
                    )));
                };
                self.change_group(index, |group| match what {
                    0 => group.block_bitmap = block,
                    _ => group.inode_bitmap = block,
                });
                let (first, count) = clusters_of(&self.geo, block, 1);
                self.zones.add(first, count);
            }
            if self.groups.get(index).inode_table == 0 {
                self.place_table(index)?;
                again = true;
            }
        }
        if again { Err(Stop::Restart) } else { Ok(()) }
    }

    fn place_table(&mut self, index: u32) -> Result<()> {
        let count = u64::from(self.geo.itable_blocks);
        let near = self.geo.first_block(GroupIndex::new(index)).get();
        let found = free_run(&mut self.free(), near, count);
        let Some(block) = found else {
            return Err(Stop::Unusable(format!(
                "no space for the inode table of group {index}"
            )));
        };
        for at in block..block + count {
            self.image
                .write(at, vec![0; self.geo.block_size as usize], Stage::Fresh)?;
        }
        self.change_group(index, |group| group.inode_table = block);
        Ok(())
    }
}

/// `count` free blocks in a row, at or behind `near` first.
fn free_run(free: &mut Free<'_>, near: u64, count: u64) -> Option<u64> {
    let ends = [
        (near, free.geo.blocks_count),
        (u64::from(free.geo.first_data_block) + 1, near),
    ];
    for (from, to) in ends {
        let mut at = from.max(1);
        while at + count <= to {
            let (first, clusters) = clusters_of(free.geo, at, count);
            if !free.used.overlaps(first, clusters) {
                free.used.add(first, clusters);
                free.moved.add(first, clusters);
                return Some(at);
            }
            at += 1;
        }
    }
    None
}

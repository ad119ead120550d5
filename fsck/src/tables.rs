//! Inode tables that their descriptor does not lead to, found by the checksums of their inodes.
//!
//! Source: the kernel's ext4 documentation, "Block Group Descriptors", "Checksums": an inode's checksum covers its
//! number, so that a block of inodes shows which of a table it is.
//! Invariants: nothing is written; a place is given only when inodes of this very group are there.

use crate::Result;
use crate::inode::Raw;
use crate::map::in_volume;
use crate::session::Fsck;
use uext4::ids::GroupIndex;

/// Blocks that are read at once.
const READ: u64 = 256;

/// Inodes of a place whose checksums are right, and those in use whose are not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Score {
    right: u32,
    wrong: u32,
}

impl Fsck<'_, '_> {
    /// Whether there is something else than this group's inodes where its table should be.
    pub fn table_is_elsewhere(&self, group: u32) -> Result<bool> {
        let table = self.groups.get(group).inode_table;
        if !self.geo.features.metadata_csum() || !in_volume(&self.geo, table, 1) {
            return Ok(false);
        }
        let score = self.score(group, 0, &self.image.read(table)?);
        Ok(score.right == 0 && (score.wrong > 0 || group == 0))
    }

    /// The best place among the blocks of the group and of its flexible group.
    pub fn find_table(&self, group: u32) -> Result<Option<u64>> {
        if !self.geo.features.metadata_csum() {
            return Ok(None);
        }
        let size = 1_u64 << self.geo.log_groups_per_flex;
        let flex = u64::from(group) & !(size - 1);
        let last = (flex + size).min(u64::from(self.geo.group_count));
        let start = self
            .geo
            .first_block(GroupIndex::new(flex as u32))
            .get()
            .max(1);
        let end = if last == u64::from(self.geo.group_count) {
            self.geo.blocks_count
        } else {
            self.geo.first_block(GroupIndex::new(last as u32)).get()
        };
        let length = u64::from(self.geo.itable_blocks);
        let mut best: Option<(u32, u64)> = None;
        let mut at = start;
        let mut bytes = Vec::new();
        while at + length <= end {
            let count = READ.min(end - at);
            self.image.read_run(at, count as usize, &mut bytes)?;
            for (block, part) in (at..).zip(bytes.chunks(self.image.block_size())) {
                let first = self.score(group, 0, part);
                if first.right == 0 || first.wrong > first.right || !self.is_unclaimed(group, block)
                {
                    continue;
                }
                let whole = self.score_of_table(group, block)?;
                if best.is_none_or(|(right, _)| whole.right > right) {
                    best = Some((whole.right, block));
                }
            }
            at += count;
        }
        Ok(best.map(|(_, block)| block))
    }

    /// No other group has its metadata in the place of a table that would start here.
    fn is_unclaimed(&self, group: u32, block: u64) -> bool {
        let length = u64::from(self.geo.itable_blocks);
        let end = block + length;
        in_volume(&self.geo, block, length)
            && self.groups.iter().all(|(index, other)| {
                let table = other.inode_table;
                let apart = index == group || end <= table || table + length <= block;
                let bitmaps = [other.block_bitmap, other.inode_bitmap];
                apart && bitmaps.iter().all(|at| *at < block || *at >= end)
            })
    }

    fn score_of_table(&self, group: u32, start: u64) -> Result<Score> {
        let blocks = self.geo.itable_blocks;
        let mut bytes = Vec::new();
        self.image.read_run(start, blocks as usize, &mut bytes)?;
        let mut all = Score::default();
        for (index, part) in (0..).zip(bytes.chunks(self.image.block_size())) {
            let one = self.score(group, index, part);
            all.right += one.right;
            all.wrong += one.wrong;
        }
        Ok(all)
    }

    /// As block `index` of the group's table.
    fn score(&self, group: u32, index: u32, bytes: &[u8]) -> Score {
        let mut score = Score::default();
        let first = group * self.geo.inodes_per_group + index * self.geo.inodes_per_block + 1;
        for (ino, slot) in (first..).zip(bytes.chunks(self.geo.inode_size as usize)) {
            if slot.iter().all(|byte| *byte == 0) {
                continue;
            }
            let raw = Raw {
                bytes: slot.to_vec(),
            };
            match raw.checksum_is_right(&self.geo, ino) {
                true => score.right += 1,
                false => score.wrong += 1,
            }
        }
        score
    }
}

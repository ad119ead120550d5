//! The counts of a new file system, from its size and options.
//!
//! Source: the kernel's ext4 documentation, "Block Groups", "Super Block"; where it leaves a choice, mke2fs's.
//! Invariants: every group can hold its own metadata; inodes fill whole table blocks and come in eights.

use super::{MakeError, Options};
use crate::format::features::{Features, compat, incompat, ro_compat};

/// Blocks that the last group must have beyond its metadata, or it is left out.
const LAST_GROUP_SLACK: u64 = 50;
const FLEX_BITS: u32 = 4;
/// `bg_free_blocks_count` has 16 bits in a 32-byte descriptor.
const MAX_BLOCKS_PER_GROUP: u32 = 65528;
/// The file system may grow by this factor before it needs new descriptor blocks.
const GROWTH: u64 = 1024;
const MIN_JOURNAL_BLOCKS: u64 = 1024;
const MAX_JOURNAL_BLOCKS: u64 = 10_240_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbers {
    pub features: Features,
    pub block_size: u32,
    pub blocks_count: u64,
    pub reserved_blocks: u64,
    pub first_data_block: u32,
    pub blocks_per_group: u32,
    pub group_count: u32,
    pub inodes_count: u32,
    pub inodes_per_group: u32,
    pub inode_size: u32,
    /// Blocks of one group's inode table.
    pub itable_blocks: u32,
    pub desc_size: u32,
    pub desc_blocks: u32,
    pub reserved_gdt_blocks: u32,
    /// Blocks to which the volume can grow; `None`: by the usual factor.
    growth: Option<u64>,
    pub log_groups_per_flex: u32,
    /// log2 of the blocks in a cluster.
    pub cluster_bits: u32,
    /// `s_backup_bgs`.
    pub backup_groups: [u32; 2],
    /// Backups wanted with sparse_super2.
    backups: u32,
    /// Blocks on one disk of a RAID before the next; shifts bitmaps that are not in flex groups.
    pub stride: u32,
    /// 0 without a journal; with the area of fast commits.
    pub journal_blocks: u32,
    /// The journal's last blocks, for fast commits.
    pub fast_commit_blocks: u32,
    /// 0 without an orphan file.
    pub orphan_blocks: u32,
}

impl Numbers {
    pub fn new(options: &Options) -> Result<Self, MakeError> {
        options.check()?;
        let block_size = options.block_size();
        let mut features = options.features.resolve()?;
        let cluster_bits = (options.cluster_size() / block_size).trailing_zeros();
        let blocks = (options.size / u64::from(block_size)) >> cluster_bits << cluster_bits;
        check_limit(features, blocks)?;
        let log_blocks = journal_blocks(options, &mut features, blocks)?;
        let fast_commits = log_blocks > 0 && features.has_compat(compat::FAST_COMMIT);
        let fast_commit_blocks = match fast_commits {
            true => default_journal_blocks(blocks) / FAST_COMMIT_PART,
            false => 0,
        };
        let per_group = options.blocks_per_group.unwrap_or(block_size * 8);
        let bigalloc = features.has_ro_compat(ro_compat::BIGALLOC);
        let wide = features.has_incompat(incompat::BIT64);
        let log_groups_per_flex = options
            .groups_per_flex
            .map_or(FLEX_BITS, u32::trailing_zeros);
        let mut numbers = Self {
            features,
            block_size,
            blocks_count: blocks,
            reserved_blocks: 0,
            first_data_block: u32::from(block_size == 1024 && !bigalloc),
            blocks_per_group: per_group.min(MAX_BLOCKS_PER_GROUP) << cluster_bits,
            group_count: 0,
            inodes_count: wanted_inodes(options, blocks)?,
            inodes_per_group: 0,
            inode_size: options.inode_size(),
            itable_blocks: 0,
            desc_size: if wide { 64 } else { 32 },
            desc_blocks: 0,
            reserved_gdt_blocks: 0,
            growth: options.resize,
            log_groups_per_flex: if features.has_incompat(incompat::FLEX_BG) {
                log_groups_per_flex
            } else {
                0
            },
            cluster_bits,
            backup_groups: [0; 2],
            backups: options.backups,
            stride: options.stride.into(),
            journal_blocks: log_blocks.saturating_add(fast_commit_blocks),
            fast_commit_blocks,
            orphan_blocks: 0,
        };
        numbers.divide_into_groups(options.size)?;
        let reserved = u128::from(numbers.blocks_count) * u128::from(options.reserved) / 10_000;
        numbers.reserved_blocks = u64::try_from(reserved).unwrap_or(u64::MAX);
        if numbers.features.has_compat(compat::ORPHAN_FILE) {
            let by_size = || orphan_blocks(numbers.blocks_count);
            numbers.orphan_blocks = options.orphan_file_size.unwrap_or_else(by_size);
        }
        Ok(numbers)
    }

    pub fn descs_per_block(&self) -> u32 {
        self.block_size / self.desc_size
    }

    pub fn group_first_block(&self, group: u32) -> u64 {
        u64::from(self.first_data_block) + u64::from(group) * u64::from(self.blocks_per_group)
    }

    pub fn group_last_block(&self, group: u32) -> u64 {
        self.group_first_block(group) + self.group_blocks(group) - 1
    }

    pub fn group_blocks(&self, group: u32) -> u64 {
        (self.blocks_count - self.group_first_block(group)).min(self.blocks_per_group.into())
    }

    pub fn group_of(&self, block: u64) -> u32 {
        ((block - u64::from(self.first_data_block)) / u64::from(self.blocks_per_group)) as u32
    }

    fn meta_bg(&self) -> bool {
        self.features.has_incompat(incompat::META_BG)
    }

    /// Whether the group begins with a superblock.
    pub fn has_super(&self, group: u32) -> bool {
        if group == 0 {
            return true;
        }
        if self.features.has_compat(compat::SPARSE_SUPER2) {
            return self.backup_groups.contains(&group);
        }
        !self.features.has_ro_compat(ro_compat::SPARSE_SUPER) || is_sparse(group)
    }

    /// The block of the group's superblock. (With bigalloc the boot block of 1 KiB blocks is in the first group.)
    pub fn super_block(&self, group: u32) -> u64 {
        let boot = group == 0 && self.block_size == 1024 && self.first_data_block == 0;
        self.group_first_block(group) + u64::from(boot)
    }

    /// The descriptor blocks in the group: where they begin, and which of the table's.
    pub fn descriptors(&self, group: u32) -> Option<(u64, std::ops::Range<u32>)> {
        let has_super = self.has_super(group);
        let start = self.super_block(group) + u64::from(has_super);
        if !self.meta_bg() {
            return has_super.then_some((start, 0..self.desc_blocks));
        }
        let (table, place) = (
            group / self.descs_per_block(),
            group % self.descs_per_block(),
        );
        let holds = place <= 1 || place == self.descs_per_block() - 1;
        holds.then_some((start, table..table + 1))
    }

    /// Superblock, descriptors and reserved descriptors at the start of a group.
    pub fn base_meta_blocks(&self, group: u32) -> u64 {
        let has_super = self.has_super(group);
        let before = self.super_block(group) - self.group_first_block(group);
        let descriptors = self.descriptors(group).map_or(0, |(_, table)| table.len());
        let reserved = if has_super && !self.meta_bg() {
            self.reserved_gdt_blocks
        } else {
            0
        };
        before + u64::from(has_super) + descriptors as u64 + u64::from(reserved)
    }

    fn divide_into_groups(&mut self, size: u64) -> Result<(), MakeError> {
        loop {
            let usable = self
                .blocks_count
                .saturating_sub(self.first_data_block.into());
            if usable == 0 {
                return Err(MakeError::TooSmall(size));
            }
            let groups = usable.div_ceil(self.blocks_per_group.into());
            self.group_count = u32::try_from(groups)
                .map_err(|_| MakeError::Invalid(format!("{groups} block groups are too many")))?;
            self.choose_backups();
            self.desc_blocks = self.group_count.div_ceil(self.descs_per_block());
            self.reserved_gdt_blocks = self.growth_blocks()?;
            if self.reserved_gdt_blocks + self.desc_blocks > self.blocks_per_group / 4 * 3 {
                // A table that fills its group goes to the groups that it describes.
                self.features.incompat |= incompat::META_BG;
                self.features.compat &= !compat::RESIZE_INODE;
                self.reserved_gdt_blocks = 0;
            }
            self.divide_inodes()?;
            let table = if self.meta_bg() { 1 } else { self.desc_blocks };
            let overhead = 3 + table + self.itable_blocks + self.reserved_gdt_blocks;
            if overhead > self.blocks_per_group {
                return Err(MakeError::Invalid(format!(
                    "a group of {} blocks cannot hold its {overhead} blocks of metadata: fewer inodes or larger blocks",
                    self.blocks_per_group
                )));
            }
            let rest = usable % u64::from(self.blocks_per_group);
            let needed = self.last_group_needs();
            if self.group_count == 1 && rest != 0 && rest < needed {
                return Err(MakeError::TooSmall(size));
            }
            if rest == 0 || rest >= needed + LAST_GROUP_SLACK {
                return Ok(());
            }
            self.blocks_count -= rest;
        }
    }

    /// The metadata that the last group must have room for, with the whole descriptor table even under meta_bg.
    fn last_group_needs(&self) -> u64 {
        let base = if self.has_super(self.group_count - 1) {
            1 + u64::from(self.desc_blocks) + u64::from(self.reserved_gdt_blocks)
        } else {
            0
        };
        2 + u64::from(self.itable_blocks) + base
    }

    fn choose_backups(&mut self) {
        if !self.features.has_compat(compat::SPARSE_SUPER2) {
            return;
        }
        let last = self.group_count - 1;
        self.backup_groups = match (last, self.backups) {
            (0, _) | (_, 0) => [0, 0],
            (1, _) | (_, 1) => [1, 0],
            _ => [1, last],
        };
    }

    /// Descriptor blocks set aside so that the volume can grow.
    fn growth_blocks(&self) -> Result<u32, MakeError> {
        if !self.features.has_compat(compat::RESIZE_INODE) {
            return Ok(0);
        }
        let most = match self.growth {
            Some(blocks) if blocks <= self.blocks_count => {
                return Err(MakeError::Invalid(format!(
                    "resize={blocks}: must be more than the {} blocks that there are",
                    self.blocks_count
                )));
            }
            Some(blocks) => blocks,
            None => {
                let usual = self.blocks_count.saturating_mul(GROWTH);
                usual.min(u32::MAX.into()) - u64::from(self.first_data_block)
            }
        };
        let groups = most.div_ceil(self.blocks_per_group.into());
        let blocks = groups.div_ceil(self.descs_per_block().into());
        let blocks = blocks.saturating_sub(self.desc_blocks.into());
        Ok(blocks.min(u64::from(self.block_size / 4)) as u32)
    }

    fn divide_inodes(&mut self) -> Result<(), MakeError> {
        let per_block = self.block_size / self.inode_size;
        let mut per_group = self.inodes_count.div_ceil(self.group_count).max(16);
        let bitmap_bits = u64::from(self.block_size) * 8;
        if u64::from(per_group) > bitmap_bits {
            return Err(MakeError::Invalid(format!(
                "{} inodes are too many: {per_group} in each of {} groups, at most {bitmap_bits} fit",
                self.inodes_count, self.group_count
            )));
        }
        per_group = per_group.min((1 << 16) - per_block);
        loop {
            let filled = per_group.div_ceil(per_block) * per_block;
            let eights = (filled & !7).max(8);
            if u64::from(eights) * u64::from(self.group_count) <= u32::MAX.into() {
                self.inodes_per_group = eights;
                break;
            }
            per_group -= 1;
        }
        self.itable_blocks = (self.inodes_per_group * self.inode_size).div_ceil(self.block_size);
        self.inodes_count = self.inodes_per_group * self.group_count;
        Ok(())
    }
}

/// Whether sparse_super puts a superblock into a group other than the first: 1 and the powers of 3, 5 and 7.
fn is_sparse(group: u32) -> bool {
    let is_power_of = |base: u32| {
        let mut power = base;
        while power < group {
            match power.checked_mul(base) {
                Some(next) => power = next,
                None => return false,
            }
        }
        power == group
    };
    group == 1 || [3, 5, 7].into_iter().any(is_power_of)
}

fn check_limit(features: Features, blocks: u64) -> Result<(), MakeError> {
    let wide = incompat::BIT64 | incompat::EXTENTS;
    let limit = if features.incompat & wide == wide {
        1 << 48
    } else {
        u64::from(u32::MAX)
    };
    if blocks > limit {
        return Err(MakeError::Invalid(format!(
            "{blocks} blocks are too many, the limit is {limit}"
        )));
    }
    Ok(())
}

fn wanted_inodes(options: &Options, blocks: u64) -> Result<u32, MakeError> {
    let bytes = blocks * u64::from(options.block_size());
    let count = options
        .inodes
        .map_or(bytes / options.bytes_per_inode(), u64::from);
    if options.inodes.is_some() && count * u64::from(options.inode_size()) >= bytes {
        return Err(MakeError::Invalid(format!(
            "{count} inodes do not fit into {bytes} bytes"
        )));
    }
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Blocks of the smallest volume that has a journal by default.
const JOURNAL_VOLUME_MIN: u64 = 2048;
/// Fast commits have one block for so many of a journal of default size.
const FAST_COMMIT_PART: u32 = 64;

/// The log's size; a volume too small for one goes without, unless its size was asked for.
fn journal_blocks(
    options: &Options,
    features: &mut Features,
    blocks: u64,
) -> Result<u32, MakeError> {
    if !features.has_compat(compat::HAS_JOURNAL) {
        return match options.journal_size {
            Some(_) => Err(MakeError::Invalid("a journal size, but no journal".into())),
            None => Ok(0),
        };
    }
    if let Some(bytes) = options.journal_size {
        let wanted = bytes / u64::from(options.block_size());
        if !(MIN_JOURNAL_BLOCKS..=MAX_JOURNAL_BLOCKS).contains(&wanted) {
            return Err(MakeError::Invalid(format!(
                "a journal of {wanted} blocks: must be from {MIN_JOURNAL_BLOCKS} to {MAX_JOURNAL_BLOCKS}"
            )));
        }
        if wanted > blocks / 2 {
            return Err(MakeError::Invalid(format!(
                "a journal of {wanted} blocks is too large for {blocks} blocks"
            )));
        }
        return Ok(wanted as u32);
    }
    if blocks < JOURNAL_VOLUME_MIN {
        features.compat &= !(compat::HAS_JOURNAL | compat::ORPHAN_FILE);
    }
    Ok(default_journal_blocks(blocks))
}

fn default_journal_blocks(blocks: u64) -> u32 {
    match blocks {
        0..JOURNAL_VOLUME_MIN => 0,
        JOURNAL_VOLUME_MIN..0x8000 => 1024,
        0x8000..0x4_0000 => 4096,
        0x4_0000..0x8_0000 => 8192,
        0x8_0000..0x40_0000 => 16384,
        0x40_0000..0x80_0000 => 32768,
        0x80_0000..0x100_0000 => 65536,
        0x100_0000..0x200_0000 => 131_072,
        _ => 262_144,
    }
}

fn orphan_blocks(blocks: u64) -> u32 {
    (blocks / 4096).clamp(32, 512) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::time::Timestamp;

    fn numbers(size: u64) -> Numbers {
        Numbers::new(&Options::new(size, [1; 16], [2; 16], Timestamp::default())).unwrap()
    }

    #[test]
    fn counts_of_a_gibibyte() {
        let n = numbers(1 << 30);
        assert_eq!(
            (n.blocks_count, n.inodes_count, n.reserved_gdt_blocks),
            (262_144, 65536, 127)
        );
        assert_eq!(
            (n.journal_blocks, n.orphan_blocks, n.reserved_blocks),
            (8192, 64, 13107)
        );
    }

    #[test]
    fn counts_of_small_volumes() {
        let n = numbers(50 << 20);
        assert_eq!(
            (n.block_size, n.inodes_count, n.inodes_per_group),
            (1024, 12824, 1832)
        );
        let n = numbers(1536 << 10);
        assert_eq!(
            (n.journal_blocks, n.orphan_blocks, n.inodes_count),
            (0, 0, 192)
        );
    }

    #[test]
    fn backups_are_in_powers_of_three_five_and_seven() {
        let groups: Vec<u32> = (1..130).filter(|&group| is_sparse(group)).collect();
        assert_eq!(groups, [1, 3, 5, 7, 9, 25, 27, 49, 81, 125]);
        assert!(!is_sparse(u32::MAX));
    }
}

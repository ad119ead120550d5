//! The validated numbers of a file system, which every parser takes instead of the whole file system.
//!
//! Source: the kernel's ext4 documentation, "Blocks", "Block groups", "Flexible block groups", "Meta block groups".
//! Invariants: every number here has passed `Superblock::geometry`, so arithmetic with it cannot divide by
//! zero or leave 64 bits; `fs_block` is the only way from a number read from disk to an `FsBlock`.

use crate::error::{CorruptKind, Error, Location, Result, Structure};
use crate::format::features::{Features, compat, incompat, ro_compat};
use crate::ids::{BlockInGroup, FsBlock, GroupIndex, InodeNumber};

#[derive(Clone, Debug)]
pub struct Geometry {
    pub features: Features,
    /// Bytes: 1024 to 65536.
    pub block_size: u32,
    /// log2 of `block_size`.
    pub block_bits: u32,
    pub blocks_count: u64,
    pub first_data_block: u32,
    pub blocks_per_group: u32,
    /// log2 of the blocks in a cluster (0 without bigalloc).
    pub cluster_ratio_bits: u32,
    pub clusters_per_group: u32,
    pub inodes_count: u32,
    pub inodes_per_group: u32,
    pub group_count: u32,
    /// Bytes of a descriptor: 32 or 64 (or a larger power of two).
    pub desc_size: u32,
    pub descs_per_block: u32,
    /// Number of blocks that the whole descriptor table takes (without reserved ones).
    pub desc_blocks: u32,
    pub reserved_gdt_blocks: u32,
    pub first_meta_bg: u32,
    /// sparse_super2's two backup groups.
    pub backup_bgs: [u32; 2],
    pub inode_size: u32,
    pub inodes_per_block: u32,
    /// Blocks of one group's inode table.
    pub itable_blocks: u32,
    pub first_ino: u32,
    /// log2 of groups per flex group (0 without flex_bg).
    pub log_groups_per_flex: u32,
    pub want_extra_isize: u32,
    /// Seed of every metadata_csum checksum.
    pub csum_seed: u32,
    pub uuid: [u8; 16],
    pub hash_seed: [u32; 4],
    /// s_def_hash_version, 0 legacy, 1 half-MD4, 2 TEA.
    pub def_hash_version: u8,
    /// s_flags says that hashes treat characters as unsigned.
    pub hash_unsigned: bool,
    pub journal_inum: u32,
    pub orphan_file_inum: u32,
    pub quota_inums: [u32; 3],
}

impl Geometry {
    /// The only way from a number read from disk to a block: in range and not before `first_data_block`
    /// (block 0 is never valid here). `what` is the structure that holds the number.
    pub fn fs_block(&self, raw: u64, what: Structure) -> Result<FsBlock> {
        self.fs_run(raw, 1, what)
    }

    /// The same for a run of `len` blocks, checked as a whole.
    pub fn fs_run(&self, raw: u64, len: u64, what: Structure) -> Result<FsBlock> {
        let first = u64::from(self.first_data_block).max(1);
        match raw.checked_add(len) {
            Some(end) if raw >= first && end <= self.blocks_count => Ok(FsBlock::new(raw)),
            _ => {
                let kind = CorruptKind::BlockRange { what, block: raw };
                Err(Error::corrupt(kind, Location::default()))
            }
        }
    }

    pub fn group_of(&self, block: FsBlock) -> (GroupIndex, BlockInGroup) {
        let offset = block.get().saturating_sub(u64::from(self.first_data_block));
        let per_group = u64::from(self.blocks_per_group).max(1);
        let group = offset.checked_div(per_group).unwrap_or(0);
        let index = offset.checked_rem(per_group).unwrap_or(0);
        let narrow = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        (
            GroupIndex::new(narrow(group)),
            BlockInGroup::new(narrow(index)),
        )
    }

    pub fn block_at(&self, group: GroupIndex, index: BlockInGroup) -> FsBlock {
        FsBlock::new(
            self.first_block(group)
                .get()
                .saturating_add(u64::from(index.get())),
        )
    }

    pub fn first_block(&self, group: GroupIndex) -> FsBlock {
        let offset = u64::from(group.get()).saturating_mul(u64::from(self.blocks_per_group));
        FsBlock::new(offset.saturating_add(u64::from(self.first_data_block)))
    }

    /// Blocks in this group: fewer in the last one.
    pub fn blocks_in_group(&self, group: GroupIndex) -> u32 {
        let left = self
            .blocks_count
            .saturating_sub(self.first_block(group).get());
        u32::try_from(left)
            .unwrap_or(u32::MAX)
            .min(self.blocks_per_group)
    }

    /// Where a group's descriptor lies in the primary table: block and byte offset in it.
    pub fn desc_location(&self, group: GroupIndex) -> (FsBlock, usize) {
        let per_block = self.descs_per_block.max(1);
        let table = group.get().checked_div(per_block).unwrap_or(0);
        let index = group.get().checked_rem(per_block).unwrap_or(0);
        let at = usize::try_from(index.saturating_mul(self.desc_size)).unwrap_or(0);
        let block = if self.is_meta_bg(table) {
            let first = GroupIndex::new(table.saturating_mul(per_block));
            self.super_block(first)
                .get()
                .saturating_add(u64::from(self.has_super(first)))
        } else {
            self.super_block(GroupIndex::ZERO)
                .get()
                .saturating_add(1)
                .saturating_add(u64::from(table))
        };
        (FsBlock::new(block), at)
    }

    /// Where the copies of descriptor block `table` lie, the primary one left out.
    pub fn desc_copies(&self, table: u32) -> impl Iterator<Item = FsBlock> + '_ {
        let meta = self.is_meta_bg(table);
        let first = table.saturating_mul(self.descs_per_block);
        let last = first.saturating_add(self.descs_per_block.saturating_sub(1));
        // A meta group has its copies in its second and in its last group, whether or not these have a superblock.
        let groups = if meta {
            first..=last
        } else {
            1..=self.group_count
        };
        groups
            .filter(move |&group| match meta {
                true => group == first.saturating_add(1) || group == last && group > first,
                false => self.has_super(GroupIndex::new(group)),
            })
            .filter(|&group| group < self.group_count)
            .map(move |group| {
                let group = GroupIndex::new(group);
                let behind = match meta {
                    true => u64::from(self.has_super(group)),
                    false => u64::from(table).saturating_add(1),
                };
                FsBlock::new(self.first_block(group).get().saturating_add(behind))
            })
    }

    /// Whether descriptor block `table` lies in its own meta group.
    fn is_meta_bg(&self, table: u32) -> bool {
        self.features.has_incompat(incompat::META_BG) && table >= self.first_meta_bg
    }

    /// Where the group's superblock lies, if it has one: at its start, but behind the boot block that 1 KiB blocks
    /// have in the first group with bigalloc.
    pub fn super_block(&self, group: GroupIndex) -> FsBlock {
        let first = self.first_block(group).get();
        let boot = group.get() == 0 && self.block_size == 1024 && self.first_data_block == 0;
        FsBlock::new(first.saturating_add(u64::from(boot)))
    }

    /// Whether the group starts with a (backup) superblock.
    pub fn has_super(&self, group: GroupIndex) -> bool {
        let group = group.get();
        if group == 0 {
            return true;
        }
        if self.features.has_compat(compat::SPARSE_SUPER2) {
            return self.backup_bgs.contains(&group);
        }
        if group == 1 || !self.features.has_ro_compat(ro_compat::SPARSE_SUPER) {
            return true;
        }
        [3, 5, 7].into_iter().any(|base| is_power_of(group, base))
    }

    /// How many blocks at the group's start hold superblock, descriptors and reserved descriptors.
    pub fn base_meta_blocks(&self, group: GroupIndex) -> u32 {
        let has_super = self.has_super(group);
        let boot = self.super_block(group).get() != self.first_block(group).get();
        let mut blocks = u32::from(has_super).saturating_add(u32::from(boot));
        let per_block = self.descs_per_block.max(1);
        let meta_group = group.get().checked_div(per_block).unwrap_or(0);
        if self.is_meta_bg(meta_group) {
            let place = group.get().checked_rem(per_block).unwrap_or(0);
            let last = per_block.saturating_sub(1);
            blocks = blocks.saturating_add(u32::from(place == 0 || place == 1 || place == last));
        } else if has_super {
            let table = if self.features.has_incompat(incompat::META_BG) {
                self.first_meta_bg.min(self.desc_blocks)
            } else {
                self.desc_blocks
            };
            blocks = blocks
                .saturating_add(table)
                .saturating_add(self.reserved_gdt_blocks);
        }
        blocks
    }

    /// The group of an inode and its index there; an error outside 1..=inodes_count.
    pub fn inode_place(&self, ino: InodeNumber) -> Result<(GroupIndex, u32)> {
        if ino.get() == 0 || ino.get() > self.inodes_count {
            let kind = CorruptKind::Field {
                what: Structure::Inode,
                field: "number",
                found: u64::from(ino.get()),
            };
            return Err(Error::corrupt(kind, Location::inode(ino)));
        }
        let offset = ino.get().saturating_sub(1);
        let per_group = self.inodes_per_group.max(1);
        let group = offset.checked_div(per_group).unwrap_or(0);
        Ok((
            GroupIndex::new(group),
            offset.checked_rem(per_group).unwrap_or(0),
        ))
    }

    pub fn inode_number(&self, group: GroupIndex, index: u32) -> InodeNumber {
        let base = group.get().saturating_mul(self.inodes_per_group);
        InodeNumber::new(base.saturating_add(index).saturating_add(1))
    }

    pub fn groups(&self) -> impl Iterator<Item = GroupIndex> + use<> {
        (0..self.group_count).map(GroupIndex::new)
    }

    /// The largest size of a file in bytes, for extent-mapped or block-mapped files.
    pub fn max_file_size(&self, extents: bool) -> u64 {
        let huge = self.features.has_ro_compat(ro_compat::HUGE_FILE);
        // i_blocks counts sectors of 512 bytes in 32 bits; with huge_file blocks in 48 bits.
        let counted = if huge {
            (1 << 48) - 1
        } else {
            u64::from(u32::MAX)
                .checked_shr(self.block_bits.saturating_sub(9))
                .unwrap_or(0)
        };
        let blocks = if extents {
            counted
        } else {
            self.max_mapped_blocks(counted)
        };
        blocks
            .min(u64::from(u32::MAX))
            .checked_shl(self.block_bits)
            .unwrap_or(u64::MAX)
    }

    /// The most blocks that a block map can address while data and map together stay within `limit` blocks.
    fn max_mapped_blocks(&self, limit: u64) -> u64 {
        let per_block = u64::from(self.block_size >> 2).max(1);
        let square = per_block.saturating_mul(per_block);
        let data = square
            .saturating_mul(per_block)
            .saturating_add(square)
            .saturating_add(per_block);
        let data = data.saturating_add(12);
        let full_map = square
            .saturating_add(per_block.saturating_mul(2))
            .saturating_add(3);
        if data.saturating_add(full_map) <= limit {
            return data;
        }
        let behind_single = limit.saturating_sub(12).saturating_sub(per_block);
        let map = match behind_single.checked_sub(square) {
            None => behind_single.div_ceil(per_block).saturating_add(2),
            Some(triple) => triple
                .div_ceil(per_block)
                .saturating_add(triple.div_ceil(square))
                .saturating_add(per_block)
                .saturating_add(3),
        };
        limit.saturating_sub(map)
    }
}

fn is_power_of(mut value: u32, base: u32) -> bool {
    while value > 1 && value.checked_rem(base) == Some(0) {
        value = value.checked_div(base).unwrap_or(0);
    }
    value == 1
}

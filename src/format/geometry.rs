//! The validated numbers of a file system, which every parser takes instead of the whole file system.
//!
//! Source: the kernel's ext4 documentation, "Blocks", "Block groups", "Flexible block groups", "Meta block groups".
//! Invariants: every number here has passed `Superblock::geometry`, so arithmetic with it cannot divide by
//! zero or leave 64 bits; `fs_block` is the only way from a number read from disk to an `FsBlock`.

use crate::error::{Result, Structure};
use crate::format::features::Features;
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
        let _ = (raw, what);
        todo!()
    }

    /// The same for a run of `len` blocks, checked as a whole.
    pub fn fs_run(&self, raw: u64, len: u64, what: Structure) -> Result<FsBlock> {
        let _ = (raw, len, what);
        todo!()
    }

    pub fn group_of(&self, block: FsBlock) -> (GroupIndex, BlockInGroup) {
        let _ = block;
        todo!()
    }

    pub fn block_at(&self, group: GroupIndex, index: BlockInGroup) -> FsBlock {
        let _ = (group, index);
        todo!()
    }

    pub fn first_block(&self, group: GroupIndex) -> FsBlock {
        let _ = group;
        todo!()
    }

    /// Blocks in this group: fewer in the last one.
    pub fn blocks_in_group(&self, group: GroupIndex) -> u32 {
        let _ = group;
        todo!()
    }

    /// Where a group's descriptor lies in the primary table: block and byte offset in it.
    pub fn desc_location(&self, group: GroupIndex) -> (FsBlock, usize) {
        let _ = group;
        todo!()
    }

    /// Whether the group starts with a (backup) superblock.
    pub fn has_super(&self, group: GroupIndex) -> bool {
        let _ = group;
        todo!()
    }

    /// How many blocks at the group's start hold superblock, descriptors and reserved descriptors.
    pub fn base_meta_blocks(&self, group: GroupIndex) -> u32 {
        let _ = group;
        todo!()
    }

    /// The group of an inode and its index there; an error outside 1..=inodes_count.
    pub fn inode_place(&self, ino: InodeNumber) -> Result<(GroupIndex, u32)> {
        let _ = ino;
        todo!()
    }

    pub fn inode_number(&self, group: GroupIndex, index: u32) -> InodeNumber {
        let _ = (group, index);
        todo!()
    }

    pub fn groups(&self) -> impl Iterator<Item = GroupIndex> + use<> {
        (0..self.group_count).map(GroupIndex::new)
    }

    /// The largest size of a file in bytes, for extent-mapped or block-mapped files.
    pub fn max_file_size(&self, extents: bool) -> u64 {
        let _ = extents;
        todo!()
    }
}

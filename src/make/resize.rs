//! The resize inode: it owns the descriptor blocks that are set aside for growth, and their backups.
//!
//! Source: the kernel's ext4 documentation, "Special inodes"; the shape is the one online resizing checks.
//! Invariants: the double-indirect block points to the reserved blocks of the first group; each of those lists
//! the blocks at the same place in the backup groups.

use super::Plan;
use crate::format::raw::put_le32;

/// Pointers in the inode and in its single-indirect block come first.
const DIRECT: u64 = 12;
/// Index of the double-indirect pointer in `i_block`.
pub const DOUBLE_INDIRECT: usize = 13;

/// A block of the resize inode: where it lies and what it holds.
pub struct MapBlock {
    pub block: u64,
    pub bytes: Vec<u8>,
}

/// All blocks that map the resize inode, the double-indirect one first.
pub fn map_blocks(plan: &Plan) -> Vec<MapBlock> {
    let Some(double) = plan.resize_block else {
        return Vec::new();
    };
    let numbers = &plan.numbers;
    let size = numbers.block_size as usize;
    let pointers = numbers.block_size / 4;
    let first_reserved = numbers.super_block(0) + 1 + u64::from(numbers.desc_blocks);
    let backups: Vec<u32> = backup_groups(plan).collect();
    let mut out = vec![MapBlock {
        block: double,
        bytes: vec![0; size],
    }];
    for index in 0..numbers.reserved_gdt_blocks {
        let block = first_reserved + u64::from(index);
        // The place in the table is the descriptor block's own number, so that it stays when the table grows.
        let slot = (numbers.desc_blocks + index) % pointers;
        if let Some(first) = out.first_mut() {
            put_le32(&mut first.bytes, slot as usize * 4, block as u32);
        }
        let mut bytes = vec![0; size];
        for (position, &group) in backups.iter().enumerate() {
            let copy = block + u64::from(group) * u64::from(numbers.blocks_per_group);
            put_le32(&mut bytes, position * 4, copy as u32);
        }
        out.push(MapBlock { block, bytes });
    }
    out
}

/// `i_size` in bytes: all that a double-indirect block can reach.
pub fn size(plan: &Plan) -> u64 {
    let pointers = u64::from(plan.numbers.block_size / 4);
    (DIRECT + pointers + pointers * pointers) * u64::from(plan.numbers.block_size)
}

/// Blocks that the inode owns.
pub fn blocks(plan: &Plan) -> u64 {
    let copies = 1 + backup_groups(plan).count() as u64;
    (1 + u64::from(plan.numbers.reserved_gdt_blocks) * copies) * plan.cluster_blocks()
}

fn backup_groups(plan: &Plan) -> impl Iterator<Item = u32> + use<> {
    let numbers = plan.numbers.clone();
    (1..numbers.group_count).filter(move |&group| numbers.has_super(group))
}

//! Block maps of ext2 and ext3: which pointers lead to a file block.
//!
//! Source: the kernel's ext4 documentation, "Direct/Indirect Block Addressing".
//! Invariants: a path has at most three indirect blocks; a pointer of 0 is a hole and never a block.

use crate::format::raw::{le32, put_le32};

/// Pointers in the inode.
pub const SLOTS: u32 = 15;
/// Pointers in the inode that lead to data.
pub const DIRECT: u32 = 12;

/// log2 of the pointers in an indirect block.
pub fn pointer_bits(block_bits: u32) -> u32 {
    block_bits.saturating_sub(2)
}

/// File blocks below a pointer at `level` (0: a data block, 1: an indirect block, ...), at most 2^48.
pub fn span(level: u32, block_bits: u32) -> u64 {
    1u64.checked_shl(level.saturating_mul(pointer_bits(block_bits)))
        .unwrap_or(u64::MAX)
}

/// Level of a pointer in the inode.
pub fn slot_level(slot: u32) -> u32 {
    slot.saturating_sub(DIRECT.saturating_sub(1)).min(3)
}

/// First file block below a pointer in the inode.
pub fn slot_start(slot: u32, block_bits: u32) -> u64 {
    let mut start = u64::from(slot.min(DIRECT));
    for level in 1..slot_level(slot) {
        start = start.saturating_add(span(level, block_bits));
    }
    start
}

/// The pointer in the inode that leads to a file block; `None` beyond what triple indirection reaches.
pub fn slot_of(block: u64, block_bits: u32) -> Option<u32> {
    if let Ok(slot) = u32::try_from(block)
        && slot < DIRECT
    {
        return Some(slot);
    }
    (DIRECT..SLOTS).find(|&slot| {
        let end = slot_start(slot, block_bits).saturating_add(span(slot_level(slot), block_bits));
        block < end
    })
}

/// One past the last file block that a block map reaches.
pub fn end(block_bits: u32) -> u64 {
    let last = SLOTS.saturating_sub(1);
    slot_start(last, block_bits)
        .saturating_add(span(3, block_bits))
        .min(1 << 32)
}

/// The pointer `index` of an indirect block or of `i_block`; 0 is a hole.
pub fn pointer(bytes: &[u8], index: usize) -> u32 {
    le32(bytes, index.saturating_mul(4))
}

pub fn set_pointer(bytes: &mut [u8], index: usize, block: u32) {
    put_le32(bytes, index.saturating_mul(4), block);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_of_a_1_kib_map() {
        assert_eq!(slot_of(11, 10), Some(11));
        assert_eq!(slot_of(12, 10), Some(12));
        assert_eq!(slot_of(12 + 255, 10), Some(12));
        assert_eq!(slot_of(12 + 256, 10), Some(13));
        assert_eq!(slot_start(13, 10), 268);
        assert_eq!(slot_of(268 + 65536, 10), Some(14));
        assert_eq!(slot_start(14, 10), 65804);
        assert_eq!(slot_of(end(10), 10), None);
        assert_eq!(end(10), 16_843_020);
    }
}

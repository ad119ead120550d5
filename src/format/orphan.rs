//! A block of the orphan file: inode numbers, and a tail.
//!
//! Source: the kernel's ext4 documentation, "Orphan file".
//! Invariants: the checksum is `format::checksum`'s; a slot of 0 is free.

use crate::error::{CorruptKind, Error, Location, Result, Structure};
use crate::format::raw::{le32, put_le32};
use crate::ids::{FsBlock, InodeNumber};

/// `ob_magic` in the tail, behind the slots and before the checksum.
pub const MAGIC: u32 = 0x0b10_ca04;
const TAIL: usize = 8;

/// Slots in a block.
pub fn slots(block: &[u8]) -> usize {
    block.len().saturating_sub(TAIL) >> 2
}

/// Checks the tail's magic number.
pub fn check(block: &[u8], at: FsBlock) -> Result<()> {
    let found = le32(block, block.len().saturating_sub(TAIL));
    if found == MAGIC {
        return Ok(());
    }
    let kind = CorruptKind::Magic {
        what: Structure::OrphanFile,
        found,
        expected: MAGIC,
    };
    Err(Error::corrupt(kind, Location::block(at)))
}

/// The inode in a slot, if it is taken.
pub fn get(block: &[u8], slot: usize) -> Option<InodeNumber> {
    let raw = le32(block, slot.saturating_mul(4));
    (raw != 0 && slot < slots(block)).then(|| InodeNumber::new(raw))
}

/// Fills (or with `None` frees) a slot.
pub fn put(block: &mut [u8], slot: usize, ino: Option<InodeNumber>) {
    if slot < slots(block) {
        put_le32(
            block,
            slot.saturating_mul(4),
            ino.map_or(0, InodeNumber::get),
        );
    }
}

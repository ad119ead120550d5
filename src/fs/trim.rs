//! Telling the device what is free: FITRIM, and freed blocks under `-o discard`.
//!
//! Source: Linux fstrim(8), `struct fstrim_range`; ext4(5) on discard.
//! Invariants: no handle is open and no lock held while the device works.

use crate::error::{Posix, Result};
use crate::fs::{Caller, Fs};
use crate::ids::FsBlock;

impl Fs {
    /// Discards the free runs of at least `least` bytes inside of `start..start + len`, bytes as well; returns how many
    /// bytes were discarded.
    pub fn trim(&self, caller: Caller, start: u64, len: u64, least: u64) -> Result<u64> {
        if caller.uid != 0 {
            return Err(Posix::Perm.into());
        }
        self.check_writable()?;
        let bits = self.geo.block_bits;
        let (start, blocks, least) = (start >> bits, len >> bits, least.div_ceil(1 << bits));
        let too_long = least > u64::from(self.geo.blocks_per_group);
        if too_long || start >= self.geo.blocks_count || blocks == 0 {
            return Err(Posix::Inval.into());
        }
        let end = start.saturating_add(blocks);
        let mut go_on = || !self.is_stopping() && !self.is_read_only();
        let (from, to) = (FsBlock::new(start), FsBlock::new(end));
        let trimmed = self.alloc.trim(from, to, least, &mut go_on);
        self.report_groups(None);
        Ok(trimmed? << bits)
    }

    /// Gives up every preallocation, as a writer does who finds no space; how many blocks that made free.
    pub fn discard_preallocations(&self) -> u64 {
        self.alloc.discard_all()
    }

    /// Discards all that was freed and has committed.
    pub fn discard_freed(&self) {
        while self.alloc.discard_step() {}
    }
}

//! Writes metadata blocks to their places on the volume, sorted and in large pieces.
//!
//! Source: the design's section on the journal.
//! Invariants: the caller syncs.

use crate::cache::{BufferRef, Snapshot};
use crate::error::Result;
use crate::ids::FsBlock;
use crate::journal::Journal;
use std::io::IoSlice;

/// Blocks in one device write.
const RUN_MAX: usize = 256;

impl Journal {
    pub(super) fn write_home(&self, blocks: &[(BufferRef, Snapshot)]) -> Result<()> {
        let mut sorted: Vec<(FsBlock, &Snapshot)> = blocks
            .iter()
            .map(|(buffer, bytes)| (buffer.block(), bytes))
            .collect();
        sorted.sort_unstable_by_key(|(block, _)| *block);
        let follows =
            |a: &(FsBlock, &Snapshot), b: &(FsBlock, &Snapshot)| a.0.checked_add(1) == Some(b.0);
        for run in sorted.chunk_by(follows) {
            for piece in run.chunks(RUN_MAX) {
                let slices: Vec<IoSlice<'_>> =
                    piece.iter().map(|(_, bytes)| IoSlice::new(bytes)).collect();
                let offset = piece[0].0.get() << self.cache.geometry().block_bits;
                self.cache.device().write_vectored_at(offset, &slices)?;
            }
        }
        Ok(())
    }
}

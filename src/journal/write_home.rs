//! Writes metadata blocks to their places on the volume, sorted, in large pieces, many at a time: after a crowd of small changes
//! they lie scattered, and one after the other they would take as long as everybody who needs the committer has to wait.
//!
//! Source: the design's section on the journal.
//! Invariants: the caller syncs; nothing is under way any more when it returns.

use crate::cache::{BufferRef, Snapshot};
use crate::device::submit::{self, Transfer};
use crate::error::Result;
use crate::ids::FsBlock;
use crate::journal::Journal;
use std::sync::Arc;
use std::sync::atomic::Ordering;

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
        let bits = self.cache.geometry().block_bits;
        let transfers: Vec<Transfer> = sorted
            .chunk_by(follows)
            .flat_map(|run| run.chunks(RUN_MAX))
            .map(|piece| {
                let frames = piece.iter().map(|(_, bytes)| Arc::clone(bytes)).collect();
                (piece[0].0.get() << bits, frames)
            })
            .collect();
        let count = sorted.len() as u64;
        self.stats.blocks_home.fetch_add(count, Ordering::Relaxed);
        submit::write_all(self.cache.device().as_ref(), transfers)
    }
}

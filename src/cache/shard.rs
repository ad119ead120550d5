//! One shard of the block cache: a table of buffers, a clock hand over it, and the blocks being read.
//!
//! Source: the design's layers.
//! Invariants: a block is being read by one thread at a time; `sweep` drops only buffers that nobody else holds
//! (transactions hold the dirty ones) and that had no use since the hand passed last.

use crate::cache::buffer::BufferRef;
use crate::ids::{FsBlock, NumberMap, NumberSet};
use std::collections::VecDeque;
use std::sync::Arc;

#[derive(Default)]
pub(super) struct Shard {
    buffers: NumberMap<FsBlock, BufferRef>,
    /// The clock: blocks in the order of their coming; a place may be stale.
    hand: VecDeque<FsBlock>,
    pub(super) loading: NumberSet<FsBlock>,
}

impl Shard {
    pub(super) fn get(&self, block: FsBlock) -> Option<BufferRef> {
        let buffer = self.buffers.get(&block)?;
        buffer.touch();
        Some(Arc::clone(buffer))
    }

    pub(super) fn contains(&self, block: FsBlock) -> bool {
        self.buffers.contains_key(&block)
    }

    /// Puts a buffer in, in the place of one that was there.
    pub(super) fn put(&mut self, buffer: BufferRef) {
        let block = buffer.block();
        if self.buffers.insert(block, buffer).is_some() {
            return;
        }
        self.hand.push_back(block);
        if self.hand.len() > 2 * self.buffers.len() + 64 {
            let mut seen = NumberSet::default();
            self.hand
                .retain(|b| self.buffers.contains_key(b) && seen.insert(*b));
        }
    }

    /// Leaves the block's place in the clock behind; `put` clears such places once they outnumber the buffers.
    pub(super) fn remove(&mut self, block: FsBlock) {
        self.buffers.remove(&block);
    }

    /// Drops up to `wanted` unused buffers in one turn of the clock; returns how many.
    pub(super) fn sweep(&mut self, wanted: usize) -> usize {
        let mut dropped = 0;
        for _ in 0..self.hand.len() {
            if dropped == wanted {
                break;
            }
            let Some(block) = self.hand.pop_front() else {
                break;
            };
            let Some(buffer) = self.buffers.get(&block) else {
                continue;
            };
            // One that is being read as well is newer than what is read.
            let busy = Arc::strong_count(buffer) > 1 || self.loading.contains(&block);
            if busy || buffer.take_chance() {
                self.hand.push_back(block);
            } else {
                self.buffers.remove(&block);
                dropped += 1;
            }
        }
        dropped
    }

    pub(super) fn len(&self) -> usize {
        self.buffers.len()
    }
}

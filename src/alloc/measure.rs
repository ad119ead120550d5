//! Entry points for measurements: a buddy by itself, and each level of the search by itself.
//!
//! Source: the design's section on the allocator.
//! Invariants: what a level finds is reserved as with any request, and given back when the value is dropped.

use super::Allocator;
use super::buddy::Buddy;
use super::reserved::Reserved;
pub use super::search::Level;
use super::search::Want;
use crate::ids::FsBlock;
use std::sync::Arc;

/// A buddy on plain memory.
pub struct PlainBuddy(Buddy<Vec<u8>>);

impl PlainBuddy {
    /// Builds from a bitmap of `size` blocks. `memory`: two buffers as long as the bitmap, contents unspecified.
    ///
    /// # Panics
    /// When a buffer is shorter than the bitmap.
    pub fn build(bitmap: &[u8], size: u32, memory: [Vec<u8>; 2]) -> Self {
        let [free, chunks] = memory;
        assert!(free.len() == bitmap.len() && chunks.len() == bitmap.len());
        // Nothing is owned, so nothing can overlap.
        Buddy::build(free, chunks, size, bitmap, std::iter::empty())
            .map_or_else(|_| unreachable!(), Self)
    }

    pub fn free_blocks(&self) -> u32 {
        self.0.free_blocks()
    }

    pub fn largest_order(&self) -> Option<u32> {
        self.0.largest_order()
    }

    /// The first free aligned chunk of 2^order blocks at or behind `from`, else before it.
    pub fn find_chunk(&self, order: u32, from: u32) -> Option<u32> {
        self.0.find_chunk(order, from)
    }

    /// The first run of `len` blocks at or behind `from`, else the longest: start and length.
    pub fn find_run(&self, len: u32, from: u32) -> Option<(u32, u32)> {
        self.0.find_run(len, from)
    }
}

impl Allocator {
    /// One level of the search alone, for `len` blocks near `goal`; `None`: that level has nothing.
    pub fn search_at(&self, level: Level, goal: FsBlock, len: u32) -> Option<Reserved> {
        let groups = &self.groups;
        let len = groups.clusters(u64::from(len)) as u32;
        let counted = groups.count_out(len, len, 0);
        let want = Want {
            goal,
            len: counted,
            least: counted,
            data: true,
            stream: None,
        };
        let found = (counted > 0).then(|| groups.search_level(want, level));
        let found = found.flatten();
        let taken = found.as_ref().map_or(0, |run| run.len);
        super::groups::add(&groups.totals.available, counted - taken);
        found.map(|run| Reserved::new(Arc::clone(groups), run.group, run.start, run.len))
    }
}

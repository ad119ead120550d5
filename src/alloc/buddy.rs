//! A group's buddy: which blocks are free, and which aligned chunks of 2^order blocks are free as a whole.
//!
//! Source: the design's sections on block ownership and the allocator.
//! Invariants: a bit of order k is set exactly when both its halves of order k - 1 are; order 0 is the
//! complement of B, U, R and F. A buddy is a cache: it can be dropped and built again at any time.

use super::bits;
use crate::memory::Frame;
use std::ops::{Deref, DerefMut};

/// Orders 0 to log2(8 * 65536).
const ORDERS: usize = 20;

/// `S` is where the bits live: two frames; plain vectors in tests.
pub(super) struct Buddy<S = Frame> {
    /// Order 0, one bit a block.
    free: S,
    /// Orders 1 and up, one after the other.
    chunks: S,
    /// Bits that the order-0 map has room for, a power of two.
    capacity: u32,
    /// Blocks in the group.
    size: u32,
    /// Free chunks of each order, those inside of larger ones included.
    count: [u32; ORDERS],
    /// Free runs, each as long as it goes.
    fragments: u32,
}

/// Runs that must be free in the bitmap are not: the ownership sets overlap.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overlap;

impl<S: Deref<Target = [u8]> + DerefMut> Buddy<S> {
    /// Builds from the block bitmap and the runs (start, length) of U, R and F. `free` and `chunks` are as long
    /// as the bitmap; what they hold does not matter.
    pub(super) fn build(
        mut free: S,
        mut chunks: S,
        size: u32,
        bitmap: &[u8],
        owned: impl Iterator<Item = (u32, u32)>,
    ) -> Result<Self, Overlap> {
        for (to, from) in free.iter_mut().zip(bitmap) {
            *to = !from;
        }
        let capacity = free.len() as u32 * 8;
        bits::fill(&mut free, size, capacity - size, false);
        for (start, len) in owned {
            if start.saturating_add(len) > size || !bits::all(&free, start, len, true) {
                return Err(Overlap);
            }
            bits::fill(&mut free, start, len, false);
        }
        chunks.fill(0);
        let mut buddy = Self {
            free,
            chunks,
            capacity,
            size,
            count: [0; ORDERS],
            fragments: 0,
        };
        buddy.count[0] = bits::count(&buddy.free, size);
        buddy.fragments = buddy.runs(0, size).count() as u32;
        for order in 1..=buddy.max_order() {
            buddy.derive(order);
        }
        Ok(buddy)
    }

    pub(super) fn free_blocks(&self) -> u32 {
        self.count[0]
    }

    pub(super) fn fragments(&self) -> u32 {
        self.fragments
    }

    /// The order of the largest free aligned chunk.
    pub(super) fn largest_order(&self) -> Option<u32> {
        (0..=self.max_order())
            .rev()
            .find(|&order| self.count[order as usize] > 0)
    }

    /// How many blocks are free from `start` on, at most `max`.
    pub(super) fn run_at(&self, start: u32, max: u32) -> u32 {
        let end = self.size.min(start.saturating_add(max));
        bits::next(&self.free, start, end, false)
            .unwrap_or(end)
            .saturating_sub(start)
    }

    /// The first free chunk of 2^order blocks at or after `from`, else before it.
    pub(super) fn find_chunk(&self, order: u32, from: u32) -> Option<u32> {
        if order > self.max_order() || self.count[order as usize] == 0 {
            return None;
        }
        let (map, offset) = self.level(order);
        let end = offset + (self.capacity >> order);
        let first = offset + from.min(self.size).div_ceil(1 << order);
        bits::next(map, first, end, true)
            .or_else(|| bits::next(map, offset, first.min(end), true))
            .map(|bit| (bit - offset) << order)
    }

    /// The first run of at least `want` blocks at or after `from` (else from the group's start), cut to `want`;
    /// when there is none, the longest.
    pub(super) fn find_run(&self, want: u32, from: u32) -> Option<(u32, u32)> {
        let mut best: Option<(u32, u32)> = None;
        for (start, len) in self.runs(from, self.size).chain(self.runs(0, self.size)) {
            if len >= want {
                return Some((start, want));
            }
            if best.is_none_or(|(_, longest)| len > longest) {
                best = Some((start, len));
            }
        }
        best
    }

    /// The first free run of `want` blocks at or after `from` (else from the group's start) that begins at a multiple
    /// of `unit`; the group's block 0 lies `base` blocks behind one.
    pub(super) fn find_aligned(&self, want: u32, unit: u32, base: u32, from: u32) -> Option<u32> {
        let unit = u64::from(unit.max(1));
        let fits = |(start, len): (u32, u32)| {
            let place =
                (u64::from(base) + u64::from(start)).next_multiple_of(unit) - u64::from(base);
            let end = u64::from(start) + u64::from(len);
            (place + u64::from(want) <= end).then_some(place as u32)
        };
        let mut runs = self.runs(from, self.size).chain(self.runs(0, self.size));
        runs.find_map(fits)
    }

    /// Free runs inside of `from..to`.
    pub(super) fn runs(&self, from: u32, to: u32) -> impl Iterator<Item = (u32, u32)> + '_ {
        let mut at = from;
        std::iter::from_fn(move || {
            let start = bits::next(&self.free, at, to, true)?;
            let end = bits::next(&self.free, start, to, false).unwrap_or(to);
            at = end;
            Some((start, end - start))
        })
    }

    pub(super) fn is_free(&self, start: u32, len: u32) -> bool {
        start.saturating_add(len) <= self.size && bits::all(&self.free, start, len, true)
    }

    /// Takes a free run out; `false`, and nothing changes, when it is not free as a whole.
    #[must_use]
    pub(super) fn take(&mut self, start: u32, len: u32) -> bool {
        if !self.is_free(start, len) {
            return false;
        }
        self.set(start, len, false);
        true
    }

    /// Puts a run back; `false`, and nothing changes, when a part of it is free already.
    #[must_use]
    pub(super) fn give(&mut self, start: u32, len: u32) -> bool {
        if start.saturating_add(len) > self.size || !bits::all(&self.free, start, len, false) {
            return false;
        }
        self.set(start, len, true);
        true
    }

    fn max_order(&self) -> u32 {
        self.capacity.ilog2()
    }

    /// The map that holds an order, and the bit at which it begins there.
    fn level(&self, order: u32) -> (&[u8], u32) {
        match order {
            0 => (&self.free, 0),
            _ => (&self.chunks, self.capacity - (self.capacity >> (order - 1))),
        }
    }

    /// Computes a whole order from the one below.
    fn derive(&mut self, order: u32) {
        let (below, from) = self.level(order - 1);
        let to = self.level(order).1;
        let mut found = Vec::new();
        let mut bit = from;
        let end = from + (self.capacity >> (order - 1));
        while let Some(set) = bits::next(below, bit, end, true) {
            let clear = bits::next(below, set, end, false).unwrap_or(end);
            let (first, last) = ((set - from).div_ceil(2), (clear - from) / 2);
            if first < last {
                found.push((first, last - first));
            }
            bit = clear;
        }
        for (first, len) in found {
            bits::fill(&mut self.chunks, to + first, len, true);
            self.count[order as usize] += len;
        }
    }

    /// Writes a run of order 0 that holds only the opposite value, and what follows in the orders above.
    fn set(&mut self, start: u32, len: u32, value: bool) {
        let before = start > 0 && bits::get(&self.free, start - 1);
        let after = start + len < self.size && bits::get(&self.free, start + len);
        let neighbours = u32::from(before) + u32::from(after);
        self.fragments = if value {
            self.fragments + 1 - neighbours
        } else {
            self.fragments + neighbours - 1
        };
        bits::fill(&mut self.free, start, len, value);
        self.recount(0, len, value);
        let (mut first, mut last) = (start, start + len - 1);
        for order in 1..=self.max_order() {
            (first, last) = (first / 2, last / 2);
            let changed = self.set_order(order, first, last, value);
            if changed == 0 {
                break;
            }
            self.recount(order, changed, value);
        }
    }

    /// Brings chunks `first..=last` of an order in line with the order below; how many changed.
    fn set_order(&mut self, order: u32, first: u32, last: u32, value: bool) -> u32 {
        let to = self.level(order).1;
        let mut changed = 0;
        for chunk in first..=last {
            let (below, from) = self.level(order - 1);
            let whole =
                bits::get(below, from + 2 * chunk) && bits::get(below, from + 2 * chunk + 1);
            if whole == value && bits::get(&self.chunks, to + chunk) != value {
                bits::put(&mut self.chunks, to + chunk, value);
                changed += 1;
            }
        }
        changed
    }

    fn recount(&mut self, order: u32, changed: u32, value: bool) {
        let count = &mut self.count[order as usize];
        *count = if value {
            *count + changed
        } else {
            *count - changed
        };
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Small deterministic generator, so that failures repeat.
    pub(in crate::alloc) struct Rng(pub(in crate::alloc) u64);
    impl Rng {
        pub(in crate::alloc) fn below(&mut self, limit: u32) -> u32 {
            self.0 = self
                .0
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            ((self.0 >> 33) as u32) % limit.max(1)
        }
    }

    fn build(size: u32, bytes: usize, used: &[bool]) -> Buddy<Vec<u8>> {
        let mut bitmap = vec![0xffu8; bytes];
        for bit in 0..size {
            bits::put(&mut bitmap, bit, used[bit as usize]);
        }
        Buddy::build(
            vec![7; bytes],
            vec![9; bytes],
            size,
            &bitmap,
            std::iter::empty(),
        )
        .unwrap()
    }

    fn check(buddy: &Buddy<Vec<u8>>, used: &[bool]) {
        let size = used.len() as u32;
        let free = |at: u32| used.get(at as usize) == Some(&false);
        assert_eq!(
            buddy.free_blocks() as usize,
            used.iter().filter(|u| !**u).count()
        );
        let mut largest = None;
        for order in 0..=buddy.max_order() {
            let step = 1u32 << order;
            let chunks: Vec<u32> = (0..buddy.capacity)
                .step_by(step as usize)
                .filter(|&at| (at..at + step).all(free))
                .collect();
            assert_eq!(
                buddy.count[order as usize] as usize,
                chunks.len(),
                "order {order}"
            );
            assert_eq!(buddy.find_chunk(order, 0), chunks.first().copied());
            let from = size / 2;
            let after = chunks
                .iter()
                .find(|&&at| at >= from)
                .or(chunks.first())
                .copied();
            assert_eq!(buddy.find_chunk(order, from), after);
            if !chunks.is_empty() {
                largest = Some(order);
            }
        }
        assert_eq!(buddy.largest_order(), largest);
        let starts = (0..size).filter(|&at| free(at) && (at == 0 || !free(at - 1)));
        assert_eq!(buddy.fragments() as usize, starts.count());
    }

    #[test]
    fn a_built_buddy_is_what_a_naive_count_finds() {
        let mut rng = Rng(1);
        for size in [1u32, 63, 700, 1000, 1024] {
            for density in [0u32, 3, 50, 97, 100] {
                let used: Vec<bool> = (0..size).map(|_| rng.below(100) < density).collect();
                check(&build(size, 128, &used), &used);
            }
        }
    }

    #[test]
    fn takes_and_gives_keep_it_as_a_new_build_would_make_it() {
        let mut rng = Rng(2);
        let mut used = vec![false; 1000];
        let mut buddy = build(1000, 128, &used);
        for step in 0..3000 {
            let start = rng.below(1000);
            let len = (1 + rng.below(80)).min(1000 - start);
            let range = start as usize..(start + len) as usize;
            let take = rng.below(2) == 0;
            let possible = used[range.clone()].iter().all(|&u| u != take);
            let done = if take {
                buddy.take(start, len)
            } else {
                buddy.give(start, len)
            };
            assert_eq!(done, possible);
            if done {
                used[range].fill(take);
            }
            if step % 50 == 0 {
                check(&buddy, &used);
            }
        }
        check(&buddy, &used);
    }

    #[test]
    fn runs_are_found_from_the_goal_on_and_the_longest_otherwise() {
        let mut used = vec![true; 1000];
        used[10..20].fill(false);
        used[500..530].fill(false);
        used[900..920].fill(false);
        let buddy = build(1000, 128, &used);
        assert_eq!(buddy.find_run(8, 0), Some((10, 8)));
        assert_eq!(buddy.find_run(8, 600), Some((900, 8)));
        assert_eq!(buddy.find_run(8, 950), Some((10, 8)));
        assert_eq!(buddy.find_run(25, 900), Some((500, 25)));
        assert_eq!(buddy.find_run(64, 0), Some((500, 30)));
        assert_eq!(
            (
                buddy.run_at(510, 100),
                buddy.run_at(510, 7),
                buddy.run_at(9, 5)
            ),
            (20, 7, 0)
        );
    }

    #[test]
    fn aligned_runs_are_counted_from_the_volume() {
        let mut used = vec![true; 1000];
        used[10..30].fill(false);
        used[500..530].fill(false);
        let buddy = build(1000, 128, &used);
        assert_eq!(buddy.find_aligned(8, 8, 0, 0), Some(16));
        assert_eq!(buddy.find_aligned(8, 8, 3, 0), Some(13));
        assert_eq!(buddy.find_aligned(16, 16, 0, 0), Some(512));
        assert_eq!(buddy.find_aligned(16, 12, 0, 300), Some(504));
        assert_eq!(buddy.find_aligned(8, 8, 0, 600), Some(16));
        assert_eq!(buddy.find_aligned(24, 16, 0, 0), None);
    }

    #[test]
    fn overlapping_sets_are_refused() {
        let bitmap = [0x0fu8; 128];
        let built = Buddy::build(
            vec![0; 128],
            vec![0; 128],
            1024,
            &bitmap,
            [(3, 2)].into_iter(),
        );
        assert_eq!(built.err(), Some(Overlap));
        let built = Buddy::build(
            vec![0; 128],
            vec![0; 128],
            1024,
            &bitmap,
            [(4, 2), (5, 1)].into_iter(),
        );
        assert_eq!(built.err(), Some(Overlap));
    }
}

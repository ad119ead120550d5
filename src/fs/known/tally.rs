//! Counts of inodes, one byte each, in blocks of consecutive numbers.
//!
//! Source: the design's section on memory (lookup counts).
//! Invariants: a block exists exactly while one of its counts is not zero; a count that does not fit a byte stands in `large`.

use crate::ids::InodeNumber;
use std::collections::BTreeMap;

/// Inodes of one block.
pub(super) const SPAN: u32 = 128;
/// The count stands in `large`.
const LARGE: u8 = u8::MAX;

struct Block {
    counts: [u8; SPAN as usize],
    /// Counts that are not zero.
    live: u32,
}

/// What a block costs at most: itself, the heap's rounding, its place in a tree whose nodes are half full.
pub(super) const BLOCK_BYTES: u64 = size_of::<Block>() as u64 + 16 + 44;
/// The same of a count that is large.
const LARGE_BYTES: u64 = 48;

#[derive(Default)]
pub(super) struct Tally {
    blocks: BTreeMap<u32, Box<Block>>,
    large: BTreeMap<u32, u64>,
    live: u64,
    total: u64,
}

impl Tally {
    pub(super) fn get(&self, ino: InodeNumber) -> u64 {
        let (block, place) = place(ino);
        match self.blocks.get(&block).map(|block| block.counts[place]) {
            None => 0,
            Some(LARGE) => self.large.get(&ino.get()).copied().unwrap_or(0),
            Some(count) => u64::from(count),
        }
    }

    /// Whether counting it takes no more memory.
    pub(super) fn has_room(&self, ino: InodeNumber) -> bool {
        self.blocks.contains_key(&place(ino).0)
    }

    pub(super) fn add(&mut self, ino: InodeNumber, more: u64) {
        self.set(ino, self.get(ino).saturating_add(more));
    }

    /// Takes up to `less` off; returns what is left.
    pub(super) fn remove(&mut self, ino: InodeNumber, less: u64) -> u64 {
        let left = self.get(ino).saturating_sub(less);
        self.set(ino, left);
        left
    }

    fn set(&mut self, ino: InodeNumber, count: u64) {
        let before = self.get(ino);
        if before == count {
            return;
        }
        self.total = self.total.saturating_sub(before).saturating_add(count);
        let byte = u8::try_from(count).unwrap_or(LARGE);
        if byte == LARGE {
            self.large.insert(ino.get(), count);
        } else if before >= u64::from(LARGE) {
            self.large.remove(&ino.get());
        }
        let (number, place) = place(ino);
        let block = self.blocks.entry(number).or_insert_with(|| {
            Box::new(Block {
                counts: [0; SPAN as usize],
                live: 0,
            })
        });
        block.counts[place] = byte;
        if before == 0 {
            block.live += 1;
            self.live += 1;
        } else if count == 0 {
            block.live -= 1;
            self.live -= 1;
            if block.live == 0 {
                self.blocks.remove(&number);
            }
        }
    }

    /// Inodes with a count.
    pub(super) fn live(&self) -> u64 {
        self.live
    }

    /// The sum of all counts.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// What it costs.
    pub(super) fn bytes(&self) -> u64 {
        self.blocks.len() as u64 * BLOCK_BYTES + self.large.len() as u64 * LARGE_BYTES
    }

    /// Inodes with a count of the first block that begins at `from` or later, and that block's first number.
    pub(super) fn block_from(&self, from: u32) -> Option<(u32, impl Iterator<Item = InodeNumber>)> {
        let (&number, block) = self.blocks.range(from.div_ceil(SPAN)..).next()?;
        let first = number * SPAN;
        let live = (first..)
            .zip(&block.counts)
            .filter(|&(_, &count)| count > 0);
        Some((first, live.map(|(ino, _)| InodeNumber::new(ino))))
    }
}

fn place(ino: InodeNumber) -> (u32, usize) {
    (ino.get() / SPAN, (ino.get() % SPAN) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn counts_are_those_of_a_map() {
        let (mut tally, mut model) = (Tally::default(), HashMap::<u32, u64>::new());
        let mut seed = 1_u64;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let ino = (seed >> 33) as u32 % 700 + 1;
            let by = (seed >> 20) % 200;
            let count = model.entry(ino).or_default();
            let number = InodeNumber::new(ino);
            if seed >> 63 == 0 {
                *count += by;
                tally.add(number, by);
            } else {
                *count = count.saturating_sub(by);
                assert_eq!(tally.remove(number, by), *count);
            }
            assert_eq!(tally.get(number), *count);
        }
        assert!(model.values().any(|&count| count > 300), "none is large");
        assert_eq!(tally.total(), model.values().sum::<u64>());
        assert_eq!(
            tally.live(),
            model.values().filter(|&&count| count > 0).count() as u64
        );
        let (mut from, mut seen) = (0, 0);
        while let Some((first, inodes)) = tally.block_from(from) {
            seen += inodes.filter(|ino| model[&ino.get()] > 0).count() as u64;
            from = first + 1;
        }
        assert_eq!(seen, tally.live());
        for ino in model.into_keys() {
            tally.remove(InodeNumber::new(ino), u64::MAX);
        }
        assert_eq!((tally.bytes(), tally.live(), tally.total()), (0, 0, 0));
    }

    #[test]
    fn an_inode_costs_about_a_byte() {
        let mut tally = Tally::default();
        (1..=100_000).for_each(|ino| tally.add(InodeNumber::new(ino), 1));
        assert!(tally.bytes() < 160_000, "{}", tally.bytes());
    }
}

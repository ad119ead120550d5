//! A set of group numbers with a quick "next member from here on".
//!
//! Source: the design's section on the allocator: indexes are walked upward from the goal's group.
//! Invariants: a bit of level n + 1 is set exactly when the word below it is not zero; memory comes with the first
//! member.

const WORD: u32 = 64;

pub(super) struct GroupSet {
    size: u32,
    /// Level 0 has a bit for each group; empty until the first one is put in.
    levels: Vec<Vec<u64>>,
}

impl GroupSet {
    pub(super) fn new(size: u32) -> Self {
        Self {
            size,
            levels: Vec::new(),
        }
    }

    /// Bytes of a set of `size` groups.
    pub(super) fn bytes(size: u32) -> usize {
        size.div_ceil(WORD) as usize * 8 * 65 / 64 + 64
    }

    pub(super) fn insert(&mut self, group: u32) {
        if group >= self.size {
            return;
        }
        if self.levels.is_empty() {
            self.grow();
        }
        let mut bit = group;
        for level in &mut self.levels {
            level[(bit / WORD) as usize] |= 1 << (bit % WORD);
            bit /= WORD;
        }
    }

    pub(super) fn remove(&mut self, group: u32) {
        if group >= self.size {
            return;
        }
        let mut bit = group;
        for level in &mut self.levels {
            let word = &mut level[(bit / WORD) as usize];
            *word &= !(1 << (bit % WORD));
            if *word != 0 {
                break;
            }
            bit /= WORD;
        }
    }

    pub(super) fn contains(&self, group: u32) -> bool {
        let word = self
            .levels
            .first()
            .and_then(|level| level.get((group / WORD) as usize));
        word.is_some_and(|word| word >> (group % WORD) & 1 != 0)
    }

    /// The first member in `from..to`.
    pub(super) fn next(&self, from: u32, to: u32) -> Option<u32> {
        let mut at = from;
        let mut depth = 0;
        // Upwards, until a word holds something at or behind the place.
        let mut found = loop {
            let level = self.levels.get(depth)?;
            let word = level.get((at / WORD) as usize)? & (u64::MAX << (at % WORD));
            if word != 0 {
                break at / WORD * WORD + word.trailing_zeros();
            }
            at = at / WORD + 1;
            depth += 1;
        };
        // Downwards, always to the first one.
        while depth > 0 {
            depth -= 1;
            let word = *self.levels[depth].get(found as usize)?;
            found = found * WORD + word.trailing_zeros();
        }
        (found < to).then_some(found)
    }

    fn grow(&mut self) {
        let mut bits = self.size;
        loop {
            let words = bits.div_ceil(WORD);
            self.levels.push(vec![0; words as usize]);
            if words <= 1 {
                break;
            }
            bits = words;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::buddy::tests::Rng;
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn it_finds_what_a_sorted_set_finds() {
        let mut rng = Rng(5);
        for size in [1u32, 63, 64, 65, 5000, 300_000] {
            let (mut set, mut model) = (GroupSet::new(size), BTreeSet::new());
            for _ in 0..4000 {
                let group = rng.below(size);
                if rng.below(3) > 0 && model.len() < 200 {
                    set.insert(group);
                    model.insert(group);
                } else {
                    let group = model.range(group..).next().copied().unwrap_or(group);
                    set.remove(group);
                    model.remove(&group);
                }
                let (from, to) = (rng.below(size), rng.below(size + 1));
                let expected = model.range(from..).next().copied();
                assert_eq!(set.next(from, size), expected);
                assert_eq!(set.next(from, to), expected.filter(|&found| found < to));
                assert_eq!(set.contains(from), model.contains(&from));
            }
        }
    }
}

//! Hash tables whose keys are numbers: two multiplications a lookup.
//!
//! Source: multiplicative hashing, Knuth's The Art of Computer Programming, 6.4.
//! Invariants: the multiplier is secret and each table's own, so that an image cannot choose numbers that collide.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hasher, RandomState};

pub type NumberMap<K, V> = HashMap<K, V, NumberHash>;
pub type NumberSet<K> = HashSet<K, NumberHash>;

#[derive(Clone, Copy, Debug)]
pub struct NumberHash(u64);

impl Default for NumberHash {
    fn default() -> Self {
        Self(RandomState::new().hash_one(0u64) | 1)
    }
}

impl BuildHasher for NumberHash {
    type Hasher = NumberHasher;

    fn build_hasher(&self) -> NumberHasher {
        NumberHasher {
            state: self.0,
            multiplier: self.0,
        }
    }
}

pub struct NumberHasher {
    state: u64,
    multiplier: u64,
}

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        fold(self.state, FINISH)
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        self.state = fold(self.state ^ number, self.multiplier);
    }
}

/// The golden ratio.
const FINISH: u64 = 0x9e37_79b9_7f4a_7c15;

/// Both halves of the product depend on all bits; together every bit of the result does.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a).wrapping_mul(u128::from(b));
    (product as u64) ^ ((product >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of `keys` fall into the fullest of 1024 places, by the lower and by the highest bits.
    fn fullest(keys: impl Iterator<Item = u64>) -> usize {
        let hash = NumberHash::default();
        let (mut low, mut high) = (vec![0; 1024], vec![0; 1024]);
        for key in keys {
            let found = hash.hash_one(key);
            low[found as usize & 1023] += 1;
            high[(found >> 54) as usize] += 1;
        }
        low.into_iter().chain(high).max().unwrap_or(0)
    }

    #[test]
    fn regular_numbers_spread() {
        for step in [1, 8, 4096, 32_768, 1 << 32] {
            let most = fullest((0..8192).map(|n| n * step));
            assert!(most < 80, "step {step}: {most} of 8192 in one of 1024");
        }
    }

    #[test]
    fn no_two_tables_hash_alike() {
        let (a, b) = (NumberHash::default(), NumberHash::default());
        assert_ne!(a.hash_one(7u64), b.hash_one(7u64));
    }
}

//! A map from numbers to small values, in pages of numbers that lie together.
//!
//! Source: the design's section on the checker.
//! Invariants: the entries of a page are ascending.

use crate::pages::{Page, Pages};
use crate::spill::Spill;
use std::sync::Arc;

/// Numbers of a page.
const SPAN_BITS: u32 = 12;

/// A value of fixed size.
pub trait Value: Copy + Default {
    const SIZE: usize;
    fn store(&self, bytes: &mut Vec<u8>);
    fn load(bytes: &[u8]) -> Self;
}

impl Value for u32 {
    const SIZE: usize = 4;
    fn store(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.to_le_bytes());
    }
    fn load(bytes: &[u8]) -> Self {
        uext4::format::raw::le32(bytes, 0)
    }
}

struct Few<V>(Vec<(u16, V)>);

impl<V: Value> Page for Few<V> {
    fn memory(&self) -> usize {
        size_of::<Self>() + self.0.capacity() * size_of::<(u16, V)>()
    }

    fn store(&self, bytes: &mut Vec<u8>) {
        for (key, value) in &self.0 {
            bytes.extend(key.to_le_bytes());
            value.store(bytes);
        }
    }

    fn load(bytes: &[u8]) -> Self {
        let one = |part: &[u8]| {
            let (key, value) = part.split_at(2);
            (uext4::format::raw::le16(key, 0), V::load(value))
        };
        Self(bytes.chunks_exact(2 + V::SIZE).map(one).collect())
    }
}

impl<V> Few<V> {
    fn find(&self, low: u16) -> Result<usize, usize> {
        // Most are added in ascending order.
        match self.0.last() {
            Some(last) if last.0 < low => Err(self.0.len()),
            _ => self.0.binary_search_by_key(&low, |entry| entry.0),
        }
    }
}

pub struct Sparse<V: Value> {
    pages: Pages<Few<V>>,
    len: usize,
}

fn place(key: u64) -> (usize, u16) {
    let low = key & ((1 << SPAN_BITS) - 1);
    ((key >> SPAN_BITS) as usize, low as u16)
}

impl<V: Value> Sparse<V> {
    pub fn new(spill: &Arc<Spill>) -> Self {
        Self {
            pages: Pages::new(spill),
            len: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn get(&self, key: impl Into<u64>) -> Option<V> {
        let (page, low) = place(key.into());
        let found = self.pages.with(page, |few| {
            few.find(low).ok().and_then(|at| Some(few.0.get(at)?.1))
        });
        found.flatten()
    }

    pub fn contains(&self, key: impl Into<u64>) -> bool {
        self.get(key).is_some()
    }

    pub fn insert(&mut self, key: impl Into<u64>, value: V) {
        self.entry(key, |slot| *slot = value);
    }

    /// Changes a value, which is the default one if it was not there.
    pub fn entry(&mut self, key: impl Into<u64>, change: impl FnOnce(&mut V)) {
        let (page, low) = place(key.into());
        let new = self.pages.change(
            page,
            || Few(Vec::new()),
            |few| match few.find(low) {
                Ok(at) => {
                    if let Some((_, value)) = few.0.get_mut(at) {
                        change(value);
                    }
                    false
                }
                Err(at) => {
                    let mut value = V::default();
                    change(&mut value);
                    few.0.insert(at, (low, value));
                    true
                }
            },
        );
        self.len += usize::from(new);
    }

    /// Changes a value that is there.
    pub fn change<R>(
        &mut self,
        key: impl Into<u64>,
        change: impl FnOnce(&mut V) -> R,
    ) -> Option<R> {
        let (page, low) = place(key.into());
        let changed = self.pages.change_old(page, |few| {
            let at = few.find(low).ok()?;
            few.0.get_mut(at).map(|(_, value)| change(value))
        });
        changed.flatten()
    }

    pub fn remove(&mut self, key: impl Into<u64>) {
        let (page, low) = place(key.into());
        let removed = self.pages.change_old(page, |few| {
            let at = few.find(low).ok()?;
            Some(few.0.remove(at))
        });
        self.len -= usize::from(removed.flatten().is_some());
    }

    /// Pages are numbered from 0 to this.
    pub fn page_count(&self) -> usize {
        self.pages.end()
    }

    /// The entries of a page, ascending.
    pub fn page(&self, index: usize) -> Vec<(u64, V)> {
        let base = (index as u64) << SPAN_BITS;
        let all = self.pages.with(index, |few| {
            let whole = |(low, value): &(u16, V)| (base + u64::from(*low), *value);
            few.0.iter().map(whole).collect()
        });
        all.unwrap_or_default()
    }

    /// Everything of `other` joins; `both` says what becomes of a number that is in both.
    pub fn join(&mut self, mut other: Self, both: impl Fn(&mut V, V)) {
        for index in 0..other.page_count() {
            for (key, value) in other.page(index) {
                match self.contains(key) {
                    true => self.entry(key, |mine| both(mine, value)),
                    false => self.insert(key, value),
                }
            }
            other.pages.take(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn agrees_with_a_model() {
        let spill = Spill::new(Some(0));
        let mut sparse: Sparse<u32> = Sparse::new(&spill);
        let mut model = BTreeMap::new();
        let mut random = 5_u64;
        for round in 0..100_000_u32 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let key = (random >> 33) % 400_000;
            match random >> 61 {
                0 => {
                    sparse.remove(key);
                    model.remove(&key);
                }
                1 => assert_eq!(sparse.change(key, |value| *value), model.get(&key).copied()),
                2 | 3 => assert_eq!(sparse.get(key), model.get(&key).copied()),
                _ => {
                    sparse.entry(key, |value| *value += round);
                    *model.entry(key).or_insert(0) += round;
                }
            }
        }
        assert_eq!(sparse.len(), model.len());
        let mut double: Sparse<u32> = Sparse::new(&spill);
        double.insert(*model.keys().next().unwrap(), 7);
        double.insert(500_000_u64, 8);
        *model.values_mut().next().unwrap() += 7;
        model.insert(500_000, 8);
        sparse.join(double, |mine, other| *mine += other);
        let all: Vec<_> = (0..sparse.page_count())
            .flat_map(|page| sparse.page(page))
            .collect();
        assert_eq!(all, model.into_iter().collect::<Vec<_>>());
        assert!(spill.spilled() > 0);
    }
}

//! A set of clusters of the volume: runs where a group has few, bits where it has many.
//!
//! Source: the kernel's ext4 documentation, "Block and inode Bitmaps".
//! Invariants: runs are ascending, disjoint and not adjacent; memory is at most one bit a cluster in groups that are
//! fragmented, and nothing in groups that are empty.

use crate::pages::{Page, Pages};
use crate::spill::Spill;
use std::sync::Arc;
use uext4::format::bitmap;
use uext4::format::raw::le32;

/// Runs of a group before it becomes bits.
const RUNS_MAX: usize = 128;

#[derive(Debug)]
enum Group {
    /// (first, one past the last)
    Runs(Vec<(u32, u32)>),
    Bits(Box<[u8]>),
}

impl Page for Group {
    fn memory(&self) -> usize {
        let outside = match self {
            Self::Runs(runs) => runs.capacity() * size_of::<(u32, u32)>(),
            Self::Bits(bits) => bits.len(),
        };
        size_of::<Self>() + outside
    }

    fn store(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Runs(runs) => {
                bytes.push(0);
                for (a, b) in runs {
                    bytes.extend(a.to_le_bytes());
                    bytes.extend(b.to_le_bytes());
                }
            }
            Self::Bits(bits) => {
                bytes.push(1);
                bytes.extend_from_slice(bits);
            }
        }
    }

    fn load(bytes: &[u8]) -> Self {
        match bytes.split_first() {
            None => Self::Runs(Vec::new()),
            Some((0, runs)) => {
                let run = |part: &[u8]| (le32(part, 0), le32(part, 4));
                Self::Runs(runs.chunks_exact(8).map(run).collect())
            }
            Some((_, bits)) => Self::Bits(bits.into()),
        }
    }
}

/// Clusters counted from the first data block.
pub struct BlockSet {
    per_group: u32,
    count: usize,
    groups: Pages<Group>,
}

impl BlockSet {
    pub fn new(per_group: u32, groups: u32, spill: &Arc<Spill>) -> Self {
        Self {
            per_group: per_group.max(1),
            count: groups as usize,
            groups: Pages::new(spill),
        }
    }

    fn place(&self, cluster: u64) -> (usize, u32) {
        let per = u64::from(self.per_group);
        ((cluster / per) as usize, (cluster % per) as u32)
    }

    pub fn contains(&self, cluster: u64) -> bool {
        let (group, at) = self.place(cluster);
        let found = self.groups.with(group, |group| match group {
            Group::Bits(bits) => bitmap::get(bits, at),
            Group::Runs(runs) => {
                let index = runs.partition_point(|run| run.1 <= at);
                runs.get(index).is_some_and(|run| run.0 <= at)
            }
        });
        found.unwrap_or(false)
    }

    /// Adds a run; what was in the set before goes to `twice`.
    pub fn insert(&mut self, first: u64, count: u64, mut twice: impl FnMut(u64, u64)) {
        self.pieces(
            first,
            count,
            |group, base, from, to, per_group| match group {
                Group::Bits(bits) => {
                    let mut at = from;
                    while let Some(hit) = bitmap::next(bits, at, to, true) {
                        let end = bitmap::next(bits, hit, to, false).unwrap_or(to);
                        twice(base + u64::from(hit), u64::from(end - hit));
                        at = end;
                    }
                    bitmap::fill(bits, from, to - from, true);
                }
                Group::Runs(runs) => {
                    insert_run(runs, from, to, |a, b| {
                        twice(base + u64::from(a), u64::from(b - a))
                    });
                    if runs.len() > RUNS_MAX {
                        let mut bits = vec![0; per_group.div_ceil(8) as usize].into_boxed_slice();
                        for (a, b) in runs.iter() {
                            bitmap::fill(&mut bits, *a, b - a, true);
                        }
                        *group = Group::Bits(bits);
                    }
                }
            },
        );
    }

    pub fn add(&mut self, first: u64, count: u64) {
        self.insert(first, count, |_, _| {});
    }

    pub fn remove(&mut self, first: u64, count: u64) {
        self.pieces(first, count, |group, _, from, to, _| match group {
            Group::Bits(bits) => bitmap::fill(bits, from, to - from, false),
            Group::Runs(runs) => {
                let mut left = Vec::with_capacity(runs.len() + 1);
                for &(a, b) in runs.iter() {
                    if a < from {
                        left.push((a, b.min(from)));
                    }
                    if b > to {
                        left.push((a.max(to), b));
                    }
                }
                *runs = left;
            }
        });
    }

    fn pieces(
        &mut self,
        first: u64,
        count: u64,
        mut visit: impl FnMut(&mut Group, u64, u32, u32, u32),
    ) {
        let per = u64::from(self.per_group);
        let end = first.saturating_add(count);
        let mut at = first;
        while at < end {
            let (index, from) = self.place(at);
            if index >= self.count {
                return;
            }
            let base = index as u64 * per;
            let stop = end.min(base + per);
            let per_group = self.per_group;
            self.groups.change(
                index,
                || Group::Runs(Vec::new()),
                |group| visit(group, base, from, (stop - base) as u32, per_group),
            );
            at = stop;
        }
    }

    /// The runs of one group, within it.
    pub fn runs(&self, group: u32) -> Vec<(u32, u32)> {
        let found = self.groups.with(group as usize, |group| match group {
            Group::Runs(runs) => runs.clone(),
            Group::Bits(bits) => {
                let (mut runs, mut at) = (Vec::new(), 0);
                while let Some(hit) = bitmap::next(bits, at, self.per_group, true) {
                    let end =
                        bitmap::next(bits, hit, self.per_group, false).unwrap_or(self.per_group);
                    runs.push((hit, end));
                    at = end;
                }
                runs
            }
        });
        found.unwrap_or_default()
    }

    /// How many of a group's first `bits` clusters are in the set.
    pub fn count(&self, group: u32, bits: u32) -> u32 {
        let found = self.groups.with(group as usize, |group| match group {
            Group::Runs(runs) => runs
                .iter()
                .map(|&(a, b)| b.min(bits).saturating_sub(a.min(bits)))
                .sum(),
            Group::Bits(bytes) => bitmap::count(bytes, bits),
        });
        found.unwrap_or(0)
    }

    pub fn is_empty(&self) -> bool {
        (0..self.groups.end()).all(|group| self.count(group as u32, self.per_group) == 0)
    }

    /// The first of a run within one group that is not in the set.
    pub fn first_outside(&self, first: u64, end: u64) -> Option<u64> {
        let (group, from) = self.place(first);
        let to = from + end.saturating_sub(first) as u32;
        let found = self.groups.with(group, |group| match group {
            Group::Bits(bits) => bitmap::next(bits, from, to, false),
            Group::Runs(runs) => {
                let index = runs.partition_point(|run| run.1 <= from);
                // Runs are not adjacent.
                let free = match runs.get(index) {
                    Some(&(a, b)) if a <= from => b,
                    _ => from,
                };
                (free < to).then_some(free)
            }
        });
        let free = found.unwrap_or((from < to).then_some(from))?;
        Some(first + u64::from(free - from))
    }

    /// Whether any of the run is in the set.
    pub fn overlaps(&self, first: u64, count: u64) -> bool {
        let end = first.saturating_add(count);
        let per = u64::from(self.per_group);
        let mut at = first;
        while at < end {
            let (index, from) = self.place(at);
            let stop = end.min((index as u64 + 1) * per);
            let to = (stop - index as u64 * per) as u32;
            if index >= self.count {
                return false;
            }
            let hit = self.groups.with(index, |group| match group {
                Group::Bits(bits) => bitmap::next(bits, from, to, true).is_some(),
                Group::Runs(runs) => {
                    let index = runs.partition_point(|run| run.1 <= from);
                    runs.get(index).is_some_and(|run| run.0 < to)
                }
            });
            if hit == Some(true) {
                return true;
            }
            at = stop;
        }
        false
    }

    pub fn add_all(&mut self, other: &Self) {
        for group in 0..other.groups.end() as u32 {
            let base = u64::from(group) * u64::from(other.per_group);
            for (a, b) in other.runs(group) {
                self.add(base + u64::from(a), u64::from(b - a));
            }
        }
    }

    /// Everything of `other` joins; what was in both goes to `twice`.
    pub fn merge(&mut self, mut other: Self, mut twice: impl FnMut(u64, u64)) {
        for group in 0..other.groups.end() as u32 {
            let base = u64::from(group) * u64::from(other.per_group);
            for (a, b) in other.runs(group) {
                self.insert(base + u64::from(a), u64::from(b - a), &mut twice);
            }
            other.groups.take(group as usize);
        }
    }
}

fn insert_run(runs: &mut Vec<(u32, u32)>, from: u32, to: u32, mut twice: impl FnMut(u32, u32)) {
    // Most follow what is there.
    match runs.last_mut() {
        None => return runs.push((from, to)),
        Some(last) if last.1 == from => {
            last.1 = to;
            return;
        }
        Some(last) if last.1 < from => return runs.push((from, to)),
        Some(_) => {}
    }
    // The runs that touch or overlap the new one.
    let first = runs.partition_point(|run| run.1 < from);
    let last = runs.partition_point(|run| run.0 <= to);
    let (mut low, mut high) = (from, to);
    for &(a, b) in &runs[first..last.max(first)] {
        let (x, y) = (a.max(from), b.min(to));
        if x < y {
            twice(x, y);
        }
        low = low.min(a);
        high = high.max(b);
    }
    runs.splice(first..last.max(first), [(low, high)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_a_model_through_both_forms() {
        let set = agree(&Spill::new(None), 1024, 2000);
        let is_bits = set.groups.with(0, |group| matches!(group, Group::Bits(_)));
        assert_eq!(is_bits, Some(true));
    }

    #[test]
    fn agrees_with_a_model_out_of_the_file() {
        let spill = Spill::new(Some(0));
        // So much that nothing is left for the set.
        spill.count(0, spill.limit() + 1);
        agree(&spill, 256, 600);
        assert!(spill.spilled() > 0);
    }

    fn agree(spill: &Arc<Spill>, per_group: u32, rounds: u32) -> BlockSet {
        let groups = 3072 / per_group;
        let mut set = BlockSet::new(per_group, groups, spill);
        let mut model = vec![false; 3072];
        let mut random = 7_u32;
        for round in 0..rounds {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let first = u64::from((random >> 8) % 3072);
            let count = u64::from((random >> 24) % 2 + 1).min(3072 - first);
            let range = first as usize..(first + count) as usize;
            if round % 3 == 2 {
                set.remove(first, count);
                model[range].fill(false);
                continue;
            }
            let mut twice = 0;
            set.insert(first, count, |_, n| twice += n);
            let before = model[range.clone()].iter().filter(|x| **x).count();
            assert_eq!(twice, before as u64);
            model[range].fill(true);
            for (index, value) in model.iter().enumerate() {
                assert_eq!(set.contains(index as u64), *value);
            }
            for group in 0..groups {
                let part = &model[(group * per_group) as usize..][..per_group as usize - 24];
                let ones = part.iter().filter(|x| **x).count();
                assert_eq!(set.count(group, per_group - 24), ones as u32);
            }
            let at = u64::from(random % 3000);
            let any = model[at as usize..at as usize + 70].iter().any(|x| *x);
            assert_eq!(set.overlaps(at, 70), any);
            let end = (at / u64::from(per_group) + 1) * u64::from(per_group);
            let free = (at..end).find(|index| !model[*index as usize]);
            assert_eq!(set.first_outside(at, end), free);
        }
        set
    }
}

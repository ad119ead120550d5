//! The blocks in use while a layout is planned: an ordered set of runs.
//!
//! Source: none; the search is first fit.
//! Invariants: stored runs are not empty, do not overlap and do not touch.

use std::collections::BTreeMap;

/// A run of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub start: u64,
    pub len: u64,
}

impl Run {
    pub fn end(self) -> u64 {
        self.start + self.len
    }

    pub fn blocks(self) -> std::ops::Range<u64> {
        self.start..self.end()
    }
}

#[derive(Clone, Debug, Default)]
pub struct Space {
    /// Start to end (exclusive).
    used: BTreeMap<u64, u64>,
}

impl Space {
    /// Marks a run that is free.
    pub fn mark(&mut self, run: Run) {
        debug_assert_eq!(self.used_in(run), 0, "{run:?} is in use");
        let (mut start, mut end) = (run.start, run.end());
        if let Some((&before, &touching)) = self.used.range(..=start).next_back()
            && touching >= start
        {
            start = before;
            end = end.max(touching);
        }
        if let Some(after) = self.used.remove(&run.end()) {
            end = after;
        }
        self.used.insert(start, end);
    }

    /// The same with every run widened to whole clusters of `cluster` blocks.
    pub fn rounded(self, cluster: u64, end: u64) -> Self {
        if cluster == 1 {
            return self;
        }
        let mut out = Self::default();
        for (&start, &stop) in &self.used {
            let mut start = start / cluster * cluster;
            let stop = stop.next_multiple_of(cluster).min(end);
            start = out
                .used
                .last_key_value()
                .map_or(start, |(_, &before)| start.max(before));
            if start < stop {
                let len = stop - start;
                out.mark(Run { start, len });
            }
        }
        out
    }

    /// How many blocks of `run` are in use.
    pub fn used_in(&self, run: Run) -> u64 {
        self.overlaps(run).map(|used| used.len).sum()
    }

    /// The parts of `run` that are in use, ascending.
    pub fn overlaps(&self, run: Run) -> impl Iterator<Item = Run> + '_ {
        let from = self
            .used
            .range(..=run.start)
            .next_back()
            .map_or(run.start, |(&start, _)| start);
        self.used
            .range(from..run.end().max(from))
            .filter_map(move |(&start, &end)| {
                let (start, end) = (start.max(run.start), end.min(run.end()));
                (start < end).then(|| Run {
                    start,
                    len: end - start,
                })
            })
    }

    /// The first free run of exactly `len` blocks within `from..end`.
    pub fn first_fit(&self, from: u64, len: u64, end: u64) -> Option<u64> {
        let mut at = from;
        while at + len <= end {
            let free = self.free_run(at, end)?;
            if free.len >= len {
                return Some(free.start);
            }
            at = free.end();
        }
        None
    }

    /// The first free run at or after `from`, cut at `end`.
    pub fn free_run(&self, from: u64, end: u64) -> Option<Run> {
        let mut start = from;
        if let Some((_, &used_end)) = self.used.range(..=from).next_back() {
            start = start.max(used_end);
        }
        let stop = self
            .used
            .range(start..)
            .next()
            .map_or(end, |(&next, _)| next.min(end));
        (start < stop).then(|| Run {
            start,
            len: stop - start,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(start: u64, len: u64) -> Run {
        Run { start, len }
    }

    #[test]
    fn runs_that_touch_become_one() {
        let mut space = Space::default();
        space.mark(run(10, 5));
        space.mark(run(20, 5));
        space.mark(run(15, 5));
        assert_eq!(space.used.iter().collect::<Vec<_>>(), [(&10, &25)]);
        assert_eq!(space.used_in(run(0, 12)), 2);
        assert_eq!(space.used_in(run(24, 100)), 1);
        assert_eq!(space.used_in(run(25, 100)), 0);
    }

    #[test]
    fn first_fit_skips_holes_that_are_too_small() {
        let mut space = Space::default();
        space.mark(run(0, 10));
        space.mark(run(12, 8));
        assert_eq!(space.first_fit(0, 2, 100), Some(10));
        assert_eq!(space.first_fit(0, 3, 100), Some(20));
        assert_eq!(space.first_fit(11, 1, 100), Some(11));
        assert_eq!(space.first_fit(0, 3, 22), None);
        assert_eq!(space.free_run(3, 100), Some(run(10, 2)));
    }
}

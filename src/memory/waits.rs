//! How long requests waited: a histogram that costs one atomic add.
//!
//! Source: the design's section on memory (gauges).
//! Invariants: a bucket's bound is at most a quarter above what it holds.

use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Four buckets for each power of two of microseconds.
const BUCKETS: usize = 4 * 40;

pub struct Waits {
    buckets: [AtomicU64; BUCKETS],
    longest: AtomicU64,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
            longest: AtomicU64::new(0),
        }
    }
}

impl Waits {
    pub fn record(&self, waited: Duration) {
        let micros = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket(micros)].fetch_add(1, Ordering::Relaxed);
        self.longest.fetch_max(micros, Ordering::Relaxed);
    }

    pub fn snapshot(&self) -> WaitSnapshot {
        let counts: Vec<u64> = self
            .buckets
            .iter()
            .map(|bucket| bucket.load(Ordering::Relaxed))
            .collect();
        let longest = self.longest.load(Ordering::Relaxed);
        let total: u64 = counts.iter().sum();
        let quantile = |part: u64| {
            let rank = (total * part).div_ceil(100);
            let mut seen = 0;
            for (index, count) in counts.iter().enumerate() {
                seen += count;
                if seen >= rank && *count > 0 {
                    return upper(index).min(longest);
                }
            }
            0
        };
        WaitSnapshot {
            count: total,
            p50_us: quantile(50),
            p99_us: quantile(99),
            max_us: longest,
        }
    }
}

/// Times in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WaitSnapshot {
    pub count: u64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

fn bucket(micros: u64) -> usize {
    if micros < 4 {
        return micros as usize;
    }
    let power = micros.ilog2() as usize;
    let quarter = (micros >> (power - 2)) as usize & 3;
    (4 * (power - 1) + quarter).min(BUCKETS - 1)
}

/// The largest value that falls into a bucket.
fn upper(index: usize) -> u64 {
    if index < 4 {
        return index as u64;
    }
    let (power, quarter) = (index / 4 + 1, index as u64 % 4);
    ((5 + quarter) << (power - 2)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_below_its_bound() {
        for micros in (0..5000).chain([1 << 20, (1 << 30) + 12345]) {
            let bound = upper(bucket(micros));
            assert!(
                bound >= micros && bound <= micros + micros / 4,
                "{micros}: {bound}"
            );
        }
    }

    #[test]
    fn quantiles() {
        let waits = Waits::default();
        assert_eq!(waits.snapshot(), WaitSnapshot::default());
        (1..=1000).for_each(|i| waits.record(Duration::from_micros(i)));
        let all = waits.snapshot();
        assert_eq!((all.count, all.max_us), (1000, 1000));
        assert!((500..625).contains(&all.p50_us), "{all:?}");
        assert!((990..=1000).contains(&all.p99_us), "{all:?}");
    }
}

//! How long requests took, as those who made them saw it, and how many failed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// One thread's requests of one kind.
#[derive(Default)]
pub struct Meter {
    /// Microseconds.
    times: Vec<u32>,
    pub bytes: u64,
    pub failures: u64,
    pub first_failure: Option<String>,
}

impl Meter {
    /// Makes one request, and counts it in `progress`.
    pub fn request<T>(
        &mut self,
        progress: &AtomicU64,
        what: &str,
        make: impl FnOnce() -> std::io::Result<T>,
    ) -> Option<T> {
        let begun = Instant::now();
        let made = make();
        let took = u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX);
        self.times.push(took);
        progress.fetch_add(1, Ordering::Relaxed);
        match made {
            Ok(made) => Some(made),
            Err(error) => {
                self.failures += 1;
                self.first_failure
                    .get_or_insert_with(|| format!("{what}: {error}"));
                None
            }
        }
    }

    pub fn add(&mut self, other: Self) {
        self.times.extend(other.times);
        self.bytes += other.bytes;
        self.failures += other.failures;
        self.first_failure = self.first_failure.take().or(other.first_failure);
    }

    pub fn count(&self) -> u64 {
        self.times.len() as u64
    }

    pub fn latency(mut self) -> Latency {
        self.times.sort_unstable();
        let at = |part: f64| {
            let index = (self.times.len() as f64 * part) as usize;
            let last = self.times.len().checked_sub(1)?;
            self.times.get(index.min(last)).copied()
        };
        Latency {
            count: self.times.len() as u64,
            p50_us: at(0.5).unwrap_or(0),
            p99_us: at(0.99).unwrap_or(0),
            max_us: at(1.0).unwrap_or(0),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Latency {
    pub count: u64,
    pub p50_us: u32,
    pub p99_us: u32,
    pub max_us: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_measured() {
        let meter = Meter {
            times: (1..=200).rev().collect(),
            ..Meter::default()
        };
        let latency = meter.latency();
        assert_eq!(
            (latency.p50_us, latency.p99_us, latency.max_us),
            (101, 199, 200)
        );
        assert_eq!(Meter::default().latency().max_us, 0);
    }

    #[test]
    fn failures_are_counted_as_requests() {
        let (progress, mut meter) = (AtomicU64::new(0), Meter::default());
        let failed = || Err::<(), _>(std::io::ErrorKind::OutOfMemory.into());
        assert!(meter.request(&progress, "write", failed).is_none());
        assert_eq!(
            (meter.count(), meter.failures, progress.into_inner()),
            (1, 1, 1)
        );
    }
}

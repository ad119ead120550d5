//! Where the core gets the time from: it reads no clock itself, so that a simulation can repeat a run exactly.
//!
//! Source: the design's decision on `step()` functions under a clock.
//! Invariants: `monotonic` never goes back.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub trait Clock: Send + Sync {
    /// Seconds (may be negative) and nanoseconds since 1970.
    fn wall(&self) -> (i64, u32);
    /// Time since some fixed start.
    fn monotonic(&self) -> Duration;
}

/// The machine's clocks.
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn wall(&self) -> (i64, u32) {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => (since.as_secs().cast_signed(), since.subsec_nanos()),
            Err(_) => (0, 0),
        }
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

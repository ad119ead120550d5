//! On demand, with feature `faults` (`-o fault=leak=100`): one frame or charge of so many takes its memory along when it goes,
//! although it is counted as given back. The proof of the cap from outside must fail with such a daemon.
//!
//! Source: the design's section on memory (proof from outside).
//! Invariants: without the feature, or unasked, nothing here does anything.

#[cfg(feature = "faults")]
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(feature = "faults")]
static ONE_OF: AtomicU64 = AtomicU64::new(0);

/// From now on one of `number` is lost.
#[cfg(feature = "faults")]
pub fn one_of(number: u64) {
    ONE_OF.store(number, Ordering::Relaxed);
}

/// Whether what goes now is lost.
#[cfg(feature = "faults")]
pub(super) fn is_due() -> bool {
    static GONE: AtomicU64 = AtomicU64::new(0);
    match ONE_OF.load(Ordering::Relaxed) {
        0 => false,
        number => GONE.fetch_add(1, Ordering::Relaxed) % number == number - 1,
    }
}

#[cfg(not(feature = "faults"))]
pub(super) fn is_due() -> bool {
    false
}

/// `bytes` of the heap go; perhaps as many are lost.
pub(super) fn some(bytes: u64) {
    if bytes > 0 && is_due() {
        // Written to, so that it is resident.
        std::mem::forget(vec![1_u8; usize::try_from(bytes).unwrap_or(0)]);
    }
}

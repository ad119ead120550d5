//! With feature `leaks`: one frame or charge of a hundred takes its memory along when it goes, although it is counted as given
//! back. The proof of the cap from outside must fail with such a program.
//!
//! Source: the design's section on memory (proof from outside).
//! Invariants: without the feature nothing here does anything.

#[cfg(feature = "leaks")]
use std::sync::atomic::{AtomicU64, Ordering};

/// Whether what goes now is lost.
#[cfg(feature = "leaks")]
pub(super) fn is_due() -> bool {
    static GONE: AtomicU64 = AtomicU64::new(0);
    GONE.fetch_add(1, Ordering::Relaxed) % 100 == 99
}

#[cfg(not(feature = "leaks"))]
pub(super) fn is_due() -> bool {
    false
}

/// `bytes` of the heap go; perhaps as many are lost.
#[cfg(feature = "leaks")]
pub(super) fn some(bytes: u64) {
    if bytes > 0 && is_due() {
        // Written to, so that it is resident.
        std::mem::forget(vec![1_u8; usize::try_from(bytes).unwrap_or(0)]);
    }
}

#[cfg(not(feature = "leaks"))]
pub(super) fn some(_: u64) {}

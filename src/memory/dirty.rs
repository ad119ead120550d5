//! How much file data may wait for the device, and the wait of those who would add to it.
//!
//! Source: the design's sections on memory and delayed allocation (throttling).
//! Invariants: who waits here holds no lock and no handle; flushers never come here; a slice of waiting ends by itself.

use super::{Class, Memory, Waits};
use crate::sync::{Condvar, Mutex, Rank};
use std::time::Duration;

/// The longest slice of a wait.
const SLICE: Duration = Duration::from_millis(20);

/// Wakes those who wait for data to be written.
pub(super) struct DirtyGate {
    lock: Mutex<()>,
    less: Condvar,
    pub(super) waits: Waits,
}

impl Default for DirtyGate {
    fn default() -> Self {
        Self {
            lock: Mutex::new(Rank::Leaf, ()),
            less: Condvar::new(),
            waits: Waits::default(),
        }
    }
}

impl Memory {
    /// Bytes of delayed data.
    pub fn dirty(&self) -> u64 {
        self.gauges.current(Class::Dirty)
    }

    /// Delayed data beyond this waits for the flushers.
    pub fn dirty_limit(&self) -> u64 {
        self.cap / 3
    }

    /// Delayed data beyond this is written although it is young.
    pub fn dirty_background(&self) -> u64 {
        self.cap / 12
    }

    pub fn is_over_dirty_limit(&self) -> bool {
        self.dirty() > self.dirty_limit()
    }

    /// Waits one slice, or less when data has been written.
    pub fn wait_for_less_dirty(&self) {
        let mut guard = self.dirty_gate.lock.lock();
        if self.is_over_dirty_limit() {
            self.dirty_gate.less.wait_for(&mut guard, SLICE);
        }
    }

    /// So long a write was held up.
    pub fn note_dirty_wait(&self, waited: Duration) {
        self.dirty_gate.waits.record(waited);
    }

    /// Data has been written.
    pub fn less_is_dirty(&self) {
        self.dirty_gate.less.notify_all();
    }
}

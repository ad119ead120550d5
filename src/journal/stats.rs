//! What the journal did, and for how long it held others up.
//!
//! Source: the design's section on the control channel (gauges).
//! Invariants: a wait is counted once, under what ended it last.

use crate::memory::{WaitSnapshot, Waits};
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Default)]
pub(super) struct Stats {
    pub(super) commits: AtomicU64,
    pub(super) gatherings: AtomicU64,
    pub(super) blocks_logged: AtomicU64,
    pub(super) checkpoints: AtomicU64,
    pub(super) blocks_home: AtomicU64,
    pub(super) commit_times: Waits,
    pub(super) checkpoint_times: Waits,
    pub(super) held_up: [Waits; 3],
}

/// Why a handle could not be opened at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The transaction was being closed.
    Closing,
    /// It was full: it had to be committed first.
    Full,
    /// Too much memory was pinned: blocks had to go home first.
    Pinned,
}

impl Stats {
    pub(super) fn snapshot(&self) -> Snapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let [closing, full, pinned] = [0, 1, 2].map(|cause: usize| self.held_up[cause].snapshot());
        Snapshot {
            commits: read(&self.commits),
            gatherings: read(&self.gatherings),
            blocks_logged: read(&self.blocks_logged),
            checkpoints: read(&self.checkpoints),
            blocks_home: read(&self.blocks_home),
            commit_times: self.commit_times.snapshot(),
            checkpoint_times: self.checkpoint_times.snapshot(),
            closing,
            full,
            pinned,
        }
    }
}

/// Counts and times since the mount.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    pub commits: u64,
    /// Commits that were put off a moment for those whom the one before had served.
    pub gatherings: u64,
    pub blocks_logged: u64,
    /// Rounds of writing home, each with two syncs.
    pub checkpoints: u64,
    pub blocks_home: u64,
    pub commit_times: WaitSnapshot,
    pub checkpoint_times: WaitSnapshot,
    /// Handles that waited for a transaction to be closed, for a full one's commit, and for pinned memory.
    pub closing: WaitSnapshot,
    pub full: WaitSnapshot,
    pub pinned: WaitSnapshot,
}

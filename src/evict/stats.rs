//! What eviction did and what it cost, counted by cause, outcome and step.
//!
//! Source: the design's section on the eviction path (each step counted and timed).
//! Invariants: every eviction that begins has one cause and one outcome.

use crate::memory::{WaitSnapshot, Waits};
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why an inode is evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Whoever wanted memory did it.
    Direct,
    /// The evictor's thread.
    Evictor,
    /// Somebody asked for it (`uext4 evict`), or the mount ends.
    Asked,
}

#[derive(Default)]
pub(super) struct Stats {
    pub(super) causes: [AtomicU64; 3],
    pub(super) evicted: AtomicU64,
    pub(super) with_preallocations: AtomicU64,
    pub(super) put_back: AtomicU64,
    pub(super) skipped: AtomicU64,
    pub(super) dirty: AtomicU64,
    /// Preallocation trees given up.
    pub(super) discarded: AtomicU64,
    pub(super) buddy_loads: AtomicU64,
    pub(super) buddy_builds: AtomicU64,
    pub(super) bitmap_reads: AtomicU64,
    pub(super) allocations: AtomicU64,
    pub(super) retries: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) steps: [Waits; Step::ALL.len()],
}

/// The steps of the path, by the kernel's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    WaitForWriteback,
    TruncatePages,
    ClearInode,
    DiscardPreallocations,
    LoadBuddy,
    Release,
}

impl Step {
    pub const ALL: [Self; 6] = [
        Self::WaitForWriteback,
        Self::TruncatePages,
        Self::ClearInode,
        Self::DiscardPreallocations,
        Self::LoadBuddy,
        Self::Release,
    ];
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Stats {
    pub(super) fn snapshot(&self, policy: &'static str, from: &'static str) -> Snapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let [direct, evictor, asked] = [0, 1, 2].map(|cause: usize| read(&self.causes[cause]));
        Snapshot {
            policy,
            from,
            direct,
            evictor,
            asked,
            evicted: read(&self.evicted),
            with_preallocations: read(&self.with_preallocations),
            put_back: read(&self.put_back),
            skipped: read(&self.skipped),
            dirty: read(&self.dirty),
            preallocations_discarded: read(&self.discarded),
            buddy_loads: read(&self.buddy_loads),
            buddy_builds: read(&self.buddy_builds),
            bitmap_reads: read(&self.bitmap_reads),
            allocations: read(&self.allocations),
            retries: read(&self.retries),
            failures: read(&self.failures),
            steps: Step::ALL
                .map(|step| StepSnapshot {
                    step,
                    times: self.steps[step as usize].snapshot(),
                })
                .to_vec(),
            swept: 0,
            private_bytes: 0,
        }
    }
}

/// Counts since the mount.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    pub policy: &'static str,
    pub from: &'static str,
    /// Evictions by cause.
    pub direct: u64,
    pub evictor: u64,
    pub asked: u64,
    /// By outcome: gone, or put back because the policy said "later".
    pub evicted: u64,
    pub put_back: u64,
    /// Of those gone: with blocks set aside.
    pub with_preallocations: u64,
    /// Passed over by the policy, and because they were dirty.
    pub skipped: u64,
    pub dirty: u64,
    /// Inodes whose preallocations were given up.
    pub preallocations_discarded: u64,
    /// Inside reclaim: buddies asked for, built, bitmaps read, allocations of frames, attempts again.
    pub buddy_loads: u64,
    pub buddy_builds: u64,
    pub bitmap_reads: u64,
    pub allocations: u64,
    pub retries: u64,
    /// Evictions that could not give the blocks back and left that to the next mount: none, unless the device fails.
    pub failures: u64,
    pub steps: Vec<StepSnapshot>,
    /// Inodes dropped beside the path, since they held nothing but themselves.
    pub swept: u64,
    /// What the policy keeps for itself, in bytes of the cap.
    pub private_bytes: u64,
}

/// How long one step took, each time.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StepSnapshot {
    pub step: Step,
    pub times: WaitSnapshot,
}

//! What memory is used for, counted by class, with the highest values seen.
//!
//! Source: the design's section on memory (classes).
//! Invariants: a class's count is the sum of its live frames, buffers and charges; counters are never negative.

use super::Memory;
use super::reserves::ReserveSnapshot;
use super::waits::WaitSnapshot;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What memory is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Metadata buffers.
    Meta,
    Buddy,
    /// File data not yet written.
    Dirty,
    /// Contiguous buffers of requests.
    Io,
    Inode,
    Prealloc,
    ExtentStatus,
    /// What the kernel holds against us.
    Lookup,
    /// Extents freed but not yet committed.
    Freed,
    Group,
    Handle,
}

impl Class {
    pub const ALL: [Self; 11] = [
        Self::Meta,
        Self::Buddy,
        Self::Dirty,
        Self::Io,
        Self::Inode,
        Self::Prealloc,
        Self::ExtentStatus,
        Self::Lookup,
        Self::Freed,
        Self::Group,
        Self::Handle,
    ];

    /// As reports have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Buddy => "buddy",
            Self::Dirty => "dirty",
            Self::Io => "io",
            Self::Inode => "inode",
            Self::Prealloc => "prealloc",
            Self::ExtentStatus => "extent_status",
            Self::Lookup => "lookup",
            Self::Freed => "freed",
            Self::Group => "group",
            Self::Handle => "handle",
        }
    }
}

/// A count of bytes and the highest it has been.
#[derive(Default)]
struct Gauge {
    current: AtomicU64,
    peak: AtomicU64,
}

impl Gauge {
    fn add(&self, bytes: u64) {
        let now = self.current.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if now > self.peak.load(Ordering::Relaxed) {
            self.peak.fetch_max(now, Ordering::Relaxed);
        }
    }

    fn remove(&self, bytes: u64) {
        let before = self.current.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "more given back than taken");
    }

    fn read(&self) -> (u64, u64) {
        (
            self.current.load(Ordering::Relaxed),
            self.peak.load(Ordering::Relaxed),
        )
    }
}

#[derive(Default)]
pub(super) struct Gauges {
    classes: [Gauge; Class::ALL.len()],
    total: Gauge,
    reserved: Gauge,
    overdrawn: AtomicU64,
    /// Bytes of delayed data that are no more, since the mount.
    cleaned: AtomicU64,
}

impl Gauges {
    pub(super) fn add(&self, class: Class, bytes: u64) {
        self.classes[class as usize].add(bytes);
        self.total.add(bytes);
    }

    pub(super) fn remove(&self, class: Class, bytes: u64) {
        self.classes[class as usize].remove(bytes);
        self.total.remove(bytes);
        if class == Class::Dirty {
            self.cleaned.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    pub(super) fn reserve(&self, bytes: u64) {
        self.reserved.add(bytes);
    }

    pub(super) fn unreserve(&self, bytes: u64) {
        self.reserved.remove(bytes);
    }

    /// An operation took more than its `Need` says.
    pub(super) fn overdraw(&self, frames: u32) {
        self.overdrawn
            .fetch_add(u64::from(frames), Ordering::Relaxed);
    }

    pub(super) fn current(&self, class: Class) -> u64 {
        self.classes[class as usize].current.load(Ordering::Relaxed)
    }

    pub(super) fn cleaned(&self) -> u64 {
        self.cleaned.load(Ordering::Relaxed)
    }

    pub(super) fn io_in_use(&self) -> u64 {
        self.classes[Class::Io as usize]
            .current
            .load(Ordering::Relaxed)
    }

    pub(super) fn reserved(&self) -> u64 {
        self.reserved.current.load(Ordering::Relaxed)
    }

    pub(super) fn used(&self) -> u64 {
        self.total.current.load(Ordering::Relaxed)
    }

    pub(super) fn snapshot(&self, memory: &Memory) -> Snapshot {
        let (used, peak) = self.total.read();
        let (reserved, reserved_peak) = self.reserved.read();
        let classes = Class::ALL.map(|class| {
            let (current, peak) = self.classes[class as usize].read();
            ClassSnapshot {
                class,
                current,
                peak,
            }
        });
        Snapshot {
            cap: memory.cap,
            frame_size: memory.frame_size,
            frame_cost: memory.frame_cost,
            promised: memory.ledger.promised(),
            idle_buffers: memory.buffers.idle_bytes(),
            used,
            peak,
            reserved,
            reserved_peak,
            overdrawn_frames: self.overdrawn.load(Ordering::Relaxed),
            classes: classes.to_vec(),
            reserves: memory.reserve_snapshots(),
            waits: memory.waits.snapshot(),
            waits_in_reclaim: memory.waits_in_reclaim.snapshot(),
            deferred: memory.deferred.bytes(),
            throttled: memory.deferred.waits(),
            held_answers: memory.dirty_gate.held.snapshot(),
            dirty_waits: memory.dirty_gate.waits.snapshot(),
            activity: memory.stats.snapshot(),
        }
    }
}

/// The budget at one moment; all but counts of frames in bytes.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    pub cap: u64,
    pub frame_size: u32,
    /// What a frame counts for: itself and what is kept about it.
    pub frame_cost: u64,
    /// Used, or held by tokens, reserves and idle buffers.
    pub promised: u64,
    /// Buffers that nobody uses at the moment.
    pub idle_buffers: u64,
    pub used: u64,
    pub peak: u64,
    /// Admitted but not yet taken.
    pub reserved: u64,
    pub reserved_peak: u64,
    /// Frames taken beyond a `Need` since the mount: 0 unless a bound is wrong.
    pub overdrawn_frames: u64,
    pub classes: Vec<ClassSnapshot>,
    pub reserves: Vec<ReserveSnapshot>,
    /// Of requests at admission that did not get their memory at once.
    pub waits: WaitSnapshot,
    /// Of eviction for the memory it has to allocate.
    pub waits_in_reclaim: WaitSnapshot,
    /// Inodes that are left to the evictor, in bytes, and the waits of requests for it to catch up.
    pub deferred: u64,
    pub throttled: WaitSnapshot,
    /// Of writers, and of threads that serve them, for delayed data to become less.
    pub held_answers: WaitSnapshot,
    pub dirty_waits: WaitSnapshot,
    pub activity: Activity,
}

/// What admission did since the mount.
#[derive(Default)]
pub(super) struct Stats {
    pub(super) admissions: AtomicU64,
    pub(super) direct: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) overdrafts: AtomicU64,
    pub(super) overdraft_bytes: AtomicU64,
    pub(super) shrinks: AtomicU64,
}

impl Stats {
    fn snapshot(&self) -> Activity {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Activity {
            admissions: read(&self.admissions),
            direct_reclaims: read(&self.direct),
            refused: read(&self.refused),
            overdrafts: read(&self.overdrafts),
            overdraft_bytes: read(&self.overdraft_bytes),
            shrinks: read(&self.shrinks),
        }
    }
}

/// Counts since the mount.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Activity {
    pub admissions: u64,
    /// Admissions that made room themselves and were served without waiting.
    pub direct_reclaims: u64,
    /// Requests that got ENOMEM.
    pub refused: u64,
    /// Times that memory was taken which nobody had promised, and how much.
    pub overdrafts: u64,
    pub overdraft_bytes: u64,
    /// Rounds of the shrinkers.
    pub shrinks: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct ClassSnapshot {
    pub class: Class,
    pub current: u64,
    pub peak: u64,
}

impl Snapshot {
    pub fn class(&self, class: Class) -> ClassSnapshot {
        self.classes[class as usize]
    }
}

/// Accounts for heap memory until dropped.
pub struct Charge {
    memory: Arc<Memory>,
    class: Class,
    bytes: u64,
}

impl Charge {
    pub(super) fn new(memory: Arc<Memory>, class: Class, bytes: usize) -> Self {
        memory.pay_bytes(bytes as u64);
        memory.gauges.add(class, bytes as u64);
        Self {
            memory,
            class,
            bytes: bytes as u64,
        }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What is accounted for has become `bytes` large.
    pub fn resize(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        super::leak::some(self.bytes.saturating_sub(bytes));
        if bytes > self.bytes {
            self.memory.pay_bytes(bytes - self.bytes);
            self.memory.gauges.add(self.class, bytes - self.bytes);
        } else {
            self.memory.gauges.remove(self.class, self.bytes - bytes);
            self.memory.ledger.release(self.bytes - bytes);
        }
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        super::leak::some(self.bytes);
        self.memory.gauges.remove(self.class, self.bytes);
        self.memory.ledger.release(self.bytes);
    }
}

//! Inodes that are left to the evictor's thread because they cost something, and the wait of those who bring more.
//!
//! Source: the design's sections on memory (backpressure) and on the eviction path (deferred inode reclaim).
//! Invariants: who waits here holds no lock, no handle and no token; it waits for the evictor's progress, the longer the more is
//! deferred, and never longer than a slice; without an evictor nobody waits.

use super::waits::WaitSnapshot;
use super::{Memory, Waits, account};
use crate::sync::{Condvar, Mutex, Rank};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The part of the cap that may be deferred without anybody being held up.
const FREE_PART: u64 = 32;
/// Of what is deferred beyond that, whoever brings more waits for this part to go.
const OWED_PART: u64 = 8;
/// The longest that one request is held up.
const SLICE: Duration = Duration::from_millis(50);

pub(super) struct Deferred {
    bytes: AtomicU64,
    /// Bytes that were deferred and are no more.
    done: AtomicU64,
    /// How many wait.
    held_up: AtomicU64,
    gate: Mutex<()>,
    progress: Condvar,
    waits: Waits,
}

impl Default for Deferred {
    fn default() -> Self {
        Self {
            bytes: AtomicU64::new(0),
            done: AtomicU64::new(0),
            held_up: AtomicU64::new(0),
            gate: Mutex::new(Rank::Memory, ()),
            progress: Condvar::new(),
            waits: Waits::default(),
        }
    }
}

impl Deferred {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn waits(&self) -> WaitSnapshot {
        self.waits.snapshot()
    }
}

impl Memory {
    /// So much is left to the evictor.
    pub fn defer(&self, bytes: u64) {
        self.deferred.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The evictor has done it, or need not any more.
    pub fn defer_no_more(&self, bytes: u64) {
        self.deferred.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.deferred.done.fetch_add(bytes, Ordering::SeqCst);
        if self.deferred.held_up.load(Ordering::SeqCst) > 0 {
            drop(self.deferred.gate.lock());
            self.deferred.progress.notify_all();
        }
    }

    /// How much too much is deferred.
    pub(super) fn deferred_too_much(&self) -> u64 {
        self.deferred.bytes().saturating_sub(self.cap / FREE_PART)
    }

    /// Holds a request up in proportion to what is deferred; see the invariants.
    pub(super) fn throttle(&self) {
        let beyond = self.deferred_too_much();
        if beyond == 0 || account::has_token(self.id()) || !self.call_evictor() {
            return;
        }
        let start = self.now();
        let deferred = &self.deferred;
        deferred.held_up.fetch_add(1, Ordering::SeqCst);
        let wanted = deferred.done.load(Ordering::SeqCst) + (beyond / OWED_PART).max(1);
        {
            let mut gate = deferred.gate.lock();
            while deferred.done.load(Ordering::SeqCst) < wanted && self.deferred_too_much() > 0 {
                if deferred.progress.wait_for(&mut gate, SLICE) {
                    break;
                }
            }
        }
        deferred.held_up.fetch_sub(1, Ordering::SeqCst);
        deferred.waits.record(self.now().saturating_sub(start));
    }

    /// Wakes the evictor's thread; false when there is none, or when others evict.
    fn call_evictor(&self) -> bool {
        if self.relief().is_none_or(|relief| relief.prunes_directly()) {
            return false;
        }
        let mut queue = self.ledger.queue.lock();
        if queue.served {
            queue.pressed = true;
            self.ledger.moved.notify_all();
        }
        queue.served
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::memory::{Need, Reclaimer, Relief};
    use std::sync::Arc;

    /// Evicts what is deferred when it is asked, if it works.
    struct Evictor {
        memory: Arc<Memory>,
        works: bool,
    }

    impl Relief for Evictor {
        fn prune(&self, bytes: u64, by: Reclaimer) {
            assert_eq!(by, Reclaimer::Evictor);
            let mut left = bytes.min(self.memory.deferred.bytes());
            while self.works && left > 0 {
                let step = left.min(512);
                self.memory.defer_no_more(step);
                left -= step;
            }
        }
        fn unpin(&self) {}
        fn write_back(&self) {}
        fn prunes_directly(&self) -> bool {
            false
        }
    }

    fn budget(works: bool) -> (Arc<Memory>, Arc<Evictor>) {
        let memory = Memory::new(4 << 20, 4096, 1 << 16);
        memory.set_clock(Arc::new(SystemClock::new()));
        let evictor = Arc::new(Evictor {
            memory: Arc::clone(&memory),
            works,
        });
        let relief: Arc<dyn Relief> = evictor.clone();
        memory.set_relief(Arc::downgrade(&relief));
        (memory, evictor)
    }

    /// Invariant 10 of the budget.
    #[test]
    fn a_request_waits_for_the_evictor_while_too_much_is_deferred() {
        let (memory, _evictor) = budget(true);
        memory.defer(1 << 20);
        // Nobody would wake it.
        drop(memory.request(Need::frames(1)).unwrap());
        assert_eq!(memory.snapshot().throttled.count, 0);
        memory.set_served(true);
        let requester = Arc::clone(&memory);
        let thread = std::thread::spawn(move || drop(requester.request(Need::frames(1)).unwrap()));
        while !thread.is_finished() {
            memory.wait_for_pressure(Duration::from_millis(5));
            memory.serve_step();
        }
        thread.join().unwrap();
        let snapshot = memory.snapshot();
        assert_eq!(snapshot.throttled.count, 1);
        assert!(
            snapshot.deferred <= memory.cap() / FREE_PART,
            "{}",
            snapshot.deferred
        );
        drop(memory.request(Need::frames(1)).unwrap());
        assert_eq!(memory.snapshot().throttled.count, 1);
    }

    /// Invariant 10 of the budget.
    #[test]
    fn an_evictor_that_stands_still_holds_nobody_up_for_long() {
        let (memory, _evictor) = budget(false);
        memory.defer(1 << 20);
        memory.set_served(true);
        let start = std::time::Instant::now();
        drop(memory.request(Need::frames(1)).unwrap());
        assert!(start.elapsed() >= SLICE / 2 && start.elapsed() < 40 * SLICE);
        assert!(memory.snapshot().throttled.max_us > 0);
        memory.set_served(false);
    }
}

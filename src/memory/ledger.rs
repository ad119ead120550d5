//! What has been promised, and the queue of those for whom nothing was left.
//!
//! Source: the design's section on memory (admission, floor, why it cannot deadlock).
//! Invariants: `promised` is what is used plus what tokens and reserves hold; it passes the cap only by counted
//! overdrafts. Waiters are served first come first served, urgent ones before the others, reserves before all; and before all
//! but these whoever has to go on in the middle of an operation, and holds what others may wait for.

use super::reserves::{Pool, Reserve};
use crate::sync::{Condvar, Mutex, Rank};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

pub(super) struct Ledger {
    pub(super) cap: u64,
    promised: AtomicU64,
    /// Somebody wants what is given back next.
    hungry: AtomicBool,
    /// How many make room in the middle of an operation.
    steps: AtomicU64,
    /// Counts what was given back.
    releases: AtomicU64,
    pub(super) queue: Mutex<Queue>,
    /// For whoever makes room: something was given back, somebody has come to wait, use has passed the high mark.
    pub(super) moved: Condvar,
    pub(super) pools: [Pool; Reserve::ALL.len()],
}

#[derive(Default)]
pub(super) struct Queue {
    pub(super) waiting: VecDeque<Arc<Waiter>>,
    /// A thread of its own makes room.
    pub(super) served: bool,
    /// One of the waiters makes room.
    pub(super) driven: bool,
    /// Use has passed the high mark.
    pub(super) pressed: bool,
    /// How many wait to be told of anything given back.
    pub(super) curious: u32,
}

/// Who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// May be told that there is no memory.
    Request,
    /// Has to be served in the end.
    Worker,
    /// Has to be served before others can be.
    Urgent,
}

pub(super) struct Waiter {
    pub(super) bytes: u64,
    pub(super) kind: Kind,
    /// Changed under the queue's lock.
    outcome: AtomicU8,
    pub(super) wake: Condvar,
}

impl Ledger {
    pub(super) fn new(cap: u64) -> Self {
        Self {
            cap,
            promised: AtomicU64::new(0),
            hungry: AtomicBool::new(false),
            steps: AtomicU64::new(0),
            releases: AtomicU64::new(0),
            queue: Mutex::new(Rank::Memory, Queue::default()),
            moved: Condvar::new(),
            pools: Default::default(),
        }
    }

    pub(super) fn promised(&self) -> u64 {
        self.promised.load(Ordering::SeqCst)
    }

    pub(super) fn is_hungry(&self) -> bool {
        self.hungry.load(Ordering::SeqCst)
    }

    pub(super) fn releases(&self) -> u64 {
        self.releases.load(Ordering::SeqCst)
    }

    /// Promises `bytes` if that stays under the cap; returns what is promised then.
    pub(super) fn promise(&self, bytes: u64) -> Option<u64> {
        let before = self
            .promised
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |promised| {
                promised
                    .checked_add(bytes)
                    .filter(|&after| after <= self.cap)
            });
        before.ok().map(|before| before + bytes)
    }

    /// Promises `bytes` whatever there is.
    pub(super) fn force(&self, bytes: u64) {
        self.promised.fetch_add(bytes, Ordering::SeqCst);
    }

    /// Gives `bytes` back. Takes no lock unless somebody wants them.
    pub(super) fn release(&self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let before = self.promised.fetch_sub(bytes, Ordering::SeqCst);
        debug_assert!(before >= bytes, "more given back than promised");
        self.releases.fetch_add(1, Ordering::SeqCst);
        if self.is_hungry() {
            self.serve(&mut self.queue.lock());
        }
    }

    /// What was held by a running request is held no more: who waits for that looks again.
    pub(super) fn note_release(&self) {
        self.releases.fetch_add(1, Ordering::SeqCst);
        if self.is_hungry() {
            self.serve(&mut self.queue.lock());
        }
    }

    /// Hands what is free to reserves and waiters.
    pub(super) fn serve(&self, queue: &mut Queue) {
        // Whoever gives back from here on looks again.
        self.hungry.store(true, Ordering::SeqCst);
        let refilled = self.pools.iter().fold(true, |all, pool| {
            let missing = pool.missing();
            let free = self.cap.saturating_sub(self.promised());
            let got = missing.min(free);
            all & if got > 0 && self.promise(got).is_some() {
                pool.put_back(got);
                got == missing
            } else {
                missing == 0
            }
        });
        while let Some(front) = queue.waiting.front() {
            let may = (refilled && !self.is_stepped()) || front.kind == Kind::Urgent;
            if !may || self.promise(front.bytes).is_none() {
                break;
            }
            if let Some(waiter) = queue.waiting.pop_front() {
                waiter.settle(true);
            }
        }
        if refilled && queue.waiting.is_empty() && queue.curious == 0 && !self.is_stepped() {
            self.hungry.store(false, Ordering::SeqCst);
        }
        self.moved.notify_all();
    }

    fn is_stepped(&self) -> bool {
        self.steps.load(Ordering::SeqCst) > 0
    }

    /// Until the result is dropped, what is given back is not handed to those who wait: the caller takes of it first.
    pub(super) fn step_first(&self) -> Step<'_> {
        self.steps.fetch_add(1, Ordering::SeqCst);
        self.hungry.store(true, Ordering::SeqCst);
        Step(self)
    }

    /// Draws `bytes` from a reserve; what is missing is refilled first from then on.
    pub(super) fn draw(&self, reserve: Reserve, bytes: u64) -> bool {
        let drawn = self.pools[reserve as usize].draw(bytes);
        if drawn {
            self.hungry.store(true, Ordering::SeqCst);
        }
        drawn
    }

    /// From now on whoever gives back looks whom to tell.
    pub(super) fn wake_on_release(&self) {
        self.hungry.store(true, Ordering::SeqCst);
    }

    pub(super) fn enqueue(&self, queue: &mut Queue, bytes: u64, kind: Kind) -> Arc<Waiter> {
        let waiter = Arc::new(Waiter {
            bytes,
            kind,
            outcome: AtomicU8::new(WAITING),
            wake: Condvar::new(),
        });
        if kind == Kind::Urgent {
            let urgent = queue.waiting.iter().take_while(|w| w.kind == Kind::Urgent);
            let place = urgent.count();
            queue.waiting.insert(place, Arc::clone(&waiter));
        } else {
            queue.waiting.push_back(Arc::clone(&waiter));
        }
        self.serve(queue);
        waiter
    }

    /// Whether the first waiter works inside of reclaim.
    pub(super) fn is_urgent(&self, queue: &Queue) -> bool {
        let front = queue.waiting.front();
        front.is_some_and(|waiter| waiter.kind == Kind::Urgent)
    }

    /// Serves the first waiter from the evictor's reserve, if that has enough.
    pub(super) fn serve_from_reserve(&self, queue: &mut Queue) -> bool {
        let Some(front) = queue.waiting.front() else {
            return false;
        };
        let drawn = self.draw(Reserve::Evictor, front.bytes);
        if drawn && let Some(waiter) = queue.waiting.pop_front() {
            waiter.settle(true);
        }
        drawn
    }

    /// When nothing can be freed any more: the newest request is refused; if none waits, the oldest waiter gets what
    /// it wants beyond the cap. Returns what was done.
    pub(super) fn give_up(&self, queue: &mut Queue) -> GaveUp {
        let urgent = self.is_urgent(queue);
        let newest = queue.waiting.iter().rposition(|w| w.kind == Kind::Request);
        let newest = newest.filter(|_| !urgent);
        if let Some(waiter) = newest.and_then(|at| queue.waiting.remove(at)) {
            waiter.settle(false);
            return GaveUp::Refused;
        }
        if self.serve_from_reserve(queue) {
            return GaveUp::Nothing;
        }
        match queue.waiting.pop_front() {
            Some(waiter) => {
                self.force(waiter.bytes);
                waiter.settle(true);
                GaveUp::Overdrawn(waiter.bytes)
            }
            None => GaveUp::Nothing,
        }
    }
}

/// Somebody goes before those who wait.
pub(super) struct Step<'l>(&'l Ledger);

impl Drop for Step<'_> {
    fn drop(&mut self) {
        self.0.steps.fetch_sub(1, Ordering::SeqCst);
        self.0.serve(&mut self.0.queue.lock());
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GaveUp {
    Nothing,
    Refused,
    Overdrawn(u64),
}

const WAITING: u8 = 0;
const SERVED: u8 = 1;
const REFUSED: u8 = 2;

impl Waiter {
    fn settle(&self, served: bool) {
        let outcome = if served { SERVED } else { REFUSED };
        self.outcome.store(outcome, Ordering::Release);
        self.wake.notify_all();
    }

    /// Whether it was served; `None`: it still waits.
    pub(super) fn outcome(&self) -> Option<bool> {
        match self.outcome.load(Ordering::Acquire) {
            WAITING => None,
            outcome => Some(outcome == SERVED),
        }
    }
}

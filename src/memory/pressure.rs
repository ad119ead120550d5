//! Making room: by the evictor's thread where there is one, else by those who wait.
//!
//! Source: the design's section on memory (shrinkers, watermarks, direct reclaim, backpressure).
//! Invariants: who makes room holds no lock, no handle and no token; nobody sleeps in a loop: each wait ends with what
//! it waits for (memory given back, a waiter come, the end of the mount).

use super::account;
use super::ledger::{GaveUp, Kind, Queue};
use super::{Class, Memory, Need, Point};
use crate::error::{Posix, Result};
use crate::sync::{MutexGuard, patience};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// What is above the budget and can turn used memory into free memory.
pub trait Relief: Send + Sync {
    /// Evicts inodes that cost something, about `bytes` worth. Called with nothing held.
    fn prune(&self, bytes: u64, by: Reclaimer);

    /// Commits and writes home: what was pinned can be freed afterwards. Called with at most inode locks held.
    fn unpin(&self);

    /// Writes delayed data. Called with nothing held.
    fn write_back(&self);

    /// Whether whoever wants memory evicts inodes itself.
    fn prunes_directly(&self) -> bool;
}

/// Who reclaims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reclaimer {
    /// Whoever wants memory.
    Direct,
    /// The evictor's thread.
    Evictor,
}

/// Parts of the cap: above the first the evictor begins, below the second it ends.
const HIGH: u64 = 15;
const LOW: u64 = 14;
const MARKS: u64 = 16;
/// How long work inside of reclaim waits for memory before it asks the shrinkers again.
const AGAIN: Duration = Duration::from_millis(100);

impl Memory {
    /// Who is asked when shrinkers are not enough.
    pub fn set_relief(&self, relief: Weak<dyn Relief>) {
        *self.relief.lock() = Some(relief);
    }

    pub(super) fn relief(&self) -> Option<Arc<dyn Relief>> {
        self.relief.lock().as_ref().and_then(Weak::upgrade)
    }

    /// Promises `bytes`, waiting for them.
    pub(super) fn acquire(&self, bytes: u64, kind: Kind) -> Result<()> {
        self.stats.admissions.fetch_add(1, Ordering::Relaxed);
        let granted = self.granted(Point::Admission);
        if !granted && kind == Kind::Request {
            return Err(Posix::NoMem.into());
        }
        if granted && self.promise_politely(bytes, kind) {
            return Ok(());
        }
        // A second token could wait for the first one's memory for ever.
        if account::has_token(self.id()) {
            debug_assert!(!self.strict, "admitted while a token is held");
            self.overdraft(bytes);
            return Ok(());
        }
        // What is done in reclaim is not begun again.
        let _insisting = patience::insist_meanwhile();
        let start = self.now();
        self.reclaim_directly(bytes);
        if self.promise_politely(bytes, kind) {
            self.stats.direct.fetch_add(1, Ordering::Relaxed);
            self.waits.record(self.now().saturating_sub(start));
            return Ok(());
        }
        let served = self.wait(bytes, kind);
        self.waits.record(self.now().saturating_sub(start));
        if served {
            Ok(())
        } else {
            Err(Posix::NoMem.into())
        }
    }

    /// Promises what fits, unless others wait for it.
    fn promise_politely(&self, bytes: u64, kind: Kind) -> bool {
        if kind != Kind::Urgent && self.ledger.is_hungry() {
            return false;
        }
        match self.ledger.promise(bytes) {
            Some(promised) => {
                self.press(promised);
                true
            }
            None => false,
        }
    }

    /// Wakes the evictor when use has passed the high mark.
    pub(super) fn press(&self, promised: u64) {
        if promised > self.cap / MARKS * HIGH && !self.pressed.swap(true, Ordering::Relaxed) {
            let mut queue = self.ledger.queue.lock();
            queue.pressed = true;
            self.ledger.moved.notify_all();
        }
    }

    fn reclaim_directly(&self, bytes: u64) {
        self.shrink(bytes);
        if let Some(relief) = self.relief()
            && relief.prunes_directly()
        {
            relief.prune(self.share_of_inodes(bytes), Reclaimer::Direct);
        }
    }

    /// Inodes go as all else goes: their part of `bytes`, and of what shrinkers free beyond.
    fn share_of_inodes(&self, bytes: u64) -> u64 {
        let all = self.ledger.promised().max(1);
        if bytes == 0 {
            return 0;
        }
        let batch = bytes.saturating_add(super::SHRINK_BATCH * self.frame_cost);
        batch.saturating_mul(self.used_by(Class::Inode)) / all
    }

    fn wait(&self, bytes: u64, kind: Kind) -> bool {
        let mut queue = self.ledger.queue.lock();
        let waiter = self.ledger.enqueue(&mut queue, bytes, kind);
        loop {
            if let Some(served) = waiter.outcome() {
                return served;
            }
            if queue.served || queue.driven {
                waiter.wake.wait(&mut queue);
                continue;
            }
            queue.driven = true;
            drop(queue);
            self.make_room(Reclaimer::Direct);
            queue = self.ledger.queue.lock();
            queue.driven = false;
            // Somebody else has to go on, if there is more to do.
            if let Some(next) = queue.waiting.front() {
                next.wake.notify_all();
            }
        }
    }

    /// One round of making room for those who wait. Returns when somebody was served, something was given back, or the
    /// newest request was refused because nothing can be.
    fn make_room(&self, by: Reclaimer) {
        let seen = self.ledger.releases();
        let relief = self.relief();
        for effort in 0..3 {
            let wanted = self.wanted();
            if wanted == 0 {
                return;
            }
            match (effort, &relief) {
                (0, _) => {
                    self.shrink(wanted);
                }
                (1, Some(relief)) => relief.prune(wanted, by),
                (_, Some(relief)) => {
                    relief.write_back();
                    self.unpin(relief.as_ref());
                    self.shrink(wanted);
                    relief.prune(wanted, by);
                }
                _ => {}
            }
            self.ledger.serve(&mut self.ledger.queue.lock());
        }
        let mut queue = self.ledger.queue.lock();
        if self.ledger.releases() != seen || queue.waiting.is_empty() {
            return;
        }
        // Work inside of reclaim holds up whoever looks for the inode that it evicts: it is served from the evictor's reserve,
        // which comes back by itself, since nobody waits for anything while he holds a part of it.
        let urgent = self.ledger.is_urgent(&queue);
        if urgent && self.ledger.serve_from_reserve(&mut queue) {
            return;
        }
        if self.others_hold_memory() {
            self.await_release(&mut queue, seen, urgent);
            return;
        }
        self.give_up(queue);
    }

    /// What running requests hold comes back without anybody's help.
    fn others_hold_memory(&self) -> bool {
        self.tokens.load(Ordering::SeqCst) > 0 || self.gauges.io_in_use() > 0
    }

    /// `urgent`: shrinkers are asked again after a while, since what was locked may be free by then.
    fn await_release(&self, queue: &mut MutexGuard<'_, Queue>, seen: u64, urgent: bool) {
        while self.ledger.releases() == seen && self.others_hold_memory() {
            if !urgent {
                self.ledger.moved.wait(queue);
            } else if self.ledger.moved.wait_for(queue, AGAIN) {
                return;
            }
        }
    }

    fn give_up(&self, mut queue: MutexGuard<'_, Queue>) {
        let gave_up = self.ledger.give_up(&mut queue);
        drop(queue);
        match gave_up {
            GaveUp::Nothing => {}
            GaveUp::Refused => {
                if self.stats.refused.fetch_add(1, Ordering::Relaxed) == 0 {
                    log::error!(
                        target: "uext4::memory",
                        "out of memory: a request was refused, later ones may be: {}",
                        serde_json::to_string(&self.snapshot()).unwrap_or_default()
                    );
                }
            }
            GaveUp::Overdrawn(bytes) => self.count_overdraft(bytes),
        }
    }

    /// What the first waiter lacks and reserves miss, at least a batch; 0: nobody waits.
    fn wanted(&self) -> u64 {
        let queue = self.ledger.queue.lock();
        let Some(front) = queue.waiting.front() else {
            return 0;
        };
        let missing: u64 = self.ledger.pools.iter().map(|pool| pool.missing()).sum();
        let promised = self.ledger.promised();
        (promised + front.bytes + missing).saturating_sub(self.cap)
    }

    /// Whether a thread of its own makes room from now on (`serve_step`).
    pub fn set_served(&self, served: bool) {
        let mut queue = self.ledger.queue.lock();
        queue.served = served;
        for waiter in &queue.waiting {
            waiter.wake.notify_all();
        }
        self.ledger.moved.notify_all();
    }

    /// Sleeps until somebody waits or use passes the high mark, at most `limit`. For the evictor's thread.
    pub fn wait_for_pressure(&self, limit: Duration) {
        let mut queue = self.ledger.queue.lock();
        if queue.waiting.is_empty() && !queue.pressed && queue.served {
            self.ledger.moved.wait_for(&mut queue, limit);
        }
    }

    /// One round of the evictor: makes room for those who wait, else works down to the low mark.
    pub fn serve_step(&self) {
        let (waiting, pressed) = {
            let mut queue = self.ledger.queue.lock();
            (
                !queue.waiting.is_empty(),
                std::mem::take(&mut queue.pressed),
            )
        };
        if waiting {
            self.make_room(Reclaimer::Evictor);
        } else if pressed {
            self.pressed.store(false, Ordering::Relaxed);
            let over = self
                .ledger
                .promised()
                .saturating_sub(self.cap / MARKS * LOW);
            if over > 0 {
                self.shrink(over);
            }
            // What is deferred is its work although nobody lacks memory yet.
            let inodes = self.share_of_inodes(over).max(self.deferred_too_much());
            if inodes > 0
                && let Some(relief) = self.relief()
                && !relief.prunes_directly()
            {
                relief.prune(inodes, Reclaimer::Evictor);
            }
        }
    }

    /// For work inside of reclaim, where nothing can be evicted any more. Beside an evictor a requester waits at the head of the
    /// queue. Otherwise it makes room itself: shrinkers, the evictor's reserve, a commit, and waits for as long as anybody holds
    /// memory that can come back.
    pub(super) fn acquire_urgently(&self, bytes: u64, by: Reclaimer) {
        if self.granted(Point::Admission) && self.ledger.promise(bytes).is_some() {
            return;
        }
        let start = self.now();
        let others_serve = by == Reclaimer::Direct && self.ledger.queue.lock().served;
        if others_serve {
            self.wait(bytes, Kind::Urgent);
        } else {
            self.make_room_alone(bytes);
        }
        self.waits_in_reclaim
            .record(self.now().saturating_sub(start));
    }

    fn make_room_alone(&self, bytes: u64) {
        for effort in 0_u32.. {
            if effort == 2
                && let Some(relief) = self.relief()
            {
                self.unpin(relief.as_ref());
            }
            self.shrink(bytes);
            if self.ledger.promise(bytes).is_some() || self.draw(super::Reserve::Evictor, bytes) {
                return;
            }
            if effort >= 2 {
                if !self.others_hold_memory() {
                    break;
                }
                self.await_any_release(AGAIN);
            }
        }
        self.overdraft(bytes);
    }

    pub(super) fn await_any_release(&self, limit: Duration) {
        let mut queue = self.ledger.queue.lock();
        queue.curious += 1;
        self.ledger.wake_on_release();
        self.ledger.moved.wait_for(&mut queue, limit);
        queue.curious -= 1;
    }

    /// What went home can be freed now, though nothing was given back by it: shrinkers that found nothing before are asked again.
    fn unpin(&self, relief: &dyn Relief) {
        relief.unpin();
        self.quiet_until.store(0, Ordering::Relaxed);
    }

    /// Promises `bytes` for the next step of an operation that holds inode locks: frees what it can, commits and writes home
    /// what is pinned, takes them from the thread's reserve if it has one, but waits for no other request. What comes free
    /// meanwhile is its own before anybody's who waits.
    pub(super) fn promise_for_step(&self, bytes: u64) {
        if self.granted(Point::Admission)
            && let Some(promised) = self.ledger.promise(bytes)
        {
            return self.press(promised);
        }
        // Those who wait would take each block that is freed here, and get no further for it.
        let _first = self.ledger.step_first();
        for effort in 0..3 {
            if effort == 1
                && let Some(relief) = self.relief()
            {
                self.unpin(relief.as_ref());
            }
            self.shrink(bytes);
            if let Some(promised) = self.ledger.promise(bytes) {
                return self.press(promised);
            }
        }
        if let Some(reserve) = account::reserve(self.id())
            && self.draw(reserve, bytes)
        {
            return;
        }
        self.overdraft(bytes);
    }

    pub(super) fn frames_cost(&self, frames: u32) -> u64 {
        u64::from(frames) * self.frame_cost
    }

    /// Bytes of a need.
    pub(super) fn cost(&self, need: Need) -> u64 {
        self.frames_cost(need.frames + super::admission::FILLS) + u64::from(need.bytes)
    }
}

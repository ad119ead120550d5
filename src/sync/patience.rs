//! Who may wait for the device: of those who serve requests, only some at one time.
//!
//! Source: the design's FUSE facts (workers do not sleep).
//! Invariants: a thread counts only while it serves a request (`Places::serve`), and only while it waits. Where no place is
//! left, whoever can begin again elsewhere is refused before it has changed anything; whoever cannot (`insist`) waits all the
//! same. Threads that serve nobody are neither counted nor refused.

use crate::error::{Posix, Result};
use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many of the threads that serve requests may wait.
#[derive(Debug)]
pub struct Places {
    taken: AtomicUsize,
    most: usize,
}

thread_local! {
    static SERVES: RefCell<Option<Arc<Places>>> = const { RefCell::new(None) };
    static CAN_BEGIN_AGAIN: Cell<bool> = const { Cell::new(false) };
}

impl Places {
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            taken: AtomicUsize::new(0),
            most,
        })
    }

    /// From now on this thread serves a request, until the result is dropped; `can_begin_again`: it may be refused.
    pub fn serve(self: &Arc<Self>, can_begin_again: bool) -> Serving {
        SERVES.set(Some(Arc::clone(self)));
        CAN_BEGIN_AGAIN.set(can_begin_again);
        Serving(PhantomData)
    }

    /// Whether somebody waits and nobody else should begin to.
    pub fn are_taken(&self) -> bool {
        self.taken.load(Ordering::Relaxed) >= self.most.max(1)
    }

    /// One of the places, if one is left.
    pub fn take(self: &Arc<Self>) -> Option<Place> {
        if self.taken.fetch_add(1, Ordering::Relaxed) < self.most {
            return Some(Place(Some(Arc::clone(self))));
        }
        self.taken.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

/// A thread serves a request.
pub struct Serving(PhantomData<*const ()>);

impl Drop for Serving {
    fn drop(&mut self) {
        SERVES.set(None);
        CAN_BEGIN_AGAIN.set(false);
    }
}

/// The right to wait for the device.
#[must_use]
pub struct Place(Option<Arc<Places>>);

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(places) = &self.0 {
            places.taken.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Before a wait for the device. `Again`: what this thread does is to begin again where one may wait.
pub fn before_waiting() -> Result<Place> {
    SERVES.with_borrow(|serves| {
        let Some(places) = serves else {
            return Ok(Place(None));
        };
        if CAN_BEGIN_AGAIN.get() {
            return places.take().ok_or_else(|| Posix::Again.into());
        }
        places.taken.fetch_add(1, Ordering::Relaxed);
        Ok(Place(Some(Arc::clone(places))))
    })
}

/// What this thread does cannot begin again any more.
pub fn insist() {
    CAN_BEGIN_AGAIN.set(false);
}

/// The same until the result is dropped: for work that others are served by.
pub fn insist_meanwhile() -> Insisting {
    Insisting(CAN_BEGIN_AGAIN.replace(false), PhantomData)
}

pub struct Insisting(bool, PhantomData<*const ()>);

impl Drop for Insisting {
    fn drop(&mut self) {
        CAN_BEGIN_AGAIN.set(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_can_begin_again_is_refused_when_all_places_are_taken() {
        let places = Places::new(1);
        let first = places.take().expect("a place is left");
        assert!(places.are_taken() && places.take().is_none());
        let serving = places.serve(true);
        let refused = before_waiting().err().expect("refused");
        assert!(refused.is_posix(Posix::Again));
        drop(first);
        let second = before_waiting().expect("a place is left");
        assert!(places.are_taken());
        {
            let _insisting = insist_meanwhile();
            drop(before_waiting().expect("insisted"));
        }
        assert!(before_waiting().is_err());
        insist();
        drop((before_waiting().expect("insisted"), second));
        assert!(!places.are_taken());
        drop(serving);
    }

    #[test]
    fn who_serves_nobody_is_not_counted() {
        let places = Places::new(0);
        drop(places.serve(true));
        let place = before_waiting().expect("not refused");
        drop(place);
        assert_eq!(places.taken.load(Ordering::Relaxed), 0);
    }
}

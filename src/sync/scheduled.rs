//! The lock primitives under a scheduler that a test drives (the crate `shuttle`), in parking_lot's shape. Tests alone,
//! with the feature `shuttle`.
//!
//! Source: the design's section on block ownership: its judge.
//! Invariants: every step that takes or gives a lock is a point at which another thread may go on.

use shuttle::sync as inner;
use std::ops::{Deref, DerefMut};
use std::sync::{LockResult, PoisonError, TryLockError};
use std::time::Duration;

fn unpoisoned<G>(result: LockResult<G>) -> G {
    result.unwrap_or_else(PoisonError::into_inner)
}

fn tried<G>(result: Result<G, TryLockError<G>>) -> Option<G> {
    match result {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(error)) => Some(error.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

pub(super) struct Mutex<T: ?Sized>(inner::Mutex<T>);
pub(super) struct RwLock<T: ?Sized>(inner::RwLock<T>);
#[derive(Default)]
pub(super) struct Condvar(inner::Condvar);

/// Always there but while its condition is waited for.
pub(super) struct MutexGuard<'a, T: ?Sized>(Option<inner::MutexGuard<'a, T>>);
pub(super) type RwLockReadGuard<'a, T> = inner::RwLockReadGuard<'a, T>;
pub(super) type RwLockWriteGuard<'a, T> = inner::RwLockWriteGuard<'a, T>;

impl<T> Mutex<T> {
    pub(super) const fn new(value: T) -> Self {
        Self(inner::Mutex::new(value))
    }

    pub(super) fn into_inner(self) -> T {
        unpoisoned(self.0.into_inner())
    }
}

impl<T: ?Sized> Mutex<T> {
    pub(super) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(unpoisoned(self.0.lock())))
    }

    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        tried(self.0.try_lock()).map(|guard| MutexGuard(Some(guard)))
    }

    pub(super) fn get_mut(&mut self) -> &mut T {
        unpoisoned(self.0.get_mut())
    }
}

impl<T> RwLock<T> {
    pub(super) const fn new(value: T) -> Self {
        Self(inner::RwLock::new(value))
    }
}

impl<T: ?Sized> RwLock<T> {
    pub(super) fn read(&self) -> RwLockReadGuard<'_, T> {
        unpoisoned(self.0.read())
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, T> {
        unpoisoned(self.0.write())
    }

    pub(super) fn try_write(&self) -> Option<RwLockWriteGuard<'_, T>> {
        tried(self.0.try_write())
    }

    pub(super) fn get_mut(&mut self) -> &mut T {
        unpoisoned(self.0.get_mut())
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.0.as_deref().expect("not being waited with")
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_deref_mut().expect("not being waited with")
    }
}

pub(super) struct WaitResult;

impl WaitResult {
    pub(super) fn timed_out(&self) -> bool {
        false
    }
}

impl Condvar {
    pub(super) const fn new() -> Self {
        Self(inner::Condvar::new())
    }

    pub(super) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        guard.0 = guard.0.take().map(|held| unpoisoned(self.0.wait(held)));
    }

    pub(super) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _: Duration) -> WaitResult {
        self.wait(guard);
        WaitResult
    }

    pub(super) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(super) fn notify_all(&self) {
        self.0.notify_all();
    }
}

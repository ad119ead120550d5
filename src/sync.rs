//! The lock primitives of the whole crate. Every lock has a rank; in debug builds a thread that takes
//! a lock of a lower rank than one it holds panics, so that a wrong order fails in any test that runs it.
//!
//! Source: the lock order of the design, repeated by `Rank`.
//! Invariants: ranks are taken in ascending order; two locks of one rank only where `Rank::may_repeat`.

pub mod patience;
#[cfg(all(test, feature = "shuttle"))]
mod scheduled;

#[cfg(not(all(test, feature = "shuttle")))]
use parking_lot as imp;
#[cfg(all(test, feature = "shuttle"))]
use scheduled as imp;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

/// The lock order, first to last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Rank {
    /// Freeze and remount.
    Freeze,
    /// One rename that moves a directory at a time.
    Rename,
    /// Inode locks: ancestor first, else ascending number.
    Inode,
    /// Waiting for I/O in flight.
    Drain,
    /// Not a lock: an open journal handle.
    Handle,
    /// An inode's map and attributes.
    Map,
    /// The orphan list: an inode goes on it while its attributes change.
    Orphan,
    /// Write access to a metadata buffer.
    BufferWrite,
    /// An inode's tree of preallocations.
    Prealloc,
    /// A block group, ascending.
    Group,
    /// The journal's transaction state.
    Transaction,
    /// Shards of the cache, the inode table, LRU lists and lookup counts.
    Shard,
    /// Leaf locks: under them a frame may be taken or dropped, nothing else.
    Leaf,
    /// The arena's free list and counters of the memory budget; the last of all.
    Memory,
}

#[cfg(all(debug_assertions, not(feature = "shuttle")))]
impl Rank {
    fn may_repeat(self) -> bool {
        matches!(
            self,
            Rank::Inode | Rank::BufferWrite | Rank::Group | Rank::Map
        )
    }
}

#[cfg(all(debug_assertions, not(feature = "shuttle")))]
mod order {
    use super::Rank;
    use std::cell::RefCell;

    thread_local! {
        static HELD: RefCell<Vec<Rank>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn acquire(rank: Rank) {
        HELD.with_borrow_mut(|held| {
            if let Some(&highest) = held.iter().max() {
                assert!(
                    rank > highest || (rank == highest && rank.may_repeat()),
                    "lock order: {rank:?} taken while {highest:?} is held"
                );
            }
            held.push(rank);
        });
    }

    /// A lock taken by `try_lock` waits for nobody, so it may stand anywhere in the order.
    pub(super) fn acquire_untested(rank: Rank) {
        HELD.with_borrow_mut(|held| held.push(rank));
    }

    pub(super) fn release(rank: Rank) {
        HELD.with_borrow_mut(|held| {
            let position = held.iter().rposition(|&r| r == rank).expect("a held rank");
            held.remove(position);
        });
    }
}

/// Stands on a thread's list of held ranks for as long as it lives.
#[derive(Debug)]
pub struct RankToken {
    #[cfg(all(debug_assertions, not(feature = "shuttle")))]
    rank: Rank,
    /// A rank belongs to the thread that took it.
    _not_send: std::marker::PhantomData<*const ()>,
}

impl RankToken {
    /// For a lock that was had without waiting.
    #[allow(unused_variables)]
    fn acquire_untested(rank: Rank) -> Self {
        #[cfg(all(debug_assertions, not(feature = "shuttle")))]
        order::acquire_untested(rank);
        Self {
            #[cfg(all(debug_assertions, not(feature = "shuttle")))]
            rank,
            _not_send: std::marker::PhantomData,
        }
    }

    #[allow(unused_variables)]
    pub fn acquire(rank: Rank) -> Self {
        #[cfg(all(debug_assertions, not(feature = "shuttle")))]
        order::acquire(rank);
        Self {
            #[cfg(all(debug_assertions, not(feature = "shuttle")))]
            rank,
            _not_send: std::marker::PhantomData,
        }
    }
}

impl Drop for RankToken {
    fn drop(&mut self) {
        #[cfg(all(debug_assertions, not(feature = "shuttle")))]
        order::release(self.rank);
    }
}

macro_rules! guard {
    ($name:ident, $inner:ident, mutable) => {
        guard!($name, $inner);
        impl<T: ?Sized> DerefMut for $name<'_, T> {
            fn deref_mut(&mut self) -> &mut T {
                &mut self.guard
            }
        }
    };
    ($name:ident, $inner:ident) => {
        pub struct $name<'a, T: ?Sized> {
            guard: imp::$inner<'a, T>,
            _rank: RankToken,
        }
        impl<T: ?Sized> Deref for $name<'_, T> {
            type Target = T;
            fn deref(&self) -> &T {
                &self.guard
            }
        }
    };
}

guard!(MutexGuard, MutexGuard, mutable);
guard!(ReadGuard, RwLockReadGuard);
guard!(WriteGuard, RwLockWriteGuard, mutable);

/// A mutual-exclusion lock with a rank.
pub struct Mutex<T: ?Sized> {
    rank: Rank,
    inner: imp::Mutex<T>,
}

impl<T> Mutex<T> {
    pub const fn new(rank: Rank, value: T) -> Self {
        Self {
            rank,
            inner: imp::Mutex::new(value),
        }
    }

    pub fn into_inner(self) -> T {
        self.inner.into_inner()
    }
}

impl<T: ?Sized> Mutex<T> {
    pub fn lock(&self) -> MutexGuard<'_, T> {
        let rank = RankToken::acquire(self.rank);
        MutexGuard {
            guard: self.inner.lock(),
            _rank: rank,
        }
    }

    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let guard = self.inner.try_lock()?;
        Some(MutexGuard {
            guard,
            _rank: RankToken::acquire_untested(self.rank),
        })
    }

    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }
}

/// A reader/writer lock with a rank.
pub struct RwLock<T: ?Sized> {
    rank: Rank,
    inner: imp::RwLock<T>,
}

impl<T> RwLock<T> {
    pub const fn new(rank: Rank, value: T) -> Self {
        Self {
            rank,
            inner: imp::RwLock::new(value),
        }
    }
}

impl<T: ?Sized> RwLock<T> {
    pub fn read(&self) -> ReadGuard<'_, T> {
        let rank = RankToken::acquire(self.rank);
        ReadGuard {
            guard: self.inner.read(),
            _rank: rank,
        }
    }

    pub fn write(&self) -> WriteGuard<'_, T> {
        let rank = RankToken::acquire(self.rank);
        WriteGuard {
            guard: self.inner.write(),
            _rank: rank,
        }
    }

    pub fn try_write(&self) -> Option<WriteGuard<'_, T>> {
        let guard = self.inner.try_write()?;
        Some(WriteGuard {
            guard,
            _rank: RankToken::acquire_untested(self.rank),
        })
    }

    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }
}

/// A condition variable for `Mutex`.
#[derive(Default)]
pub struct Condvar(imp::Condvar);

impl Condvar {
    pub const fn new() -> Self {
        Self(imp::Condvar::new())
    }

    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        self.0.wait(&mut guard.guard);
    }

    /// Returns whether the time ran out.
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, timeout: Duration) -> bool {
        self.0.wait_for(&mut guard.guard, timeout).timed_out()
    }

    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

#[cfg(all(test, debug_assertions, not(feature = "shuttle")))]
mod tests {
    use super::*;

    #[test]
    fn ascending_ranks_are_fine() {
        let inode = Mutex::new(Rank::Inode, 1);
        let map = RwLock::new(Rank::Map, 2);
        let _inode = inode.lock();
        let _map = map.write();
    }

    #[test]
    #[should_panic(expected = "lock order")]
    fn descending_ranks_panic() {
        let inode = Mutex::new(Rank::Inode, 1);
        let map = RwLock::new(Rank::Map, 2);
        let _map = map.read();
        let _inode = inode.lock();
    }
}

//! What the kernel holds against us: how often it knows each inode, and who has it open.
//!
//! Source: FUSE's lookup counts (LOOKUP, FORGET), OPEN/RELEASE, FUSE_NOTIFY_PRUNE; the design's section on memory.
//! Invariants: a count does not keep the inode in memory; lookups are counted before the reply is written and take at most their
//! share, an eighth of the cap; FORGET and RELEASE neither wait nor do I/O.

mod prune;
mod tally;

use crate::error::{Error, Posix, Result};
use crate::file::Users;
use crate::ids::InodeNumber;
use crate::memory::{Charge, Class, Memory};
use crate::sync::{Mutex, Rank};
use prune::Prune;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tally::{BLOCK_BYTES, SPAN, Tally};

const SHARDS: u32 = 32;
/// The part of the cap that lookups may take.
const SHARE: u64 = 8;

struct Shard {
    lookups: Tally,
    opens: Tally,
    writers: Tally,
    known: Charge,
    open: Charge,
}

impl Shard {
    fn is_used(&self, ino: InodeNumber) -> bool {
        self.lookups.get(ino) > 0 || self.opens.get(ino) > 0
    }

    /// Charges what the counts take now.
    fn settle(&mut self) {
        resize(&mut self.known, self.lookups.bytes());
        resize(&mut self.open, self.opens.bytes() + self.writers.bytes());
    }
}

fn resize(charge: &mut Charge, bytes: u64) {
    if charge.bytes() != bytes {
        charge.resize(usize::try_from(bytes).unwrap_or(usize::MAX));
    }
}

pub(crate) struct Known {
    memory: Arc<Memory>,
    shards: Vec<Mutex<Shard>>,
    /// Bytes that lookups may take.
    limit: u64,
    /// Bytes of lookups that were promised but are not counted yet.
    promised: AtomicU64,
    refused: AtomicU64,
    unnamed: AtomicU64,
    prune: Prune,
}

/// What `uext4 stats` shows.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct KnownStats {
    /// Inodes that the kernel knows.
    pub inodes: u64,
    /// How often, all together.
    pub lookups: u64,
    /// Open files.
    pub open: u64,
    /// What lookups may take, in bytes.
    pub limit: u64,
    /// Requests that got ENOMEM since lookups took all of it.
    pub refused: u64,
    /// Entries of READDIRPLUS that were given without their inode.
    pub unnamed: u64,
    /// Notifications that asked the kernel to forget, and the inodes that they named.
    pub prunes_sent: u64,
    pub inodes_pruned: u64,
}

impl Known {
    pub(crate) fn new(memory: &Arc<Memory>) -> Self {
        let shard = |_| {
            let shard = Shard {
                lookups: Tally::default(),
                opens: Tally::default(),
                writers: Tally::default(),
                known: memory.charge(Class::Lookup, 0),
                open: memory.charge(Class::Handle, 0),
            };
            Mutex::new(Rank::Shard, shard)
        };
        Self {
            memory: Arc::clone(memory),
            shards: (0..SHARDS).map(shard).collect(),
            limit: memory.cap() / SHARE,
            promised: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            unnamed: AtomicU64::new(0),
            prune: Prune::new(),
        }
    }

    /// The kernel is about to be told of the inode, once more or for the first time.
    ///
    /// # Errors
    /// `NoMem` when it was not known and lookups take all of their share.
    pub(crate) fn look_up(&self, ino: InodeNumber) -> Result<()> {
        let counted = {
            let mut shard = self.shard(ino).lock();
            let promise = (!shard.lookups.has_room(ino)).then(|| Promise::new(self));
            let counted = promise.is_none() || self.has_room();
            if counted {
                shard.lookups.add(ino, 1);
                shard.settle();
            }
            counted
        };
        self.press();
        if counted { Ok(()) } else { Err(self.refuse()) }
    }

    fn refuse(&self) -> Error {
        self.refused.fetch_add(1, Ordering::Relaxed);
        Posix::NoMem.into()
    }

    /// The same for an inode that the kernel knows already.
    pub(crate) fn looked_up(&self, ino: InodeNumber) {
        {
            let mut shard = self.shard(ino).lock();
            shard.lookups.add(ino, 1);
            shard.settle();
        }
        self.press();
    }

    /// Room for one more inode, before it is made.
    ///
    /// # Errors
    /// `NoMem` when lookups take all of their share.
    pub(crate) fn promise(&self) -> Result<Promise<'_>> {
        let promise = Promise::new(self);
        if self.has_room() {
            return Ok(promise);
        }
        drop(promise);
        self.press();
        Err(self.refuse())
    }

    /// Whether what is counted and what is promised fit.
    fn has_room(&self) -> bool {
        // In this order: what is counted meanwhile is seen twice at worst.
        let promised = self.promised.load(Ordering::SeqCst);
        promised + self.taken() <= self.limit
    }

    fn taken(&self) -> u64 {
        self.memory.used_by(Class::Lookup)
    }

    /// Whether READDIRPLUS should tell of no more inodes; counts one that it did not tell of.
    pub(crate) fn leaves_out(&self) -> bool {
        let near = self.taken() > self.limit / 4 * 3;
        if near {
            self.unnamed.fetch_add(1, Ordering::Relaxed);
        }
        near
    }

    /// Takes lookups back; true when nobody knows or uses the inode any more.
    pub(crate) fn forget(&self, ino: InodeNumber, lookups: u64) -> bool {
        let mut shard = self.shard(ino).lock();
        shard.lookups.remove(ino, lookups);
        shard.settle();
        !shard.is_used(ino)
    }

    pub(crate) fn opened(&self, ino: InodeNumber, writer: bool) {
        let mut shard = self.shard(ino).lock();
        shard.opens.add(ino, 1);
        shard.writers.add(ino, u64::from(writer));
        shard.settle();
    }

    /// Returns whether the last writer closed, and whether nobody knows or uses the inode any more.
    pub(crate) fn closed(&self, ino: InodeNumber, writer: bool) -> (bool, bool) {
        let mut shard = self.shard(ino).lock();
        shard.opens.remove(ino, 1);
        let last_writer = writer && shard.writers.remove(ino, 1) == 0;
        shard.settle();
        (last_writer, !shard.is_used(ino))
    }

    pub(crate) fn is_used(&self, ino: InodeNumber) -> bool {
        self.shard(ino).lock().is_used(ino)
    }

    pub(crate) fn stats(&self) -> KnownStats {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (prunes_sent, inodes_pruned) = self.prune.sent();
        let mut stats = KnownStats {
            inodes: 0,
            lookups: 0,
            open: 0,
            limit: self.limit,
            refused: read(&self.refused),
            unnamed: read(&self.unnamed),
            prunes_sent,
            inodes_pruned,
        };
        for shard in &self.shards {
            let shard = shard.lock();
            stats.inodes += shard.lookups.live();
            stats.lookups += shard.lookups.total();
            stats.open += shard.opens.total();
        }
        stats
    }

    /// At the end of the mount nobody knows anything any more.
    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.lookups = Tally::default();
            shard.opens = Tally::default();
            shard.writers = Tally::default();
            shard.settle();
        }
    }

    fn shard(&self, ino: InodeNumber) -> &Mutex<Shard> {
        &self.shards[(ino.get() / SPAN % SHARDS) as usize]
    }
}

/// Room for one inode; the lookup itself is counted with `looked_up`.
pub(crate) struct Promise<'k>(&'k Known);

impl<'k> Promise<'k> {
    fn new(known: &'k Known) -> Self {
        known.promised.fetch_add(BLOCK_BYTES, Ordering::SeqCst);
        Self(known)
    }
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        self.0.promised.fetch_sub(BLOCK_BYTES, Ordering::SeqCst);
    }
}

impl Users for Known {
    fn has_writer(&self, ino: InodeNumber) -> bool {
        self.shard(ino).lock().writers.get(ino) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(count: u32) -> impl Iterator<Item = InodeNumber> {
        (1..=count).map(InodeNumber::new)
    }

    /// Invariant 9 of the budget.
    #[test]
    fn what_is_known_is_charged_and_given_back() {
        let memory = Memory::new(1 << 20, 4096, 1 << 17);
        let known = Known::new(&memory);
        let used = |class| memory.snapshot().class(class).current;
        all(5000).for_each(|ino| known.look_up(ino).unwrap());
        assert!(
            (5000..10_000).contains(&used(Class::Lookup)),
            "{}",
            used(Class::Lookup)
        );
        all(5000).for_each(|ino| known.opened(ino, true));
        assert!(used(Class::Handle) >= 10_000, "{}", used(Class::Handle));
        assert!(all(5000).all(|ino| !known.forget(ino, 1) && known.has_writer(ino)));
        assert_eq!(used(Class::Lookup), 0);
        assert!(all(5000).all(|ino| known.closed(ino, true) == (true, true)));
        assert_eq!(used(Class::Handle), 0);
        all(5000).for_each(|ino| known.looked_up(ino));
        known.clear();
        assert_eq!(used(Class::Lookup), 0);
    }

    /// Invariant 9 of the budget.
    #[test]
    fn lookups_stay_within_their_share() {
        let memory = Memory::new(1 << 20, 4096, 1 << 17);
        let known = Known::new(&memory);
        let far_apart = |i: u32| InodeNumber::new(i * 1000 + 1);
        let granted = (0..5000).take_while(|&i| known.look_up(far_apart(i)).is_ok());
        let granted = granted.count() as u32;
        assert!((500..800).contains(&granted), "{granted}");
        let used = || memory.snapshot().class(Class::Lookup).peak;
        assert!(used() <= memory.cap() / SHARE, "{}", used());
        assert!(known.promise().is_err() && known.leaves_out());
        // What is known already can be looked up again, and what takes no memory.
        known.look_up(far_apart(3)).unwrap();
        known.look_up(InodeNumber::new(3002)).unwrap();
        assert!((0..granted / 2).all(|i| known.forget(far_apart(i), 2)));
        assert!(!known.leaves_out());
        let promises: Vec<_> = std::iter::from_fn(|| known.promise().ok())
            .take(5000)
            .collect();
        assert!((granted / 3..granted).contains(&(promises.len() as u32)));
        assert_eq!(known.stats().refused, 3);
    }
}

//! What the kernel holds against us: how often it knows each inode, and who has it open.
//!
//! Source: FUSE's lookup counts (LOOKUP, FORGET) and OPEN/RELEASE; the design's section on memory.
//! Invariants: an entry exists exactly while one of its counts is not zero; it does not keep the inode in memory.

use crate::ids::InodeNumber;
use crate::sync::{Mutex, Rank};
use std::collections::HashMap;

const SHARDS: usize = 16;

#[derive(Clone, Copy, Default)]
struct Counts {
    lookups: u64,
    opens: u32,
    writers: u32,
}

impl Counts {
    fn is_zero(self) -> bool {
        self.lookups == 0 && self.opens == 0
    }
}

pub(crate) struct Known {
    shards: Vec<Mutex<HashMap<InodeNumber, Counts>>>,
}

impl Known {
    pub(crate) fn new() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::new(Rank::Shard, HashMap::new())).collect();
        Self { shards }
    }

    /// The kernel has been told of the inode once more. Counted before the reply is written.
    pub(crate) fn looked_up(&self, ino: InodeNumber) {
        self.change(ino, |counts| counts.lookups += 1);
    }

    /// Takes lookups back; true when nobody knows or uses the inode any more.
    pub(crate) fn forget(&self, ino: InodeNumber, lookups: u64) -> bool {
        self.change(ino, |counts| counts.lookups = counts.lookups.saturating_sub(lookups))
    }

    pub(crate) fn opened(&self, ino: InodeNumber, writer: bool) {
        self.change(ino, |counts| {
            counts.opens += 1;
            counts.writers += u32::from(writer);
        });
    }

    /// Returns whether the last writer closed, and whether nobody knows or uses the inode any more.
    pub(crate) fn closed(&self, ino: InodeNumber, writer: bool) -> (bool, bool) {
        let mut last_writer = false;
        let unused = self.change(ino, |counts| {
            counts.opens = counts.opens.saturating_sub(1);
            if writer {
                counts.writers = counts.writers.saturating_sub(1);
                last_writer = counts.writers == 0;
            }
        });
        (last_writer, unused)
    }

    pub(crate) fn has_writer(&self, ino: InodeNumber) -> bool {
        self.shard(ino).lock().get(&ino).is_some_and(|counts| counts.writers > 0)
    }

    pub(crate) fn is_used(&self, ino: InodeNumber) -> bool {
        self.shard(ino).lock().contains_key(&ino)
    }

    /// At the end of the mount nobody knows anything any more.
    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            shard.lock().clear();
        }
    }

    /// Applies `edit`; true when all counts are zero afterwards.
    fn change(&self, ino: InodeNumber, edit: impl FnOnce(&mut Counts)) -> bool {
        let mut shard = self.shard(ino).lock();
        let counts = shard.entry(ino).or_default();
        edit(counts);
        let zero = counts.is_zero();
        if zero {
            shard.remove(&ino);
        }
        zero
    }

    fn shard(&self, ino: InodeNumber) -> &Mutex<HashMap<InodeNumber, Counts>> {
        &self.shards[ino.get() as usize % SHARDS]
    }
}

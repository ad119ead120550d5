//! What the kernel holds against us: how often it knows each inode, and who has it open.
//!
//! Source: FUSE's lookup counts (LOOKUP, FORGET) and OPEN/RELEASE; the design's section on memory.
//! Invariants: an entry exists exactly while one of its counts is not zero; it does not keep the inode in memory.

use crate::file::Users;
use crate::ids::InodeNumber;
use crate::memory::{Charge, Class, Memory};
use crate::sync::{Mutex, Rank};
use std::collections::HashMap;
use std::sync::Arc;

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

/// What a place in a table costs: key, counts, control byte, and the load factor of 7/8.
const PLACE_BYTES: usize = (size_of::<(InodeNumber, Counts)>() + 1) * 8 / 7;

struct Shard {
    counts: HashMap<InodeNumber, Counts>,
    charge: Charge,
}

pub(crate) struct Known {
    shards: Vec<Mutex<Shard>>,
}

impl Known {
    pub(crate) fn new(memory: &Arc<Memory>) -> Self {
        let shard = |_| {
            let charge = memory.charge(Class::Lookup, 0);
            Mutex::new(
                Rank::Shard,
                Shard {
                    counts: HashMap::new(),
                    charge,
                },
            )
        };
        Self {
            shards: (0..SHARDS).map(shard).collect(),
        }
    }

    /// The kernel has been told of the inode once more. Counted before the reply is written.
    pub(crate) fn looked_up(&self, ino: InodeNumber) {
        self.change(ino, |counts| counts.lookups += 1);
    }

    /// Takes lookups back; true when nobody knows or uses the inode any more.
    pub(crate) fn forget(&self, ino: InodeNumber, lookups: u64) -> bool {
        self.change(ino, |counts| {
            counts.lookups = counts.lookups.saturating_sub(lookups)
        })
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

    pub(crate) fn is_used(&self, ino: InodeNumber) -> bool {
        self.shard(ino).lock().counts.contains_key(&ino)
    }

    pub(crate) fn stats(&self) -> crate::fs::evict::KnownStats {
        let mut stats = crate::fs::evict::KnownStats { inodes: 0, open: 0 };
        for shard in &self.shards {
            for counts in shard.lock().counts.values() {
                stats.inodes += 1;
                stats.open += u64::from(counts.opens);
            }
        }
        stats
    }

    /// At the end of the mount nobody knows anything any more.
    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.counts = HashMap::new();
            shard.charge.resize(0);
        }
    }

    /// Applies `edit`; true when all counts are zero afterwards.
    fn change(&self, ino: InodeNumber, edit: impl FnOnce(&mut Counts)) -> bool {
        let mut shard = self.shard(ino).lock();
        let Shard {
            counts: table,
            charge,
        } = &mut *shard;
        let counts = table.entry(ino).or_default();
        edit(counts);
        let zero = counts.is_zero();
        if zero {
            table.remove(&ino);
            if table.len() < table.capacity() / 8 {
                table.shrink_to(table.len() * 2);
            }
        }
        let bytes = table.capacity() * PLACE_BYTES;
        if bytes as u64 != charge.bytes() {
            charge.resize(bytes);
        }
        zero
    }

    fn shard(&self, ino: InodeNumber) -> &Mutex<Shard> {
        &self.shards[ino.get() as usize % SHARDS]
    }
}

impl Users for Known {
    fn has_writer(&self, ino: InodeNumber) -> bool {
        let shard = self.shard(ino).lock();
        let counts = shard.counts.get(&ino);
        counts.is_some_and(|counts| counts.writers > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_charged_and_given_back() {
        let memory = Memory::new(1 << 20, 4096, 1 << 17);
        let known = Known::new(&memory);
        let used = || memory.snapshot().class(Class::Lookup).current;
        let all = || (1..5000).map(InodeNumber::new);
        all().for_each(|ino| known.looked_up(ino));
        assert!(used() >= 5000 * size_of::<Counts>() as u64, "{}", used());
        assert!(all().all(|ino| known.is_used(ino) && known.forget(ino, 1)));
        assert!(used() < 20_000, "{}", used());
        all().for_each(|ino| known.looked_up(ino));
        known.clear();
        assert_eq!(used(), 0);
    }
}

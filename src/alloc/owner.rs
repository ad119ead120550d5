//! One group's blocks by owner, and the moves between the owners.
//!
//! Source: the design's section on block ownership.
//! Invariants: U, R and F are disjoint, none of them holds a block of B; `free` is what is left. The caller
//! holds the group's lock; nothing here waits, reads or takes another lock.

use super::buddy::Buddy;
use super::index::Summary;
use super::pin::Pin;
use crate::cache::BufferRef;
use crate::error::{CorruptKind, Error, Location, Structure};
use crate::ids::{GroupIndex, Tid};
use crate::memory::Charge;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A preallocation: blocks set aside for one file, none of them handed out. It lives as long as it stands in
/// its group's U; a tree that still holds it afterwards holds nothing.
pub(super) struct Prealloc {
    pub(super) group: GroupIndex,
    /// First block, as a bit of the group's bitmap.
    pub(super) start: u32,
    pub(super) len: u32,
    pub(super) _charge: Charge,
}

/// What blocks of F wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// The transaction that clears their bits.
    Commit(Tid),
    /// The device is still to be told that they hold nothing.
    Discard,
    /// The device is being told.
    Underway,
}

/// Blocks of F.
pub(super) struct Freed {
    pub(super) len: u32,
    pub(super) wait: Wait,
    pub(super) charge: Charge,
}

/// What a group knows while it is in memory. All counts are in clusters (blocks, without bigalloc).
pub(super) struct GroupState {
    pub(super) index: GroupIndex,
    /// Clusters in the group.
    pub(super) size: u32,
    /// size - |B|: the descriptor's free count.
    pub(super) not_in_bitmap: u32,
    pub(super) free: u32,
    /// The sets did not add up: nothing is allocated from here or freed into it again.
    pub(super) corrupt: bool,
    pub(super) buddy: Option<Buddy>,
    /// The bitmap that the buddy was built from, where it has to stay in memory.
    pub(super) bitmap: Option<BufferRef>,
    /// Buddy and bitmap stay in memory.
    pub(super) pin: Option<Pin>,
    /// A buddy was built once, or the group was never used: `order` and `fragments` mean something.
    pub(super) known: bool,
    /// Of the largest free chunk: exact with a buddy, a lower bound without one.
    pub(super) order: Option<u32>,
    /// Free runs: exact with a buddy, an upper bound without one.
    pub(super) fragments: u32,
    /// U: preallocations by first block.
    pub(super) unused: BTreeMap<u32, Arc<Prealloc>>,
    /// R: first block to length.
    pub(super) reserved: BTreeMap<u32, u32>,
    /// F: by first block.
    pub(super) freed: BTreeMap<u32, Freed>,
    pub(super) _charge: Charge,
}

impl GroupState {
    /// A group that has no U, R and F.
    pub(super) fn new(
        index: GroupIndex,
        size: u32,
        free: u32,
        last: Summary,
        charge: Charge,
    ) -> Self {
        let average = last.average.max(1);
        Self {
            index,
            size,
            not_in_bitmap: free,
            free,
            corrupt: false,
            buddy: None,
            bitmap: None,
            pin: None,
            known: last.known,
            order: last.largest,
            fragments: last.free.div_ceil(average),
            unused: BTreeMap::new(),
            reserved: BTreeMap::new(),
            freed: BTreeMap::new(),
            _charge: charge,
        }
    }

    /// Whether nothing is lost when the state is dropped.
    pub(super) fn is_idle(&self) -> bool {
        let owns_none = self.unused.is_empty() && self.reserved.is_empty() && self.freed.is_empty();
        owns_none && self.buddy.is_none() && !self.corrupt
    }

    /// What the group is filed under.
    pub(super) fn summary(&self) -> Summary {
        if self.corrupt {
            return Summary {
                known: true,
                ..Summary::guess(0, true)
            };
        }
        match self.known {
            false => Summary::guess(self.free, false),
            true => Summary {
                free: self.free,
                largest: self.order.or(self.free.checked_ilog2().map(|_| 0)),
                average: self.free / self.fragments.max(1),
                known: true,
            },
        }
    }

    /// Free to R. `false`: not free (any more), or no buddy to tell.
    #[must_use]
    pub(super) fn reserve(&mut self, start: u32, len: u32) -> bool {
        let taken = self.take(start, len);
        if taken {
            self.reserved.insert(start, len);
        }
        taken
    }

    /// Free to F: what is going to be trimmed. `false` as with `reserve`.
    #[must_use]
    pub(super) fn hold_for_trim(&mut self, start: u32, len: u32, charge: Charge) -> bool {
        let taken = self.take(start, len);
        if taken {
            let wait = Wait::Underway;
            self.freed.insert(start, Freed { len, wait, charge });
        }
        taken
    }

    fn take(&mut self, start: u32, len: u32) -> bool {
        let buddy = self.buddy.as_mut();
        let taken = buddy.is_some_and(|buddy| buddy.take(start, len));
        if taken {
            self.free -= len;
            self.refresh();
        }
        taken
    }

    /// Takes the record of a run out of R; the blocks belong to the caller's move.
    pub(super) fn unreserve(&mut self, start: u32) -> Option<u32> {
        self.reserved.remove(&start)
    }

    /// What was in U, R or F becomes free. Needs no buddy.
    pub(super) fn release(&mut self, start: u32, len: u32) {
        if len == 0 || self.corrupt {
            return;
        }
        self.free += len;
        match &mut self.buddy {
            Some(buddy) => {
                let given = buddy.give(start, len);
                debug_assert!(
                    given,
                    "released blocks were free: {start}+{len} of {}",
                    self.index
                );
                self.refresh();
            }
            None => {
                self.order = self.order.max(Some(chunk_order(start, len)));
                self.fragments += 1;
            }
        }
    }

    /// Takes a preallocation out of U; `false` when it was not there any more.
    #[must_use]
    pub(super) fn unlink(&mut self, prealloc: &Arc<Prealloc>) -> bool {
        let live = self.is_live(prealloc);
        if live {
            self.unused.remove(&prealloc.start);
        }
        live
    }

    pub(super) fn is_live(&self, prealloc: &Arc<Prealloc>) -> bool {
        self.unused
            .get(&prealloc.start)
            .is_some_and(|found| Arc::ptr_eq(found, prealloc))
    }

    /// The runs of U, R and F.
    pub(super) fn owned(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let unused = self.unused.iter().map(|(&start, run)| (start, run.len));
        let reserved = self.reserved.iter().map(|(&start, &len)| (start, len));
        let freed = self.freed.iter().map(|(&start, run)| (start, run.len));
        unused.chain(reserved).chain(freed)
    }

    /// Whether a block of the run is in U, R or F.
    pub(super) fn owns_any(&self, start: u32, len: u32) -> bool {
        let end = start.saturating_add(len);
        let last = |run: Option<(u32, u32)>| run.is_some_and(|(first, len)| first + len > start);
        last(
            self.unused
                .range(..end)
                .next_back()
                .map(|(&s, run)| (s, run.len)),
        ) || last(
            self.reserved
                .range(..end)
                .next_back()
                .map(|(&s, &len)| (s, len)),
        ) || last(
            self.freed
                .range(..end)
                .next_back()
                .map(|(&s, run)| (s, run.len)),
        )
    }

    /// B to F's record: merges with a neighbour that waits for the same.
    pub(super) fn add_freed(&mut self, start: u32, len: u32, wait: Wait, charge: Charge) {
        let mut run = Freed { len, wait, charge };
        let mut first = start;
        if let Some((&before, found)) = self.freed.range(..start).next_back()
            && found.wait == wait
            && before + found.len == start
        {
            run.len += found.len;
            first = before;
            self.freed.remove(&before);
        }
        if let Some(after) = self.freed.get(&(start + len))
            && after.wait == wait
        {
            run.len += after.len;
            self.freed.remove(&(start + len));
        }
        self.freed.insert(first, run);
    }

    /// Whether a block is in R.
    pub(super) fn is_reserved(&self, bit: u32) -> bool {
        let before = self.reserved.range(..=bit).next_back();
        before.is_some_and(|(&start, &len)| start + len > bit)
    }

    /// Installs a newly built buddy.
    pub(super) fn publish(&mut self, buddy: Buddy) {
        self.buddy = Some(buddy);
        self.refresh();
    }

    pub(super) fn drop_buddy(&mut self) -> bool {
        self.bitmap = None;
        self.buddy.take().is_some()
    }

    /// The error of a group whose sets do not add up.
    pub(super) fn conflict(&self) -> Error {
        let what = Structure::BlockBitmap;
        Error::corrupt(CorruptKind::Ownership { what }, Location::group(self.index))
    }

    fn refresh(&mut self) {
        if let Some(buddy) = &self.buddy {
            self.order = buddy.largest_order();
            self.fragments = buddy.fragments();
            self.known = true;
        }
    }
}

/// The order of the largest aligned chunk inside of a run.
fn chunk_order(start: u32, len: u32) -> u32 {
    let fits = |order: u32| {
        let first = u64::from(start).next_multiple_of(1 << order);
        first + (1 << order) <= u64::from(start) + u64::from(len)
    };
    (0..=len.max(1).ilog2())
        .rev()
        .find(|&order| fits(order))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::chunk_order;

    #[test]
    fn the_largest_aligned_chunk_of_a_run() {
        assert_eq!(chunk_order(0, 1), 0);
        assert_eq!(chunk_order(0, 32), 5);
        assert_eq!(chunk_order(1, 32), 4);
        assert_eq!(chunk_order(3, 2), 0);
        assert_eq!(chunk_order(6, 10), 3);
    }
}

//! Which groups are worth a look: one bitset over groups for each order of their largest free chunk.
//!
//! Source: the design's section on the allocator.
//! Invariants: a group stands in at most one set; a group whose bitmap was never looked at stands where its
//! free count could put it at best, one whose buddy was dropped where it surely is.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::sync::{Mutex, Rank};

const ORDERS: usize = 20;
const NONE: u8 = u8::MAX;

pub(super) struct GroupIndexes {
    sets: Mutex<Sets>,
    /// Free blocks of each group, for the levels that look at nothing else.
    free: Vec<AtomicU32>,
}

struct Sets {
    by_order: Vec<Vec<u64>>,
    uninit: Vec<u64>,
    order_of: Vec<u8>,
}

impl GroupIndexes {
    pub(super) fn new(groups: u32) -> Self {
        let words = groups.div_ceil(64) as usize;
        Self {
            sets: Mutex::new(
                Rank::Leaf,
                Sets {
                    by_order: vec![vec![0; words]; ORDERS],
                    uninit: vec![0; words],
                    order_of: vec![NONE; groups as usize],
                },
            ),
            free: (0..groups).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// Bytes for `groups` groups.
    pub(super) fn size(groups: u32) -> usize {
        (groups.div_ceil(64) as usize) * 8 * (ORDERS + 1) + groups as usize * 5
    }

    pub(super) fn free(&self, group: u32) -> u32 {
        self.free
            .get(group as usize)
            .map_or(0, |free| free.load(Ordering::Relaxed))
    }

    /// Files a group under `order`; `None` takes it out. Called under the group's lock.
    pub(super) fn set(&self, group: u32, free: u32, order: Option<u32>, uninit: bool) {
        let index = group as usize;
        let Some(slot) = self.free.get(index) else {
            return;
        };
        slot.store(free, Ordering::Relaxed);
        let order = order.map_or(NONE, |order| order.min(ORDERS as u32 - 1) as u8);
        let (word, mask) = (index / 64, 1u64 << (index % 64));
        let mut sets = self.sets.lock();
        let old = std::mem::replace(&mut sets.order_of[index], order);
        if old != order {
            if old != NONE {
                sets.by_order[old as usize][word] &= !mask;
            }
            if order != NONE {
                sets.by_order[order as usize][word] |= mask;
            }
        }
        if uninit {
            sets.uninit[word] |= mask;
        } else {
            sets.uninit[word] &= !mask;
        }
    }

    /// The first group in `from..to` whose largest chunk has at least this order.
    pub(super) fn next(&self, order: u32, from: u32, to: u32, uninit: bool) -> Option<u32> {
        let sets = self.sets.lock();
        let mut at = from;
        while at < to {
            let word = at as usize / 64;
            let mut found = sets
                .by_order
                .iter()
                .skip(order as usize)
                .fold(0, |all, set| all | set[word]);
            found &= if uninit {
                sets.uninit[word]
            } else {
                !sets.uninit[word]
            };
            found &= u64::MAX << (at % 64);
            if found != 0 {
                let group = (word as u32) * 64 + found.trailing_zeros();
                return (group < to).then_some(group);
            }
            at = (word as u32 + 1) * 64;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_by_order_and_state() {
        let index = GroupIndexes::new(200);
        index.set(3, 10, Some(3), false);
        index.set(70, 100, Some(6), false);
        index.set(150, 100, Some(6), true);
        assert_eq!(index.next(3, 0, 200, false), Some(3));
        assert_eq!(index.next(4, 0, 200, false), Some(70));
        assert_eq!(index.next(4, 71, 200, false), None);
        assert_eq!(index.next(4, 0, 200, true), Some(150));
        assert_eq!(index.next(4, 0, 150, true), None);
        index.set(70, 1, Some(0), false);
        assert_eq!(index.next(4, 0, 200, false), None);
        index.set(3, 0, None, false);
        assert_eq!(index.next(0, 0, 200, false), Some(70));
        assert_eq!(index.free(70), 1);
    }
}

//! Which groups are worth a look: sets of groups by the order of their largest free chunk, by the order of their
//! average free run, and by what their free count could hold where nobody has looked yet.
//!
//! Source: the design's section on the allocator.
//! Invariants: a group with a free block stands in `largest` and `average` once it is known, in `guess` until then,
//! in no set without one; for a group whose buddy was dropped, both orders are lower bounds. What is known of a group
//! outlives its state in memory.

use super::bitset::GroupSet;
use crate::sync::{Mutex, Rank};
use std::sync::atomic::{AtomicU32, Ordering};

const NONE: u8 = u8::MAX;

/// What is known of a group's free blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) free: u32,
    /// The order of the largest free chunk.
    pub(super) largest: Option<u32>,
    /// The length of the average free run.
    pub(super) average: u32,
    /// Somebody has looked, or nothing was ever allocated there.
    pub(super) known: bool,
}

impl Summary {
    /// Of a group nobody has looked at: the best that the free count allows.
    pub(super) fn guess(free: u32, known: bool) -> Self {
        Self {
            free,
            largest: free.checked_ilog2(),
            average: free,
            known,
        }
    }
}

/// Which index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Largest,
    Average,
    /// Groups nobody has looked at.
    Guess,
}

pub(super) struct GroupIndexes {
    sets: Mutex<Sets>,
    /// By group, for those who look at nothing else.
    free: Vec<AtomicU32>,
    average: Vec<AtomicU32>,
}

struct Sets {
    /// By order.
    largest: Vec<GroupSet>,
    average: Vec<GroupSet>,
    guess: Vec<GroupSet>,
    places: Vec<Place>,
    /// Groups of which nothing became free since they were trimmed.
    trimmed: GroupSet,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    largest: u8,
    average: u8,
    known: bool,
}

impl GroupIndexes {
    /// `blocks`: in a whole group.
    pub(super) fn new(groups: u32, blocks: u32) -> Self {
        let orders = orders(blocks);
        let sets = || (0..orders).map(|_| GroupSet::new(groups)).collect();
        let nowhere = Place {
            largest: NONE,
            average: NONE,
            known: false,
        };
        let counters = || (0..groups).map(|_| AtomicU32::new(0)).collect();
        Self {
            sets: Mutex::new(
                Rank::Leaf,
                Sets {
                    largest: sets(),
                    average: sets(),
                    guess: sets(),
                    places: vec![nowhere; groups as usize],
                    trimmed: GroupSet::new(groups),
                },
            ),
            free: counters(),
            average: counters(),
        }
    }

    /// Bytes for `groups` groups.
    pub(super) fn size(groups: u32, blocks: u32) -> usize {
        let sets = 3 * orders(blocks) + 1;
        sets * GroupSet::bytes(groups) + groups as usize * (8 + size_of::<Place>())
    }

    pub(super) fn free(&self, group: u32) -> u32 {
        let free = self.free.get(group as usize);
        free.map_or(0, |free| free.load(Ordering::Relaxed))
    }

    pub(super) fn average(&self, group: u32) -> u32 {
        let average = self.average.get(group as usize);
        average.map_or(0, |average| average.load(Ordering::Relaxed))
    }

    /// What a group was filed under.
    pub(super) fn summary(&self, group: u32) -> Option<Summary> {
        let place = *self.sets.lock().places.get(group as usize)?;
        Some(Summary {
            free: self.free(group),
            largest: (place.largest != NONE).then_some(u32::from(place.largest)),
            average: self.average(group),
            known: place.known,
        })
    }

    /// Files a group. Called under the group's lock.
    pub(super) fn set(&self, group: u32, summary: Summary) {
        let index = group as usize;
        let (Some(free), Some(average)) = (self.free.get(index), self.average.get(index)) else {
            return;
        };
        free.store(summary.free, Ordering::Relaxed);
        average.store(summary.average, Ordering::Relaxed);
        let mut sets = self.sets.lock();
        let top = sets.largest.len() as u32 - 1;
        let filed = |order: Option<u32>| match order {
            Some(order) if summary.free > 0 => order.min(top) as u8,
            _ => NONE,
        };
        let new = Place {
            largest: filed(summary.largest),
            average: filed(summary.average.checked_ilog2()),
            known: summary.known,
        };
        let old = std::mem::replace(&mut sets.places[index], new);
        if old != new {
            sets.each(old, |set| set.remove(group));
            sets.each(new, |set| set.insert(group));
        }
    }

    /// The first group in `from..to` that is filed under at least this order.
    pub(super) fn next(&self, by: By, order: u32, from: u32, to: u32) -> Option<u32> {
        let sets = self.sets.lock();
        let by_order = match by {
            By::Largest => &sets.largest,
            By::Average => &sets.average,
            By::Guess => &sets.guess,
        };
        let enough = by_order.iter().skip(order as usize);
        enough.fold(None, |best: Option<u32>, set| {
            set.next(from, best.unwrap_or(to)).or(best)
        })
    }

    pub(super) fn set_trimmed(&self, group: u32, trimmed: bool) {
        let mut sets = self.sets.lock();
        if trimmed {
            sets.trimmed.insert(group);
        } else {
            sets.trimmed.remove(group);
        }
    }

    pub(super) fn is_trimmed(&self, group: u32) -> bool {
        self.sets.lock().trimmed.contains(group)
    }
}

impl Sets {
    /// Runs `change` on every set that a place stands for.
    fn each(&mut self, place: Place, mut change: impl FnMut(&mut GroupSet)) {
        let mut at = |sets: &mut Vec<GroupSet>, order: u8| {
            if let Some(set) = sets.get_mut(order as usize) {
                change(set);
            }
        };
        if place.known {
            at(&mut self.largest, place.largest);
            at(&mut self.average, place.average);
        } else {
            at(&mut self.guess, place.largest);
        }
    }
}

fn orders(blocks: u32) -> usize {
    blocks.max(1).ilog2() as usize + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_by_what_is_known_of_them() {
        let index = GroupIndexes::new(200, 1 << 15);
        let summary = |free, largest, average, known| Summary {
            free,
            largest: Some(largest),
            average,
            known,
        };
        index.set(3, summary(10, 3, 5, true));
        index.set(70, summary(100, 6, 20, true));
        index.set(150, Summary::guess(100, false));
        assert_eq!(index.next(By::Largest, 3, 0, 200), Some(3));
        assert_eq!(index.next(By::Largest, 4, 0, 200), Some(70));
        assert_eq!(index.next(By::Largest, 4, 71, 200), None);
        assert_eq!(index.next(By::Average, 3, 0, 200), Some(70));
        assert_eq!(index.next(By::Average, 5, 0, 200), None);
        assert_eq!(index.next(By::Guess, 6, 0, 200), Some(150));
        assert_eq!(index.next(By::Guess, 6, 0, 150), None);
        index.set(150, summary(100, 2, 4, true));
        assert_eq!(index.next(By::Guess, 0, 0, 200), None);
        index.set(70, summary(1, 0, 1, true));
        assert_eq!(index.next(By::Largest, 3, 4, 200), None);
        index.set(3, summary(0, 0, 0, true));
        assert_eq!(index.next(By::Largest, 0, 0, 200), Some(70));
        assert_eq!((index.free(70), index.average(150)), (1, 4));
        assert_eq!(index.summary(150), Some(summary(100, 2, 4, true)));
        assert_eq!(index.summary(200), None);
    }
}

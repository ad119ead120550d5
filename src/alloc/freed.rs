//! F: blocks whose bit is clear, but only in a transaction that has not committed yet.
//!
//! Source: the design's section on block ownership.
//! Invariants: a freed block becomes free only once its transaction is durable; releasing needs no buddy, no
//! memory and no read.

use super::groups::Groups;
use super::owner::{Freed, Wait};
use crate::ids::{GroupIndex, Tid};
use crate::journal::handle::CommitListener;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

/// Which groups each uncommitted transaction has freed blocks in.
#[derive(Default)]
pub(super) struct Pending {
    lists: Vec<(Tid, BTreeSet<GroupIndex>)>,
    /// Groups in which committed ones wait for their discard.
    to_discard: BTreeSet<GroupIndex>,
}

impl Pending {
    pub(super) fn add(&mut self, tid: Tid, group: GroupIndex) {
        match self.lists.iter_mut().find(|(found, _)| *found == tid) {
            Some((_, groups)) => {
                groups.insert(group);
            }
            None => self.lists.push((tid, BTreeSet::from([group]))),
        }
    }

    /// Whether no transaction is waited for.
    pub(super) fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    pub(super) fn has_discards(&self) -> bool {
        !self.to_discard.is_empty()
    }

    pub(super) fn next_to_discard(&mut self) -> Option<GroupIndex> {
        self.to_discard.pop_first()
    }

    /// Takes out the groups of all transactions up to `tid`.
    fn take(&mut self, tid: Tid) -> BTreeSet<GroupIndex> {
        let mut taken = BTreeSet::new();
        self.lists.retain_mut(|(found, groups)| {
            let committed = tid.is_at_or_after(*found);
            if committed {
                taken.extend(std::mem::take(groups));
            }
            !committed
        });
        taken
    }
}

impl CommitListener for Groups {
    fn committed(&self, tid: Tid) {
        let groups = self.frees.lock().take(tid);
        for group in groups {
            let Some(group) = self.resident(group) else {
                continue;
            };
            let mut state = group.lock();
            let is_done = |run: &Freed| match run.wait {
                Wait::Commit(freed_by) => tid.is_at_or_after(freed_by),
                Wait::Discard | Wait::Underway => false,
            };
            let (done, later) = std::mem::take(&mut state.freed)
                .into_iter()
                .partition(|(_, run)| is_done(run));
            state.freed = later;
            self.index.set_trimmed(group.index.get(), false);
            if self.discard.load(Ordering::Relaxed) {
                for (start, run) in done {
                    state.add_freed(start, run.len, Wait::Discard, run.charge);
                }
                self.frees.lock().to_discard.insert(group.index);
            } else {
                for (start, run) in done {
                    self.release(&mut state, start, run.len);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_committed_transactions_are_taken_across_the_wraparound() {
        let mut pending = Pending::default();
        pending.add(Tid::new(u32::MAX), GroupIndex::new(1));
        pending.add(Tid::new(0), GroupIndex::new(2));
        pending.add(Tid::new(0), GroupIndex::new(3));
        pending.add(Tid::new(1), GroupIndex::new(2));
        let taken = pending.take(Tid::new(0));
        assert_eq!(taken.len(), 3);
        assert!(!pending.is_empty());
        assert_eq!(pending.take(Tid::new(0)).len(), 0);
        assert_eq!(
            pending.take(Tid::new(1)),
            BTreeSet::from([GroupIndex::new(2)])
        );
        assert!(pending.is_empty());
    }
}

//! Per-inode preallocations: blocks set aside so that a growing file stays in one piece.
//!
//! Source: the design's sections on block ownership and the allocator.
//! Invariants: a preallocation's range is exactly its unused blocks; handing out a part replaces it by what is
//! left on both sides. Whether it is live stands in its group, under the group's lock; the tree may hold dead
//! ones, which are dropped when met.

use super::groups::{Group, Groups};
use super::owner::{GroupState, Prealloc};
use super::reserved::Reserved;
use crate::canary::{Canary, canary};
use crate::ids::GroupIndex;
use crate::memory::{Charge, Class};
use crate::sync::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Preallocations that one inode may have.
const MAX_PER_INODE: usize = 512;
/// What one costs, in the tree and in the group.
const PREALLOC_BYTES: usize = 160;

/// Per-inode preallocations by first logical block (cluster), kept in the in-memory inode.
#[derive(Default)]
pub struct PreallocTree {
    runs: BTreeMap<u32, Arc<Prealloc>>,
}

impl PreallocTree {
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The preallocation that covers a logical block, and where it begins.
    fn covering(&self, logical: u32) -> Option<(u32, &Arc<Prealloc>)> {
        let (&first, run) = self.runs.range(..=logical).next_back()?;
        (logical - first < run.len).then_some((first, run))
    }

    /// The logical block at which the next preallocation behind `logical` begins.
    fn next_after(&self, logical: u32) -> Option<u32> {
        self.runs.range(logical..).next().map(|(&first, _)| first)
    }
}

impl Groups {
    /// U to R: up to `len` clusters from the preallocation that covers `logical`, if one does.
    pub(super) fn hand_out(
        self: &Arc<Self>,
        tree: &Mutex<PreallocTree>,
        logical: u32,
        len: u32,
    ) -> Option<Reserved> {
        let mut charges = [Some(self.prealloc_charge()), Some(self.prealloc_charge())];
        let mut tree = tree.lock();
        let (first, run) = tree
            .covering(logical)
            .map(|(first, run)| (first, Arc::clone(run)))?;
        tree.runs.remove(&first);
        let group = self.resident(run.group)?;
        let mut state = group.lock();
        if !state.unlink(&run) {
            return None;
        }
        if canary(Canary::HandOutInTwoSteps) {
            drop(state);
            state = group.lock();
        }
        let skip = logical - first;
        let len = len.min(run.len - skip);
        let end = skip + len;
        let kept = canary(Canary::FreeInsidePrealloc);
        let sides = [(0, if kept { end } else { skip }), (end, run.len - end)];
        for ((offset, left), charge) in sides.into_iter().zip(&mut charges) {
            if left > 0
                && let Some(charge) = charge.take()
            {
                let part = prealloc(run.group, run.start + offset, left, charge);
                state.unused.insert(part.start, Arc::clone(&part));
                tree.runs.insert(first + offset, part);
            }
        }
        let start = run.start + skip;
        state.reserved.insert(start, len);
        self.unpin_unused(&mut state);
        drop(state);
        Some(Reserved::new(Arc::clone(self), group, start, len))
    }

    /// The logical cluster at which the file's next preallocation begins.
    pub(super) fn next_prealloc(&self, tree: &Mutex<PreallocTree>, logical: u32) -> Option<u32> {
        tree.lock().next_after(logical)
    }

    /// Keeps the first `len` clusters of a run in R and makes the rest a preallocation of the file (R to U) from
    /// `logical + len` on; if the file has too many, the rest becomes free.
    pub(super) fn keep_rest(
        &self,
        tree: &Mutex<PreallocTree>,
        reserved: &mut Reserved,
        logical: u32,
        len: u32,
    ) {
        let rest = reserved.count - len;
        let first = logical.checked_add(len);
        let charge = self.prealloc_charge();
        let mut tree = tree.lock();
        let group = Arc::clone(&reserved.group);
        let mut state = group.lock();
        let start = reserved.bit + len;
        match first {
            Some(first) if tree.fits(first, rest) && self.may_set_aside(&mut state) => {
                let part = prealloc(group.index, start, rest, charge);
                state.unused.insert(start, Arc::clone(&part));
                tree.runs.insert(first, part);
                state.reserved.insert(reserved.bit, len);
            }
            _ => {
                state.reserved.insert(reserved.bit, len);
                self.release(&mut state, start, rest);
            }
        }
        reserved.count = len;
    }

    /// U to free for one preallocation; nothing when it is not live any more.
    pub(super) fn discard(&self, group: &Group, prealloc: &Arc<Prealloc>) {
        let mut state = group.lock();
        if state.unlink(prealloc) {
            self.drop_in_flight(&mut state, prealloc.start);
            self.release(&mut state, prealloc.start, prealloc.len);
        }
    }

    /// With the canary: what was handed out of the front of a preallocation and is in flight goes with it.
    fn drop_in_flight(&self, state: &mut GroupState, front: u32) {
        if !canary(Canary::InFlightDropped) {
            return;
        }
        let before = state.reserved.range(..front).next_back();
        if let Some((start, len)) = before.map(|(&start, &len)| (start, len))
            && start + len == front
        {
            state.reserved.remove(&start);
            self.release(state, start, len);
        }
    }

    /// U to free for all of an inode.
    pub(super) fn discard_tree(&self, tree: &Mutex<PreallocTree>) {
        let mut tree = tree.lock();
        for prealloc in std::mem::take(&mut tree.runs).into_values() {
            if let Some(group) = self.resident(prealloc.group) {
                self.discard(&group, &prealloc);
            }
        }
    }

    /// U to free for every file; the clusters that became free. Trees and lists find out when they look.
    pub(super) fn discard_all(&self) -> u64 {
        let mut freed = 0;
        for group in self.all_resident() {
            let mut state = group.lock();
            freed += u64::from(self.discard_group(&mut state));
        }
        freed
    }

    fn discard_group(&self, state: &mut GroupState) -> u32 {
        let mut freed = 0;
        for (start, run) in std::mem::take(&mut state.unused) {
            self.drop_in_flight(state, start);
            self.release(state, start, run.len);
            freed += run.len;
        }
        freed
    }

    pub(super) fn prealloc_charge(&self) -> Charge {
        self.memory.charge(Class::Prealloc, PREALLOC_BYTES)
    }
}

impl PreallocTree {
    /// The groups of all, each once.
    pub(super) fn groups(&self) -> Vec<GroupIndex> {
        let mut groups: Vec<_> = self.runs.values().map(|run| run.group).collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    /// The group of the first one.
    pub(super) fn first_group(&self) -> Option<GroupIndex> {
        self.runs.values().next().map(|run| run.group)
    }

    /// Takes out all that lie in a group.
    pub(super) fn take_of(&mut self, group: GroupIndex) -> Vec<Arc<Prealloc>> {
        let mut taken = Vec::new();
        self.runs.retain(|_, run| {
            let other = run.group != group;
            if !other {
                taken.push(Arc::clone(run));
            }
            other
        });
        taken
    }

    /// Whether there is room for one more and nothing lies in its logical range.
    fn fits(&self, first: u32, len: u32) -> bool {
        let end = first.saturating_add(len);
        let clear = self
            .runs
            .range(..end)
            .next_back()
            .is_none_or(|(&start, run)| start + run.len <= first);
        self.runs.len() < MAX_PER_INODE && clear
    }
}

pub(super) fn prealloc(group: GroupIndex, start: u32, len: u32, charge: Charge) -> Arc<Prealloc> {
    Arc::new(Prealloc {
        group,
        start,
        len,
        _charge: charge,
    })
}

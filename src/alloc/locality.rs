//! Locality groups: runs that small files written by one thread share, so that they lie side by side.
//!
//! Source: the design's section on the allocator (mballoc's group preallocation and its constants).
//! Invariants: a run is handed out from its front only and its range shrinks with it; as with an inode's
//! preallocations, whether it is live stands in its group.

use super::groups::Groups;
use super::owner::Prealloc;
use super::prealloc::prealloc;
use super::reserved::Reserved;
use crate::canary::{Canary, canary};
use crate::ids::FsBlock;
use crate::sync::{Mutex, Rank};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Files up to this many blocks share runs.
pub(super) const SMALL_FILE_BLOCKS: u64 = 16;
/// What is looked for when a small file finds no shared run.
const RUN_BLOCKS: u32 = 512;
/// Lists by length: from 2^n blocks on, the last one from there to the end.
const ORDERS: usize = 10;
/// A list that grows beyond this is cut to `KEEP`.
const MOST: usize = 8;
const KEEP: usize = 5;

/// A slot for each thread that runs at a time.
pub(super) struct Localities {
    slots: Vec<Mutex<Lists>>,
}

#[derive(Default)]
struct Lists {
    orders: [Vec<Arc<Prealloc>>; ORDERS],
}

impl Localities {
    pub(super) fn new(slots: usize) -> Self {
        Self {
            slots: (0..slots.max(1))
                .map(|_| Mutex::new(Rank::Prealloc, Lists::default()))
                .collect(),
        }
    }

    /// The calling thread's.
    fn slot(&self) -> &Mutex<Lists> {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static NUMBER: usize = THREADS.fetch_add(1, Ordering::Relaxed);
        }
        &self.slots[NUMBER.with(|number| number % self.slots.len())]
    }
}

impl Groups {
    /// How much to look for when `len` clusters are wanted of a small file.
    pub(super) fn shared_run(&self, len: u32) -> u32 {
        let run = (RUN_BLOCKS >> self.geo.cluster_ratio_bits).max(1);
        let run = run.checked_next_multiple_of(self.stripe.max(1));
        run.unwrap_or(len).min(self.geo.clusters_per_group).max(len)
    }

    /// U to R: `len` clusters from the front of the thread's shared run that is nearest to the goal.
    pub(super) fn hand_out_shared(self: &Arc<Self>, goal: FsBlock, len: u32) -> Option<Reserved> {
        let charge = self.prealloc_charge();
        let mut lists = self.localities.slot().lock();
        let place = |run: &Prealloc| self.block_at(run.group, run.start).get();
        while let Some(run) = lists.take_nearest(goal.get(), len, place) {
            let Some(group) = self.resident(run.group) else {
                continue;
            };
            let mut state = group.lock();
            if !state.unlink(&run) {
                continue;
            }
            if canary(Canary::HandOutInTwoSteps) {
                drop(state);
                state = group.lock();
            }
            state.reserved.insert(run.start, len);
            let mut surplus = Vec::new();
            if run.len > len {
                let rest = prealloc(run.group, run.start + len, run.len - len, charge);
                state.unused.insert(rest.start, Arc::clone(&rest));
                surplus = lists.put(rest);
            }
            self.unpin_unused(&mut state);
            drop(state);
            self.discard_shared(surplus);
            return Some(Reserved::new(Arc::clone(self), group, run.start, len));
        }
        None
    }

    /// Keeps the first `len` clusters of a run in R; small files of this thread share the rest (R to U).
    pub(super) fn share_rest(&self, reserved: &mut Reserved, len: u32) {
        let charge = self.prealloc_charge();
        let mut lists = self.localities.slot().lock();
        let group = Arc::clone(&reserved.group);
        let mut state = group.lock();
        let (start, left) = (reserved.bit + len, reserved.count - len);
        state.reserved.insert(reserved.bit, len);
        reserved.count = len;
        if !self.may_set_aside(&mut state) {
            return self.release(&mut state, start, left);
        }
        let rest = prealloc(group.index, start, left, charge);
        state.unused.insert(rest.start, Arc::clone(&rest));
        let surplus = lists.put(rest);
        drop(state);
        self.discard_shared(surplus);
    }

    /// U to free for everything that small files share.
    pub(super) fn discard_localities(&self) {
        for slot in &self.localities.slots {
            let lists = std::mem::take(&mut *slot.lock());
            self.discard_shared(lists.orders.into_iter().flatten().collect());
        }
    }

    fn discard_shared(&self, runs: Vec<Arc<Prealloc>>) {
        for run in runs {
            if let Some(group) = self.resident(run.group) {
                self.discard(&group, &run);
            }
        }
    }
}

impl Lists {
    /// Takes out the run of at least `len` clusters that begins nearest to `goal`.
    fn take_nearest(
        &mut self,
        goal: u64,
        len: u32,
        place: impl Fn(&Prealloc) -> u64,
    ) -> Option<Arc<Prealloc>> {
        let orders = self.orders.iter().enumerate().skip(order_of(len));
        let runs = orders.flat_map(|(order, list)| {
            let at = list.iter().enumerate();
            at.map(move |(index, run)| (order, index, run))
        });
        let (order, index, _) = runs
            .filter(|(_, _, run)| run.len >= len)
            .min_by_key(|(_, _, run)| place(run).abs_diff(goal))?;
        Some(self.orders[order].remove(index))
    }

    /// Files a run; what is too much for its list comes back, oldest first.
    fn put(&mut self, run: Arc<Prealloc>) -> Vec<Arc<Prealloc>> {
        let list = &mut self.orders[order_of(run.len)];
        list.push(run);
        if list.len() <= MOST {
            return Vec::new();
        }
        let surplus = list.len() - KEEP;
        list.drain(..surplus).collect()
    }
}

fn order_of(len: u32) -> usize {
    (len.max(1).ilog2() as usize).min(ORDERS - 1)
}

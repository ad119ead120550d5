//! Telling the device which blocks hold nothing: what was freed (`-o discard`), and all that is free (FITRIM).
//!
//! Source: the design's section on the allocator; Linux fstrim(8), `struct fstrim_range`.
//! Invariants: a run is in F while the device discards it, so nobody writes there; no handle is open and no lock held
//! meanwhile; freed blocks are discarded only after their transaction has committed.

use super::groups::{Group, Groups, add};
use super::owner::Wait;
use crate::canary::{Canary, canary};
use crate::error::{Error, Result};
use crate::ids::{FsBlock, GroupIndex};
use crate::memory::{Charge, Class};
use std::sync::atomic::Ordering;

/// Runs that are trimmed in one go.
const BATCH: usize = 64;
/// Clusters of one, so that little is held back at a time.
const LONGEST: u32 = 8192;

impl Groups {
    /// Discards what one group has freed, and gives it free. `false`: nothing waits.
    pub(super) fn discard_step(&self) -> bool {
        let Some(index) = self.frees.lock().next_to_discard() else {
            return false;
        };
        let Some(group) = self.resident(index) else {
            return true;
        };
        let runs = {
            let mut state = group.lock();
            let waiting = state.freed.iter_mut();
            waiting
                .filter(|(_, run)| run.wait == Wait::Discard)
                .map(|(&start, run)| {
                    run.wait = Wait::Underway;
                    (start, run.len)
                })
                .collect::<Vec<_>>()
        };
        if let Err(error) = self.tell_device(index, &runs) {
            log::warn!("freed blocks are not discarded any more: {error}");
            self.discard.store(false, Ordering::Relaxed);
        }
        self.settle(&group, &runs);
        true
    }

    /// Discards free runs of at least `least` blocks inside of `from..to`; the blocks discarded. `go_on` is asked before
    /// each group.
    pub(super) fn trim(
        &self,
        from: FsBlock,
        to: FsBlock,
        least: u64,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<u64> {
        let from = from.get().max(u64::from(self.geo.first_data_block));
        let to = to.get().min(self.geo.blocks_count);
        if from >= to {
            return Ok(0);
        }
        let least = u32::try_from(self.clusters(least))
            .unwrap_or(u32::MAX)
            .max(1);
        let (first, last) = (
            self.place(FsBlock::new(from)),
            self.place(FsBlock::new(to - 1)),
        );
        let mut trimmed = 0;
        for index in first.0.get()..=last.0.get() {
            if !go_on() {
                break;
            }
            let index = GroupIndex::new(index);
            let start = if index == first.0 { first.1 } else { 0 };
            let size = self.clusters_in_group(index);
            let end = if index == last.0 { last.1 + 1 } else { size };
            let free = self.index.free(index.get());
            if free < least || self.index.is_trimmed(index.get()) {
                continue;
            }
            let whole = start == 0 && end == size && least == 1;
            match self.trim_group(index, start..end, least, whole) {
                Ok(clusters) => trimmed += self.blocks(u64::from(clusters)),
                // Others can still be trimmed; it is on record.
                Err(Error::Corrupt { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(trimmed)
    }

    fn trim_group(
        &self,
        index: GroupIndex,
        range: std::ops::Range<u32>,
        least: u32,
        whole: bool,
    ) -> Result<u32> {
        let group = self.get(index)?;
        if whole {
            // What becomes free from here on takes it away again.
            self.index.set_trimmed(index.get(), true);
        }
        let (mut at, mut trimmed, mut complete) = (range.start, 0, true);
        let outcome = loop {
            let batch = match self.hold_batch(&group, at..range.end, least) {
                Ok(batch) => batch,
                Err(error) => break Err(error),
            };
            complete &= batch.complete;
            let told = self.tell_device(index, &batch.runs);
            self.settle(&group, &batch.runs);
            if let Err(error) = told {
                break Err(error);
            }
            trimmed += batch.runs.iter().map(|run| run.1).sum::<u32>();
            match batch.next {
                Some(next) => at = next,
                None => break Ok(trimmed),
            }
        };
        if whole && (!complete || outcome.is_err()) {
            self.index.set_trimmed(index.get(), false);
        }
        outcome
    }

    /// Moves some free runs to F.
    fn hold_batch(&self, group: &Group, range: std::ops::Range<u32>, least: u32) -> Result<Batch> {
        let mut charges: Vec<Charge> = (0..BATCH)
            .map(|_| self.memory.charge(Class::Freed, super::mark::FREED_BYTES))
            .collect();
        let mut batch = Batch {
            runs: Vec::with_capacity(BATCH),
            next: None,
            complete: true,
        };
        let Some(mut state) = self.lock_built(group, true)? else {
            batch.complete = false;
            return Ok(batch);
        };
        let mut at = range.start;
        while let Some(buddy) = &state.buddy {
            let found = buddy.runs(at, range.end).find(|run| run.1 >= least);
            let Some((start, len)) = found else {
                break;
            };
            let Some(charge) = charges.pop() else {
                batch.next = Some(start);
                break;
            };
            let len = len.min(LONGEST.max(least));
            at = start + len;
            if canary(Canary::TrimWithoutHold) {
                batch.runs.push((start, len));
                continue;
            }
            if !self.count_for_trim(len) {
                // All that is free here is promised to somebody.
                batch.complete = false;
                continue;
            }
            if state.hold_for_trim(start, len, charge) {
                add(&self.totals.held, len);
                batch.runs.push((start, len));
            } else {
                add(&self.totals.available, len);
            }
        }
        self.reindex(&state);
        Ok(batch)
    }

    fn count_for_trim(&self, len: u32) -> bool {
        let take = |available: u64| available.checked_sub(u64::from(len));
        let available = &self.totals.available;
        available
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }

    fn tell_device(&self, index: GroupIndex, runs: &[(u32, u32)]) -> Result<()> {
        let device = self.cache.device();
        for &(start, len) in runs {
            let first = self.block_at(index, start).get();
            let end = first + self.blocks(u64::from(len));
            let blocks = end.min(self.geo.blocks_count).saturating_sub(first);
            let bits = self.geo.block_bits;
            device.discard(first << bits, blocks << bits)?;
        }
        Ok(())
    }

    /// F to free, of what was underway.
    fn settle(&self, group: &Group, runs: &[(u32, u32)]) {
        let mut state = group.lock();
        for &(start, len) in runs {
            if state.freed.remove(&start).is_some() {
                self.release(&mut state, start, len);
            }
        }
    }
}

struct Batch {
    runs: Vec<(u32, u32)>,
    /// Where to go on.
    next: Option<u32>,
    /// Nothing was passed over.
    complete: bool,
}

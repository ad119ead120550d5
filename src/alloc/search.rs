//! Where to allocate: from the goal outwards, cheap looks first.
//!
//! Source: the design's section on the allocator; the levels are mballoc's.
//! Invariants: a level looks at a group only with its lock, taken without waiting on all levels but the last; every
//! level but the last looks at a bounded number of groups, and at one whose bitmap nobody has read only while
//! allocations have paid for that; the last level asks for a free block alone, so that none is missed.

use super::groups::{Group, Groups, add};
use super::index::By;
use super::owner::GroupState;
use crate::error::{Error, Result};
use crate::ids::{BlockInGroup, FsBlock, GroupIndex};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

/// Groups that a level which is not the last one tries.
const MAX_TO_SCAN: u32 = 200;
/// How far below the wanted length a run may be before a slower level is tried, as an order.
const BEST_AVAIL_MAX_TRIM: u32 = 3;
/// Shorter requests are not worth an aligned chunk.
const MIN_CHUNK_ORDER: u32 = 2;

/// In clusters.
#[derive(Clone, Copy)]
pub(super) struct Want {
    pub(super) goal: FsBlock,
    /// What would be good.
    pub(super) len: u32,
    /// What was asked for, at most `len`.
    pub(super) least: u32,
    /// File data: a shorter run near by beats a whole one far away.
    pub(super) data: bool,
    /// A large file: which of the stream goals it follows when it cannot go on where it was.
    pub(super) stream: Option<usize>,
}

/// A run just moved from free to R.
pub(super) struct Found {
    pub(super) group: Arc<Group>,
    pub(super) start: u32,
    pub(super) len: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
/// How far a search has come.
pub enum Level {
    /// At the goal, else (for what must not be longer) the first long enough run behind it in its group.
    Goal,
    /// Any aligned chunk of this order.
    Chunk(u32),
    /// Any run of the wanted length.
    Run,
    /// Any run of this length, the wanted one preferred.
    Shorter(u32),
    /// The longest run there is.
    Any,
}

/// What allocations have paid for: looks at groups nobody has looked at that turn out to be no good. A small volume
/// is known soon; on one of a hundred thousand groups no allocation has to pay for knowing them all.
pub(super) struct Exploration(AtomicI32);

impl Exploration {
    /// One look, in shares that an allocation pays.
    const LOOK: i32 = 128;
    const MOST: i32 = 64 * Self::LOOK;

    pub(super) fn new() -> Self {
        Self(AtomicI32::new(Self::MOST))
    }

    fn is_paid(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= Self::LOOK
    }

    fn spend(&self) {
        self.0.fetch_sub(Self::LOOK, Ordering::Relaxed);
    }

    fn pay(&self) {
        if self.0.load(Ordering::Relaxed) < Self::MOST {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Groups {
    /// Moves a run near the goal from free to R. `None`: there is no free block.
    pub(super) fn search(&self, want: Want) -> Result<Option<Found>> {
        let mut search = Search::new(self, want);
        self.explore.pay();
        let found = search.run();
        match (found, search.error) {
            (None, Some(error)) => Err(error),
            (found, _) => Ok(found),
        }
    }

    /// One level alone, for measurements.
    pub(super) fn search_level(&self, want: Want, level: Level) -> Option<Found> {
        let mut search = Search::new(self, want);
        let order = want.len.max(1).ilog2();
        match level {
            Level::Goal => search.try_group(search.start, level),
            Level::Chunk(order) => search.walk(By::Largest, order, level),
            Level::Run => search.walk(By::Average, order, level),
            Level::Shorter(len) => search.walk(By::Largest, len.max(1).ilog2(), level),
            Level::Any => search.any(),
        }
    }
}

struct Search<'a> {
    groups: &'a Groups,
    want: Want,
    /// The group from which the indexes are walked.
    start: u32,
    /// The first group that could not be read; it matters only if no other has room.
    error: Option<Error>,
}

impl<'a> Search<'a> {
    fn new(groups: &'a Groups, want: Want) -> Self {
        Self {
            groups,
            want,
            start: groups.geo.group_of(want.goal).0.get(),
            error: None,
        }
    }

    fn run(&mut self) -> Option<Found> {
        if let Some(found) = self.try_group(self.start, Level::Goal) {
            return Some(found);
        }
        let stream = self
            .want
            .stream
            .and_then(|slot| self.groups.streams.get(slot));
        if let Some(stream) = stream {
            let group = stream.load(Ordering::Relaxed);
            if group < self.groups.geo.group_count {
                self.start = group;
            }
        }
        let found = self.levels();
        if let (Some(stream), Some(found)) = (stream, &found) {
            stream.store(found.group.index.get(), Ordering::Relaxed);
        }
        found
    }

    fn levels(&mut self) -> Option<Found> {
        let (len, least) = (self.want.len, self.want.least);
        let order = len.ilog2();
        if len.is_power_of_two() && order >= MIN_CHUNK_ORDER {
            let found = self.walk(By::Largest, order, Level::Chunk(order));
            if found.is_some() {
                return found;
            }
        }
        if let Some(found) = self.walk(By::Average, order, Level::Run) {
            return Some(found);
        }
        if self.want.data {
            let floor = order.saturating_sub(BEST_AVAIL_MAX_TRIM).max(least.ilog2());
            for order in (floor..order).rev() {
                let found = self.walk(By::Average, order, Level::Shorter(1 << order));
                if found.is_some() {
                    return found;
                }
            }
        }
        // A run of 2^n blocks has an aligned chunk of 2^(n - 1) at least.
        let floor = least.ilog2().saturating_sub(1);
        if let Some(found) = self.walk(By::Largest, floor, Level::Shorter(least)) {
            return Some(found);
        }
        // As long as possible, but no group's last crumb before a better one near by.
        for order in (1..floor).rev().step_by(2) {
            let found = self.walk(By::Largest, order, Level::Shorter(1 << order));
            if found.is_some() {
                return found;
            }
        }
        self.any()
    }

    /// Groups that an index offers for an order, from the start upwards and around the end.
    fn walk(&mut self, by: By, order: u32, level: Level) -> Option<Found> {
        let (start, count) = (self.start, self.groups.geo.group_count);
        let mut tries = 0;
        for (from, to) in [(start, count), (0, start)] {
            let mut at = from;
            while let Some((group, known)) = self.next(by, order, at, to) {
                if let Some(found) = self.try_group(group, level) {
                    return Some(found);
                }
                if !known {
                    self.groups.explore.spend();
                }
                tries += 1;
                if tries >= MAX_TO_SCAN {
                    return None;
                }
                at = group + 1;
            }
        }
        None
    }

    /// The next group that an index offers, or one that nobody has looked at; whether it is known.
    fn next(&self, by: By, order: u32, from: u32, to: u32) -> Option<(u32, bool)> {
        let index = &self.groups.index;
        let known = index.next(by, order, from, to);
        if self.groups.explore.is_paid()
            && let Some(group) = index.next(By::Guess, order, from, known.unwrap_or(to))
        {
            return Some((group, false));
        }
        Some((known?, true))
    }

    /// Every group with a free block, until one has it for us.
    fn any(&mut self) -> Option<Found> {
        let (start, count) = (self.start, self.groups.geo.group_count);
        let index = &self.groups.index;
        for (from, to) in [(start, count), (0, start)] {
            let mut at = from;
            loop {
                let known = index.next(By::Largest, 0, at, to);
                let group = index.next(By::Guess, 0, at, known.unwrap_or(to)).or(known);
                let Some(group) = group else {
                    break;
                };
                if let Some(found) = self.try_group(group, Level::Any) {
                    return Some(found);
                }
                at = group + 1;
            }
        }
        None
    }

    fn try_group(&mut self, index: u32, level: Level) -> Option<Found> {
        match self.take_from(GroupIndex::new(index), level) {
            Ok(found) => found,
            Err(error) => {
                self.error.get_or_insert(error);
                None
            }
        }
    }

    fn take_from(&self, index: GroupIndex, level: Level) -> Result<Option<Found>> {
        if self.groups.index.free(index.get()) == 0 {
            return Ok(None);
        }
        if level == Level::Run && self.groups.index.average(index.get()) < self.want.len {
            return Ok(None);
        }
        self.groups.stats.touched.fetch_add(1, Ordering::Relaxed);
        let group = self.groups.get(index)?;
        let wait = matches!(level, Level::Any);
        let Some(mut state) = self.groups.lock_built(&group, wait)? else {
            return Ok(None);
        };
        let Some((start, len)) = self.pick(&state, level) else {
            return Ok(None);
        };
        if !state.reserve(start, len) {
            return Ok(None);
        }
        add(&self.groups.totals.held, len);
        self.groups.reindex(&state);
        drop(state);
        Ok(Some(Found { group, start, len }))
    }

    fn pick(&self, state: &GroupState, level: Level) -> Option<(u32, u32)> {
        let buddy = state.buddy.as_ref().filter(|_| !state.corrupt)?;
        let Want {
            goal, len, least, ..
        } = self.want;
        let (goal_group, goal_bit) = self.groups.place(goal);
        let from = if goal_group == state.index {
            goal_bit
        } else {
            0
        };
        let run = || buddy.find_run(len, from);
        match level {
            Level::Goal => {
                let here = buddy.run_at(from, len);
                // A whole stripe does not begin inside of one.
                let aligned = len != self.groups.stripe || self.stripe_offset(state, from) == 0;
                if here >= least && aligned {
                    return Some((from, here));
                }
                let exact = len == least && self.want.stream.is_none();
                run().filter(|_| exact).filter(|run| run.1 >= len)
            }
            Level::Chunk(order) => buddy.find_chunk(order, from).map(|start| (start, len)),
            Level::Run => self
                .striped(state, from)
                .or_else(|| run().filter(|run| run.1 >= len)),
            Level::Shorter(shortest) => run().filter(|run| run.1 >= shortest),
            Level::Any => run(),
        }
    }

    /// For whole stripes: a run that begins at the start of one.
    fn striped(&self, state: &GroupState, from: u32) -> Option<(u32, u32)> {
        let (stripe, len) = (self.groups.stripe, self.want.len);
        if stripe <= 1 || !len.is_multiple_of(stripe) {
            return None;
        }
        let base = self.stripe_offset(state, 0);
        let buddy = state.buddy.as_ref()?;
        let start = buddy.find_aligned(len, stripe, base, from)?;
        Some((start, len))
    }

    /// How far behind the start of a stripe a place in a group lies.
    fn stripe_offset(&self, state: &GroupState, bit: u32) -> u32 {
        let geo = &self.groups.geo;
        let first = geo.block_at(state.index, BlockInGroup::ZERO).get() >> geo.cluster_ratio_bits;
        ((first + u64::from(bit)) % u64::from(self.groups.stripe.max(1))) as u32
    }
}

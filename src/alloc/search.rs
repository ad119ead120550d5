//! Where to allocate: from the goal outwards, cheap looks first.
//!
//! Source: the design's section on the allocator; the levels are mballoc's.
//! Invariants: a level looks at a group only with its lock, taken without waiting on all levels but the last;
//! the last level looks at free counts alone, so that no free block is missed.

use super::groups::{Group, Groups, add};
use super::owner::GroupState;
use crate::error::{Error, Result};
use crate::ids::{BlockInGroup, FsBlock, GroupIndex};
use std::sync::Arc;

/// Groups that a level which is not the last one tries.
const MAX_TO_SCAN: u32 = 200;
/// How far below the wanted length a run may be before a slower level is tried, as an order.
const BEST_AVAIL_MAX_TRIM: u32 = 3;
/// Shorter requests are not worth an aligned chunk.
const MIN_CHUNK_ORDER: u32 = 2;

#[derive(Clone, Copy)]
pub(super) struct Want {
    pub(super) goal: FsBlock,
    /// Blocks that would be good.
    pub(super) len: u32,
    /// Blocks that were asked for, at most `len`.
    pub(super) least: u32,
}

/// A run just moved from free to R.
pub(super) struct Found {
    pub(super) group: Arc<Group>,
    pub(super) start: u32,
    pub(super) len: u32,
}

#[derive(Clone, Copy)]
enum Level {
    /// At the goal, else the first long enough run behind it in its group.
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

impl Groups {
    /// Moves a run near the goal from free to R. `None`: there is no free block.
    pub(super) fn search(&self, want: Want) -> Result<Option<Found>> {
        let mut search = Search {
            groups: self,
            want,
            error: None,
        };
        let found = search.run();
        match (found, search.error) {
            (None, Some(error)) => Err(error),
            (found, _) => Ok(found),
        }
    }
}

struct Search<'a> {
    groups: &'a Groups,
    want: Want,
    /// The first group that could not be read; it matters only if no other has room.
    error: Option<Error>,
}

impl Search<'_> {
    fn run(&mut self) -> Option<Found> {
        let goal = self.goal_group();
        if let Some(found) = self.try_group(goal, Level::Goal) {
            return Some(found);
        }
        let (len, least) = (self.want.len, self.want.least);
        let order = len.ilog2();
        if len.is_power_of_two() && order >= MIN_CHUNK_ORDER {
            let found = self.indexed(order, Level::Chunk(order));
            if found.is_some() {
                return found;
            }
        }
        if let Some(found) = self.indexed(order, Level::Run) {
            return Some(found);
        }
        let floor = order.saturating_sub(BEST_AVAIL_MAX_TRIM).max(least.ilog2());
        for order in (floor..order).rev() {
            let found = self.indexed(order, Level::Shorter(1 << order));
            if found.is_some() {
                return found;
            }
        }
        self.linear(least, Level::Shorter(least))
            .or_else(|| self.linear(1, Level::Any))
    }

    fn goal_group(&self) -> u32 {
        self.groups.geo.group_of(self.want.goal).0.get()
    }

    /// Groups that the index offers for an order, initialised ones first.
    fn indexed(&mut self, order: u32, level: Level) -> Option<Found> {
        let goal = self.goal_group();
        let count = self.groups.geo.group_count;
        let mut tries = 0;
        for uninit in [false, true] {
            for (from, to) in [(goal, count), (0, goal)] {
                let mut at = from;
                while let Some(group) = self.groups.index.next(order, at, to, uninit) {
                    if let Some(found) = self.try_group(group, level) {
                        return Some(found);
                    }
                    tries += 1;
                    if tries >= MAX_TO_SCAN {
                        return None;
                    }
                    at = group + 1;
                }
            }
        }
        None
    }

    /// All groups with at least `free` free blocks, from the goal's on.
    fn linear(&mut self, free: u32, level: Level) -> Option<Found> {
        let goal = self.goal_group();
        for group in (goal..self.groups.geo.group_count).chain(0..goal) {
            if self.groups.index.free(group) >= free
                && let Some(found) = self.try_group(group, level)
            {
                return Some(found);
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
        let Want { goal, len, least } = self.want;
        let (goal_group, goal_bit) = self.groups.geo.group_of(goal);
        let from = if goal_group == state.index {
            goal_bit
        } else {
            BlockInGroup::ZERO
        }
        .get();
        let run = || buddy.find_run(len, from);
        match level {
            Level::Goal => {
                let here = buddy.run_at(from, len);
                if here >= least {
                    return Some((from, here));
                }
                run().filter(|_| len == least).filter(|run| run.1 >= len)
            }
            Level::Chunk(order) => buddy.find_chunk(order, from).map(|start| (start, len)),
            Level::Run => run().filter(|run| run.1 >= len),
            Level::Shorter(shortest) => run().filter(|run| run.1 >= shortest),
            Level::Any => run(),
        }
    }
}

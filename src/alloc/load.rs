//! The kernel's way to give up preallocations: load bitmap and buddy first, look there for what is unused.
//!
//! Source: the design's sections on the eviction path and on block ownership (the policies other than `derive`).
//! Invariants: what the bitmap shows as unused of a preallocation is exactly its range, U; loading takes frames and
//! perhaps reads, with no lock held.

use super::bits;
use super::groups::Groups;
use super::owner::{GroupState, Prealloc};
use super::prealloc::PreallocTree;
use crate::cache::BufferRef;
use crate::error::{Error, Result};
use crate::format::checksum::BlockKind;
use crate::format::group::flag;
use crate::ids::{FsBlock, GroupIndex};
use crate::memory::Frame;
use crate::sync::Mutex;
use std::sync::Arc;

/// Loads of one buddy before whoever drops it all the time wins.
const MAX_LOADS: u32 = 64;
/// Bitmaps of a usual flex group.
const BITMAPS_AHEAD: u32 = 16;

/// What a load of buddies took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BuddyLoads {
    /// Groups that were looked at.
    pub groups: u32,
    /// Buddies that had to be built: two frames each.
    pub built: u32,
    /// Bitmaps that had to be read from the device.
    pub reads: u32,
}

/// What a group's buddy would take to load now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuddyCost {
    pub resident: bool,
    /// Whether the bitmap is in memory, or is none.
    pub bitmap_cached: bool,
}

impl Groups {
    pub(super) fn buddy_cost(&self, index: GroupIndex) -> Result<BuddyCost> {
        let group = self.get(index)?;
        let resident = group.lock().buddy.is_some();
        let (_, desc) = self.descriptor(index)?;
        let none = self.is_uninit(&desc, flag::BLOCK_UNINIT);
        Ok(BuddyCost {
            resident,
            bitmap_cached: none || self.cache.cached(desc.block_bitmap).is_some(),
        })
    }

    /// Makes a group's buddy resident; with `frames`, out of these.
    pub(super) fn load_buddy(
        &self,
        index: GroupIndex,
        frames: Option<[Frame; 2]>,
    ) -> Result<BuddyLoads> {
        let cost = self.buddy_cost(index)?;
        let mut loads = BuddyLoads {
            groups: 1,
            ..BuddyLoads::default()
        };
        if !cost.resident {
            loads.built = 1;
            loads.reads = u32::from(!cost.bitmap_cached);
            let group = self.get(index)?;
            let _ = self.build(&group, frames)?;
        }
        Ok(loads)
    }

    /// Has the bitmaps of the following groups read in the background, as far as they lie behind this one on the volume
    /// and are initialised: what lies in the place of one that is not must never come into the cache.
    pub(super) fn read_bitmaps_ahead(&self, index: GroupIndex, bitmap: FsBlock) {
        let follows = |ahead: &u32| {
            let next = index.checked_add(*ahead);
            let Some(next) = next.filter(|next| next.get() < self.geo.group_count) else {
                return false;
            };
            let place = bitmap.checked_add(u64::from(*ahead));
            self.descriptor(next).is_ok_and(|(_, desc)| {
                !self.is_uninit(&desc, flag::BLOCK_UNINIT) && Some(desc.block_bitmap) == place
            })
        };
        let count = (1..BITMAPS_AHEAD).take_while(follows).count();
        if let Some(first) = bitmap.checked_add(1)
            && count > 0
        {
            self.cache
                .prefetch_later(first, u32::try_from(count).unwrap_or(0));
        }
    }

    /// U to free for all of an inode, each group's buddy loaded by `load` first.
    pub(super) fn discard_tree_through_buddy(
        &self,
        tree: &Mutex<PreallocTree>,
        load: &mut dyn FnMut(GroupIndex) -> Result<BuddyLoads>,
    ) -> Result<BuddyLoads> {
        let mut loads = BuddyLoads::default();
        let mut tries = 0;
        loop {
            let Some(index) = tree.lock().first_group() else {
                return Ok(loads);
            };
            let one = load(index)?;
            loads.groups += one.groups;
            loads.built += one.built;
            loads.reads += one.reads;
            tries += 1;
            let bitmap = self.bitmap_if_any(index)?;
            let mut tree = tree.lock();
            let Some(group) = self.resident(index) else {
                tree.take_of(index);
                continue;
            };
            let mut state = group.lock();
            if state.buddy.is_none() && !state.corrupt && tries < MAX_LOADS {
                continue;
            }
            tries = 0;
            for run in tree.take_of(index) {
                self.free_unused(&mut state, &run, bitmap.as_ref());
            }
        }
    }

    fn bitmap_if_any(&self, index: GroupIndex) -> Result<Option<BufferRef>> {
        let (_, desc) = self.descriptor(index)?;
        if self.is_uninit(&desc, flag::BLOCK_UNINIT) {
            return Ok(None);
        }
        self.cache
            .read(desc.block_bitmap, BlockKind::Plain)
            .map(Some)
    }

    /// Frees the blocks of a preallocation that the newest bitmap shows as unused and that are not handed out.
    fn free_unused(&self, state: &mut GroupState, run: &Arc<Prealloc>, bitmap: Option<&BufferRef>) {
        if !state.unlink(run) {
            return;
        }
        let bitmap = bitmap.map(|buffer| buffer.snapshot());
        let in_use = |bit: u32| {
            let set = bitmap.as_ref().is_some_and(|bytes| bits::get(bytes, bit));
            set || state.is_reserved(bit)
        };
        let mut unused = Vec::new();
        let (mut at, end) = (run.start, run.start + run.len);
        while at < end {
            let from = at;
            while at < end && !in_use(at) {
                at += 1;
            }
            if at > from {
                unused.push((from, at - from));
            }
            at += 1;
        }
        debug_assert_eq!(
            unused,
            [(run.start, run.len)],
            "the bitmap shows something else than what is set aside"
        );
        for (start, len) in unused {
            self.release(state, start, len);
        }
    }

    pub(super) fn record_error(&self, error: Error) {
        self.errors.lock().push(error);
    }
}

//! Buddies that stay in memory, with their bitmaps, while blocks are set aside in their groups: eviction policy `pin`.
//!
//! Source: the design's section on the eviction path; the thread's "pin the buddy bitmap and bitmap blocks in memory".
//! Invariants: what is pinned is at most its share of the cap, so requests never stand before a budget that nothing can
//! free; a group with blocks set aside holds a place among the pinned; where there is none left nothing is set aside
//! (which is optional), so a group is never unpinned before its blocks are given up.

use super::groups::{Group, Groups};
use super::owner::GroupState;
use crate::memory::Memory;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// The part of the cap that pinned groups may take.
const SHARE: u64 = 8;
/// Two of the buddy, one of the bitmap.
const FRAMES: u64 = 3;

#[derive(Default)]
pub(super) struct Pins {
    on: AtomicBool,
    /// Groups that may be pinned.
    most: AtomicU32,
    held: AtomicU32,
    refused: AtomicU64,
}

/// One group's place among the pinned.
pub(super) struct Pin(Arc<Pins>);

impl Drop for Pin {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pins {
    pub(super) fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    fn take(self: &Arc<Self>) -> Option<Pin> {
        let most = self.most.load(Ordering::Relaxed);
        let take = |held: u32| (held < most).then_some(held + 1);
        let taken = self
            .held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.is_ok().then(|| Pin(Arc::clone(self)))
    }
}

impl Groups {
    /// From now on or no more; at a moment when nothing is set aside.
    pub(super) fn pin_buddies(&self, on: bool) {
        let most = groups_in_share(&self.memory);
        self.pins.most.store(most, Ordering::Relaxed);
        self.pins.on.store(on, Ordering::Relaxed);
    }

    /// Whether blocks may be set aside in the group, which has its buddy; it is pinned then, if anything is.
    pub(super) fn may_set_aside(&self, state: &mut GroupState) -> bool {
        if !self.pins.is_on() || state.pin.is_some() {
            return true;
        }
        state.pin = self.pins.take();
        let pinned = state.pin.is_some();
        if !pinned {
            self.pins.refused.fetch_add(1, Ordering::Relaxed);
        }
        pinned
    }

    /// The group's place is another's when nothing is set aside any more.
    pub(super) fn unpin_unused(&self, state: &mut GroupState) {
        if state.unused.is_empty() {
            state.pin = None;
        }
    }

    pub(super) fn pinned_bytes(&self) -> u64 {
        let is_kept = |group: &&Arc<Group>| {
            let state = group.lock();
            state.buddy.is_some() && state.pin.is_some()
        };
        let kept = self.all_resident().iter().filter(is_kept).count();
        kept as u64 * FRAMES * self.memory.frame_cost()
    }

    /// How often nothing was set aside because no more groups could be pinned.
    pub(super) fn pins_refused(&self) -> u64 {
        self.pins.refused.load(Ordering::Relaxed)
    }
}

fn groups_in_share(memory: &Memory) -> u32 {
    let groups = memory.cap() / SHARE / (FRAMES * memory.frame_cost());
    u32::try_from(groups).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::volume::Volume;
    use super::super::{Growth, PreallocTree, Request};
    use super::*;
    use crate::ids::{FileBlock, FsBlock, GroupIndex, InodeNumber};
    use crate::memory::shrinker::Shrinker;
    use crate::sync::{Mutex, Rank};

    const SMALL_GROUPS: &[&str] = &["-t", "ext2", "-b", "1024", "-g", "256", "-N", "4096"];

    fn grow(volume: &Volume, group: u32, tree: &Mutex<PreallocTree>) {
        let goal = volume
            .geo()
            .block_at(GroupIndex::new(group), crate::ids::BlockInGroup::new(100));
        let request = Request {
            len: 4,
            logical: Some(FileBlock::new(20)),
            file_blocks: 30,
            growth: Growth::Open,
            ..Request::metadata(InodeNumber::new(12), FsBlock::new(goal.get()), true)
        };
        drop(volume.alloc.reserve(&request, Some(tree)).unwrap());
    }

    #[test]
    fn groups_beyond_the_share_set_nothing_aside_and_the_others_keep_their_buddies() {
        let volume = Volume::make("16M", SMALL_GROUPS);
        let before = volume.audit();
        let groups = &volume.alloc.groups;
        groups.pin_buddies(true);
        groups.pins.most.store(3, Ordering::Relaxed);
        let trees: Vec<_> = (0..8)
            .map(|_| Mutex::new(Rank::Prealloc, PreallocTree::default()))
            .collect();
        for (number, tree) in (0..).zip(&trees) {
            grow(&volume, 10 + 3 * number, tree);
        }
        let with_rest = |tree: &&Mutex<PreallocTree>| !tree.lock().is_empty();
        assert_eq!(trees.iter().filter(with_rest).count(), 3);
        assert_eq!(groups.pins_refused(), 5);
        groups.shrink(usize::MAX);
        assert_eq!(
            groups.pinned_bytes(),
            3 * FRAMES * volume.memory.frame_cost()
        );
        for group in groups.all_resident() {
            let state = group.lock();
            assert!(state.unused.is_empty() || (state.buddy.is_some() && state.bitmap.is_some()));
        }
        // A place that is given up is another's.
        trees.iter().for_each(|tree| groups.discard_tree(tree));
        assert_eq!(groups.pinned_bytes(), 0);
        grow(&volume, 60, &trees[0]);
        assert!(!trees[0].lock().is_empty());
        groups.discard_tree(&trees[0]);
        groups.shrink(usize::MAX);
        assert!(
            groups
                .all_resident()
                .iter()
                .all(|group| group.lock().buddy.is_none())
        );
        assert_eq!(volume.audit(), before);
    }
}

//! Groups as a whole: what a damaged one costs, how long one stays in memory, how many a search looks at.
//!
//! Source: the design's section on the allocator.

use super::groups::Bitmap;
use super::volume::Volume;
use super::{Allocator, Growth, PreallocTree, Request, Settings};
use crate::ids::{FileBlock, FsBlock, GroupIndex, InodeNumber};
use crate::sync::{Mutex, Rank};
use std::sync::Arc;

const SMALL_GROUPS: &[&str] = &["-t", "ext2", "-b", "1024", "-g", "256", "-N", "4096"];

fn request(goal: u64, len: u32) -> Request {
    Request {
        len,
        ..Request::metadata(InodeNumber::new(12), FsBlock::new(goal), true)
    }
}

#[test]
fn a_wrong_inode_bitmap_sends_new_inodes_elsewhere() {
    let volume = Volume::make("24M", &["-t", "ext4", "-b", "1024", "-J", "size=1"]);
    let groups = &volume.alloc.groups;
    let first = GroupIndex::ZERO;
    let bitmap = groups.bitmap_for_write(first, Bitmap::Inodes).unwrap();
    volume.with_handle(1, |handle| {
        let mut bytes = handle.write(&bitmap).unwrap();
        super::bits::put(&mut bytes, 100, true);
    });
    let make = || {
        let made = volume.with_handle(4, |handle| {
            volume.alloc.new_inode(handle, InodeNumber::ROOT, false)
        });
        made.unwrap()
    };
    let (one, two) = (make(), make());
    assert_ne!(one, two);
    for ino in [one, two] {
        assert_ne!(volume.geo().inode_place(ino).unwrap().0, first);
    }
    assert_eq!(volume.alloc.take_errors().len(), 1);
}

#[test]
fn idle_groups_leave_memory_and_come_back_with_what_was_known() {
    let volume = Volume::make("16M", SMALL_GROUPS);
    let before = volume.audit();
    let groups = &volume.alloc.groups;
    let tree = Mutex::new(Rank::Prealloc, PreallocTree::default());
    let wanted = Request {
        logical: Some(FileBlock::new(20)),
        file_blocks: 30,
        growth: Growth::Open,
        ..request(5000, 4)
    };
    let run = volume.alloc.reserve(&wanted, Some(&tree)).unwrap();
    let used = volume.geo().group_of(run.start()).0;
    for group in volume.geo().groups() {
        volume.alloc.load_buddy(group, None).unwrap();
    }
    let known: Vec<_> = volume
        .geo()
        .groups()
        .map(|g| groups.index.summary(g.get()))
        .collect();
    volume.drop_buddies();
    volume.alloc.drop_idle_groups();
    let resident = groups.all_resident();
    assert_eq!(
        resident.iter().map(|group| group.index).collect::<Vec<_>>(),
        [used]
    );
    drop(resident);
    let now: Vec<_> = volume
        .geo()
        .groups()
        .map(|g| groups.index.summary(g.get()))
        .collect();
    assert_eq!(now, known);
    assert!(known.iter().flatten().all(|summary| summary.known));
    drop(run);
    volume.alloc.discard_preallocations(&tree);
    volume.alloc.drop_idle_groups();
    assert!(groups.all_resident().is_empty());
    assert_eq!(volume.audit(), before);
}

/// Fills a volume but for every tenth 16 blocks, as runs that are handed out and some of them returned.
fn fill(volume: &Volume) {
    let mut kept = 0;
    let mut runs = Vec::new();
    while let Ok(run) = volume.alloc.reserve(&request(1, 16), None) {
        let (start, len) = (run.start(), run.len());
        volume
            .with_handle(2, |handle| volume.alloc.mark(handle, run, len))
            .unwrap();
        kept += 1;
        if kept % 10 == 0 && len == 16 {
            runs.push(start);
        }
    }
    for start in runs {
        volume
            .with_handle(4, |handle| volume.alloc.free(handle, start, 16))
            .unwrap();
    }
    volume.journal.commit_running().unwrap();
}

#[test]
fn a_search_looks_at_few_groups_however_many_there_are() {
    for size in ["12M", "96M"] {
        let volume = Volume::make(size, SMALL_GROUPS);
        fill(&volume);
        // One that has yet to learn what the groups are like.
        let cache = Arc::clone(&volume.alloc.groups.cache);
        let alloc = Allocator::new(cache, Arc::clone(&volume.memory), Settings::default()).unwrap();
        let middle = volume.geo().blocks_count / 2;
        let mut held = Vec::new();
        for number in 0..100 {
            let wanted = Request {
                logical: Some(FileBlock::new(40 * number)),
                ..request(middle, [1, 4, 16, 64][number as usize % 4])
            };
            held.push(alloc.reserve(&wanted, None).unwrap());
        }
        let stats = alloc.stats();
        let looks = stats.groups_touched - 64.min(u64::from(volume.geo().group_count));
        assert!(looks <= 3 * stats.allocations, "{size}: {stats:?}");
        assert!(stats.buddies_built <= 64 + 30, "{size}: {stats:?}");
    }
}

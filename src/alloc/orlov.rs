//! In which group a new inode goes: directories are spread, files stay with their directory.
//!
//! Source: the design's section on the allocator (Orlov's placement, as ext4 does it with flex groups).
//! Invariants: only groups that claim to have free inodes are named; the answer is a hint, the caller claims.

use super::groups::Groups;
use crate::ids::{GroupIndex, InodeNumber};
use std::ops::Range;
use std::sync::atomic::Ordering;

/// Cells that are looked at for one directory.
const MAX_CELLS: usize = 512;

/// One group, or a flex group taken together.
#[derive(Clone, Copy, Default)]
struct Load {
    free_inodes: u64,
    free_blocks: u64,
    dirs: u64,
}

impl Groups {
    /// The group to try first for a new inode; `None` when no group has a free one.
    pub(super) fn place_inode(&self, parent: InodeNumber, is_dir: bool) -> Option<u32> {
        let group = self.inode_group(parent).get();
        if is_dir {
            self.place_directory(parent, group)
        } else {
            self.place_file(parent, group)
        }
    }

    /// The first group from `from` on, around the end, with a free inode.
    pub(super) fn any_inode_group(&self, from: u32) -> Option<u32> {
        let count = self.geo.group_count;
        (from..count)
            .chain(0..from)
            .find(|&group| self.inodes_free(group) > 0)
    }

    fn place_directory(&self, parent: InodeNumber, parent_group: u32) -> Option<u32> {
        let flex = 1u32 << self.geo.log_groups_per_flex.min(31);
        let count = self.geo.group_count.div_ceil(flex);
        let start = parent_group / flex;
        let average = self.average_load(count);
        let around = |start: u32| (start..count).chain(0..start).take(MAX_CELLS);
        let cell = if parent == InodeNumber::ROOT {
            around(self.spread(start, count))
                .map(|cell| (cell, self.load(self.members(cell))))
                .filter(|(_, load)| load.free_inodes > 0 && load.at_least(average))
                .min_by_key(|(_, load)| load.dirs)
                .map(|(cell, _)| cell)
        } else {
            let limit = self.near_limit(average, flex);
            around(start).find(|&cell| {
                let load = self.load(self.members(cell));
                load.free_inodes > 0 && load.dirs < limit.dirs && load.at_least(limit)
            })
        };
        let in_cell = cell.and_then(|cell| {
            self.members(cell)
                .find(|&group| self.inodes_free(group) > 0)
        });
        in_cell.or_else(|| self.any_inode_group(parent_group))
    }

    /// What an average cell holds.
    fn average_load(&self, cells: u32) -> Load {
        let totals = &self.totals;
        let free_blocks =
            totals.available.load(Ordering::Relaxed) + totals.claimed.load(Ordering::Relaxed);
        let all = Load {
            free_inodes: totals.free_inodes.load(Ordering::Relaxed),
            free_blocks,
            dirs: totals.directories.load(Ordering::Relaxed),
        };
        all.divided(u64::from(cells))
    }

    /// Where to begin to look for a top directory: where there are too many cells to look at all, somewhere else
    /// each time.
    fn spread(&self, start: u32, cells: u32) -> u32 {
        if cells as usize <= MAX_CELLS {
            return start;
        }
        let dirs = self.totals.directories.load(Ordering::Relaxed);
        (dirs.wrapping_mul(0x9e37_79b9) % u64::from(cells)) as u32
    }

    /// How much worse than average a place near the parent may be.
    fn near_limit(&self, average: Load, flex: u32) -> Load {
        let inodes = u64::from(self.geo.inodes_per_group) * u64::from(flex);
        let blocks = u64::from(self.geo.blocks_per_group) * u64::from(flex);
        Load {
            dirs: average.dirs + (inodes / 16).max(1),
            free_inodes: average.free_inodes.saturating_sub(inodes / 4).max(1),
            free_blocks: average.free_blocks.saturating_sub(blocks / 4),
        }
    }

    fn place_file(&self, parent: InodeNumber, parent_group: u32) -> Option<u32> {
        let count = self.geo.group_count;
        let usable = |group: u32| self.inodes_free(group) > 0 && self.index.free(group) > 0;
        if usable(parent_group) {
            return Some(parent_group);
        }
        let flex = 1u32 << self.geo.log_groups_per_flex.min(31);
        let near = self
            .members(parent_group / flex)
            .find(|&group| usable(group));
        // Different directories of one full group go to different places.
        let mut group =
            (u64::from(parent_group) + u64::from(parent.get())) % u64::from(count.max(1));
        let mut step = 1;
        near.or_else(|| {
            while step < u64::from(count) {
                group = (group + step) % u64::from(count);
                if usable(group as u32) {
                    return Some(group as u32);
                }
                step *= 2;
            }
            self.any_inode_group(parent_group)
        })
    }

    fn members(&self, cell: u32) -> Range<u32> {
        let flex = 1u32 << self.geo.log_groups_per_flex.min(31);
        let first = cell.saturating_mul(flex);
        first..first.saturating_add(flex).min(self.geo.group_count)
    }

    fn load(&self, groups: Range<u32>) -> Load {
        groups.fold(Load::default(), |sum, group| {
            let dirs = self.used_dirs.get(group as usize);
            sum.plus(Load {
                free_inodes: u64::from(self.inodes_free(group)),
                free_blocks: u64::from(self.index.free(group)),
                dirs: dirs.map_or(0, |dirs| u64::from(dirs.load(Ordering::Relaxed))),
            })
        })
    }

    fn inodes_free(&self, group: u32) -> u32 {
        self.free_inodes
            .get(group as usize)
            .map_or(0, |free| free.load(Ordering::Relaxed))
    }

    /// Takes one of a group's free inodes; whoever has a claim finds a clear bit.
    pub(super) fn claim_inode(&self, group: GroupIndex) -> bool {
        let Some(free) = self.free_inodes.get(group.get() as usize) else {
            return false;
        };
        free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| {
            free.checked_sub(1)
        })
        .is_ok()
    }
}

impl Load {
    fn plus(self, other: Self) -> Self {
        Self {
            free_inodes: self.free_inodes + other.free_inodes,
            free_blocks: self.free_blocks + other.free_blocks,
            dirs: self.dirs + other.dirs,
        }
    }

    fn divided(self, by: u64) -> Self {
        let by = by.max(1);
        Self {
            free_inodes: self.free_inodes / by,
            free_blocks: self.free_blocks / by,
            dirs: self.dirs / by,
        }
    }

    fn at_least(self, other: Self) -> bool {
        self.free_inodes >= other.free_inodes && self.free_blocks >= other.free_blocks
    }
}

//! Free blocks and inodes for repairs, by what the run itself has found in use.
//!
//! Source: the kernel's ext4 documentation, "Block and inode Bitmaps".
//! Invariants: a block is given out at most once in a run; with clusters a whole one is given out.

use crate::blockset::BlockSet;
use crate::mapedit::Space;
use crate::session::Fsck;
use uext4::format::geometry::Geometry;

/// Free blocks of the volume.
pub struct Free<'a> {
    pub used: &'a mut BlockSet,
    /// Clusters that the run itself has put to use, or free.
    pub moved: &'a mut BlockSet,
    pub geo: &'a Geometry,
    /// What was given out.
    pub taken: Vec<u64>,
}

pub fn cluster_of(geo: &Geometry, block: u64) -> u64 {
    block.saturating_sub(u64::from(geo.first_data_block)) >> geo.cluster_ratio_bits
}

/// Clusters of a run of blocks: first and count.
pub fn clusters_of(geo: &Geometry, block: u64, len: u64) -> (u64, u64) {
    let first = cluster_of(geo, block);
    let last = cluster_of(geo, block + len.max(1) - 1);
    (first, last - first + 1)
}

fn clusters(geo: &Geometry) -> u64 {
    let blocks = geo
        .blocks_count
        .saturating_sub(u64::from(geo.first_data_block));
    blocks.div_ceil(1 << geo.cluster_ratio_bits)
}

impl Free<'_> {
    /// The first block of a free cluster at or behind `near`, else anywhere.
    pub fn cluster(&mut self, near: u64) -> Option<u64> {
        let all = clusters(self.geo);
        let start = cluster_of(self.geo, near).min(all);
        let found = self.search(start, all).or_else(|| self.search(0, start))?;
        self.used.add(found, 1);
        self.moved.add(found, 1);
        let block = (found << self.geo.cluster_ratio_bits) + u64::from(self.geo.first_data_block);
        if block + (1 << self.geo.cluster_ratio_bits) > self.geo.blocks_count {
            return None;
        }
        self.taken.push(block);
        Some(block)
    }

    fn search(&self, from: u64, to: u64) -> Option<u64> {
        let per = u64::from(self.geo.clusters_per_group);
        let mut at = from;
        while at < to {
            let group = at / per;
            let end = to.min((group + 1) * per);
            if let Some(free) = self.used.first_outside(at, end) {
                return Some(free);
            }
            at = end;
        }
        None
    }
}

impl Space for Free<'_> {
    fn block(&mut self, near: u64) -> Option<u64> {
        self.cluster(near)
    }
}

impl Fsck<'_, '_> {
    pub fn free(&mut self) -> Free<'_> {
        Free {
            used: &mut self.used,
            moved: &mut self.moved,
            geo: &self.geo,
            taken: Vec::new(),
        }
    }

    /// An inode that is not in use, behind the reserved ones.
    pub fn free_inode(&self) -> Option<u32> {
        (self.geo.first_ino..=self.geo.inodes_count).find(|ino| !self.inodes.is_used(*ino))
    }
}

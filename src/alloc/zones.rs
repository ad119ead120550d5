//! The blocks that hold the file system's fixed metadata: superblocks, descriptors, bitmaps, inode tables.
//!
//! Source: the kernel's ext4 documentation, "Layout", "Flexible block groups", "Meta block groups".
//! Invariants: zones are sorted, disjoint and merged; together with the padding at the end of a bitmap they
//! are all that an uninitialised block bitmap says.

use super::bits;
use crate::format::geometry::Geometry;
use crate::format::group::GroupDesc;
use crate::ids::{FsBlock, GroupIndex};

#[derive(Default)]
pub(super) struct SystemZones {
    /// First block and the block after the last one.
    zones: Vec<(u64, u64)>,
}

/// Zones as they come in, group after group. Flex groups lay each kind of several groups side by side, so that they
/// are kept by kind: each list is short and nearly in order.
#[derive(Default)]
pub(super) struct Builder {
    kinds: [Vec<(u64, u64)>; 4],
}

impl Builder {
    pub(super) fn add_group(&mut self, geo: &Geometry, group: GroupIndex, desc: &GroupDesc) {
        let base = u64::from(geo.base_meta_blocks(group));
        let table = u64::from(geo.itable_blocks);
        self.add(0, geo.first_block(group).get(), base);
        self.add(1, desc.block_bitmap.get(), 1);
        self.add(2, desc.inode_bitmap.get(), 1);
        self.add(3, desc.inode_table.get(), table);
    }

    fn add(&mut self, kind: usize, start: u64, len: u64) {
        if len == 0 {
            return;
        }
        let end = start.saturating_add(len);
        match self.kinds[kind].last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => self.kinds[kind].push((start, end)),
        }
    }

    pub(super) fn finish(self) -> SystemZones {
        let mut zones = self.kinds.concat();
        // Stable: it merges what is in order already.
        zones.sort();
        zones.dedup_by(|next, zone| {
            let joins = next.0 <= zone.1;
            if joins {
                zone.1 = zone.1.max(next.1);
            }
            joins
        });
        zones.shrink_to_fit();
        SystemZones { zones }
    }
}

impl SystemZones {
    /// Zones of runs that belong to the file system's own files.
    pub(super) fn of_runs(runs: &[(FsBlock, u32)]) -> Self {
        let mut builder = Builder::default();
        for &(start, len) in runs {
            builder.add(0, start.get(), u64::from(len));
        }
        builder.finish()
    }

    pub(super) fn bytes(&self) -> usize {
        self.zones.capacity() * size_of::<(u64, u64)>()
    }

    pub(super) fn overlaps(&self, start: u64, len: u64) -> bool {
        let end = start.saturating_add(len);
        let first = self.zones.partition_point(|zone| zone.1 <= start);
        self.zones.get(first).is_some_and(|zone| zone.0 < end)
    }

    /// The zones inside of a group: (first bit, length), in clusters; two may share one.
    pub(super) fn in_group(
        &self,
        geo: &Geometry,
        group: GroupIndex,
    ) -> impl Iterator<Item = (u32, u32)> + '_ {
        let start = geo.first_block(group).get();
        let end = start + u64::from(geo.blocks_in_group(group));
        let ratio = geo.cluster_ratio_bits;
        let first = self.zones.partition_point(|zone| zone.1 <= start);
        self.zones
            .iter()
            .skip(first)
            .take_while(move |zone| zone.0 < end)
            .map(move |zone| {
                let from = (zone.0.max(start) - start) >> ratio;
                let to = (zone.1.min(end) - start).div_ceil(1 << ratio);
                (from as u32, (to - from) as u32)
            })
    }

    /// Writes the bitmap of a group in which nothing but fixed metadata is in use.
    pub(super) fn fill_bitmap(&self, geo: &Geometry, group: GroupIndex, bitmap: &mut [u8]) {
        bitmap.fill(0);
        for (start, len) in self.in_group(geo, group) {
            bits::fill(bitmap, start, len, true);
        }
        let size = clusters_in_group(geo, group);
        let bits = bitmap.len() as u32 * 8;
        bits::fill(bitmap, size, bits.saturating_sub(size), true);
    }

    /// Whether a bitmap marks all of the group's fixed metadata and its own padding.
    pub(super) fn agree(&self, geo: &Geometry, group: GroupIndex, bitmap: &[u8]) -> bool {
        let size = clusters_in_group(geo, group);
        let padding = geo.clusters_per_group.saturating_sub(size);
        bits::all(bitmap, size, padding, true)
            && self
                .in_group(geo, group)
                .all(|(start, len)| bits::all(bitmap, start, len, true))
    }
}

/// Bits of a group's bitmap that stand for blocks of the volume.
pub(super) fn clusters_in_group(geo: &Geometry, group: GroupIndex) -> u32 {
    let blocks = u64::from(geo.blocks_in_group(group));
    blocks.div_ceil(1 << geo.cluster_ratio_bits) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_merge_and_are_found() {
        let mut zones = Builder::default();
        for (start, len) in [
            (100, 10),
            (110, 5),
            (0, 3),
            (50, 2),
            (51, 4),
            (3, 1),
            (9, 0),
        ] {
            zones.add(start as usize % 4, start, len);
        }
        let zones = zones.finish();
        assert_eq!(zones.zones, [(0, 4), (50, 55), (100, 115)]);
        assert!(zones.overlaps(3, 1) && zones.overlaps(40, 11) && zones.overlaps(114, 9));
        assert!(!zones.overlaps(4, 46) && !zones.overlaps(55, 45) && !zones.overlaps(115, 1000));
    }
}

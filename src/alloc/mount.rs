//! What the allocator learns at mount: one pass over the group descriptors, no bitmap.
//!
//! Source: the kernel's ext4 documentation, "Block Group Descriptors".
//! Invariants: every descriptor is verified; the totals are sums over the descriptors, the superblock's are
//! not looked at.

use super::groups::{Totals, add};
use super::index::{self, GroupIndexes};
use super::zones::{self, SystemZones};
use crate::cache::BlockCache;
use crate::error::{Location, Result};
use crate::format::geometry::Geometry;
use crate::format::group::{GroupDesc, flag};
use crate::ids::GroupIndex;
use crate::memory::Memory;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

/// The longest read.
const READ_BYTES: u32 = 1 << 20;

pub(super) struct Summary {
    pub(super) zones: SystemZones,
    pub(super) index: GroupIndexes,
    pub(super) totals: Totals,
    pub(super) free_inodes: Vec<AtomicU32>,
    pub(super) used_dirs: Vec<AtomicU32>,
}

/// Streams the descriptor table.
pub(super) fn scan(cache: &BlockCache, memory: &Arc<Memory>) -> Result<Summary> {
    let geo = cache.geometry();
    let mut zones = zones::Builder::default();
    let mut summary = Summary {
        zones: SystemZones::default(),
        index: GroupIndexes::new(geo.group_count, geo.clusters_per_group),
        totals: Totals::default(),
        free_inodes: Vec::with_capacity(geo.group_count as usize),
        used_dirs: Vec::with_capacity(geo.group_count as usize),
    };
    let block_bytes = geo.block_size as usize;
    let most = (READ_BYTES / geo.block_size).max(1);
    let mut buffer = memory.io_buffer(most as usize * block_bytes);
    let mut group = 0;
    while group < geo.group_count {
        let (first, blocks) = contiguous(geo, group, most);
        let bytes = &mut buffer[..blocks as usize * block_bytes];
        cache.device().read_at(first << geo.block_bits, bytes)?;
        let end = group.saturating_add(blocks.saturating_mul(geo.descs_per_block));
        for index in group..end.min(geo.group_count) {
            let desc = summary.add(geo, GroupIndex::new(index), first, bytes)?;
            zones.add_group(geo, GroupIndex::new(index), &desc);
        }
        group = end;
    }
    summary.zones = zones.finish();
    Ok(summary)
}

/// The descriptor block of `group`, and how many of the following ones (at most `most`) lie behind it.
fn contiguous(geo: &Geometry, group: u32, most: u32) -> (u64, u32) {
    let block_of = |group: u32| geo.desc_location(GroupIndex::new(group)).0.get();
    let first = block_of(group);
    let mut blocks = 1;
    while blocks < most {
        let next = group.saturating_add(blocks.saturating_mul(geo.descs_per_block));
        if next >= geo.group_count || block_of(next) != first + u64::from(blocks) {
            break;
        }
        blocks += 1;
    }
    (first, blocks)
}

impl Summary {
    fn add(
        &mut self,
        geo: &Geometry,
        group: GroupIndex,
        first: u64,
        bytes: &[u8],
    ) -> Result<GroupDesc> {
        let (block, offset) = geo.desc_location(group);
        let start = ((block.get() - first) << geo.block_bits) as usize + offset;
        let desc = bytes
            .get(start..start + geo.desc_size as usize)
            .unwrap_or(&[]);
        let desc = GroupDesc::parse(desc, geo, group)
            .map_err(|error| error.located(Location::group(group).with_block(block)))?;
        let free = desc.free_blocks;
        add(&self.totals.not_in_bitmap, free);
        add(&self.totals.available, free);
        add(&self.totals.free_inodes, desc.free_inodes);
        add(&self.totals.directories, desc.used_dirs);
        self.free_inodes.push(AtomicU32::new(desc.free_inodes));
        self.used_dirs.push(AtomicU32::new(desc.used_dirs));
        let uninit = desc.flags & flag::BLOCK_UNINIT != 0 && geo.features.group_csum();
        // Where nothing was ever allocated the guess is right.
        self.index
            .set(group.get(), index::Summary::guess(free, uninit));
        Ok(desc)
    }
}

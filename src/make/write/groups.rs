//! Bitmaps and descriptors of the groups.
//!
//! Source: the kernel's ext4 documentation, "Block Group Descriptors", "Block and Inode Bitmaps".
//! Invariants: what a descriptor says of a bitmap is computed from the bytes that are written.

use super::Writing;
use super::table::Table;
use crate::error::Result;
use crate::format::checksum;
use crate::format::group::{self, GroupDesc};
use crate::ids::{FsBlock, GroupIndex};
use std::ops::Range;
use std::sync::atomic::Ordering;

impl Writing<'_> {
    pub(super) fn describe(&self, groups: Range<u32>) -> Result<()> {
        let desc_size = self.plan.numbers.desc_size as usize;
        let first = groups.start;
        let mut bytes = vec![0u8; groups.len() * desc_size];
        for (index, bytes) in groups.zip(bytes.chunks_exact_mut(desc_size)) {
            let desc = self.descriptor(index);
            desc.write_to(bytes, &self.geo, GroupIndex::new(index));
        }
        self.described.lock().push((first, bytes));
        Ok(())
    }

    /// Makes one table of what the jobs came to.
    pub(super) fn gather(&self) {
        let numbers = &self.plan.numbers;
        let mut table = Table::zeroed(numbers.desc_blocks as usize * numbers.block_size as usize);
        for (first, bytes) in self.described.lock().drain(..) {
            let start = first as usize * numbers.desc_size as usize;
            table.bytes_mut()[start..start + bytes.len()].copy_from_slice(&bytes);
        }
        let written = self.written.load(Ordering::Relaxed);
        // Begun once.
        let _ = self.descriptors.set((table, written));
    }

    /// Writes the bitmaps that say more than the descriptors, and gets the device going.
    pub(super) fn bitmaps(&self, groups: Range<u32>) -> Result<()> {
        let mut ends = Option::<(u64, u64)>::None;
        for index in groups {
            let place = self.plan.groups[index as usize];
            let block = self.block_bitmap(index);
            let inode = self.inode_bitmap(index);
            for (at, bitmap) in [(place.block_bitmap, block), (place.inode_bitmap, inode)] {
                if let Some(bitmap) = bitmap {
                    self.put_block(at, &bitmap)?;
                    let (first, last) = ends.unwrap_or((at, at));
                    ends = Some((first.min(at), last.max(at)));
                }
            }
        }
        if let Some((first, last)) = ends {
            let block_size = u64::from(self.plan.numbers.block_size);
            let length = (last + 1 - first) * block_size;
            self.device.start_writeback(first * block_size, length);
        }
        Ok(())
    }

    fn descriptor(&self, index: u32) -> GroupDesc {
        let numbers = &self.plan.numbers;
        let place = self.plan.groups[index as usize];
        let lazy = self.geo.features.group_csum();
        let free_inodes = numbers.inodes_per_group - self.used_inodes(index);
        let mut desc = GroupDesc {
            block_bitmap: FsBlock::new(place.block_bitmap),
            inode_bitmap: FsBlock::new(place.inode_bitmap),
            inode_table: FsBlock::new(place.inode_table),
            free_blocks: (self.plan.group_free_blocks(index) >> numbers.cluster_bits) as u32,
            free_inodes,
            used_dirs: if index == 0 { 2 } else { 0 },
            flags: 0,
            block_bitmap_csum: 0,
            inode_bitmap_csum: 0,
            itable_unused: if lazy { free_inodes } else { 0 },
        };
        if lazy && !self.is_lazy() {
            desc.flags |= group::flag::INODE_ZEROED;
        }
        match self.block_bitmap(index) {
            Some(bitmap) => desc.block_bitmap_csum = checksum::block_bitmap(&self.geo, &bitmap),
            None => desc.flags |= group::flag::BLOCK_UNINIT,
        }
        match self.inode_bitmap(index) {
            Some(bitmap) => desc.inode_bitmap_csum = checksum::inode_bitmap(&self.geo, &bitmap),
            None => desc.flags |= group::flag::INODE_UNINIT,
        }
        desc
    }

    fn used_inodes(&self, group: u32) -> u32 {
        if group == 0 {
            self.plan.used_inodes()
        } else {
            0
        }
    }

    /// `None` when the descriptor says it all.
    fn inode_bitmap(&self, index: u32) -> Option<Vec<u8>> {
        let used = self.used_inodes(index);
        if used == 0 && self.geo.features.group_csum() {
            return None;
        }
        let mut bitmap = self.zeroed_block();
        set_bits(&mut bitmap, 0..used as usize);
        let bits = bitmap.len() * 8;
        set_bits(
            &mut bitmap,
            self.plan.numbers.inodes_per_group as usize..bits,
        );
        Some(bitmap)
    }

    /// `None` when the descriptor says it all.
    fn block_bitmap(&self, index: u32) -> Option<Vec<u8>> {
        if self.geo.features.group_csum() && self.plan.block_bitmap_implied(index) {
            return None;
        }
        let numbers = &self.plan.numbers;
        let first = numbers.group_first_block(index);
        let mut bitmap = self.zeroed_block();
        for run in self.plan.used_runs(index) {
            let (start, end) = (run.start - first, run.end() - first);
            let clusters = start >> numbers.cluster_bits..end.div_ceil(self.plan.cluster_blocks());
            set_bits(&mut bitmap, clusters.start as usize..clusters.end as usize);
        }
        let clusters = numbers
            .group_blocks(index)
            .div_ceil(self.plan.cluster_blocks());
        let bits = bitmap.len() * 8;
        set_bits(&mut bitmap, clusters as usize..bits);
        Some(bitmap)
    }
}

fn set_bits(bitmap: &mut [u8], range: Range<usize>) {
    use bitvec::prelude::{BitSlice, Lsb0};
    if !range.is_empty() {
        BitSlice::<u8, Lsb0>::from_slice_mut(bitmap)[range].fill(true);
    }
}

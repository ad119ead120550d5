//! The moves that change a block bitmap: R to B and B to F.
//!
//! Source: the design's section on block ownership; the kernel's ext4 documentation, "Block and Inode Bitmaps".
//! Invariants: bits, free count, both checksums and the ownership record change in one critical section, and
//! the new bytes are published inside of it; write access is taken before the group's lock, bitmap first.

use super::bits;
use super::descriptors::set_padding;
use super::groups::{Bitmap, Groups, add, sub};
use super::owner::{GroupState, Wait};
use super::reserved::Reserved;
use crate::cache::BufferWrite;
use crate::canary::{Canary, canary};
use crate::error::{CorruptKind, Error, Location, Result, Structure};
use crate::format::checksum;
use crate::format::group::{GroupDesc, flag};
use crate::ids::{FsBlock, GroupIndex};
use crate::journal::Handle;
use crate::journal::handle::CommitListener;
use crate::memory::Class;

/// What a record of freed blocks costs.
pub(super) const FREED_BYTES: usize = 96;

impl Groups {
    /// R to B for the first `len` blocks of the run, R to free for the rest.
    pub(super) fn mark(&self, handle: &Handle<'_>, mut reserved: Reserved, len: u32) -> Result<()> {
        let len = (self.clusters(u64::from(len)) as u32).min(reserved.count);
        if len == 0 {
            return Ok(());
        }
        let index = reserved.group.index;
        self.change_bitmap(handle, index, |bitmap, desc, state| {
            if !bits::all(bitmap, reserved.bit, len, false) || desc.free_blocks < len {
                return Err(state.conflict());
            }
            bits::fill(bitmap, reserved.bit, len, true);
            desc.free_blocks -= len;
            state.not_in_bitmap = desc.free_blocks;
            sub(&self.totals.not_in_bitmap, len);
            reserved.settle(state, len);
            Ok(())
        })
    }

    /// B to F, group by group, after all of it has been checked.
    pub(super) fn free(&self, handle: &Handle<'_>, start: FsBlock, len: u32) -> Result<()> {
        let pieces = self.pieces(start, len)?;
        for &(group, bit, len) in &pieces {
            self.check_free(group, bit, len)?;
        }
        for (group, bit, len) in pieces {
            self.free_in_group(handle, group, bit, len)?;
        }
        Ok(())
    }

    /// A run cut at group borders: group, first bit, bits; an error when it leaves the volume or touches fixed metadata.
    fn pieces(&self, start: FsBlock, len: u32) -> Result<Vec<(GroupIndex, u32, u32)>> {
        let end = start.get().checked_add(u64::from(len));
        let inside = start.get() >= u64::from(self.geo.first_data_block)
            && end.is_some_and(|end| end <= self.geo.blocks_count);
        if len == 0 || !inside || self.touches_metadata(start.get(), len) {
            let kind = CorruptKind::BlockRange {
                what: Structure::BlockBitmap,
                block: start.get(),
            };
            return Err(Error::corrupt(kind, Location::block(start)));
        }
        let mut pieces = Vec::new();
        let (mut at, mut left) = (start, len);
        while left > 0 {
            let (group, bit, bits, here) = self.split(at, left);
            if here == 0 {
                break;
            }
            pieces.push((group, bit, bits));
            left -= here;
            at = FsBlock::new(at.get() + u64::from(here));
        }
        Ok(pieces)
    }

    /// Whether all blocks of a run are in B, before anything is changed.
    fn check_free(&self, index: GroupIndex, bit: u32, len: u32) -> Result<()> {
        let group = self.get(index)?;
        let (buffer, _) = self.descriptor(index)?;
        let bitmap = self.bitmap_for_write(index, Bitmap::Blocks)?;
        let state = group.lock();
        if state.corrupt {
            return Ok(());
        }
        let desc = self.parse(&buffer.snapshot(), index)?;
        let snapshot = bitmap.snapshot();
        if self.is_uninit(&desc, flag::BLOCK_UNINIT)
            || !bits::all(&snapshot, bit, len, true)
            || state.owns_any(bit, len)
        {
            return Err(state.conflict());
        }
        self.verify_block_bitmap(index, &desc, &snapshot)
    }

    fn free_in_group(
        &self,
        handle: &Handle<'_>,
        index: GroupIndex,
        bit: u32,
        len: u32,
    ) -> Result<()> {
        if self.get(index)?.lock().corrupt {
            log::warn!("{len} clusters of group {index}, which is corrupt, are not freed");
            return Ok(());
        }
        let tid = handle.tid();
        let charge = self.memory.charge(Class::Freed, FREED_BYTES);
        self.change_bitmap(handle, index, |bitmap, desc, state| {
            if !bits::all(bitmap, bit, len, true) || state.owns_any(bit, len) {
                return Err(state.conflict());
            }
            bits::fill(bitmap, bit, len, false);
            desc.free_blocks += len;
            state.not_in_bitmap = desc.free_blocks;
            state.add_freed(bit, len, Wait::Commit(tid), charge);
            add(&self.totals.not_in_bitmap, len);
            add(&self.totals.held, len);
            self.frees.lock().add(tid, index);
            Ok(())
        })?;
        if canary(Canary::EarlyReuse) {
            self.committed(tid);
        }
        Ok(())
    }

    /// Runs `change` on a group's newest block bitmap and descriptor under the group's lock, initialising the
    /// bitmap if nobody has yet, and publishes both. 2 credits. When `change` fails it has changed nothing.
    pub(super) fn change_bitmap<R>(
        &self,
        handle: &Handle<'_>,
        index: GroupIndex,
        change: impl FnOnce(&mut [u8], &mut GroupDesc, &mut GroupState) -> Result<R>,
    ) -> Result<R> {
        let group = self.get(index)?;
        let (desc_buffer, _) = self.descriptor(index)?;
        let bitmap_buffer = self.bitmap_for_write(index, Bitmap::Blocks)?;
        let mut bitmap = handle.write(&bitmap_buffer)?;
        let mut descs = handle.write(&desc_buffer)?;
        let mut state = group.lock();
        let mut desc = self.parse(&descs, index)?;
        if let Err(error) = self.prepare_bitmap(&mut bitmap, &mut desc, &state) {
            self.mark_corrupt(&mut state, &error);
            return Err(error);
        }
        let result = match change(&mut bitmap, &mut desc, &mut state) {
            Ok(result) => result,
            Err(error) => {
                self.mark_corrupt(&mut state, &error);
                return Err(error);
            }
        };
        self.publish_block_bitmap(bitmap, &mut desc);
        self.store(&mut descs, index, &desc);
        drop(descs);
        self.reindex(&state);
        Ok(result)
    }

    /// Verifies the bitmap, or writes it for the first time.
    pub(super) fn prepare_bitmap(
        &self,
        bitmap: &mut [u8],
        desc: &mut GroupDesc,
        state: &GroupState,
    ) -> Result<()> {
        if !self.is_uninit(desc, flag::BLOCK_UNINIT) {
            return self.verify_block_bitmap(state.index, desc, bitmap);
        }
        self.zones.fill_bitmap(&self.geo, state.index, bitmap);
        if self.clear_bits(state.index, bitmap) != desc.free_blocks {
            return Err(state.conflict());
        }
        desc.flags &= !flag::BLOCK_UNINIT;
        Ok(())
    }

    /// Publishes a bitmap and puts its checksum into the descriptor.
    pub(super) fn publish_block_bitmap(&self, mut bitmap: BufferWrite<'_>, desc: &mut GroupDesc) {
        set_padding(&mut bitmap, self.geo.clusters_per_group);
        if self.geo.features.metadata_csum() {
            desc.block_bitmap_csum = checksum::block_bitmap(&self.geo, &bitmap);
        }
        drop(bitmap);
    }
}

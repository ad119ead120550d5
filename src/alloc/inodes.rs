//! Inodes in use: the inode bitmaps and what descriptors say about inode tables.
//!
//! Source: the kernel's ext4 documentation, "Block and Inode Bitmaps", "Block Group Descriptors".
//! Invariants: an inode's bit, the group's counts and both checksums change in one critical section;
//! `itable_unused` covers only inodes that were never used; `free_inodes` of a group is its claims' counter.

use super::bits;
use super::descriptors::set_padding;
use super::groups::{Bitmap, Groups, add, sub};
use super::owner::GroupState;
use crate::error::{CorruptKind, Error, Location, Posix, Result, Structure};
use crate::format::checksum::{self, BlockKind};
use crate::format::group::{GroupDesc, flag};
use crate::ids::{GroupIndex, InodeNumber};
use crate::journal::Handle;
use std::sync::atomic::Ordering;

const WHAT: Structure = Structure::InodeBitmap;

impl Groups {
    pub(super) fn new_inode(
        &self,
        handle: &Handle<'_>,
        parent: InodeNumber,
        is_dir: bool,
    ) -> Result<InodeNumber> {
        let mut group = self.place_inode(parent, is_dir);
        let mut met = None;
        while let Some(index) = group {
            let index = GroupIndex::new(index);
            if self.claim_inode(index) {
                match self.verified_for_inodes(index) {
                    Ok(()) => return self.take_inode(handle, index, is_dir),
                    Err(error) => {
                        met.get_or_insert(error.clone());
                        self.give_up_inodes(index, error);
                    }
                }
            }
            group = self.any_inode_group(index.get());
        }
        // None is left; where damage is why, that is what the caller is told.
        Err(met.unwrap_or(Posix::NoSpc.into()))
    }

    /// Looks at a group's inode bitmap before a handle's credits are spent on it.
    fn verified_for_inodes(&self, index: GroupIndex) -> Result<()> {
        let group = self.get(index)?;
        let (buffer, desc) = self.descriptor(index)?;
        if self.is_uninit(&desc, flag::INODE_UNINIT) {
            return Ok(());
        }
        let bitmap = self.cache.read(desc.inode_bitmap, BlockKind::Plain)?;
        let _state = group.lock();
        let desc = self.parse(&buffer.snapshot(), index)?;
        if self.is_uninit(&desc, flag::INODE_UNINIT) {
            return Ok(());
        }
        let bitmap = bitmap.snapshot();
        self.verify_inode_bitmap(index, &desc, &bitmap)?;
        // Descriptor and bitmap change together, under this lock.
        let first = self.first_inode(index);
        match bits::next(&bitmap, first, self.geo.inodes_per_group, false) {
            Some(_) if desc.free_inodes > 0 => Ok(()),
            _ => {
                let kind = CorruptKind::Ownership { what: WHAT };
                Err(Error::corrupt(kind, Location::group(index)))
            }
        }
    }

    /// No inode comes from this group any more.
    fn give_up_inodes(&self, index: GroupIndex, error: Error) {
        log::warn!("no inode is made in group {index} any more: {error}");
        self.free_inodes[index.get() as usize].store(0, Ordering::Relaxed);
        self.record_error(error);
    }

    /// The first inode of a group that may be used, as a bit.
    fn first_inode(&self, index: GroupIndex) -> u32 {
        let special = self.geo.first_ino.saturating_sub(1);
        special.saturating_sub(index.get().saturating_mul(self.geo.inodes_per_group))
    }

    pub(super) fn free_inode(
        &self,
        handle: &Handle<'_>,
        ino: InodeNumber,
        is_dir: bool,
    ) -> Result<()> {
        let (index, bit) = self.geo.inode_place(ino)?;
        let at = Location::inode(ino);
        if ino.get() < self.geo.first_ino {
            let kind = CorruptKind::Field {
                what: WHAT,
                field: "freed inode",
                found: u64::from(ino.get()),
            };
            return Err(Error::corrupt(kind, at));
        }
        self.change_inode_bitmap(handle, index, false, |bitmap, desc| {
            if !bits::get(bitmap, bit) {
                return Err(Error::corrupt(CorruptKind::Ownership { what: WHAT }, at));
            }
            bits::put(bitmap, bit, false);
            desc.free_inodes += 1;
            add(&self.totals.free_inodes, 1);
            if is_dir && desc.used_dirs > 0 {
                desc.used_dirs -= 1;
                sub(&self.totals.directories, 1);
                self.used_dirs[index.get() as usize].fetch_sub(1, Ordering::Relaxed);
            }
            self.free_inodes[index.get() as usize].fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
    }

    pub(super) fn inode_in_use(&self, ino: InodeNumber) -> Result<bool> {
        let (index, bit) = self.geo.inode_place(ino)?;
        let group = self.get(index)?;
        let (buffer, desc) = self.descriptor(index)?;
        if self.is_uninit(&desc, flag::INODE_UNINIT) {
            return Ok(false);
        }
        let bitmap = self.cache.read(desc.inode_bitmap, BlockKind::Plain)?;
        let _state = group.lock();
        let desc = self.parse(&buffer.snapshot(), index)?;
        let bitmap = bitmap.snapshot();
        self.verify_inode_bitmap(index, &desc, &bitmap)?;
        Ok(bits::get(&bitmap, bit))
    }

    /// Sets the first clear bit of a group in which the caller has claimed an inode.
    fn take_inode(
        &self,
        handle: &Handle<'_>,
        index: GroupIndex,
        is_dir: bool,
    ) -> Result<InodeNumber> {
        let per_group = self.geo.inodes_per_group;
        let first = self.first_inode(index);
        let taken = self.change_inode_bitmap(handle, index, true, |bitmap, desc| {
            let bit = bits::next(bitmap, first, per_group, false).filter(|_| desc.free_inodes > 0);
            let Some(bit) = bit else {
                let kind = CorruptKind::Ownership { what: WHAT };
                return Err(Error::corrupt(kind, Location::group(index)));
            };
            bits::put(bitmap, bit, true);
            desc.free_inodes -= 1;
            sub(&self.totals.free_inodes, 1);
            if self.geo.features.group_csum() {
                desc.itable_unused = desc.itable_unused.min(per_group - bit - 1);
            }
            if is_dir {
                desc.used_dirs += 1;
                add(&self.totals.directories, 1);
                self.used_dirs[index.get() as usize].fetch_add(1, Ordering::Relaxed);
            }
            Ok(self.geo.inode_number(index, bit))
        });
        if matches!(taken, Err(Error::Corrupt { .. })) {
            // Nothing is allocated from a group whose inode bitmap is wrong.
            self.free_inodes[index.get() as usize].store(0, Ordering::Relaxed);
        } else if taken.is_err() {
            self.free_inodes[index.get() as usize].fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// Runs `change` on a group's newest inode bitmap and descriptor under the group's lock and publishes both.
    /// With `init`, an uninitialised block bitmap is written too: a group with inodes in use has one on disk.
    fn change_inode_bitmap<R>(
        &self,
        handle: &Handle<'_>,
        index: GroupIndex,
        init: bool,
        change: impl FnOnce(&mut [u8], &mut GroupDesc) -> Result<R>,
    ) -> Result<R> {
        let group = self.get(index)?;
        let (desc_buffer, desc) = self.descriptor(index)?;
        let inode_buffer = self.bitmap_for_write(index, Bitmap::Inodes)?;
        let wants_blocks = init && self.is_uninit(&desc, flag::BLOCK_UNINIT);
        let block_buffer = wants_blocks
            .then(|| self.bitmap_for_write(index, Bitmap::Blocks))
            .transpose()?;
        let mut bitmap = handle.write(&inode_buffer)?;
        let mut blocks = block_buffer
            .as_ref()
            .map(|buffer| handle.write(buffer))
            .transpose()?;
        let mut descs = handle.write(&desc_buffer)?;
        let mut state = group.lock();
        let mut desc = self.parse(&descs, index)?;
        self.prepare_inode_bitmap(&mut bitmap, &mut desc, &state)?;
        let result = change(&mut bitmap, &mut desc)?;
        if let Some(mut blocks) = blocks.take()
            && self.is_uninit(&desc, flag::BLOCK_UNINIT)
            && !state.corrupt
        {
            match self.prepare_bitmap(&mut blocks, &mut desc, &state) {
                Ok(()) => self.publish_block_bitmap(blocks, &mut desc),
                Err(error) => self.mark_corrupt(&mut state, &error),
            }
            self.reindex(&state);
        }
        set_padding(&mut bitmap, self.geo.inodes_per_group);
        if self.geo.features.metadata_csum() {
            desc.inode_bitmap_csum = checksum::inode_bitmap(&self.geo, &bitmap);
        }
        drop(bitmap);
        self.store(&mut descs, index, &desc);
        drop(descs);
        Ok(result)
    }

    /// Verifies the bitmap, or writes it for the first time.
    fn prepare_inode_bitmap(
        &self,
        bitmap: &mut [u8],
        desc: &mut GroupDesc,
        state: &GroupState,
    ) -> Result<()> {
        if !self.is_uninit(desc, flag::INODE_UNINIT) {
            return self.verify_inode_bitmap(state.index, desc, bitmap);
        }
        bitmap.fill(0);
        desc.flags &= !flag::INODE_UNINIT;
        desc.itable_unused = self.geo.inodes_per_group;
        Ok(())
    }

    fn verify_inode_bitmap(
        &self,
        index: GroupIndex,
        desc: &GroupDesc,
        bitmap: &[u8],
    ) -> Result<()> {
        if !self.geo.features.metadata_csum() {
            return Ok(());
        }
        let mask = if self.geo.desc_size < 64 {
            0xffff
        } else {
            u32::MAX
        };
        let computed = checksum::inode_bitmap(&self.geo, bitmap) & mask;
        let stored = desc.inode_bitmap_csum & mask;
        if computed == stored {
            return Ok(());
        }
        let kind = CorruptKind::Checksum {
            what: WHAT,
            found: stored,
            expected: computed,
        };
        Err(Error::corrupt(
            kind,
            Location::group(index).with_block(desc.inode_bitmap),
        ))
    }
}

//! Group descriptors in the table, and the bitmaps that they point to.
//!
//! Source: the kernel's ext4 documentation, "Block Group Descriptors", "Block and Inode Bitmaps".
//! Invariants: a descriptor is parsed, and its checksum verified, each time it is used; an uninitialised bitmap is never read.

use super::bits;
use super::groups::{Bitmap, Groups};
use crate::cache::BufferRef;
use crate::error::{Location, Result};
use crate::format::checksum::BlockKind;
use crate::format::group::GroupDesc;
use crate::ids::GroupIndex;

impl Groups {
    /// A group's descriptor as it is now, and the buffer that holds it.
    pub(super) fn descriptor(&self, index: GroupIndex) -> Result<(BufferRef, GroupDesc)> {
        let (block, _) = self.geo.desc_location(index);
        let sound = |bytes: &[u8]| self.all_sound(bytes, index);
        let buffer = self.cache.read_shared(block, &sound)?;
        let desc = self.parse(&buffer.snapshot(), index)?;
        Ok((buffer, desc))
    }

    /// Whether every descriptor of the block in which `one` lies is what it says.
    fn all_sound(&self, bytes: &[u8], one: GroupIndex) -> bool {
        let (block, offset) = self.geo.desc_location(one);
        let first = one.get() - (offset / self.geo.desc_size as usize) as u32;
        (first..self.geo.group_count)
            .map(GroupIndex::new)
            .take_while(|&index| self.geo.desc_location(index).0 == block)
            .all(|index| self.parse(bytes, index).is_ok())
    }

    pub(super) fn parse(&self, block: &[u8], index: GroupIndex) -> Result<GroupDesc> {
        let (at, offset) = self.geo.desc_location(index);
        let end = offset + self.geo.desc_size as usize;
        let bytes = block.get(offset..end).unwrap_or(&[]);
        GroupDesc::parse(bytes, &self.geo, index)
            .map_err(|error| error.located(Location::group(index).with_block(at)))
    }

    pub(super) fn store(&self, block: &mut [u8], index: GroupIndex, desc: &GroupDesc) {
        let offset = self.geo.desc_location(index).1;
        let end = offset + self.geo.desc_size as usize;
        if let Some(bytes) = block.get_mut(offset..end) {
            desc.write_to(bytes, &self.geo, index);
        }
    }

    /// Whether an UNINIT flag is set and means something on this volume.
    pub(super) fn is_uninit(&self, desc: &GroupDesc, flag: u16) -> bool {
        desc.flags & flag != 0 && self.geo.features.group_csum()
    }

    /// The buffer of a group's bitmap, to be written: an uninitialised one is not read from disk.
    pub(super) fn bitmap_for_write(&self, index: GroupIndex, which: Bitmap) -> Result<BufferRef> {
        let (buffer, desc) = self.descriptor(index)?;
        let (block, flag) = which.of(&desc);
        if self.is_uninit(&desc, flag) {
            let _fresh = self.fresh.lock();
            // Whoever initialised it meanwhile has put it into the cache, perhaps even written it home.
            let desc = self.parse(&buffer.snapshot(), index)?;
            if self.is_uninit(&desc, flag) {
                let cached = self.cache.cached(block);
                return Ok(cached.unwrap_or_else(|| self.cache.fresh(block, BlockKind::Plain)));
            }
        }
        self.cache.read(block, BlockKind::Plain)
    }
}

/// Sets the bits of a bitmap that stand for nothing. No checksum covers those behind the group's: they may have been read wrong.
pub(super) fn set_padding(bitmap: &mut [u8], used: u32) {
    let bits = bitmap.len() as u32 * 8;
    bits::fill(bitmap, used, bits.saturating_sub(used), true);
}

//! Flags, modes and fields that must agree with the features and with each other.
//!
//! Source: the kernel's ext4 documentation, "Index Nodes", "inode flags".
//! Invariants: a function that gives false asks for the inode to be emptied.

use super::check::Check;
use crate::Result;
use crate::inode::Raw;
use crate::problem::{At, Problem};
use uext4::format::extent;
use uext4::format::features::{compat, incompat, ro_compat};
use uext4::format::inode::{flag, mode};
use uext4::format::raw::{le16, le32, u8_at};

/// The flag of inodes that only their number names, long unused.
const IMAGIC: u32 = 0x2000;

impl Check<'_, '_> {
    fn clear(&mut self, problem: Problem, flags: u32) -> Result<()> {
        let at = At::ino(self.ino).found(u64::from(self.raw.flags() & flags));
        if self.fix(problem, at)? {
            self.raw.clear_flag(flags);
            self.dirty = true;
        }
        Ok(())
    }

    /// What `i_block` holds: extents, block map or inline data.
    pub fn map_flags(&mut self) -> Result<bool> {
        let both = flag::EXTENTS | flag::INLINE_DATA;
        if self.raw.is_special() && self.raw.has(both) {
            self.clear(Problem::SpecialExtents, both)?;
        }
        if self.raw.flags() & both == both && self.inline_or_extents()? {
            return Ok(false);
        }
        if self.raw.has(flag::INLINE_DATA)
            && !self.has_incompat(incompat::INLINE_DATA)
            && self.fix_here(Problem::InlineFeature)?
        {
            return Ok(false);
        }
        let is_tree = extent::Header::parse(self.raw.i_block(), None).is_ok();
        if self.raw.has(flag::EXTENTS) && !self.extents_supported() {
            if is_tree {
                if self.fix_here(Problem::ExtentsFeature)? {
                    self.features.incompat |= incompat::EXTENTS;
                }
            } else if self.fix_here(Problem::ExtentsFlagClear)? {
                return Ok(false);
            }
        }
        if !self.raw.has(both) && (self.raw.is_reg() || self.raw.is_dir()) && is_tree {
            if !self.extents_supported() && self.fix_here(Problem::ExtentsFeature)? {
                self.features.incompat |= incompat::EXTENTS;
            }
            if self.fix_here(Problem::ExtentsFlagMissing)? {
                self.raw.set_flags(self.raw.flags() | flag::EXTENTS);
                self.dirty = true;
            }
        }
        Ok(true)
    }

    /// Both flags are set: what is really there decides. True to empty the inode.
    fn inline_or_extents(&mut self) -> Result<bool> {
        if extent::Header::parse(self.raw.i_block(), None).is_ok() {
            self.clear(Problem::InlineAndExtents, flag::INLINE_DATA)?;
        } else if self.has_inline_attribute() {
            self.clear(Problem::InlineAndExtents, flag::EXTENTS)?;
        } else if self.looks_like_block_map() {
            self.clear(Problem::InlineAndExtents, flag::EXTENTS | flag::INLINE_DATA)?;
        } else {
            return self.fix_here(Problem::InlineAndExtentsJunk);
        }
        Ok(false)
    }

    fn looks_like_block_map(&self) -> bool {
        let blocks = self.around.geo.blocks_count;
        (0..15).all(|slot| u64::from(self.raw.pointer(slot)) < blocks)
    }

    pub fn type_and_flags(&mut self) -> Result<bool> {
        if self.raw.has(IMAGIC) {
            self.clear(Problem::ImagicFlag, IMAGIC)?;
        }
        self.feature_flags()?;
        if !self.is_special() && !self.file_type_is_valid()? {
            return Ok(false);
        }
        let special = self.raw.is_special();
        let frozen = flag::IMMUTABLE | flag::APPEND;
        if special && self.device_has_blocks() {
            return Ok(!self.fix_here(Problem::BadDevice)?);
        }
        if special && self.raw.size() != 0 {
            let at = At::ino(self.ino).found(self.raw.size());
            if self.fix(Problem::SpecialSize, at)? {
                self.raw.set_size(0);
                self.dirty = true;
            }
        }
        if (special || self.raw.is_symlink()) && self.raw.has(frozen) {
            self.clear(Problem::SpecialFlags, frozen)?;
        }
        if self.raw.is_fast_symlink() && self.raw.has(flag::EXTENTS) {
            if extent::Header::parse(self.raw.i_block(), None).is_ok() {
                return Ok(!self.fix_here(Problem::BadSymlink)?);
            }
            self.clear(Problem::FastSymlinkExtents, flag::EXTENTS)?;
        }
        self.old_fields()?;
        self.extra_isize()?;
        Ok(true)
    }

    fn device_has_blocks(&self) -> bool {
        self.raw.has(flag::IMMUTABLE) && (4..15).any(|slot| self.raw.pointer(slot) != 0)
    }

    fn feature_flags(&mut self) -> Result<()> {
        if self.raw.has(flag::CASEFOLD) {
            if !self.raw.is_dir() {
                self.clear(Problem::CasefoldNoDir, flag::CASEFOLD)?;
            } else if !self.has_incompat(incompat::CASEFOLD) {
                self.clear(Problem::CasefoldFeature, flag::CASEFOLD)?;
            }
        }
        let verity = self.features.has_ro_compat(ro_compat::VERITY);
        if self.raw.has(flag::VERITY) && !(verity && self.raw.is_reg()) {
            self.clear(Problem::VerityFeature, flag::VERITY)?;
        }
        if self.raw.has(flag::EA_INODE) {
            if !self.has_incompat(incompat::EA_INODE) {
                self.clear(Problem::EaInodeFeature, flag::EA_INODE)?;
            } else if !self.raw.is_reg() {
                self.clear(Problem::EaInodeFlagSpurious, flag::EA_INODE)?;
            }
        }
        if self.raw.has(flag::INDEX) {
            if !self.raw.is_dir() {
                self.clear(Problem::HtreeNotDir, flag::INDEX)?;
            } else if self.raw.is_dir() && !self.features.has_compat(compat::DIR_INDEX) {
                self.clear(Problem::HtreeFeature, flag::INDEX)?;
            } else if self.raw.is_dir() && self.raw.has(flag::INLINE_DATA) {
                self.clear(Problem::HtreeRoot, flag::INDEX)?;
            }
        }
        Ok(())
    }

    fn file_type_is_valid(&mut self) -> Result<bool> {
        if matches!(self.raw.kind(), mode::REG | mode::DIR | mode::LNK) {
            return Ok(true);
        }
        let found = u64::from(self.raw.mode());
        if self.is_really_directory()?
            && self.fix(Problem::IsReallyDirectory, At::ino(self.ino).found(found))?
        {
            self.raw.set_mode(self.raw.mode() & !mode::FMT | mode::DIR);
            self.dirty = true;
            return Ok(true);
        }
        if self.raw.is_special() {
            return Ok(true);
        }
        let problem = Problem::BadMode;
        Ok(!self.fix(problem, At::ino(self.ino).found(found))?)
    }

    /// Whether the contents start with "." and "..", whatever the mode says.
    fn is_really_directory(&self) -> Result<bool> {
        if self.raw.is_special() && self.raw.pointer(0) == 0 {
            return Ok(false);
        }
        if self.raw.has(flag::INLINE_DATA) {
            let entry = self.raw.i_block();
            let parent = le32(entry, 0);
            let (rec_len, name_len) = (le16(entry, 8), u8_at(entry, 10));
            let fits = (12..=56).contains(&rec_len);
            let inode = le32(entry, 4);
            return Ok(parent == 2 || parent >= self.around.geo.first_ino)
                .map(|x| x && parent <= self.around.geo.inodes_count && fits)
                .map(|x| x && (inode == 0 || usize::from(name_len) + 8 <= rec_len.into()));
        }
        let mut as_dir: Raw = self.raw.clone();
        as_dir.set_mode(mode::DIR);
        let map = crate::map::read(self.around.image, self.around.geo, &as_dir)?;
        let Some(block) = map.find(0) else {
            return Ok(false);
        };
        let bytes = self.around.image.read(block)?;
        Ok(le32(&bytes, 0) == self.ino
            && le16(&bytes, 4) == 12
            && u8_at(&bytes, 6) == 1
            && u8_at(&bytes, 8) == b'.'
            && u8_at(&bytes, 18) == 2
            && bytes.get(20..22) == Some(b".."))
    }

    /// Fields that older revisions used, and high halves that need a feature.
    fn old_fields(&mut self) -> Result<()> {
        let faddr = self.raw.get32(0x70);
        if faddr != 0 {
            let at = At::ino(self.ino).found(faddr.into());
            if self.fix(Problem::FaddrNotZero, at)? {
                self.raw.put32(0x70, 0);
                self.dirty = true;
            }
        }
        let high = self.raw.get16(0x74);
        if high != 0 && !self.features.has_ro_compat(ro_compat::HUGE_FILE) {
            let at = At::ino(self.ino).found(high.into());
            if self.fix(Problem::BlocksHigh, at)? {
                self.raw.put16(0x74, 0);
                self.dirty = true;
            }
        }
        let high = self.raw.get16(0x76);
        if high != 0 && !self.has_incompat(incompat::BIT64) {
            let at = At::ino(self.ino).found(high.into());
            if self.fix(Problem::FileAclHigh, at)? {
                self.raw.put16(0x76, 0);
                self.dirty = true;
            }
        }
        let high = self.raw.size_high();
        if self.raw.is_dir() && high != 0 && !self.has_incompat(incompat::LARGEDIR) {
            let at = At::ino(self.ino).found(high.into());
            if self.fix(Problem::DirSizeHigh, at)? {
                self.raw.put32(0x6c, 0);
                self.dirty = true;
            }
        }
        Ok(())
    }

    fn extra_isize(&mut self) -> Result<()> {
        let size = self.raw.bytes.len();
        if size <= 128 {
            return Ok(());
        }
        let extra = self.raw.extra_isize();
        let room = size - 128;
        let good = extra == 0
            || (usize::from(extra) >= 4 && extra.is_multiple_of(4) && usize::from(extra) <= room);
        if !good {
            let at = At::ino(self.ino).found(extra.into());
            if self.fix(Problem::ExtraIsize, at)? {
                let want = self.around.geo.want_extra_isize.min(room as u32) as u16;
                self.raw.put16(0x80, want);
                let behind = 128 + usize::from(want);
                // Attributes may still be where most inodes have them.
                let sound = crate::xattr::inode_area(&self.raw.bytes)
                    .is_some_and(|area| crate::xattr::parse(area, 0, 0).is_ok());
                if !sound {
                    self.raw.bytes[behind..].fill(0);
                }
                self.dirty = true;
            }
        }
        Ok(())
    }
}

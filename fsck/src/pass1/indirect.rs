//! The block map of ext2 and ext3.
//!
//! Source: the kernel's ext4 documentation, "Direct/Indirect Block Addressing".
//! Invariants: a pointer that cannot be right becomes 0, in the inode or in its indirect block; a walk is bounded by
//! three levels.

use super::check::Check;
use crate::Result;
use crate::alloc::cluster_of;
use crate::image::Stage;
use crate::map::{Map, Run, in_volume};
use crate::problem::{At, Problem};
use uext4::format::indirect;

/// Bad pointers after which the inode as a whole is in question.
const ILLEGAL_MAX: u32 = 12;

impl Check<'_, '_> {
    /// `None` to empty the inode.
    pub fn block_map(&mut self) -> Result<Option<Map>> {
        let mut map = Map::default();
        for slot in 0..indirect::SLOTS {
            let block = self.raw.pointer(slot as usize);
            let start = indirect::slot_start(slot, self.around.geo.block_bits);
            let level = indirect::slot_level(slot);
            match self.pointer(block, level, start, &mut map)? {
                Pointer::Kept => {}
                Pointer::Dropped => {
                    self.raw.set_pointer(slot as usize, 0);
                    self.dirty = true;
                }
                Pointer::GiveUp => return Ok(None),
            }
        }
        Ok(Some(map))
    }

    fn pointer(&mut self, block: u32, level: u32, lblk: u64, map: &mut Map) -> Result<Pointer> {
        if block == 0 {
            return Ok(Pointer::Kept);
        }
        let geo = self.around.geo;
        let at = At::ino(self.ino).block(block.into()).lblk(lblk);
        if !in_volume(geo, block.into(), 1) {
            self.illegal += 1;
            let problem = if level == 0 {
                Problem::IllegalBlock
            } else {
                Problem::IllegalIndirect
            };
            if self.fix(problem, at)? {
                if self.illegal.is_multiple_of(ILLEGAL_MAX)
                    && self.fix_here(Problem::TooManyIllegal)?
                {
                    return Ok(Pointer::GiveUp);
                }
                return Ok(Pointer::Dropped);
            }
            return Ok(Pointer::Kept);
        }
        if lblk >= self.block_limit() {
            let fix = self.too_big || self.fix(Problem::TooBig, at)?;
            self.too_big |= fix;
            return Ok(if fix { Pointer::Dropped } else { Pointer::Kept });
        }
        if level == 0 {
            map.push(Run {
                lblk,
                pblk: block.into(),
                len: 1,
                unwritten: false,
            });
            return Ok(Pointer::Kept);
        }
        if self.around.zones.contains(cluster_of(geo, block.into())) {
            let fix = self.fix(Problem::CriticalCollision, at)?;
            return Ok(if fix { Pointer::Dropped } else { Pointer::Kept });
        }
        self.indirect_block(block.into(), level, lblk, map)
    }

    fn indirect_block(
        &mut self,
        block: u64,
        level: u32,
        lblk: u64,
        map: &mut Map,
    ) -> Result<Pointer> {
        let geo = self.around.geo;
        map.meta.push(block);
        let mut bytes = self.around.image.read(block)?.to_vec();
        let span = indirect::span(level - 1, geo.block_bits);
        let mut changed = false;
        for index in 0..geo.block_size as usize / 4 {
            let child = indirect::pointer(&bytes, index);
            match self.pointer(child, level - 1, lblk + span * index as u64, map)? {
                Pointer::Kept => {}
                Pointer::Dropped => {
                    indirect::set_pointer(&mut bytes, index, 0);
                    changed = true;
                }
                Pointer::GiveUp => return Ok(Pointer::GiveUp),
            }
        }
        if changed {
            self.around.image.write(block, bytes, Stage::Body)?;
        }
        Ok(Pointer::Kept)
    }
}

enum Pointer {
    Kept,
    Dropped,
    GiveUp,
}

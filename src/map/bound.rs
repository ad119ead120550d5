//! How many map blocks a file's delayed data may need at worst.
//!
//! Source: the kernel's ext4 documentation, "Extent Tree", "Direct/Indirect Block Addressing"; the design's section on delayed
//! allocation (worst-case metadata).
//! Invariants: never less than what inserting the blocks one by one, in any order, allocates.

use super::Map;
use crate::format::extent::{Header, MAX_DEPTH};
use crate::format::indirect::DIRECT;
use crate::format::inode::{Inode, flag};

/// Extents that fit into the inode.
const ROOT_EXTENTS: u64 = 4;

impl Map {
    /// `holes` blocks are inserted, `splits` unwritten ones become written; they form `runs` runs, the last ends at `last`.
    pub fn blocks_bound(
        &self,
        inode: &Inode,
        holes: u64,
        splits: u64,
        runs: u64,
        last: u32,
    ) -> u64 {
        if holes + splits == 0 {
            0
        } else if inode.has_flag(flag::EXTENTS) {
            self.extents_bound(inode, holes + 2 * splits)
        } else {
            self.indirect_bound(holes, runs, last)
        }
    }

    /// Every block may become an extent of its own; each full node that is there may be split once more than its new entries
    /// make necessary.
    fn extents_bound(&self, inode: &Inode, extents: u64) -> u64 {
        let (entries, depth) = Header::parse(&inode.block, None)
            .map_or((0, 0), |header| (header.entries as u64, header.depth));
        if depth == 0 && entries + extents <= ROOT_EXTENTS {
            return 0;
        }
        let room = u64::from(self.cache.geometry().block_size - 16) / 12;
        let mut new = extents;
        let mut blocks = 0;
        for level in 0..MAX_DEPTH {
            // At most so many nodes are there, this far above the extents.
            let there = match depth.checked_sub(level + 1) {
                Some(above) => entries.saturating_mul(room.saturating_pow(above.into())),
                None => 1,
            };
            new = new.div_ceil(room / 2) + new.min(there);
            blocks += new;
            if level >= depth && new <= ROOT_EXTENTS {
                break;
            }
        }
        blocks
    }

    /// Each run touches a block of pointers at both ends, at every level.
    fn indirect_bound(&self, holes: u64, runs: u64, last: u32) -> u64 {
        if last < DIRECT {
            return 0;
        }
        let pointers = u64::from(self.cache.geometry().block_size) / 4;
        if u64::from(last) < u64::from(DIRECT) + pointers {
            return 1;
        }
        let at_level = |span: u64| (holes / span + 2 * runs).min(holes);
        at_level(pointers) + at_level(pointers * pointers) + 1
    }
}

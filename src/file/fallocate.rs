//! fallocate(2): allocate, punch a hole, zero a range.
//!
//! Source: Linux fallocate(2).
//! Invariants: allocated ranges are unwritten extents, so they read as zeros; a range may be done in part when it fails.
//! The times are the caller's.

use crate::error::{Posix, Result};
use crate::file::Files;
use crate::format::inode::flag;
use crate::ids::FileBlock;
use crate::inode::NodeRef;
use crate::map::Mapping;
use crate::memory::Token;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallocate {
    Allocate,
    PunchHole,
    ZeroRange,
}

impl Files {
    /// `keep_size`: the size does not grow (a punch never makes it grow).
    pub fn fallocate(
        &self,
        token: &mut Token,
        node: &NodeRef,
        mode: Fallocate,
        range: std::ops::Range<u64>,
        keep_size: bool,
    ) -> Result<()> {
        {
            let core = node.core.read();
            if range.end > self.max_size(&core) {
                return Err(Posix::FBig.into());
            }
            if mode != Fallocate::PunchHole && !core.has_flag(flag::EXTENTS) {
                return Err(Posix::OpNotSupp.into());
            }
        }
        // Nobody can delay more meanwhile.
        self.flush(token, node)?;
        match mode {
            Fallocate::Allocate => {
                self.allocate(token, node, range.clone(), keep_size)?;
            }
            Fallocate::PunchHole => {
                self.alloc.discard_preallocations(&node.prealloc);
                node.drain();
                // Blocks behind the size go too, whole.
                if let Some((from, to)) = self.zero_edges(node, range.start, range.end)? {
                    let (from, to) = (self.block_of(from)?, self.block_of(to)?);
                    self.remove_blocks(token, node, from, to, &mut |_| {})?;
                }
            }
            Fallocate::ZeroRange => {
                self.alloc.discard_preallocations(&node.prealloc);
                node.drain();
                let inner = self.zero_edges(node, range.start, range.end)?;
                if let Some((from, to)) = inner {
                    self.unwrite(token, node, self.block_of(from)?, self.block_of(to)?)?;
                }
                self.allocate(token, node, range.clone(), keep_size)?;
            }
        }
        let handle = self.journal.start(token, 1)?;
        let mut core = node.core.write();
        if !keep_size && mode != Fallocate::PunchHole {
            core.size = core.size.max(range.end);
        }
        self.save(&handle, node, &core)
    }

    /// Fills the holes of a byte range with unwritten blocks.
    fn allocate(
        &self,
        token: &mut Token,
        node: &NodeRef,
        range: std::ops::Range<u64>,
        keep_size: bool,
    ) -> Result<()> {
        let size = node.core.read().size;
        if !keep_size && range.end > size {
            self.zero_tail(node, size)?;
        }
        let (mut at, end) = (self.block_of(range.start)?, self.block_from(range.end)?);
        while at < end {
            let segment = {
                let core = node.core.read();
                self.map.lookup(node.ino, &core, at, end.get() - at.get())?
            };
            let len = match segment.mapping {
                Mapping::Hole => self.allocate_run(token, node, at, segment.len, range.end)?,
                _ => segment.len,
            };
            let Some(next) = at.checked_add(len) else {
                break;
            };
            at = next;
        }
        Ok(())
    }

    fn allocate_run(
        &self,
        token: &mut Token,
        node: &NodeRef,
        at: FileBlock,
        wanted: u32,
        end: u64,
    ) -> Result<u32> {
        // Longer unwritten extents do not exist on disk.
        let wanted = wanted.min(32_767);
        let reserved = self.reserve(node, at, wanted, end)?;
        let len = reserved.len().min(wanted);
        let credits = self.map.insert_credits(&node.core.read()) + 3;
        let handle = self.journal.start(token, credits)?;
        self.change(&handle, node, |core| {
            let start = reserved.start();
            self.map
                .insert(&handle, node.ino, core, at, start, len, true)?;
            self.alloc.mark(&handle, reserved, len)
        })?;
        Ok(len)
    }

    /// Written blocks of a range become unwritten, a run a handle.
    fn unwrite(
        &self,
        token: &mut Token,
        node: &NodeRef,
        mut at: FileBlock,
        end: FileBlock,
    ) -> Result<()> {
        while at < end {
            let segment = {
                let core = node.core.read();
                self.map.lookup(node.ino, &core, at, end.get() - at.get())?
            };
            if let Mapping::Written(_) = segment.mapping {
                let credits = self.map.insert_credits(&node.core.read()) + 1;
                let handle = self.journal.start(token, credits)?;
                self.change(&handle, node, |core| {
                    self.map
                        .mark_unwritten(&handle, node.ino, core, at, segment.len)
                })?;
            }
            let Some(next) = at.checked_add(segment.len) else {
                break;
            };
            at = next;
        }
        Ok(())
    }
}

//! Cached writes: the bytes go into frames, their space is claimed, and that is all before the reply.
//!
//! Source: the design's section on delayed allocation.
//! Invariants: a write is accepted as a whole or not at all; the space it will need, map blocks included, is claimed before
//! its first byte shows; what a block keeps of its old contents is read now, never when it is written back; times follow with
//! the data, so that a write opens no handle and waits for no commit.

use crate::error::{Error, Posix, Result};
use crate::file::Files;
use crate::format::inode::Inode;
use crate::format::time::Timestamp;
use crate::ids::FsBlock;
use crate::inode::NodeRef;
use crate::inode::delayed::{Announced, Backing, Delayed, Shape};
use crate::map::Mapping;
use crate::memory::{Class, Frame, Token};
use std::sync::Arc;

/// What lies below the blocks of a write that had no frame.
struct Below {
    first: u32,
    /// `None`: the block had a frame.
    backings: Vec<Option<Backing>>,
}

impl Below {
    fn count(&self, backing: Backing) -> u64 {
        let same = |found: &&Option<Backing>| **found == Some(backing);
        self.backings.iter().filter(same).count() as u64
    }
}

/// What a block holds before a write that covers it in part.
enum Old {
    Frame(Arc<Frame>),
    Device(FsBlock),
    Zeros,
}

impl Files {
    /// Accepts all of `data` at `offset`. `now`: the new times, where the kernel does not keep them. The caller holds the
    /// inode lock exclusively.
    pub fn write_delayed(
        &self,
        token: &mut Token,
        node: &NodeRef,
        offset: u64,
        data: &[u8],
        now: Option<Timestamp>,
    ) -> Result<()> {
        let end = self.check_range(node, offset, data.len())?;
        if data.is_empty() {
            return Ok(());
        }
        let old_size = node.size(&node.core.read());
        if offset > old_size {
            self.zero_tail(node, old_size)?;
        }
        let (first, last) = (self.block_of(offset)?.get(), self.block_of(end - 1)?.get());
        let below = self.look_below(node, first, last)?;
        self.claim_for(node, &below)?;
        let frames = self
            .fill_frames(token, node, offset, data, old_size)
            .inspect_err(|_| self.renounce(node))?;
        if let Some(now) = now {
            let mut core = node.core.write();
            (core.mtime, core.ctime) = (now, now);
            node.delayed.lock().set_lacks_times(true);
        }
        {
            let mut delayed = node.delayed.lock();
            delayed.announce(None);
            for ((block, frame), backing) in (first..).zip(frames).zip(below.backings) {
                delayed.put(block, frame, backing);
            }
            if end > old_size {
                delayed.set_size(Some(end));
            }
        }
        self.list_dirty(node);
        Ok(())
    }

    /// As `write_delayed`, of as many whole blocks as there is space for; the length of what was accepted.
    pub fn write_delayed_some(
        &self,
        token: &mut Token,
        node: &NodeRef,
        offset: u64,
        data: &[u8],
        now: Option<Timestamp>,
    ) -> Result<usize> {
        let full = match self.write_delayed(token, node, offset, data, now) {
            Err(error) if error.is_posix(Posix::NoSpc) => error,
            whole => return whole.map(|()| data.len()),
        };
        let first = self.block_of(offset)?.get();
        let more = self.block_of(offset + data.len() as u64 - 1)?.get() - first;
        let mut accepted = 0;
        // All that fits, in pieces of falling size: each either comes in or is too large.
        let mut blocks = more.checked_ilog2().map_or(0, |bits| 1_u64 << bits);
        while blocks > 0 && accepted < data.len() {
            let at = offset + accepted as u64;
            let end = ((at >> self.geo.block_bits) + blocks) << self.geo.block_bits;
            let end = data.len().min((end - offset) as usize);
            match self.write_delayed(token, node, at, &data[accepted..end], now) {
                Ok(()) => accepted = end,
                Err(error) if error.is_posix(Posix::NoSpc) => {}
                Err(error) if accepted == 0 => return Err(error),
                Err(_) => break,
            }
            blocks /= 2;
        }
        if accepted > 0 {
            Ok(accepted)
        } else {
            Err(full)
        }
    }

    /// The end of a write, if the file can be so large.
    pub(super) fn check_range(&self, node: &NodeRef, offset: u64, length: usize) -> Result<u64> {
        let end = offset
            .checked_add(length as u64)
            .ok_or(Error::Posix(Posix::FBig))?;
        if end > self.max_size(&node.core.read()) {
            return Err(Posix::FBig.into());
        }
        Ok(end)
    }

    fn look_below(&self, node: &NodeRef, first: u32, last: u32) -> Result<Below> {
        let core = node.core.read();
        let mut backings = Vec::with_capacity((last - first) as usize + 1);
        let mut at = first;
        while at <= last {
            let block = crate::ids::FileBlock::new(at);
            let segment = self.map.lookup(node.ino, &core, block, last - at + 1)?;
            let backing = match segment.mapping {
                Mapping::Hole | Mapping::Delayed => Backing::Hole,
                Mapping::Unwritten(_) => Backing::Unwritten,
                Mapping::Written(_) => Backing::Written,
            };
            let here = segment.len.min(last - at + 1);
            backings.resize(backings.len() + here as usize, Some(backing));
            match at.checked_add(here) {
                Some(next) => at = next,
                None => break,
            }
        }
        let delayed = node.delayed.lock();
        for (block, _) in delayed.frames(first..last.saturating_add(1)) {
            if let Some(backing) = backings.get_mut((block - first) as usize) {
                *backing = None;
            }
        }
        Ok(Below { first, backings })
    }

    /// Claims what the blocks will need; makes space first when there seems to be none.
    fn claim_for(&self, node: &NodeRef, below: &Below) -> Result<()> {
        let (holes, splits) = (below.count(Backing::Hole), below.count(Backing::Unwritten));
        if holes + splits == 0 {
            return Ok(());
        }
        let last = below.first + (below.backings.len() - 1) as u32;
        node.delayed.lock().announce(Some(Announced {
            holes,
            splits,
            last,
        }));
        self.retry_for_space(|| {
            let core = node.core.read();
            let missing = {
                let delayed = node.delayed.lock();
                let needed = self.needed(&core, delayed.shape());
                needed.saturating_sub(delayed.claimed())
            };
            if missing == 0 {
                return Ok(());
            }
            let claim = self.alloc.claim(missing, self.is_privileged(&core));
            let claim = claim.ok_or(Error::Posix(Posix::NoSpc))?;
            node.delayed.lock().add_claim(claim);
            Ok(())
        })
        .inspect_err(|_| self.renounce(node))
    }

    /// What was announced does not come: its claim goes back.
    fn renounce(&self, node: &NodeRef) {
        node.delayed.lock().announce(None);
        self.trim_claim(node);
    }

    /// Blocks that delayed data of this shape may need.
    fn needed(&self, core: &Inode, shape: Shape) -> u64 {
        let Shape {
            holes,
            splits,
            runs,
            last,
        } = shape;
        holes + self.map.blocks_bound(core, holes, splits, runs, last)
    }

    /// Gives back what is claimed beyond need.
    pub(super) fn trim_claim(&self, node: &NodeRef) {
        let core = node.core.read();
        let mut delayed = node.delayed.lock();
        let needed = self.needed(&core, delayed.shape());
        delayed.trim_claim(needed);
    }

    /// One frame a block, whole.
    fn fill_frames(
        &self,
        token: &mut Token,
        node: &NodeRef,
        offset: u64,
        data: &[u8],
        size: u64,
    ) -> Result<Vec<Frame>> {
        let block_size = self.geo.block_size as usize;
        let mut frames = Vec::with_capacity(data.len() / block_size + 2);
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let head = (at % self.block_size()) as usize;
            let part = &data[done..data.len().min(done + block_size - head)];
            let mut frame = token.frame(Class::Dirty);
            if part.len() < block_size {
                let block = self.block_of(at)?.get();
                self.load_old(node, block, size, &mut frame)?;
            }
            frame[head..head + part.len()].copy_from_slice(part);
            frames.push(frame);
            done += part.len();
        }
        Ok(frames)
    }

    /// Fills a frame with what the block holds: zeros behind the file's size.
    fn load_old(&self, node: &NodeRef, block: u32, size: u64, frame: &mut Frame) -> Result<()> {
        let base = u64::from(block) << self.geo.block_bits;
        let kept = size.saturating_sub(base).min(self.block_size()) as usize;
        match self.old_of(node, block)? {
            Old::Frame(old) => frame.copy_from_slice(&old),
            Old::Device(block) if kept > 0 => {
                self.device
                    .read_at(block.get() << self.geo.block_bits, frame)?;
                frame[kept..].fill(0);
            }
            _ => frame.fill(0),
        }
        Ok(())
    }

    fn old_of(&self, node: &NodeRef, block: u32) -> Result<Old> {
        let core = node.core.read();
        if let Some(frame) = node.delayed.lock().frame(block) {
            return Ok(Old::Frame(Arc::clone(frame)));
        }
        let at = crate::ids::FileBlock::new(block);
        Ok(match self.map.lookup(node.ino, &core, at, 1)?.mapping {
            Mapping::Written(block) => Old::Device(block),
            Mapping::Hole | Mapping::Unwritten(_) | Mapping::Delayed => Old::Zeros,
        })
    }

    /// Zeros the bytes `from..to` (in block `at`) of a delayed block; false when it is not delayed.
    pub(super) fn zero_delayed(&self, node: &NodeRef, at: u32, from: usize, to: usize) -> bool {
        let Some(old) = node.delayed.lock().frame(at).map(Arc::clone) else {
            return false;
        };
        if old[from..to].iter().all(|&byte| byte == 0) {
            return true;
        }
        let mut frame = self.memory.frame(Class::Dirty);
        frame.copy_from_slice(&old);
        frame[from..to].fill(0);
        // If it has been written meanwhile, it goes there once more.
        node.delayed.lock().put(at, frame, None);
        self.list_dirty(node);
        true
    }

    /// Drops delayed data from block `from` on, with its claim. Waits for what is under way.
    pub(super) fn discard_delayed(&self, node: &NodeRef, from: u32, size: Option<u64>) {
        let _alone = node.writeback.lock();
        {
            let mut delayed = node.delayed.lock();
            delayed.discard(from..u32::MAX);
            let is_empty = delayed.is_empty();
            delayed.set_size(size.filter(|_| !is_empty));
            if is_empty {
                // Whoever drops it all changes the inode next, or frees it.
                delayed.set_lacks_times(false);
            }
        }
        self.trim_claim(node);
        self.memory.less_is_dirty();
    }

    /// The inode has delayed data.
    fn list_dirty(&self, node: &NodeRef) {
        self.dirty.add(node, self.clock.monotonic());
    }
}

/// The size that an inode's handle may record when the file's is `size`: that of what is on the device, as long as there is
/// delayed data.
pub(super) fn size_to_record(delayed: &Delayed, on_disk: u64, size: u64) -> u64 {
    if delayed.is_empty() {
        size
    } else {
        on_disk.min(size)
    }
}

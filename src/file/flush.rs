//! Writeback: delayed data of one inode gets blocks, goes to the device, and then into the map.
//!
//! Source: the design's section on delayed allocation.
//! Invariants: one flusher an inode at a time, without the inode lock; while data is under way its blocks are in R, owned by no
//! file, and no handle is open; the handle after it marks the bitmap, inserts written extents and advances the on-disk size, so
//! no inode ever points at a block that was not written; a failed write gives its blocks back, keeps the data readable, and
//! is told to every later sync of the file.

mod gather;

use crate::alloc::{Claim, Growth, Request, Reserved};
use crate::canary::{Canary, canary};
use crate::device::submit::{self, Transfer};
use crate::error::{Error, Result};
use crate::file::Files;
use crate::format::inode::Inode;
use crate::ids::{FileBlock, FsBlock};
use crate::inode::NodeRef;
use crate::inode::delayed::DirtyRun;
use crate::journal::{Handle, STEP_CREDITS};
use crate::map::Mapping;
use crate::memory::{Frame, Token};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of one batch: what is under way at a time for one inode.
const BATCH: u32 = 16 << 20;
/// Bytes of one transfer.
const TRANSFER: usize = 1 << 20;
/// Frames of one transfer.
const TRANSFER_FRAMES: usize = 512;

/// Where a piece of a run goes.
enum Place {
    New(Reserved),
    Unwritten(FsBlock),
    Written(FsBlock),
}

/// A part of a run that is one run on the device, too.
struct Piece {
    at: u32,
    frames: Vec<Arc<Frame>>,
    place: Place,
}

impl Piece {
    fn len(&self) -> u32 {
        self.frames.len() as u32
    }

    fn end(&self) -> u32 {
        self.at + self.len()
    }

    fn start(&self) -> FsBlock {
        match &self.place {
            Place::New(reserved) => reserved.start(),
            Place::Unwritten(block) | Place::Written(block) => *block,
        }
    }
}

impl Files {
    /// Brings all data that was delayed before to the device and into the map; not yet durable.
    pub fn flush(&self, token: &mut Token, node: &NodeRef) -> Result<()> {
        if node.delayed.lock().is_clean() {
            return Ok(());
        }
        let _alone = node.writeback.lock();
        self.flush_alone(token, node)
    }

    /// The same, unless somebody is at it; whether it was done.
    pub fn try_flush(&self, token: &mut Token, node: &NodeRef) -> Option<Result<()>> {
        let _alone = node.writeback.try_lock()?;
        Some(self.flush_alone(token, node))
    }

    fn flush_alone(&self, token: &mut Token, node: &NodeRef) -> Result<()> {
        let limit = (BATCH >> self.geo.block_bits) as usize;
        let mut from = 0;
        loop {
            let runs = {
                let mut delayed = node.delayed.lock();
                if let Some(error) = delayed.error() {
                    return Err(error.clone());
                }
                delayed.take(from, limit)
            };
            let Some(last) = runs.last() else { break };
            from = last.range().end;
            self.flush_runs(token, node, runs)?;
            self.memory.less_is_dirty();
        }
        self.finish_flush(token, node)
    }

    /// What is left to do when all data has been mapped.
    fn finish_flush(&self, token: &mut Token, node: &NodeRef) -> Result<()> {
        self.record_rest(token, node)?;
        self.trim_claim(node);
        if !self.users.has_writer(node.ino) {
            self.alloc.discard_preallocations(&node.prealloc);
        }
        Ok(())
    }

    fn flush_runs(&self, token: &mut Token, node: &NodeRef, runs: Vec<DirtyRun>) -> Result<()> {
        let ranges: Vec<_> = runs.iter().map(DirtyRun::range).collect();
        let mut claim = self.borrow_claim(node, &ranges);
        let done = self.write_and_map(token, node, runs, &mut claim);
        self.settle_runs(node, &ranges, claim, done)
    }

    /// What the ranges' blocks were claimed with.
    fn borrow_claim(&self, node: &NodeRef, ranges: &[Range<u32>]) -> Option<Claim> {
        let mut delayed = node.delayed.lock();
        let holes = ranges.iter().map(|r| delayed.holes_in(r.clone())).sum();
        delayed.lend(holes)
    }

    /// Gives the rest of the claim back, and on an error notes what it means for these ranges.
    fn settle_runs(
        &self,
        node: &NodeRef,
        ranges: &[Range<u32>],
        claim: Option<Claim>,
        done: Result<()>,
    ) -> Result<()> {
        let mut delayed = node.delayed.lock();
        delayed.settle(claim);
        if let Err(error) = &done {
            for range in ranges {
                delayed.unwritten(range.clone());
            }
            // Without space another attempt may succeed; damage is this file's alone.
            if !matches!(error, Error::Posix(_)) {
                delayed.fail(error);
                drop(delayed);
            }
            if !matches!(error, Error::Posix(_) | Error::Corrupt { .. }) {
                self.journal.abort(error);
            }
        }
        done
    }

    fn write_and_map(
        &self,
        token: &mut Token,
        node: &NodeRef,
        runs: Vec<DirtyRun>,
        claim: &mut Option<Claim>,
    ) -> Result<()> {
        let pieces = self.place(node, runs, claim)?;
        let transfers = self.transfers(&pieces);
        if canary(Canary::EarlySize) {
            self.map_pieces(token, node, pieces, claim)?;
            self.journal.commit_running()?;
            return submit::write_all(self.device.as_ref(), transfers);
        }
        submit::write_all(self.device.as_ref(), transfers)?;
        self.map_pieces(token, node, pieces, claim)
    }

    /// Finds a place for every block.
    fn place(
        &self,
        node: &NodeRef,
        runs: Vec<DirtyRun>,
        claim: &mut Option<Claim>,
    ) -> Result<Vec<Piece>> {
        let mut pieces: Vec<Piece> = Vec::new();
        for run in runs {
            let (mut at, mut frames) = (run.at, run.frames);
            while !frames.is_empty() {
                let left = frames.len() as u32;
                let segment = {
                    let core = node.core.read();
                    self.map.lookup(node.ino, &core, FileBlock::new(at), left)?
                };
                let len = segment.len.min(left);
                let place = match segment.mapping {
                    Mapping::Written(block) => Place::Written(block),
                    Mapping::Unwritten(block) => Place::Unwritten(block),
                    Mapping::Hole | Mapping::Delayed => {
                        Place::New(self.reserve_for(node, at, len, pieces.last(), claim)?)
                    }
                };
                let len = match &place {
                    Place::New(reserved) => reserved.len().min(len),
                    _ => len,
                };
                let rest = frames.split_off(len as usize);
                pieces.push(Piece { at, frames, place });
                (at, frames) = (at + len, rest);
            }
        }
        Ok(pieces)
    }

    fn reserve_for(
        &self,
        node: &NodeRef,
        at: u32,
        len: u32,
        before: Option<&Piece>,
        claim: &mut Option<Claim>,
    ) -> Result<Reserved> {
        let request = {
            let core = node.core.read();
            // Where the file goes on, as if nothing were missing between.
            let behind = before.and_then(|piece| {
                let distance = u64::from(at - piece.end());
                piece.start().checked_add(u64::from(piece.len()) + distance)
            });
            let size = node.size(&core);
            let growth = if self.users.has_writer(node.ino) {
                Growth::Open
            } else {
                Growth::Closed
            };
            Request {
                ino: node.ino,
                logical: Some(FileBlock::new(at)),
                goal: behind.unwrap_or_else(|| self.map.goal(node.ino, &core, FileBlock::new(at))),
                len: len.min(self.map.run_max(&core)),
                file_blocks: size.div_ceil(self.block_size()),
                growth,
                privileged: self.is_privileged(&core),
            }
        };
        match claim {
            Some(claim) => self
                .alloc
                .reserve_claimed(&request, Some(&node.prealloc), claim),
            None => self.alloc.reserve(&request, Some(&node.prealloc)),
        }
    }

    fn transfers(&self, pieces: &[Piece]) -> Vec<Transfer> {
        let frames = (TRANSFER >> self.geo.block_bits).clamp(1, TRANSFER_FRAMES);
        let mut transfers = Vec::new();
        for piece in pieces {
            let mut offset = piece.start().get() << self.geo.block_bits;
            for part in piece.frames.chunks(frames) {
                transfers.push((offset, part.to_vec()));
                offset += (part.len() as u64) << self.geo.block_bits;
            }
        }
        transfers
    }

    /// What has been written becomes the file's, a few pieces a handle.
    fn map_pieces(
        &self,
        token: &mut Token,
        node: &NodeRef,
        pieces: Vec<Piece>,
        claim: &mut Option<Claim>,
    ) -> Result<()> {
        let new_blocks = |piece: &Piece| match piece.place {
            Place::New(_) => u64::from(piece.len()),
            Place::Unwritten(_) | Place::Written(_) => 0,
        };
        let mut unmapped: u64 = pieces.iter().map(new_blocks).sum();
        let mut pieces = pieces.into_iter().peekable();
        while let Some(first) = pieces.peek() {
            if matches!(first.place, Place::Written(_)) && !self.reaches_out(node, first) {
                let range = first.at..first.end();
                node.delayed.lock().written(range);
                pieces.next();
                continue;
            }
            let credits = (self.map.insert_credits(&node.core.read()) + 3).max(STEP_CREDITS);
            let handle = self.journal.start(token, credits)?;
            let mut core = node.core.write();
            let mut mapped = Ok(());
            let mut half_done = false;
            let mut ranges = Vec::new();
            while let Some(piece) =
                pieces.next_if(|_| handle.credits_left() >= self.map.insert_credits(&core) + 3)
            {
                let range = piece.at..piece.end();
                unmapped -= new_blocks(&piece);
                let changes = handle.changes();
                mapped = self.map_piece(&handle, node, &mut core, piece, claim);
                if mapped.is_err() {
                    half_done = handle.changes() != changes;
                    break;
                }
                ranges.push(range);
            }
            let mut delayed = node.delayed.lock();
            if let Some(range) = ranges.last() {
                let reached = u64::from(range.end) << self.geo.block_bits;
                core.size = core.size.max(reached.min(delayed.size(core.size)));
            }
            for range in &ranges {
                delayed.written(range.clone());
            }
            if let Some(claim) = claim {
                delayed.set_lent(claim.blocks() + unmapped);
            }
            if delayed.size(core.size) == core.size {
                delayed.set_size(None);
            }
            delayed.set_lacks_times(false);
            drop(delayed);
            if half_done {
                handle.settle(mapped.clone())?;
            }
            handle.settle(self.save(&handle, node, &core))?;
            mapped?;
            if ranges.is_empty() {
                // The tree has grown since the credits were counted.
                continue;
            }
        }
        Ok(())
    }

    /// Whether the piece ends behind the on-disk size.
    fn reaches_out(&self, node: &NodeRef, piece: &Piece) -> bool {
        let core = node.core.read();
        let reached = u64::from(piece.end()) << self.geo.block_bits;
        core.size < reached.min(node.size(&core))
    }

    fn map_piece(
        &self,
        handle: &Handle<'_>,
        node: &NodeRef,
        core: &mut Inode,
        piece: Piece,
        claim: &mut Option<Claim>,
    ) -> Result<()> {
        let (at, len) = (FileBlock::new(piece.at), piece.len());
        let (start, claim) = (piece.start(), claim.as_mut());
        match piece.place {
            Place::Written(_) => Ok(()),
            Place::Unwritten(_) => self
                .map
                .mark_written_claimed(handle, node.ino, core, at, len, claim),
            Place::New(reserved) => {
                self.map
                    .insert_claimed(handle, node.ino, core, at, start, len, claim)?;
                self.alloc.mark(handle, reserved, len)
            }
        }
    }

    /// The size and times on disk follow where no data is left to do it.
    fn record_rest(&self, token: &mut Token, node: &NodeRef) -> Result<()> {
        let is_due = |core: &Inode| {
            let mut delayed = node.delayed.lock();
            let grew = delayed.size(core.size) != core.size;
            if !grew {
                delayed.set_size(None);
            }
            delayed.is_empty() && (grew || delayed.lacks_times())
        };
        if !is_due(&node.core.read()) {
            return Ok(());
        }
        let handle = self.journal.start(token, 1)?;
        let mut core = node.core.write();
        if !is_due(&core) {
            return Ok(());
        }
        let size = {
            let mut delayed = node.delayed.lock();
            let size = delayed.size(core.size);
            delayed.set_size(None);
            delayed.set_lacks_times(false);
            size
        };
        if size != core.size {
            core.size = size;
            return self.save(&handle, node, &core);
        }
        self.store.write(&handle, node.ino, &core)?;
        node.touched_in(handle.tid());
        Ok(())
    }

    /// Flushes every inode that has delayed data; the first error, after all have been tried.
    pub fn flush_all(&self, token: &mut Token) -> Result<()> {
        self.flush_nodes(token, &self.dirty.all())
    }

    /// Flushes the oldest inodes, if their data is older than may be or there is too much of it; whether it did.
    pub fn flush_step(&self, token: &mut Token) -> Result<bool> {
        let now = self.clock.monotonic();
        let pressed = self.memory.dirty() > self.memory.dirty_background();
        let is_due = |since| pressed || now.saturating_sub(since) >= self.delay;
        self.flush_oldest(token, is_due, self.together())
    }

    /// One inode however young its data is: memory is short.
    pub fn flush_now(&self, token: &mut Token) -> Result<bool> {
        self.flush_oldest(token, |_| true, 1)
    }

    fn flush_oldest(
        &self,
        token: &mut Token,
        is_due: impl Fn(Duration) -> bool,
        blocks_max: usize,
    ) -> Result<bool> {
        let (mut nodes, mut blocks) = (Vec::new(), 0);
        // Where memory is scarce, a promise is for one.
        let roomy = token.memory().is_roomy();
        let inodes_max = if roomy { gather::INODES } else { 1 };
        while blocks < blocks_max && nodes.len() < inodes_max {
            let Some(node) = self.dirty.take(&is_due) else {
                break;
            };
            blocks += node.delayed.lock().blocks().max(1);
            nodes.push(node);
        }
        let flushed = self.flush_nodes(token, &nodes);
        let now = self.clock.monotonic();
        for node in &nodes {
            self.dirty.done(node, now);
        }
        flushed.map(|()| !nodes.is_empty())
    }
}

//! File data that was accepted but is not on the device yet: whole blocks in frames, the size that readers see, and the claim
//! that pays for the blocks which will be allocated.
//!
//! Source: the design's section on delayed allocation.
//! Invariants: a frame holds a whole block, zeros behind the file's size; a frame that others hold (being written, being
//! read) does not change any more, a newer one takes its place; the claim covers every block of `Backing::Hole` and the map
//! blocks that these and the `Unwritten` ones may need; the on-disk size is never ahead because of what is here.

use crate::alloc::Claim;
use crate::error::Error;
use crate::memory::{Charge, Frame};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// What is below a delayed block on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Nothing: its block is claimed.
    Hole,
    /// An unwritten block: writing it may split an extent.
    Unwritten,
    /// A block of its own with older data.
    Written,
}

struct Entry {
    frame: Arc<Frame>,
    /// Newer than what is on the device or under way to it.
    dirty: bool,
    /// Under way to the device; readers find the frame here until the map knows the block.
    writing: bool,
    backing: Backing,
}

/// A run of blocks to write.
pub struct DirtyRun {
    pub at: u32,
    pub frames: Vec<Arc<Frame>>,
}

impl DirtyRun {
    pub fn range(&self) -> Range<u32> {
        self.at..self.at + self.frames.len() as u32
    }
}

/// What the map blocks of the delayed data are estimated from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Blocks to be allocated.
    pub holes: u64,
    /// Unwritten blocks that will be written.
    pub splits: u64,
    /// Runs of blocks that lie apart in the file.
    pub runs: u64,
    /// The last block.
    pub last: u32,
}

/// Blocks that a write is about to put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announced {
    pub holes: u64,
    pub splits: u64,
    pub last: u32,
}

/// The delayed data of one inode.
pub struct Delayed {
    blocks: BTreeMap<u32, Entry>,
    shape: Shape,
    /// The size that readers see; `None`: the on-disk one.
    size: Option<u64>,
    /// The inode in memory has times that its block does not have.
    times: bool,
    claim: Option<Claim>,
    /// Claimed blocks that a flusher has taken out for the time being: what is left of them, and those that it has found a place
    /// for and that the map does not know yet.
    lent: u64,
    /// What a write is about to put in: claimed, and not to be given back before it is here.
    announced: Option<Announced>,
    /// A write failed: no later one is tried, and every fsync is told.
    error: Option<Error>,
    /// In the list of inodes to flush.
    queued: bool,
    /// The file was emptied and is written anew: flushed at the last close of a writer.
    replaced: bool,
    charge: Charge,
}

/// What an entry costs beside its frame.
const ENTRY_BYTES: usize = 64;

impl Delayed {
    pub(super) fn new(charge: Charge) -> Self {
        Self {
            blocks: BTreeMap::new(),
            shape: Shape::default(),
            size: None,
            times: false,
            claim: None,
            lent: 0,
            announced: None,
            error: None,
            queued: false,
            replaced: false,
            charge,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Whether a flush has nothing to do.
    pub fn is_clean(&self) -> bool {
        self.blocks.is_empty() && self.size.is_none() && !self.times && self.error.is_none()
    }

    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks that will be allocated, in stat(2)'s count of a file's blocks.
    pub fn holes(&self) -> u64 {
        self.shape.holes
    }

    /// The size that readers see of a file whose on-disk inode says `on_disk`.
    pub fn size(&self, on_disk: u64) -> u64 {
        self.size.unwrap_or(on_disk)
    }

    pub fn set_size(&mut self, size: Option<u64>) {
        self.size = size;
    }

    /// Whether the inode's block lacks the times of a write.
    pub fn lacks_times(&self) -> bool {
        self.times
    }

    /// The inode, locked by the caller, got new times in memory alone (`true`), or goes into its block as it is.
    pub fn set_lacks_times(&mut self, lacks: bool) {
        self.times = lacks;
    }

    pub fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    pub fn fail(&mut self, error: &Error) {
        self.error.get_or_insert_with(|| error.clone());
    }

    /// Returns whether it was not in the list yet.
    pub fn set_queued(&mut self, queued: bool) -> bool {
        std::mem::replace(&mut self.queued, queued) != queued
    }

    pub fn set_replaced(&mut self, replaced: bool) -> bool {
        std::mem::replace(&mut self.replaced, replaced)
    }

    /// The frame of one block.
    pub fn frame(&self, block: u32) -> Option<&Arc<Frame>> {
        self.blocks.get(&block).map(|entry| &entry.frame)
    }

    /// The frames in a range of blocks.
    pub fn frames(&self, range: Range<u32>) -> Vec<(u32, Arc<Frame>)> {
        self.blocks
            .range(range)
            .map(|(block, entry)| (*block, Arc::clone(&entry.frame)))
            .collect()
    }

    pub fn any_in(&self, range: Range<u32>) -> bool {
        self.blocks.range(range).next().is_some()
    }

    /// The first block at or behind `from`.
    pub fn next(&self, from: u32) -> Option<u32> {
        self.blocks.range(from..).next().map(|(block, _)| *block)
    }

    /// The first block at or behind `from` that is not here.
    pub fn end_of_run(&self, from: u32) -> u32 {
        let mut at = from;
        for (block, _) in self.blocks.range(from..) {
            if *block != at {
                break;
            }
            at = at.saturating_add(1);
        }
        at
    }

    /// Puts a block's newest contents in. `backing` is what lies below it if it was not here when that was looked up; if it
    /// was here then and is no more, it has been written meanwhile.
    pub fn put(&mut self, block: u32, frame: Frame, backing: Option<Backing>) {
        let frame = Arc::new(frame);
        if let Some(entry) = self.blocks.get_mut(&block) {
            entry.frame = frame;
            entry.dirty = true;
            return;
        }
        let backing = backing.unwrap_or(Backing::Written);
        self.count(backing, 1);
        let joined = u64::from(self.is_before(block)) + u64::from(self.is_behind(block));
        self.shape.runs = (self.shape.runs + 1).saturating_sub(joined);
        self.shape.last = self.shape.last.max(block);
        self.blocks.insert(
            block,
            Entry {
                frame,
                dirty: true,
                writing: false,
                backing,
            },
        );
        self.recharge();
    }

    /// Dirty runs from block `from` on, up to `limit` blocks in all, marked as under way.
    pub fn take(&mut self, from: u32, limit: usize) -> Vec<DirtyRun> {
        let mut runs: Vec<DirtyRun> = Vec::new();
        let dirty = self.blocks.range_mut(from..);
        for (block, entry) in dirty.filter(|(_, entry)| entry.dirty).take(limit) {
            (entry.dirty, entry.writing) = (false, true);
            let frame = Arc::clone(&entry.frame);
            match runs.last_mut() {
                Some(run) if run.range().end == *block => run.frames.push(frame),
                _ => runs.push(DirtyRun {
                    at: *block,
                    frames: vec![frame],
                }),
            }
        }
        runs
    }

    /// Blocks of a range without a place on the device.
    pub fn holes_in(&self, range: Range<u32>) -> u64 {
        let holes = self.blocks.range(range);
        holes
            .filter(|(_, entry)| entry.backing == Backing::Hole)
            .count() as u64
    }

    /// The range has been written and the map knows it: what did not change meanwhile goes.
    pub fn written(&mut self, range: Range<u32>) {
        let mut done = Vec::new();
        let mut was = [0_u64; 2];
        for (block, entry) in self.blocks.range_mut(range) {
            entry.writing = false;
            match std::mem::replace(&mut entry.backing, Backing::Written) {
                Backing::Hole => was[0] += 1,
                Backing::Unwritten => was[1] += 1,
                Backing::Written => {}
            }
            if !entry.dirty {
                done.push(*block);
            }
        }
        self.shape.holes -= was[0];
        self.shape.splits -= was[1];
        self.remove(&done);
    }

    /// The range could not be written.
    pub fn unwritten(&mut self, range: Range<u32>) {
        for (_, entry) in self.blocks.range_mut(range) {
            (entry.dirty, entry.writing) = (true, false);
        }
    }

    /// Drops the data of a range; nothing of it is under way.
    pub fn discard(&mut self, range: Range<u32>) {
        let mut gone = Vec::new();
        for (block, entry) in self.blocks.range(range) {
            gone.push((*block, entry.backing));
        }
        for (_, backing) in &gone {
            self.count(*backing, -1);
        }
        let blocks: Vec<u32> = gone.into_iter().map(|(block, _)| block).collect();
        self.remove(&blocks);
    }

    fn remove(&mut self, blocks: &[u32]) {
        for block in blocks {
            if self.blocks.remove(block).is_some() {
                let left = u64::from(self.is_before(*block)) + u64::from(self.is_behind(*block));
                self.shape.runs = (self.shape.runs + left).saturating_sub(1);
            }
        }
        self.shape.last = self.blocks.last_key_value().map_or(0, |(block, _)| *block);
        self.recharge();
    }

    fn is_before(&self, block: u32) -> bool {
        block
            .checked_sub(1)
            .is_some_and(|before| self.blocks.contains_key(&before))
    }

    fn is_behind(&self, block: u32) -> bool {
        block
            .checked_add(1)
            .is_some_and(|behind| self.blocks.contains_key(&behind))
    }

    fn count(&mut self, backing: Backing, change: i64) {
        let count = match backing {
            Backing::Hole => &mut self.shape.holes,
            Backing::Unwritten => &mut self.shape.splits,
            Backing::Written => return,
        };
        *count = count.saturating_add_signed(change);
    }

    fn recharge(&mut self) {
        self.charge.resize(self.blocks.len() * ENTRY_BYTES);
    }

    /// Until `announce(None)` the claim covers these blocks, too. One write at a time: the caller has the inode to itself.
    pub fn announce(&mut self, blocks: Option<Announced>) {
        self.announced = blocks;
    }

    /// With what is announced, as a run of its own.
    pub fn shape(&self) -> Shape {
        let Some(Announced {
            holes,
            splits,
            last,
        }) = self.announced
        else {
            return self.shape;
        };
        Shape {
            holes: self.shape.holes + holes,
            splits: self.shape.splits + splits,
            runs: self.shape.runs + 1,
            last: self.shape.last.max(last),
        }
    }

    /// Blocks claimed for this inode.
    pub fn claimed(&self) -> u64 {
        self.lent + self.claim.as_ref().map_or(0, Claim::blocks)
    }

    pub fn add_claim(&mut self, claim: Claim) {
        match &mut self.claim {
            Some(mine) => mine.join(claim),
            None => self.claim = Some(claim),
        }
    }

    /// Takes out what `blocks` blocks need, with all that is claimed for map blocks.
    pub fn lend(&mut self, blocks: u64) -> Option<Claim> {
        let claim = self.claim.as_mut()?;
        // What is announced may not be claimed yet.
        let kept = self.shape.holes.saturating_sub(blocks);
        let lent = claim.split(claim.blocks().saturating_sub(kept));
        self.lent = lent.blocks();
        Some(lent)
    }

    /// So much of the loan still stands for blocks that are here. Together with `written`, under the inode's lock: a write that
    /// counted on what the map has already got would be accepted without space.
    pub fn set_lent(&mut self, blocks: u64) {
        self.lent = blocks;
    }

    /// Takes a loan back.
    pub fn settle(&mut self, rest: Option<Claim>) {
        self.lent = 0;
        if let Some(rest) = rest {
            self.add_claim(rest);
        }
    }

    /// Gives back what is claimed beyond `needed`, unless a flusher is at work.
    pub fn trim_claim(&mut self, needed: u64) {
        if self.lent > 0 {
            return;
        }
        if needed == 0 {
            self.claim = None;
        } else if let Some(claim) = &mut self.claim {
            claim.release(claim.blocks().saturating_sub(needed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Class, Memory};

    fn delayed(memory: &Arc<Memory>) -> Delayed {
        Delayed::new(memory.charge(Class::Dirty, 0))
    }

    #[test]
    fn runs_and_backings_are_counted() {
        let memory = Memory::new(1 << 20, 4096, 1 << 17);
        let mut all = delayed(&memory);
        let put = |all: &mut Delayed, block, backing| {
            all.put(block, memory.frame(Class::Dirty), Some(backing));
        };
        for block in [1, 3, 5] {
            put(&mut all, block, Backing::Hole);
        }
        assert_eq!((all.shape().runs, all.shape().holes), (3, 3));
        put(&mut all, 4, Backing::Unwritten);
        put(&mut all, 4, Backing::Hole);
        let shape = all.shape();
        assert_eq!((shape.runs, shape.holes, shape.splits), (2, 3, 1));
        all.discard(4..5);
        assert_eq!((all.shape().runs, all.shape().splits), (3, 0));
        all.discard(0..u32::MAX);
        assert_eq!(all.shape(), Shape::default());
        assert_eq!(memory.snapshot().class(Class::Dirty).current, 0);
    }

    #[test]
    fn what_is_announced_counts_until_it_is_here() {
        let memory = Memory::new(1 << 20, 4096, 1 << 17);
        let mut all = delayed(&memory);
        all.put(7, memory.frame(Class::Dirty), Some(Backing::Hole));
        all.announce(Some(Announced {
            holes: 3,
            splits: 1,
            last: 20,
        }));
        let shape = all.shape();
        assert_eq!((shape.holes, shape.splits), (4, 1));
        assert_eq!((shape.runs, shape.last), (2, 20));
        all.announce(None);
        assert_eq!((all.shape().holes, all.shape().last), (1, 7));
    }

    #[test]
    fn what_changes_while_it_is_written_stays() {
        let memory = Memory::new(1 << 20, 4096, 1 << 17);
        let mut all = delayed(&memory);
        for block in 0..3 {
            all.put(block, memory.frame(Class::Dirty), Some(Backing::Hole));
        }
        let runs = all.take(0, 100);
        assert_eq!((runs.len(), runs[0].range()), (1, 0..3));
        assert!(all.take(0, 100).is_empty());
        all.put(1, memory.frame(Class::Dirty), None);
        assert!(!Arc::ptr_eq(&runs[0].frames[1], all.frame(1).expect("it")));
        all.written(0..3);
        assert_eq!((all.blocks(), all.holes()), (1, 0));
        assert_eq!(all.take(0, 100)[0].range(), 1..2);
        all.unwritten(1..2);
        assert_eq!(all.take(1, 1)[0].range(), 1..2);
    }
}

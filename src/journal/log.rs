//! The log on the device: a ring of blocks in the journal inode, its superblock, and the writing of transactions into it.
//!
//! Source: the kernel's ext4 documentation, "Journal (jbd2)".
//! Invariants: only the committer uses it, under its lock; `used` counts the blocks between tail and head, and they are not
//! written again before the tail has moved past them and `reuse_freed` was called.

use crate::cache::Snapshot;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::format::geometry::Geometry;
use crate::format::jbd2::descriptor::{RevokeWriter, TagWriter};
use crate::format::jbd2::{self, Checksums, Commit, JournalSuperblock, Layout, incompat};
use crate::format::time::Timestamp;
use crate::ids::{FsBlock, Tid};
use crate::journal::recover::{self, LogMap};
use crate::memory::{Class, Frame, Memory};
use std::io::IoSlice;
use std::sync::Arc;

/// A block of the journal, counted from its superblock.
pub type LogPosition = u32;

/// Blocks in one device write.
const RUN_MAX: usize = 256;
/// `s_errno` of an aborted journal.
const EIO: i32 = -5;

pub struct Log {
    map: LogMap,
    geo: Arc<Geometry>,
    superblock: JournalSuperblock,
    layout: Layout,
    first: LogPosition,
    end: LogPosition,
    head: LogPosition,
    used: u32,
    /// What `used` becomes once the moved tail is durable.
    used_after_move: u32,
    next: Tid,
    /// The newest transaction in the log.
    last: Tid,
    /// The head has passed every block since the log was opened.
    went_round: bool,
}

/// A block on its way into the log.
enum Piece<'a> {
    Shared(&'a Snapshot),
    Own(Frame),
}

impl Piece<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Piece::Shared(snapshot) => snapshot,
            Piece::Own(frame) => frame,
        }
    }
}

impl Log {
    /// The clean log that recovery left, with the features that our transactions need: revokes, 64-bit block numbers and
    /// checksum v3 as the file system has them.
    pub fn open(geo: Arc<Geometry>, map: LogMap, recovery: &recover::Recovery) -> Self {
        let mut superblock = recovery.superblock.clone();
        let mut features = superblock.feature_incompat() | incompat::REVOKE;
        features &= !(incompat::ASYNC_COMMIT | incompat::CSUM_V2 | incompat::CSUM_V3);
        if geo
            .features
            .has_incompat(crate::format::features::incompat::BIT64)
        {
            features |= incompat::BIT64;
        }
        if geo.features.metadata_csum() {
            features |= incompat::CSUM_V3;
        }
        superblock.set_feature_compat(superblock.feature_compat() & !jbd2::compat::CHECKSUM);
        superblock.set_feature_incompat(features);
        superblock.set_errno(0);
        let layout = superblock.layout();
        let (first, end) = (superblock.first(), superblock.log_end());
        Self {
            map,
            geo,
            layout,
            first,
            end,
            head: first,
            used: 0,
            used_after_move: 0,
            next: recovery.next_tid,
            last: Tid::new(recovery.next_tid.get().wrapping_sub(1)),
            went_round: false,
            superblock,
        }
    }

    /// Where the journal lies on the volume: first blocks and lengths.
    pub fn runs(&self) -> Vec<(FsBlock, u32)> {
        self.map
            .runs()
            .iter()
            .map(|run| (run.start, run.len))
            .collect()
    }

    pub fn next_tid(&self) -> Tid {
        self.next
    }

    /// Blocks that transactions can use.
    pub fn capacity(&self) -> u32 {
        // One block stays free, so that a full log does not look like an empty one.
        self.end - self.first - 1
    }

    pub fn free(&self) -> u32 {
        self.capacity() - self.used
    }

    /// Blocks from the head to where the log goes round.
    pub fn until_end(&self) -> u32 {
        self.end - self.head
    }

    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Free blocks if the tail were at `tail`.
    pub fn free_with_tail(&self, tail: LogPosition) -> u32 {
        self.capacity() - self.distance(tail, self.head)
    }

    /// Log blocks that a transaction takes, its commit block included.
    pub fn blocks_for(&self, blocks: usize, revokes: usize) -> u32 {
        let tags = TagWriter::capacity(&self.layout).max(1) as usize;
        let records = RevokeWriter::capacity(&self.layout).max(1) as usize;
        let total = blocks + blocks.div_ceil(tags) + revokes.div_ceil(records) + 1;
        u32::try_from(total).unwrap_or(u32::MAX)
    }

    /// Prepares for `tid`; on a clean log the journal superblock says from now on where it starts. Returns where the
    /// transaction begins.
    pub fn begin(&mut self, device: &dyn Device, tid: Tid) -> Result<LogPosition> {
        if self.used == 0 {
            self.superblock.set_start(self.head);
            self.superblock.set_sequence(tid);
            self.write_superblock(device)?;
        }
        self.next = tid.next();
        Ok(self.head)
    }

    pub fn write_revokes(
        &mut self,
        device: &dyn Device,
        memory: &Arc<Memory>,
        tid: Tid,
        revoked: &[FsBlock],
    ) -> Result<()> {
        let capacity = RevokeWriter::capacity(&self.layout).max(1) as usize;
        let mut pieces = Vec::new();
        for chunk in revoked.chunks(capacity) {
            let mut frame = self.zeroed(memory);
            let mut writer = RevokeWriter::new(&mut frame, &self.layout, tid);
            for &block in chunk {
                let fits = writer.push(block);
                debug_assert!(fits, "a revoke block holds its capacity");
            }
            writer.finish();
            pieces.push(Piece::Own(frame));
        }
        self.append(device, &pieces, None)
    }

    /// Descriptor and data blocks. `blocks` in ascending order.
    pub fn write_blocks(
        &mut self,
        device: &dyn Device,
        memory: &Arc<Memory>,
        tid: Tid,
        blocks: &[(FsBlock, &Snapshot)],
    ) -> Result<()> {
        let capacity = TagWriter::capacity(&self.layout).max(1) as usize;
        let layout = self.layout;
        for group in blocks.chunks(capacity) {
            let mut descriptor = self.zeroed(memory);
            let mut pieces = Vec::with_capacity(group.len() + 1);
            let mut writer = TagWriter::new(&mut descriptor, &layout, tid);
            for &(block, snapshot) in group {
                let escaped = jbd2::needs_escape(snapshot);
                let piece = if escaped {
                    let mut copy = memory.frame(Class::Meta);
                    copy.copy_from_slice(snapshot);
                    jbd2::escape(&mut copy);
                    Piece::Own(copy)
                } else {
                    Piece::Shared(snapshot)
                };
                let checksum = layout.data_checksum(tid, piece.bytes());
                let fits = writer.push(block, escaped, checksum);
                debug_assert!(fits, "a descriptor block holds its capacity");
                pieces.push(piece);
            }
            writer.finish();
            pieces.insert(0, Piece::Own(descriptor));
            // The commit block's place is written along. Where the image is sparse, the write behind the sync would
            // otherwise allocate it, and the second sync would have to make that durable as well.
            let place = (!self.went_round).then(|| self.zeroed(memory));
            self.append(device, &pieces, place.as_deref())?;
        }
        Ok(())
    }

    pub fn write_commit(
        &mut self,
        device: &dyn Device,
        memory: &Arc<Memory>,
        tid: Tid,
        (seconds, nanoseconds): (i64, u32),
    ) -> Result<()> {
        debug_assert!(
            self.layout.checksums != Checksums::V1,
            "v1 is never written"
        );
        let mut frame = self.zeroed(memory);
        let time = Timestamp {
            seconds,
            nanoseconds,
        };
        Commit {
            tid,
            time,
            crc: None,
        }
        .write_to(&mut frame, &self.layout);
        self.append(device, &[Piece::Own(frame)], None)?;
        self.last = tid;
        Ok(())
    }

    /// Records in the journal superblock where the log must be kept from; `None`: it is empty. The caller has synced
    /// what lies before, syncs again, and then calls `reuse_freed`.
    pub fn move_tail(
        &mut self,
        device: &dyn Device,
        tail: Option<(Tid, LogPosition)>,
    ) -> Result<()> {
        let (start, sequence, used) = match tail {
            Some((tid, position)) => (position, tid, self.distance(position, self.head)),
            None => (0, self.last, 0),
        };
        self.superblock.set_start(start);
        self.superblock.set_sequence(sequence);
        self.write_superblock(device)?;
        self.used_after_move = used;
        Ok(())
    }

    pub fn reuse_freed(&mut self) {
        self.used = self.used_after_move;
    }

    /// Notes in the journal superblock that it was aborted; a failure changes nothing any more.
    pub fn record_error(&mut self, device: &dyn Device) {
        self.superblock.set_errno(EIO);
        if let Err(error) = self.write_superblock(device) {
            log::error!(target: "uext4::journal", "the error could not be recorded: {error}");
        }
    }

    fn write_superblock(&self, device: &dyn Device) -> Result<()> {
        recover::write_superblock(device, &self.geo, &self.map, &self.superblock)
    }

    fn distance(&self, from: LogPosition, to: LogPosition) -> u32 {
        if to >= from {
            to - from
        } else {
            (self.end - from) + (to - self.first)
        }
    }

    fn zeroed(&self, memory: &Arc<Memory>) -> Frame {
        let mut frame = memory.frame(Class::Meta);
        frame.fill(0);
        frame
    }

    /// Writes blocks at the head, in pieces that are contiguous on the volume; `place` goes into the free block behind
    /// them if it lies next to the last one, and the head stays before it.
    fn append(
        &mut self,
        device: &dyn Device,
        pieces: &[Piece<'_>],
        place: Option<&[u8]>,
    ) -> Result<()> {
        let mut rest = pieces;
        while !rest.is_empty() {
            let (start, contiguous) = self.map.run(self.head)?;
            let room = contiguous.min(self.end - self.head) as usize;
            let count = rest.len().min(room).min(RUN_MAX);
            if count == 0 || self.free() < count as u32 {
                // The committer made room before; a transaction larger than the log cannot come this far.
                return Err(Error::Aborted);
            }
            let (now, later) = rest.split_at(count);
            let mut slices: Vec<IoSlice<'_>> = now
                .iter()
                .map(|piece| IoSlice::new(piece.bytes()))
                .collect();
            if later.is_empty() && count < room && self.free() > count as u32 {
                slices.extend(place.map(IoSlice::new));
            }
            device.write_vectored_at(start.get() << self.geo.block_bits, &slices)?;
            self.used += count as u32;
            self.head += count as u32;
            if self.head == self.end {
                self.head = self.first;
                self.went_round = true;
            }
            rest = later;
        }
        Ok(())
    }
}

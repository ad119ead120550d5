//! The walk of the log: which transactions are whole, what they hold, what they revoke.
//!
//! Source: the kernel's ext4 documentation, "Journal (jbd2)", "Layout" and "Commit Block".
//! Invariants: a block of the log is visited at most once, so the walk ends; only whole transactions enter the
//! result; a damaged one that has a commit block is an error, a damaged tail without one is the log's end.

use super::{LogMap, block_buffer, byte_offset};
use crate::device::Device;
use crate::error::{CorruptKind, Error, Location, Result, Structure};
use crate::format::geometry::Geometry;
use crate::format::jbd2::{
    BlockType, Checksums, Commit, Header, JournalSuperblock, Layout, Revokes, Tags, TransactionCrc,
    incompat,
};
use crate::format::time::Timestamp;
use crate::ids::{FsBlock, Tid};
use std::collections::HashMap;

/// A copy of a block in the log.
#[derive(Clone, Copy, Debug)]
pub struct Copied {
    /// Where in the journal.
    pub at: u32,
    pub tid: Tid,
    pub escaped: bool,
    pub checksum: u32,
}

/// What whole transactions hold.
#[derive(Default)]
pub struct Found {
    /// The newest copy of each block.
    pub copies: HashMap<FsBlock, Copied>,
    /// The last transaction that revoked a block.
    pub revokes: HashMap<u64, Tid>,
    pub revoke_records: u64,
    pub transactions: u32,
    /// The first transaction that is not there.
    pub next_tid: Tid,
}

/// What the walk does after a block.
enum Step {
    Continue,
    /// The log ends before this block.
    End,
}

pub struct Scan<'a> {
    device: &'a dyn Device,
    geo: &'a Geometry,
    log: &'a LogMap,
    layout: Layout,
    async_commit: bool,
    first: u32,
    end: u32,
    /// The block to read next, and how many blocks may still be visited.
    at: u32,
    left: u32,
    tid: Tid,
    last_commit: Timestamp,
    crc: TransactionCrc,
    crc_seen: bool,
    pending_copies: Vec<(u64, Copied)>,
    pending_revokes: Vec<u64>,
    found: Found,
}

impl<'a> Scan<'a> {
    pub fn new(
        device: &'a dyn Device,
        geo: &'a Geometry,
        log: &'a LogMap,
        superblock: &JournalSuperblock,
    ) -> Self {
        Self {
            device,
            geo,
            log,
            layout: superblock.layout(),
            async_commit: superblock.has_incompat(incompat::ASYNC_COMMIT),
            first: superblock.first(),
            end: superblock.log_end(),
            at: superblock.start(),
            left: superblock.log_end() - superblock.first(),
            tid: superblock.sequence(),
            last_commit: Timestamp {
                seconds: i64::MIN,
                nanoseconds: 0,
            },
            crc: TransactionCrc::default(),
            crc_seen: false,
            pending_copies: Vec::new(),
            pending_revokes: Vec::new(),
            found: Found::default(),
        }
    }

    pub fn run(mut self) -> Result<Found> {
        let mut block = block_buffer(self.geo);
        while self.left > 0 {
            self.read(self.at, &mut block)?;
            let Some(header) = Header::parse(&block).filter(|header| header.tid == self.tid) else {
                break;
            };
            let at = self.at;
            let step = match header.block_type {
                BlockType::Descriptor => self.descriptor(&block),
                BlockType::Revoke => self.revoke(&block),
                BlockType::Commit => self.commit(&block),
                BlockType::SuperblockV1 | BlockType::SuperblockV2 => Ok(Step::End),
            };
            match step {
                Ok(Step::Continue) => {}
                Ok(Step::End) => break,
                Err(error) => return Err(error.located(Location::block(self.log.block(at)?))),
            }
        }
        self.found.next_tid = self.tid;
        Ok(self.found)
    }

    fn read(&self, at: u32, block: &mut [u8]) -> Result<()> {
        self.device
            .read_at(byte_offset(self.geo.block_size, self.log.block(at)?), block)
    }

    /// Steps over `count` blocks; `false` when the log has not that many left.
    fn advance(&mut self, count: u32) -> bool {
        match self.left.checked_sub(count) {
            Some(left) => {
                self.left = left;
                self.at = self.wrapped(count);
                true
            }
            None => false,
        }
    }

    /// The block `count` after this one, at most once around.
    fn wrapped(&self, count: u32) -> u32 {
        let at = u64::from(self.at) + u64::from(count);
        let at = if at >= u64::from(self.end) {
            at - u64::from(self.end - self.first)
        } else {
            at
        };
        u32::try_from(at).unwrap_or(self.first)
    }

    fn descriptor(&mut self, block: &[u8]) -> Result<Step> {
        if let Err(error) = self.layout.verify_tail(block, Structure::JournalDescriptor) {
            return self.damaged(error);
        }
        let mut copies = Vec::new();
        for tag in Tags::new(block, &self.layout) {
            let tag = match tag {
                Ok(tag) => tag,
                Err(error) => return self.damaged(error),
            };
            let Some(offset) = u32::try_from(copies.len() + 1)
                .ok()
                .filter(|offset| *offset < self.left)
            else {
                let kind = CorruptKind::Short {
                    what: Structure::JournalDescriptor,
                };
                return self.damaged(Error::corrupt(kind, Location::default()));
            };
            let at = self.wrapped(offset);
            copies.push((
                tag.block,
                Copied {
                    at,
                    tid: self.tid,
                    escaped: tag.escaped,
                    checksum: tag.checksum,
                },
            ));
        }
        if self.layout.checksums == Checksums::V1 {
            self.crc.update(block);
            let mut data = block_buffer(self.geo);
            for (_, copy) in &copies {
                self.read(copy.at, &mut data)?;
                self.crc.update(&data);
            }
        }
        let count = u32::try_from(copies.len()).unwrap_or(u32::MAX);
        self.pending_copies.append(&mut copies);
        Ok(if self.advance(count.saturating_add(1)) {
            Step::Continue
        } else {
            Step::End
        })
    }

    fn revoke(&mut self, block: &[u8]) -> Result<Step> {
        if let Err(error) = self.layout.verify_tail(block, Structure::JournalRevoke) {
            return self.damaged(error);
        }
        match Revokes::new(block, &self.layout) {
            Ok(revokes) => self.pending_revokes.extend(revokes),
            Err(error) => return self.damaged(error),
        }
        self.advance(1);
        Ok(Step::Continue)
    }

    fn commit(&mut self, block: &[u8]) -> Result<Step> {
        let commit = Commit::parse(block, &self.layout);
        if let Err(error) = Commit::verify(block, &self.layout) {
            // Left over from an earlier life of these blocks, or damaged.
            return if commit.time.seconds < self.last_commit.seconds {
                Ok(Step::End)
            } else {
                Err(error)
            };
        }
        if self.layout.checksums == Checksums::V1 && !self.crc_is_right(&commit)? {
            return Ok(Step::End);
        }
        self.take_pending()?;
        self.found.transactions += 1;
        self.last_commit = commit.time;
        self.crc = TransactionCrc::default();
        self.tid = self.tid.next();
        self.advance(1);
        Ok(Step::Continue)
    }

    /// Checksum v1. `false`: the transaction is not whole and may be dropped; that is allowed only where
    /// commit blocks do not wait for the blocks before them.
    fn crc_is_right(&mut self, commit: &Commit) -> Result<bool> {
        let expected = self.crc.get();
        match commit.crc {
            Some(crc) if crc == expected => {
                self.crc_seen = true;
                Ok(true)
            }
            None if !self.crc_seen => Ok(true),
            _ if self.async_commit => Ok(false),
            crc => {
                let what = Structure::JournalCommit;
                let kind = CorruptKind::Checksum {
                    what,
                    found: crc.unwrap_or(0),
                    expected,
                };
                Err(Error::corrupt(kind, Location::default()))
            }
        }
    }

    fn take_pending(&mut self) -> Result<()> {
        for (raw, copy) in self.pending_copies.drain(..) {
            // Block 0 is fine here: it holds the superblock where blocks are larger than 1 KiB.
            let block = FsBlock::new(raw);
            if raw >= self.geo.blocks_count || self.log.contains(block) {
                let kind = CorruptKind::BlockRange {
                    what: Structure::JournalDescriptor,
                    block: raw,
                };
                return Err(Error::corrupt(kind, Location::default()));
            }
            self.found.copies.insert(block, copy);
        }
        self.found.revoke_records += self.pending_revokes.len() as u64;
        for raw in self.pending_revokes.drain(..) {
            self.found.revokes.insert(raw, self.tid);
        }
        Ok(())
    }

    /// A block of the expected transaction is damaged: an error if the transaction has committed, else the end.
    fn damaged(&self, error: Error) -> Result<Step> {
        let mut block = block_buffer(self.geo);
        for offset in 1..self.left {
            self.read(self.wrapped(offset), &mut block)?;
            let committed = Header::parse(&block).is_some_and(|header| {
                header.block_type == BlockType::Commit && header.tid == self.tid
            }) && Commit::verify(&block, &self.layout).is_ok()
                && Commit::parse(&block, &self.layout).time.seconds >= self.last_commit.seconds;
            if committed {
                return Err(error);
            }
        }
        Ok(Step::End)
    }
}

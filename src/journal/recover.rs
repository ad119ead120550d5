//! Recovery: what committed transactions in the log hold goes to its place, before anything else is read.
//!
//! Source: the kernel's ext4 documentation, "Journal (jbd2)"; the design's section on the journal.
//! Invariants: nothing is written before the whole log has been checked; the log is marked empty only after all
//! of it is durable at home; transaction numbers never go back; needs neither cache nor allocator, so that a
//! checker can use it. Memory is bounded by the log's length (about 60 bytes for each of its blocks).

mod log_map;
mod overlay;
mod scan;

pub use log_map::{LogMap, LogRun};
pub use overlay::OverlayDevice;

use crate::device::Device;
use crate::error::{CorruptKind, Error, Incompatible, Location, Result, Structure};
use crate::format::geometry::Geometry;
use crate::format::jbd2::{self, JournalSuperblock, Layout};
use crate::format::raw::{le16, le32};
use crate::ids::{FsBlock, Tid};
use scan::{Copied, Scan};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What recovery found and did.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// The log was not empty.
    pub replayed: bool,
    pub transactions: u32,
    /// Blocks that went home: the newest copy of each counts.
    pub blocks: u64,
    /// Revoke records of committed transactions.
    pub revokes: u64,
    /// Copies that were not written because of a revoke.
    pub revoked: u64,
    /// The number for the next transaction.
    pub next_tid: Tid,
    /// `s_errno`: what the journal was aborted with; 0 when it was not.
    pub errno: i32,
    /// The journal superblock as it is (or, over an overlay, would be) after recovery: `s_start` 0.
    pub superblock: JournalSuperblock,
}

/// Replays the log onto the device and marks it empty. The caller reads the file system's superblock again
/// afterwards: it may have been one of the blocks. Does not write when the log is empty.
pub fn recover(device: &dyn Device, geo: &Geometry, log: &LogMap) -> Result<Recovery> {
    let Plan {
        copies,
        mut recovery,
    } = plan(device, geo, log)?;
    if recovery.replayed {
        write_home(device, geo, log, &recovery.superblock.layout(), &copies)?;
        device.sync()?;
        recovery.mark_empty();
        write_superblock(device, geo, log, &recovery.superblock)?;
        device.sync()?;
    }
    Ok(recovery)
}

/// The same without writing: the device that is returned shows the blocks as if they had been replayed.
pub fn recover_read_only(
    device: Arc<dyn Device>,
    geo: &Geometry,
    log: &LogMap,
) -> Result<(Recovery, OverlayDevice)> {
    let Plan {
        copies,
        mut recovery,
    } = plan(&*device, geo, log)?;
    recovery.mark_empty();
    let mut moved = BTreeMap::new();
    for (block, copy) in copies {
        moved.insert(block, (log.block(copy.at)?, copy.escaped));
    }
    Ok((recovery, OverlayDevice::new(device, geo.block_size, moved)))
}

/// Reads the journal superblock, checked against the journal's real length.
pub fn read_superblock(
    device: &dyn Device,
    geo: &Geometry,
    log: &LogMap,
) -> Result<JournalSuperblock> {
    let block = log.block(0)?;
    let mut bytes = [0; jbd2::superblock::SIZE];
    device.read_at(byte_offset(geo.block_size, block), &mut bytes)?;
    JournalSuperblock::parse(&bytes, geo.block_size, u64::from(log.len()))
        .map_err(|error| error.located(Location::block(block)))
}

/// Writes the journal superblock into the journal's first block. No sync.
pub fn write_superblock(
    device: &dyn Device,
    geo: &Geometry,
    log: &LogMap,
    superblock: &JournalSuperblock,
) -> Result<()> {
    let at = byte_offset(geo.block_size, log.block(0)?);
    let mut bytes = block_buffer(geo);
    device.read_at(at, &mut bytes)?;
    superblock.write_to(&mut bytes);
    device.write_at(at, &bytes)
}

impl Recovery {
    fn mark_empty(&mut self) {
        if self.replayed {
            self.superblock.set_start(0);
            // An empty log holds the last number used, as far as a reader may assume.
            self.superblock.set_sequence(self.next_tid);
            self.next_tid = self.next_tid.next();
        }
    }
}

/// What is to be written where, all of it checked.
struct Plan {
    copies: BTreeMap<FsBlock, Copied>,
    recovery: Recovery,
}

fn plan(device: &dyn Device, geo: &Geometry, log: &LogMap) -> Result<Plan> {
    let superblock = read_superblock(device, geo, log)?;
    let mut recovery = Recovery {
        replayed: superblock.start() != 0,
        transactions: 0,
        blocks: 0,
        revokes: 0,
        revoked: 0,
        next_tid: superblock.sequence().next(),
        errno: superblock.errno(),
        superblock,
    };
    let mut copies = BTreeMap::new();
    if recovery.replayed {
        let found = Scan::new(device, geo, log, &recovery.superblock).run()?;
        let newest = found.copies.len();
        copies.extend(found.copies.into_iter().filter(|(block, copy)| {
            !found
                .revokes
                .get(&block.get())
                .is_some_and(|tid| tid.is_at_or_after(copy.tid))
        }));
        recovery.transactions = found.transactions;
        recovery.blocks = copies.len() as u64;
        recovery.revokes = found.revoke_records;
        recovery.revoked = (newest - copies.len()) as u64;
        recovery.next_tid = found.next_tid;
        refuse_fast_commits(device, geo, log, &recovery)?;
        verify_copies(device, geo, log, &recovery.superblock.layout(), &copies)?;
    }
    Ok(Plan { copies, recovery })
}

/// Tag of the record that opens a fast commit, and the length of its value.
const FC_TAG_HEAD: u16 = 9;
const FC_HEAD_LEN: u16 = 8;

fn refuse_fast_commits(
    device: &dyn Device,
    geo: &Geometry,
    log: &LogMap,
    recovery: &Recovery,
) -> Result<()> {
    if recovery.superblock.num_fc_blocks() == 0 {
        return Ok(());
    }
    let mut head = [0; 16];
    let block = log.block(recovery.superblock.log_end())?;
    device.read_at(byte_offset(geo.block_size, block), &mut head)?;
    let is_head = le16(&head, 0) == FC_TAG_HEAD && le16(&head, 2) == FC_HEAD_LEN;
    if is_head && le32(&head, 8) == recovery.next_tid.get() {
        return Err(Incompatible::FastCommit.into());
    }
    Ok(())
}

fn verify_copies(
    device: &dyn Device,
    geo: &Geometry,
    log: &LogMap,
    layout: &Layout,
    copies: &BTreeMap<FsBlock, Copied>,
) -> Result<()> {
    if !layout.has_block_checksums() {
        return Ok(());
    }
    let mut data = block_buffer(geo);
    for copy in copies.values() {
        let block = log.block(copy.at)?;
        device.read_at(byte_offset(geo.block_size, block), &mut data)?;
        let expected = layout.data_checksum(copy.tid, &data);
        if copy.checksum != expected {
            let what = Structure::JournalData;
            let kind = CorruptKind::Checksum {
                what,
                found: copy.checksum,
                expected,
            };
            return Err(Error::corrupt(kind, Location::block(block)));
        }
    }
    Ok(())
}

/// Bytes written at once.
const WRITE_SIZE: usize = 1 << 20;

fn write_home(
    device: &dyn Device,
    geo: &Geometry,
    log: &LogMap,
    layout: &Layout,
    copies: &BTreeMap<FsBlock, Copied>,
) -> Result<()> {
    let size = layout.block_size;
    let mut run: Vec<u8> = Vec::with_capacity(WRITE_SIZE.max(size));
    let mut run_start = FsBlock::ZERO;
    let mut next = FsBlock::ZERO;
    for (&block, copy) in copies {
        if !run.is_empty() && (block != next || run.len() + size > WRITE_SIZE) {
            device.write_at(byte_offset(geo.block_size, run_start), &run)?;
            run.clear();
        }
        if run.is_empty() {
            run_start = block;
        }
        let at = run.len();
        run.resize(at + size, 0);
        device.read_at(
            byte_offset(geo.block_size, log.block(copy.at)?),
            &mut run[at..],
        )?;
        if copy.escaped {
            jbd2::unescape(&mut run[at..]);
        }
        next = FsBlock::new(block.get() + 1);
    }
    if !run.is_empty() {
        device.write_at(byte_offset(geo.block_size, run_start), &run)?;
    }
    Ok(())
}

fn block_buffer(geo: &Geometry) -> Vec<u8> {
    vec![0; geo.block_size as usize]
}

/// A block's place in bytes. Blocks here have been checked against `blocks_count`, which fits into 64 bits of bytes.
fn byte_offset(block_size: u32, block: FsBlock) -> u64 {
    block.get().saturating_mul(u64::from(block_size))
}

#[cfg(test)]
mod tests;

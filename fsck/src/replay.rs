//! Replaying the journal and marking the file system as not needing it.
//!
//! Source: the kernel's ext4 documentation, "Journal (jbd2)", `needs_recovery` and `s_errno`.
//! Invariants: nothing is written when the log is empty; the superblock is read again after the replay, because
//! it may have been one of the replayed blocks.

use std::path::Path;
use uext4::device::Device;
use uext4::device::file::{Access, FileDevice};
use uext4::error::Result;
use uext4::format::checksum::crc32c;
use uext4::format::features::{compat, incompat};
use uext4::format::raw::{le16, le32, put_le16, put_le32};
use uext4::format::superblock::{OFFSET, SIZE, Superblock, state};
use uext4::journal::recover::{self, LogMap};

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There was nothing to do.
    Clean,
    Replayed {
        transactions: u32,
        blocks: u64,
    },
}

/// Replays the journal of the file system at `path`; an error is one line for a person.
pub fn replay(path: &Path) -> Result<Outcome, String> {
    let device = FileDevice::open(path, &Access::default()).map_err(|error| error.to_string())?;
    if device.read_only() {
        return Err(format!("{}: the device is read-only", path.display()));
    }
    replay_device(&device).map_err(|error| format!("{}: {error}", path.display()))
}

fn replay_device(device: &dyn Device) -> Result<Outcome> {
    let superblock = Superblock::parse(&read(device)?)?;
    let geo = superblock.geometry(device.len())?;
    if !geo.features.has_compat(compat::HAS_JOURNAL) {
        return Ok(Outcome::Clean);
    }
    let log = LogMap::read(device, &geo)?;
    let recovery = recover::recover(device, &geo, &log)?;
    let marked = geo.features.has_incompat(incompat::RECOVER);
    if !recovery.replayed && !marked {
        return Ok(Outcome::Clean);
    }
    finish(device, recovery.errno != 0)?;
    Ok(Outcome::Replayed {
        transactions: recovery.transactions,
        blocks: recovery.blocks,
    })
}

/// Clears `needs_recovery`; a journal that was aborted leaves its mark in the file system's state.
fn finish(device: &dyn Device, aborted: bool) -> Result<()> {
    let mut bytes = read(device)?;
    let geo = Superblock::parse(&bytes)?.geometry(device.len())?;
    let incompat = le32(&bytes, 0x60) & !incompat::RECOVER;
    put_le32(&mut bytes, 0x60, incompat);
    if aborted {
        let state = le16(&bytes, 0x3a) | state::ERROR_FS;
        put_le16(&mut bytes, 0x3a, state);
    }
    if geo.features.metadata_csum() {
        let checksum = crc32c(!0, &bytes[..SIZE - 4]);
        put_le32(&mut bytes, SIZE - 4, checksum);
    }
    device.write_at(OFFSET, &bytes)?;
    device.sync()
}

fn read(device: &dyn Device) -> Result<[u8; SIZE]> {
    let mut bytes = [0; SIZE];
    device.read_at(OFFSET, &mut bytes)?;
    Ok(bytes)
}

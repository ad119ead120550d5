//! Replaying the journal and marking the file system as not needing it.
//!
//! Source: the kernel's ext4 documentation, "Journal (jbd2)", `needs_recovery` and `s_errno`.
//! Invariants: nothing is written when there is nothing to replay; the superblock is read again after the replay,
//! because it may have been one of the replayed blocks; orphans are left to the next mount or full check.

use std::path::Path;
use uext4::device::Device;
use uext4::device::file::{Access, FileDevice};
use uext4::error::Result;
use uext4::format::features::{compat, gate, incompat};
use uext4::format::geometry::Geometry;
use uext4::format::group::GroupDesc;
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
    let superblock = read_superblock(device)?;
    gate(superblock.features())?;
    let geo = superblock.geometry(device.len())?;
    if !geo.features.has_compat(compat::HAS_JOURNAL) {
        return Ok(Outcome::Clean);
    }
    let log = LogMap::read(device, &geo)?;
    let recovery = recover::recover(device, &geo, &log)?;
    if !recovery.replayed && !geo.features.has_incompat(incompat::RECOVER) {
        return Ok(Outcome::Clean);
    }
    finish(device, recovery.errno != 0)?;
    Ok(Outcome::Replayed {
        transactions: recovery.transactions,
        blocks: recovery.blocks,
    })
}

/// Clears `needs_recovery` and sums the free counts, which the kernel does not journal; a journal that was aborted
/// leaves its mark in the file system's state.
fn finish(device: &dyn Device, aborted: bool) -> Result<()> {
    let mut superblock = read_superblock(device)?;
    let geo = superblock.geometry(device.len())?;
    let (clusters, inodes) = free_counts(device, &geo)?;
    superblock.set_s_free_blocks_count(clusters << geo.cluster_ratio_bits);
    superblock.set_s_free_inodes_count(inodes);
    superblock.set_feature_incompat(superblock.features().incompat & !incompat::RECOVER);
    if aborted {
        superblock.set_s_state(superblock.s_state() | state::ERROR_FS);
    }
    device.write_at(OFFSET, &superblock.to_bytes())?;
    device.sync()
}

fn read_superblock(device: &dyn Device) -> Result<Superblock> {
    let mut bytes = [0; SIZE];
    device.read_at(OFFSET, &mut bytes)?;
    Superblock::parse(&bytes)
}

/// Free clusters and free inodes by the group descriptors.
fn free_counts(device: &dyn Device, geo: &Geometry) -> Result<(u64, u32)> {
    let (mut clusters, mut inodes) = (0u64, 0u32);
    let mut block = vec![0; geo.block_size as usize];
    let mut loaded = None;
    for group in geo.groups() {
        let (place, offset) = geo.desc_location(group);
        if loaded != Some(place) {
            device.read_at(place.get() * u64::from(geo.block_size), &mut block)?;
            loaded = Some(place);
        }
        let desc = GroupDesc::parse(block.get(offset..).unwrap_or(&[]), geo, group)?;
        clusters += u64::from(desc.free_blocks);
        inodes = inodes.saturating_add(desc.free_inodes);
    }
    Ok((clusters, inodes))
}

//! Group descriptors whose primary copy is damaged: the backups are read in their place, and nothing is written.
//!
//! Source: the kernel's ext4 documentation, "Block Group Descriptors", "Meta Block Groups".
//! Invariants: a copy is used only when every descriptor in it is valid; a descriptor block without a valid copy is left as it
//! is, for whoever reads it to say so.

use crate::device::Device;
use crate::error::Result;
use crate::format::geometry::Geometry;
use crate::format::group::GroupDesc;
use crate::ids::{FsBlock, GroupIndex};
use crate::journal::recover::OverlayDevice;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Copies of one block that are tried: without sparse_super every group has one.
const COPIES_MAX: usize = 32;

/// A device in which backups stand for damaged blocks, and a line for each that says so.
pub(super) type WithBackups = (Arc<dyn Device>, Vec<String>);

/// The device as if the backups stood where damaged descriptors are; `None` when no damaged one has a valid backup.
pub(super) fn from_backups(
    device: &Arc<dyn Device>,
    geo: &Geometry,
) -> Result<Option<WithBackups>> {
    let mut moved = BTreeMap::new();
    let mut notices = Vec::new();
    let mut bytes = vec![0; geo.block_size as usize];
    for table in 0..geo.desc_blocks {
        let first = GroupIndex::new(table.saturating_mul(geo.descs_per_block));
        let (home, _) = geo.desc_location(first);
        let Err(error) = check(device.as_ref(), geo, table, home, &mut bytes) else {
            continue;
        };
        let copy = geo
            .desc_copies(table)
            .take(COPIES_MAX)
            .find(|&copy| check(device.as_ref(), geo, table, copy, &mut bytes).is_ok());
        if let Some(copy) = copy {
            notices.push(format!(
                "{error}; using the backup at block {copy}, read-only: run e2fsck"
            ));
            moved.insert(home, (copy, false));
        }
    }
    if moved.is_empty() {
        return Ok(None);
    }
    let overlay = OverlayDevice::new(Arc::clone(device), geo.block_size, moved);
    Ok(Some((Arc::new(overlay), notices)))
}

/// Whether the block at `at` holds valid descriptors for descriptor block `table`.
fn check(
    device: &dyn Device,
    geo: &Geometry,
    table: u32,
    at: FsBlock,
    bytes: &mut [u8],
) -> Result<()> {
    device.read_at(at.get() << geo.block_bits, bytes)?;
    let first = table.saturating_mul(geo.descs_per_block);
    let size = geo.desc_size as usize;
    for (group, desc) in (first..geo.group_count).zip(bytes.chunks_exact(size)) {
        let group = GroupIndex::new(group);
        GroupDesc::parse(desc, geo, group)
            .map_err(|error| error.located(crate::error::Location::group(group).with_block(at)))?;
    }
    Ok(())
}

//! Directories without an index: names are found by looking through all blocks.
//!
//! Source: the kernel's ext4 documentation, "Linear (Classic) Directories".
//! Invariants: a hole is corruption for whoever looks for a name; entries never move.

use crate::dir::blocks::{self, Dir};
use crate::dir::index::Place;
use crate::dir::{Directories, Entry, split};
use crate::error::Result;
use crate::format::dirent;
use crate::format::features::compat;
use crate::format::inode::Inode;
use crate::ids::{FileBlock, InodeNumber};
use crate::journal::Handle;

/// Looks a name up in the first `limit` blocks.
pub(super) fn find(dir: &Dir<'_>, name: &[u8], limit: u32) -> Result<Option<Place>> {
    for at in 0..dir.blocks().min(limit) {
        let buffer = dir.require(FileBlock::new(at))?;
        let found = dirent::find(&buffer.snapshot(), dir.geo(), name)
            .map_err(|e| dir.locate(e, &buffer))?;
        if let Some(found) = found {
            return Ok(Some(Place { buffer, found }));
        }
    }
    Ok(None)
}

/// Adds a name where there is room, else in a new block, or in an index if the directory may have one.
pub(super) fn insert(
    dirs: &Directories,
    handle: &Handle<'_>,
    ino: InodeNumber,
    inode: &mut Inode,
    name: &[u8],
    entry: Entry,
) -> Result<()> {
    let dir = Dir::new(dirs, ino, inode);
    let geo = dirs.geo();
    for at in 0..dir.blocks() {
        let buffer = dir.require(FileBlock::new(at))?;
        let slot = dirent::room(&buffer.snapshot(), geo, name.len())
            .map_err(|e| dir.locate(e, &buffer))?;
        if let Some(slot) = slot {
            let mut bytes = handle.write(&buffer)?;
            dirent::insert(
                &mut bytes,
                geo,
                slot,
                name,
                entry.ino.get(),
                entry.file_type as u8,
            );
            return Ok(());
        }
    }
    let may_index = dir.blocks() == 1 && geo.features.has_compat(compat::DIR_INDEX);
    if may_index && split::can_index(&dir)? {
        return split::make_index(dirs, handle, ino, inode, name, entry);
    }
    let new = blocks::append(dirs, handle, ino, inode, 1)?.take()?;
    let mut bytes = handle.write(&new.buffer)?;
    let mut packer = dirent::Packer::new(&mut bytes, geo);
    packer.push(geo, name, entry.ino.get(), entry.file_type as u8);
    packer.finish();
    Ok(())
}

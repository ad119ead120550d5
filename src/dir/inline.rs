//! Directories that live in their inode: entries in `i_block` and in the value of the attribute `system.data`.
//!
//! Source: the kernel's ext4 documentation, "Inline Data", "Inline Directories".
//! Invariants: there is no entry "." or ".."; the parent's number stands in the first four bytes; entries do not cross
//! from the inode's part into the attribute's.

use crate::dir::FileType;
use crate::dir::blocks::Dir;
use crate::error::{CorruptKind, Error, Location, Posix, Result, Structure};
use crate::format::dirent;
use crate::format::inode::Inode;
use crate::format::raw;
use crate::ids::{FileBlock, InodeNumber};

/// The part in the inode and the part in the attribute.
pub(super) const PARTS: u32 = 2;
/// Where the entries start in `i_block`.
const FIRST_ENTRY: usize = 4;

/// Where the bytes beyond `i_block` come from: the layer of extended attributes.
pub trait InlineSource: Send + Sync {
    /// The value of `system.data` in the inode's body; empty when there is none.
    fn system_data(&self, ino: InodeNumber, inode: &Inode) -> Result<Vec<u8>>;
}

pub(super) fn parent(inode: &Inode) -> u32 {
    raw::le32(&inode.block, 0)
}

/// Looks a name up: inode number and raw file type.
pub(super) fn find(dir: &Dir<'_>, name: &[u8]) -> Result<Option<(u32, u8)>> {
    match name {
        b"." => return Ok(Some((dir.ino.get(), FileType::Directory as u8))),
        b".." => {
            return Ok(dir
                .parent()?
                .map(|ino| (ino.get(), FileType::Directory as u8)));
        }
        _ => {}
    }
    for at in 0..PARTS {
        let bytes = part(dir, FileBlock::new(at))?;
        if let Some(found) = dirent::find(&bytes, dir.geo(), name)? {
            return Ok(Some((found.ino, found.file_type)));
        }
    }
    Ok(None)
}

/// One part's entries.
pub(super) fn part(dir: &Dir<'_>, at: FileBlock) -> Result<Vec<u8>> {
    let in_inode = dir.inode.block.len() as u64;
    if at.get() == 0 {
        return Ok(dir.inode.block[FIRST_ENTRY..].to_vec());
    }
    let Some(length) = dir
        .inode
        .size
        .checked_sub(in_inode)
        .filter(|&length| length > 0)
    else {
        return Ok(Vec::new());
    };
    let source = dir.dirs.inline.as_ref().ok_or(Posix::OpNotSupp)?;
    let mut bytes = source.system_data(dir.ino, dir.inode)?;
    if (bytes.len() as u64) < length {
        let kind = CorruptKind::Short {
            what: Structure::InlineData,
        };
        return Err(Error::corrupt(kind, Location::inode(dir.ino)));
    }
    bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
    Ok(bytes)
}

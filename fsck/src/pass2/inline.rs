//! A directory inside its inode: the parent's number, then entries in `i_block` and in an attribute's value.
//!
//! Source: the kernel's ext4 documentation, "Inline Data".
//! Invariants: the two parts are two chains; there is no "." and no "..", and no checksum of their own.

use super::Directory;
use crate::Result;
use crate::dirblock;
use crate::inode::{I_BLOCK, I_BLOCK_LEN, OLD_SIZE, Raw};
use crate::problem::{At, Problem};
use crate::session::Fsck;
use crate::xattr::{self, Entry, inode_area};
use uext4::format::geometry::Geometry;
use uext4::format::raw::{le16, le32};

/// Bytes of `i_block` that hold the parent's number.
const PARENT: usize = 4;

/// Where the value of the attribute with inline data lies in the inode: start and length.
pub fn value_place(raw: &Raw) -> Option<(usize, usize)> {
    let area = inode_area(&raw.bytes)?;
    let start = OLD_SIZE + usize::from(raw.extra_isize()) + 4;
    let entries = xattr::parse(area, 0, 0).ok()?;
    let entry = entries.iter().find(|entry| Entry::is_inline_data(entry))?;
    let offset = usize::from(le16(area, entry.at + 2));
    Some((start + offset, entry.size as usize))
}

/// The live entries of an inline directory.
pub fn entries(geo: &Geometry, raw: &Raw) -> Vec<dirblock::Entry> {
    let mut parts = vec![(I_BLOCK + PARENT, I_BLOCK_LEN - PARENT)];
    parts.extend(value_place(raw));
    let mut all = Vec::new();
    for (start, len) in parts {
        all.extend(dirblock::entries(geo, &raw.bytes[start..start + len]));
    }
    all
}

/// The hash of the attribute's value, where it has one, after the value changed.
fn rehash(raw: &mut Raw) {
    let area_at = OLD_SIZE + usize::from(raw.extra_isize()) + 4;
    let found = inode_area(&raw.bytes)
        .and_then(|area| xattr::parse(area, 0, 0).ok())
        .and_then(|all| all.into_iter().find(Entry::is_inline_data));
    if let Some(entry) = found.filter(|entry| entry.hash != 0) {
        let hash = uext4::format::xattr::entry_hash(&entry.name, &entry.value);
        raw.put32(area_at + entry.at + 12, hash);
    }
}

/// Takes the attribute with inline data out of an inode.
pub fn drop_value(raw: &mut Raw) {
    let start = OLD_SIZE + usize::from(raw.extra_isize());
    let Ok(all) = uext4::format::xattr::parse_inode(&raw.bytes) else {
        return;
    };
    let left: Vec<_> = all
        .into_iter()
        .filter(|one| !one.is_inline_data())
        .collect();
    let kept = !left.is_empty() && uext4::format::xattr::write_inode(&mut raw.bytes, &left);
    if !kept {
        raw.bytes[start..].fill(0);
    }
}

impl Fsck<'_, '_> {
    pub fn inline_directory(&mut self, dir: &mut Directory, mut raw: Raw) -> Result<()> {
        let before = raw.clone();
        let parent = le32(raw.i_block(), 0);
        self.dirs.change(dir.ino, |known| known.dotdot = parent);
        self.inodes.found(dir.ino);
        let mut parts = vec![(I_BLOCK + PARENT, I_BLOCK_LEN - PARENT)];
        parts.extend(value_place(&raw).filter(|(_, len)| *len > 0));
        for (lblk, (start, len)) in parts.into_iter().enumerate() {
            let usable = len & !3;
            let mut bytes = raw.bytes[start..start + usable].to_vec();
            let at = At::dir(dir.ino).lblk(lblk as u64);
            if usable < 12 {
                self.report.fix(Problem::InlineDirSize, at)?;
                continue;
            }
            self.structure(&mut bytes, usable, &at)?;
            self.entries(dir, lblk as u64, &mut bytes, usable, false)?;
            raw.bytes[start..start + usable].copy_from_slice(&bytes);
        }
        if raw != before {
            rehash(&mut raw);
            self.write_inode(dir.ino, &mut raw)?;
        }
        Ok(())
    }
}

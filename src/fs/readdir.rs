//! Listing directories.
//!
//! Source: POSIX readdir; FUSE READDIR and READDIRPLUS.
//! Invariants: a cookie stays right while others insert, remove and split (see `dir`).

use crate::canary::{Canary, canary};
use crate::dir::{Entry, FileType};
use crate::error::Result;
use crate::fs::{Attr, Fs, need};
use crate::ids::InodeNumber;

/// One entry on its way to the caller.
pub struct DirItem<'a> {
    pub ino: InodeNumber,
    pub file_type: FileType,
    pub name: &'a [u8],
    /// Continues after this entry.
    pub cookie: u64,
    /// Where attributes were asked for and could be read, unless the kernel knows too much already. "." and ".." have none.
    pub attr: Option<Attr>,
}

impl Fs {
    /// Hands entries after `cookie` to `sink` until it returns false (that one was not taken). With `attributes`, each
    /// entry that was taken with some counts a lookup.
    pub fn readdir(
        &self,
        ino: InodeNumber,
        cookie: u64,
        attributes: bool,
        sink: &mut dyn FnMut(&DirItem<'_>) -> bool,
    ) -> Result<()> {
        let mut token = self.memory.request(need::READDIR)?;
        let dir = self.directory(ino)?;
        {
            let shared = dir.lock.read();
            let _shared = (!canary(Canary::ListedUnlocked)).then_some(shared);
            let core = dir.core.read().clone();
            if core.links_count == 0 {
                // A removed directory has not even "." any more.
                return Ok(());
            }
            self.dirs
                .read(ino, &core, cookie, &mut |cookie, entry: Entry, name| {
                    let is_dot = name == b"." || name == b"..";
                    let attr = if attributes && !is_dot && !self.known.leaves_out() {
                        self.attr_of(entry.ino).ok()
                    } else {
                        None
                    };
                    let item = DirItem {
                        ino: entry.ino,
                        file_type: entry.file_type,
                        name,
                        cookie,
                        attr,
                    };
                    let taken = sink(&item);
                    if taken && let Some(attr) = attr {
                        self.known.looked_up(entry.ino);
                        if attr.is_dir() {
                            self.expect(entry.ino);
                        }
                    }
                    taken
                })?;
        }
        self.touch_atime(&mut token, &dir);
        Ok(())
    }

    /// Whoever walks a tree reads the directories below one next.
    fn expect(&self, ino: InodeNumber) {
        if let Ok(node) = self.node(ino) {
            self.dirs.read_ahead(ino, &node.core.read(), 1);
        }
    }
}

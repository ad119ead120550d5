//! Directories: linear blocks and hash trees behind one interface.
//!
//! Source: the kernel's ext4 documentation, "Directory Entries", "Hash Tree Directories".
//! Invariants: names are 1 to 255 bytes without '/' and NUL; every entry's length is checked before it is followed; a
//! reader's cookie stays right while others insert, remove and split.

use crate::alloc::Allocator;
use crate::cache::BlockCache;
use crate::error::{Posix, Result};
use crate::format::dirent;
use crate::format::features::compat;
use crate::format::geometry::Geometry;
use crate::format::inode::{Inode, flag};
use crate::ids::{FileBlock, InodeNumber};
use crate::journal::Handle;
use crate::map::{Map, Mapping};
use blocks::Dir;
use index::Place;
use std::sync::Arc;

mod blocks;
mod cursor;
mod index;
mod inline;
mod linear;
mod split;
#[cfg(test)]
mod tests;

pub use inline::InlineSource;

/// The file type in a directory entry (`EXT4_FT_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FileType {
    Unknown = 0,
    Regular = 1,
    Directory = 2,
    CharDevice = 3,
    BlockDevice = 4,
    Fifo = 5,
    Socket = 6,
    Symlink = 7,
}

impl FileType {
    /// From an inode's mode.
    pub fn of_mode(mode: u16) -> Self {
        use crate::format::inode::mode as m;
        match mode & m::FMT {
            m::REG => Self::Regular,
            m::DIR => Self::Directory,
            m::CHR => Self::CharDevice,
            m::BLK => Self::BlockDevice,
            m::FIFO => Self::Fifo,
            m::SOCK => Self::Socket,
            m::LNK => Self::Symlink,
            _ => Self::Unknown,
        }
    }

    /// From a directory entry; what is not known is `Unknown`.
    pub fn from_raw(raw: u8) -> Self {
        match raw {
            1 => Self::Regular,
            2 => Self::Directory,
            3 => Self::CharDevice,
            4 => Self::BlockDevice,
            5 => Self::Fifo,
            6 => Self::Socket,
            7 => Self::Symlink,
            _ => Self::Unknown,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub ino: InodeNumber,
    pub file_type: FileType,
}

/// Blocks of a directory that are read ahead.
const READ_AHEAD: u32 = 64;

/// All directories. Methods take the directory's inode as it is; they change `size`, `block`, `blocks`, `flags` in it and
/// leave times, link counts and writing the inode to the caller (same handle). The caller holds the inode lock.
pub struct Directories {
    cache: Arc<BlockCache>,
    map: Arc<Map>,
    alloc: Arc<Allocator>,
    inline: Option<Arc<dyn InlineSource>>,
}

impl Directories {
    pub fn new(cache: Arc<BlockCache>, map: Arc<Map>, alloc: Arc<Allocator>) -> Self {
        Self {
            cache,
            map,
            alloc,
            inline: None,
        }
    }

    /// Tells where the second part of inline directories comes from. Without it only those that fit their inode can be read.
    pub fn with_inline(self, source: Arc<dyn InlineSource>) -> Self {
        Self {
            inline: Some(source),
            ..self
        }
    }

    fn geo(&self) -> &Geometry {
        self.cache.geometry()
    }

    pub fn lookup(&self, ino: InodeNumber, dir: &Inode, name: &[u8]) -> Result<Option<Entry>> {
        let dir = Dir::new(self, ino, dir);
        let entry = |ino, raw| Entry {
            ino: InodeNumber::new(ino),
            file_type: FileType::from_raw(raw),
        };
        if dir.is_inline() {
            return Ok(inline::find(&dir, name)?.map(|(ino, raw)| entry(ino, raw)));
        }
        Ok(find(&dir, name)?.map(|place| entry(place.found.ino, place.found.file_type)))
    }

    /// Adds a name that is known not to be there. May split leaves or grow the tree (converting a linear directory when
    /// dir_index is on). NoSpc leaves the directory as it was. OpNotSupp for a directory in its inode.
    pub fn insert(
        &self,
        handle: &Handle<'_>,
        ino: InodeNumber,
        dir: &mut Inode,
        name: &[u8],
        entry: Entry,
    ) -> Result<()> {
        check_name(name)?;
        refuse_inline(dir)?;
        if !is_indexed(self.geo(), dir) {
            // An index that nobody may use any more is overwritten.
            dir.flags &= !flag::INDEX;
            return linear::insert(self, handle, ino, dir, name, entry);
        }
        match split::insert(self, handle, ino, dir, name, entry) {
            // Index blocks without a checksum may be given up: they look like empty leaves.
            Err(error) if index::is_bad_index(&error) && !self.geo().features.metadata_csum() => {
                log::warn!("directory {ino} goes on without its index: {error}");
                dir.flags &= !flag::INDEX;
                linear::insert(self, handle, ino, dir, name, entry)
            }
            done => done,
        }
    }

    /// Removes a name; NoEnt when it is not there.
    pub fn remove(
        &self,
        handle: &Handle<'_>,
        ino: InodeNumber,
        dir: &mut Inode,
        name: &[u8],
    ) -> Result<Entry> {
        refuse_inline(dir)?;
        let Place { buffer, found } = find(&Dir::new(self, ino, dir), name)?.ok_or(Posix::NoEnt)?;
        dirent::remove(&mut handle.write(&buffer)?, self.geo(), found);
        Ok(Entry {
            ino: InodeNumber::new(found.ino),
            file_type: FileType::from_raw(found.file_type),
        })
    }

    /// Points an existing name at another inode; ".." included. Returns what it pointed to; NoEnt when it is not there.
    pub fn replace(
        &self,
        handle: &Handle<'_>,
        ino: InodeNumber,
        dir: &mut Inode,
        name: &[u8],
        entry: Entry,
    ) -> Result<Entry> {
        refuse_inline(dir)?;
        let Place { buffer, found } = find(&Dir::new(self, ino, dir), name)?.ok_or(Posix::NoEnt)?;
        let mut bytes = handle.write(&buffer)?;
        dirent::set_target(
            &mut bytes,
            self.geo(),
            found.offset,
            entry.ino.get(),
            entry.file_type as u8,
        );
        Ok(Entry {
            ino: InodeNumber::new(found.ino),
            file_type: FileType::from_raw(found.file_type),
        })
    }

    /// Gives a new directory its first block with "." and "..". NoSpc leaves the inode as it was.
    pub fn create(
        &self,
        handle: &Handle<'_>,
        ino: InodeNumber,
        dir: &mut Inode,
        parent: InodeNumber,
    ) -> Result<()> {
        let first = blocks::append(self, handle, ino, dir, 1)?.take()?;
        let mut bytes = handle.write(&first.buffer)?;
        dirent::init_first(
            &mut bytes,
            self.geo(),
            ino.get(),
            parent.get(),
            FileType::Directory as u8,
        );
        Ok(())
    }

    /// Only "." and ".." are left.
    pub fn is_empty(&self, ino: InodeNumber, dir: &Inode) -> Result<bool> {
        let dir = Dir::new(self, ino, dir);
        for at in 0..dir.blocks() {
            let Some(page) = dir.page(FileBlock::new(at))? else {
                log::warn!("directory {ino} has a hole at block {at}");
                continue;
            };
            for entry in dirent::entries(&page, self.geo()) {
                let entry = entry.map_err(|error| dir.locate_at(error, FileBlock::new(at)))?;
                if entry.ino != 0 && !is_dots(entry.name) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Entries after `cookie` (0: from the start, "." and ".." first) in hash order, until `sink` returns false (that entry
    /// was not taken). `sink` gets the cookie to continue *after* the entry, the entry, and its name.
    pub fn read(
        &self,
        ino: InodeNumber,
        dir: &Inode,
        cookie: u64,
        sink: &mut dyn FnMut(u64, Entry, &[u8]) -> bool,
    ) -> Result<()> {
        let dir = Dir::new(self, ino, dir);
        if cookie == 0 && dir.blocks() > 1 {
            self.read_ahead(ino, dir.inode, READ_AHEAD);
        }
        cursor::read(&dir, cookie, sink)
    }

    /// Has the first blocks of a directory read in the background, where its inode says where they are.
    pub fn read_ahead(&self, ino: InodeNumber, dir: &Inode, blocks: u32) {
        if dir.has_flag(flag::INLINE_DATA) || !self.map.is_in_inode(dir) {
            return;
        }
        let found = self.map.lookup(ino, dir, FileBlock::ZERO, blocks);
        if let Ok(segment) = found
            && let Mapping::Written(first) = segment.mapping
        {
            self.cache.prefetch_later(first, segment.len);
        }
    }

    /// Credits for one `insert` in the worst case (splits, tree growth), or for `create`, without the directory's inode.
    pub fn insert_credits(&self, dir: &Inode) -> u32 {
        split::insert_credits(self, dir)
    }

    /// Credits for `remove` and `replace`.
    pub const CHANGE_CREDITS: u32 = 1;
}

fn is_dots(name: &[u8]) -> bool {
    matches!(name, b"." | b"..")
}

fn is_indexed(geo: &Geometry, inode: &Inode) -> bool {
    inode.has_flag(flag::INDEX) && geo.features.has_compat(compat::DIR_INDEX)
}

/// Finds a name's entry: "." and ".." in the first block, others through the index if there is a usable one.
fn find<'a>(dir: &Dir<'a>, name: &[u8]) -> Result<Option<Place>> {
    if is_dots(name) {
        return linear::find(dir, name, 1);
    }
    if is_indexed(dir.geo(), dir.inode) {
        match index::find(dir, name) {
            Err(error) if index::is_bad_index(&error) => {
                log::warn!(
                    "looking through directory {} block by block: {error}",
                    dir.ino
                );
            }
            done => return done,
        }
    }
    linear::find(dir, name, u32::MAX)
}

fn check_name(name: &[u8]) -> Result<()> {
    match name.len() {
        0 => Err(Posix::NoEnt.into()),
        1..=dirent::NAME_MAX => Ok(()),
        _ => Err(Posix::NameTooLong.into()),
    }
}

fn refuse_inline(inode: &Inode) -> Result<()> {
    if inode.has_flag(flag::INLINE_DATA) {
        Err(Posix::OpNotSupp.into())
    } else {
        Ok(())
    }
}

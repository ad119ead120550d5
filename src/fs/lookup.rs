//! Finding names, attributes, link targets and totals.
//!
//! Source: POSIX stat, readlink, statvfs.
//! Invariants: reads take the inode lock shared and open no handle.

use crate::canary::{Canary, canary};
use crate::error::{CorruptKind, Error, Location, Posix, Result, Structure};
use crate::format::checksum::BlockKind;
use crate::format::inode::Inode;
use crate::fs::{Attr, Fs, check_name, need};
use crate::ids::{FileBlock, InodeNumber};
use crate::map::Mapping;

/// Totals of the file system; blocks of `block_size` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatFs {
    pub block_size: u32,
    pub blocks: u64,
    pub free: u64,
    /// Free for anybody but root.
    pub available: u64,
    pub files: u64,
    pub free_files: u64,
    pub name_max: u32,
}

impl Fs {
    /// The inode that a name leads to; counts a lookup of it.
    pub fn lookup(&self, parent: InodeNumber, name: &[u8]) -> Result<Attr> {
        check_name(name)?;
        let _token = self.memory.request(need::LOOKUP)?;
        let dir = self.directory(parent)?;
        // The name keeps the inode from being freed, and its number from being another's, until the lookup is counted.
        let shared = dir.lock.read();
        let entry = {
            let core = dir.core.read();
            self.dirs
                .lookup(parent, &core, name)?
                .ok_or(Error::Posix(Posix::NoEnt))?
        };
        let _shared = (!canary(Canary::LookupUnlocked)).then_some(shared);
        let attr = self.attr_of(entry.ino)?;
        self.known.look_up(entry.ino)?;
        Ok(attr)
    }

    pub fn getattr(&self, ino: InodeNumber) -> Result<Attr> {
        let _token = self.memory.request(need::GETATTR)?;
        self.attr_of(ino)
    }

    pub(crate) fn attr_of(&self, ino: InodeNumber) -> Result<Attr> {
        let node = self.node(ino)?;
        let core = node.core.read();
        Ok(Attr::of(&node, &core, self.geo.block_size))
    }

    /// The target of a symbolic link.
    pub fn readlink(&self, ino: InodeNumber) -> Result<Vec<u8>> {
        let _token = self.memory.request(need::LOOKUP)?;
        let node = self.node(ino)?;
        let _shared = node.lock.read();
        let core = node.core.read();
        if !core.is_symlink() {
            return Err(Posix::Inval.into());
        }
        self.link_target(ino, &core)
    }

    fn link_target(&self, ino: InodeNumber, inode: &Inode) -> Result<Vec<u8>> {
        let corrupt = || {
            let kind = CorruptKind::Field {
                what: Structure::Symlink,
                field: "i_size",
                found: inode.size,
            };
            Error::corrupt(kind, Location::inode(ino))
        };
        let length = usize::try_from(inode.size).map_err(|_| corrupt())?;
        if length == 0 || length >= self.geo.block_size as usize {
            return Err(corrupt());
        }
        if inode.is_fast_symlink(&self.geo) {
            return Ok(inode.block.get(..length).ok_or_else(corrupt)?.to_vec());
        }
        if let Some(inline) = self.xattrs.inline_data(ino, inode)? {
            return Ok(inline.get(..length).ok_or_else(corrupt)?.to_vec());
        }
        let segment = self.files.map.lookup(ino, inode, FileBlock::ZERO, 1)?;
        let Mapping::Written(block) = segment.mapping else {
            return Err(corrupt());
        };
        let buffer = self.cache.read(block, BlockKind::Plain)?;
        let bytes = buffer.snapshot();
        Ok(bytes.get(..length).ok_or_else(corrupt)?.to_vec())
    }

    pub fn statfs(&self) -> StatFs {
        let counts = self.alloc.counts();
        let free = counts.free_blocks.saturating_sub(counts.claimed_blocks);
        let available = free.saturating_sub(self.superblock.reserved_blocks());
        StatFs {
            block_size: self.geo.block_size,
            blocks: self
                .geo
                .blocks_count
                .saturating_sub(self.superblock.overhead()),
            free,
            available,
            files: u64::from(self.geo.inodes_count),
            free_files: counts.free_inodes,
            name_max: 255,
        }
    }
}

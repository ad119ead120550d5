//! Reads and writes inodes in the inode tables.
//!
//! Source: the kernel's ext4 documentation, "Index Nodes", "Inode Table".
//! Invariants: `i_dtime` changes through `set_dtime` alone, since it links the orphan list while an inode is on it; bytes that
//! are not ours (attributes, unknown fields) survive `write`.

use crate::alloc::Allocator;
use crate::cache::{BlockCache, BufferRef};
use crate::error::{CorruptKind, Error, Location, Posix, Result, Structure};
use crate::format::geometry::Geometry;
use crate::format::inode::{self, Inode};
use crate::format::raw::{le32, put_le32};
use crate::ids::InodeNumber;
use crate::journal::Handle;
use std::sync::Arc;

/// Table blocks read together when one is missing.
const READAHEAD: u32 = 32;
const DTIME_AT: usize = 0x14;

/// Reads and writes inodes in the inode tables.
pub struct InodeStore {
    cache: Arc<BlockCache>,
    alloc: Arc<Allocator>,
}

impl InodeStore {
    pub fn new(cache: Arc<BlockCache>, alloc: Arc<Allocator>) -> Self {
        Self { cache, alloc }
    }

    /// The inode, its checksum verified. Stale when nothing was ever there or it was freed.
    pub fn read(&self, ino: InodeNumber) -> Result<Inode> {
        let (buffer, at) = self.locate(ino)?;
        let bytes = buffer.snapshot();
        let slot = &bytes[at..at + self.inode_size()];
        // Type, links: a slot that never held an inode has neither, nor a checksum.
        if slot.iter().all(|&byte| byte == 0) {
            return Err(Posix::Stale.into());
        }
        let inode = Inode::parse(slot, self.geo(), ino)
            .map_err(|error| error.located(Location::block(buffer.block())))?;
        let freed = inode.links_count == 0 && inode.mode == 0;
        if freed {
            Err(Posix::Stale.into())
        } else {
            Ok(inode)
        }
    }

    /// Writes the inode into its table block: 1 credit.
    pub fn write(&self, handle: &Handle<'_>, ino: InodeNumber, inode: &Inode) -> Result<()> {
        self.edit(handle, ino, &mut |slot| {
            let mut inode = inode.clone();
            inode.dtime = le32(slot, DTIME_AT);
            inode.write_to(slot, self.geo(), ino);
        })
    }

    /// The last state of an inode that is freed, its deletion time included. 1 credit.
    pub fn bury(&self, handle: &Handle<'_>, ino: InodeNumber, inode: &Inode) -> Result<()> {
        self.edit(handle, ino, &mut |slot| {
            inode.write_to(slot, self.geo(), ino);
        })
    }

    /// A new inode: zeroes its slot first. 1 credit.
    pub fn create(&self, handle: &Handle<'_>, ino: InodeNumber, inode: &Inode) -> Result<()> {
        self.edit(handle, ino, &mut |slot| {
            slot.fill(0);
            inode.write_to(slot, self.geo(), ino);
        })
    }

    /// The deletion time, or the next inode of the orphan list. 1 credit.
    pub fn set_dtime(&self, handle: &Handle<'_>, ino: InodeNumber, dtime: u32) -> Result<()> {
        self.edit(handle, ino, &mut |slot| put_le32(slot, DTIME_AT, dtime))
    }

    /// The table block of an inode and the byte offset of the inode in it (for in-inode attributes).
    pub fn locate(&self, ino: InodeNumber) -> Result<(BufferRef, usize)> {
        let geo = self.geo();
        let (group, index) = geo.inode_place(ino)?;
        let table = self.alloc.inode_table_block(group)?;
        let number = index / geo.inodes_per_block;
        let at = (index % geo.inodes_per_block * geo.inode_size) as usize;
        let block = table.checked_add(u64::from(number)).ok_or_else(|| {
            let kind = CorruptKind::BlockRange {
                what: Structure::GroupDescriptor,
                block: u64::MAX,
            };
            Error::corrupt(kind, Location::group(group))
        })?;
        if self.cache.cached(block).is_none() {
            // `prefetch` stops at the first block that is here: it starts behind the last of those.
            let end = geo
                .itable_blocks
                .min(number - number % READAHEAD + READAHEAD);
            let missing = |n: &u32| {
                let neighbour = table.checked_add(u64::from(*n));
                neighbour.is_some_and(|block| self.cache.cached(block).is_none())
            };
            let before = (number - number % READAHEAD..number)
                .rev()
                .take_while(missing)
                .count();
            let first = number - before as u32;
            if let Some(at) = table.checked_add(u64::from(first)) {
                self.cache.prefetch(at, end.saturating_sub(first));
            }
        }
        let first = geo.inode_number(group, number * geo.inodes_per_block);
        let sound = |bytes: &[u8]| inode::all_sound(bytes, geo, first);
        Ok((self.cache.read_shared(block, &sound)?, at))
    }

    /// Runs `change` on the inode's raw bytes in the table and stamps the checksum. 1 credit.
    pub fn edit(
        &self,
        handle: &Handle<'_>,
        ino: InodeNumber,
        change: &mut dyn FnMut(&mut [u8]),
    ) -> Result<()> {
        let (buffer, at) = self.locate(ino)?;
        let mut bytes = handle.write(&buffer)?;
        let slot = &mut bytes[at..at + self.inode_size()];
        change(slot);
        inode::stamp_checksum(slot, self.geo(), ino);
        Ok(())
    }

    fn geo(&self) -> &Geometry {
        self.cache.geometry()
    }

    fn inode_size(&self) -> usize {
        self.geo().inode_size as usize
    }
}

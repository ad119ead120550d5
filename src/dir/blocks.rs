//! A directory as a row of blocks: reading them, and adding new ones all or none.
//!
//! Source: the kernel's ext4 documentation, "Directory Entries", "Inline Data".
//! Invariants: every block is read as the directory's own kind, so its checksum has been verified; when blocks
//! cannot be had, the directory's inode, its map and the bitmaps are as before.

use crate::cache::{BufferRef, Snapshot};
use crate::dir::{Directories, inline};
use crate::error::{CorruptKind, Error, Location, Posix, Result, Structure};
use crate::format::checksum::BlockKind;
use crate::format::dirent;
use crate::format::features::incompat;
use crate::format::geometry::Geometry;
use crate::format::inode::{Inode, flag};
use crate::ids::{FileBlock, FsBlock, InodeNumber};
use crate::journal::Handle;
use crate::map::{Map, Mapping};
use std::ops::Deref;

/// The most blocks that one insert adds: a leaf and two index nodes.
pub(super) const MAX_NEW: usize = 3;

/// A directory during one operation.
#[derive(Clone, Copy)]
pub(super) struct Dir<'a> {
    pub(super) dirs: &'a Directories,
    pub(super) ino: InodeNumber,
    pub(super) inode: &'a Inode,
    kind: BlockKind,
}

/// The bytes of one block, or of one part of an inline directory.
pub(super) enum Page {
    Block(Snapshot),
    Inline(Vec<u8>),
}

impl Deref for Page {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Block(bytes) => bytes,
            Self::Inline(bytes) => bytes,
        }
    }
}

impl<'a> Dir<'a> {
    pub(super) fn new(dirs: &'a Directories, ino: InodeNumber, inode: &'a Inode) -> Self {
        let kind = kind_of(dirs.geo(), ino, inode);
        Self {
            dirs,
            ino,
            inode,
            kind,
        }
    }

    pub(super) fn geo(&self) -> &'a Geometry {
        self.dirs.geo()
    }

    pub(super) fn is_inline(&self) -> bool {
        self.inode.has_flag(flag::INLINE_DATA)
    }

    /// Blocks, or parts of an inline directory.
    pub(super) fn blocks(&self) -> u32 {
        if self.is_inline() {
            inline::PARTS
        } else {
            block_count(self.geo(), self.inode)
        }
    }

    /// The contents of a block; `None` for a hole.
    pub(super) fn page(&self, at: FileBlock) -> Result<Option<Page>> {
        if self.is_inline() {
            return inline::part(self, at).map(|bytes| Some(Page::Inline(bytes)));
        }
        Ok(self.read(at)?.map(|buffer| Page::Block(buffer.snapshot())))
    }

    /// What ".." points to, if there is such an entry.
    pub(super) fn parent(&self) -> Result<Option<InodeNumber>> {
        let raw = match self.is_inline() {
            true => Some(inline::parent(self.inode)),
            false => match self.page(FileBlock::ZERO)? {
                Some(page) => dirent::find(&page, self.geo(), b"..")
                    .map_err(|error| self.locate_at(error, FileBlock::ZERO))?
                    .map(|found| found.ino),
                None => None,
            },
        };
        Ok(raw
            .filter(|&ino| ino != 0 && ino <= self.geo().inodes_count)
            .map(InodeNumber::new))
    }

    /// A block's buffer; `None` for a hole.
    pub(super) fn read(&self, at: FileBlock) -> Result<Option<BufferRef>> {
        match self.dirs.map.lookup(self.ino, self.inode, at, 1)?.mapping {
            Mapping::Written(block) => {
                let here = Location::inode(self.ino).with_block(block);
                self.dirs
                    .cache
                    .read(block, self.kind)
                    .map(Some)
                    .map_err(|error| error.located(here))
            }
            Mapping::Hole | Mapping::Unwritten(_) | Mapping::Delayed => Ok(None),
        }
    }

    /// A block's buffer, where a hole is corruption.
    pub(super) fn require(&self, at: FileBlock) -> Result<BufferRef> {
        self.read(at)?.ok_or_else(|| {
            let what = Structure::DirectoryBlock;
            let kind = CorruptKind::Field {
                what,
                field: "hole at block",
                found: at.get().into(),
            };
            Error::corrupt(kind, Location::inode(self.ino))
        })
    }

    /// Adds to an error of a parser where this block lies.
    pub(super) fn locate(&self, error: Error, buffer: &BufferRef) -> Error {
        error.located(Location::inode(self.ino).with_block(buffer.block()))
    }
}

impl Dir<'_> {
    /// The same for a block by its place in the directory.
    pub(super) fn locate_at(&self, error: Error, at: FileBlock) -> Error {
        let mut here = Location::inode(self.ino);
        if !self.is_inline()
            && let Ok(segment) = self.dirs.map.lookup(self.ino, self.inode, at, 1)
            && let Mapping::Written(block) = segment.mapping
        {
            here = here.with_block(block);
        }
        error.located(here)
    }
}

fn kind_of(geo: &Geometry, ino: InodeNumber, inode: &Inode) -> BlockKind {
    BlockKind::Directory {
        seed: inode.csum_seed(geo, ino),
    }
}

pub(super) fn block_count(geo: &Geometry, inode: &Inode) -> u32 {
    u32::try_from(inode.size >> geo.block_bits).unwrap_or(u32::MAX)
}

/// A block that was just added to a directory: zeros in memory.
pub(super) struct NewBlock {
    pub(super) at: FileBlock,
    pub(super) buffer: BufferRef,
}

/// Blocks added by `append`, handed out one by one.
pub(super) struct NewBlocks {
    blocks: [Option<NewBlock>; MAX_NEW],
}

impl NewBlocks {
    /// The next one. There are as many as were asked for.
    pub(super) fn take(&mut self) -> Result<NewBlock> {
        self.blocks
            .iter_mut()
            .find_map(Option::take)
            .ok_or_else(|| Posix::NoSpc.into())
    }
}

/// Adds `count` (at most `MAX_NEW`) blocks at the end. All or none: on an error the directory is as it was.
pub(super) fn append(
    dirs: &Directories,
    handle: &Handle<'_>,
    ino: InodeNumber,
    inode: &mut Inode,
    count: usize,
) -> Result<NewBlocks> {
    let geo = dirs.geo();
    let first = block_count(geo, inode);
    check_growth(geo, inode, count)?;
    let mut found = [FsBlock::ZERO; MAX_NEW];
    let mut goal = dirs.map.goal(ino, inode, FileBlock::new(first));
    for got in 0..count {
        match dirs.alloc.new_meta_block(handle, ino, goal, true) {
            Ok(block) => {
                found[got] = block;
                goal = block.checked_add(1).unwrap_or(block);
            }
            Err(error) => {
                give_back(dirs, handle, &found[..got]);
                return Err(error);
            }
        }
    }
    map_all(dirs, handle, ino, inode, first, &found[..count])?;
    inode.size += (count as u64) << geo.block_bits;
    let kind = kind_of(geo, ino, inode);
    let fresh = |index: usize| {
        let at = FileBlock::new(first + u32::try_from(index).ok()?);
        (index < count).then(|| NewBlock {
            at,
            buffer: dirs.cache.fresh(found[index], kind),
        })
    };
    Ok(NewBlocks {
        blocks: std::array::from_fn(fresh),
    })
}

/// Without large_dir a directory stays below 2 GiB; with it, its blocks must have numbers that index entries can hold.
fn check_growth(geo: &Geometry, inode: &Inode, count: usize) -> Result<()> {
    let blocks = u64::from(block_count(geo, inode)) + count as u64;
    let large = geo.features.has_incompat(incompat::LARGEDIR);
    if blocks > 0x0fff_ffff || (!large && blocks << geo.block_bits >= 1 << 31) {
        return Err(Posix::NoSpc.into());
    }
    Ok(())
}

/// Maps the blocks, run by run. On an error those that were mapped are unmapped, and all are freed.
fn map_all(
    dirs: &Directories,
    handle: &Handle<'_>,
    ino: InodeNumber,
    inode: &mut Inode,
    first: u32,
    found: &[FsBlock],
) -> Result<()> {
    let mut done = 0;
    while let Some(&start) = found.get(done) {
        let follows =
            |(index, block): &(u64, &FsBlock)| start.get().checked_add(*index) == Some(block.get());
        let run = (0_u64..).zip(&found[done..]).take_while(follows).count();
        let at = FileBlock::new(first + done as u32);
        if let Err(error) = dirs
            .map
            .insert(handle, ino, inode, at, start, run as u32, false)
        {
            give_back(dirs, handle, &found[done..]);
            if done > 0 {
                let mapped = FileBlock::new(first)..at;
                dirs.map.undo_insert(handle, ino, inode, mapped, true)?;
            }
            return Err(error);
        }
        done += run;
    }
    Ok(())
}

fn give_back(dirs: &Directories, handle: &Handle<'_>, blocks: &[FsBlock]) {
    for &block in blocks {
        if let Err(error) = dirs.alloc.free(handle, block, 1) {
            log::error!("a directory block that could not be used stays allocated: {error}");
        }
    }
}

/// Credits for `append` of `count` blocks: their bitmaps and descriptors; the map, where they follow each other, so that one
/// of them may split nodes and the others find room; and undoing it.
pub(super) fn append_credits(dirs: &Directories, inode: &Inode, count: u32) -> u32 {
    count * 3 + dirs.map.insert_credits(inode) + Map::UNDO
}

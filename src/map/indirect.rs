//! Block maps of ext2 and ext3: finding, inserting and removing block pointers.
//!
//! Source: the kernel's ext4 documentation, "Direct/Indirect Block Addressing".
//! Invariants: a walk ends after three indirect blocks; an indirect block that holds no pointer any more is freed
//! in the step that took its last one.

use super::{Mapping, Segment};
use crate::alloc::Allocator;
use crate::cache::{BlockCache, BufferRef, Snapshot};
use crate::error::{CorruptKind, Error, Location, Posix, Result, Structure};
use crate::format::checksum::BlockKind;
use crate::format::indirect::{self, DIRECT, SLOTS};
use crate::format::inode::Inode;
use crate::ids::{FileBlock, FsBlock, InodeNumber};
use crate::journal::Handle;

/// Blocks that one step frees.
const STEP_MAX: usize = 1024;

/// One inode's block map.
pub(super) struct Blocks<'a> {
    pub(super) cache: &'a BlockCache,
    pub(super) alloc: &'a Allocator,
    pub(super) ino: InodeNumber,
    pub(super) claim: super::Payment<'a>,
}

/// What one step of removing did below a pointer.
enum Step {
    /// Nothing of the range is mapped here.
    Nothing,
    /// Freed blocks from file block `start` on; `empty`: the indirect block holds no pointer any more.
    Freed { start: u64, empty: bool },
}

/// A range of file blocks that goes.
#[derive(Clone, Copy)]
struct Removal {
    from: u64,
    to: u64,
    meta: bool,
}

impl Blocks<'_> {
    pub(super) fn lookup(&self, inode: &Inode, at: u32, max_len: u32) -> Result<Segment> {
        let bits = self.bits();
        let Some(slot) = indirect::slot_of(at.into(), bits) else {
            return Ok(segment(at, u64::from(max_len), max_len, Mapping::Hole));
        };
        let mut held: Option<Snapshot> = None;
        let mut level = indirect::slot_level(slot);
        let mut offset = u64::from(at) - indirect::slot_start(slot, bits);
        let mut index = slot as usize;
        let mut slots = if level == 0 {
            DIRECT as usize
        } else {
            index + 1
        };
        loop {
            let bytes: &[u8] = held.as_ref().map_or(&inode.block, |bytes| bytes);
            let raw = indirect::pointer(bytes, index);
            if level == 0 {
                let run = run_forwards(bytes, index, slots, max_len);
                let mapping = match raw {
                    0 => Mapping::Hole,
                    _ => Mapping::Written(self.data_run(raw, run)?),
                };
                return Ok(segment(at, run.into(), max_len, mapping));
            }
            let span = indirect::span(level, bits);
            if raw == 0 {
                return Ok(segment(at, span - offset % span, max_len, Mapping::Hole));
            }
            held = Some(self.read(raw)?.snapshot());
            level -= 1;
            index = self.index(offset, level);
            offset %= span;
            slots = self.pointers();
        }
    }

    pub(super) fn goal(&self, inode: &Inode, at: u32) -> Result<Option<FsBlock>> {
        let Some(before) = at.checked_sub(1) else {
            return Ok(None);
        };
        Ok(match self.lookup(inode, before, 1)?.mapping {
            Mapping::Written(block) => block.checked_add(1),
            _ => None,
        })
    }

    /// Puts `start..start + len` at `at`, all holes. Indirect blocks are allocated before anything changes.
    pub(super) fn insert(
        &self,
        handle: &Handle<'_>,
        inode: &mut Inode,
        at: u32,
        start: FsBlock,
        len: u32,
    ) -> Result<()> {
        let end = u64::from(at) + u64::from(len);
        let first = u32::try_from(start.get()).map_err(|_| Posix::FBig)?;
        if end > indirect::end(self.bits()) || first.checked_add(len).is_none() {
            return Err(Posix::FBig.into());
        }
        let missing = self.missing(inode, at.into(), end)?;
        let mut pool = self.take_blocks(handle, inode, start, missing)?;
        let mut cursor = u64::from(at);
        let mut raw = first;
        while cursor < end {
            let (leaf, index, room) = self.leaf_to_fill(handle, inode, cursor, &mut pool)?;
            let count = (end - cursor).min(room);
            let fill = |bytes: &mut [u8]| {
                for (step, pointer) in (0..count as usize).zip(raw..) {
                    indirect::set_pointer(bytes, index + step, pointer);
                }
            };
            match &leaf {
                None => fill(&mut inode.block),
                Some(buffer) => fill(&mut handle.write(buffer)?),
            }
            cursor += count;
            raw += count as u32;
        }
        while let Some(block) = pool.pop() {
            self.give_back(handle, inode, block)?;
        }
        Ok(())
    }

    /// Indirect blocks that `at..end` lacks; an error where something is mapped already.
    fn missing(&self, inode: &Inode, at: u64, end: u64) -> Result<u32> {
        let bits = self.bits();
        let (mut cursor, mut missing) = (at, 0);
        while cursor < end {
            let slot = indirect::slot_of(cursor, bits).ok_or(Posix::FBig)?;
            let top = indirect::slot_level(slot);
            let offset = cursor - indirect::slot_start(slot, bits);
            let mut raw = indirect::pointer(&inode.block, slot as usize);
            for level in (1..=top).rev() {
                if raw != 0 {
                    raw = indirect::pointer(
                        &self.read(raw)?.snapshot(),
                        self.index(offset, level - 1),
                    );
                } else if cursor == at || offset.is_multiple_of(indirect::span(level, bits)) {
                    missing += 1;
                }
            }
            let room = self.room(offset, top).min(end - cursor);
            let here = u32::try_from(cursor).map_err(|_| Posix::FBig)?;
            let segment = self.lookup(inode, here, room as u32)?;
            if segment.mapping != Mapping::Hole || u64::from(segment.len) < room {
                return Err(self.out_of_range(raw));
            }
            cursor += room;
        }
        Ok(missing)
    }

    /// The indirect block (`None`: the inode) with the pointer of file block `at`, its index there and how many
    /// pointers follow with it; missing blocks on the way come from `pool`.
    fn leaf_to_fill(
        &self,
        handle: &Handle<'_>,
        inode: &mut Inode,
        at: u64,
        pool: &mut Vec<FsBlock>,
    ) -> Result<(Option<BufferRef>, usize, u64)> {
        let bits = self.bits();
        let slot = indirect::slot_of(at, bits).ok_or(Posix::FBig)?;
        let top = indirect::slot_level(slot);
        let offset = at - indirect::slot_start(slot, bits);
        let mut parent: Option<BufferRef> = None;
        let mut index = slot as usize;
        for level in (1..=top).rev() {
            let raw = match &parent {
                None => indirect::pointer(&inode.block, index),
                Some(buffer) => indirect::pointer(&buffer.snapshot(), index),
            };
            let buffer = if raw == 0 {
                let block = pool.pop().ok_or_else(|| self.out_of_range(raw))?;
                let raw = u32::try_from(block.get()).map_err(|_| Posix::FBig)?;
                let fresh = self.cache.fresh(block, BlockKind::Plain);
                drop(handle.write(&fresh)?);
                match &parent {
                    None => indirect::set_pointer(&mut inode.block, index, raw),
                    Some(buffer) => indirect::set_pointer(&mut handle.write(buffer)?, index, raw),
                }
                fresh
            } else {
                self.read(raw)?
            };
            parent = Some(buffer);
            index = self.index(offset, level - 1);
        }
        Ok((parent, index, self.room_at(at, slot)))
    }

    /// One step of `Map::remove`: the new end of the range, or `None` when nothing is left in it.
    pub(super) fn remove_step(
        &self,
        handle: &Handle<'_>,
        inode: &mut Inode,
        from: u32,
        to: u32,
        meta: bool,
    ) -> Result<Option<u32>> {
        let bits = self.bits();
        let removal = Removal {
            from: from.into(),
            to: to.into(),
            meta,
        };
        for slot in (0..SLOTS).rev() {
            let start = indirect::slot_start(slot, bits);
            let level = indirect::slot_level(slot);
            let end = start + indirect::span(level, bits);
            let raw = indirect::pointer(&inode.block, slot as usize);
            if raw == 0 || start >= removal.to || end <= removal.from {
                continue;
            }
            let step = if level == 0 {
                let lowest = removal.from as usize;
                let (first, len) = self.run_backwards(&inode.block, slot as usize, lowest, meta);
                self.free_data(handle, inode, first, len, meta)?;
                let low = slot as usize + 1 - len as usize;
                (low..=slot as usize).for_each(|at| indirect::set_pointer(&mut inode.block, at, 0));
                Step::Freed {
                    start: low as u64,
                    empty: false,
                }
            } else {
                self.remove_below(handle, inode, raw, level, start, removal)?
            };
            if let Step::Freed { start, empty } = step {
                if empty {
                    self.free_node(handle, inode, raw)?;
                    indirect::set_pointer(&mut inode.block, slot as usize, 0);
                }
                return Ok(u32::try_from(start).ok());
            }
        }
        Ok(None)
    }

    /// One step in the indirect block `raw` at `level`, whose first pointer leads to file block `base`.
    fn remove_below(
        &self,
        handle: &Handle<'_>,
        inode: &mut Inode,
        raw: u32,
        level: u32,
        base: u64,
        removal: Removal,
    ) -> Result<Step> {
        let bits = self.bits();
        let span = indirect::span(level - 1, bits);
        let buffer = self.read(raw)?;
        let bytes = buffer.snapshot();
        let end = base + indirect::span(level, bits);
        let low = (removal.from.saturating_sub(base) / span) as usize;
        let high = (removal.to.min(end) - base).div_ceil(span) as usize;
        for index in (low..high).rev() {
            let child = indirect::pointer(&bytes, index);
            if child == 0 {
                continue;
            }
            let (start, cleared) = if level == 1 {
                let (first, len) = self.run_backwards(&bytes, index, low, removal.meta);
                self.free_data(handle, inode, first, len, removal.meta)?;
                let lowest = index + 1 - len as usize;
                (base + lowest as u64, lowest..index + 1)
            } else {
                let child_base = base + index as u64 * span;
                match self.remove_below(handle, inode, child, level - 1, child_base, removal)? {
                    Step::Nothing => continue,
                    Step::Freed {
                        start,
                        empty: false,
                    } => {
                        return Ok(Step::Freed {
                            start,
                            empty: false,
                        });
                    }
                    Step::Freed { start, empty: true } => {
                        self.free_node(handle, inode, child)?;
                        (start, index..index + 1)
                    }
                }
            };
            let mut write = handle.write(&buffer)?;
            cleared.for_each(|at| indirect::set_pointer(&mut write, at, 0));
            let empty = write.iter().all(|&byte| byte == 0);
            return Ok(Step::Freed { start, empty });
        }
        let whole = base >= removal.from && end <= removal.to;
        if whole && bytes.iter().all(|&byte| byte == 0) {
            return Ok(Step::Freed {
                start: base,
                empty: true,
            });
        }
        Ok(Step::Nothing)
    }

    /// The contiguous run that ends with pointer `index`, as its first block and length; in one group, and its
    /// first pointer is not before `lowest`.
    fn run_backwards(&self, bytes: &[u8], index: usize, lowest: usize, meta: bool) -> (u32, u32) {
        let mut first = indirect::pointer(bytes, index);
        let mut len = 1;
        let group = |raw: u32| self.cache.geometry().group_of(FsBlock::new(raw.into())).0;
        let limit = if meta { STEP_MAX } else { usize::MAX };
        for index in (lowest..index).rev().take(limit - 1) {
            let raw = indirect::pointer(bytes, index);
            let valid = self
                .cache
                .geometry()
                .fs_block(raw.into(), Structure::IndirectBlock)
                .is_ok();
            if !valid || raw.checked_add(1) != Some(first) || group(raw) != group(first) {
                break;
            }
            first = raw;
            len += 1;
        }
        (first, len)
    }

    fn take_blocks(
        &self,
        handle: &Handle<'_>,
        inode: &mut Inode,
        goal: FsBlock,
        count: u32,
    ) -> Result<Vec<FsBlock>> {
        let mut pool = Vec::with_capacity(count as usize);
        for _ in 0..count {
            match super::new_block(self.alloc, handle, self.ino, goal, self.claim) {
                Ok(block) => {
                    inode.blocks = inode.blocks.saturating_add(self.sectors(1));
                    pool.push(block);
                }
                Err(error) => {
                    while let Some(block) = pool.pop() {
                        self.give_back(handle, inode, block)?;
                    }
                    return Err(error);
                }
            }
        }
        Ok(pool)
    }

    fn give_back(&self, handle: &Handle<'_>, inode: &mut Inode, block: FsBlock) -> Result<()> {
        inode.blocks = inode.blocks.saturating_sub(self.sectors(1));
        self.alloc.free(handle, block, 1)
    }

    fn free_data(
        &self,
        handle: &Handle<'_>,
        inode: &mut Inode,
        first: u32,
        len: u32,
        meta: bool,
    ) -> Result<()> {
        let start = self.data_run(first, len)?;
        super::free_data(self.alloc, handle, start, len, meta)?;
        inode.blocks = inode.blocks.saturating_sub(self.sectors(len));
        Ok(())
    }

    fn free_node(&self, handle: &Handle<'_>, inode: &mut Inode, raw: u32) -> Result<()> {
        self.free_data(handle, inode, raw, 1, true)
    }

    fn read(&self, raw: u32) -> Result<BufferRef> {
        let block = self.data_run(raw, 1)?;
        self.cache.read(block, BlockKind::Plain)
    }

    fn data_run(&self, raw: u32, len: u32) -> Result<FsBlock> {
        let geo = self.cache.geometry();
        let start = geo
            .fs_run(raw.into(), len.into(), Structure::IndirectBlock)
            .map_err(|error| error.located(Location::inode(self.ino)))?;
        if !self.alloc.is_data_run(start, len) {
            return Err(self.out_of_range(raw));
        }
        Ok(start)
    }

    fn out_of_range(&self, raw: u32) -> Error {
        let kind = CorruptKind::BlockRange {
            what: Structure::IndirectBlock,
            block: raw.into(),
        };
        Error::corrupt(kind, Location::inode(self.ino))
    }

    /// Pointers from file block `at` to the end of those that lie together with its pointer.
    fn room_at(&self, at: u64, slot: u32) -> u64 {
        let offset = at - indirect::slot_start(slot, self.bits());
        match indirect::slot_level(slot) {
            0 => u64::from(DIRECT - slot),
            top => self.room(offset, top),
        }
    }

    fn room(&self, offset: u64, top: u32) -> u64 {
        match top {
            0 => 1,
            _ => self.pointers() as u64 - offset % self.pointers() as u64,
        }
    }

    /// The pointer of the file block at `offset` in a block whose pointers span `span(level)` each.
    fn index(&self, offset: u64, level: u32) -> usize {
        ((offset / indirect::span(level, self.bits())) % self.pointers() as u64) as usize
    }

    fn pointers(&self) -> usize {
        1 << indirect::pointer_bits(self.bits())
    }

    fn bits(&self) -> u32 {
        self.cache.geometry().block_bits
    }

    fn sectors(&self, blocks: u32) -> u64 {
        super::sectors(self.cache.geometry(), blocks)
    }
}

/// How many pointers from `index` on, below `slots`, continue each other (or are all holes), at most `max`.
fn run_forwards(bytes: &[u8], index: usize, slots: usize, max: u32) -> u32 {
    let first = indirect::pointer(bytes, index);
    let mut run = 1;
    while run < max && index + (run as usize) < slots {
        let expected = if first == 0 {
            Some(0)
        } else {
            first.checked_add(run)
        };
        if expected != Some(indirect::pointer(bytes, index + run as usize)) {
            break;
        }
        run += 1;
    }
    run
}

fn segment(at: u32, len: u64, max_len: u32, mapping: Mapping) -> Segment {
    let len = len.clamp(1, max_len.max(1).into());
    Segment {
        start: FileBlock::new(at),
        len: len as u32,
        mapping,
    }
}

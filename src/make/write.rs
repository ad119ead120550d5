//! Writing a plan: tables, files, bitmaps, descriptors, then the superblocks.
//!
//! Source: the kernel's ext4 documentation, "Layout", "Block Group Descriptors" (the UNINIT flags).
//! Invariants: every inode table is zeroed, so `INODE_ZEROED` is true; the primary superblock goes last, behind
//! a sync of everything else.

use super::numbers::has_super;
use super::plan::{FilePlace, MapKind};
use super::space::Run;
use super::superblock::ORPHAN_FILE_INO;
use super::{MakeError, Plan, resize, superblock, tree};
use crate::device::Device;
use crate::error::Result;
use crate::format::checksum::{self, BlockKind};
use crate::format::dirent;
use crate::format::geometry::Geometry;
use crate::format::group::{self, GroupDesc};
use crate::format::inode::{self, Inode, mode};
use crate::format::jbd2::JournalSuperblock;
use crate::format::raw::put_le32;
use crate::format::superblock::Superblock;
use crate::format::time::Timestamp;
use crate::ids::{FsBlock, GroupIndex, InodeNumber};
use std::cell::Cell;

/// What may hold the signature of an older volume: the first MiB and the last 64 KiB.
const WIPE_HEAD: u64 = 1 << 20;
const WIPE_TAIL: u64 = 64 << 10;
const BAD_BLOCKS: InodeNumber = InodeNumber::new(1);
const LOST_FOUND: InodeNumber = InodeNumber::new(11);
const ORPHAN_MAGIC: u32 = 0x0b10_ca04;
const DIRECTORY_TYPE: u8 = 2;

/// Writes the file system; the device must be at least `plan.len()` bytes long. Durable when it returns.
pub fn write(plan: &Plan, device: &dyn Device) -> Result<(), MakeError> {
    plan.check_device(device)?;
    let geo = Superblock::parse(&superblock::bytes(plan, 0, 0))?.geometry(plan.len())?;
    let writer = Writer {
        plan,
        device,
        geo,
        written: Cell::new(0),
    };
    writer.wipe()?;
    writer.zero_inode_tables()?;
    writer.files()?;
    let descriptors = writer.groups()?;
    writer.superblocks(&descriptors)?;
    Ok(())
}

struct Writer<'a> {
    plan: &'a Plan,
    device: &'a dyn Device,
    geo: Geometry,
    /// Bytes, without zeroes.
    written: Cell<u64>,
}

impl Writer<'_> {
    fn wipe(&self) -> Result<()> {
        let len = self.device.len();
        self.device.write_zeroes(0, WIPE_HEAD.min(len))?;
        let tail = len.saturating_sub(WIPE_TAIL);
        self.device.write_zeroes(tail, len - tail)
    }

    fn zero_inode_tables(&self) -> Result<()> {
        let len = u64::from(self.plan.numbers.itable_blocks);
        let mut pending: Option<Run> = None;
        for place in &self.plan.groups {
            pending = match pending {
                Some(run) if run.end() == place.inode_table => Some(Run {
                    len: run.len + len,
                    ..run
                }),
                Some(run) => {
                    self.zero(run)?;
                    Some(Run {
                        start: place.inode_table,
                        len,
                    })
                }
                None => Some(Run {
                    start: place.inode_table,
                    len,
                }),
            };
        }
        pending.map_or(Ok(()), |run| self.zero(run))
    }

    fn files(&self) -> Result<()> {
        let bad_blocks = Inode {
            extra_isize: 0,
            crtime: None,
            ..self.inode(0, 0, 0, 0)
        };
        self.put_inode(BAD_BLOCKS, &bad_blocks)?;
        self.root()?;
        self.lost_found()?;
        self.resize_inode()?;
        if let Some(journal) = &self.plan.journal {
            self.journal(journal)?;
        }
        if let Some(orphan) = &self.plan.orphan_file {
            self.orphan_file(orphan)?;
        }
        Ok(())
    }

    fn root(&self) -> Result<()> {
        let place = &self.plan.root;
        let inode = self.file_inode(place, mode::DIR | 0o755, 3);
        let mut block = self.zeroed_block();
        dirent::init_first(
            &mut block,
            &self.geo,
            InodeNumber::ROOT.get(),
            InodeNumber::ROOT.get(),
            DIRECTORY_TYPE,
        );
        if let Some(slot) = dirent::room(&block, &self.geo, b"lost+found".len())? {
            dirent::insert(
                &mut block,
                &self.geo,
                slot,
                b"lost+found",
                LOST_FOUND.get(),
                DIRECTORY_TYPE,
            );
        }
        self.directory_block(&inode, InodeNumber::ROOT, place, 0, &mut block)?;
        self.put_file(InodeNumber::ROOT, &inode, place)
    }

    fn lost_found(&self) -> Result<()> {
        let place = &self.plan.lost_found;
        let inode = self.file_inode(place, mode::DIR | 0o700, 2);
        let mut block = self.zeroed_block();
        dirent::init_first(
            &mut block,
            &self.geo,
            LOST_FOUND.get(),
            InodeNumber::ROOT.get(),
            DIRECTORY_TYPE,
        );
        self.directory_block(&inode, LOST_FOUND, place, 0, &mut block)?;
        for index in 1..place.blocks() {
            let mut block = self.zeroed_block();
            dirent::init_empty(&mut block, &self.geo);
            self.directory_block(&inode, LOST_FOUND, place, index, &mut block)?;
        }
        self.put_file(LOST_FOUND, &inode, place)
    }

    fn directory_block(
        &self,
        inode: &Inode,
        ino: InodeNumber,
        place: &FilePlace,
        index: u64,
        bytes: &mut [u8],
    ) -> Result<()> {
        let block = place.block(index);
        let seed = inode.csum_seed(&self.geo, ino);
        checksum::stamp(
            BlockKind::Directory { seed },
            &self.geo,
            FsBlock::new(block),
            bytes,
        );
        self.put_block(block, bytes)
    }

    /// Exists even when nothing is reserved, so that the number is never taken for something else.
    fn resize_inode(&self) -> Result<()> {
        let Some(double) = self.plan.resize_block else {
            return Ok(());
        };
        for block in resize::map_blocks(self.plan) {
            self.put_block(block.block, &block.bytes)?;
        }
        let mut inode = self.inode(
            mode::REG | 0o600,
            1,
            resize::size(self.plan),
            resize::blocks(self.plan),
        );
        put_le32(&mut inode.block, resize::DOUBLE_INDIRECT * 4, double as u32);
        self.put_inode(InodeNumber::RESIZE, &inode)
    }

    fn journal(&self, place: &FilePlace) -> Result<()> {
        for &run in &place.runs {
            self.zero(run)?;
        }
        let numbers = &self.plan.numbers;
        let journal =
            JournalSuperblock::new(numbers.block_size, numbers.journal_blocks, self.plan.uuid);
        let mut block = self.zeroed_block();
        let bytes = journal.to_bytes();
        block[..bytes.len()].copy_from_slice(&bytes);
        self.put_block(place.block(0), &block)?;
        let inode = self.file_inode(place, mode::REG | 0o600, 1);
        self.put_file(InodeNumber::JOURNAL, &inode, place)
    }

    fn orphan_file(&self, place: &FilePlace) -> Result<()> {
        let ino = InodeNumber::new(ORPHAN_FILE_INO);
        let inode = self.file_inode(place, mode::REG | 0o600, 1);
        let seed = inode.csum_seed(&self.geo, ino);
        for index in 0..place.blocks() {
            let mut block = self.zeroed_block();
            let tail = block.len() - 8;
            put_le32(&mut block, tail, ORPHAN_MAGIC);
            let number = place.block(index);
            checksum::stamp(
                BlockKind::OrphanFile { seed },
                &self.geo,
                FsBlock::new(number),
                &mut block,
            );
            self.put_block(number, &block)?;
        }
        self.put_file(ino, &inode, place)
    }

    /// The bitmaps; returns the descriptor table.
    fn groups(&self) -> Result<Vec<u8>> {
        let numbers = &self.plan.numbers;
        let desc_size = numbers.desc_size as usize;
        let mut table = vec![0u8; numbers.desc_blocks as usize * numbers.block_size as usize];
        for (index, bytes) in (0..numbers.group_count).zip(table.chunks_exact_mut(desc_size)) {
            let desc = self.group(index)?;
            desc.write_to(bytes, &self.geo, GroupIndex::new(index));
        }
        Ok(table)
    }

    /// One group's bitmaps, where something must be written, and its descriptor.
    fn group(&self, index: u32) -> Result<GroupDesc> {
        let numbers = &self.plan.numbers;
        let place = self.plan.groups[index as usize];
        let lazy = self.geo.features.group_csum();
        let used_inodes = if index == 0 {
            self.plan.used_inodes()
        } else {
            0
        };
        let free_inodes = numbers.inodes_per_group - used_inodes;
        let mut desc = GroupDesc {
            block_bitmap: FsBlock::new(place.block_bitmap),
            inode_bitmap: FsBlock::new(place.inode_bitmap),
            inode_table: FsBlock::new(place.inode_table),
            free_blocks: self.plan.group_free_blocks(index) as u32,
            free_inodes,
            used_dirs: if index == 0 { 2 } else { 0 },
            flags: 0,
            block_bitmap_csum: 0,
            inode_bitmap_csum: 0,
            itable_unused: if lazy { free_inodes } else { 0 },
        };
        if lazy {
            desc.flags |= group::flag::INODE_ZEROED;
        }
        if lazy && self.plan.block_bitmap_implied(index) {
            desc.flags |= group::flag::BLOCK_UNINIT;
        } else {
            let bitmap = self.block_bitmap(index);
            desc.block_bitmap_csum = checksum::block_bitmap(&self.geo, &bitmap);
            self.put_block(place.block_bitmap, &bitmap)?;
        }
        if lazy && used_inodes == 0 {
            desc.flags |= group::flag::INODE_UNINIT;
        } else {
            let mut bitmap = self.zeroed_block();
            set_bits(&mut bitmap, 0..used_inodes as usize);
            let bits = bitmap.len() * 8;
            set_bits(&mut bitmap, numbers.inodes_per_group as usize..bits);
            desc.inode_bitmap_csum = checksum::inode_bitmap(&self.geo, &bitmap);
            self.put_block(place.inode_bitmap, &bitmap)?;
        }
        Ok(desc)
    }

    fn block_bitmap(&self, index: u32) -> Vec<u8> {
        let numbers = &self.plan.numbers;
        let first = numbers.group_first_block(index);
        let mut bitmap = self.zeroed_block();
        for run in self.plan.used_runs(index) {
            let start = (run.start - first) as usize;
            set_bits(&mut bitmap, start..start + run.len as usize);
        }
        let bits = bitmap.len() * 8;
        set_bits(&mut bitmap, numbers.group_blocks(index) as usize..bits);
        bitmap
    }

    fn superblocks(&self, descriptors: &[u8]) -> Result<()> {
        let numbers = &self.plan.numbers;
        let block_size = u64::from(numbers.block_size);
        for group in (0..numbers.group_count).filter(|&group| has_super(group)) {
            let block = numbers.group_first_block(group);
            self.put((block + 1) * block_size, descriptors)?;
            if group > 0 {
                let bytes = superblock::bytes(self.plan, self.kbytes(), group);
                self.put(block * block_size, &bytes)?;
            }
        }
        self.device.sync()?;
        self.put(
            crate::format::superblock::OFFSET,
            &superblock::bytes(self.plan, self.kbytes(), 0),
        )?;
        self.device.sync()
    }

    /// An inode that lies as `place` says.
    fn file_inode(&self, place: &FilePlace, mode: u16, links_count: u16) -> Inode {
        let size = place.blocks() * u64::from(self.plan.numbers.block_size);
        let blocks = place.blocks() + place.map_blocks.len() as u64;
        let mut inode = self.inode(mode, links_count, size, blocks);
        if place.kind == MapKind::Extents {
            inode.flags = inode::flag::EXTENTS;
        }
        inode.block = tree::root(place, self.plan.numbers.block_size as usize);
        inode
    }

    /// `blocks` in blocks of the file system.
    fn inode(&self, mode: u16, links_count: u16, size: u64, blocks: u64) -> Inode {
        let time = Timestamp {
            nanoseconds: 0,
            ..self.plan.time
        };
        let large = self.plan.numbers.inode_size > 128;
        Inode {
            mode,
            uid: 0,
            gid: 0,
            size,
            atime: time,
            ctime: time,
            mtime: time,
            crtime: large.then_some(time),
            dtime: 0,
            links_count,
            blocks: blocks * u64::from(self.plan.numbers.block_size / 512),
            flags: 0,
            version: 0,
            block: [0; 60],
            generation: 0,
            file_acl: 0,
            extra_isize: if large { 32 } else { 0 },
            projid: 0,
        }
    }

    /// The inode and the blocks that map it.
    fn put_file(&self, ino: InodeNumber, inode: &Inode, place: &FilePlace) -> Result<()> {
        for mut node in tree::nodes(place, self.plan.numbers.block_size as usize) {
            if place.kind == MapKind::Extents {
                let seed = inode.csum_seed(&self.geo, ino);
                let kind = BlockKind::ExtentNode { seed };
                checksum::stamp(kind, &self.geo, FsBlock::new(node.block), &mut node.bytes);
            }
            self.put_block(node.block, &node.bytes)?;
        }
        self.put_inode(ino, inode)
    }

    /// All inodes that exist are in the first group.
    fn put_inode(&self, ino: InodeNumber, inode: &Inode) -> Result<()> {
        let numbers = &self.plan.numbers;
        let mut bytes = vec![0u8; numbers.inode_size as usize];
        inode.write_to(&mut bytes, &self.geo, ino);
        let table = self.plan.groups[0].inode_table * u64::from(numbers.block_size);
        self.put(
            table + u64::from(ino.get() - 1) * u64::from(numbers.inode_size),
            &bytes,
        )
    }

    fn put_block(&self, block: u64, bytes: &[u8]) -> Result<()> {
        self.put(block * u64::from(self.plan.numbers.block_size), bytes)
    }

    fn put(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.written.set(self.written.get() + bytes.len() as u64);
        self.device.write_at(offset, bytes)
    }

    fn zero(&self, run: Run) -> Result<()> {
        let block_size = u64::from(self.plan.numbers.block_size);
        self.device
            .write_zeroes(run.start * block_size, run.len * block_size)
    }

    fn kbytes(&self) -> u64 {
        self.written.get() >> 10
    }

    fn zeroed_block(&self) -> Vec<u8> {
        vec![0u8; self.plan.numbers.block_size as usize]
    }
}

fn set_bits(bitmap: &mut [u8], range: std::ops::Range<usize>) {
    use bitvec::prelude::{BitSlice, Lsb0};
    if !range.is_empty() {
        BitSlice::<u8, Lsb0>::from_slice_mut(bitmap)[range].fill(true);
    }
}

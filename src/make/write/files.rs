//! Writing the files that a new file system has: directories, journal, quotas and what else has an inode.
//!
//! Source: the kernel's ext4 documentation, "Special inodes", "Directory Entries".
//! Invariants: every inode is in the first group.

use super::super::plan::{FilePlace, MapKind, QuotaFile};
use super::super::{resize, tree};
use super::Writing;
use crate::error::Result;
use crate::format::checksum::{self, BlockKind};
use crate::format::dirent;
use crate::format::features::incompat;
use crate::format::inode::{self, Inode, mode};
use crate::format::jbd2::JournalSuperblock;
use crate::format::mmp::{Mmp, SEQ_CLEAN};
use crate::format::raw::put_le32;
use crate::format::time::Timestamp;
use crate::ids::{FsBlock, InodeNumber};

const BAD_BLOCKS: InodeNumber = InodeNumber::new(1);
const LOST_FOUND: InodeNumber = InodeNumber::new(11);
const ORPHAN_MAGIC: u32 = 0x0b10_ca04;
const DIRECTORY_TYPE: u8 = 2;
/// Where a journal's superblock says how long its area of fast commits is.
const NUM_FC_BLOCKS: usize = 0x54;

impl Writing<'_> {
    pub(super) fn files(&self) -> Result<()> {
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
        if let Some(block) = self.plan.mmp_block {
            self.mmp(block)?;
        }
        for quota in self.plan.quotas.iter().flatten() {
            self.quota(quota)?;
        }
        if let Some(orphan) = &self.plan.orphan_file {
            self.orphan_file(orphan)?;
        }
        Ok(())
    }

    fn root(&self) -> Result<()> {
        let place = &self.plan.root;
        let mut inode = self.file_inode(place, mode::DIR | 0o755, 3);
        (inode.uid, inode.gid) = self.plan.options.root_owner;
        let mut block = self.zeroed_block();
        dirent::init_first(
            &mut block,
            &self.geo,
            InodeNumber::ROOT.get(),
            InodeNumber::ROOT.get(),
            self.directory_type(),
        );
        if let Some(slot) = dirent::room(&block, &self.geo, b"lost+found".len())? {
            dirent::insert(
                &mut block,
                &self.geo,
                slot,
                b"lost+found",
                LOST_FOUND.get(),
                self.directory_type(),
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
            self.directory_type(),
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
        if !self.plan.options.lazy_journal_init {
            for &run in &place.runs {
                self.zero(run)?;
            }
        }
        let numbers = &self.plan.numbers;
        let journal = JournalSuperblock::new(
            numbers.block_size,
            numbers.journal_blocks,
            self.plan.options.uuid,
        );
        let mut block = self.zeroed_block();
        let bytes = journal.to_bytes();
        block[..bytes.len()].copy_from_slice(&bytes);
        // s_num_fc_blks: the feature's bit in the log is for who first uses it.
        let area = numbers.fast_commit_blocks.to_be_bytes();
        block[NUM_FC_BLOCKS..NUM_FC_BLOCKS + area.len()].copy_from_slice(&area);
        self.put_block(place.block(0), &block)?;
        let inode = self.file_inode(place, mode::REG | 0o600, 1);
        self.put_file(InodeNumber::JOURNAL, &inode, place)
    }

    /// Nobody has it mounted.
    fn mmp(&self, block: u64) -> Result<()> {
        let mmp = Mmp {
            seq: SEQ_CLEAN,
            time: self.plan.options.time.seconds.cast_unsigned(),
            nodename: [0; 64],
            bdevname: [0; 32],
            check_interval: self.plan.options.mmp_interval,
        };
        let mut bytes = self.zeroed_block();
        mmp.write_to(&mut bytes, &self.geo);
        self.put_block(block, &bytes)
    }

    fn quota(&self, quota: &QuotaFile) -> Result<()> {
        let block_size = self.plan.numbers.block_size as usize;
        for (index, data) in (0..).zip(quota.bytes.chunks(block_size)) {
            let mut block = self.zeroed_block();
            block[..data.len()].copy_from_slice(data);
            self.put_block(quota.place.block(index), &block)?;
        }
        let mut inode = self.file_inode(&quota.place, mode::REG | 0o600, 1);
        inode.size = quota.bytes.len() as u64;
        inode.flags |= inode::flag::IMMUTABLE;
        self.put_file(InodeNumber::new(quota.ino), &inode, &quota.place)
    }

    /// Directory entries say the type only with that feature.
    fn directory_type(&self) -> u8 {
        let filetype = self.geo.features.has_incompat(incompat::FILETYPE);
        if filetype { DIRECTORY_TYPE } else { 0 }
    }

    fn orphan_file(&self, place: &FilePlace) -> Result<()> {
        let ino = InodeNumber::new(self.plan.orphan_ino);
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

    /// An inode that lies as `place` says.
    fn file_inode(&self, place: &FilePlace, mode: u16, links_count: u16) -> Inode {
        let size = place.blocks() * u64::from(self.plan.numbers.block_size);
        let blocks = self.plan.blocks_of(place);
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
            ..self.plan.options.time
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
}

//! The superblock while mounted: what of it changes, and how it is written past the journal.
//!
//! Source: the kernel's ext4 documentation, "Super Block".
//! Invariants: a direct write changes the block at home and the copy in the cache alike, so that a transaction which holds the
//! block (orphan list) neither loses nor revives a flag; the totals are always computed, never carried on.

use crate::cache::BlockCache;
use crate::device::Device;
use crate::error::{Error, Location, Result};
use crate::format::checksum::BlockKind;
use crate::format::features::{compat, incompat, ro_compat};
use crate::format::superblock::{self, Superblock, state};
use crate::fs::Fs;
use crate::ids::FsBlock;
use crate::memory::Class;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) struct SuperblockState {
    cache: Arc<BlockCache>,
    block: FsBlock,
    /// Byte offset of the superblock in its block.
    at: usize,
    reserved_blocks: u64,
    overhead: u64,
    /// It said "clean" and "no errors" when it was mounted.
    was_valid: bool,
    /// This mount has been counted.
    counted: AtomicBool,
}

impl SuperblockState {
    pub(crate) fn new(sb: &Superblock, cache: Arc<BlockCache>, journal_blocks: u64) -> Self {
        let geo = cache.geometry();
        let block = superblock::OFFSET >> geo.block_bits;
        let at = superblock::OFFSET - (block << geo.block_bits);
        Self {
            block: FsBlock::new(block),
            at: at as usize,
            reserved_blocks: sb.s_r_blocks_count(),
            overhead: overhead(geo).saturating_add(journal_blocks),
            was_valid: sb.s_state() & state::VALID_FS != 0,
            counted: AtomicBool::new(false),
            cache,
        }
    }

    pub(crate) fn reserved_blocks(&self) -> u64 {
        self.reserved_blocks
    }

    /// Blocks that files can never have, as statfs leaves them out.
    pub(crate) fn overhead(&self) -> u64 {
        self.overhead
    }

    /// Applies `edit` at home and in the cache; the caller syncs.
    fn patch(&self, edit: &dyn Fn(&mut Superblock)) -> Result<()> {
        let device = self.cache.device();
        let mut bytes = [0; superblock::SIZE];
        device.read_at(superblock::OFFSET, &mut bytes)?;
        let mut home = Superblock::parse(&bytes)?;
        edit(&mut home);
        device.write_at(superblock::OFFSET, &home.to_bytes())?;
        let buffer = self.cache.read(self.block, BlockKind::Plain)?;
        let mut cached = buffer.begin_write(self.cache.memory().frame(Class::Meta));
        let range = self.at..self.at + superblock::SIZE;
        let mut sb = Superblock::parse(&cached[range.clone()])?;
        edit(&mut sb);
        cached[range].copy_from_slice(&sb.to_bytes());
        Ok(())
    }
}

impl Fs {
    /// In use: the journal must be recovered, or without one the file system is not clean.
    pub(crate) fn write_active_superblock(&self) -> Result<()> {
        let has_journal = self.geo.features.has_compat(compat::HAS_JOURNAL);
        let has_orphan_file = self.geo.features.has_compat(compat::ORPHAN_FILE);
        let count = !self.superblock.counted.swap(true, Ordering::Relaxed);
        let now = self.now();
        self.superblock.patch(&|sb| {
            if has_orphan_file {
                let bits = sb.features().ro_compat | ro_compat::ORPHAN_PRESENT;
                sb.set_feature_ro_compat(bits);
            }
            if has_journal {
                sb.set_feature_incompat(sb.features().incompat | incompat::RECOVER);
            } else {
                sb.set_s_state(sb.s_state() & !state::VALID_FS);
            }
            if count {
                sb.set_s_mnt_count(sb.s_mnt_count().saturating_add(1));
                sb.set_s_mtime(now.seconds);
            }
            sb.set_s_wtime(now.seconds);
        })
    }

    /// Clean, with the totals as they are.
    pub(crate) fn write_clean_superblock(&self) -> Result<()> {
        let counts = self.alloc.counts();
        let now = self.now();
        let was_valid = self.superblock.was_valid;
        let no_orphans = self.orphans.is_empty();
        self.superblock.patch(&|sb| {
            sb.set_feature_incompat(sb.features().incompat & !incompat::RECOVER);
            if no_orphans {
                let bits = sb.features().ro_compat & !ro_compat::ORPHAN_PRESENT;
                sb.set_feature_ro_compat(bits);
            }
            sb.set_s_free_blocks_count(counts.free_blocks);
            sb.set_s_free_inodes_count(u32::try_from(counts.free_inodes).unwrap_or(u32::MAX));
            if was_valid {
                sb.set_s_state(sb.s_state() | state::VALID_FS);
            }
            sb.set_s_wtime(now.seconds);
        })
    }

    /// Adds an error to the superblock's record.
    pub(crate) fn record_error(&self, error: &Error, at: Location) -> Result<()> {
        let now = self.now();
        let ino = at.inode.map_or(0, |ino| ino.get());
        let block = at.block.map_or(0, FsBlock::get);
        let code = match error {
            Error::Io(_) => superblock::error_code::EIO,
            Error::Corrupt { kind, .. } if kind.is_checksum() => superblock::error_code::EFSBADCRC,
            _ => superblock::error_code::EFSCORRUPTED,
        };
        self.superblock.patch(&|sb| {
            sb.record_error(now.seconds, ino, block, "uext4", 0, code);
            sb.set_s_state(sb.s_state() | state::ERROR_FS);
        })?;
        self.device.sync()
    }
}

/// The primary superblock.
pub(crate) fn read(device: &dyn Device) -> Result<Superblock> {
    let mut bytes = [0; superblock::SIZE];
    device.read_at(superblock::OFFSET, &mut bytes)?;
    Superblock::parse(&bytes)
}

/// The first backup that can be found, and its block (in its own block size).
pub(crate) fn read_backup(device: &dyn Device) -> Option<(Superblock, u64)> {
    for bits in 10..=16_u32 {
        let block_size = 1_u64 << bits;
        let block = 8 * block_size + u64::from(bits == 10);
        let mut bytes = [0; superblock::SIZE];
        if block * block_size + superblock::OFFSET > device.len()
            || device.read_at(block * block_size, &mut bytes).is_err()
        {
            continue;
        }
        if let Ok(sb) = Superblock::parse(&bytes)
            && sb.s_log_block_size() == bits - 10
            && sb.s_block_group_nr() == 1
        {
            return Some((sb, block));
        }
    }
    None
}

/// Superblocks, descriptors, bitmaps and inode tables.
fn overhead(geo: &crate::format::geometry::Geometry) -> u64 {
    let first = u64::from(geo.first_data_block);
    // Most groups of a large file system have no backup; their cost is the same.
    let plain = 2 + u64::from(geo.itable_blocks);
    let bases: u64 = geo.groups().map(|group| u64::from(geo.base_meta_blocks(group))).sum();
    first + u64::from(geo.group_count) * plain + bases
}

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
use crate::format::geometry::Geometry;
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

    /// Applies `edit` at home and in the cache; the caller syncs, and keeps the committer from writing the block home.
    fn patch(&self, edit: &dyn Fn(&mut Superblock)) -> Result<()> {
        let device = self.cache.device();
        let mut bytes = [0; superblock::SIZE];
        device.read_at(superblock::OFFSET, &mut bytes)?;
        let mut home = Superblock::parse(&bytes)?;
        let buffer = self.cache.read(self.block, BlockKind::Plain)?;
        let range = self.at..self.at + superblock::SIZE;
        // A checkpoint may have brought a version home that is older than the last error.
        let newest = Superblock::parse(&buffer.snapshot()[range.clone()])?;
        Errors::of(&newest).restore(&mut home);
        edit(&mut home);
        write(device.as_ref(), &home)?;
        let mut cached = buffer.begin_write(self.cache.memory().frame(Class::Meta));
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
        self.journal.alone(|| {
            self.superblock.patch(&|sb| {
                sb.record_error(now.seconds, ino, block, "uext4", 0, code);
                sb.set_s_state(sb.s_state() | state::ERROR_FS);
            })?;
            self.device.sync()
        })
    }
}

/// The primary superblock.
pub(super) fn read(device: &dyn Device) -> Result<Superblock> {
    let mut bytes = [0; superblock::SIZE];
    device.read_at(superblock::OFFSET, &mut bytes)?;
    Superblock::parse(&bytes)
}

/// Writes the primary superblock. No sync.
pub(super) fn write(device: &dyn Device, sb: &Superblock) -> Result<()> {
    device.write_at(superblock::OFFSET, &sb.to_bytes())
}

/// Groups that have a backup on nearly every file system, nearest first.
const BACKUP_GROUPS: [u16; 8] = [1, 3, 5, 7, 9, 25, 27, 49];

/// The first valid backup that can be found, its numbers, and its block (in its own block size). Groups are taken to be
/// as long as they can be.
pub(super) fn read_backup(device: &dyn Device) -> Option<(Superblock, Geometry, u64)> {
    for (bits, group) in (10..=16_u32).flat_map(|bits| BACKUP_GROUPS.map(|group| (bits, group))) {
        let per_group = 8_u64 << bits;
        let block = u64::from(group) * per_group + u64::from(bits == 10);
        let mut bytes = [0; superblock::SIZE];
        let fits = (block << bits) + superblock::OFFSET <= device.len();
        if !fits || device.read_at(block << bits, &mut bytes).is_err() {
            continue;
        }
        if let Ok(sb) = Superblock::parse(&bytes)
            && sb.s_log_block_size() + 10 == bits
            && sb.s_block_group_nr() == group
            && let Ok(geo) = sb.geometry(device.len())
        {
            return Some((sb, geo, block));
        }
    }
    None
}

/// The record of errors in a superblock.
pub(super) struct Errors(Superblock);

impl Errors {
    pub(super) fn of(sb: &Superblock) -> Self {
        Self(sb.clone())
    }

    /// Puts the record into an older version of the superblock; whether it was missing there.
    pub(super) fn restore(&self, older: &mut Superblock) -> bool {
        let Self(newer) = self;
        if newer.s_error_count() <= older.s_error_count() {
            return false;
        }
        older.copy_errors(newer);
        older.set_s_state(older.s_state() | state::ERROR_FS);
        true
    }
}

/// Superblocks, descriptors, bitmaps and inode tables.
fn overhead(geo: &Geometry) -> u64 {
    let first = u64::from(geo.first_data_block);
    // Most groups of a large file system have no backup; their cost is the same.
    let plain = 2 + u64::from(geo.itable_blocks);
    let bases: u64 = geo
        .groups()
        .map(|group| u64::from(geo.base_meta_blocks(group)))
        .sum();
    first + u64::from(geo.group_count) * plain + bases
}

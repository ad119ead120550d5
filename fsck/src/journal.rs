//! The journal before the check: replayed, reset, or given up; and a new one after it.
//!
//! Source: the kernel's ext4 documentation, "Journal (jbd2)".
//! Invariants: nothing of the file system is believed before its journal is replayed; with `-n` the replay is shown by
//! an overlay and written nowhere; a log that cannot be replayed is dropped only after a question.

use crate::groups::Groups;
use crate::image::{Image, Stage};
use crate::inode::Raw;
use crate::map::Run;
use crate::problem::{At, Problem};
use crate::report::Reporter;
use crate::session::Fsck;
use crate::spill::Spill;
use crate::superblock::Opened;
use crate::{Result, Stop};
use std::sync::Arc;
use uext4::device::Device;
use uext4::error::{Error, Incompatible};
use uext4::format::features::{compat, incompat};
use uext4::format::geometry::Geometry;
use uext4::format::inode::{flag, mode};
use uext4::format::jbd2::JournalSuperblock;
use uext4::format::raw::le32;
use uext4::format::superblock::{OFFSET, SIZE, Superblock, state};
use uext4::ids::FsBlock;
use uext4::journal::recover::{self, LogMap, LogRun};

const JOURNAL: u32 = 8;
/// `s_jnl_blocks`: a copy of the journal's map and size.
const BACKUP_AT: usize = 0x10c;
const JOURNAL_UUID_AT: usize = 0xd0;
const BACKUP_BLOCK_MAP: u8 = 1;

pub struct Prepared {
    /// What the check reads and writes.
    pub device: Arc<dyn Device>,
    pub replayed: bool,
    /// Something was found, so that a full check is due.
    pub changed: bool,
    /// Blocks of a journal that is to be made.
    pub new_journal: Option<u32>,
}

pub fn prepare(
    device: Arc<dyn Device>,
    opened: &mut Opened,
    read_only: bool,
    report: &mut Reporter<'_>,
) -> Result<Prepared> {
    let mut prepared = Prepared {
        device,
        replayed: false,
        changed: false,
        new_journal: None,
    };
    let features = opened.sb.features();
    if !features.has_compat(compat::HAS_JOURNAL) {
        without_journal(opened, report, &mut prepared)?;
        return Ok(prepared);
    }
    let needed = features.has_incompat(incompat::RECOVER);
    let external = opened.sb.s_journal_dev() != 0 || opened.sb.s_journal_uuid() != [0; 16];
    if opened.sb.s_journal_inum() == 0 && !external {
        let at = At::new().label("s_journal_inum").found(0);
        prepared.changed |= report.fix(Problem::SuperblockField, at)?;
        opened.sb.set_s_journal_inum(JOURNAL);
        opened.geo.journal_inum = JOURNAL;
    }
    if opened.sb.s_journal_inum() != 0 && opened.sb.s_journal_uuid() != [0; 16] {
        let at = At::new().label("s_journal_uuid").found(1);
        if report.fix(Problem::SuperblockField, at)? {
            opened.sb.put(JOURNAL_UUID_AT, &[0; 16]);
            prepared.changed = true;
        }
    }
    if opened.sb.s_journal_inum() == 0 {
        if needed {
            return Err(Stop::Unusable(
                Error::from(Incompatible::ExternalJournal).to_string(),
            ));
        }
        return Ok(prepared);
    }
    let (log, superblock) = match find_log(&prepared.device, opened, report)? {
        Ok(found) => found,
        Err(error) => {
            give_up(opened, &error, report, &mut prepared)?;
            return Ok(prepared);
        }
    };
    if superblock.start() != 0 && !needed {
        prepared.changed |= report.fix(Problem::JournalNotMarked, At::new())?;
    }
    if superblock.start() != 0 || needed {
        replay(opened, &log, read_only, report, &mut prepared)?;
    }
    if superblock.errno() != 0 {
        opened.sb.set_s_state(opened.sb.s_state() | state::ERROR_FS);
        prepared.changed = true;
        if !read_only {
            let mut clean = recover::read_superblock(&*prepared.device, &opened.geo, &log)?;
            clean.set_errno(0);
            recover::write_superblock(&*prepared.device, &opened.geo, &log, &clean)?;
        }
    }
    Ok(prepared)
}

type Log = (LogMap, JournalSuperblock);

/// The journal by its inode, read as strictly as a mount does, then as leniently as a check, then by the superblock's
/// copy of its map.
fn find_log(
    device: &Arc<dyn Device>,
    opened: &mut Opened,
    report: &mut Reporter<'_>,
) -> Result<std::result::Result<Log, Error>> {
    let with_superblock = |log: LogMap| -> std::result::Result<Log, Error> {
        let superblock = recover::read_superblock(&**device, &opened.geo, &log)?;
        Ok((log, superblock))
    };
    let error = match LogMap::read(&**device, &opened.geo).and_then(with_superblock) {
        Ok(found) => return Ok(Ok(found)),
        Err(Error::Io(error)) => return Err(Error::Io(error).into()),
        Err(error @ Error::Incompatible(_)) => return Err(Stop::Unusable(error.to_string())),
        Err(error) => error,
    };
    let image = Image::new(Arc::clone(device), opened.geo.block_size, Spill::new(None));
    let groups = Groups::load_first(&image, &opened.geo)?;
    let named = opened.sb.s_journal_inum();
    let ino = JOURNAL;
    let raw = crate::session::read_inode(&image, &opened.geo, &groups, ino)?;
    if named != ino
        && raw.is_reg()
        && let Some(found) =
            log_of(&image, &opened.geo, &raw)?.and_then(|log| with_superblock(log).ok())
    {
        let at = At::new().label("s_journal_inum").found(named.into());
        if report.fix(Problem::SuperblockField, at)? {
            opened.sb.set_s_journal_inum(ino);
            opened.geo.journal_inum = ino;
            return Ok(Ok(found));
        }
    }
    let mut backup = raw.clone();
    backup.set_mode(mode::REG | 0o600);
    backup.set_links(1);
    let words = opened.sb.to_bytes();
    backup
        .i_block_mut()
        .copy_from_slice(&words[BACKUP_AT..BACKUP_AT + 60]);
    backup.put32(0x6c, le32(&words, BACKUP_AT + 60));
    backup.put32(4, le32(&words, BACKUP_AT + 64));
    let tree = uext4::format::extent::Header::parse(backup.i_block(), None).is_ok();
    // No other flag belongs to a journal, and some would take its map away.
    backup.set_flags(if tree { flag::EXTENTS } else { 0 });
    if raw.is_reg()
        && let Some(found) =
            log_of(&image, &opened.geo, &raw)?.and_then(|log| with_superblock(log).ok())
    {
        return Ok(Ok(found));
    }
    if named == ino
        && opened.sb.s_jnl_backup_type() == BACKUP_BLOCK_MAP
        && let Some(found) =
            log_of(&image, &opened.geo, &backup)?.and_then(|log| with_superblock(log).ok())
        && report.fix(Problem::JournalInodeRestored, At::ino(ino))?
    {
        opened.restore_journal = Some(backup);
        return Ok(Ok(found));
    }
    Ok(Err(error))
}

fn log_of(image: &Image, geo: &Geometry, raw: &Raw) -> Result<Option<LogMap>> {
    let map = crate::map::read(image, geo, raw)?;
    let blocks = raw.size() / u64::from(geo.block_size);
    let mut runs = Vec::new();
    let mut next = 0;
    for run in &map.data {
        let zones = run.lblk != next || run.end() > blocks;
        if zones {
            break;
        }
        next = run.end();
        runs.push(LogRun {
            at: run.lblk as u32,
            start: FsBlock::new(run.pblk),
            len: run.len as u32,
        });
    }
    if next != blocks || blocks < 1024 {
        return Ok(None);
    }
    Ok(LogMap::from_runs(runs).ok())
}

fn without_journal(
    opened: &mut Opened,
    report: &mut Reporter<'_>,
    prepared: &mut Prepared,
) -> Result<()> {
    let features = opened.sb.features();
    if features.has_incompat(incompat::RECOVER)
        && report.fix(Problem::RecoverWithoutJournal, At::new())?
    {
        opened
            .sb
            .set_feature_incompat(features.incompat & !incompat::RECOVER);
        opened.geo.features = opened.sb.features();
        prepared.changed = true;
    }
    if opened.sb.s_journal_inum() != 0 && report.fix(Problem::JournalWithoutFeature, At::new())? {
        opened.sb.set_s_journal_inum(0);
        opened.geo.journal_inum = 0;
        prepared.changed = true;
    }
    Ok(())
}

/// The journal cannot be used: it goes, and a new one is made behind the check.
fn give_up(
    opened: &mut Opened,
    error: &Error,
    report: &mut Reporter<'_>,
    prepared: &mut Prepared,
) -> Result<()> {
    let at = At::ino(opened.sb.s_journal_inum()).label(error.to_string());
    if !report.fix(Problem::JournalInodeBad, at)? {
        return Err(Stop::Unusable("the journal cannot be used".to_owned()));
    }
    let features = opened.sb.features();
    opened
        .sb
        .set_feature_compat(features.compat & !compat::HAS_JOURNAL);
    opened
        .sb
        .set_feature_incompat(features.incompat & !incompat::RECOVER);
    opened.sb.set_s_journal_inum(0);
    opened.sb.set_s_jnl_backup_type(0);
    opened.sb.put(BACKUP_AT, &[0; 68]);
    opened.geo.features = opened.sb.features();
    opened.geo.journal_inum = 0;
    prepared.changed = true;
    prepared.new_journal = Some(default_blocks(opened.geo.blocks_count));
    Ok(())
}

fn default_blocks(blocks: u64) -> u32 {
    match blocks {
        0..2048 => 0,
        2048..32768 => 1024,
        32768..262_144 => 4096,
        262_144..524_288 => 8192,
        524_288..4_194_304 => 16384,
        4_194_304..8_388_608 => 32768,
        8_388_608..16_777_216 => 65536,
        16_777_216..33_554_432 => 131_072,
        _ => 262_144,
    }
}

fn replay(
    opened: &mut Opened,
    log: &LogMap,
    read_only: bool,
    report: &mut Reporter<'_>,
    prepared: &mut Prepared,
) -> Result<()> {
    let geo = opened.geo.clone();
    let done = if read_only {
        recover::recover_read_only(Arc::clone(&prepared.device), &geo, log).map(
            |(recovery, overlay)| {
                prepared.device = Arc::new(overlay);
                recovery
            },
        )
    } else {
        recover::recover(&*prepared.device, &geo, log)
    };
    match done {
        Ok(recovery) => {
            prepared.replayed = recovery.replayed;
            report.note(&format!(
                "journal: {} transactions, {} blocks",
                recovery.transactions, recovery.blocks
            ));
        }
        Err(error @ Error::Corrupt { .. }) => {
            let at = At::new().label(error.to_string());
            if !report.fix(Problem::JournalBadTransaction, at)? {
                return Err(Stop::Unusable("the journal cannot be replayed".to_owned()));
            }
            prepared.changed = true;
            if !read_only {
                let mut empty = recover::read_superblock(&*prepared.device, &geo, log)?;
                empty.set_start(0);
                recover::write_superblock(&*prepared.device, &geo, log, &empty)?;
                prepared.device.sync()?;
            }
        }
        Err(other) => return Err(other.into()),
    }
    // The superblock may have been one of the blocks.
    let mut bytes = [0; SIZE];
    prepared.device.read_at(OFFSET, &mut bytes)?;
    let mut sb = Superblock::parse(&bytes)?;
    sb.set_feature_incompat(sb.features().incompat & !incompat::RECOVER);
    if opened.sb.s_state() & state::ERROR_FS != 0 {
        sb.set_s_state(sb.s_state() | state::ERROR_FS);
    }
    let geo = sb.geometry(u64::MAX)?;
    if !read_only {
        prepared.device.write_at(OFFSET, &sb.to_bytes())?;
        prepared.device.sync()?;
    }
    opened.sb = sb;
    opened.geo = geo;
    sum_counts(opened, &prepared.device)
}

/// The superblock's totals are not journaled: after a replay the descriptors know better.
fn sum_counts(opened: &mut Opened, device: &Arc<dyn Device>) -> Result<()> {
    let image = Image::new(Arc::clone(device), opened.geo.block_size, Spill::new(None));
    let (mut clusters, mut inodes) = (0, 0);
    Groups::each(&image, &opened.geo, |group| {
        clusters += u64::from(group.free_blocks);
        inodes += u64::from(group.free_inodes);
    })?;
    let blocks = clusters << opened.geo.cluster_ratio_bits;
    if blocks <= opened.geo.blocks_count && inodes <= u64::from(opened.geo.inodes_count) {
        opened.sb.set_s_free_blocks_count(blocks);
        opened.sb.set_s_free_inodes_count(inodes as u32);
    }
    Ok(())
}

impl Fsck<'_, '_> {
    /// A new journal where the old one could not be kept; without space there is none.
    pub fn make_journal(&mut self) -> Result<()> {
        let Some(blocks) = self.new_journal.filter(|blocks| *blocks > 0) else {
            return Ok(());
        };
        if !self.report.fix(
            Problem::JournalMissing,
            At::ino(JOURNAL).expected(blocks.into()),
        )? {
            return Ok(());
        }
        let mut raw = self.new_file(blocks.into());
        let now = self.options.now as u32;
        let Some(runs) = self.space(blocks.into(), self.geo.blocks_count / 2) else {
            self.report
                .note("there is no space for a new journal: the file system has none now");
            return Ok(());
        };
        if !self.replace_map(JOURNAL, &mut raw, &crate::map::Map::default(), &runs)? {
            self.report
                .note("there is no space for a new journal: the file system has none now");
            return Ok(());
        }
        let first = runs.first().map_or(0, |run| run.pblk);
        let mut superblock = JournalSuperblock::new(self.geo.block_size, blocks, self.sb.s_uuid());
        // What the blocks held before must not look like the next transactions.
        superblock.set_sequence(uext4::ids::Tid::new(now));
        let mut bytes = vec![0; self.geo.block_size as usize];
        superblock.write_to(&mut bytes);
        self.image.write(first, bytes, Stage::Fresh)?;
        self.write_inode(JOURNAL, &mut raw)?;
        self.sb
            .set_feature_compat(self.sb.features().compat | compat::HAS_JOURNAL);
        self.sb.set_s_journal_inum(JOURNAL);
        self.geo.features = self.sb.features();
        self.geo.journal_inum = JOURNAL;
        self.back_up_journal(&raw);
        Ok(())
    }

    fn back_up_journal(&mut self, raw: &Raw) {
        self.sb.put(BACKUP_AT, raw.i_block());
        self.sb.put(BACKUP_AT + 60, &raw.size_high().to_le_bytes());
        self.sb.put(BACKUP_AT + 64, &raw.get32(4).to_le_bytes());
        self.sb.set_s_jnl_backup_type(BACKUP_BLOCK_MAP);
    }

    /// An inode for a file of the file system's own, of so many blocks.
    pub fn new_file(&self, blocks: u64) -> Raw {
        let mut raw = Raw::zeroed(&self.geo);
        raw.set_mode(mode::REG | 0o600);
        raw.set_links(1);
        raw.set_size(blocks * u64::from(self.geo.block_size));
        let now = self.options.now as u32;
        for at in [0x08, 0x0c, 0x10] {
            raw.put32(at, now);
        }
        if self.geo.inode_size > 128 {
            raw.put16(0x80, self.geo.want_extra_isize as u16);
        }
        if self.geo.features.has_incompat(incompat::EXTENTS) {
            raw.set_flags(flag::EXTENTS);
        }
        raw
    }

    /// Free blocks for a whole file, near another block.
    pub fn space(&mut self, blocks: u64, near: u64) -> Option<Vec<Run>> {
        let ratio = 1_u64 << self.geo.cluster_ratio_bits;
        let mut map = crate::map::Map::default();
        let mut free = self.free();
        let mut lblk = 0;
        let mut place = near;
        while lblk < blocks {
            let Some(block) = free.cluster(place) else {
                let taken = std::mem::take(&mut free.taken);
                for block in taken {
                    let cluster = crate::alloc::cluster_of(free.geo, block);
                    free.used.remove(cluster, 1);
                }
                return None;
            };
            map.push(Run {
                lblk,
                pblk: block,
                len: ratio.min(blocks - lblk),
                unwritten: false,
            });
            place = block + ratio;
            lblk += ratio;
        }
        Some(map.data)
    }
}

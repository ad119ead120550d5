//! The mount sequence: superblock, features, journal recovery, the layers, orphans; and the way back.
//!
//! Source: the kernel's ext4 documentation, "Super Block", "Journal (jbd2)", "Orphan file"; the design's section on errors.
//! Invariants: nothing is written before everything has been checked; a read-only mount writes nothing at all.

use crate::alloc::{Allocator, Settings};
use crate::cache::BlockCache;
use crate::clock::{Clock, SystemClock};
use crate::device::Device;
use crate::device::ahead::Ahead;
use crate::device::latch::Latch;
use crate::dir::{Directories, InlineSource};
use crate::error::{Error, Incompatible, Posix, Result};
use crate::evict::Evictor;
use crate::file::{DirtyInodes, Files};
use crate::format::features::{self, compat, incompat};
use crate::format::geometry::Geometry;
use crate::format::inode::Inode;
use crate::format::superblock::{Superblock, state};
use crate::fs::descriptors;
use crate::fs::ending::Ending;
use crate::fs::errors::Reported;
use crate::fs::flush::Flushers;
use crate::fs::known::Known;
use crate::fs::park::Reading;
use crate::fs::reap::Reaper;
use crate::fs::super_state::{self, SuperblockState};
use crate::fs::{ErrorPolicy, Fs, Options, need};
use crate::ids::{FsBlock, InodeNumber};
use crate::inode::orphan::Orphans;
use crate::inode::{InodeStore, InodeTable};
use crate::journal::log::Log;
use crate::journal::recover::{self, LogMap, Recovery};
use crate::journal::{Activation, Journal};
use crate::map::Map;
use crate::memory::{Memory, Relief, sizes};
use crate::sync::{Mutex, Rank};
use crate::xattr::Xattrs;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Weak};

/// What is known before the layers are built.
struct Opened {
    device: Arc<dyn Device>,
    sb: Superblock,
    geo: Arc<Geometry>,
    log: Option<Log>,
    /// Where the journal lies: no file may have these blocks.
    journal_runs: Vec<(FsBlock, u32)>,
    read_only: bool,
    /// The superblock asked for recovery.
    recovered: bool,
    notices: Vec<String>,
}

impl Fs {
    pub fn mount(device: Arc<dyn Device>, options: Options) -> Result<Arc<Self>> {
        Self::mount_at(device, options, Arc::new(SystemClock::new()))
    }

    /// The same under a given clock. After a failed write or sync of the device nothing more is written.
    pub fn mount_at(
        device: Arc<dyn Device>,
        options: Options,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>> {
        let opened = open(Arc::new(Latch::new(device)), &options)?;
        if !opened.read_only {
            check_memory(&options, opened.geo.block_size)?;
        }
        let fs = build(opened, options, clock)?;
        if !fs.is_read_only() {
            fs.finish_orphans()?;
        }
        Ok(fs)
    }

    /// Commits, writes everything home and marks the file system clean. The kernel has let go of it.
    pub fn unmount(&self) -> Result<()> {
        self.stop_threads();
        if self.is_read_only() {
            if self.journal.is_aborted() {
                return Err(Error::Aborted);
            }
            self.ending.set_unmounted();
            return Ok(());
        }
        let flushed = self.flush_all();
        self.known.clear();
        self.reaper.queue_all();
        while self.reap_step() {}
        self.report_groups(None);
        self.mark_clean()?;
        self.discard_freed();
        self.ending.set_unmounted();
        flushed
    }

    /// Everything at home, nothing to recover; the next change marks it in use again.
    pub fn mark_clean(&self) -> Result<()> {
        self.alloc.discard_localities();
        self.journal.quiesce(&mut || self.write_clean_superblock())
    }

    /// Finishes what a crash cut off: truncations, and the freeing of inodes without a name.
    fn finish_orphans(&self) -> Result<()> {
        let mut finished = 0_u32;
        for ino in self.orphans.on_disk()? {
            match self.finish_orphan(ino) {
                Ok(()) => finished += 1,
                // It stays on record; the others may still be finished, unless `errors=` ends all writing.
                Err(error @ Error::Corrupt { .. }) => {
                    self.notices
                        .lock()
                        .push(format!("orphaned inode {ino}: {error}: run e2fsck"));
                    self.report(&error);
                }
                Err(Error::Aborted) if self.is_read_only() => break,
                Err(error) => return Err(error),
            }
        }
        if finished > 0 {
            self.notices
                .lock()
                .push(format!("{finished} orphaned inodes finished"));
        }
        Ok(())
    }

    fn finish_orphan(&self, ino: InodeNumber) -> Result<()> {
        let mut token = self.memory.admit(need::REAP);
        let node = match self.table.get(ino) {
            Err(error) if error.is_posix(Posix::Stale) => {
                let handle = self.journal.start(&mut token, 4)?;
                return handle.settle(self.orphans.drop_stale(&handle, ino));
            }
            node => node?,
        };
        if node.core.read().links_count == 0 {
            return self.free_inode(ino);
        }
        let _exclusive = node.lock.write();
        if node.core.read().is_reg() {
            let size = node.core.read().size;
            self.files.truncate(&mut token, &node, size, &mut |_| {})?;
        }
        let handle = self.journal.start(&mut token, 4)?;
        let mut core = node.core.write();
        let removed = self.orphans.remove(&handle, ino, &mut core);
        handle.settle(removed.and_then(|()| self.save(&handle, &node, &core)))
    }
}

/// Reads and checks everything up to the journal.
fn open(device: Arc<dyn Device>, options: &Options) -> Result<Opened> {
    let mut notices = Vec::new();
    let mut read_only = options.read_only;
    let (sb, geo, from_backup) = read_superblock(device.as_ref(), &mut notices)?;
    read_only |= from_backup;
    let access = features::gate(sb.features())?;
    for reason in access.reasons() {
        notices.push(format!("read-only: {reason}"));
        read_only = true;
    }
    if device.read_only() && !read_only {
        notices.push("read-only: the device is".into());
        read_only = true;
    }
    if !read_only && geo.block_size < device.sector_size() {
        let (block_size, sector_size) = (geo.block_size, device.sector_size());
        return Err(Incompatible::SectorSize {
            block_size,
            sector_size,
        }
        .into());
    }
    let mut opened = Opened {
        recovered: geo.features.has_incompat(incompat::RECOVER),
        device,
        sb,
        geo: Arc::new(geo),
        log: None,
        journal_runs: Vec::new(),
        read_only,
        notices,
    };
    if opened.geo.features.has_compat(compat::HAS_JOURNAL) && !options.no_load {
        opened.open_journal(from_backup)?;
    } else if options.no_load && opened.geo.features.has_incompat(incompat::RECOVER) {
        opened
            .notices
            .push("read-only: the journal was not replayed (noload)".into());
        opened.read_only = true;
    }
    if opened.sb.s_state() & state::ERROR_FS != 0 {
        opened
            .notices
            .push("the file system has recorded errors: run e2fsck".into());
    }
    Ok(opened)
}

/// The superblock and its numbers; a backup's, when the primary one is damaged (the flag).
fn read_superblock(
    device: &dyn Device,
    notices: &mut Vec<String>,
) -> Result<(Superblock, Geometry, bool)> {
    let primary =
        super_state::read(device).and_then(|sb| sb.geometry(device.len()).map(|geo| (sb, geo)));
    match primary {
        Ok((sb, geo)) => Ok((sb, geo, false)),
        // A valid superblock that is not for us: its backups are no better.
        Err(Error::Incompatible(reason)) if reason != Incompatible::NotExt4 => Err(reason.into()),
        Err(error) => {
            let found = super_state::read_backup(device);
            let (sb, geo, block) = found.ok_or(error.clone())?;
            notices.push(format!(
                "{error}; using the backup at block {block}, read-only: run e2fsck"
            ));
            Ok((sb, geo, true))
        }
    }
}

impl Opened {
    /// Replays the journal. `in_doubt`: the superblock is a backup, which does not tell whether the journal is needed.
    fn open_journal(&mut self, in_doubt: bool) -> Result<()> {
        let errors = super_state::Errors::of(&self.sb);
        let mut opened = recover_journal(
            Arc::clone(&self.device),
            &self.geo,
            self.read_only,
            in_doubt,
        );
        if let Err(Error::Corrupt { .. }) = opened
            && self.use_descriptor_backups()?
        {
            opened = recover_journal(Arc::clone(&self.device), &self.geo, true, in_doubt);
        }
        let (replayed, log, recovery) = opened?;
        self.device = replayed;
        self.journal_runs = log.runs();
        if recovery.replayed {
            let (tids, blocks) = (recovery.transactions, recovery.blocks);
            let how = if self.read_only { " in memory" } else { "" };
            self.notices.push(format!(
                "journal replayed{how}: {tids} transactions, {blocks} blocks"
            ));
        }
        if recovery.replayed && !in_doubt {
            let mut sb = super_state::read(self.device.as_ref())?;
            // The log may hold a superblock from before the errors.
            if errors.restore(&mut sb) && !self.read_only {
                super_state::write(self.device.as_ref(), &sb)?;
            }
            self.geo = Arc::new(sb.geometry(self.device.len())?);
            self.sb = sb;
        }
        if recovery.errno != 0 {
            self.sb.set_s_state(self.sb.s_state() | state::ERROR_FS);
            if !self.read_only {
                super_state::write(self.device.as_ref(), &self.sb)?;
                self.device.sync()?;
            }
        }
        self.log = (!self.read_only).then_some(log);
        Ok(())
    }

    /// Shows backups in the place of damaged group descriptors, read-only. False when there are none to show.
    fn use_descriptor_backups(&mut self) -> Result<bool> {
        let Some((device, notices)) = descriptors::from_backups(&self.device, &self.geo)? else {
            return Ok(false);
        };
        self.device = device;
        self.notices.extend(notices);
        self.read_only = true;
        self.log = None;
        Ok(true)
    }
}

/// Replays what the journal holds: onto the device, or for a read-only mount into an overlay.
fn recover_journal(
    device: Arc<dyn Device>,
    geo: &Arc<Geometry>,
    read_only: bool,
    in_doubt: bool,
) -> Result<(Arc<dyn Device>, Log, Recovery)> {
    if geo.journal_inum == 0 {
        return Err(Incompatible::ExternalJournal.into());
    }
    let map = LogMap::read(device.as_ref(), geo)?;
    let needs_recovery = in_doubt || geo.features.has_incompat(incompat::RECOVER);
    let (device, recovery): (Arc<dyn Device>, Recovery) = if needs_recovery && !read_only {
        let recovery = recover::recover(device.as_ref(), geo, &map)?;
        (device, recovery)
    } else {
        let (mut recovery, overlay) = recover::recover_read_only(Arc::clone(&device), geo, &map)?;
        // Without the flag the log is stale, whatever it says, and is emptied.
        if !needs_recovery && !read_only && recovery.replayed {
            recover::write_superblock(device.as_ref(), geo, &map, &recovery.superblock)?;
        }
        recovery.replayed &= needs_recovery;
        (
            if recovery.replayed {
                Arc::new(overlay)
            } else {
                device
            },
            recovery,
        )
    };
    // It goes over to the superblock; the journal's is written again when its tail moves.
    let mut settled = recovery.clone();
    settled.superblock.set_errno(0);
    let log = Log::open(Arc::clone(geo), map, &settled);
    Ok((device, log, recovery))
}

/// The block cache and the allocator, which reads the group descriptors: the first that can find these damaged.
fn foundation(
    opened: &mut Opened,
    memory: &Arc<Memory>,
    options: &Options,
) -> Result<(Arc<Ahead>, Arc<BlockCache>, Arc<Allocator>)> {
    let lay = |opened: &mut Opened| {
        let ahead = Ahead::new(Arc::clone(&opened.device), memory);
        let device = Arc::clone(&ahead) as Arc<dyn Device>;
        let cache = BlockCache::new(device, Arc::clone(&opened.geo), Arc::clone(memory));
        let reserved_blocks = opened.sb.s_r_blocks_count();
        let settings = Settings {
            reserved_blocks,
            read_only: opened.read_only,
            stripe: stripe(&opened.sb, &opened.geo),
            discard: options.discard,
            writers: Some(options.threads),
        };
        let alloc = Allocator::new(Arc::clone(&cache), Arc::clone(memory), settings)?;
        opened.device = Arc::clone(&ahead) as Arc<dyn Device>;
        Ok((ahead, cache, alloc))
    };
    match lay(opened) {
        Err(Error::Corrupt { .. }) if opened.use_descriptor_backups()? => lay(opened),
        done => done,
    }
}

/// Blocks of a RAID stripe: the width over all data disks, else one disk's share; 0 where neither makes sense.
fn stripe(sb: &Superblock, geo: &Geometry) -> u32 {
    [sb.s_raid_stripe_width(), u32::from(sb.s_raid_stride())]
        .into_iter()
        .find(|&blocks| blocks > 1 && blocks <= geo.blocks_per_group)
        .unwrap_or(0)
}

/// The orphans on record. Where the record is damaged, nothing may be written, but all can be read.
fn read_orphans(
    opened: &mut Opened,
    cache: &Arc<BlockCache>,
    store: &Arc<InodeStore>,
    map: &Arc<Map>,
) -> Result<Orphans> {
    match Orphans::new(
        Arc::clone(cache),
        Arc::clone(store),
        Arc::clone(map),
        &opened.sb,
    ) {
        Err(error @ Error::Corrupt { .. }) => {
            opened
                .notices
                .push(format!("read-only: {error}: run e2fsck"));
            opened.read_only = true;
            opened.log = None;
            Ok(Orphans::none(Arc::clone(cache), Arc::clone(store)))
        }
        done => done,
    }
}

/// Under the floor writing could stop for good.
fn check_memory(options: &Options, block_size: u32) -> Result<()> {
    let (cap, block_size) = (options.memory, u64::from(block_size));
    let floor = sizes::floor(options.threads, block_size, options.max_write);
    if cap < floor {
        return Err(Incompatible::Memory { cap, floor }.into());
    }
    Ok(())
}

fn build(mut opened: Opened, mut options: Options, clock: Arc<dyn Clock>) -> Result<Arc<Fs>> {
    let memory = budget(&options, opened.geo.block_size, &clock);
    let (ahead, cache, alloc) = foundation(&mut opened, &memory, &options)?;
    let map = Arc::new(Map::new(Arc::clone(&cache), Arc::clone(&alloc)));
    let store = Arc::new(InodeStore::new(Arc::clone(&cache), Arc::clone(&alloc)));
    let orphans = Arc::new(read_orphans(&mut opened, &cache, &store, &map)?);
    let Opened {
        device,
        sb,
        geo,
        log,
        journal_runs,
        read_only,
        recovered,
        notices,
    } = opened;
    options.read_only = read_only;
    alloc.protect(&journal_runs);
    let journal = start_journal(&cache, &clock, &alloc, log, &options);
    let superblock = superblock_state(&sb, &cache, &journal_runs);
    let (xattrs, dirs) = names(&cache, &alloc, &store, &map);
    let table = inodes(&store, &memory, &alloc);
    let evictor = Evictor::new(&table, &alloc, &memory, &clock, options.evict);
    let reaper = Arc::new(Reaper::new(&memory));
    let (known, ending) = (Arc::new(Known::new(&memory)), Ending::new(&memory));
    let files = Files {
        device: Arc::clone(&device),
        ahead,
        geo: Arc::clone(&geo),
        memory: Arc::clone(&memory),
        map,
        alloc: Arc::clone(&alloc),
        store: Arc::clone(&store),
        journal: Arc::clone(&journal),
        orphans: Arc::clone(&orphans),
        reserved_for: (sb.def_resuid(), sb.def_resgid()),
        pending: Arc::clone(&reaper) as Arc<_>,
        users: Arc::clone(&known) as Arc<_>,
        clock: Arc::clone(&clock),
        delay: options.delay,
        dirty: DirtyInodes::default(),
        spare: Mutex::new(Rank::Inode, memory.admit_private(need::FLUSH)),
    };
    let fs = Arc::new(Fs {
        device,
        geo,
        memory,
        generation: AtomicU32::new(generation_seed(clock.as_ref())),
        clock,
        cache,
        journal,
        alloc,
        store,
        table,
        evictor,
        orphans,
        dirs,
        xattrs,
        files,
        known,
        reaper,
        rename_lock: Mutex::new(Rank::Rename, ()),
        superblock,
        policy: options.errors.unwrap_or_else(|| policy_of(&sb)),
        read_only: AtomicBool::new(read_only),
        reported: Reported::new(),
        notices: Mutex::new(Rank::Leaf, notices),
        threads: Mutex::new(Rank::Leaf, Vec::new()),
        stopping: AtomicBool::new(false),
        flushers: Flushers::new(),
        reading: Reading::new(&options),
        options,
        ending,
    });
    connect(&fs);
    if recovered {
        fs.journal.set_unclean();
    }
    Ok(fs)
}

/// What lower layers call the file system for.
fn connect(fs: &Arc<Fs>) {
    let relief: Weak<dyn Relief> = Arc::downgrade(&(Arc::clone(fs) as Arc<dyn Relief>));
    fs.memory.set_relief(relief);
    fs.journal
        .set_activation(Arc::new(Activate(Arc::downgrade(fs))));
}

/// Attributes, and directories, which may keep entries among them.
fn names(
    cache: &Arc<BlockCache>,
    alloc: &Arc<Allocator>,
    store: &Arc<InodeStore>,
    map: &Arc<Map>,
) -> (Arc<Xattrs>, Directories) {
    let xattrs = Arc::new(Xattrs::new(
        Arc::clone(cache),
        Arc::clone(alloc),
        Arc::clone(store),
        Arc::clone(map),
    ));
    let dirs = Directories::new(Arc::clone(cache), Arc::clone(map), Arc::clone(alloc))
        .with_inline(Arc::new(SystemData(Arc::clone(&xattrs))));
    (xattrs, dirs)
}

fn start_journal(
    cache: &Arc<BlockCache>,
    clock: &Arc<dyn Clock>,
    alloc: &Arc<Allocator>,
    log: Option<Log>,
    options: &Options,
) -> Arc<Journal> {
    let (cache, clock) = (Arc::clone(cache), Arc::clone(clock));
    let journal = Journal::new(cache, clock, log, options.commit_interval);
    journal.listen(Arc::clone(alloc) as Arc<_>);
    journal
}

fn inodes(
    store: &Arc<InodeStore>,
    memory: &Arc<Memory>,
    alloc: &Arc<Allocator>,
) -> Arc<InodeTable> {
    let (store, memory, alloc) = (Arc::clone(store), Arc::clone(memory), Arc::clone(alloc));
    Arc::new(InodeTable::new(store, memory, alloc))
}

fn budget(options: &Options, block_size: u32, clock: &Arc<dyn Clock>) -> Arc<Memory> {
    let memory = Memory::new(options.memory, block_size, options.max_write);
    memory.set_clock(Arc::clone(clock));
    memory.set_reserves(1);
    memory
}

fn superblock_state(
    sb: &Superblock,
    cache: &Arc<BlockCache>,
    journal: &[(FsBlock, u32)],
) -> SuperblockState {
    let blocks = journal.iter().map(|&(_, len)| u64::from(len)).sum();
    SuperblockState::new(sb, Arc::clone(cache), blocks)
}

/// Where the generations of new inodes begin: somewhere else at each mount.
fn generation_seed(clock: &dyn Clock) -> u32 {
    let (seconds, nanoseconds) = clock.wall();
    (seconds as u32) ^ nanoseconds.rotate_left(7)
}

fn policy_of(sb: &Superblock) -> ErrorPolicy {
    match sb.s_errors() {
        1 => ErrorPolicy::Continue,
        3 => ErrorPolicy::Panic,
        _ => ErrorPolicy::RemountRo,
    }
}

/// Where directories in their inode find the rest of their entries.
struct SystemData(Arc<Xattrs>);

impl InlineSource for SystemData {
    fn system_data(&self, ino: InodeNumber, inode: &Inode) -> Result<Vec<u8>> {
        let mut all = self.0.inline_data(ino, inode)?.unwrap_or_default();
        Ok(all.split_off(inode.block.len().min(all.len())))
    }
}

/// Marks the file system in use before the first commit.
struct Activate(Weak<Fs>);

impl Activation for Activate {
    fn activate(&self) -> Result<()> {
        match self.0.upgrade() {
            Some(fs) => fs.write_active_superblock(),
            None => Err(Error::Aborted),
        }
    }
}

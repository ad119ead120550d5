//! One run: what is known, and the passes in order.
//!
//! Source: e2fsck(8).
//! Invariants: nothing is written before all passes are through (the replay of the journal aside); a run that must
//! decide something again starts over with its repairs in memory, a bounded number of times.

use crate::blockset::BlockSet;
use crate::groups::{Group, Groups};
use crate::image::{Image, Stage};
use crate::inode::Raw;
use crate::inodes::Inodes;
use crate::problem::{At, Problem};
use crate::report::Reporter;
use crate::sparse::{Sparse, Value};
use crate::spill::Spill;
use crate::{Answer, Options, Outcome, Result, Stop, exit};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use uext4::device::Device;
use uext4::format::geometry::Geometry;
use uext4::format::raw::le32;
use uext4::format::superblock::{OFFSET, Superblock, state};
use uext4::ids::InodeNumber;

const RESTARTS_MAX: u32 = 10;

/// A directory: who holds an entry for it, and what its ".." says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dir {
    pub parent: u32,
    pub dotdot: u32,
    /// A path leads to it from the root.
    pub reached: bool,
}

impl Value for Dir {
    const SIZE: usize = 9;

    fn store(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.parent.to_le_bytes());
        bytes.extend(self.dotdot.to_le_bytes());
        bytes.push(self.reached.into());
    }

    fn load(bytes: &[u8]) -> Self {
        Self {
            parent: le32(bytes, 0),
            dotdot: le32(bytes, 4),
            reached: bytes.get(8) == Some(&1),
        }
    }
}

/// An attribute block that inodes share.
#[derive(Clone, Copy, Debug, Default)]
pub struct SharedXattr {
    pub found: u32,
    pub refcount: u32,
}

impl Value for SharedXattr {
    const SIZE: usize = 8;

    fn store(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.found.to_le_bytes());
        bytes.extend(self.refcount.to_le_bytes());
    }

    fn load(bytes: &[u8]) -> Self {
        Self {
            found: le32(bytes, 0),
            refcount: le32(bytes, 4),
        }
    }
}

/// Encryption policies by inode: few that are different, however many inodes.
pub struct Policies {
    numbers: BTreeMap<Vec<u8>, u32>,
    of: Sparse<u32>,
}

impl Policies {
    pub fn new(spill: &Arc<Spill>) -> Self {
        Self {
            numbers: BTreeMap::new(),
            of: Sparse::new(spill),
        }
    }

    fn number(&mut self, policy: Vec<u8>) -> u32 {
        let next = self.numbers.len() as u32;
        *self.numbers.entry(policy).or_insert(next)
    }

    pub fn insert(&mut self, ino: u32, policy: Vec<u8>) {
        let number = self.number(policy);
        self.of.insert(ino, number);
    }

    /// Which one an inode has: equal numbers are equal policies.
    pub fn of(&self, ino: u32) -> Option<u32> {
        self.of.get(ino)
    }

    pub fn join(&mut self, other: Self) {
        let mut mine = vec![0; other.numbers.len()];
        for (policy, number) in other.numbers {
            let number_here = self.number(policy);
            if let Some(slot) = mine.get_mut(number as usize) {
                *slot = number_here;
            }
        }
        for page in 0..other.of.page_count() {
            for (ino, number) in other.of.page(page) {
                let number = mine.get(number as usize).copied().unwrap_or_default();
                self.of.insert(ino, number);
            }
        }
    }
}

pub struct Fsck<'o, 'l> {
    pub image: Image,
    pub geo: Geometry,
    pub sb: Superblock,
    pub groups: Groups,
    pub options: &'o Options,
    pub report: &'o mut Reporter<'l>,
    /// Clusters in use.
    pub used: BlockSet,
    /// Clusters claimed more than once.
    pub twice: BlockSet,
    /// Clusters with the file system's own metadata.
    pub zones: BlockSet,
    /// Clusters that the run itself has put to use, or free: that the bitmaps do not know is no problem.
    pub moved: BlockSet,
    pub inodes: Inodes,
    pub dirs: Sparse<Dir>,
    pub xattr_blocks: Sparse<SharedXattr>,
    /// References to inodes that hold attributes' values.
    pub ea_refs: Sparse<u32>,
    pub policies: Policies,
    /// Directories are all looked at one after the other, since two of them hold a third.
    pub one_by_one: bool,
    /// Groups whose whole inode table is read, whatever their descriptor says.
    pub whole_tables: BTreeSet<u32>,
    /// Backups must be written, too.
    pub copies: bool,
    /// The journal is to be made anew, with this many blocks.
    pub new_journal: Option<u32>,
    /// The orphan file is to be made anew.
    pub new_orphan_file: bool,
    /// Quota files (of users, groups, projects) that are to be made anew.
    pub new_quota: [bool; 3],
    /// Inodes of the orphan list and file, to be truncated or freed.
    pub orphans: BTreeSet<u32>,
    pub lost_found: Option<u32>,
    /// Inodes in blocks that the device cannot keep.
    pub lost_inodes: BTreeSet<u32>,
    /// Directories to be rebuilt.
    pub rehash: BTreeSet<u32>,
    /// Clusters that become free at the end: what lies in them may still be needed if the run is cut off.
    pub released: Vec<(u64, u64)>,
    pub files: u64,
}

pub fn run(device: Arc<dyn Device>, options: &Options, report: &mut Reporter<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    match attempt(device, options, report, &mut outcome) {
        Ok(()) => {}
        Err(Stop::Undecided) => {
            report.note("something needs a decision: run fsck.uext4 without -p or -a");
            outcome.status |= exit::UNCORRECTED;
        }
        Err(Stop::Cancelled) => outcome.status |= exit::CANCELLED,
        Err(Stop::Failed(error)) => {
            report.note(&format!("{error}; nothing more was changed"));
            outcome.status |= exit::OPERATIONAL;
        }
        Err(Stop::Unusable(reason)) => {
            report.note(&reason);
            outcome.status |= exit::OPERATIONAL;
            if report.found > report.fixed {
                outcome.status |= exit::UNCORRECTED;
            }
        }
        Err(Stop::Restart | Stop::Suspect) => {
            report.note("the repairs do not come to an end; nothing was changed");
            outcome.status |= exit::OPERATIONAL | exit::UNCORRECTED;
        }
    }
    outcome.found = report.found;
    outcome.fixed = report.fixed;
    outcome
}

/// Opens the file system and takes it; gives it back whatever the check ends with.
fn attempt(
    device: Arc<dyn Device>,
    options: &Options,
    report: &mut Reporter<'_>,
    outcome: &mut Outcome,
) -> Result<()> {
    let opened = crate::superblock::open(&device, options, report)?;
    let opened = crate::superblock::check_size(&device, opened, report)?;
    let guard = match options.answer {
        Answer::No => None,
        _ => crate::mmp::claim(&device, &opened, options.now, report)?,
    };
    let done = check_opened(device, opened, options, report, outcome);
    match guard.map(crate::mmp::Guard::release) {
        Some(Err(error)) if done.is_ok() => Err(error),
        _ => done,
    }
}

fn check_opened(
    device: Arc<dyn Device>,
    mut opened: crate::superblock::Opened,
    options: &Options,
    report: &mut Reporter<'_>,
    outcome: &mut Outcome,
) -> Result<()> {
    let read_only = options.answer == Answer::No;
    let prepared = crate::journal::prepare(device, &mut opened, read_only, report)?;
    let (sb, geo) = (opened.sb, opened.geo);
    if !options.force && !prepared.changed && opened.copy.is_none() && is_clean(&sb) {
        outcome.skipped = true;
        if prepared.replayed {
            outcome.status |= exit::CORRECTED;
        }
        return Ok(());
    }
    let spill = Spill::new(options.memory);
    report.watch(&spill);
    let image = Image::new(prepared.device, geo.block_size, Arc::clone(&spill));
    let groups = Groups::load(&image, &geo)?;
    let mut fsck = Fsck {
        used: BlockSet::new(geo.clusters_per_group, geo.group_count, &spill),
        twice: BlockSet::new(geo.clusters_per_group, geo.group_count, &spill),
        zones: BlockSet::new(geo.clusters_per_group, geo.group_count, &spill),
        moved: BlockSet::new(geo.clusters_per_group, geo.group_count, &spill),
        inodes: Inodes::new(geo.inodes_per_group, geo.group_count, &spill),
        dirs: Sparse::new(&spill),
        xattr_blocks: Sparse::new(&spill),
        ea_refs: Sparse::new(&spill),
        policies: Policies::new(&spill),
        one_by_one: false,
        whole_tables: BTreeSet::new(),
        copies: opened.copy.is_some(),
        new_journal: prepared.new_journal,
        new_orphan_file: false,
        new_quota: [false; 3],
        orphans: BTreeSet::new(),
        lost_found: None,
        lost_inodes: BTreeSet::new(),
        rehash: BTreeSet::new(),
        released: Vec::new(),
        files: 0,
        image,
        geo,
        sb,
        groups,
        options,
        report,
    };
    fsck.check_descriptors(opened.copy)?;
    if let Some(mut journal) = opened.restore_journal {
        let ino = fsck.sb.s_journal_inum();
        // The inode may have been where the descriptor did not lead.
        let now = fsck.read_inode(ino)?;
        let whole = now.is_reg() && now.links() != 0 && now.checksum_is_right(&fsck.geo, ino);
        let same = now.i_block() == journal.i_block()
            && now.size() == journal.size()
            && now.flags() == journal.flags();
        if !same || !whole {
            fsck.write_inode(ino, &mut journal)?;
        }
    }
    fsck.check_superblock()?;
    fsck.collect_orphans()?;
    let mut restarts = 0;
    loop {
        fsck.reset();
        match fsck.passes() {
            Err(Stop::Restart) if restarts < RESTARTS_MAX => restarts += 1,
            other => break other?,
        }
    }
    fsck.finish(prepared.replayed, outcome)
}

fn is_clean(sb: &Superblock) -> bool {
    sb.s_state() & (state::VALID_FS | state::ERROR_FS) == state::VALID_FS
}

impl Fsck<'_, '_> {
    fn reset(&mut self) {
        let (per, count) = (self.geo.clusters_per_group, self.geo.group_count);
        let spill = self.image.spill();
        self.used = BlockSet::new(per, count, spill);
        self.twice = BlockSet::new(per, count, spill);
        self.zones = BlockSet::new(per, count, spill);
        self.inodes = Inodes::new(self.geo.inodes_per_group, count, spill);
        self.dirs = Sparse::new(spill);
        self.xattr_blocks = Sparse::new(spill);
        self.ea_refs = Sparse::new(spill);
        self.policies = Policies::new(spill);
        self.rehash.clear();
        self.released.clear();
        self.lost_found = None;
        self.lost_inodes.clear();
        self.files = 0;
    }

    fn passes(&mut self) -> Result<()> {
        self.mark_zones()?;
        self.pass1()?;
        self.pass1b()?;
        self.pass2()?;
        self.pass3()?;
        self.pass4()?;
        self.rehash()?;
        self.make_journal()?;
        self.make_orphan_file()?;
        self.check_quotas()?;
        for (first, count) in std::mem::take(&mut self.released) {
            self.used.remove(first, count);
            self.moved.add(first, count);
        }
        self.pass5()
    }

    fn finish(&mut self, replayed: bool, outcome: &mut Outcome) -> Result<()> {
        self.image.spill().check()?;
        let fixing = self.report.answer() != Answer::No;
        let left = self.report.found > self.report.fixed;
        if !left {
            let valid = (self.sb.s_state() | state::VALID_FS) & !state::ERROR_FS;
            if self.sb.s_state() & state::VALID_FS == 0 && self.report.found == 0 {
                self.report.hint(Problem::NotClean, At::new())?;
            }
            self.sb.set_s_state(valid);
        } else if fixing {
            self.sb.set_s_state(self.sb.s_state() & !state::VALID_FS);
        }
        self.groups.store(&self.image, &self.geo, self.copies)?;
        self.raise_revision();
        self.store_superblock()?;
        let changed = self.image.is_changed();
        if fixing && changed {
            self.sb.set_s_lastcheck(self.options.now as i64);
            self.sb.set_s_wtime(self.options.now as i64);
            self.sb.set_s_mnt_count(0);
            self.store_superblock()?;
            self.image.flush()?;
        }
        let found = self.report.found;
        outcome.status |= match (found, fixing, left) {
            (0, _, _) => u8::from(fixing && (changed || replayed)),
            (_, true, false) => exit::CORRECTED,
            (_, true, true) => exit::UNCORRECTED | u8::from(changed),
            (_, false, _) => exit::UNCORRECTED,
        };
        outcome.files = self.files;
        outcome.inodes = self.geo.inodes_count.into();
        outcome.blocks = self.geo.blocks_count;
        outcome.blocks_used = self
            .geo
            .blocks_count
            .saturating_sub(self.sb.s_free_blocks_count());
        Ok(())
    }

    /// A feature that was found missing needs a revision that has features.
    fn raise_revision(&mut self) {
        let features = self.sb.features();
        let any = features.compat | features.incompat | features.ro_compat != 0;
        if any && self.sb.s_rev_level() == 0 {
            self.sb.set_s_rev_level(1);
            self.sb.set_s_first_ino(self.geo.first_ino);
            self.sb.set_s_inode_size(self.geo.inode_size as u16);
        }
    }

    fn store_superblock(&mut self) -> Result<()> {
        let size = u64::from(self.geo.block_size);
        let (block, at) = (OFFSET / size, (OFFSET % size) as usize);
        let mut bytes = self.image.read(block)?.to_vec();
        let new = self.sb.to_bytes();
        bytes[at..at + new.len()].copy_from_slice(&new);
        self.image.write(block, bytes, Stage::Summary)?;
        if self.copies {
            self.store_copies()?;
        }
        Ok(())
    }

    fn store_copies(&mut self) -> Result<()> {
        for group in self.geo.groups().skip(1) {
            if !self.geo.has_super(group) {
                continue;
            }
            let block = self.geo.first_block(group).get();
            let mut copy = self.sb.clone();
            copy.set_s_block_group_nr(group.get() as u16);
            let mut bytes = self.image.read(block)?.to_vec();
            let new = copy.to_bytes();
            bytes[..new.len()].copy_from_slice(&new);
            self.image.write(block, bytes, Stage::Summary)?;
        }
        Ok(())
    }

    /// The block and offset of an inode; `None` when its number or its group's table is impossible.
    pub fn inode_place(&self, ino: u32) -> Option<(u64, usize)> {
        inode_place(&self.geo, &self.groups, ino)
    }

    /// Changes a group's descriptor.
    pub fn change_group(&mut self, index: u32, change: impl FnOnce(&mut Group)) {
        self.groups.change(&self.geo, index, change);
    }

    pub fn read_inode(&self, ino: u32) -> Result<Raw> {
        read_inode(&self.image, &self.geo, &self.groups, ino)
    }

    pub fn write_inode(&self, ino: u32, raw: &mut Raw) -> Result<()> {
        write_inode(&self.image, &self.geo, &self.groups, ino, raw)
    }

    /// One reference less to the attribute block.
    pub fn release_attributes(&mut self, raw: &Raw) -> Result<()> {
        let block = raw.file_acl();
        let left = self.xattr_blocks.change(block, |shared| {
            shared.found = shared.found.saturating_sub(1);
            shared.found
        });
        let Some(left) = left else {
            return Ok(());
        };
        if left == 0 {
            let cluster = crate::alloc::cluster_of(&self.geo, block);
            if !self.twice.contains(cluster) {
                self.used.remove(cluster, 1);
            }
            self.xattr_blocks.remove(block);
        }
        if left > 0 {
            self.store_refcount(block, left)?;
        }
        Ok(())
    }

    /// Empties an inode that is to be free.
    pub fn clear_inode(&mut self, ino: u32) -> Result<()> {
        let mut raw = self.read_inode(ino)?;
        let room = raw.bytes.len().saturating_sub(crate::inode::OLD_SIZE);
        let extra = usize::from(raw.extra_isize());
        let odd = extra > room || !extra.is_multiple_of(4);
        if odd || ino < self.geo.first_ino && ino != 2 {
            raw.bytes.fill(0);
        } else {
            raw.set_links(0);
            raw.set_dtime(self.options.now as u32);
        }
        self.write_inode(ino, &mut raw)?;
        self.inodes.set(ino, crate::inodes::Known::default());
        self.dirs.remove(ino);
        Ok(())
    }
}

pub fn inode_place(geo: &Geometry, groups: &Groups, ino: u32) -> Option<(u64, usize)> {
    let (group, index) = geo.inode_place(InodeNumber::new(ino)).ok()?;
    let table = groups.inode_table(group.get())?;
    let block = table + u64::from(index / geo.inodes_per_block);
    let at = (index % geo.inodes_per_block) * geo.inode_size;
    crate::map::in_volume(geo, block, 1).then_some((block, at as usize))
}

pub fn read_inode(image: &Image, geo: &Geometry, groups: &Groups, ino: u32) -> Result<Raw> {
    let mut raw = Raw::zeroed(geo);
    if let Some((block, at)) = inode_place(geo, groups, ino) {
        let bytes = image.read(block)?;
        let size = raw.bytes.len();
        raw.bytes.copy_from_slice(&bytes[at..at + size]);
    }
    Ok(raw)
}

pub fn write_inode(
    image: &Image,
    geo: &Geometry,
    groups: &Groups,
    ino: u32,
    raw: &mut Raw,
) -> Result<()> {
    raw.stamp(geo, ino);
    if let Some((block, at)) = inode_place(geo, groups, ino) {
        let mut bytes = image.read(block)?.to_vec();
        bytes[at..at + raw.bytes.len()].copy_from_slice(&raw.bytes);
        image.write(block, bytes, Stage::Inode)?;
    }
    Ok(())
}

//! Writing a plan: tables, files, bitmaps, descriptors, then the superblocks.
//!
//! Source: the kernel's ext4 documentation, "Layout", "Block Group Descriptors" (the UNINIT flags).
//! Invariants: a group whose inode table was not zeroed throughout says so; the primary superblock goes last, behind
//! a sync of everything else; the jobs of one phase write to different places, and in any order the same bytes.

mod files;
mod groups;
mod table;

use super::space::Run;
use super::{MakeError, Plan, superblock};
use crate::device::Device;
use crate::error::Result;
use crate::format::geometry::Geometry;
use crate::format::superblock::Superblock;
use crate::sync::{Mutex, Rank};
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use table::Table;

/// What may hold the signature of an older volume: the first MiB and the last 64 KiB.
const WIPE_HEAD: u64 = 1 << 20;
const WIPE_TAIL: u64 = 64 << 10;
/// Bytes zeroed, and groups described or filled, by one job.
const ZERO_PIECE: u64 = 1 << 30;
const GROUPS_PIECE: u32 = 4096;

/// Writes the file system; the device must be at least `plan.len()` bytes long. Durable when it returns.
pub fn write(plan: &Plan, device: &dyn Device) -> Result<(), MakeError> {
    let writing = Writing::new(plan, device)?;
    for phase in Phase::ALL {
        for job in writing.begin(phase)? {
            writing.run(job)?;
        }
    }
    Ok(writing.finish()?)
}

/// Shows the features that were hidden, in every copy of the superblock.
pub fn reveal_features(plan: &Plan, device: &dyn Device) -> Result<(), MakeError> {
    let numbers = &plan.numbers;
    for group in (0..numbers.group_count).filter(|&group| numbers.has_super(group)) {
        let at = match group {
            0 => crate::format::superblock::OFFSET,
            _ => numbers.super_block(group) * u64::from(numbers.block_size),
        };
        let mut bytes = [0; crate::format::superblock::SIZE];
        device.read_at(at, &mut bytes)?;
        let mut sb = Superblock::parse(&bytes)?;
        sb.set_feature_compat(sb.s_feature_compat() | plan.hidden.compat);
        sb.set_feature_incompat(sb.s_feature_incompat() | plan.hidden.incompat);
        sb.set_feature_ro_compat(sb.s_feature_ro_compat() | plan.hidden.ro_compat);
        device.write_at(at, &sb.to_bytes())?;
    }
    Ok(device.sync()?)
}

/// What is written before what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Inode tables are zeroed.
    Tables,
    /// The files are written, the groups described.
    Groups,
    /// Bitmaps, descriptors and backups are written.
    Copies,
}

impl Phase {
    pub const ALL: [Self; 3] = [Self::Tables, Self::Groups, Self::Copies];
}

/// A part of a phase; all of them may run at once.
#[derive(Clone, Debug)]
pub enum Job {
    Zero(Run),
    Describe(Range<u32>),
    Bitmaps(Range<u32>),
    /// The superblock and the descriptors that lie in one group.
    Copy(u32),
}

/// A file system that is being written: each phase in turn is begun, then its jobs are run; then it is finished.
pub struct Writing<'a> {
    plan: &'a Plan,
    device: &'a dyn Device,
    geo: Geometry,
    /// Bytes, without zeroes.
    written: AtomicU64,
    /// What the groups' jobs came to: the first group, its and the following descriptors.
    described: Mutex<Vec<(u32, Vec<u8>)>>,
    /// All descriptors, and how much had been written when they were there.
    descriptors: OnceLock<(Table, u64)>,
}

impl<'a> Writing<'a> {
    pub fn new(plan: &'a Plan, device: &'a dyn Device) -> Result<Self, MakeError> {
        plan.check_device(device)?;
        let geo = Superblock::parse(&superblock::bytes(plan, 0, 0))?.geometry(plan.len())?;
        Ok(Self {
            plan,
            device,
            geo,
            written: AtomicU64::new(0),
            described: Mutex::new(Rank::Leaf, Vec::new()),
            descriptors: OnceLock::new(),
        })
    }

    /// Prepares a phase, once the jobs of the one before are done.
    pub fn begin(&self, phase: Phase) -> Result<Vec<Job>> {
        match phase {
            Phase::Tables => {
                self.wipe()?;
                Ok(self.tables_to_zero().into_iter().map(Job::Zero).collect())
            }
            Phase::Groups => {
                self.files()?;
                Ok(self.pieces().map(Job::Describe).collect())
            }
            Phase::Copies => {
                self.gather();
                Ok(self.copies())
            }
        }
    }

    pub fn run(&self, job: Job) -> Result<()> {
        match job {
            Job::Zero(run) => self.zero(run),
            Job::Describe(groups) => self.describe(groups),
            Job::Bitmaps(groups) => self.bitmaps(groups),
            Job::Copy(group) => self.copy(group),
        }
    }

    /// Durable when it returns.
    pub fn finish(&self) -> Result<()> {
        self.device.sync()?;
        self.put(
            crate::format::superblock::OFFSET,
            &superblock::bytes(self.plan, self.kbytes(), 0),
        )?;
        self.device.sync()
    }

    fn wipe(&self) -> Result<()> {
        if self.plan.options.zeroed {
            return Ok(());
        }
        let len = self.device.len();
        self.device.write_zeroes(0, WIPE_HEAD.min(len))?;
        let tail = len.saturating_sub(WIPE_TAIL);
        self.device.write_zeroes(tail, len - tail)
    }

    /// Whether inode tables are left to be zeroed by who mounts the volume.
    fn is_lazy(&self) -> bool {
        let options = &self.plan.options;
        options.lazy_itable_init && !options.zeroed && self.geo.features.group_csum()
    }

    /// All tables, neighbours at once; lazily, only what inodes in use need.
    fn tables_to_zero(&self) -> Vec<Run> {
        let numbers = &self.plan.numbers;
        let block_size = u64::from(numbers.block_size);
        if self.plan.options.zeroed {
            return Vec::new();
        }
        if self.is_lazy() {
            let used = self.plan.used_inodes() * numbers.inode_size;
            return vec![Run {
                start: self.plan.groups[0].inode_table,
                len: used.div_ceil(numbers.block_size).into(),
            }];
        }
        let mut runs = Vec::<Run>::new();
        for place in &self.plan.groups {
            let (start, len) = (place.inode_table, u64::from(numbers.itable_blocks));
            match runs.last_mut() {
                Some(run) if run.end() == start && run.len * block_size < ZERO_PIECE => {
                    run.len += len;
                }
                _ => runs.push(Run { start, len }),
            }
        }
        runs
    }

    fn pieces(&self) -> impl Iterator<Item = Range<u32>> + use<> {
        let count = self.plan.numbers.group_count;
        (0..count)
            .step_by(GROUPS_PIECE as usize)
            .map(move |start| start..start.saturating_add(GROUPS_PIECE).min(count))
    }

    /// The copies of the descriptor table and the bitmaps in turn: the first wait for the device, the others do not.
    fn copies(&self) -> Vec<Job> {
        let numbers = &self.plan.numbers;
        let has_copy =
            |&group: &u32| numbers.has_super(group) || numbers.descriptors(group).is_some();
        let copies = (0..numbers.group_count).filter(has_copy);
        let mut copies = copies.map(Job::Copy).collect::<Vec<_>>().into_iter();
        let pieces: Vec<_> = self.pieces().collect();
        let share = copies.len().div_ceil(pieces.len());
        let mut jobs = Vec::with_capacity(copies.len() + pieces.len());
        for piece in pieces {
            jobs.extend(copies.by_ref().take(share));
            jobs.push(Job::Bitmaps(piece));
        }
        jobs
    }

    fn copy(&self, group: u32) -> Result<()> {
        let numbers = &self.plan.numbers;
        let block_size = u64::from(numbers.block_size);
        let Some((descriptors, written)) = self.descriptors.get() else {
            return Ok(());
        };
        if let Some((block, table)) = numbers.descriptors(group) {
            let size = numbers.block_size as usize;
            let (start, end) = (table.start as usize * size, table.end as usize * size);
            self.put(block * block_size, &descriptors.bytes()[start..end])?;
        }
        if group > 0 && numbers.has_super(group) {
            let bytes = superblock::bytes(self.plan, written >> 10, group);
            self.put(numbers.super_block(group) * block_size, &bytes)?;
        }
        Ok(())
    }

    fn put_block(&self, block: u64, bytes: &[u8]) -> Result<()> {
        self.put(block * u64::from(self.plan.numbers.block_size), bytes)
    }

    fn put(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.written
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.device.write_behind(offset, bytes)
    }

    fn zero(&self, run: Run) -> Result<()> {
        if self.plan.options.zeroed {
            return Ok(());
        }
        let block_size = u64::from(self.plan.numbers.block_size);
        self.device
            .write_zeroes(run.start * block_size, run.len * block_size)
    }

    fn kbytes(&self) -> u64 {
        self.written.load(Ordering::Relaxed) >> 10
    }

    fn zeroed_block(&self) -> Vec<u8> {
        vec![0u8; self.plan.numbers.block_size as usize]
    }
}

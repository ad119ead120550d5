//! The whole layout of a new file system, before a byte is written.
//!
//! Source: the kernel's ext4 documentation; the places of journal, resize inode and orphan file are mke2fs's.
//! Invariants: pure; every block in use is marked in `space` exactly once, so free counts come from it alone.

use super::layout::{GroupPlace, Layout, place_groups};
use super::numbers::Numbers;
use super::quota::{self, Usage};
use super::space::{Run, Space};
use super::{MakeError, Options, tree};
use crate::device::Device;
use crate::format::features::{Features, compat, incompat, ro_compat};
use std::collections::BTreeMap;

/// Blocks that one written extent can map.
const MAX_EXTENT: u64 = 32768;
/// Extents in the inode itself.
const ROOT_EXTENTS: usize = 4;
const LOST_FOUND_BYTES: u32 = 16 << 10;
/// lost+found has no indirect blocks, so that it can be used when little else can.
const DIRECT_BLOCKS: u32 = 12;

/// How a file's blocks are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MapKind {
    #[default]
    Extents,
    /// Direct and indirect pointers.
    Pointers,
}

/// Where a file lies: its data in order, and the blocks that map it when the inode cannot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilePlace {
    pub runs: Vec<Run>,
    pub kind: MapKind,
    /// Extent leaf or indirect blocks.
    pub map_blocks: Vec<u64>,
}

impl FilePlace {
    /// Data blocks.
    pub fn blocks(&self) -> u64 {
        self.runs.iter().map(|run| run.len).sum()
    }

    /// Where the file's block `index` lies; `index` is below `blocks()`.
    pub fn block(&self, index: u64) -> u64 {
        let mut left = index;
        for run in &self.runs {
            if left < run.len {
                return run.start + left;
            }
            left -= run.len;
        }
        unreachable!("block {index} of {self:?}")
    }
}

/// A quota file: its inode, where it lies, what it holds.
#[derive(Clone, Debug)]
pub struct QuotaFile {
    pub ino: u32,
    pub place: FilePlace,
    pub bytes: Vec<u8>,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub numbers: Numbers,
    pub groups: Vec<GroupPlace>,
    pub root: FilePlace,
    pub lost_found: FilePlace,
    /// The double-indirect block of the resize inode.
    pub resize_block: Option<u64>,
    pub journal: Option<FilePlace>,
    pub mmp_block: Option<u64>,
    /// Of users, groups, projects.
    pub quotas: [Option<QuotaFile>; 3],
    pub orphan_file: Option<FilePlace>,
    /// Inode of the orphan file: the first that is free.
    pub orphan_ino: u32,
    /// Features that the superblock does not show yet.
    pub hidden: Features,
    /// What was asked for, but for the numbers above.
    pub options: Options,
    space: Space,
    /// Groups whose bitmap must be written.
    touched: Vec<bool>,
    /// Clusters that no file can ever use.
    overhead: u64,
    /// Free blocks of each group, once everything has its place.
    free: Vec<u32>,
}

const FIRST_INO: u32 = 11;
/// Features of files that a new volume does not have.
const UNUSED_INCOMPAT: u32 = incompat::MMP
    | incompat::EA_INODE
    | incompat::LARGEDIR
    | incompat::INLINE_DATA
    | incompat::ENCRYPT
    | incompat::CASEFOLD;

impl Plan {
    pub fn new(options: &Options) -> Result<Self, MakeError> {
        let mut options = options.clone();
        if options.revision == 0 {
            options.features.clear_for_revision_0()?;
        }
        let numbers = Numbers::new(&options)?;
        let mut space = Space::default();
        let Layout { places, touched } = place_groups(&numbers, &mut space)?;
        let space = space.rounded(1 << numbers.cluster_bits, numbers.blocks_count);
        let used = space.used_in(Run {
            start: 0,
            len: numbers.blocks_count,
        });
        let journal = u64::from(numbers.journal_blocks);
        let overhead =
            u64::from(numbers.first_data_block) + ((used + journal) >> numbers.cluster_bits);
        let mut plan = Self {
            numbers,
            groups: places,
            root: FilePlace::default(),
            lost_found: FilePlace::default(),
            resize_block: None,
            journal: None,
            mmp_block: None,
            quotas: [None, None, None],
            orphan_file: None,
            orphan_ino: FIRST_INO + 1,
            hidden: Features::default(),
            options,
            space,
            touched,
            overhead,
            free: Vec::new(),
        };
        plan.place_files()?;
        plan.free = plan.count_all_free();
        Ok(plan)
    }

    /// Hides the features that nobody uses before the first mount, so that what cannot write them all can fill the
    /// volume first: without the journal nothing is written twice.
    pub fn hide_features(&mut self) -> Result<(), MakeError> {
        let features = self.numbers.features;
        for (bit, name) in [
            (ro_compat::QUOTA, "quota"),
            (ro_compat::BIGALLOC, "bigalloc"),
        ] {
            if features.has_ro_compat(bit) {
                return Err(MakeError::Unsupported(format!("-d with feature {name}")));
            }
        }
        self.hidden = Features {
            compat: features.compat & (compat::HAS_JOURNAL | compat::ORPHAN_FILE),
            incompat: features.incompat & UNUSED_INCOMPAT,
            ro_compat: features.ro_compat & (ro_compat::PROJECT | ro_compat::VERITY),
        };
        Ok(())
    }

    /// The blocks of the superblock's backups.
    pub fn backup_superblocks(&self) -> impl Iterator<Item = u64> + '_ {
        (1..self.numbers.group_count)
            .filter(|&group| self.numbers.has_super(group))
            .map(|group| self.numbers.super_block(group))
    }

    /// Bytes that the file system takes.
    pub fn len(&self) -> u64 {
        self.numbers.blocks_count * u64::from(self.numbers.block_size)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the file system can be written to `device`.
    pub fn check_device(&self, device: &dyn Device) -> Result<(), MakeError> {
        let (len, sector_size) = (device.len(), device.sector_size());
        let block_size = self.numbers.block_size;
        let wrong = if device.read_only() {
            "the device is read-only".to_owned()
        } else if len < self.len() {
            format!(
                "the device has {len} bytes, the file system needs {}",
                self.len()
            )
        } else if block_size < sector_size {
            format!(
                "blocks of {block_size} bytes are smaller than the device's sectors of {sector_size} bytes"
            )
        } else {
            return Ok(());
        };
        Err(MakeError::Invalid(wrong))
    }

    pub fn free_blocks(&self) -> u64 {
        self.free.iter().map(|&free| u64::from(free)).sum()
    }

    pub fn group_free_blocks(&self, group: u32) -> u64 {
        self.free.get(group as usize).copied().unwrap_or(0).into()
    }

    fn count_free(&self, group: u32) -> u64 {
        self.numbers.group_blocks(group) - self.space.used_in(self.group_run(group))
    }

    /// Of every group, in one walk.
    fn count_all_free(&self) -> Vec<u32> {
        let numbers = &self.numbers;
        let mut free: Vec<u32> = (0..numbers.group_count)
            .map(|group| numbers.group_blocks(group) as u32)
            .collect();
        let first = numbers.first_data_block.into();
        let all = Run {
            start: first,
            len: numbers.blocks_count - first,
        };
        for used in self.space.overlaps(all) {
            for group in numbers.group_of(used.start)..=numbers.group_of(used.end() - 1) {
                let group_run = self.group_run(group);
                let (start, end) = (
                    used.start.max(group_run.start),
                    used.end().min(group_run.end()),
                );
                free[group as usize] -= (end - start) as u32;
            }
        }
        free
    }

    /// Inodes in use, all of them in the first group.
    pub fn used_inodes(&self) -> u32 {
        self.orphan_ino - u32::from(self.orphan_file.is_none())
    }

    pub fn free_inodes(&self) -> u32 {
        self.numbers.inodes_count - self.used_inodes()
    }

    /// The blocks of a group that are in use, ascending.
    pub fn used_runs(&self, group: u32) -> impl Iterator<Item = Run> + '_ {
        self.space.overlaps(self.group_run(group))
    }

    /// Whether the group's block bitmap follows from the layout, so that it need not be written.
    pub fn block_bitmap_implied(&self, group: u32) -> bool {
        let touched = self.touched.get(group as usize);
        group + 1 != self.numbers.group_count && touched == Some(&false)
    }

    /// Clusters that no file can ever use (`s_overhead_clusters`).
    pub fn overhead(&self) -> u64 {
        self.overhead
    }

    /// Blocks in a cluster.
    pub fn cluster_blocks(&self) -> u64 {
        1 << self.numbers.cluster_bits
    }

    fn group_run(&self, group: u32) -> Run {
        Run {
            start: self.numbers.group_first_block(group),
            len: self.numbers.group_blocks(group),
        }
    }

    fn place_files(&mut self) -> Result<(), MakeError> {
        let first = self.numbers.first_data_block.into();
        self.root = self.allocate(first, 1)?;
        self.lost_found = self.allocate(first, self.lost_found_blocks().into())?;
        if self.numbers.features.has_compat(compat::RESIZE_INODE) {
            let numbers = &self.numbers;
            let goal =
                3 + numbers.desc_blocks + numbers.reserved_gdt_blocks + numbers.itable_blocks;
            self.resize_block = self
                .allocate(goal.into(), 1)?
                .runs
                .first()
                .map(|run| run.start);
        }
        if self.numbers.journal_blocks > 0 {
            let goal = match self.options.journal_location {
                Some(block) if block >= self.numbers.blocks_count => {
                    return Err(MakeError::Invalid(format!(
                        "journal location {block}: the volume has {} blocks",
                        self.numbers.blocks_count
                    )));
                }
                Some(block) => block.max(first),
                None => self.numbers.group_first_block(self.journal_group()),
            };
            self.journal = Some(self.allocate(goal, self.numbers.journal_blocks.into())?);
        }
        if self.numbers.features.has_incompat(incompat::MMP) {
            self.mmp_block = self.allocate(first, 1)?.runs.first().map(|run| run.start);
        }
        self.place_quotas()?;
        if self.numbers.orphan_blocks > 0 {
            self.orphan_file = Some(self.allocate(first, self.numbers.orphan_blocks.into())?);
        }
        Ok(())
    }

    fn place_quotas(&mut self) -> Result<(), MakeError> {
        let features = self.numbers.features;
        if !features.has_ro_compat(ro_compat::QUOTA) {
            return Ok(());
        }
        let [users, groups, projects] = self.options.quotas;
        let projects = projects || features.has_ro_compat(ro_compat::PROJECT);
        let (uid, gid) = self.options.root_owner;
        let wanted = [
            (users, 3, uid),
            (groups, 4, gid),
            (projects, FIRST_INO + 1, 0),
        ];
        for (kind, (wanted, ino, root_owner)) in wanted.into_iter().enumerate() {
            if !wanted {
                continue;
            }
            let bytes = quota::file(kind, &self.usage(root_owner));
            let blocks = bytes.len().div_ceil(self.numbers.block_size as usize);
            let first = self.numbers.first_data_block.into();
            let place = self.allocate(first, blocks as u64)?;
            self.quotas[kind] = Some(QuotaFile { ino, place, bytes });
            self.orphan_ino = self.orphan_ino.max(ino + 1);
        }
        Ok(())
    }

    /// What is there belongs to the root user, but for the root directory.
    fn usage(&self, root_owner: u32) -> BTreeMap<u32, Usage> {
        let mut usage = BTreeMap::<u32, Usage>::new();
        for (owner, place) in [(root_owner, &self.root), (0, &self.lost_found)] {
            let used = usage.entry(owner).or_default();
            used.inodes += 1;
            used.bytes += self.blocks_of(place) * u64::from(self.numbers.block_size);
        }
        usage
    }

    /// The blocks that a file takes: whole clusters, and its map.
    pub fn blocks_of(&self, place: &FilePlace) -> u64 {
        let cluster = self.cluster_blocks();
        place.blocks().next_multiple_of(cluster) + place.map_blocks.len() as u64 * cluster
    }

    fn lost_found_blocks(&self) -> u32 {
        let blocks = (LOST_FOUND_BYTES / self.numbers.block_size).clamp(2, DIRECT_BLOCKS);
        // It began inside its inode: the first step was to leave it.
        let inline = self.numbers.features.has_incompat(incompat::INLINE_DATA);
        blocks - u32::from(inline)
    }

    /// The emptiest group around the middle of the volume.
    fn journal_group(&self) -> u32 {
        let numbers = &self.numbers;
        let flex_size = 1 << numbers.log_groups_per_flex;
        let half = (numbers.blocks_count - u64::from(numbers.first_data_block)) / 2;
        let middle = (half.saturating_sub(numbers.first_data_block.into())
            / u64::from(numbers.blocks_per_group)) as u32;
        let (start, around) = if numbers.log_groups_per_flex > 0 && middle > flex_size {
            let aligned = middle & !(flex_size - 1);
            let first = (aligned..numbers.group_count)
                .find(|&group| self.count_free(group) > 0)
                .unwrap_or(0);
            (first, first)
        } else {
            (middle.saturating_sub(1), middle)
        };
        let end = (around + 1).min(numbers.group_count - 1);
        // Of equals, the first.
        (start..=end)
            .rev()
            .max_by_key(|&group| self.count_free(group))
            .unwrap_or(start)
    }

    /// Takes free blocks from `goal` on for a file, and what it needs to map them.
    fn allocate(&mut self, goal: u64, blocks: u64) -> Result<FilePlace, MakeError> {
        if !self.numbers.features.has_incompat(incompat::EXTENTS) {
            return self.allocate_with_pointers(blocks);
        }
        let mut leaf = Some(Vec::new());
        let runs = self.take(goal, blocks, &mut leaf)?;
        let fits = (self.numbers.block_size as usize - 16) / 12;
        if runs.len() > fits {
            return Err(MakeError::TooSmall(self.len()));
        }
        Ok(FilePlace {
            runs,
            kind: MapKind::Extents,
            map_blocks: leaf.unwrap_or_default(),
        })
    }

    /// From the volume's start, the blocks of pointers each before what they point to.
    fn allocate_with_pointers(&mut self, blocks: u64) -> Result<FilePlace, MakeError> {
        let pointers = u64::from(self.numbers.block_size / 4);
        let all = blocks + tree::indirect_blocks(blocks, pointers);
        let taken = self.take(self.numbers.first_data_block.into(), all, &mut None)?;
        let mut place = FilePlace {
            kind: MapKind::Pointers,
            ..FilePlace::default()
        };
        let mut free = taken.into_iter().flat_map(Run::blocks);
        for index in 0..blocks {
            let before = tree::indirect_before(index, pointers);
            place.map_blocks.extend(free.by_ref().take(before));
            let block = free.next().unwrap_or(0);
            match place.runs.last_mut() {
                Some(run) if run.end() == block => run.len += 1,
                _ => place.runs.push(Run {
                    start: block,
                    len: 1,
                }),
            }
        }
        Ok(place)
    }

    /// Takes free blocks from `goal` on, then from the start of the volume. Once the inode has no room for another
    /// extent, a `leaf` is taken for them.
    fn take(
        &mut self,
        goal: u64,
        blocks: u64,
        leaf: &mut Option<Vec<u64>>,
    ) -> Result<Vec<Run>, MakeError> {
        let cluster = self.cluster_blocks();
        let mut runs = Vec::<Run>::new();
        let mut left = blocks;
        let mut at = goal;
        let mut wrapped = false;
        while left > 0 {
            let Some(free) = self.space.free_run(at, self.numbers.blocks_count) else {
                if wrapped {
                    return Err(MakeError::TooSmall(self.len()));
                }
                wrapped = true;
                at = self.numbers.first_data_block.into();
                continue;
            };
            let most = left.next_multiple_of(cluster).min(MAX_EXTENT.max(cluster));
            let run = Run {
                start: free.start,
                len: free.len.min(most),
            };
            self.take_run(run);
            at = run.end();
            let data = run.len.min(left);
            left -= data;
            for offset in (0..data).step_by(MAX_EXTENT as usize) {
                let len = (data - offset).min(MAX_EXTENT);
                let start = run.start + offset;
                runs.push(Run { start, len });
            }
            if let Some(leaf) = leaf
                && leaf.is_empty()
                && runs.len() > ROOT_EXTENTS
            {
                leaf.push(self.leaf_block(runs[0].start - 1)?);
            }
        }
        Ok(runs)
    }

    /// A block for extents that the inode cannot hold, close to the file.
    fn leaf_block(&mut self, goal: u64) -> Result<u64, MakeError> {
        let cluster = self.cluster_blocks();
        let end = self.numbers.blocks_count;
        let first = self.numbers.first_data_block.into();
        let block = self
            .space
            .first_fit(goal / cluster * cluster, cluster, end)
            .or_else(|| self.space.first_fit(first, cluster, end))
            .ok_or(MakeError::TooSmall(self.len()))?;
        self.take_run(Run {
            start: block,
            len: cluster,
        });
        Ok(block)
    }

    fn take_run(&mut self, run: Run) {
        self.space.mark(run);
        for group in self.numbers.group_of(run.start)..=self.numbers.group_of(run.end() - 1) {
            self.touched[group as usize] = true;
        }
    }
}

//! The whole layout of a new file system, before a byte is written.
//!
//! Source: the kernel's ext4 documentation; the places of journal, resize inode and orphan file are mke2fs's.
//! Invariants: pure; every block in use is marked in `space` exactly once, so free counts come from it alone.

use super::layout::{GroupPlace, place_groups};
use super::numbers::{Numbers, has_super};
use super::space::{Run, Space};
use super::{MakeError, Options, tree};
use crate::device::Device;
use crate::format::features::{compat, incompat};
use crate::format::time::Timestamp;

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

#[derive(Clone, Debug)]
pub struct Plan {
    pub numbers: Numbers,
    pub groups: Vec<GroupPlace>,
    pub root: FilePlace,
    pub lost_found: FilePlace,
    /// The double-indirect block of the resize inode.
    pub resize_block: Option<u64>,
    pub journal: Option<FilePlace>,
    pub orphan_file: Option<FilePlace>,
    pub label: Vec<u8>,
    pub uuid: [u8; 16],
    pub hash_seed: [u8; 16],
    pub time: Timestamp,
    space: Space,
}

impl Plan {
    pub fn new(options: &Options) -> Result<Self, MakeError> {
        let numbers = Numbers::new(options)?;
        let mut space = Space::default();
        let groups = place_groups(&numbers, &mut space)?;
        let mut plan = Self {
            numbers,
            groups,
            root: FilePlace::default(),
            lost_found: FilePlace::default(),
            resize_block: None,
            journal: None,
            orphan_file: None,
            label: options.label.clone(),
            uuid: options.uuid,
            hash_seed: options.hash_seed,
            time: options.time,
            space,
        };
        plan.place_files()?;
        Ok(plan)
    }

    /// The blocks of the superblock's backups.
    pub fn backup_superblocks(&self) -> impl Iterator<Item = u64> + '_ {
        (1..self.numbers.group_count)
            .filter(|&group| has_super(group))
            .map(|group| self.numbers.group_first_block(group))
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
        (0..self.numbers.group_count)
            .map(|group| self.group_free_blocks(group))
            .sum()
    }

    pub fn group_free_blocks(&self, group: u32) -> u64 {
        self.numbers.group_blocks(group) - self.space.used_in(self.group_run(group))
    }

    /// Inodes in use, all of them in the first group.
    pub fn used_inodes(&self) -> u32 {
        if self.orphan_file.is_some() { 12 } else { 11 }
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
        let run = self.group_run(group);
        let Some(place) = self.groups.get(group as usize) else {
            return false;
        };
        let own = [
            (place.block_bitmap, 1),
            (place.inode_bitmap, 1),
            (place.inode_table, self.numbers.itable_blocks),
        ];
        let own_blocks: u64 = own
            .into_iter()
            .filter(|(start, _)| (run.start..run.end()).contains(start))
            .map(|(_, len)| u64::from(len))
            .sum();
        group + 1 != self.numbers.group_count
            && self.space.used_in(run) == self.numbers.base_meta_blocks(group) + own_blocks
    }

    /// Blocks that no file can ever use (`s_overhead_clusters`).
    pub fn overhead(&self) -> u64 {
        let numbers = &self.numbers;
        let base: u64 = (0..numbers.group_count)
            .map(|group| numbers.base_meta_blocks(group))
            .sum();
        let tables = u64::from(numbers.group_count) * (2 + u64::from(numbers.itable_blocks));
        u64::from(numbers.first_data_block) + base + tables + u64::from(numbers.journal_blocks)
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
            let goal = self.numbers.group_first_block(self.journal_group());
            self.journal = Some(self.allocate(goal, self.numbers.journal_blocks.into())?);
        }
        if self.numbers.orphan_blocks > 0 {
            self.orphan_file = Some(self.allocate(first, self.numbers.orphan_blocks.into())?);
        }
        Ok(())
    }

    fn lost_found_blocks(&self) -> u32 {
        (LOST_FOUND_BYTES / self.numbers.block_size).clamp(2, DIRECT_BLOCKS)
    }

    /// The emptiest group around the middle of the volume.
    fn journal_group(&self) -> u32 {
        let numbers = &self.numbers;
        let flex_size = 1 << numbers.log_groups_per_flex;
        let half = (numbers.blocks_count - u64::from(numbers.first_data_block)) / 2;
        let middle = (half.saturating_sub(numbers.first_data_block.into())
            / u64::from(numbers.blocks_per_group)) as u32;
        let start = if numbers.log_groups_per_flex > 0 && middle > flex_size {
            let aligned = middle & !(flex_size - 1);
            (aligned..numbers.group_count)
                .find(|&group| self.group_free_blocks(group) > 0)
                .unwrap_or(0)
        } else {
            middle.saturating_sub(1)
        };
        let end = if middle + 1 < numbers.group_count {
            middle + 1
        } else {
            middle
        };
        // Of equals, the first.
        (start..=end)
            .rev()
            .max_by_key(|&group| self.group_free_blocks(group))
            .unwrap_or(start)
    }

    /// Takes free blocks from `goal` on for a file, and what it needs to map them.
    fn allocate(&mut self, goal: u64, blocks: u64) -> Result<FilePlace, MakeError> {
        let runs = self.take(goal, blocks)?;
        if !self.numbers.features.has_incompat(incompat::EXTENTS) {
            let pointers = u64::from(self.numbers.block_size / 4);
            let after = runs.last().map_or(goal, |run| run.end());
            let indirect = self.take(after, tree::indirect_blocks(blocks, pointers))?;
            return Ok(FilePlace {
                runs,
                kind: MapKind::Pointers,
                map_blocks: indirect.into_iter().flat_map(Run::blocks).collect(),
            });
        }
        let map_blocks = match runs.len() {
            0..=ROOT_EXTENTS => Vec::new(),
            count => vec![self.leaf_block(goal, count)?],
        };
        Ok(FilePlace {
            runs,
            kind: MapKind::Extents,
            map_blocks,
        })
    }

    /// Takes free blocks from `goal` on, then from the start of the volume.
    fn take(&mut self, goal: u64, blocks: u64) -> Result<Vec<Run>, MakeError> {
        let mut runs = Vec::new();
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
            let run = Run {
                start: free.start,
                len: free.len.min(left).min(MAX_EXTENT),
            };
            self.space.mark(run);
            left -= run.len;
            at = run.end();
            runs.push(run);
        }
        Ok(runs)
    }

    /// A block for extents that the inode cannot hold, close to the file.
    fn leaf_block(&mut self, goal: u64, extents: usize) -> Result<u64, MakeError> {
        let fits = (self.numbers.block_size as usize - 16) / 12;
        let end = self.numbers.blocks_count;
        let block = self
            .space
            .first_fit(goal.saturating_sub(1), 1, end)
            .or_else(|| {
                self.space
                    .first_fit(self.numbers.first_data_block.into(), 1, end)
            })
            .filter(|_| extents <= fits)
            .ok_or(MakeError::TooSmall(self.len()))?;
        self.space.mark(Run {
            start: block,
            len: 1,
        });
        Ok(block)
    }
}

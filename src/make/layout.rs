//! Where each group's bitmaps and inode table go.
//!
//! Source: the kernel's ext4 documentation, "Flexible Block Groups"; the order and the gaps are mke2fs's.
//! Invariants: no two structures share a block.

use super::MakeError;
use super::numbers::Numbers;
use super::space::{Run, Space};

/// The metadata of one group, in blocks of the volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupPlace {
    pub block_bitmap: u64,
    pub inode_bitmap: u64,
    pub inode_table: u64,
}

/// The metadata of all groups.
pub struct Layout {
    pub places: Vec<GroupPlace>,
    /// Groups whose block bitmap does not follow from the descriptor alone.
    pub touched: Vec<bool>,
}

/// Places the metadata of all groups and marks it in `space`.
pub fn place_groups(numbers: &Numbers, space: &mut Space) -> Result<Layout, MakeError> {
    for group in 0..numbers.group_count {
        let len = numbers.base_meta_blocks(group);
        if len > 0 {
            let start = numbers.group_first_block(group);
            space.mark(Run { start, len });
        }
    }
    let mut placing = Placing {
        numbers,
        space,
        layout: Layout {
            places: Vec::with_capacity(numbers.group_count as usize),
            touched: vec![false; numbers.group_count as usize],
        },
    };
    let mut group = 0;
    while group < numbers.group_count {
        let placed = placing.place_regular(group);
        if placed == 0 {
            let place = placing.place(group)?;
            placing.layout.places.push(place);
        }
        group += placed.max(1);
    }
    Ok(placing.layout)
}

struct Placing<'a> {
    numbers: &'a Numbers,
    space: &'a mut Space,
    layout: Layout,
}

impl Placing<'_> {
    fn place(&mut self, group: u32) -> Result<GroupPlace, MakeError> {
        if self.numbers.log_groups_per_flex == 0 {
            self.place_alone(group)
        } else {
            self.place_in_flex_group(group)
        }
    }

    fn place_alone(&mut self, group: u32) -> Result<GroupPlace, MakeError> {
        let itable_blocks = u64::from(self.numbers.itable_blocks);
        let first = self.numbers.group_first_block(group);
        let last = self.numbers.group_last_block(group);
        let from = self.staggered(group, first, last);
        let mut bitmap = || match self.find(from, 1, last) {
            Some(block) => self.take(block, 1),
            None => self.take(self.find_or_fail(first, 1, last)?, 1),
        };
        Ok(GroupPlace {
            block_bitmap: bitmap()?,
            inode_bitmap: bitmap()?,
            inode_table: {
                let at = self.find_or_fail(first, itable_blocks, last)?;
                self.take(at, itable_blocks)?
            },
        })
    }

    /// On a RAID the bitmaps of the groups go to different disks.
    fn staggered(&self, group: u32, first: u64, last: u64) -> u64 {
        let stride = u64::from(self.numbers.stride);
        let free = if stride == 0 {
            None
        } else {
            self.find(first, 1, last)
        };
        free.map(|block| block + u64::from(self.numbers.itable_blocks))
            .filter(|&behind| behind < last)
            .map(|behind| behind + stride * u64::from(group) % (last - behind + 1))
            .filter(|&at| at < last)
            .unwrap_or(first)
    }

    /// A flex group whose bitmaps and tables all lie in one row, as most do, is placed at once; the result is what
    /// placing one structure after the other comes to. Returns how many groups that were.
    fn place_regular(&mut self, group: u32) -> u32 {
        let numbers = self.numbers;
        let size = 1 << numbers.log_groups_per_flex;
        let count = size.min(numbers.group_count - group);
        if count == 1 || !group.is_multiple_of(size) {
            return 0;
        }
        let last = numbers.group_last_block(group + count - 1);
        let (each, itable_blocks) = (u64::from(count), u64::from(numbers.itable_blocks));
        let len = each * (2 + itable_blocks);
        let wide = each.min(u64::from(numbers.blocks_per_group) / 4);
        let first = numbers.group_first_block(group);
        let Some(start) = self.find(first, wide, last) else {
            return 0;
        };
        let row = Run { start, len };
        if row.end() > numbers.blocks_count || self.space.used_in(row) > 0 {
            return 0;
        }
        self.space.mark(row);
        self.touch(row);
        for index in 0..each {
            self.layout.places.push(GroupPlace {
                block_bitmap: start + index,
                inode_bitmap: start + each + index,
                inode_table: start + 2 * each + index * itable_blocks,
            });
        }
        count
    }

    fn touch(&mut self, run: Run) {
        for group in self.numbers.group_of(run.start)..=self.numbers.group_of(run.end() - 1) {
            self.layout.touched[group as usize] = true;
        }
    }

    /// Behind the same structure of the group before; the first of each kind leaves room for the others.
    fn place_in_flex_group(&mut self, group: u32) -> Result<GroupPlace, MakeError> {
        let size = 1 << self.numbers.log_groups_per_flex;
        // A flex group cut short leaves less room, but one of a single group does not.
        let stride = match size.min(self.numbers.group_count - group) {
            1 => u64::from(size),
            count => u64::from(count),
        };
        let itable_blocks = u64::from(self.numbers.itable_blocks);
        let before = if group.is_multiple_of(size) {
            None
        } else {
            self.layout.places.last().copied()
        };
        let goal = before.map(|place| place.block_bitmap + 1);
        let block_bitmap = self.take_in_flex_group(group, goal, 1)?;
        let goal = before.map_or(block_bitmap + stride, |place| place.inode_bitmap + 1);
        let inode_bitmap = self.take_in_flex_group(group, Some(goal), 1)?;
        let goal = before.map_or(inode_bitmap + stride, |place| {
            place.inode_table + itable_blocks
        });
        let inode_table = self.take_in_flex_group(group, Some(goal), itable_blocks)?;
        Ok(GroupPlace {
            block_bitmap,
            inode_bitmap,
            inode_table,
        })
    }

    /// At the goal if it is free; else where all that is still to come of this kind fits; else anywhere.
    fn take_in_flex_group(
        &mut self,
        group: u32,
        goal: Option<u64>,
        len: u64,
    ) -> Result<u64, MakeError> {
        let numbers = self.numbers;
        let first_group = group >> numbers.log_groups_per_flex << numbers.log_groups_per_flex;
        let flex_end = u64::from(first_group) + (1 << numbers.log_groups_per_flex);
        let last_group = flex_end.min(numbers.group_count.into()) as u32 - 1;
        let (first, last) = (
            numbers.group_first_block(first_group),
            numbers.group_last_block(last_group),
        );
        let is_free = |&start: &u64| {
            start + len <= numbers.blocks_count && self.space.used_in(Run { start, len }) == 0
        };
        let to_come = u64::from(last_group - group + 1) * len;
        let wide = to_come.min(u64::from(numbers.blocks_per_group) / 4);
        let at = goal
            .filter(is_free)
            .or_else(|| self.find(first, wide.max(len), last))
            .or_else(|| self.find(first, len, last));
        let at = match at {
            Some(at) => at,
            None => self.find_or_fail(numbers.first_data_block.into(), len, last)?,
        };
        let start = self.take(at, len)?;
        self.touch(Run { start, len });
        Ok(start)
    }

    /// A free run that begins from `from` to before `last`, or from the volume's start when there is none.
    fn find(&self, from: u64, len: u64, last: u64) -> Option<u64> {
        let end = (last.max(from + 1) - 1 + len).min(self.numbers.blocks_count);
        self.space.first_fit(from, len, end)
    }

    fn find_or_fail(&self, from: u64, len: u64, last: u64) -> Result<u64, MakeError> {
        let bytes = self.numbers.blocks_count * u64::from(self.numbers.block_size);
        self.find(from, len, last)
            .or_else(|| {
                let first = self.numbers.first_data_block.into();
                self.space.first_fit(first, len, self.numbers.blocks_count)
            })
            .ok_or(MakeError::TooSmall(bytes))
    }

    fn take(&mut self, start: u64, len: u64) -> Result<u64, MakeError> {
        self.space.mark(Run { start, len });
        Ok(start)
    }
}

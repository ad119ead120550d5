//! Writing a plan: tables, files, bitmaps, descriptors, then the superblocks.
//!
//! Source: the kernel's ext4 documentation, "Layout", "Block Group Descriptors" (the UNINIT flags).
//! Invariants: a group whose inode table was not zeroed throughout says so; the primary superblock goes last, behind
//! a sync of everything else.

mod files;

use super::space::Run;
use super::{MakeError, Plan, superblock};
use crate::device::Device;
use crate::error::Result;
use crate::format::checksum;
use crate::format::geometry::Geometry;
use crate::format::group::{self, GroupDesc};
use crate::format::superblock::Superblock;
use crate::ids::{FsBlock, GroupIndex};
use std::cell::Cell;

/// What may hold the signature of an older volume: the first MiB and the last 64 KiB.
const WIPE_HEAD: u64 = 1 << 20;
const WIPE_TAIL: u64 = 64 << 10;
/// Writes the file system; the device must be at least `plan.len()` bytes long. Durable when it returns.
pub fn write(plan: &Plan, device: &dyn Device) -> Result<(), MakeError> {
    write_watched(plan, device, &|_, _| {})
}

/// The same; `watch` hears now and then how many groups of how many are done.
pub fn write_watched(
    plan: &Plan,
    device: &dyn Device,
    watch: &dyn Fn(u64, u64),
) -> Result<(), MakeError> {
    plan.check_device(device)?;
    let geo = Superblock::parse(&superblock::bytes(plan, 0, 0))?.geometry(plan.len())?;
    let writer = Writer {
        plan,
        device,
        geo,
        written: Cell::new(0),
        watch,
    };
    writer.wipe()?;
    writer.zero_inode_tables()?;
    writer.files()?;
    let descriptors = writer.groups()?;
    writer.superblocks(&descriptors)?;
    Ok(())
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

struct Writer<'a> {
    plan: &'a Plan,
    device: &'a dyn Device,
    geo: Geometry,
    /// Bytes, without zeroes.
    written: Cell<u64>,
    watch: &'a dyn Fn(u64, u64),
}

impl Writer<'_> {
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
    fn zero_inode_tables(&self) -> Result<()> {
        if self.plan.options.zeroed {
            return Ok(());
        }
        let numbers = &self.plan.numbers;
        if self.is_lazy() {
            let used = self.plan.used_inodes() * numbers.inode_size;
            let run = Run {
                start: self.plan.groups[0].inode_table,
                len: used.div_ceil(numbers.block_size).into(),
            };
            return self.zero(run);
        }
        let len = u64::from(numbers.itable_blocks);
        let mut pending: Option<Run> = None;
        for place in &self.plan.groups {
            let table = Run {
                start: place.inode_table,
                len,
            };
            pending = match pending {
                Some(run) if run.end() == table.start => Some(Run {
                    len: run.len + len,
                    ..run
                }),
                Some(run) => {
                    self.zero(run)?;
                    Some(table)
                }
                None => Some(table),
            };
        }
        pending.map_or(Ok(()), |run| self.zero(run))
    }

    /// The bitmaps; returns the descriptor table.
    fn groups(&self) -> Result<Vec<u8>> {
        let numbers = &self.plan.numbers;
        let desc_size = numbers.desc_size as usize;
        let mut table = vec![0u8; numbers.desc_blocks as usize * numbers.block_size as usize];
        for (index, bytes) in (0..numbers.group_count).zip(table.chunks_exact_mut(desc_size)) {
            if index % 256 == 0 {
                (self.watch)(index.into(), numbers.group_count.into());
            }
            let desc = self.group(index)?;
            desc.write_to(bytes, &self.geo, GroupIndex::new(index));
        }
        Ok(table)
    }

    /// One group's bitmaps, where something must be written, and its descriptor.
    fn group(&self, index: u32) -> Result<GroupDesc> {
        let numbers = &self.plan.numbers;
        let place = self.plan.groups[index as usize];
        let lazy = self.geo.features.group_csum();
        let used_inodes = if index == 0 {
            self.plan.used_inodes()
        } else {
            0
        };
        let free_inodes = numbers.inodes_per_group - used_inodes;
        let mut desc = GroupDesc {
            block_bitmap: FsBlock::new(place.block_bitmap),
            inode_bitmap: FsBlock::new(place.inode_bitmap),
            inode_table: FsBlock::new(place.inode_table),
            free_blocks: (self.plan.group_free_blocks(index) >> numbers.cluster_bits) as u32,
            free_inodes,
            used_dirs: if index == 0 { 2 } else { 0 },
            flags: 0,
            block_bitmap_csum: 0,
            inode_bitmap_csum: 0,
            itable_unused: if lazy { free_inodes } else { 0 },
        };
        if lazy && !self.is_lazy() {
            desc.flags |= group::flag::INODE_ZEROED;
        }
        if lazy && self.plan.block_bitmap_implied(index) {
            desc.flags |= group::flag::BLOCK_UNINIT;
        } else {
            let bitmap = self.block_bitmap(index);
            desc.block_bitmap_csum = checksum::block_bitmap(&self.geo, &bitmap);
            self.put_block(place.block_bitmap, &bitmap)?;
        }
        if lazy && used_inodes == 0 {
            desc.flags |= group::flag::INODE_UNINIT;
        } else {
            let mut bitmap = self.zeroed_block();
            set_bits(&mut bitmap, 0..used_inodes as usize);
            let bits = bitmap.len() * 8;
            set_bits(&mut bitmap, numbers.inodes_per_group as usize..bits);
            desc.inode_bitmap_csum = checksum::inode_bitmap(&self.geo, &bitmap);
            self.put_block(place.inode_bitmap, &bitmap)?;
        }
        Ok(desc)
    }

    fn block_bitmap(&self, index: u32) -> Vec<u8> {
        let numbers = &self.plan.numbers;
        let first = numbers.group_first_block(index);
        let mut bitmap = self.zeroed_block();
        for run in self.plan.used_runs(index) {
            let (start, end) = (run.start - first, run.end() - first);
            let clusters = start >> numbers.cluster_bits..end.div_ceil(self.plan.cluster_blocks());
            set_bits(&mut bitmap, clusters.start as usize..clusters.end as usize);
        }
        let clusters = numbers
            .group_blocks(index)
            .div_ceil(self.plan.cluster_blocks());
        let bits = bitmap.len() * 8;
        set_bits(&mut bitmap, clusters as usize..bits);
        bitmap
    }

    fn superblocks(&self, descriptors: &[u8]) -> Result<()> {
        let numbers = &self.plan.numbers;
        let block_size = u64::from(numbers.block_size);
        for group in 0..numbers.group_count {
            if let Some((block, table)) = numbers.descriptors(group) {
                let (start, end) = (table.start as usize, table.end as usize);
                let size = numbers.block_size as usize;
                self.put(block * block_size, &descriptors[start * size..end * size])?;
            }
            if group > 0 && numbers.has_super(group) {
                let bytes = superblock::bytes(self.plan, self.kbytes(), group);
                self.put(numbers.super_block(group) * block_size, &bytes)?;
            }
        }
        self.device.sync()?;
        self.put(
            crate::format::superblock::OFFSET,
            &superblock::bytes(self.plan, self.kbytes(), 0),
        )?;
        self.device.sync()
    }

    fn put_block(&self, block: u64, bytes: &[u8]) -> Result<()> {
        self.put(block * u64::from(self.plan.numbers.block_size), bytes)
    }

    fn put(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.written.set(self.written.get() + bytes.len() as u64);
        self.device.write_at(offset, bytes)
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
        self.written.get() >> 10
    }

    fn zeroed_block(&self) -> Vec<u8> {
        vec![0u8; self.plan.numbers.block_size as usize]
    }
}

fn set_bits(bitmap: &mut [u8], range: std::ops::Range<usize>) {
    use bitvec::prelude::{BitSlice, Lsb0};
    if !range.is_empty() {
        BitSlice::<u8, Lsb0>::from_slice_mut(bitmap)[range].fill(true);
    }
}

//! A read-only view of a device in which copies stand for some blocks: those in a log that has not been replayed, or backups.
//!
//! Source: the design's section on the journal: read-only mounts write nothing.
//! Invariants: a block with a copy is read from there, with a log's escaping undone; writes are refused.

use super::byte_offset;
use crate::device::Device;
use crate::error::{Posix, Result};
use crate::format::jbd2;
use crate::ids::FsBlock;
use std::collections::BTreeMap;
use std::io::IoSlice;
use std::sync::Arc;

pub struct OverlayDevice {
    device: Arc<dyn Device>,
    block_size: u32,
    /// Home block to its copy's place, and whether the copy is escaped.
    moved: BTreeMap<FsBlock, (FsBlock, bool)>,
}

impl OverlayDevice {
    pub fn new(
        device: Arc<dyn Device>,
        block_size: u32,
        moved: BTreeMap<FsBlock, (FsBlock, bool)>,
    ) -> Self {
        Self {
            device,
            block_size,
            moved,
        }
    }

    /// How many blocks are read from the log.
    pub fn moved_blocks(&self) -> usize {
        self.moved.len()
    }
}

impl Device for OverlayDevice {
    fn len(&self) -> u64 {
        self.device.len()
    }

    fn sector_size(&self) -> u32 {
        self.device.sector_size()
    }

    fn read_only(&self) -> bool {
        true
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.device.read_at(offset, buffer)?;
        if buffer.is_empty() {
            return Ok(());
        }
        let size = u64::from(self.block_size);
        let end = offset.saturating_add(buffer.len() as u64);
        let blocks = FsBlock::new(offset / size)..=FsBlock::new((end - 1) / size);
        let mut data = vec![0; self.block_size as usize];
        for (&home, &(copy, escaped)) in self.moved.range(blocks) {
            self.device
                .read_at(byte_offset(self.block_size, copy), &mut data)?;
            if escaped {
                jbd2::unescape(&mut data);
            }
            let home = byte_offset(self.block_size, home);
            let (from, to) = (home.max(offset), (home + size).min(end));
            let source = &data[(from - home) as usize..(to - home) as usize];
            buffer[(from - offset) as usize..(to - offset) as usize].copy_from_slice(source);
        }
        Ok(())
    }

    fn write_at(&self, _offset: u64, _bytes: &[u8]) -> Result<()> {
        Err(Posix::RoFs.into())
    }

    fn write_vectored_at(&self, _offset: u64, _slices: &[IoSlice<'_>]) -> Result<()> {
        Err(Posix::RoFs.into())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn discard(&self, _offset: u64, _length: u64) -> Result<()> {
        Err(Posix::RoFs.into())
    }

    fn write_zeroes(&self, _offset: u64, _length: u64) -> Result<()> {
        Err(Posix::RoFs.into())
    }
}

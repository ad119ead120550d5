//! The file system's blocks as the run sees them, and the one path by which repairs reach the device.
//!
//! Source: the design's section on the checker.
//! Invariants: a changed block is kept in memory until `flush`; `flush` writes in the order of `Stage` with a barrier
//! after each, so that what points to a block is written after it, and a run after a crash finds the rest; a block
//! whose bytes did not change is not written.

use crate::Result;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use uext4::device::Device;
use uext4::error::Error;

/// When a block is written; the order is that of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Contents of blocks that nothing points to yet.
    Fresh,
    /// Attribute blocks, index blocks and directories in place.
    Body,
    Inode,
    Bitmap,
    /// Descriptors and superblock.
    Summary,
}

/// Bytes of clean blocks that are kept.
const CLEAN_MAX: usize = 1 << 20;

pub struct Image {
    device: Arc<dyn Device>,
    block_size: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    changed: BTreeMap<u64, (Stage, Arc<[u8]>)>,
    clean: HashMap<u64, Arc<[u8]>>,
}

impl Image {
    pub fn new(device: Arc<dyn Device>, block_size: u32) -> Self {
        Self {
            device,
            block_size: block_size as usize,
            state: Mutex::default(),
        }
    }

    pub fn block_size(&self) -> usize {
        self.block_size
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn read(&self, block: u64) -> Result<Arc<[u8]>> {
        {
            let state = self.state();
            let changed = state.changed.get(&block).map(|(_, bytes)| bytes);
            if let Some(bytes) = changed.or_else(|| state.clean.get(&block)) {
                return Ok(Arc::clone(bytes));
            }
        }
        let mut bytes = vec![0; self.block_size];
        self.device.read_at(self.offset(block)?, &mut bytes)?;
        let bytes: Arc<[u8]> = bytes.into();
        let mut state = self.state();
        if state.clean.len() * self.block_size >= CLEAN_MAX {
            state.clean.clear();
        }
        state.clean.insert(block, Arc::clone(&bytes));
        Ok(bytes)
    }

    /// `count` blocks from `first` in one read, changes included.
    pub fn read_run(&self, first: u64, count: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; count.saturating_mul(self.block_size)];
        self.device.read_at(self.offset(first)?, &mut bytes)?;
        let end = first.saturating_add(count as u64);
        for (block, (_, changed)) in self.state().changed.range(first..end) {
            let at = (block - first) as usize * self.block_size;
            bytes[at..at + self.block_size].copy_from_slice(changed);
        }
        Ok(bytes)
    }

    pub fn write(&self, block: u64, bytes: Vec<u8>, stage: Stage) -> Result<()> {
        debug_assert_eq!(bytes.len(), self.block_size);
        if stage != Stage::Fresh && *self.read(block)? == *bytes {
            return Ok(());
        }
        let mut state = self.state();
        state.clean.remove(&block);
        let stage = state
            .changed
            .get(&block)
            .map_or(stage, |(before, _)| stage.max(*before));
        state.changed.insert(block, (stage, bytes.into()));
        Ok(())
    }

    pub fn is_changed(&self) -> bool {
        !self.state().changed.is_empty()
    }

    fn offset(&self, block: u64) -> Result<u64> {
        block
            .checked_mul(self.block_size as u64)
            .ok_or_else(|| Error::from(uext4::error::Posix::Inval).into())
    }

    /// Writes all changes.
    pub fn flush(&self) -> Result<()> {
        let mut state = self.state();
        for stage in [
            Stage::Fresh,
            Stage::Body,
            Stage::Inode,
            Stage::Bitmap,
            Stage::Summary,
        ] {
            let mut any = false;
            for (block, (of, bytes)) in &state.changed {
                if *of == stage {
                    self.device.write_at(self.offset(*block)?, bytes)?;
                    any = true;
                }
            }
            if any {
                self.device.sync()?;
            }
        }
        state.changed.clear();
        state.clean.clear();
        Ok(())
    }
}

//! The file system's blocks as the run sees them, and the one path by which repairs reach the device.
//!
//! Source: the design's section on the checker.
//! Invariants: a changed block is kept in memory, or in the spill file, until `flush`; `flush` writes in the order of
//! `Stage` with a barrier after each, so that what points to a block is written after it, and a run after a crash finds
//! the rest; a block whose bytes did not change is not written.

use crate::Result;
use crate::spill::{Away, Spill};
use std::collections::{BTreeMap, HashMap, VecDeque};
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
const CLEAN_MAX: usize = 1 << 16;
/// Changed blocks that stay in memory, however little there is.
const CHANGED_MIN: usize = 16;

pub struct Image {
    device: Arc<dyn Device>,
    block_size: usize,
    spill: Arc<Spill>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    changed: BTreeMap<u64, (Stage, Bytes)>,
    clean: HashMap<u64, Arc<[u8]>>,
    /// Changed blocks in memory, the one that came first in front. Empty without a limit.
    here: VecDeque<u64>,
}

enum Bytes {
    Here(Arc<[u8]>),
    Away(Away),
}

impl Image {
    pub fn new(device: Arc<dyn Device>, block_size: u32, spill: Arc<Spill>) -> Self {
        Self {
            device,
            block_size: block_size as usize,
            spill,
            state: Mutex::default(),
        }
    }

    pub fn spill(&self) -> &Arc<Spill> {
        &self.spill
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
            if let Some((_, bytes)) = state.changed.get(&block) {
                return self.changed(bytes);
            }
            if let Some(bytes) = state.clean.get(&block) {
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

    fn changed(&self, bytes: &Bytes) -> Result<Arc<[u8]>> {
        match bytes {
            Bytes::Here(bytes) => Ok(Arc::clone(bytes)),
            Bytes::Away(away) => match self.spill.read(away) {
                Some(bytes) => Ok(bytes.into()),
                None => self.spill.check().map(|()| Arc::default()),
            },
        }
    }

    /// `count` blocks from `first` in one read, changes included. `bytes` becomes as long as that.
    pub fn read_run(&self, first: u64, count: usize, bytes: &mut Vec<u8>) -> Result<()> {
        bytes.resize(count.saturating_mul(self.block_size), 0);
        self.device.read_at(self.offset(first)?, bytes)?;
        let end = first.saturating_add(count as u64);
        for (block, (_, changed)) in self.state().changed.range(first..end) {
            let at = (block - first) as usize * self.block_size;
            bytes[at..at + self.block_size].copy_from_slice(&self.changed(changed)?);
        }
        Ok(())
    }

    pub fn write(&self, block: u64, bytes: Vec<u8>, stage: Stage) -> Result<()> {
        debug_assert_eq!(bytes.len(), self.block_size);
        if stage != Stage::Fresh && *self.read(block)? == *bytes {
            return Ok(());
        }
        let mut state = self.state();
        state.clean.remove(&block);
        let before = state.changed.remove(&block);
        let stage = before.as_ref().map_or(stage, |(of, _)| stage.max(*of));
        let is_here = matches!(before, Some((_, Bytes::Here(_))));
        if let Some((_, Bytes::Away(away))) = &before {
            self.spill.release(away);
        }
        state
            .changed
            .insert(block, (stage, Bytes::Here(bytes.into())));
        if self.spill.is_limited() && !is_here {
            self.spill.count(0, self.block_size);
            state.here.push_back(block);
            self.make_room(&mut state);
        }
        Ok(())
    }

    fn make_room(&self, state: &mut State) {
        while self.spill.is_over() && state.here.len() > CHANGED_MIN {
            let Some(block) = state.here.pop_front() else {
                return;
            };
            let Some((_, slot)) = state.changed.get_mut(&block) else {
                continue;
            };
            let Bytes::Here(bytes) = slot else {
                continue;
            };
            let Some(away) = self.spill.write(bytes) else {
                state.here.push_front(block);
                return;
            };
            *slot = Bytes::Away(away);
            self.spill.count(self.block_size, 0);
        }
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
        self.spill.check()?;
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
                    let bytes = self.changed(bytes)?;
                    self.device.write_at(self.offset(*block)?, &bytes)?;
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

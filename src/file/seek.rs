//! lseek(2) for data and holes.
//!
//! Source: Linux lseek(2), SEEK_DATA and SEEK_HOLE; the design's FUSE facts.
//! Invariants: a superset of the data is always right, so unwritten blocks count as holes only without a writer.

use crate::error::{Posix, Result};
use crate::file::Files;
use crate::ids::FileBlock;
use crate::inode::NodeRef;
use crate::map::Mapping;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whence {
    Data,
    Hole,
}

impl Files {
    /// The next data or hole at or behind `offset`. `has_writer`: the kernel may hold data that we do not know of, so
    /// everything counts as data. The caller holds the inode lock shared.
    pub fn seek(
        &self,
        node: &NodeRef,
        offset: u64,
        whence: Whence,
        has_writer: bool,
    ) -> Result<u64> {
        let core = node.core.read();
        let size = node.size(&core);
        if has_writer {
            return Ok(match whence {
                Whence::Data => offset,
                Whence::Hole => size.max(offset),
            });
        }
        if offset >= size {
            return Err(Posix::Nxio.into());
        }
        let end = self.block_from(size)?;
        let mut at = self.block_of(offset)?;
        while at < end {
            let segment = self.map.lookup(node.ino, &core, at, end.get() - at.get())?;
            let mut next = at.get().saturating_add(segment.len);
            let mut is_data = matches!(segment.mapping, Mapping::Written(_) | Mapping::Delayed);
            let delayed = node.delayed.lock();
            if !is_data && let Some(first) = delayed.next(at.get()).filter(|&first| first < next) {
                is_data = first == at.get();
                next = if is_data {
                    delayed.end_of_run(first)
                } else {
                    first
                };
            }
            drop(delayed);
            if is_data == (whence == Whence::Data) {
                return Ok((u64::from(at.get()) << self.geo.block_bits).clamp(offset, size));
            }
            at = FileBlock::new(next);
        }
        match whence {
            Whence::Data => Err(Posix::Nxio.into()),
            Whence::Hole => Ok(size),
        }
    }
}

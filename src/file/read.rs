//! Reading file data straight from the device.
//!
//! Source: POSIX read; the design's section on writeback.
//! Invariants: holes, unwritten blocks and bytes behind the last written block are zeros; nothing behind the file's size is
//! returned. The caller holds the inode lock at least shared.

use crate::error::{Error, Posix, Result};
use crate::file::Files;
use crate::format::inode::Inode;
use crate::inode::NodeRef;
use crate::map::Mapping;
use crate::memory::IoBuffer;

/// A part of a file's data.
pub struct ReadData {
    buffer: IoBuffer,
    from: usize,
    length: usize,
}

impl ReadData {
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.from..self.from + self.length]
    }
}

impl Files {
    /// Up to `length` bytes at `offset`; fewer at the end of the file.
    pub fn read(&self, node: &NodeRef, offset: u64, length: usize) -> Result<ReadData> {
        let size = node.core.read().size;
        let available = size.saturating_sub(offset);
        let length = usize::try_from(available).unwrap_or(usize::MAX).min(length);
        let head =
            usize::try_from(offset % self.block_size()).map_err(|_| Error::Posix(Posix::Inval))?;
        let blocks = (head + length).div_ceil(self.geo.block_size as usize);
        let mut buffer = self.memory.io_buffer(blocks << self.geo.block_bits);
        let mut done = 0;
        while done < blocks {
            let at = self.block_of(offset + (done << self.geo.block_bits) as u64)?;
            let wanted = u32::try_from(blocks - done).unwrap_or(u32::MAX);
            let (segment, _io) = {
                let core = node.core.read();
                (self.lookup(node, &core, at, wanted)?, node.begin_io())
            };
            let from = done << self.geo.block_bits;
            let to = (done + segment.len as usize) << self.geo.block_bits;
            let piece = &mut buffer[from..to];
            match segment.mapping {
                Mapping::Written(block) => {
                    self.device
                        .read_at(block.get() << self.geo.block_bits, piece)?;
                }
                Mapping::Hole | Mapping::Unwritten(_) | Mapping::Delayed => piece.fill(0),
            }
            done += segment.len as usize;
        }
        Ok(ReadData {
            buffer,
            from: head,
            length,
        })
    }

    fn lookup(
        &self,
        node: &NodeRef,
        inode: &Inode,
        at: crate::ids::FileBlock,
        max_len: u32,
    ) -> Result<crate::map::Segment> {
        self.map.lookup(node.ino, inode, at, max_len)
    }
}

//! Reading file data: from delayed frames, else straight from the device.
//!
//! Source: POSIX read; the design's section on writeback.
//! Invariants: holes, unwritten blocks and bytes behind the last written block are zeros; nothing behind the file's size is
//! returned. The caller holds the inode lock at least shared until the blocks are known and counted as in flight.

use crate::device::Device;
use crate::device::ahead::{Ahead, TRACK};
use crate::device::submit::ReadRequest;
use crate::error::{Error, Posix, Result};
use crate::file::Files;
use crate::inode::{IoInFlight, NodeRef};
use crate::map::Mapping;
use crate::memory::IoBuffer;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

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

/// A read whose blocks are known: what is no device's is filled in already.
pub struct PlannedRead {
    device: Arc<dyn Device>,
    /// The file is small: what lies around it may be read, too, or have been. With whether these are its first bytes.
    near: Option<(Arc<Ahead>, bool)>,
    data: ReadData,
    /// What the device has yet to give: where it lies there, and its part of the buffer.
    pieces: VecDeque<(u64, Range<usize>)>,
    /// Nobody frees the blocks meanwhile.
    in_flight: Vec<IoInFlight>,
}

impl PlannedRead {
    /// Whether nothing is to be read.
    pub fn is_complete(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Reads the rest and waits for it.
    pub fn finish(mut self) -> Result<ReadData> {
        for (offset, range) in self.pieces {
            let bytes = &mut self.data.buffer[range];
            let is_here = self
                .near
                .as_ref()
                .is_some_and(|(ahead, begins)| ahead.read_near(offset, bytes, *begins));
            if !is_here {
                self.device.read_at(offset, bytes)?;
            }
        }
        Ok(self.data)
    }

    /// Reads the rest, a piece after the other, and tells; returns at once where the device can.
    pub fn submit(mut self, done: Box<dyn FnOnce(Result<ReadData>) + Send>) {
        let Some((offset, range)) = self.pieces.pop_front() else {
            drop(self.in_flight);
            return done(Ok(self.data));
        };
        let ReadData {
            buffer,
            from,
            length,
        } = self.data;
        let (device, pieces, in_flight) = (Arc::clone(&self.device), self.pieces, self.in_flight);
        let near = self.near;
        let next = Box::new(move |result: Result<()>, buffer| {
            let data = ReadData {
                buffer,
                from,
                length,
            };
            let rest = PlannedRead {
                device,
                near,
                data,
                pieces,
                in_flight,
            };
            match result {
                Ok(()) => rest.submit(done),
                Err(error) => {
                    drop(rest);
                    done(Err(error));
                }
            }
        });
        self.device.submit_read(ReadRequest {
            offset,
            buffer,
            range,
            done: next,
        });
    }
}

impl Files {
    /// Up to `length` bytes at `offset`; fewer at the end of the file.
    pub fn read(&self, node: &NodeRef, offset: u64, length: usize) -> Result<ReadData> {
        self.plan_read(node, offset, length, true)?.finish()
    }

    /// The same up to the device reads; the caller needs the inode lock no longer than this. `direct`: nothing is read that
    /// was not asked for.
    pub fn plan_read(
        &self,
        node: &NodeRef,
        offset: u64,
        length: usize,
        direct: bool,
    ) -> Result<PlannedRead> {
        let size = node.size(&node.core.read());
        let available = size.saturating_sub(offset);
        let length = usize::try_from(available).unwrap_or(usize::MAX).min(length);
        let head =
            usize::try_from(offset % self.block_size()).map_err(|_| Error::Posix(Posix::Inval))?;
        let blocks = (head + length).div_ceil(self.geo.block_size as usize);
        let mut buffer = self.memory.io_buffer(blocks << self.geo.block_bits);
        let (mut pieces, mut in_flight) = (VecDeque::new(), Vec::new());
        let mut done = 0;
        while done < blocks {
            let at = self.block_of(offset + (done << self.geo.block_bits) as u64)?;
            let wanted = u32::try_from(blocks - done).unwrap_or(u32::MAX);
            // Both under one lock: what has just left the frames is in the map.
            let (segment, frames, io) = {
                let core = node.core.read();
                let segment = self.map.lookup(node.ino, &core, at, wanted)?;
                let end = at.get().saturating_add(segment.len);
                let frames = node.delayed.lock().frames(at.get()..end);
                (segment, frames, node.begin_io())
            };
            let here = done << self.geo.block_bits;
            let block_size = self.geo.block_size as usize;
            let mut before = 0;
            let end = segment.len as usize * block_size;
            let mut fill = |buffer: &mut IoBuffer, part: Range<usize>| match segment.mapping {
                _ if part.is_empty() => {}
                Mapping::Written(block) => {
                    let offset = (block.get() << self.geo.block_bits) + part.start as u64;
                    pieces.push_back((offset, here + part.start..here + part.end));
                }
                Mapping::Hole | Mapping::Unwritten(_) | Mapping::Delayed => {
                    buffer[here + part.start..here + part.end].fill(0);
                }
            };
            for (block, frame) in frames {
                let from = (block - at.get()) as usize * block_size;
                fill(&mut buffer, before..from);
                buffer[here + from..here + from + block_size].copy_from_slice(&frame);
                before = from + block_size;
            }
            fill(&mut buffer, before..end);
            in_flight.push(io);
            done += segment.len as usize;
        }
        let data = ReadData {
            buffer,
            from: head,
            length,
        };
        let near = !direct && size <= TRACK;
        Ok(PlannedRead {
            device: Arc::clone(&self.device),
            near: near.then(|| (Arc::clone(&self.ahead), offset == 0)),
            data,
            pieces,
            in_flight,
        })
    }
}

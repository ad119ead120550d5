//! Transfers that own their memory, so that nobody has to wait where they were started.
//!
//! Source: the design's section on devices.
//! Invariants: `done` is called exactly once, with the memory, on any thread, perhaps before the submission returns: who
//! submits holds no lock that `done` takes, and `done` waits for nothing.

use crate::error::Result;
use crate::memory::{Frame, IoBuffer};
use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

/// A read into a part of a buffer.
pub struct ReadRequest {
    /// Bytes from the beginning of the device.
    pub offset: u64,
    pub buffer: IoBuffer,
    /// The part of `buffer` to fill.
    pub range: Range<usize>,
    pub done: ReadDone,
}

pub type ReadDone = Box<dyn FnOnce(Result<()>, IoBuffer) + Send>;

impl ReadRequest {
    /// Reads at once and tells.
    pub fn run(mut self, read: impl FnOnce(u64, &mut [u8]) -> Result<()>) {
        let range = self.range.clone();
        let result = read(self.offset, &mut self.buffer[range]);
        (self.done)(result, self.buffer);
    }
}

/// What a write takes its bytes from; nobody changes them while it is under way.
pub enum WriteSource {
    /// Whole frames, one behind the other.
    Frames(Vec<Arc<Frame>>),
    Buffer(IoBuffer, Range<usize>),
}

impl WriteSource {
    pub fn slices(&self) -> Vec<IoSlice<'_>> {
        match self {
            WriteSource::Frames(frames) => frames.iter().map(|f| IoSlice::new(f)).collect(),
            WriteSource::Buffer(buffer, range) => vec![IoSlice::new(&buffer[range.clone()])],
        }
    }
}

pub struct WriteRequest {
    /// Bytes from the beginning of the device.
    pub offset: u64,
    pub source: WriteSource,
    pub done: WriteDone,
}

pub type WriteDone = Box<dyn FnOnce(Result<()>, WriteSource) + Send>;

impl WriteRequest {
    /// Writes at once and tells.
    pub fn run(self, write: impl FnOnce(u64, &[IoSlice<'_>]) -> Result<()>) {
        let result = write(self.offset, &self.source.slices());
        (self.done)(result, self.source);
    }
}

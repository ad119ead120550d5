//! Transfers that own their memory, so that nobody has to wait where they were started.
//!
//! Source: the design's section on devices.
//! Invariants: `done` is called exactly once, with the memory, on any thread, perhaps before the submission returns: who
//! submits holds no lock that `done` takes, and `done` waits for nothing.

use super::Device;
use crate::error::Result;
use crate::memory::{Frame, IoBuffer};
use crate::sync::{Condvar, Mutex, Rank};
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

/// Frames, and where they go on the device in one piece.
pub type Transfer = (u64, Vec<Arc<Frame>>);

/// Sends them on their way.
pub fn submit_all(device: &dyn Device, transfers: Vec<Transfer>) -> Arc<UnderWay> {
    let under_way = Arc::new(UnderWay::new(transfers.len()));
    for (offset, frames) in transfers {
        let theirs = Arc::clone(&under_way);
        device.submit_write(WriteRequest {
            offset,
            source: WriteSource::Frames(frames),
            done: Box::new(move |result, source| {
                drop(source);
                theirs.one_done(result);
            }),
        });
    }
    under_way
}

/// Writes all of them, many at a time, and waits for all; the first error.
pub fn write_all(device: &dyn Device, mut transfers: Vec<Transfer>) -> Result<()> {
    let Some((offset, last)) = transfers.pop() else {
        return Ok(());
    };
    let under_way = submit_all(device, transfers);
    let slices: Vec<IoSlice<'_>> = last.iter().map(|frame| IoSlice::new(frame)).collect();
    let here = device.write_vectored_at(offset, &slices);
    under_way.wait().and(here)
}

/// Transfers under way.
pub struct UnderWay {
    state: Mutex<(usize, Result<()>)>,
    none: Condvar,
}

impl UnderWay {
    fn new(count: usize) -> Self {
        Self {
            state: Mutex::new(Rank::Leaf, (count, Ok(()))),
            none: Condvar::new(),
        }
    }

    fn one_done(&self, result: Result<()>) {
        let mut state = self.state.lock();
        state.0 -= 1;
        if state.1.is_ok() {
            state.1 = result;
        }
        if state.0 == 0 {
            self.none.notify_all();
        }
    }

    /// Until all are done; the first error, once.
    pub fn wait(&self) -> Result<()> {
        let mut state = self.state.lock();
        while state.0 > 0 {
            self.none.wait(&mut state);
        }
        std::mem::replace(&mut state.1, Ok(()))
    }
}

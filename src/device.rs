//! Bytes in and out: the block device or image file below everything.
//!
//! Source: the design's section on devices.
//! Invariants: lengths are exact (a short read or write is an error); `sync` returns only once everything
//! written before is durable; buffers need no alignment (`file` bounces what O_DIRECT would refuse).

pub mod ahead;
mod bounce;
pub mod claim;
pub mod fault;
pub mod file;
pub mod latch;
pub mod mountinfo;
pub mod record;
mod ring;
pub mod sim;
pub mod submit;

use crate::error::{Error, IoError, Result};
use std::io::{self, IoSlice};
use std::sync::Arc;
use submit::{ReadRequest, WriteRequest};

/// A random-access device. Offsets and lengths in bytes.
pub trait Device: Send + Sync {
    /// Bytes.
    fn len(&self) -> u64;
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The unit of atomic I/O (512 or 4096).
    fn sector_size(&self) -> u32;
    fn read_only(&self) -> bool;
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()>;
    fn write_vectored_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> Result<()>;
    /// Writes what need not be on the device before the next `sync`; it may be gathered with its neighbours until then.
    /// Nobody writes to the same page otherwise at the same time.
    fn write_behind(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.write_at(offset, bytes)
    }
    /// Gets the device going with what was written behind in that range; waits for nothing, promises nothing.
    fn start_writeback(&self, _offset: u64, _length: u64) {}
    /// A barrier: what was written before is durable when it returns.
    fn sync(&self) -> Result<()>;
    /// Tells the device that a range holds nothing; may do nothing.
    fn discard(&self, offset: u64, length: u64) -> Result<()>;
    fn write_zeroes(&self, offset: u64, length: u64) -> Result<()>;
    /// Starts a read and returns; `submit` says what `done` must not do. A device that cannot do it beside others does
    /// it here and now.
    fn submit_read(&self, request: ReadRequest) {
        request.run(|offset, bytes| self.read_at(offset, bytes));
    }
    /// Starts a write and returns; as `submit_read`. It is durable after a `sync` that began when `done` had been called.
    fn submit_write(&self, request: WriteRequest) {
        request.run(|offset, slices| self.write_vectored_at(offset, slices));
    }
}

/// A failed device operation, with its place.
fn io_error(operation: &'static str, offset: u64, length: u64, source: io::Error) -> Error {
    Error::Io(IoError {
        operation,
        offset,
        length,
        source: Arc::new(source),
    })
}

//! One memory budget: frames for blocks, charges for everything else, one place to wait.
//!
//! Source: the design's section on memory.
//! Invariants: a frame is one file system block, aligned for O_DIRECT; whatever can grow holds a `Frame` or a
//! `Charge`; a request waits for memory only in `Memory::admit`, before its first lock.

pub mod admission;
pub mod arena;
pub mod gauges;
pub mod process;
pub mod shrinker;

pub use admission::{Credits, Need, Token};
pub use arena::{Frame, IoBuffer};
pub use gauges::{Charge, Class};

use std::sync::Arc;

/// The budget of one mount.
pub struct Memory {
    // private
}

impl Memory {
    /// `cap` in bytes, `frame_size` = block size, `max_write` = bytes of the largest request.
    pub fn new(cap: u64, frame_size: u32, max_write: u32) -> Arc<Self> {
        let _ = (cap, frame_size, max_write);
        todo!()
    }

    /// Waits until `need` can be met and sets it aside.
    pub fn admit(self: &Arc<Self>, need: Need) -> Token {
        let _ = need;
        todo!()
    }

    /// A frame outside of any token: cache fills of readers. Never fails while shrinkers can free something.
    pub fn frame(self: &Arc<Self>, class: Class) -> Frame {
        let _ = class;
        todo!()
    }

    /// A contiguous buffer of at least `length` bytes, aligned for O_DIRECT, contents unspecified.
    pub fn io_buffer(self: &Arc<Self>, length: usize) -> IoBuffer {
        let _ = length;
        todo!()
    }

    /// Accounts for `bytes` of heap memory until dropped.
    pub fn charge(self: &Arc<Self>, class: Class, bytes: usize) -> Charge {
        let _ = (class, bytes);
        todo!()
    }

    /// Registers what can give memory back; asked in order of registration.
    pub fn register(&self, shrinker: Arc<dyn shrinker::Shrinker>) {
        let _ = shrinker;
        todo!()
    }
}

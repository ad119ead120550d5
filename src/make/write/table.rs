//! Bytes for large writes, at an address that suits a device that is written past the page cache.
//!
//! Source: open(2) on O_DIRECT.
//! Invariants: the bytes do not move.

/// A multiple of what any device asks for.
const ALIGNMENT: usize = 4096;

pub struct Table {
    room: Vec<u8>,
    start: usize,
    len: usize,
}

impl Table {
    pub fn zeroed(len: usize) -> Self {
        let room = vec![0u8; len + ALIGNMENT];
        let start = room.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { room, start, len }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.room[self.start..self.start + self.len]
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.room[self.start..self.start + self.len]
    }
}

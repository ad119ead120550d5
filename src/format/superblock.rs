//! The superblock: 1024 bytes at byte 1024 and in the backup groups.
//!
//! Source: the kernel's ext4 documentation, "Super Block".
//! Invariants: a `Superblock` has a valid magic number and, with metadata_csum, checksum; `geometry` is the
//! only way to numbers that arithmetic may trust. `write_to` keeps unknown fields.

use crate::error::Result;
use crate::format::geometry::Geometry;

pub const SIZE: usize = 1024;
pub const OFFSET: u64 = 1024;

pub mod state {
    pub const VALID_FS: u16 = 1;
    pub const ERROR_FS: u16 = 2;
    pub const ORPHAN_FS: u16 = 4;
}

/// The raw 1024 bytes with accessors named after the kernel's fields.
#[derive(Clone)]
pub struct Superblock {
    bytes: Box<[u8; SIZE]>,
}

impl Superblock {
    /// Checks length, magic number and checksum.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let _ = bytes;
        todo!()
    }

    /// The bytes with the checksum stamped.
    pub fn to_bytes(&self) -> [u8; SIZE] {
        *self.bytes
    }

    /// Validates every number that later arithmetic uses. `device_len` in bytes.
    pub fn geometry(&self, device_len: u64) -> Result<Geometry> {
        let _ = device_len;
        todo!()
    }
}

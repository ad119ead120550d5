//! Inode times: 34-bit seconds and nanoseconds.
//!
//! Source: the kernel's ext4 documentation, "Inode Timestamps".
//! Invariants: encoding what was decoded gives the same bits.

/// Seconds since 1970 (may be negative) and nanoseconds below 10^9.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    pub seconds: i64,
    pub nanoseconds: u32,
}

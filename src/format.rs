//! The on-disk format of ext4 and jbd2: bytes to validated types and back.
//!
//! Source: the kernel's ext4 documentation, one chapter a file.
//! Invariants: no I/O, no locks, no clock; never panics, whatever the bytes are.
#![warn(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::unwrap_used
)]

pub mod acl;
pub mod bitmap;
pub mod checksum;
pub mod dirent;
pub mod dirhash;
pub mod extent;
pub mod features;
pub mod geometry;
pub mod group;
pub mod htree;
pub mod indirect;
pub mod inode;
pub mod jbd2;
pub mod mmp;
pub mod orphan;
pub mod raw;
pub mod superblock;
pub mod time;
pub mod xattr;

#[cfg(test)]
mod tests;

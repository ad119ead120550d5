//! uext4: real ext4 images and block devices, read-write, from userspace.
//!
//! The modules below are the layers, lowest first; no module imports one that stands after it, and
//! `cargo xtask tidy` checks that. `fuser` is imported by `fuse` alone.

pub mod ids;
pub mod error;
pub mod sync;
pub mod clock;
pub mod memory;
pub mod device;
pub mod format;
pub mod make;
pub mod cache;
pub mod journal;
pub mod alloc;
pub mod map;
pub mod inode;
pub mod xattr;
pub mod dir;
pub mod file;
pub mod fs;
pub mod fuse;
pub mod control;
pub mod cli;

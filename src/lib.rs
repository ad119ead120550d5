//! uext4: real ext4 images and block devices, read-write, from userspace.
//!
//! The modules below are the layers, lowest first; no module imports one that stands after it, and
//! `cargo xtask tidy` checks that. `fuser` is imported by `fuse` alone.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))] // `text::say` and `complain` do not panic

pub mod alloc;
pub mod cache;
pub mod canary;
pub mod cli;
pub mod clock;
pub mod control;
pub mod device;
pub mod dir;
pub mod error;
pub mod evict;
pub mod file;
pub mod format;
pub mod fs;
pub mod fuse;
pub mod ids;
pub mod inode;
pub mod journal;
pub mod make;
pub mod map;
pub mod memory;
pub mod sync;
pub mod text;
pub mod xattr;

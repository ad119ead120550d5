//! FUSE: the only layer that knows the protocol, errno and node ids.
//!
//! Source: the Linux FUSE protocol as fuser 0.18 speaks it; the design's FUSE facts.
//! Invariants: an operation here converts, calls `fs`, and replies; it decides nothing.

mod adapter;
mod convert;
mod errno;
mod ino;
mod ioctl;
pub mod mount;
mod prune;
mod reply;
mod serve;
pub mod session;
mod standby;

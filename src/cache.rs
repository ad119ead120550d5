//! The cache of metadata blocks: each block is verified once, when it is filled.
//!
//! Source: the design's layers; `format::checksum` for what "verified" means.
//! Invariants: a buffer's bytes carry a valid checksum whenever nobody holds write access; readers see
//! snapshots, so a writer never waits for a reader; only clean buffers are dropped.

pub mod buffer;
pub mod meta;
mod shard;

pub use buffer::{Buffer, BufferRef, BufferWrite, Snapshot};
pub use meta::BlockCache;

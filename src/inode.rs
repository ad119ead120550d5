//! Inodes: where they lie, the in-memory table, the orphan list, birth and death.
//!
//! Source: the kernel's ext4 documentation, "Index Nodes", "Orphan file"; the design's inode cache.
//! Invariants: the on-disk inode is whole at the end of every handle that changed it, so an in-memory inode can be
//! dropped at any time; unknown fields survive.

pub mod delayed;
pub mod orphan;
pub mod store;
pub mod table;

pub use store::InodeStore;
pub use table::{InodeTable, IoInFlight, Node, NodeRef};

#[cfg(test)]
mod tests;

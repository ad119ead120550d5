//! Eviction: how inodes leave memory, and every way out of the thread about memory that has to be allocated for it.
//!
//! Source: the design's section on the eviction path; the thread "ext4: fix allocation failure in ext4_mb_load_buddy_gfp".
//! Invariants: nothing that was accepted is lost by an eviction; it takes no inode lock; it fails for no reason but that
//! somebody came to use the inode, or that the policy says "later": then the inode is put back whole.

mod evictor;
mod path;
mod policy;
mod reserve;
mod stats;

pub use evictor::{Evictor, Settings};
pub use policy::{From, PolicyName, Warn};
pub use stats::{Cause, Snapshot};

//! The jbd2 journal: handles, transactions, commit, checkpoint, revoke, recovery.
//!
//! Source: the kernel's ext4 documentation, "Journal (jbd2)"; the design's section on the journal.
//! Invariants: an open handle never waits; a block is written home only after the commit block of the
//! transaction that changed it is durable; the tail moves only after that, with a sync on each side.

pub mod handle;
pub mod log;
pub mod recover;

pub use handle::{Handle, Journal};

//! The checker of ext4 file systems behind `fsck.uext4`, callable in process.
//!
//! Source: the kernel's ext4 documentation for what is valid; e2fsck(8) for the passes and the meaning of answers.
//! Invariants: nothing above the journal's recovery is used of the library, so that one bug cannot hide from both; every
//! repair goes through `image::Image`, which writes nothing before a whole run has succeeded; with `-n` the repairs are
//! made in memory alone, so that what is found is what would be repaired.

pub mod problem;
pub mod report;

mod alloc;
mod blockset;
mod dirblock;
mod groups;
mod image;
mod inode;
mod inodes;
mod journal;
mod lostfound;
mod map;
mod mapedit;
mod mmp;
mod orphan;
mod pages;
mod pass1;
mod pass1b;
mod pass2;
mod pass3;
mod pass4;
mod pass5;
mod quota;
mod rehash;
mod relocate;
mod session;
mod sparse;
mod spill;
mod superblock;
mod tables;
mod xattr;

pub mod replay;
pub mod undo;

use report::Reporter;
use std::sync::Arc;
use uext4::device::Device;
use uext4::error::Error;

/// How questions are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    /// `-n`: nothing is written.
    #[default]
    No,
    /// `-y`
    Yes,
    /// `-p`: only what needs no decision.
    Preen,
    /// A person is asked.
    Ask,
}

#[derive(Clone, Debug, Default)]
pub struct Options {
    pub answer: Answer,
    /// Check even if the file system says that it is clean.
    pub force: bool,
    /// `-D`: every directory is packed and indexed anew.
    pub optimize: bool,
    /// `-b`: block number of the superblock to use.
    pub superblock: Option<u64>,
    /// `-B`: block size, where `superblock` is given.
    pub block_size: Option<u32>,
    /// Bytes of memory that the run may use; what its tables need beyond that lies in a file in TMPDIR.
    pub memory: Option<u64>,
    /// Seconds since 1970, for times that are written.
    pub now: u64,
}

/// Bits of the exit status, as in fsck(8).
pub mod exit {
    pub const CLEAN: u8 = 0;
    pub const CORRECTED: u8 = 1;
    pub const REBOOT: u8 = 2;
    pub const UNCORRECTED: u8 = 4;
    pub const OPERATIONAL: u8 = 8;
    pub const USAGE: u8 = 16;
    pub const CANCELLED: u8 = 32;
}

/// Why a run ended before its end.
#[derive(Clone, Debug)]
pub enum Stop {
    /// The device or the host failed.
    Failed(Error),
    /// Not a file system that this program can check.
    Unusable(String),
    /// `-p` met something that needs a decision.
    Undecided,
    /// The person or a signal asked for it.
    Cancelled,
    /// Something that was decided before must be decided again.
    Restart,
    /// Only inside the parallel part of pass 1: this inode needs a closer look.
    Suspect,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

pub type Result<T, E = Stop> = std::result::Result<T, E>;

/// What a run found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Bits of `exit`.
    pub status: u8,
    pub found: u64,
    pub fixed: u64,
    /// The check was skipped: the file system says that it is clean.
    pub skipped: bool,
    pub files: u64,
    pub inodes: u64,
    pub blocks_used: u64,
    pub blocks: u64,
}

/// Checks, and with the answer "yes" repairs, the file system on `device`.
pub fn check(device: Arc<dyn Device>, options: &Options, report: &mut Reporter<'_>) -> Outcome {
    session::run(device, options, report)
}

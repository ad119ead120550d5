//! The memory that each operation may need at most: what admission sets aside before the first lock.
//!
//! Source: the design's section on memory.
//! Invariants: one entry an operation; frames cover the credits of its largest handle, since the first change of a block in a
//! transaction takes one. An operation of many handles is admitted again for each.

use crate::journal::{CREDITS_MAX, STEP_CREDITS};
use crate::memory::Need;
use crate::xattr::Xattrs;

const fn frames(frames: u32) -> Need {
    Need {
        frames,
        bytes: 4096,
    }
}

/// A name in a directory that is split to its root, without what it leads to.
const INSERT: u32 = 52;

pub const LOOKUP: Need = frames(8);
pub const GETATTR: Need = frames(4);
pub const SETATTR: Need = frames(STEP_CREDITS);
pub const READ: Need = frames(8);
/// A write accepts a frame a block, and may have to flush first.
pub const fn write(blocks: u32) -> Need {
    frames(STEP_CREDITS).and(Need::frames(blocks))
}
/// A flusher's largest handle.
pub const FLUSH: Need = frames(STEP_CREDITS);
pub const FSYNC: Need = FLUSH;
pub const CREATE: Need = frames(CREDITS_MAX);
pub const LINK: Need = frames(INSERT + 4);
pub const UNLINK: Need = frames(16);
pub const RENAME: Need = frames(INSERT + 16 + Xattrs::CREDITS);
pub const READDIR: Need = frames(16);
pub const XATTR_GET: Need = frames(4);
pub const XATTR_SET: Need = frames(Xattrs::CREDITS + 2);
pub const FALLOCATE: Need = frames(STEP_CREDITS);
pub const IOCTL: Need = frames(4);
pub const REAP: Need = frames(STEP_CREDITS);

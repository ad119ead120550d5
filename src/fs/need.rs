//! The memory that each operation may need at most: what admission sets aside before the first lock.
//!
//! Source: the design's section on memory.
//! Invariants: one entry an operation; frames cover the credits of its largest handle.

use crate::journal::STEP_CREDITS;
use crate::memory::Need;

const fn frames(frames: u32) -> Need {
    Need { frames, bytes: 4096 }
}

pub const LOOKUP: Need = frames(8);
pub const GETATTR: Need = frames(4);
pub const SETATTR: Need = frames(STEP_CREDITS + 8);
pub const READ: Need = frames(8);
pub const WRITE: Need = frames(STEP_CREDITS);
pub const CREATE: Need = frames(STEP_CREDITS);
pub const LINK: Need = frames(STEP_CREDITS);
pub const UNLINK: Need = frames(STEP_CREDITS);
pub const RENAME: Need = frames(STEP_CREDITS);
pub const READDIR: Need = frames(16);
pub const XATTR_GET: Need = frames(4);
pub const XATTR_SET: Need = frames(32);
pub const FALLOCATE: Need = frames(STEP_CREDITS);
pub const IOCTL: Need = frames(4);
pub const REAP: Need = frames(STEP_CREDITS);

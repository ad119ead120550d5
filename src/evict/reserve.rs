//! The pool of policy `reserve`: memory for loads of buddies that nobody else gets.
//!
//! Source: the design's section on the eviction path (`--evict-reserve`).
//! Invariants: the pool is inside the cap and is refilled before any request is served.

use super::policy::LOAD;
use crate::memory::{Memory, Reserve};

/// Sets memory for `loads` loads aside, at most a quarter of the cap.
pub(super) fn set_up(memory: &Memory, loads: u32) {
    memory.set_reserve(Reserve::Spare, bytes(memory, loads).min(memory.cap() / 4));
}

pub(super) fn bytes(memory: &Memory, loads: u32) -> u64 {
    u64::from(loads) * u64::from(LOAD.frames) * memory.frame_cost()
}

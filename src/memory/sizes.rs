//! What a budget needs at least, and what of it is private.
//!
//! Source: the design's section on memory (sizes).
//! Invariants: under the floor no mount is made; the reserves take less than half of it.

use super::{FRAME_OVERHEAD, Memory, Reserve};

const MIB: u64 = 1 << 20;
/// Blocks that the largest step of work without a bound dirties.
const STEP: u64 = 64;
/// Threads that write dirty data.
pub const FLUSHERS: u64 = 2;
/// Descriptor, commit block, escape copies.
const COMMITTER: u64 = 18;
/// What a flusher reads, beside the tokens that flushers keep.
const FLUSHER: u64 = 16;
/// Blocks that a step reads.
const READ: u64 = super::admission::FILLS as u64;
const PAGE: u64 = 4096;
/// A buddy, its bitmap.
pub const BUDDY: u64 = 3;
/// The largest request when memory is short, in bytes.
pub const SMALL_WRITE: u32 = 256 << 10;
/// The cap under which requests are small.
pub const SMALL_CAP: u64 = 32 * MIB;

/// The least cap for so many workers, in bytes.
pub fn floor(workers: usize, block_size: u64) -> u64 {
    let cost = block_size + FRAME_OVERHEAD;
    let write = u64::from(SMALL_WRITE);
    let step = (STEP * cost).max(write);
    MIB + (workers as u64 + FLUSHERS + 1) * step + 8 * STEP * cost + FLUSHERS * MIB + 4 * write
}

/// What the daemon takes beside the cap: its code, stacks, and the kernel's requests as they are read. In bytes.
pub fn fixed_overhead(workers: usize, max_write: u32) -> u64 {
    8 * MIB + workers as u64 * (2 * u64::from(max_write) + MIB / 4) + MIB
}

impl Memory {
    /// Sets the reserves aside, as the cap allows; `buddies` are the loads that eviction can do out of its own.
    pub fn set_reserves(&self, buddies: u64) {
        let frames = |count: u64| count * self.frame_cost;
        let sizes = [
            (Reserve::Committer, frames(COMMITTER)),
            (Reserve::Flushers, FLUSHERS * frames(FLUSHER)),
            (
                Reserve::Evictor,
                frames(STEP + BUDDY * buddies.max(1) + 2 * READ) + 2 * PAGE,
            ),
        ];
        for (reserve, bytes) in sizes {
            self.set_reserve(reserve, bytes.min(self.cap / 4));
        }
    }
}

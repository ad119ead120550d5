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

/// The least cap for so many workers and blocks of so many bytes, in bytes. Requests are of `max_write` bytes, but small where
/// memory is. Without workers whoever calls does all the work, and no thread flushes.
///
/// The terms: what is charged while nothing runs; a step for each worker and flusher, for the flushers' common spare and for
/// the evictor; transactions (the running one, the committing one, what is not at home yet); the reserves; buffers of READs.
pub fn floor(workers: usize, block_size: u64, max_write: u32) -> u64 {
    let cost = block_size + FRAME_OVERHEAD;
    let write = u64::from(max_write.min(SMALL_WRITE));
    // A flusher's token, as it keeps it.
    let step = ((STEP + READ) * cost + PAGE).max(write);
    let flushers = if workers == 0 { 0 } else { FLUSHERS };
    let (frames, bytes) = reserves(1);
    let reserves = (frames.iter().sum::<u64>() * cost + bytes).max(flushers * MIB);
    MIB + (workers as u64 + flushers + 2) * step + 8 * STEP * cost + reserves + 4 * write
}

/// Frames of the committer's, the flushers' and the evictor's reserve, and bytes of the last; `buddies` as in `set_reserves`.
fn reserves(buddies: u64) -> ([u64; 3], u64) {
    let evictor = STEP + BUDDY * buddies.max(1) + 2 * READ;
    ([COMMITTER, FLUSHERS * FLUSHER, evictor], 2 * PAGE)
}

/// What the daemon takes beside the cap, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overhead {
    /// The program, its libraries, the heap's own needs.
    pub program: u64,
    /// Of the workers and of all other threads.
    pub stacks: u64,
    /// The kernel's requests as they are read.
    pub requests: u64,
}

impl Overhead {
    /// `max_write` in bytes.
    pub fn of(workers: usize, max_write: u32) -> Self {
        Self {
            program: 8 * MIB,
            stacks: workers as u64 * MIB / 4 + MIB,
            requests: workers as u64 * 2 * u64::from(max_write),
        }
    }

    pub fn total(&self) -> u64 {
        self.program + self.stacks + self.requests
    }
}

impl Memory {
    /// Sets the reserves aside, as the cap allows; `buddies` are the loads that eviction can do out of its own.
    pub fn set_reserves(&self, buddies: u64) {
        let ([committer, flushers, evictor], bytes) = reserves(buddies);
        let frames = |count: u64| count * self.frame_cost;
        let sizes = [
            (Reserve::Committer, frames(committer)),
            (Reserve::Flushers, frames(flushers)),
            (Reserve::Evictor, frames(evictor) + bytes),
        ];
        for (reserve, bytes) in sizes {
            self.set_reserve(reserve, bytes.min(self.cap / 4));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_the_floor_the_reserves_are_whole_and_the_largest_step_fits() {
        for (block_size, workers) in [(1024, 0), (1024, 4), (4096, 4), (4096, 32), (65_536, 4)] {
            let cap = floor(workers, u64::from(block_size), SMALL_WRITE);
            let memory = Memory::new(cap, block_size, SMALL_WRITE);
            memory.set_reserves(1);
            let ([a, b, c], bytes) = reserves(1);
            let reserved = (a + b + c) * memory.frame_cost() + bytes;
            assert_eq!(
                memory.snapshot().promised,
                reserved,
                "{block_size} {workers}"
            );
            // Each flusher's token, the spare one, then two of the largest requests at once.
            let step = super::super::Need::new(STEP as u32, PAGE as u32);
            let tokens = FLUSHERS * u64::from(workers > 0) + 1;
            let kept: Vec<_> = (0..tokens).map(|_| memory.admit_private(step)).collect();
            // `CREDITS_MAX` of the journal.
            let largest = super::super::Need::new(96, PAGE as u32);
            let first = memory.try_admit(largest);
            assert!(first.is_some(), "{block_size} {workers}");
            assert_eq!(memory.snapshot().activity.overdrafts, 0);
            drop((kept, first));
            assert_eq!(memory.leaks(), []);
        }
    }
}

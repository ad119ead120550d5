//! Which inodes the kernel is asked to forget, and when: before lookups take all of their share.
//!
//! Source: FUSE_NOTIFY_PRUNE; the design's section on memory.
//! Invariants: whoever sends holds nothing, and nobody waits for it; a round over all inodes that brought nothing back is
//! followed by a rest.

use super::{Known, SHARDS};
use crate::ids::InodeNumber;
use crate::sync::{Condvar, Mutex, Rank};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Inodes that one notification names, at most.
const BATCH: usize = 512;
/// How long nothing is sent after a round that was in vain, or until somebody is refused.
const REST: Duration = Duration::from_secs(1);

pub(super) struct Prune {
    state: Mutex<State>,
    wake: Condvar,
    /// Somebody has found that lookups take too much.
    pressed: AtomicBool,
    sent: AtomicU64,
    inodes: AtomicU64,
}

#[derive(Default)]
struct State {
    stopped: bool,
    /// The next shard, and the number in it.
    shard: u32,
    from: u32,
    /// What was taken when the round began.
    at_start: u64,
}

impl Prune {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(Rank::Leaf, State::default()),
            wake: Condvar::new(),
            pressed: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            inodes: AtomicU64::new(0),
        }
    }

    pub(super) fn sent(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.sent), read(&self.inodes))
    }
}

impl Known {
    fn is_over(&self) -> bool {
        self.taken() > self.limit / 2
    }

    /// Wakes whoever sends, once, when lookups take too much.
    pub(super) fn press(&self) {
        if self.is_over() && !self.prune.pressed.swap(true, Ordering::Relaxed) {
            let _state = self.prune.state.lock();
            self.prune.wake.notify_all();
        }
    }

    /// What to ask the kernel to forget next, waiting until there is something; `None` after `stop_pruning`.
    pub(crate) fn next_to_prune(&self) -> Option<Vec<InodeNumber>> {
        loop {
            {
                let mut state = self.prune.state.lock();
                while !state.stopped && !self.is_over() {
                    self.prune.pressed.store(false, Ordering::Relaxed);
                    // Between the look and the wait somebody may have pressed in vain.
                    self.prune.wake.wait_for(&mut state, REST);
                }
                if state.stopped {
                    return None;
                }
            }
            let batch = self.collect();
            if !batch.is_empty() {
                return Some(batch);
            }
        }
    }

    /// The next inodes that nobody has open. At the end of a round in vain it rests.
    fn collect(&self) -> Vec<InodeNumber> {
        let (first, mut from) = {
            let state = self.prune.state.lock();
            (state.shard, state.from)
        };
        let (mut batch, mut shard) = (Vec::new(), first);
        while batch.len() < BATCH && shard < SHARDS {
            let table = self.shards[shard as usize].lock();
            match table.lookups.block_from(from) {
                Some((start, inodes)) => {
                    let closed =
                        inodes.filter(|&ino| ino != InodeNumber::ROOT && table.opens.get(ino) == 0);
                    batch.extend(closed);
                    from = start + 1;
                }
                None => (shard, from) = (shard + 1, 0),
            }
        }
        let mut state = self.prune.state.lock();
        (state.shard, state.from) = (shard, from);
        if shard == SHARDS {
            (state.shard, state.from) = (0, 0);
            let taken = self.taken();
            let in_vain = taken >= std::mem::replace(&mut state.at_start, taken);
            if in_vain && !state.stopped {
                self.prune.wake.wait_for(&mut state, REST);
            }
        }
        batch
    }

    /// The kernel has been asked to forget so many.
    pub(crate) fn pruned(&self, inodes: usize) {
        self.prune.sent.fetch_add(1, Ordering::Relaxed);
        self.prune
            .inodes
            .fetch_add(inodes as u64, Ordering::Relaxed);
    }

    /// Nothing is sent any more.
    pub(crate) fn stop_pruning(&self) {
        self.prune.state.lock().stopped = true;
        self.prune.wake.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Memory;
    use std::sync::Arc;

    #[test]
    fn what_nobody_has_open_is_named_when_half_of_the_share_is_taken() {
        let memory = Memory::new(1 << 20, 4096, 1 << 17);
        let known = Arc::new(Known::new(&memory));
        let all = || (1..60_000).map(InodeNumber::new);
        all().for_each(|ino| known.looked_up(ino));
        let open = InodeNumber::new(777);
        known.opened(open, false);
        let other = Arc::clone(&known);
        let kernel = std::thread::spawn(move || {
            let mut forgotten = 0;
            while let Some(batch) = other.next_to_prune() {
                assert!(batch.len() < BATCH + 128 && !batch.contains(&open));
                other.pruned(batch.len());
                for ino in batch {
                    other.forget(ino, 1);
                    forgotten += 1;
                }
            }
            forgotten
        });
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while known.is_over() && std::time::Instant::now() < end {
            std::thread::yield_now();
        }
        assert!(!known.is_over());
        known.stop_pruning();
        let forgotten = kernel.join().unwrap();
        assert!((10_000..50_000).contains(&forgotten), "{forgotten}");
        let stats = known.stats();
        assert_eq!(stats.inodes, 59_999 - forgotten);
        assert_eq!(stats.inodes_pruned, forgotten);
        assert!(stats.prunes_sent >= forgotten / 640, "{stats:?}");
    }
}

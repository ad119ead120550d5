//! One memory budget: frames for blocks, charges for everything else, one place to wait.
//!
//! Source: the design's section on memory.
//! Invariants: a frame is one file system block, aligned for O_DIRECT; whatever can grow holds a `Frame` or a
//! `Charge`; a request waits for memory only in `Memory::admit`, before its first lock. A frame may be taken
//! under any lock but `Rank::Memory`, and dropped there too.

pub mod admission;
pub mod arena;
mod dirty;
pub mod gauges;
pub mod process;
pub mod shrinker;

pub use admission::{Credits, Need, Token};
pub use arena::{Frame, IoBuffer};
pub use gauges::{Charge, Class, Snapshot};

use crate::sync::{Mutex, Rank};
use arena::{Arena, BufferPool};
use dirty::DirtyGate;
use gauges::Gauges;
use shrinker::{Shrinker, Shrinkers};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// Frames freed beyond what is needed, so that not every `frame` has to ask the shrinkers.
const SHRINK_BATCH: u64 = 64;

/// The budget of one mount.
pub struct Memory {
    cap: u64,
    frame_size: u32,
    arena: Arena,
    buffers: BufferPool,
    gauges: Gauges,
    dirty_gate: DirtyGate,
    shrinkers: Mutex<Shrinkers>,
    /// Bytes in use below which no shrinker is asked again after one round freed nothing.
    quiet_below: AtomicU64,
}

impl Memory {
    /// `cap` in bytes, `frame_size` = block size, `max_write` = bytes of the largest request.
    ///
    /// # Panics
    /// When the kernel has no address space for the arena.
    pub fn new(cap: u64, frame_size: u32, max_write: u32) -> Arc<Self> {
        assert!(
            frame_size.is_power_of_two(),
            "a block size is a power of two"
        );
        let keep = (cap / 8 / u64::from(max_write.max(1))).clamp(4, 64);
        Arc::new(Self {
            cap,
            frame_size,
            arena: Arena::new(cap.saturating_mul(4), frame_size),
            buffers: BufferPool::new(max_write, keep),
            gauges: Gauges::default(),
            dirty_gate: DirtyGate::default(),
            shrinkers: Mutex::new(Rank::Memory, Shrinkers::default()),
            quiet_below: AtomicU64::new(0),
        })
    }

    /// Waits until `need` can be met and sets it aside.
    pub fn admit(self: &Arc<Self>, need: Need) -> Token {
        self.reclaim();
        Token::new(Arc::clone(self), need)
    }

    /// A frame outside of any token: cache fills of readers. Never fails while shrinkers can free something.
    pub fn frame(self: &Arc<Self>, class: Class) -> Frame {
        self.reclaim();
        self.frame_granted(class)
    }

    /// A frame that a token has paid for: asks nobody to give memory back.
    fn frame_granted(self: &Arc<Self>, class: Class) -> Frame {
        self.gauges.add(class, u64::from(self.frame_size));
        Frame::new(self.arena.take(), Arc::clone(self), class)
    }

    /// A contiguous buffer of `length` bytes, aligned for O_DIRECT, contents unspecified.
    pub fn io_buffer(self: &Arc<Self>, length: usize) -> IoBuffer {
        let map = self.buffers.take(length);
        self.gauges.add(Class::Io, map.len() as u64);
        IoBuffer::new(map, length, Arc::clone(self))
    }

    /// Accounts for `bytes` of heap memory until dropped.
    pub fn charge(self: &Arc<Self>, class: Class, bytes: usize) -> Charge {
        Charge::new(Arc::clone(self), class, bytes)
    }

    /// Registers what can give memory back; asked in order of registration, for as long as it lives.
    pub fn register(&self, shrinker: Arc<dyn Shrinker>) {
        self.shrinkers.lock().push(Arc::downgrade(&shrinker));
    }

    /// Bytes.
    pub fn cap(&self) -> u64 {
        self.cap
    }

    /// Whether what may never be asked for may be read: less than three quarters of the cap are used.
    pub fn is_roomy(&self) -> bool {
        self.gauges.used() < self.cap / 4 * 3
    }

    /// Bytes of one frame: the block size.
    pub fn frame_size(&self) -> u32 {
        self.frame_size
    }

    /// What is used now, by class, with peaks.
    pub fn snapshot(&self) -> Snapshot {
        self.gauges.snapshot(self.cap, self.frame_size)
    }

    /// Everything that can be had again from the device is given back, as far as nobody uses it. For tests of cold caches.
    pub fn drop_clean(&self) {
        let shrinkers = self.shrinkers.lock().all();
        // Twice: a second chance may have to be taken away first.
        for shrinker in shrinkers.iter().chain(shrinkers.iter()) {
            if let Some(shrinker) = shrinker.upgrade() {
                shrinker.shrink(usize::MAX / 8192);
            }
        }
    }

    /// Asks the shrinkers for what is used beyond the cap. Takes no lock while they run but theirs.
    fn reclaim(&self) {
        let used = self.gauges.used();
        if used <= self.cap || used < self.quiet_below.load(Ordering::Relaxed) {
            return;
        }
        let frame = u64::from(self.frame_size);
        let wanted = (used - self.cap).div_ceil(frame) + SHRINK_BATCH;
        let shrinkers = self.shrinkers.lock().all();
        let mut freed = 0u64;
        for shrinker in shrinkers.iter().filter_map(Weak::upgrade) {
            if freed >= wanted {
                break;
            }
            let ask = usize::try_from(wanted - freed).unwrap_or(usize::MAX);
            freed += shrinker.shrink(ask) as u64;
        }
        let quiet = if freed == 0 {
            used.saturating_add(SHRINK_BATCH * frame)
        } else {
            0
        };
        self.quiet_below.store(quiet, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    struct Cache {
        frames: Mutex<Vec<Frame>>,
        asked: AtomicUsize,
    }

    impl Shrinker for Cache {
        fn shrink(&self, frames: usize) -> usize {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let Some(mut held) = self.frames.try_lock() else {
                return 0;
            };
            let keep = held.len().saturating_sub(frames);
            let freed = held.len() - keep;
            held.truncate(keep);
            freed
        }
    }

    #[test]
    fn shrinkers_keep_clean_frames_near_the_cap() {
        let memory = Memory::new(1 << 20, 4096, 1 << 17);
        let cache = Arc::new(Cache {
            frames: Mutex::new(Rank::Shard, Vec::new()),
            asked: AtomicUsize::new(0),
        });
        memory.register(cache.clone());
        for _ in 0..2000 {
            let frame = memory.frame(Class::Meta);
            cache.frames.lock().push(frame);
        }
        let snapshot = memory.snapshot();
        assert!(snapshot.used <= (1 << 20) + 4096, "{snapshot:?}");
        assert!(snapshot.peak <= (1 << 20) + 2 * 4096, "{snapshot:?}");
        let asked = cache.asked.load(Ordering::Relaxed);
        assert!(
            (10..60).contains(&asked),
            "asked {asked} times: not in batches"
        );
    }

    #[test]
    fn frames_beyond_the_cap_are_granted_when_nothing_can_be_freed() {
        let memory = Memory::new(64 << 10, 1024, 1 << 16);
        let mut frames: Vec<Frame> = (0..1000).map(|_| memory.frame(Class::Dirty)).collect();
        for (i, frame) in frames.iter_mut().enumerate() {
            assert_eq!(frame.as_ptr() as usize % 1024, 0);
            frame.fill(i as u8);
        }
        assert!(
            frames
                .iter()
                .enumerate()
                .all(|(i, f)| f.iter().all(|&b| b == i as u8))
        );
        assert_eq!(memory.snapshot().used, 1000 * 1024);
        drop(frames);
        assert_eq!(memory.snapshot().used, 0);
        assert_eq!(memory.snapshot().peak, 1000 * 1024);
    }

    #[test]
    fn a_frame_changes_its_class() {
        let memory = Memory::new(1 << 20, 4096, 1 << 17);
        let mut frame = memory.frame(Class::Meta);
        frame.set_class(Class::Buddy);
        assert_eq!(memory.snapshot().class(Class::Meta).current, 0);
        assert_eq!(memory.snapshot().class(Class::Buddy).current, 4096);
    }

    #[test]
    fn io_buffers_are_aligned_and_reused() {
        let memory = Memory::new(1 << 20, 4096, 1 << 17);
        let first = memory.io_buffer(1000);
        assert_eq!(first.len(), 1000);
        assert_eq!(first.as_ptr() as usize % 4096, 0);
        let address = first.as_ptr();
        drop(first);
        assert_eq!(memory.io_buffer(1 << 17).as_ptr(), address);
        assert_eq!(memory.io_buffer(3 << 17).len(), 3 << 17);
        assert_eq!(memory.snapshot().class(Class::Io).current, 0);
    }

    #[test]
    fn charges_follow_their_size() {
        let memory = Memory::new(1 << 20, 4096, 1 << 17);
        let mut charge = memory.charge(Class::Inode, 300);
        charge.resize(500);
        assert_eq!(memory.snapshot().class(Class::Inode).current, 500);
        charge.resize(100);
        assert_eq!(memory.snapshot().class(Class::Inode).current, 100);
        drop(charge);
        let inode = memory.snapshot().class(Class::Inode);
        assert_eq!((inode.current, inode.peak), (0, 500));
    }
}

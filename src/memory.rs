//! One memory budget: frames for blocks, charges for everything else, one place to wait.
//!
//! Source: the design's section on memory.
//! Invariants:
//! 1. Used memory, and what tokens and reserves hold, is at most the cap, but for overdrafts, which are counted.
//! 2. A request waits for memory in `request` and `admit` only, before its first lock and with no token.
//! 3. A frame or charge taken later never waits: its token pays, else what is free, else what a shrinker frees, else
//!    the thread's reserve; an overdraft is a wrong bound (with `UEXT4_STRICT` set it ends a debug build).
//! 4. Waiters are served first come first served and woken, never polled; whoever makes room holds nothing, or goes on in the
//!    middle of an operation and comes before them.
//! 5. Reserves are lent to nobody and are refilled before any waiter is served.
//! 6. When nothing can be freed and no running request will give any back, the newest request is refused; work that
//!    must not fail is served beyond the cap (counted).
//! 7. Memory that is free again but still takes room (idle buffers, warm frames) stays within the cap.
//! 8. At the end of a mount nothing is used (`leaks`).
//! 9. What the kernel knows of inodes is charged and takes at most an eighth of the cap; nobody waits for it.
//! 10. Whoever brings more inodes is held up in proportion to what is left to the evictor, and never for long.
//!
//! Each has a test that names it.
//!
//! A frame is one file system block, aligned for O_DIRECT, and counts for what is kept about it too. It may be taken
//! under any lock but `Rank::Memory`, and dropped there too.

mod account;
pub mod admission;
pub mod arena;
mod deferred;
mod dirty;
pub mod gauges;
mod inject;
pub mod leak;
mod ledger;
mod pressure;
pub mod process;
mod reserves;
pub mod shrinker;
pub mod sizes;
pub mod waits;

pub use account::Draw;
pub use admission::{Credits, Need, Token};
pub use arena::{Frame, IoBuffer};
pub use gauges::{Charge, Class, Snapshot};
pub use inject::{Inject, Point};
pub use pressure::{Reclaimer, Relief};
pub use reserves::Reserve;
pub use waits::{WaitSnapshot, Waits};

use crate::clock::Clock;
use crate::error::Result;
use crate::sync::{Mutex, Rank};
use arena::{Arena, BufferPool};
use deferred::Deferred;
use dirty::DirtyGate;
use gauges::{Gauges, Stats};
use ledger::{Kind, Ledger};
use reserves::ReserveSnapshot;
use shrinker::{Shrinker, Shrinkers};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

/// Frames freed beyond what is needed, so that not every `frame` has to ask the shrinkers.
const SHRINK_BATCH: u64 = 64;
/// What is kept about a frame elsewhere: the buffer around it, its places in tables and lists.
const FRAME_OVERHEAD: u64 = 256;
/// Times that memory is given back before shrinkers that freed nothing are asked again.
const QUIET_RELEASES: u64 = 16;

/// The budget of one mount.
pub struct Memory {
    cap: u64,
    frame_size: u32,
    frame_cost: u64,
    arena: Arena,
    buffers: BufferPool,
    gauges: Gauges,
    dirty_gate: DirtyGate,
    deferred: Deferred,
    ledger: Ledger,
    shrinkers: Mutex<Shrinkers>,
    relief: Mutex<Option<Weak<dyn Relief>>>,
    /// Count of releases before which no shrinker is asked again after one round freed nothing.
    quiet_until: AtomicU64,
    /// The evictor has been told that use passed the high mark.
    pressed: AtomicBool,
    /// Live tokens.
    tokens: AtomicU64,
    clock: OnceLock<Arc<dyn Clock>>,
    waits: Waits,
    waits_in_reclaim: Waits,
    stats: Stats,
    injected: OnceLock<Arc<dyn Inject>>,
    strict: bool,
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
            frame_cost: u64::from(frame_size) + FRAME_OVERHEAD,
            arena: Arena::new(cap.saturating_mul(4), frame_size),
            buffers: BufferPool::new(max_write, keep),
            gauges: Gauges::default(),
            dirty_gate: DirtyGate::default(),
            deferred: Deferred::default(),
            ledger: Ledger::new(cap),
            shrinkers: Mutex::new(Rank::Memory, Shrinkers::default()),
            relief: Mutex::new(Rank::Memory, None),
            quiet_until: AtomicU64::new(0),
            pressed: AtomicBool::new(false),
            tokens: AtomicU64::new(0),
            clock: OnceLock::new(),
            waits: Waits::default(),
            waits_in_reclaim: Waits::default(),
            stats: Stats::default(),
            injected: OnceLock::new(),
            strict: std::env::var_os("UEXT4_STRICT").is_some(),
        })
    }

    /// Sets `need` aside, waiting for it. For a request: `NoMem` when there will be none.
    pub fn request(self: &Arc<Self>, need: Need) -> Result<Token> {
        self.throttle();
        self.acquire(self.cost(need), Kind::Request)?;
        Ok(Token::new(Arc::clone(self), need))
    }

    /// The same for work that must not fail.
    pub fn admit(self: &Arc<Self>, need: Need) -> Token {
        // Only a request is refused.
        let _served = self.acquire(self.cost(need), Kind::Worker);
        Token::new(Arc::clone(self), need)
    }

    /// The same at once or not at all: for what can be left undone (readahead).
    pub fn try_admit(self: &Arc<Self>, need: Need) -> Option<Token> {
        let cost = self.cost(need);
        let fits = || !self.ledger.is_hungry() && self.ledger.promise(cost).is_some();
        (fits() || (self.shrink(cost) > 0 && fits())).then(|| Token::new(Arc::clone(self), need))
    }

    /// The same without asking any shrinker: for work inside of reclaim.
    pub fn admit_free(self: &Arc<Self>, need: Need) -> Option<Token> {
        if !self.granted(Point::Admission) {
            return None;
        }
        let promised = self.ledger.promise(self.cost(need));
        promised.map(|_| Token::new(Arc::clone(self), need))
    }

    /// Out of a reserve, if it has that much.
    pub fn admit_from(self: &Arc<Self>, reserve: Reserve, need: Need) -> Option<Token> {
        let drawn = self.draw(reserve, self.cost(need));
        drawn.then(|| Token::new(Arc::clone(self), need))
    }

    /// For a thread or a place that keeps it: as `admit`, but nobody expects it to be given back.
    pub fn admit_private(self: &Arc<Self>, need: Need) -> Token {
        let _served = self.acquire(self.cost(need), Kind::Worker);
        Token::private(Arc::clone(self), need)
    }

    /// For work inside of reclaim, before everybody else.
    pub fn admit_urgently(self: &Arc<Self>, need: Need, by: Reclaimer) -> Token {
        self.acquire_urgently(self.cost(need), by);
        Token::new(Arc::clone(self), need)
    }

    /// Sleeps until anything is given back, at most `limit`.
    pub fn wait_for_release(&self, limit: Duration) {
        self.await_any_release(limit);
    }

    /// What this thread takes may come from a reserve until the result is dropped.
    pub fn draw_on(&self, reserve: Reserve) -> Draw {
        Draw::new(self.id(), reserve)
    }

    /// Sets a reserve's size, in bytes; once, at the mount.
    pub fn set_reserve(&self, reserve: Reserve, bytes: u64) {
        self.ledger.force(bytes);
        self.ledger.pools[reserve as usize].fill(bytes);
    }

    /// For how long anybody waits is measured with this clock.
    pub fn set_clock(&self, clock: Arc<dyn Clock>) {
        let _ = self.clock.set(clock);
    }

    /// A frame outside of any operation's bound: cache fills of readers. Never waits.
    pub fn frame(self: &Arc<Self>, class: Class) -> Frame {
        if account::pay_fill(self.id()) {
            self.gauges.unreserve(self.frame_cost);
        } else {
            self.take_unpaid(self.frame_cost);
        }
        self.frame_granted(class)
    }

    /// A frame that has been paid for.
    fn frame_granted(self: &Arc<Self>, class: Class) -> Frame {
        self.gauges.add(class, self.frame_cost);
        Frame::new(self.arena.take(), Arc::clone(self), class)
    }

    /// A contiguous buffer of `length` bytes, aligned for O_DIRECT, contents unspecified.
    pub fn io_buffer(self: &Arc<Self>, length: usize) -> IoBuffer {
        let map = self.buffers.take_idle(length).unwrap_or_else(|| {
            // One that can be kept costs more.
            let whole = self.buffers.whole_size(length);
            if self.is_roomy() && self.ledger.promise(whole as u64).is_some() {
                return self.buffers.make(whole);
            }
            let small = self.buffers.size_for(length);
            self.pay_bytes(small as u64);
            self.buffers.make(small)
        });
        self.gauges.add(Class::Io, map.len() as u64);
        IoBuffer::new(map, length, Arc::clone(self))
    }

    /// What admission has to set aside for a buffer of `length` bytes.
    pub fn io_need(&self, length: usize) -> Need {
        let bytes = self.buffers.size_for(length);
        Need::new(0, u32::try_from(bytes).unwrap_or(u32::MAX))
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

    /// What a frame counts for, in bytes.
    pub fn frame_cost(&self) -> u64 {
        self.frame_cost
    }

    /// What is used now, by class, with peaks.
    pub fn snapshot(&self) -> Snapshot {
        self.gauges.snapshot(self)
    }

    /// Bytes used by a class.
    pub fn used_by(&self, class: Class) -> u64 {
        self.gauges.current(class)
    }

    /// Gives everything back that is only kept for later. At the end of a mount, when all else is gone, what is still
    /// used or set aside is a leak: returned by name, in bytes.
    pub fn leaks(&self) -> Vec<(&'static str, u64)> {
        self.ledger.release(self.buffers.drop_idle());
        let kept: u64 = self.ledger.pools.iter().map(|pool| pool.close()).sum();
        self.ledger.release(kept);
        let classes = Class::ALL.map(|class| (class.name(), self.gauges.current(class)));
        let others = [
            ("set aside", self.gauges.reserved()),
            ("promised", self.ledger.promised()),
        ];
        let mut leaks: Vec<(&'static str, u64)> = classes.into_iter().chain(others).collect();
        leaks.retain(|&(_, bytes)| bytes > 0);
        leaks
    }

    /// Identifies this budget on threads.
    fn id(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    fn now(&self) -> Duration {
        self.clock.get().map_or(Duration::ZERO, |c| c.monotonic())
    }

    /// Pays for heap memory or a buffer.
    fn pay_bytes(&self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        if account::pay_bytes(self.id(), bytes) {
            self.gauges.unreserve(bytes);
        } else {
            self.take_unpaid(bytes);
        }
        // What was frames may become heap: together they stay within the cap.
        let beyond = (self.ledger.promised() + self.arena.warm()).saturating_sub(self.cap);
        if beyond > 0 && self.arena.warm() > 0 {
            self.arena.cool(beyond.max(SHRINK_BATCH * self.frame_cost));
        }
    }

    /// Takes what no token pays for, without waiting.
    fn take_unpaid(&self, bytes: u64) {
        let take = || self.ledger.promise(bytes);
        if let Some(promised) = take() {
            return self.press(promised);
        }
        if self.shrink(bytes) > 0 && take().is_some() {
            return;
        }
        if let Some(reserve) = account::reserve(self.id())
            && self.draw(reserve, bytes)
        {
            return;
        }
        self.overdraft(bytes);
    }

    /// Nobody promised it and nothing is free.
    fn overdraft(&self, bytes: u64) {
        debug_assert!(
            !self.strict,
            "{bytes} bytes that nobody has promised: {:?}",
            self.snapshot()
        );
        self.ledger.force(bytes);
        self.count_overdraft(bytes);
    }

    fn count_overdraft(&self, bytes: u64) {
        self.stats.overdrafts.fetch_add(1, Ordering::Relaxed);
        self.stats
            .overdraft_bytes
            .fetch_add(bytes, Ordering::Relaxed);
    }

    fn reserve_snapshots(&self) -> Vec<ReserveSnapshot> {
        let of = |reserve: Reserve| self.ledger.pools[reserve as usize].snapshot(reserve);
        Reserve::ALL.map(of).to_vec()
    }

    /// Everything that can be had again from the device is given back, as far as nobody uses it.
    pub fn drop_clean(&self) {
        self.quiet_until.store(0, Ordering::Relaxed);
        while self.shrink(self.cap) > 0 {}
    }

    /// Asks the shrinkers for `bytes`; returns how many they freed. Takes no lock while they run but theirs.
    fn shrink(&self, bytes: u64) -> u64 {
        if self.ledger.releases() < self.quiet_until.load(Ordering::Relaxed) {
            return 0;
        }
        self.stats.shrinks.fetch_add(1, Ordering::Relaxed);
        let idle = self.buffers.drop_idle();
        self.ledger.release(idle);
        if idle >= bytes {
            return idle;
        }
        let wanted = (bytes - idle).div_ceil(self.frame_cost) + SHRINK_BATCH;
        let shrinkers = self.shrinkers.lock().all();
        let mut freed = 0u64;
        for shrinker in shrinkers.iter().filter_map(Weak::upgrade) {
            if freed >= wanted {
                break;
            }
            let ask = usize::try_from(wanted - freed).unwrap_or(usize::MAX);
            freed += shrinker.shrink(ask) as u64;
        }
        if freed == 0 {
            let quiet = self.ledger.releases() + QUIET_RELEASES;
            self.quiet_until.store(quiet, Ordering::Relaxed);
        }
        idle + freed * self.frame_cost
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

    /// Invariant 1.
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
        assert!(snapshot.used <= 1 << 20, "{snapshot:?}");
        assert!(snapshot.peak <= 1 << 20, "{snapshot:?}");
        assert_eq!(snapshot.activity.overdrafts, 0);
        let asked = cache.asked.load(Ordering::Relaxed);
        assert!(
            (10..60).contains(&asked),
            "asked {asked} times: not in batches"
        );
    }

    /// Invariants 3 and 8.
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
        assert_eq!(memory.snapshot().used, 1000 * (1024 + 256));
        assert!(memory.snapshot().activity.overdrafts > 900);
        drop(frames);
        assert_eq!(memory.snapshot().used, 0);
        assert_eq!(memory.snapshot().peak, 1000 * (1024 + 256));
        assert_eq!(memory.leaks(), []);
    }

    #[test]
    fn a_frame_changes_its_class() {
        let memory = Memory::new(1 << 20, 4096, 1 << 17);
        let mut frame = memory.frame(Class::Meta);
        frame.set_class(Class::Buddy);
        assert_eq!(memory.snapshot().class(Class::Meta).current, 0);
        assert_eq!(memory.snapshot().class(Class::Buddy).current, 4096 + 256);
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

    fn spawn_request(memory: &Arc<Memory>, frames: u32) -> std::thread::JoinHandle<Result<Token>> {
        let memory = Arc::clone(memory);
        let before = memory.ledger.queue.lock().waiting.len();
        let other = Arc::clone(&memory);
        let thread = std::thread::spawn(move || other.request(Need::frames(frames)));
        while memory.ledger.queue.lock().waiting.len() == before && !thread.is_finished() {
            std::thread::yield_now();
        }
        thread
    }

    /// Frames that fill the budget but for `left`.
    fn fill(memory: &Arc<Memory>, left: u64) -> Vec<Frame> {
        let frames = (memory.cap() - memory.ledger.promised()) / memory.frame_cost() - left;
        (0..frames).map(|_| memory.frame(Class::Dirty)).collect()
    }

    /// Invariants 2 and 4.
    #[test]
    fn waiters_are_served_in_the_order_of_their_coming() {
        let memory = Memory::new(1 << 20, 4096, 1 << 17);
        // A running request: what it holds comes back.
        let running = memory.request(Need::frames(1)).unwrap();
        let mut used = fill(&memory, 0);
        memory.set_served(true);
        let first = spawn_request(&memory, 30);
        let second = spawn_request(&memory, 1);
        // Enough for the second, but the first stands before it.
        used.truncate(used.len() - 12);
        std::thread::sleep(Duration::from_millis(20));
        assert!(!first.is_finished() && !second.is_finished());
        used.truncate(used.len() - 40);
        let tokens = [
            first.join().unwrap().unwrap(),
            second.join().unwrap().unwrap(),
        ];
        assert_eq!(memory.snapshot().waits.count, 2);
        assert_eq!(memory.snapshot().activity.overdrafts, 0);
        memory.set_served(false);
        drop((tokens, used, running));
        assert_eq!(memory.leaks(), []);
    }

    /// Invariant 5.
    #[test]
    fn a_reserve_is_refilled_before_a_waiter_is_served() {
        let memory = Memory::new(1 << 20, 4096, 1 << 17);
        let cost = memory.frame_cost();
        memory.set_reserve(Reserve::Evictor, 20 * cost);
        // Before the token comes that would pay for some of them.
        let mut used = fill(&memory, 9);
        let running = memory.request(Need::frames(1)).unwrap();
        memory.set_served(true);
        let drawn = memory
            .admit_from(Reserve::Evictor, Need::frames(2))
            .unwrap();
        assert!(
            memory
                .admit_from(Reserve::Evictor, Need::frames(5))
                .is_none()
        );
        let waiter = spawn_request(&memory, 1);
        let left = || memory.snapshot().reserves[Reserve::Evictor as usize].left;
        used.truncate(used.len() - 5);
        std::thread::sleep(Duration::from_millis(20));
        // Ten were missing; the waiter could have been served with nine.
        assert!((15 * cost..20 * cost).contains(&left()), "{}", left());
        assert!(!waiter.is_finished());
        used.truncate(used.len() - 20);
        drop(waiter.join().unwrap().unwrap());
        assert_eq!(left(), 20 * cost);
        memory.set_served(false);
        drop((drawn, used, running));
        assert_eq!(memory.leaks(), []);
    }

    /// Invariant 6.
    #[test]
    fn the_newest_request_is_refused_when_nothing_will_come_back() {
        let memory = Memory::new(1 << 20, 4096, 1 << 17);
        let used = fill(&memory, 0);
        let refused = memory.request(Need::frames(1));
        assert!(refused.is_err_and(|error| error.is_posix(crate::error::Posix::NoMem)));
        let activity = memory.snapshot().activity;
        assert_eq!((activity.refused, activity.overdrafts), (1, 0));
        // What must not fail is served.
        drop(memory.admit(Need::frames(1)));
        assert_eq!(memory.snapshot().activity.overdrafts, 1);
        drop(used);
        assert_eq!(memory.leaks(), []);
    }

    /// Invariant 6: work inside of reclaim waits for as long as anybody holds memory.
    #[test]
    fn work_inside_of_reclaim_waits_instead_of_overdrawing() {
        let memory = Memory::new(1 << 20, 4096, 1 << 17);
        let running = memory.request(Need::frames(20)).unwrap();
        let used = fill(&memory, 0);
        let other = Arc::clone(&memory);
        let urgent =
            std::thread::spawn(move || other.admit_urgently(Need::frames(4), Reclaimer::Evictor));
        std::thread::sleep(Duration::from_millis(150));
        assert!(!urgent.is_finished());
        drop(running);
        drop(urgent.join().unwrap());
        assert_eq!(memory.snapshot().activity.overdrafts, 0);
        drop(used);
        assert_eq!(memory.leaks(), []);
    }

    /// Frames that nobody frees before they are written home.
    struct Journal {
        frames: Mutex<Vec<Frame>>,
        home: AtomicBool,
    }

    impl Journal {
        /// All that is free is pinned.
        fn fill(memory: &Arc<Memory>) -> Arc<Self> {
            let journal = Arc::new(Self {
                frames: Mutex::new(Rank::Shard, fill(memory, 0)),
                home: AtomicBool::new(false),
            });
            memory.register(journal.clone());
            let relief: Arc<dyn Relief> = journal.clone();
            memory.set_relief(Arc::downgrade(&relief));
            journal
        }
    }

    impl Shrinker for Journal {
        fn shrink(&self, frames: usize) -> usize {
            if !self.home.load(Ordering::Relaxed) {
                return 0;
            }
            let mut held = self.frames.lock();
            let keep = held.len().saturating_sub(frames);
            held.drain(keep..).count()
        }
    }

    impl Relief for Journal {
        fn prune(&self, _: u64, _: Reclaimer) {}
        fn unpin(&self) {
            self.home.store(true, Ordering::Relaxed);
        }
        fn write_back(&self) {}
        fn prunes_directly(&self) -> bool {
            false
        }
    }

    /// Invariant 3: a step takes what a commit makes free, though shrinkers had nothing just before.
    #[test]
    fn a_step_finds_what_was_pinned_until_its_commit() {
        let memory = Memory::new(1 << 20, 4096, 1 << 17);
        let mut token = memory.request(Need::frames(6)).unwrap();
        let journal = Journal::fill(&memory);
        let mut kept = token.take(6);
        let kept: Vec<Frame> = (0..6).map(|_| kept.frame(Class::Meta)).collect();
        token.renew();
        assert_eq!(memory.snapshot().activity.overdrafts, 0);
        assert_eq!(token.left(), 6);
        journal.frames.lock().clear();
        drop((token, kept));
        assert_eq!(memory.leaks(), []);
    }

    /// Invariant 4: what a step makes free is its own, though others came before it.
    #[test]
    fn a_step_goes_before_those_who_wait() {
        const BOUND: u32 = 20;
        let memory = Memory::new(1 << 20, 4096, 1 << 17);
        let mut token = memory.request(Need::frames(BOUND)).unwrap();
        let mut credits = token.take(BOUND);
        let kept: Vec<Frame> = (0..BOUND).map(|_| credits.frame(Class::Meta)).collect();
        let journal = Journal::fill(&memory);
        memory.set_served(true);
        // Enough of them to take all that is freed at a time, in pieces.
        let waiters: Vec<_> = (0..40).map(|_| spawn_request(&memory, 1)).collect();
        token.renew();
        assert_eq!(token.left(), BOUND);
        assert_eq!(memory.snapshot().activity.overdrafts, 0);
        // What was freed beyond is theirs.
        assert!(memory.ledger.queue.lock().waiting.len() < 40);
        drop((token, kept));
        journal.frames.lock().clear();
        for waiter in waiters {
            drop(waiter.join().unwrap().unwrap());
        }
        memory.set_served(false);
        assert!(!memory.ledger.is_hungry());
        assert_eq!(memory.leaks(), []);
    }

    /// Invariant 3: so it does from its thread's reserve, when even that frees nothing.
    #[test]
    fn a_step_takes_from_its_threads_reserve() {
        let memory = Memory::new(1 << 20, 4096, 1 << 17);
        memory.set_reserve(Reserve::Evictor, 20 * memory.frame_cost());
        let mut token = memory.request(Need::frames(6)).unwrap();
        let used = fill(&memory, 0);
        let mut kept = token.take(6);
        let kept: Vec<Frame> = (0..6).map(|_| kept.frame(Class::Meta)).collect();
        let own = memory.draw_on(Reserve::Evictor);
        token.renew();
        assert_eq!(memory.snapshot().activity.overdrafts, 0);
        drop((own, token, kept, used));
        assert_eq!(memory.leaks(), []);
    }

    /// Invariant 7.
    #[test]
    fn what_is_free_but_warm_stays_within_the_cap() {
        let memory = Memory::new(1 << 20, 4096, 1 << 17);
        drop(fill(&memory, 0));
        assert!(memory.arena.warm() > 900 << 10);
        let charge = memory.charge(Class::Inode, 900 << 10);
        assert!(memory.arena.warm() + charge.bytes() <= memory.cap());
        drop(charge);
        drop(
            (0..8)
                .map(|_| memory.io_buffer(1 << 17))
                .collect::<Vec<_>>(),
        );
        assert!(memory.snapshot().promised <= memory.cap());
        assert_eq!(memory.leaks(), []);
    }
}

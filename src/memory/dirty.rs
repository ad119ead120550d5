//! How much file data may wait for the device, and the wait of those who would add to it.
//!
//! Source: the design's sections on memory and delayed allocation (throttling); its FUSE facts (workers do not sleep).
//! Invariants: beyond the soft limit the answer to a write waits, not the thread that serves it: in the order of their coming,
//! each until as much has been written as it brought; small ones never wait here. The answers that wait are not charged, but they
//! are at most `HELD` (some 40 KiB, a part of the fixed overhead), whatever the kernel has under way: one more, and the first is
//! given. Beyond the hard limit whoever would add waits before it does, with no lock and no handle; a slice of that ends by
//! itself, and flushers never come here.

use super::{Class, Memory, Waits};
use crate::sync::{Condvar, Mutex, Rank};
use std::collections::VecDeque;
use std::time::Duration;

/// The longest slice of a wait.
const SLICE: Duration = Duration::from_millis(20);
/// The answer to a write of so many bytes does not wait.
const SMALL: u64 = 16 << 10;
/// Answers that wait at once: what the kernel has under way in the background (`max_background`, 128), and as many threads that
/// write synchronously.
const HELD: usize = 256;

/// Tells a writer that it may go on. Waits for nothing.
type Answer = Box<dyn FnOnce() + Send>;

/// An answer that waits.
struct Held {
    bytes: u64,
    since: Duration,
    answer: Answer,
}

#[derive(Default)]
struct Answers {
    waiting: VecDeque<Held>,
    /// Of `Gauges::cleaned`, what has been handed to those who waited.
    counted: u64,
    /// Bytes cleaned that the first of them has been waiting for.
    credit: u64,
}

/// Wakes those who wait for data to be written.
pub(super) struct DirtyGate {
    lock: Mutex<()>,
    less: Condvar,
    answers: Mutex<Answers>,
    pub(super) held: Waits,
    pub(super) waits: Waits,
}

impl Default for DirtyGate {
    fn default() -> Self {
        Self {
            lock: Mutex::new(Rank::Leaf, ()),
            less: Condvar::new(),
            answers: Mutex::new(Rank::Leaf, Answers::default()),
            held: Waits::default(),
            waits: Waits::default(),
        }
    }
}

impl Memory {
    /// Bytes of delayed data.
    pub fn dirty(&self) -> u64 {
        self.gauges.current(Class::Dirty)
    }

    /// Nothing is added to delayed data beyond this.
    pub fn dirty_limit(&self) -> u64 {
        self.cap / 12 * 5
    }

    /// Delayed data beyond this holds up the answers to those who bring more.
    fn dirty_soft_limit(&self) -> u64 {
        self.cap / 6
    }

    /// Delayed data beyond this is written although it is young.
    pub fn dirty_background(&self) -> u64 {
        self.cap / 12
    }

    pub fn is_over_dirty_limit(&self) -> bool {
        self.dirty() > self.dirty_limit()
    }

    /// Waits one slice, or less when data has been written.
    pub fn wait_for_less_dirty(&self) {
        let mut guard = self.dirty_gate.lock.lock();
        if self.is_over_dirty_limit() {
            self.dirty_gate.less.wait_for(&mut guard, SLICE);
        }
    }

    /// So long a thread was held up.
    pub fn note_dirty_wait(&self, waited: Duration) {
        self.dirty_gate.waits.record(waited);
    }

    /// Data has been written, or given up.
    pub fn less_is_dirty(&self) {
        self.dirty_gate.less.notify_all();
        while let Some(answer) = self.next_answer() {
            answer();
        }
    }

    /// `bytes` have been accepted: answers at once, or when the time has come. Who writes data ends the wait
    /// (`less_is_dirty`), or gives up (`answer_all`).
    pub fn answer_in_time(&self, bytes: u64, answer: impl FnOnce() + Send + 'static) {
        if bytes <= SMALL || self.dirty() <= self.dirty_soft_limit() {
            return answer();
        }
        let since = self.now();
        let first = {
            let mut answers = self.dirty_gate.answers.lock();
            let is_full = answers.waiting.len() >= HELD;
            let first = is_full.then(|| self.take_answer(&mut answers, since));
            if answers.waiting.is_empty() {
                (answers.counted, answers.credit) = (self.gauges.cleaned(), 0);
            }
            answers.waiting.push_back(Held {
                bytes,
                since,
                answer: Box::new(answer),
            });
            first.flatten()
        };
        if let Some(answer) = first {
            answer();
        }
        // All may have been written meanwhile.
        if self.dirty() <= self.dirty_soft_limit() {
            self.less_is_dirty();
        }
    }

    fn next_answer(&self) -> Option<Answer> {
        let now = self.now();
        let mut answers = self.dirty_gate.answers.lock();
        let first = answers.waiting.front()?.bytes;
        let cleaned = self.gauges.cleaned();
        answers.credit += cleaned.saturating_sub(answers.counted);
        answers.counted = cleaned;
        if self.dirty() > self.dirty_soft_limit() && answers.credit < first {
            return None;
        }
        answers.credit = answers.credit.saturating_sub(first);
        self.take_answer(&mut answers, now)
    }

    fn take_answer(&self, answers: &mut Answers, now: Duration) -> Option<Answer> {
        let held = answers.waiting.pop_front()?;
        self.dirty_gate.held.record(now.saturating_sub(held.since));
        Some(held.answer)
    }

    /// Nobody writes data any more, or not for so long: all who came before `since` are answered.
    pub fn answer_all(&self, since: Duration) {
        let now = self.now();
        loop {
            let answer = {
                let mut answers = self.dirty_gate.answers.lock();
                let is_due = |held: &Held| held.since <= since;
                if !answers.waiting.front().is_some_and(is_due) {
                    return;
                }
                self.take_answer(&mut answers, now)
            };
            if let Some(answer) = answer {
                answer();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Frame;
    use std::sync::Arc;

    const LARGE: u64 = 64 << 10;

    struct Scene {
        memory: Arc<Memory>,
        answered: Arc<Mutex<Vec<u32>>>,
    }

    impl Scene {
        fn new() -> Self {
            Self {
                memory: Memory::new(4 << 20, 4096, 1 << 16),
                answered: Arc::new(Mutex::new(Rank::Leaf, Vec::new())),
            }
        }

        fn delayed(&self) -> Vec<Frame> {
            let mut frames = Vec::new();
            while self.memory.dirty() < self.memory.dirty_soft_limit() + 4 * LARGE {
                frames.push(self.memory.frame(Class::Dirty));
            }
            frames
        }

        fn write(&self, number: u32, bytes: u64) {
            let answered = Arc::clone(&self.answered);
            let answer = move || answered.lock().push(number);
            self.memory.answer_in_time(bytes, answer);
        }

        fn answered(&self) -> Vec<u32> {
            self.answered.lock().clone()
        }
    }

    #[test]
    fn answers_wait_in_their_order_for_as_much_as_they_brought() {
        let scene = Scene::new();
        scene.write(0, LARGE);
        let mut frames = scene.delayed();
        scene.write(1, 2 * LARGE);
        scene.write(2, LARGE);
        scene.write(3, 4096);
        assert_eq!(scene.answered(), [0, 3]);
        let cost = scene.memory.frame_cost();
        frames.truncate(frames.len() - LARGE.div_ceil(cost) as usize);
        scene.memory.less_is_dirty();
        assert_eq!(scene.answered(), [0, 3]);
        frames.truncate(frames.len() - LARGE.div_ceil(cost) as usize);
        scene.memory.less_is_dirty();
        assert_eq!(scene.answered(), [0, 3, 1]);
        frames.clear();
        scene.memory.less_is_dirty();
        assert_eq!(scene.answered(), [0, 3, 1, 2]);
        assert_eq!(scene.memory.snapshot().held_answers.count, 2);
    }

    #[test]
    fn no_more_answers_wait_than_there_is_room_for() {
        let scene = Scene::new();
        let frames = scene.delayed();
        let (room, more) = (HELD as u32, 44);
        (0..room).for_each(|number| scene.write(number, LARGE));
        assert!(scene.answered().is_empty());
        (room..room + more).for_each(|number| scene.write(number, LARGE));
        assert!(scene.answered().into_iter().eq(0..more));
        drop(frames);
        scene.memory.less_is_dirty();
        assert!(scene.answered().into_iter().eq(0..room + more));
    }

    #[test]
    fn nobody_is_forgotten_when_nothing_is_written_any_more() {
        let scene = Scene::new();
        let frames = scene.delayed();
        scene.write(1, LARGE);
        scene.memory.answer_all(Duration::MAX);
        assert_eq!(scene.answered(), [1]);
        drop(frames);
    }
}

//! Admission: an operation's bound is set aside before its first lock, and pays for what it takes later.
//!
//! Source: the design's section on memory (admission, credits are memory).
//! Invariants: nothing here waits once a token exists; what a token did not use is returned when it is dropped, what its
//! credits did not use goes back to the token: else whoever waits would have it before the next step, and a flusher's own memory
//! would be gone after its first handle. Taking beyond the bound is granted and counted, so that a test can see it.

use super::account::{self, Account};
use super::{Class, Frame, Memory};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

/// The bound of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    pub frames: u32,
    pub bytes: u32,
}

impl Need {
    pub const NONE: Self = Self {
        frames: 0,
        bytes: 0,
    };

    pub const fn new(frames: u32, bytes: u32) -> Self {
        Self { frames, bytes }
    }

    pub const fn frames(frames: u32) -> Self {
        Self { frames, bytes: 0 }
    }

    /// Both together.
    pub const fn and(self, other: Self) -> Self {
        Self {
            frames: self.frames.saturating_add(other.frames),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

/// Frames that every operation has beside its bound, for the blocks that it reads: when these are used up, what it has read
/// before can leave memory again.
pub(super) const FILLS: u32 = 8;

/// Proof of admission; pays for what the operation takes. The bound is that of one step: between two handles, where nothing
/// is held but inode locks, an operation is admitted again.
pub struct Token {
    memory: Arc<Memory>,
    /// Frames of one step.
    bound: u32,
    account: Arc<Account>,
    /// Kept for good: counted as nobody's that runs.
    private: bool,
}

impl Token {
    /// The need's cost has been promised by the caller.
    pub(super) fn new(memory: Arc<Memory>, need: Need) -> Self {
        memory.tokens.fetch_add(1, Ordering::SeqCst);
        let token = Self::promised(memory, need, false);
        account::enter(token.memory.id(), &token.account);
        token
    }

    /// The same for one that is kept, perhaps on no thread: what others take on this one is not paid by it.
    pub(super) fn private(memory: Arc<Memory>, need: Need) -> Self {
        Self::promised(memory, need, true)
    }

    fn promised(memory: Arc<Memory>, need: Need, private: bool) -> Self {
        memory.gauges.reserve(memory.cost(need));
        let account = Account::default();
        account.add_frames(need.frames);
        account.fills.store(FILLS, Ordering::Relaxed);
        account.add_bytes(u64::from(need.bytes));
        Self {
            memory,
            bound: need.frames,
            account: Arc::new(account),
            private,
        }
    }

    /// The operation begins its next step: what earlier ones took is set aside once more. At most inode locks are held, no
    /// handle: if need be what is pinned is committed and written home, but nobody is waited for.
    pub fn renew(&mut self) {
        let frames = self.bound.saturating_sub(self.left());
        let fills = FILLS - self.account.fills.load(Ordering::Relaxed);
        if frames + fills > 0 {
            let cost = self.memory.frames_cost(frames + fills);
            self.memory.promise_for_step(cost);
            self.account.add_frames(frames);
            self.account.fills.fetch_add(fills, Ordering::Relaxed);
            self.memory.gauges.reserve(cost);
        }
    }

    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Frames not yet taken.
    pub fn left(&self) -> u32 {
        self.account.frames.load(Ordering::Relaxed)
    }

    /// Moves `frames` of this token into a handle.
    pub fn take(&mut self, frames: u32) -> Credits {
        let beyond = frames - self.account.spend_frames(frames);
        if beyond > 0 {
            self.memory.gauges.overdraw(beyond);
            self.memory.take_unpaid(self.memory.frames_cost(beyond));
            self.memory.gauges.reserve(self.memory.frames_cost(beyond));
        }
        Credits {
            memory: Arc::clone(&self.memory),
            home: Arc::downgrade(&self.account),
            left: frames,
        }
    }

    /// Takes one frame for the operation itself (contents unspecified).
    pub fn frame(&mut self, class: Class) -> Frame {
        self.take(1).frame(class)
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        account::leave(&self.account);
        let (frames, bytes) = self.account.close();
        let cost = self.memory.frames_cost(frames) + bytes;
        self.memory.gauges.unreserve(cost);
        if !self.private {
            self.memory.tokens.fetch_sub(1, Ordering::SeqCst);
        }
        self.memory.ledger.release(cost);
        self.memory.ledger.note_release();
    }
}

/// Frames that a journal handle may use: one for each block it will dirty.
pub struct Credits {
    memory: Arc<Memory>,
    /// Of the token that they were taken out of.
    home: Weak<Account>,
    left: u32,
}

impl Credits {
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    pub fn left(&self) -> u32 {
        self.left
    }

    /// Takes one frame (contents unspecified).
    pub fn frame(&mut self, class: Class) -> Frame {
        if self.left == 0 {
            self.memory.gauges.overdraw(1);
            return self.memory.frame(class);
        }
        self.left -= 1;
        self.memory.gauges.unreserve(self.memory.frame_cost);
        self.memory.frame_granted(class)
    }

    /// Moves up to `frames` into credits of their own.
    pub fn split(&mut self, frames: u32) -> Credits {
        let frames = frames.min(self.left);
        self.left -= frames;
        Credits {
            memory: Arc::clone(&self.memory),
            home: Weak::clone(&self.home),
            left: frames,
        }
    }

    pub fn merge(&mut self, mut other: Credits) {
        self.left = self.left.saturating_add(other.left);
        other.left = 0;
    }
}

impl Drop for Credits {
    fn drop(&mut self) {
        let home = self.home.upgrade();
        let rest = home.map_or(self.left, |account| account.return_frames(self.left));
        let cost = self.memory.frames_cost(rest);
        self.memory.gauges.unreserve(cost);
        self.memory.ledger.release(cost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_pays_and_returns_the_rest() {
        const NEED: Need = Need::new(4, 100).and(Need::frames(2));
        let memory = Memory::new(1 << 20, 4096, 1 << 17);
        let mut token = memory.admit(NEED);
        assert_eq!(memory.snapshot().reserved, (6 + 8) * (4096 + 256) + 100);
        let mut credits = token.take(4);
        let frame = credits.frame(Class::Meta);
        assert_eq!((token.left(), credits.left()), (2, 3));
        assert_eq!(memory.snapshot().reserved, (5 + 8) * (4096 + 256) + 100);
        drop(credits);
        assert_eq!(token.left(), 5);
        assert_eq!(memory.snapshot().reserved, (5 + 8) * (4096 + 256) + 100);
        drop(token);
        let snapshot = memory.snapshot();
        assert_eq!((snapshot.reserved, snapshot.used), (0, 4096 + 256));
        drop(frame);
        assert_eq!(memory.snapshot().overdrawn_frames, 0);
    }

    #[test]
    fn credits_that_outlive_their_token_are_given_back() {
        let memory = Memory::new(1 << 20, 4096, 1 << 17);
        let mut token = memory.admit(Need::frames(4));
        let mut credits = token.take(4);
        let half = credits.split(2);
        drop(half);
        assert_eq!(token.left(), 2);
        drop(token);
        assert_eq!(memory.snapshot().reserved, 2 * (4096 + 256));
        drop(credits);
        assert_eq!(memory.leaks(), []);
    }

    #[test]
    fn each_step_has_the_whole_bound() {
        let memory = Memory::new(1 << 20, 4096, 1 << 17);
        let mut token = memory.admit(Need::frames(3));
        for _ in 0..3 {
            token.renew();
            drop(token.take(3));
        }
        assert_eq!(memory.snapshot().overdrawn_frames, 0);
        token.renew();
        drop(token.take(4));
        assert_eq!(memory.snapshot().overdrawn_frames, 1);
        drop(token);
        assert_eq!(memory.snapshot().reserved, 0);
    }

    #[test]
    fn taking_too_much_is_granted_and_counted() {
        let memory = Memory::new(1 << 20, 1024, 1 << 17);
        let mut token = memory.admit(Need::frames(1));
        let mut credits = token.take(2);
        let mut other = credits.split(1);
        let frames = [
            credits.frame(Class::Meta),
            other.frame(Class::Meta),
            other.frame(Class::Meta),
        ];
        assert_eq!(memory.snapshot().overdrawn_frames, 2);
        drop((frames, credits, other, token));
        assert_eq!(memory.snapshot().reserved, 0);
    }
}

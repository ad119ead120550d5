//! Admission: an operation's bound is set aside before its first lock, and pays for what it takes later.
//!
//! Source: the design's section on memory (admission, credits are memory).
//! Invariants: nothing here waits once a token exists; what a token or its credits did not use is returned when
//! they are dropped; taking beyond the bound is granted and counted, so that a test can see it.

use super::{Class, Frame, Memory};
use std::sync::Arc;

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

/// Proof of admission; pays for what the operation takes. The bound is that of one step: between two handles, where nothing
/// is held but inode locks, an operation is admitted again.
pub struct Token {
    memory: Arc<Memory>,
    /// Frames of one step.
    bound: u32,
    frames: u32,
    bytes: u32,
}

impl Token {
    pub(super) fn new(memory: Arc<Memory>, need: Need) -> Self {
        memory
            .gauges
            .reserve(reserved_bytes(&memory, need.frames) + u64::from(need.bytes));
        Self {
            memory,
            bound: need.frames,
            frames: need.frames,
            bytes: need.bytes,
        }
    }

    /// The operation begins its next step: what earlier ones took is set aside once more.
    pub fn renew(&mut self) {
        if self.frames < self.bound {
            let missing = self.bound - self.frames;
            self.frames = self.bound;
            self.memory
                .gauges
                .reserve(reserved_bytes(&self.memory, missing));
        }
    }

    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Frames not yet taken.
    pub fn left(&self) -> u32 {
        self.frames
    }

    /// Moves `frames` of this token into a handle.
    pub fn take(&mut self, frames: u32) -> Credits {
        let covered = frames.min(self.frames);
        self.frames -= covered;
        let beyond = frames - covered;
        if beyond > 0 {
            self.memory.gauges.overdraw(beyond);
            self.memory
                .gauges
                .reserve(reserved_bytes(&self.memory, beyond));
        }
        Credits {
            memory: Arc::clone(&self.memory),
            left: frames,
        }
    }

    /// Takes back what a handle did not use, for the next step of the same operation.
    pub fn give_back(&mut self, mut credits: Credits) {
        self.frames = self.frames.saturating_add(credits.left);
        credits.left = 0;
    }

    /// Takes one frame for the operation itself (contents unspecified).
    pub fn frame(&mut self, class: Class) -> Frame {
        self.take(1).frame(class)
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.memory
            .gauges
            .unreserve(reserved_bytes(&self.memory, self.frames) + u64::from(self.bytes));
    }
}

/// Frames that a journal handle may use: one for each block it will dirty.
pub struct Credits {
    memory: Arc<Memory>,
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
        } else {
            self.left -= 1;
            self.memory
                .gauges
                .unreserve(reserved_bytes(&self.memory, 1));
        }
        self.memory.frame_granted(class)
    }

    /// Moves up to `frames` into credits of their own.
    pub fn split(&mut self, frames: u32) -> Credits {
        let frames = frames.min(self.left);
        self.left -= frames;
        Credits {
            memory: Arc::clone(&self.memory),
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
        self.memory
            .gauges
            .unreserve(reserved_bytes(&self.memory, self.left));
    }
}

fn reserved_bytes(memory: &Memory, frames: u32) -> u64 {
    u64::from(frames) * u64::from(memory.frame_size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_pays_and_returns_the_rest() {
        const NEED: Need = Need::new(4, 100).and(Need::frames(2));
        let memory = Memory::new(1 << 20, 4096, 1 << 17);
        let mut token = memory.admit(NEED);
        assert_eq!(memory.snapshot().reserved, 6 * 4096 + 100);
        let mut credits = token.take(4);
        let frame = credits.frame(Class::Meta);
        assert_eq!((token.left(), credits.left()), (2, 3));
        assert_eq!(memory.snapshot().reserved, 5 * 4096 + 100);
        token.give_back(credits);
        assert_eq!(token.left(), 5);
        drop(token);
        let snapshot = memory.snapshot();
        assert_eq!((snapshot.reserved, snapshot.used), (0, 4096));
        drop(frame);
        assert_eq!(memory.snapshot().overdrawn_frames, 0);
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

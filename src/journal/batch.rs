//! One commit for many who sync side by side: it costs the device no more than a commit for one.
//!
//! Source: the design's section on the journal; jbd2, too, lets a sync wait for other writers.
//! Invariants: nobody is waited for but who was served by the commit before, and not longer than two commits usually take; who
//! syncs alone never waits; after waits in vain ever more commits begin at once.

use std::time::Duration;

/// More are not told apart.
const ASKERS: usize = 64;
/// However long commits take.
const LONGEST: Duration = Duration::from_millis(10);
/// After so many waits in vain the commits that begin at once do not become more.
const VAIN: u32 = 6;

/// Who asks for durability, by process id.
#[derive(Default)]
pub(super) struct Batch {
    /// Since the last transaction was taken.
    now: Vec<u32>,
    /// Before that, as long as they have not come again.
    missing: Vec<u32>,
    /// Somebody waits for them.
    pub(super) gathering: bool,
    /// How long a commit usually takes.
    usual: Duration,
    /// Waits in vain, one after the other.
    vain: u32,
    /// Commits that are yet to begin at once.
    rest: u32,
}

impl Batch {
    /// `asker` wants to be served by the next commit; the kernel itself is 0.
    pub(super) fn ask(&mut self, asker: u32) {
        self.missing.retain(|&missing| missing != asker);
        if asker != 0 && self.now.len() < ASKERS && !self.now.contains(&asker) {
            self.now.push(asker);
        }
    }

    /// Whether all who were served last have come again.
    pub(super) fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }

    /// How long the next commit may wait for those who were served last.
    pub(super) fn patience(&mut self) -> Duration {
        if self.now.is_empty() || self.is_complete() {
            return Duration::ZERO;
        }
        if self.rest > 0 {
            self.rest -= 1;
            return Duration::ZERO;
        }
        (2 * self.usual).min(LONGEST)
    }

    /// A wait has ended.
    pub(super) fn waited(&mut self) {
        if self.is_complete() {
            (self.vain, self.rest) = (0, 0);
        } else {
            self.vain += 1;
            self.rest = 1 << self.vain.min(VAIN);
        }
    }

    /// The transaction is taken: who asks from here on is served by the one after it.
    pub(super) fn taken(&mut self) {
        self.missing = std::mem::take(&mut self.now);
    }

    pub(super) fn took(&mut self, time: Duration) {
        self.usual = (3 * self.usual + time) / 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: Duration = Duration::from_millis(1);

    fn batch() -> Batch {
        let mut batch = Batch::default();
        (0..40).for_each(|_| batch.took(COMMIT));
        batch
    }

    #[test]
    fn who_syncs_alone_never_waits() {
        let mut batch = batch();
        for _ in 0..10 {
            batch.ask(7);
            assert_eq!(batch.patience(), Duration::ZERO);
            batch.taken();
        }
        // Nor does a commit that nobody asked for.
        assert_eq!(batch.patience(), Duration::ZERO);
    }

    #[test]
    fn two_halves_become_one() {
        let mut batch = batch();
        (1..5).for_each(|asker| batch.ask(asker));
        batch.taken();
        (5..9).for_each(|asker| batch.ask(asker));
        assert!(batch.patience() > COMMIT);
        (1..4).for_each(|asker| batch.ask(asker));
        assert!(!batch.is_complete());
        batch.ask(4);
        assert!(batch.is_complete());
        batch.waited();
        batch.taken();
        batch.ask(1);
        assert!(batch.patience() > COMMIT);
    }

    #[test]
    fn who_takes_turns_is_soon_left_alone() {
        let mut batch = batch();
        let mut waits = 0;
        for turn in 0..200 {
            batch.ask(1 + turn % 2);
            if batch.patience() > Duration::ZERO {
                waits += 1;
                batch.waited();
            }
            batch.taken();
        }
        assert!((1..10).contains(&waits), "{waits}");
    }

    #[test]
    fn no_commit_waits_for_ever() {
        let mut batch = batch();
        (0..40).for_each(|_| batch.took(Duration::from_secs(5)));
        batch.ask(1);
        batch.taken();
        batch.ask(2);
        assert_eq!(batch.patience(), LONGEST);
        (0..1000).for_each(|asker| batch.ask(asker));
        assert_eq!(batch.now.len(), ASKERS);
    }
}

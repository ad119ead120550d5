//! Lines that are broken on purpose, so that the crash simulator can show that it would notice. Feature `canaries`; without it
//! none of them is in the build, and the program refuses to mount with it.
//!
//! Source: the issue on crashes.
//! Invariants: at most one is on, in the thread that turned it on alone.

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canary {
    /// The commit block goes down with the blocks that it covers.
    EarlyCommit,
    /// The log's tail moves before the blocks that were written home are synced.
    EarlyTail,
    /// The log's space is used again before the moved tail is synced.
    TailUnsynced,
    /// A freed block is handed out before its transaction has committed.
    EarlyReuse,
    /// A freed metadata block is not revoked.
    NoRevoke,
    /// A block that is journaled again after it was revoked stays revoked.
    RevokeStays,
    /// A freed metadata block stays in the checkpoint lists.
    NotForgotten,
    /// A file's size, and the blocks for it, are recorded before its data is down.
    EarlySize,
    /// Blocks are freed while file I/O to them is in flight.
    NoDrain,
    /// When a preallocation is given up, so are the blocks beside it that were handed out of it and are in flight.
    InFlightDropped,
    /// A rename replaces a file before the data of the new one has a place.
    NoEarlyFlush,
    /// An inode without a name is not put on the orphan list.
    NoOrphan,
    /// A buddy is built from what the group's sets were before its lock was taken.
    UnlockedBuild,
    /// A block leaves a preallocation and is recorded as handed out in two steps.
    HandOutInTwoSteps,
    /// A preallocation keeps the blocks that were handed out of it, so that they are freed inside of a live one.
    FreeInsidePrealloc,
    /// Blocks are trimmed that stay free meanwhile.
    TrimWithoutHold,
    /// Whoever looks for an inode that is being freed does not wait.
    FreeingUnmarked,
    /// Nobody wakes those who do.
    FreeingUntold,
    /// An inode is evicted although somebody refers to it.
    EvictedInUse,
    /// An unlinked inode is freed although the kernel knows it.
    ReapedInUse,
    /// A directory may change between the moment when a name is found in it and the moment when its lookup is counted.
    LookupUnlocked,
    /// The same of the entries of a listing.
    ListedUnlocked,
}

impl Canary {
    /// Those that no power cut shows: the allocator's own tests do.
    pub const OF_THE_ALLOCATOR: [Canary; 4] = [
        Canary::UnlockedBuild,
        Canary::HandOutInTwoSteps,
        Canary::FreeInsidePrealloc,
        Canary::TrimWithoutHold,
    ];

    /// The same of the inode table and the lookup counts.
    pub const OF_THE_INODE_TABLE: [Canary; 6] = [
        Canary::FreeingUnmarked,
        Canary::FreeingUntold,
        Canary::EvictedInUse,
        Canary::ReapedInUse,
        Canary::LookupUnlocked,
        Canary::ListedUnlocked,
    ];

    /// Those that a power cut shows. (I/O in flight beside a truncation takes two threads: `NoDrain` has a test of its own.)
    pub const ALL: [Canary; 11] = [
        Canary::EarlyCommit,
        Canary::EarlyTail,
        Canary::TailUnsynced,
        Canary::EarlyReuse,
        Canary::NoRevoke,
        Canary::RevokeStays,
        Canary::NotForgotten,
        Canary::EarlySize,
        Canary::InFlightDropped,
        Canary::NoEarlyFlush,
        Canary::NoOrphan,
    ];
}

#[cfg(feature = "canaries")]
thread_local! {
    static ON: std::cell::Cell<Option<Canary>> = const { std::cell::Cell::new(None) };
    static REVOKED: std::cell::RefCell<Vec<crate::ids::FsBlock>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// With `RevokeStays`: what earlier transactions revoked is revoked again by this one.
#[cfg(feature = "canaries")]
pub fn keep_revokes(revoked: &mut Vec<crate::ids::FsBlock>) {
    if canary(Canary::RevokeStays) {
        REVOKED.with_borrow_mut(|kept| {
            kept.append(revoked);
            kept.sort_unstable();
            kept.dedup();
            revoked.clone_from(kept);
        });
    }
}

/// Whether this line is to be broken.
#[inline(always)]
pub fn canary(which: Canary) -> bool {
    #[cfg(feature = "canaries")]
    {
        ON.get() == Some(which)
    }
    #[cfg(not(feature = "canaries"))]
    {
        let _ = which;
        false
    }
}

/// Turns one on in this thread, or all off.
#[cfg(feature = "canaries")]
pub fn select(which: Option<Canary>) {
    ON.set(which);
    REVOKED.take();
}

/// Without them there is none to turn on.
#[cfg(all(test, feature = "shuttle", not(feature = "canaries")))]
pub fn select(which: Option<Canary>) {
    assert!(which.is_none());
}

/// The one that is on in this thread.
#[cfg(feature = "canaries")]
pub fn selected() -> Option<Canary> {
    ON.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_on_unless_it_was_turned_on() {
        assert!(!Canary::ALL.into_iter().any(canary));
        assert!(!Canary::OF_THE_ALLOCATOR.into_iter().any(canary));
        assert!(!Canary::OF_THE_INODE_TABLE.into_iter().any(canary));
        let manifest = include_str!("../Cargo.toml");
        assert!(
            !manifest.lines().any(|line| line.starts_with("default")),
            "no feature is on by default"
        );
    }
}

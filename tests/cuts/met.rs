//! What a run came across: one that never met a mechanism has tried less than it seems.

use serde::Serialize;

/// What a run came across, without which it tried less than it seems.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Met {
    /// Files whose delayed data the flushers wrote.
    pub flushed: u64,
    /// Operations that left blocks set aside.
    pub set_aside: u64,
    /// Blocks that were set aside and given up for a writer who needs space.
    pub given_up: u64,
    /// Times that there was no space.
    pub enospc: u64,
    pub evicted: u64,
    /// Of those: with blocks set aside.
    pub evicted_with_preallocations: u64,
    /// Requests that had to make room in memory.
    pub reclaims: u64,
    /// Runs of blocks that the disk was told to forget.
    pub discards: u64,
    /// Steps that stood still while operations went on.
    pub asides: u64,
}

impl Met {
    pub fn add(&mut self, other: &Self) {
        self.flushed += other.flushed;
        self.set_aside += other.set_aside;
        self.given_up += other.given_up;
        self.enospc += other.enospc;
        self.evicted += other.evicted;
        self.evicted_with_preallocations += other.evicted_with_preallocations;
        self.reclaims += other.reclaims;
        self.discards += other.discards;
        self.asides += other.asides;
    }

    /// What was never met, by name.
    pub fn missing(&self) -> Vec<&'static str> {
        let more = [
            ("preallocations given up", self.given_up),
            ("ENOSPC", self.enospc),
            ("reclaim of memory", self.reclaims),
            ("discards", self.discards),
            ("steps aside", self.asides),
        ];
        let never = more.into_iter().filter(|(_, count)| *count == 0);
        let never = never.map(|(name, _)| name);
        self.missing_of_eviction()
            .into_iter()
            .chain(never)
            .collect()
    }

    /// The same, of a run that is about eviction alone.
    pub fn missing_of_eviction(&self) -> Vec<&'static str> {
        let all = [
            ("delayed data flushed", self.flushed),
            ("blocks set aside", self.set_aside),
            ("evictions", self.evicted),
            (
                "evictions with a preallocation",
                self.evicted_with_preallocations,
            ),
        ];
        let never = all.into_iter().filter(|(_, count)| *count == 0);
        never.map(|(name, _)| name).collect()
    }
}

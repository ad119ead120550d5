//! Who evicts: what a mount chose, the memory that the evictor's thread has for itself, and what there is to see.
//!
//! Source: the design's section on the eviction path (who runs it, warnings).
//! Invariants: the thread works from its own memory, so that it needs nobody to be able to help everybody.

use super::policy::{From, Policy, PolicyName, Warn};
use super::stats::{Cause, Snapshot, Stats, Step};
use crate::alloc::{Allocator, BuddyLoads};
use crate::clock::Clock;
use crate::ids::GroupIndex;
use crate::inode::InodeTable;
use crate::memory::{Draw, Memory, Reclaimer, Reserve};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How a mount evicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    pub policy: PolicyName,
    pub from: From,
    pub warn: Warn,
    /// Loads that the pool of policy `reserve` holds.
    pub reserve: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            policy: PolicyName::default(),
            from: From::default(),
            warn: Warn::default(),
            reserve: 8,
        }
    }
}

/// The eviction of one mount.
pub struct Evictor {
    pub(super) table: Arc<InodeTable>,
    pub(super) alloc: Arc<Allocator>,
    pub(super) memory: Arc<Memory>,
    clock: Arc<dyn Clock>,
    pub(super) policy: Box<dyn Policy>,
    settings: Settings,
    pub(super) stats: Stats,
}

impl Evictor {
    pub fn new(
        table: &Arc<InodeTable>,
        alloc: &Arc<Allocator>,
        memory: &Arc<Memory>,
        clock: &Arc<dyn Clock>,
        settings: Settings,
    ) -> Self {
        if settings.policy == PolicyName::Reserve {
            super::reserve::set_up(memory, settings.reserve);
        }
        alloc.pin_buddies(settings.policy == PolicyName::Pin);
        Self {
            table: Arc::clone(table),
            alloc: Arc::clone(alloc),
            memory: Arc::clone(memory),
            clock: Arc::clone(clock),
            policy: settings.policy.policy(),
            settings,
            stats: Stats::default(),
        }
    }

    pub fn prunes_directly(&self) -> bool {
        self.settings.from == From::Direct
    }

    /// Evicts all that nobody refers to; returns how many inodes are left in memory.
    pub fn evict_all(&self) -> usize {
        self.prune_icache(u64::MAX, Reclaimer::Evictor, Cause::Asked);
        self.table.len()
    }

    /// Counts and times of the eviction so far.
    pub fn snapshot(&self) -> Snapshot {
        let settings = self.settings;
        let mut snapshot = self
            .stats
            .snapshot(settings.policy.name(), settings.from.name());
        snapshot.swept = self.table.swept();
        snapshot.private_bytes = match settings.policy {
            PolicyName::Reserve => super::reserve::bytes(&self.memory, settings.reserve),
            PolicyName::Pin => self.alloc.pinned_bytes(),
            _ => 0,
        };
        snapshot
    }

    /// The evictor's thread may use its reserve.
    pub(super) fn own_memory(&self, by: Reclaimer) -> Option<Draw> {
        (by == Reclaimer::Evictor).then(|| self.memory.draw_on(Reserve::Evictor))
    }

    pub(super) fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    pub(super) fn note_loads(&self, loads: &BuddyLoads, start: Duration) {
        let stats = &self.stats;
        stats
            .buddy_builds
            .fetch_add(u64::from(loads.built), Ordering::Relaxed);
        stats
            .bitmap_reads
            .fetch_add(u64::from(loads.reads), Ordering::Relaxed);
        self.record(Step::LoadBuddy, self.now().saturating_sub(start));
    }

    /// The kernel's warning about an allocation inside of reclaim.
    pub(super) fn warn(&self, group: GroupIndex) {
        match self.settings.warn {
            Warn::Off => {}
            Warn::Log => {
                log::warn!(target: "uext4::evict", "reclaim allocates to load the buddy of group {group}");
            }
            Warn::Panic => panic!("reclaim allocates to load the buddy of group {group}"),
        }
    }
}

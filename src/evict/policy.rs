//! The ways out: what evicting an inode does about a buddy that has to be loaded to give its preallocations up.
//!
//! Source: the thread "ext4: fix allocation failure in ext4_mb_load_buddy_gfp"; the design's sections 5 and 6.
//! Invariants: every policy gives the same blocks back; they differ in when, and in what that costs. What a policy keeps for
//! itself counts against the cap.

use super::evictor::Evictor;
use super::stats::count;
use crate::error::Result;
use crate::ids::GroupIndex;
use crate::inode::NodeRef;
use crate::memory::{Need, Reclaimer, Reserve, Token};
use std::time::Duration;

/// A buddy is two frames, its bitmap one; the group's descriptor may have to be read as well.
pub(super) const LOAD: Need = Need::frames(4);

/// The name of a policy, as `--evict-policy` takes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PolicyName {
    NoFail,
    Retry,
    Again,
    Skip,
    Pin,
    Reserve,
    #[default]
    Derive,
}

impl PolicyName {
    pub const ALL: [Self; 7] = [
        Self::NoFail,
        Self::Retry,
        Self::Again,
        Self::Skip,
        Self::Pin,
        Self::Reserve,
        Self::Derive,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::NoFail => "nofail",
            Self::Retry => "retry",
            Self::Again => "eagain",
            Self::Skip => "skip",
            Self::Pin => "pin",
            Self::Reserve => "reserve",
            Self::Derive => "derive",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.name() == name)
    }

    pub(super) fn policy(self) -> Box<dyn Policy> {
        match self {
            Self::NoFail => Box::new(NoFail),
            Self::Retry => Box::new(Retry),
            Self::Again => Box::new(Again),
            Self::Skip => Box::new(Skip),
            Self::Pin => Box::new(Pin),
            Self::Reserve => Box::new(SparePool),
            Self::Derive => Box::new(Derive),
        }
    }
}

/// Who evicts inodes that cost something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum From {
    /// Whoever wants memory, as the kernel's direct reclaim does.
    Direct,
    /// A thread of its own, from its own memory.
    #[default]
    Evictor,
}

impl From {
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Evictor => "evictor",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        [Self::Direct, Self::Evictor]
            .into_iter()
            .find(|from| from.name() == name)
    }
}

/// What is done when reclaim has to allocate: the kernel's warning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Warn {
    #[default]
    Off,
    Log,
    /// As with panic_on_warn.
    Panic,
}

impl Warn {
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "off" => Some(Self::Off),
            "log" => Some(Self::Log),
            "panic" => Some(Self::Panic),
            _ => None,
        }
    }
}

/// What became of an inode's preallocations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// The inode goes back into the table as it was.
    Later,
}

/// One way out.
pub(super) trait Policy: Send + Sync {
    /// Whether the inode may be evicted now; otherwise it is passed over. It has preallocations.
    fn may_evict(&self, _: &Evictor, _: &NodeRef, _: Reclaimer) -> bool {
        true
    }

    /// Memory for the load of a group's buddy that is not in memory; `None`: later.
    fn memory(&self, evictor: &Evictor, by: Reclaimer) -> Option<Token>;

    /// Gives the preallocations up: the kernel's way, through the buddies.
    fn discard(&self, evictor: &Evictor, node: &NodeRef, by: Reclaimer) -> Result<Outcome> {
        evictor.discard_through_buddies(node, &mut || self.memory(evictor, by))
    }
}

/// Today's kernel: "looping until the memory can be released is just *fine*": `__GFP_NOFAIL` in `ext4_mb_load_buddy_gfp`. It
/// waits inside of evict, at the head of the queue. Cost: whoever reclaims stands still until others give memory back.
struct NoFail;

impl Policy for NoFail {
    fn memory(&self, evictor: &Evictor, by: Reclaimer) -> Option<Token> {
        Some(evictor.memory.admit_urgently(LOAD, by))
    }
}

/// "Or we could just drop the __GFP_NOFAIL and just add hard-coded retry loop." The budget does not know of the wait, so nobody
/// is in its debt: others take what becomes free. Cost: time, and up to `ATTEMPTS` wakeups for nothing.
struct Retry;

const ATTEMPTS: u32 = 6;

impl Policy for Retry {
    fn memory(&self, evictor: &Evictor, by: Reclaimer) -> Option<Token> {
        for attempt in 0..ATTEMPTS {
            if let Some(token) = evictor.memory.admit_free(LOAD) {
                return Some(token);
            }
            count(&evictor.stats.retries);
            evictor
                .memory
                .wait_for_release(Duration::from_millis(1 << attempt));
        }
        // Data loss is unacceptable: in the end it is the same as `nofail`.
        Some(evictor.memory.admit_urgently(LOAD, by))
    }
}

/// "If allocation fails, return -EAGAIN to let reclaim skip this inode": what the patch's author proposed, and what the thread
/// says cannot be done in the kernel, since "once the inode is evicted, it's *gone*". Here it is put back whole. Cost: the inode
/// stays; under pressure the same ones are tried again and again.
struct Again;

impl Policy for Again {
    fn memory(&self, evictor: &Evictor, _: Reclaimer) -> Option<Token> {
        evictor.memory.admit_free(LOAD)
    }
}

/// "If we're in a memory reclaim context, skip trying to evict this inode." Whoever wants memory passes over inodes that are
/// dirty or any of whose buddies is not in memory; the evictor takes them. Cost: direct reclaim finds less, a second thread is
/// needed, and inodes that were skipped stay longer.
struct Skip;

impl Policy for Skip {
    fn may_evict(&self, evictor: &Evictor, node: &NodeRef, by: Reclaimer) -> bool {
        by == Reclaimer::Evictor
            || evictor
                .alloc
                .preallocated_groups(&node.prealloc)
                .iter()
                .all(|&group| {
                    evictor
                        .alloc
                        .buddy_cost(group)
                        .is_ok_and(|cost| cost.resident && cost.bitmap_cached)
                })
    }

    fn memory(&self, evictor: &Evictor, by: Reclaimer) -> Option<Token> {
        Some(evictor.memory.admit_urgently(LOAD, by))
    }
}

/// "Pin the buddy bitmap and bitmap blocks in memory [...] if we know that there might be preallocations pending for that
/// particular block group." Cost: three frames for each group with a preallocation, for as long as it has one, inside the cap; beyond an eighth of the cap
/// nothing is set aside for files that grow.
struct Pin;

impl Policy for Pin {
    fn memory(&self, evictor: &Evictor, by: Reclaimer) -> Option<Token> {
        // Only a group whose buddy was found corrupt gets here.
        Some(evictor.memory.admit_urgently(LOAD, by))
    }
}

/// "A pool of spare pages *just* for ext4 [...] and if the pool of spare pages is exhausted, just wait and do a retry loop."
/// Cost: `--evict-reserve` loads of four frames, always set aside.
struct SparePool;

impl Policy for SparePool {
    fn memory(&self, evictor: &Evictor, by: Reclaimer) -> Option<Token> {
        let memory = &evictor.memory;
        memory
            .admit_free(LOAD)
            .or_else(|| memory.admit_from(Reserve::Spare, LOAD))
            .or_else(|| Some(memory.admit_urgently(LOAD, by)))
    }
}

/// Ours. A preallocation's record says which blocks are unused, and the group's free set is what its owners leave over, so
/// giving them back needs no buddy: with one it is updated, without one the group's summaries become lower bounds until the next
/// build. Cost: none in evict; the search may miss such a group until its last level, which goes by free counts alone.
struct Derive;

impl Policy for Derive {
    fn memory(&self, _: &Evictor, _: Reclaimer) -> Option<Token> {
        None
    }

    fn discard(&self, evictor: &Evictor, node: &NodeRef, _: Reclaimer) -> Result<Outcome> {
        evictor.alloc.discard_preallocations(&node.prealloc);
        Ok(Outcome::Done)
    }
}

impl Evictor {
    /// Makes each group's buddy resident, then gives back what its bitmap shows as unused.
    pub(super) fn discard_through_buddies(
        &self,
        node: &NodeRef,
        memory: &mut dyn FnMut() -> Option<Token>,
    ) -> Result<Outcome> {
        let mut later = false;
        let discarded =
            self.alloc
                .discard_preallocations_through_buddy(&node.prealloc, &mut |group| {
                    let loaded = self.load_buddy(group, memory)?;
                    later = loaded.is_none();
                    loaded.ok_or_else(|| crate::error::Posix::Again.into())
                });
        match discarded {
            Err(_) if later => Ok(Outcome::Later),
            done => done.map(|_| Outcome::Done),
        }
    }

    /// The kernel's `ext4_mb_load_buddy`: `None` when there is no memory for it now.
    fn load_buddy(
        &self,
        group: GroupIndex,
        memory: &mut dyn FnMut() -> Option<Token>,
    ) -> Result<Option<crate::alloc::BuddyLoads>> {
        let start = self.now();
        count(&self.stats.buddy_loads);
        let cost = self.alloc.buddy_cost(group)?;
        let token = if cost.resident && cost.bitmap_cached {
            None
        } else {
            count(&self.stats.allocations);
            self.warn(group);
            let Some(token) = memory() else {
                return Ok(None);
            };
            Some(token)
        };
        let loads = self.alloc.load_buddy(group, None)?;
        drop(token);
        self.note_loads(&loads, start);
        Ok(Some(loads))
    }
}

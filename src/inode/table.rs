//! The in-memory inodes: found by number, loaded on demand, dropped when nobody refers to them.
//!
//! Source: the design's inode cache.
//! Invariants: there is at most one `Node` of an inode that anybody can find; one thread loads or frees it while others wait;
//! a dropped one loses nothing, since the on-disk inode is whole at the end of every handle. What the kernel knows or has open
//! does not keep an inode here; what refers to a `Node` (a request, a handle, I/O in flight, delayed data) does.

use crate::alloc::{Allocator, PreallocTree};
use crate::canary::{Canary, canary};
use crate::error::{Posix, Result};
use crate::format::inode::Inode;
use crate::ids::{InodeNumber, NumberMap, NumberSet, Tid};
use crate::inode::InodeStore;
use crate::inode::delayed::Delayed;
use crate::memory::shrinker::Shrinker;
use crate::memory::{Charge, Class, Memory};
use crate::sync::{Condvar, Mutex, Rank, RankToken, RwLock, patience};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

pub type NodeRef = Arc<Node>;

const SHARDS: usize = 32;
/// The part of the memory cap that nodes may take before unreferenced ones are dropped.
const SHARE: u64 = 8;
/// What a node costs: itself, its place in the table, the heap's rounding.
const NODE_BYTES: usize = size_of::<Node>() + 96;

/// An inode in memory.
pub struct Node {
    pub ino: InodeNumber,
    /// The inode lock: exclusive for changes of contents or names, shared for reads. Rank `Inode`.
    pub lock: RwLock<()>,
    /// The on-disk inode as of the running transaction. Rank `Map`.
    pub core: RwLock<Inode>,
    /// Rank `Prealloc`.
    pub prealloc: Mutex<PreallocTree>,
    /// Held while blocks are chosen for the file's data. Rank `Inode`, after `lock`.
    pub allocating: Mutex<()>,
    /// Data not on the device yet. Rank `Leaf`; what is taken out of it belongs to a flusher, who holds `writeback`.
    pub delayed: Mutex<Delayed>,
    /// Held while delayed data goes to the device and into the map. Rank `Inode`, after all inode locks.
    pub writeback: Mutex<()>,
    /// File data I/O in flight.
    in_flight: Mutex<u32>,
    drained: Condvar,
    /// Second chance: it was looked up since the sweep came by.
    referenced: AtomicBool,
    last_change: LastChange,
    /// Without changes of times, which fdatasync leaves out.
    last_data_change: LastChange,
    /// Left to the evictor, since it costs something.
    deferred: AtomicBool,
    memory: Arc<Memory>,
    _charge: Charge,
}

/// The newest transaction that changed something, plus one bit that says that there is one.
#[derive(Default)]
struct LastChange(AtomicU64);

const CHANGED: u64 = 1 << 32;

impl LastChange {
    fn set(&self, tid: Tid) {
        self.0
            .store(CHANGED | u64::from(tid.get()), Ordering::Release);
    }

    fn get(&self) -> Option<Tid> {
        let value = self.0.load(Ordering::Acquire);
        let [a, b, c, d, ..] = value.to_le_bytes();
        (value & CHANGED != 0).then(|| Tid::new(u32::from_le_bytes([a, b, c, d])))
    }
}

impl Node {
    fn new(ino: InodeNumber, inode: Inode, memory: &Arc<Memory>) -> NodeRef {
        Arc::new(Self {
            ino,
            lock: RwLock::new(Rank::Inode, ()),
            core: RwLock::new(Rank::Map, inode),
            prealloc: Mutex::new(Rank::Prealloc, PreallocTree::default()),
            allocating: Mutex::new(Rank::Inode, ()),
            delayed: Mutex::new(Rank::Leaf, Delayed::new(memory.charge(Class::Dirty, 0))),
            writeback: Mutex::new(Rank::Inode, ()),
            in_flight: Mutex::new(Rank::Leaf, 0),
            drained: Condvar::new(),
            referenced: AtomicBool::new(true),
            last_change: LastChange::default(),
            last_data_change: LastChange::default(),
            deferred: AtomicBool::new(false),
            memory: Arc::clone(memory),
            _charge: memory.charge(Class::Inode, NODE_BYTES),
        })
    }

    /// Counts one piece of file data I/O in flight; ends when the guard is dropped. Taken under the map lock.
    pub fn begin_io(self: &Arc<Self>) -> IoInFlight {
        *self.in_flight.lock() += 1;
        IoInFlight(Arc::clone(self))
    }

    /// Whether the file has data that is not written yet; true also when somebody is just looking.
    pub fn is_dirty(&self) -> bool {
        !self
            .delayed
            .try_lock()
            .is_some_and(|delayed| delayed.is_clean())
    }

    /// Whether blocks are set aside for the file; true also when somebody is just looking.
    pub fn may_have_preallocations(&self) -> bool {
        !self.prealloc.try_lock().is_some_and(|tree| tree.is_empty())
    }

    fn defer(&self) {
        if !self.deferred.swap(true, Ordering::Relaxed) {
            self.memory.defer(NODE_BYTES as u64);
        }
    }

    fn defer_no_more(&self) {
        if self.deferred.load(Ordering::Relaxed) && self.deferred.swap(false, Ordering::Relaxed) {
            self.memory.defer_no_more(NODE_BYTES as u64);
        }
    }

    /// Waits until no I/O is in flight. Holds the inode lock, no handle.
    pub fn drain(&self) {
        if canary(Canary::NoDrain) {
            return;
        }
        let _rank = RankToken::acquire(Rank::Drain);
        let mut in_flight = self.in_flight.lock();
        while *in_flight > 0 {
            self.drained.wait(&mut in_flight);
        }
    }

    /// The size that readers see: the on-disk one of `core` (which the caller has locked), or that of delayed data.
    pub fn size(&self, core: &Inode) -> u64 {
        self.delayed.lock().size(core.size)
    }

    /// The inode was changed in this transaction.
    pub fn changed_in(&self, tid: Tid) {
        self.last_change.set(tid);
        self.last_data_change.set(tid);
    }

    /// Nothing but its times was changed in this transaction.
    pub fn touched_in(&self, tid: Tid) {
        self.last_change.set(tid);
    }

    /// The transaction that last changed the inode, or a later one.
    pub fn last_change(&self) -> Option<Tid> {
        self.last_change.get()
    }

    /// The same, changes of times apart.
    pub fn last_data_change(&self) -> Option<Tid> {
        self.last_data_change.get()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.defer_no_more();
    }
}

/// One I/O in flight.
pub struct IoInFlight(NodeRef);

impl Drop for IoInFlight {
    fn drop(&mut self) {
        let mut in_flight = self.0.in_flight.lock();
        *in_flight = in_flight.saturating_sub(1);
        if *in_flight == 0 {
            self.0.drained.notify_all();
        }
    }
}

#[derive(Default)]
struct Shard {
    nodes: NumberMap<InodeNumber, NodeRef>,
    /// The clock: nodes in the order of their coming; a place may be stale.
    hand: VecDeque<InodeNumber>,
    loading: NumberSet<InodeNumber>,
    /// Taken out, on their way to be dropped or put back.
    freeing: NumberSet<InodeNumber>,
    /// The newest transaction that changed a node dropped since: its inode may not be durable yet.
    dropped: Option<Tid>,
    /// Size below which no further sweep is tried.
    next_sweep: usize,
    /// Nodes dropped by `sweep`.
    swept: u64,
}

type Shards = Vec<(Mutex<Shard>, Condvar)>;

pub struct InodeTable {
    store: Arc<InodeStore>,
    memory: Arc<Memory>,
    alloc: Arc<Allocator>,
    shards: Arc<Shards>,
    /// Nodes beyond which unreferenced ones of a shard are dropped.
    limit: usize,
    /// The shard in which the next victim is looked for.
    next: AtomicUsize,
    /// The budget asks it for as long as the table lives.
    _shrinker: Arc<dyn Shrinker>,
}

impl InodeTable {
    pub fn new(store: Arc<InodeStore>, memory: Arc<Memory>, alloc: Arc<Allocator>) -> Self {
        let shards: Shards = (0..SHARDS)
            .map(|_| (Mutex::new(Rank::Shard, Shard::default()), Condvar::new()))
            .collect();
        let shards = Arc::new(shards);
        let frame_size = memory.frame_size() as usize;
        let shrinker: Arc<dyn Shrinker> = Arc::new(Unreferenced {
            shards: Arc::downgrade(&shards),
            frame_size,
        });
        memory.register(Arc::clone(&shrinker));
        let nodes = usize::try_from(memory.cap() / SHARE).unwrap_or(usize::MAX) / NODE_BYTES;
        Self {
            store,
            memory,
            alloc,
            shards,
            limit: (nodes / SHARDS).max(8),
            next: AtomicUsize::new(0),
            _shrinker: shrinker,
        }
    }

    /// The in-memory inode, loaded on demand. No handle may be open. Stale when it is free on disk.
    pub fn get(&self, ino: InodeNumber) -> Result<NodeRef> {
        let (mutex, loaded) = self.slot(ino);
        {
            let mut place = None;
            let mut shard = mutex.lock();
            loop {
                if let Some(node) = shard.nodes.get(&ino) {
                    node.referenced.store(true, Ordering::Relaxed);
                    node.defer_no_more();
                    return Ok(Arc::clone(node));
                }
                if !shard.freeing.contains(&ino) && shard.loading.insert(ino) {
                    break;
                }
                if place.is_none() {
                    place = Some(patience::before_waiting()?);
                }
                loaded.wait(&mut shard);
            }
        }
        let read = self.read(ino);
        let mut shard = mutex.lock();
        shard.loading.remove(&ino);
        loaded.notify_all();
        let node = Node::new(ino, read?, &self.memory);
        shard.make_room(self.limit);
        if let Some(tid) = shard.dropped {
            node.changed_in(tid);
        }
        // Whoever created it meanwhile has the newer one.
        if let Some(newer) = shard.nodes.get(&ino) {
            return Ok(Arc::clone(newer));
        }
        shard.put(&node);
        Ok(node)
    }

    /// An inode without links is on the orphan list or free; the bitmap tells.
    fn read(&self, ino: InodeNumber) -> Result<Inode> {
        let inode = self.store.read(ino)?;
        if inode.links_count == 0 && !self.alloc.inode_in_use(ino)? {
            return Err(Posix::Stale.into());
        }
        Ok(inode)
    }

    /// The in-memory inode, if it is in memory.
    pub fn peek(&self, ino: InodeNumber) -> Option<NodeRef> {
        self.slot(ino).0.lock().nodes.get(&ino).map(Arc::clone)
    }

    /// Puts a just created inode into the table.
    pub fn insert(&self, ino: InodeNumber, inode: Inode) -> NodeRef {
        let node = Node::new(ino, inode, &self.memory);
        let mut shard = self.slot(ino).0.lock();
        shard.make_room(self.limit);
        shard.put(&node);
        drop(shard);
        node
    }

    /// Drops the in-memory inode (after it was freed).
    pub fn remove(&self, ino: InodeNumber) {
        self.slot(ino).0.lock().nodes.remove(&ino);
    }

    /// Inodes in memory.
    pub fn len(&self) -> usize {
        let count = |(shard, _): &(Mutex<Shard>, Condvar)| shard.lock().nodes.len();
        self.shards.iter().map(count).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a node counts for.
    pub fn node_bytes(&self) -> u64 {
        NODE_BYTES as u64
    }

    /// Inodes that were dropped on the way, since they held nothing but themselves.
    pub fn swept(&self) -> u64 {
        let count = |(shard, _): &(Mutex<Shard>, Condvar)| shard.lock().swept;
        self.shards.iter().map(count).sum()
    }

    /// Takes the next inode out that nobody refers to, that was not looked up since the clock came by (or, with
    /// `at_once`, whether or not), and for which `wanted` says so. Until the result is finished or dropped, whoever looks
    /// it up waits. `wanted` is called under the shard's lock.
    pub fn next_victim(
        &self,
        at_once: bool,
        mut wanted: impl FnMut(&NodeRef) -> bool,
    ) -> Option<Freeing<'_>> {
        let first = self.next.load(Ordering::Relaxed);
        for step in 0..SHARDS {
            let index = (first + step) % SHARDS;
            let mut shard = self.shards[index].0.lock();
            let taken = shard.take_one(at_once, &mut wanted);
            // One from each in turn, so that the clocks go alike.
            self.next.store(index + 1, Ordering::Relaxed);
            if taken.is_some() {
                return Some(Freeing {
                    table: self,
                    node: taken,
                });
            }
        }
        None
    }

    fn slot(&self, ino: InodeNumber) -> &(Mutex<Shard>, Condvar) {
        &self.shards[ino.get() as usize % SHARDS]
    }
}

impl Shard {
    /// Makes a node findable, in the place of one that was there.
    fn put(&mut self, node: &NodeRef) {
        if self.nodes.insert(node.ino, Arc::clone(node)).is_some() {
            return;
        }
        self.hand.push_back(node.ino);
        if self.hand.len() > 2 * self.nodes.len() + 64 {
            let mut seen = NumberSet::default();
            self.hand
                .retain(|ino| self.nodes.contains_key(ino) && seen.insert(*ino));
        }
    }

    /// Drops unreferenced nodes that hold nothing else once there are more than `limit`; the caller may hold any lock.
    fn make_room(&mut self, limit: usize) {
        if self.nodes.len() < limit.max(self.next_sweep) {
            return;
        }
        let step = (limit / 8).max(1);
        self.sweep(step);
        // What is in use now will mostly still be in use at the next call.
        self.next_sweep = self.nodes.len() + step;
    }

    /// Drops up to `wanted` nodes that nobody refers to and that hold nothing but themselves; how many.
    fn sweep(&mut self, wanted: usize) -> usize {
        // A discard would take locks that the caller may hold.
        let is_bare = |node: &NodeRef| {
            let bare = !node.is_dirty() && !node.may_have_preallocations();
            if !bare {
                node.defer();
            }
            bare
        };
        let mut dropped = 0;
        while dropped < wanted {
            let Some(node) = self.take_one(false, &mut { is_bare }) else {
                break;
            };
            self.freeing.remove(&node.ino);
            dropped += 1;
        }
        self.swept += dropped as u64;
        dropped
    }

    /// Takes one node out, in two turns of the clock at most: the first takes second chances away.
    fn take_one(
        &mut self,
        at_once: bool,
        wanted: &mut impl FnMut(&NodeRef) -> bool,
    ) -> Option<NodeRef> {
        for _ in 0..2 * self.hand.len() {
            let ino = self.hand.pop_front()?;
            let Some(node) = self.nodes.get(&ino) else {
                continue;
            };
            let in_use = Arc::strong_count(node) > 1 && !canary(Canary::EvictedInUse);
            let spared = node.referenced.swap(false, Ordering::Relaxed) && !at_once;
            if in_use || spared || !wanted(node) {
                self.hand.push_back(ino);
                continue;
            }
            if let Some(tid) = node.last_change()
                && self.dropped.is_none_or(|dropped| tid.is_after(dropped))
            {
                self.dropped = Some(tid);
            }
            if !canary(Canary::FreeingUnmarked) {
                self.freeing.insert(ino);
            }
            return self.nodes.remove(&ino);
        }
        None
    }
}

/// An inode that has been taken out of the table: whoever wants it waits. Dropped unfinished, it is put back whole.
pub struct Freeing<'t> {
    table: &'t InodeTable,
    node: Option<NodeRef>,
}

impl Freeing<'_> {
    pub fn node(&self) -> Option<&NodeRef> {
        self.node.as_ref()
    }

    /// It is gone; the next who wants it loads it. Returns the bytes that this gave back.
    pub fn finish(mut self) -> u64 {
        if let Some(node) = self.node.take() {
            let ino = node.ino;
            drop(node);
            self.settle(ino, None);
        }
        NODE_BYTES as u64
    }

    fn settle(&self, ino: InodeNumber, back: Option<NodeRef>) {
        let (mutex, settled) = self.table.slot(ino);
        let mut shard = mutex.lock();
        shard.freeing.remove(&ino);
        if let Some(node) = back {
            shard.put(&node);
        }
        if !canary(Canary::FreeingUntold) {
            settled.notify_all();
        }
    }
}

impl Drop for Freeing<'_> {
    fn drop(&mut self) {
        if let Some(node) = self.node.take() {
            self.settle(node.ino, Some(node));
        }
    }
}

/// Gives nodes back to the budget that hold nothing but themselves.
struct Unreferenced {
    shards: Weak<Shards>,
    frame_size: usize,
}

impl Shrinker for Unreferenced {
    fn shrink(&self, frames: usize) -> usize {
        let Some(shards) = self.shards.upgrade() else {
            return 0;
        };
        let wanted = (frames * self.frame_size).div_ceil(NODE_BYTES);
        let mut dropped = 0;
        for (mutex, _) in shards.iter() {
            if dropped >= wanted {
                break;
            }
            if let Some(mut shard) = mutex.try_lock() {
                dropped += shard.sweep(wanted - dropped);
            }
        }
        (dropped * NODE_BYTES).div_ceil(self.frame_size)
    }
}

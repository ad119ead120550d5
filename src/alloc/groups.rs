//! The groups in memory, made on first touch, with their buddies and the totals of the volume.
//!
//! Source: the design's sections on block ownership and the allocator.
//! Invariants: a buddy is built from the newest bitmap and U, R, F under the group's lock; `available` +
//! `claimed` + `held` + what a search is about to take = blocks not in B, corrupt groups aside.

use super::buddy::Buddy;
use super::index::{GroupIndexes, Summary};
use super::locality::Localities;
use super::owner::GroupState;
use super::pin::Pins;
use super::search::Exploration;
use super::zones::SystemZones;
use super::{Settings, bits, freed, zones};
use crate::cache::{BlockCache, BufferRef};
use crate::canary::{Canary, canary};
use crate::error::{CorruptKind, Error, Location, Result, Structure};
use crate::format::checksum::{self, BlockKind};
use crate::format::geometry::Geometry;
use crate::format::group::{GroupDesc, flag};
use crate::ids::{BlockInGroup, FsBlock, GroupIndex, InodeNumber};
use crate::memory::shrinker::Shrinker;
use crate::memory::{Charge, Class, Frame, Memory};
use crate::sync::{Mutex, MutexGuard, Rank};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

const SHARDS: usize = 16;
/// Groups in a shard below which idle ones are kept.
const KEEP_IDLE: usize = 64;
/// Small files of so many threads at a time are kept apart.
const MAX_LOCALITIES: usize = 16;
/// What a group costs beside its runs.
const GROUP_BYTES: usize = 320;

/// A group in memory.
pub(super) struct Group {
    pub(super) index: GroupIndex,
    state: Mutex<GroupState>,
}

impl Group {
    pub(super) fn lock(&self) -> MutexGuard<'_, GroupState> {
        self.state.lock()
    }

    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, GroupState>> {
        self.state.try_lock()
    }
}

/// The two bitmaps of a group.
#[derive(Clone, Copy)]
pub(super) enum Bitmap {
    Blocks,
    Inodes,
}

impl Bitmap {
    /// Where it lies, and the flag that says it was never written.
    pub(super) fn of(self, desc: &GroupDesc) -> (FsBlock, u16) {
        match self {
            Self::Blocks => (desc.block_bitmap, flag::BLOCK_UNINIT),
            Self::Inodes => (desc.inode_bitmap, flag::INODE_UNINIT),
        }
    }
}

/// Totals of the volume.
#[derive(Default)]
pub(super) struct Totals {
    /// Not in B.
    pub(super) not_in_bitmap: AtomicU64,
    /// In U, R and F.
    pub(super) held: AtomicU64,
    /// Free and not claimed.
    pub(super) available: AtomicU64,
    /// Free, but promised.
    pub(super) claimed: AtomicU64,
    pub(super) free_inodes: AtomicU64,
    pub(super) directories: AtomicU64,
}

pub(super) fn add(total: &AtomicU64, count: u32) {
    total.fetch_add(u64::from(count), Ordering::Relaxed);
}

pub(super) fn sub(total: &AtomicU64, count: u32) {
    let count = u64::from(count);
    let old = total.fetch_sub(count, Ordering::Relaxed);
    debug_assert!(old >= count, "a total fell below zero");
}

/// What was done since the mount.
#[derive(Default)]
pub(super) struct Stats {
    /// Runs found by a search.
    pub(super) allocations: AtomicU64,
    /// Groups that searches looked into.
    pub(super) touched: AtomicU64,
    /// Buddies built, and how many of these had their bitmap read from the device.
    pub(super) builds: AtomicU64,
    pub(super) bitmap_reads: AtomicU64,
}

/// A part of the groups in memory.
struct Shard {
    groups: HashMap<u32, Arc<Group>>,
    /// How many there may be before idle ones are dropped.
    limit: usize,
}

pub(super) struct Groups {
    pub(super) cache: Arc<BlockCache>,
    pub(super) memory: Arc<Memory>,
    pub(super) geo: Arc<Geometry>,
    pub(super) zones: SystemZones,
    /// The journal's blocks and the like: in use like a file's, but never freed.
    pub(super) protected: OnceLock<SystemZones>,
    pub(super) index: GroupIndexes,
    pub(super) totals: Totals,
    /// By group: for placing inodes without reading descriptors.
    pub(super) free_inodes: Vec<AtomicU32>,
    pub(super) used_dirs: Vec<AtomicU32>,
    /// Groups with freed blocks, by transaction.
    pub(super) frees: Mutex<freed::Pending>,
    /// What small files share.
    pub(super) localities: Localities,
    /// The groups in which large files went on last, by inode.
    pub(super) streams: Vec<AtomicU32>,
    pub(super) explore: Exploration,
    pub(super) stats: Stats,
    /// Clusters of a RAID stripe, 0 or 1: none.
    pub(super) stripe: u32,
    /// Whether what was freed is to be discarded.
    pub(super) discard: AtomicBool,
    /// Why groups were given up, for whoever records it.
    pub(super) errors: Mutex<Vec<Error>>,
    /// Held while the buffer of an uninitialised bitmap is made.
    pub(super) fresh: Mutex<()>,
    shards: Vec<Mutex<Shard>>,
    buddies: AtomicU32,
    pub(super) pins: Arc<Pins>,
    _charge: Charge,
}

impl Groups {
    pub(super) fn new(
        cache: Arc<BlockCache>,
        memory: Arc<Memory>,
        summary: super::mount::Summary,
        settings: &Settings,
    ) -> Arc<Self> {
        let geo = Arc::clone(cache.geometry());
        let bytes = GroupIndexes::size(geo.group_count, geo.clusters_per_group)
            + geo.group_count as usize * 8
            + summary.zones.bytes();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let writers = settings.writers.map_or(cores, |all| all.min(cores));
        let streams = (geo.group_count as usize / 4).clamp(1, cores);
        let stripe = settings.stripe >> geo.cluster_ratio_bits;
        let groups = Arc::new(Self {
            _charge: memory.charge(Class::Group, bytes),
            localities: Localities::new(writers.min(MAX_LOCALITIES)),
            streams: (0..streams).map(|_| AtomicU32::new(u32::MAX)).collect(),
            explore: Exploration::new(),
            stats: Stats::default(),
            stripe: if stripe <= geo.clusters_per_group {
                stripe
            } else {
                0
            },
            discard: AtomicBool::new(settings.discard),
            cache,
            geo,
            zones: summary.zones,
            protected: OnceLock::new(),
            index: summary.index,
            totals: summary.totals,
            free_inodes: summary.free_inodes,
            used_dirs: summary.used_dirs,
            frees: Mutex::new(Rank::Leaf, freed::Pending::default()),
            errors: Mutex::new(Rank::Leaf, Vec::new()),
            fresh: Mutex::new(Rank::BufferWrite, ()),
            shards: (0..SHARDS)
                .map(|_| Mutex::new(Rank::Shard, Shard::default()))
                .collect(),
            buddies: AtomicU32::new(0),
            pins: Arc::default(),
            memory,
        });
        let shrinker: Arc<dyn Shrinker> = groups.clone();
        groups.memory.register(shrinker);
        groups
    }

    /// The group, read from its descriptor on first touch.
    pub(super) fn get(&self, index: GroupIndex) -> Result<Arc<Group>> {
        if let Some(group) = self.resident(index) {
            return Ok(group);
        }
        let (buffer, _) = self.descriptor(index)?;
        let mut shard = self.shard(index).lock();
        if let Some(group) = shard.groups.get(&index.get()) {
            return Ok(Arc::clone(group));
        }
        // Blocks enter B or leave it only through a group in memory; there is none, so these counts stay right.
        let desc = self.parse(&buffer.snapshot(), index)?;
        let last = self.index.summary(index.get());
        let last = last.unwrap_or(Summary::guess(desc.free_blocks, false));
        let charge = self.memory.charge(Class::Group, GROUP_BYTES);
        let state = GroupState::new(
            index,
            self.clusters_in_group(index),
            desc.free_blocks,
            last,
            charge,
        );
        let group = Arc::new(Group {
            index,
            state: Mutex::new(Rank::Group, state),
        });
        shard.groups.insert(index.get(), Arc::clone(&group));
        if shard.groups.len() > shard.limit {
            shard.drop_idle();
        }
        Ok(group)
    }

    fn shard(&self, index: GroupIndex) -> &Mutex<Shard> {
        &self.shards[index.get() as usize % SHARDS]
    }

    /// The group if it is in memory.
    pub(super) fn resident(&self, index: GroupIndex) -> Option<Arc<Group>> {
        self.shard(index).lock().groups.get(&index.get()).cloned()
    }

    /// All groups in memory.
    pub(super) fn all_resident(&self) -> Vec<Arc<Group>> {
        let mut groups: Vec<_> = self
            .shards
            .iter()
            .flat_map(|shard| shard.lock().groups.values().cloned().collect::<Vec<_>>())
            .collect();
        groups.sort_unstable_by_key(|group| group.index);
        groups
    }

    /// Drops all groups of which nothing is in memory but their counts.
    pub(super) fn drop_idle(&self) {
        for shard in &self.shards {
            shard.lock().drop_idle();
        }
    }

    /// Whether a run touches the file system's own blocks.
    pub(super) fn touches_metadata(&self, start: u64, len: u32) -> bool {
        let len = u64::from(len);
        let protected = self.protected.get();
        self.zones.overlaps(start, len) || protected.is_some_and(|zones| zones.overlaps(start, len))
    }

    /// Checks a block bitmap against its descriptor. The caller holds the group's lock or both buffers.
    pub(super) fn verify_block_bitmap(
        &self,
        index: GroupIndex,
        desc: &GroupDesc,
        bitmap: &[u8],
    ) -> Result<()> {
        let what = Structure::BlockBitmap;
        let at = Location::group(index).with_block(desc.block_bitmap);
        if self.geo.features.metadata_csum() {
            let found = checksum::block_bitmap(&self.geo, bitmap);
            // 32-byte descriptors keep the lower half only.
            let mask = if self.geo.desc_size < 64 {
                0xffff
            } else {
                u32::MAX
            };
            let (expected, found) = (desc.block_bitmap_csum & mask, found & mask);
            if found != expected {
                let kind = CorruptKind::Checksum {
                    what,
                    found: expected,
                    expected: found,
                };
                return Err(Error::corrupt(kind, at));
            }
        }
        if !self.zones.agree(&self.geo, index, bitmap) {
            return Err(Error::corrupt(CorruptKind::Ownership { what }, at));
        }
        Ok(())
    }

    /// Locks a group that has a buddy, building it first if need be. `None`: somebody else has the lock.
    pub(super) fn lock_built<'g>(
        &self,
        group: &'g Group,
        wait: bool,
    ) -> Result<Option<MutexGuard<'g, GroupState>>> {
        // Ends at once unless a shrinker takes every new buddy.
        for _ in 0..64 {
            let state = if wait {
                Some(group.lock())
            } else {
                group.try_lock()
            };
            let Some(state) = state else {
                return Ok(None);
            };
            if state.corrupt || state.buddy.is_some() {
                return Ok(Some(state));
            }
            drop(state);
            if let Some(state) = self.build(group, None)? {
                return Ok(Some(state));
            }
        }
        Ok(None)
    }

    /// Builds the buddy. `None` when the bitmap was initialised meanwhile: once more.
    pub(super) fn build<'g>(
        &self,
        group: &'g Group,
        frames: Option<[Frame; 2]>,
    ) -> Result<Option<MutexGuard<'g, GroupState>>> {
        let (buffer, desc) = self.descriptor(group.index)?;
        let bitmap = match self.is_uninit(&desc, flag::BLOCK_UNINIT) {
            true => None,
            false => Some(self.read_bitmap(group.index, desc.block_bitmap)?),
        };
        let frame = || self.memory.frame(Class::Buddy);
        let [free, chunks] = frames.unwrap_or_else(|| [frame(), frame()]);
        // Only an uninitialised bitmap needs a place to be written to.
        let mut scratch = bitmap.is_none().then(|| self.memory.frame(Class::Buddy));
        let early = canary(Canary::UnlockedBuild).then(|| group.lock().owned().collect::<Vec<_>>());
        let mut state = group.lock();
        if state.corrupt || state.buddy.is_some() {
            return Ok(Some(state));
        }
        let now = state.owned().filter(|_| early.is_none());
        let owned = early.iter().flatten().copied().chain(now);
        let desc = self.parse(&buffer.snapshot(), group.index)?;
        let uninit = self.is_uninit(&desc, flag::BLOCK_UNINIT);
        let built = match (&bitmap, &mut scratch) {
            (None, Some(scratch)) if uninit => {
                self.zones.fill_bitmap(&self.geo, group.index, scratch);
                Buddy::build(free, chunks, state.size, scratch, owned).map_err(|_| state.conflict())
            }
            (Some(bitmap), _) => {
                let bitmap = bitmap.snapshot();
                self.verify_block_bitmap(group.index, &desc, &bitmap)
                    .and_then(|()| {
                        Buddy::build(free, chunks, state.size, &bitmap, owned)
                            .map_err(|_| state.conflict())
                    })
            }
            _ => return Ok(None),
        };
        let built = built.and_then(|buddy| self.adds_up(&state, &desc, buddy));
        match built {
            Ok(buddy) => {
                state.publish(buddy);
                state.bitmap = bitmap.filter(|_| self.pins.is_on());
                self.buddies.fetch_add(1, Ordering::Relaxed);
                self.stats.builds.fetch_add(1, Ordering::Relaxed);
                self.reindex(&state);
                Ok(Some(state))
            }
            Err(error) => {
                self.mark_corrupt(&mut state, &error);
                Err(error)
            }
        }
    }

    fn read_bitmap(&self, index: GroupIndex, block: FsBlock) -> Result<BufferRef> {
        if self.cache.cached(block).is_none() {
            self.stats.bitmap_reads.fetch_add(1, Ordering::Relaxed);
            self.read_bitmaps_ahead(index, block);
        }
        self.cache.read(block, BlockKind::Plain)
    }

    fn adds_up(&self, state: &GroupState, desc: &GroupDesc, buddy: Buddy) -> Result<Buddy> {
        let same = desc.free_blocks == state.not_in_bitmap && buddy.free_blocks() == state.free;
        if same {
            return Ok(buddy);
        }
        let owned: u32 = state.owned().map(|(_, len)| len).sum();
        let kind = CorruptKind::Mismatch {
            what: Structure::GroupDescriptor,
            field: "bg_free_blocks_count",
            found: u64::from(desc.free_blocks),
            expected: u64::from(buddy.free_blocks() + owned),
        };
        Err(Error::corrupt(kind, Location::group(state.index)))
    }

    /// Takes a group out of all allocation.
    pub(super) fn mark_corrupt(&self, state: &mut GroupState, error: &Error) {
        if state.corrupt {
            return;
        }
        log::warn!("group {} is not used any more: {error}", state.index);
        self.record_error(error.clone());
        state.corrupt = true;
        self.forget_buddy(state);
        let free = u64::from(state.free);
        let _ =
            self.totals
                .available
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |available| {
                    Some(available.saturating_sub(free))
                });
        self.reindex(state);
    }

    /// Why groups were given up since the last call.
    pub(super) fn take_errors(&self) -> Vec<Error> {
        std::mem::take(&mut *self.errors.lock())
    }

    pub(super) fn reindex(&self, state: &GroupState) {
        self.index.set(state.index.get(), state.summary());
    }

    /// U, R or F to free: the blocks of `len` become available again.
    pub(super) fn release(&self, state: &mut GroupState, start: u32, len: u32) {
        if len == 0 {
            return;
        }
        state.release(start, len);
        sub(&self.totals.held, len);
        if !state.corrupt {
            add(&self.totals.available, len);
        }
        self.unpin_unused(state);
        self.reindex(state);
    }

    pub(super) fn forget_buddy(&self, state: &mut GroupState) -> bool {
        let dropped = state.drop_buddy();
        if dropped {
            self.buddies.fetch_sub(1, Ordering::Relaxed);
        }
        dropped
    }

    /// The group of a block and its bit there.
    pub(super) fn place(&self, block: FsBlock) -> (GroupIndex, u32) {
        let (group, bit) = self.geo.group_of(block);
        (group, bit.get() >> self.geo.cluster_ratio_bits)
    }

    /// The first block of a bit.
    pub(super) fn block_at(&self, group: GroupIndex, bit: u32) -> FsBlock {
        let block = BlockInGroup::new(bit << self.geo.cluster_ratio_bits);
        self.geo.block_at(group, block)
    }

    /// The clusters that hold a run of blocks, as far as they lie in the first one's group: group, first bit, how many
    /// bits, and how many of the blocks.
    pub(super) fn split(&self, start: FsBlock, len: u32) -> (GroupIndex, u32, u32, u32) {
        let (group, bit) = self.geo.group_of(start);
        let left = self.geo.blocks_in_group(group).saturating_sub(bit.get());
        let blocks = len.min(left);
        let ratio = self.geo.cluster_ratio_bits;
        let first = bit.get() >> ratio;
        let last = (bit.get() + blocks.max(1) - 1) >> ratio;
        let bits = if blocks == 0 { 0 } else { last - first + 1 };
        (group, first, bits, blocks)
    }

    pub(super) fn clusters_in_group(&self, group: GroupIndex) -> u32 {
        zones::clusters_in_group(&self.geo, group)
    }

    /// Blocks of so many clusters.
    pub(super) fn blocks(&self, clusters: u64) -> u64 {
        clusters << self.geo.cluster_ratio_bits
    }

    /// Clusters that hold so many blocks.
    pub(super) fn clusters(&self, blocks: u64) -> u64 {
        blocks.div_ceil(1 << self.geo.cluster_ratio_bits)
    }

    pub(super) fn inode_group(&self, ino: InodeNumber) -> GroupIndex {
        self.geo
            .inode_place(ino)
            .map_or(GroupIndex::ZERO, |(group, _)| group)
    }

    /// Blocks that a bitmap leaves clear.
    pub(super) fn clear_bits(&self, index: GroupIndex, bitmap: &[u8]) -> u32 {
        let size = self.clusters_in_group(index);
        size - bits::count(bitmap, size)
    }
}

impl Default for Shard {
    fn default() -> Self {
        Self {
            groups: HashMap::new(),
            limit: KEEP_IDLE,
        }
    }
}

impl Shard {
    /// Drops groups that nobody holds and that own nothing. Whoever wants one needs this shard first.
    fn drop_idle(&mut self) {
        self.groups.retain(|_, group| {
            let unused = Arc::strong_count(group) == 1;
            !(unused && group.try_lock().is_some_and(|state| state.is_idle()))
        });
        self.groups.shrink_to(KEEP_IDLE);
        self.limit = KEEP_IDLE.max(2 * self.groups.len());
    }
}

/// Gives buddies back to the budget: any whose group is not in use.
impl Shrinker for Groups {
    fn shrink(&self, frames: usize) -> usize {
        let mut freed = 0;
        for shard in &self.shards {
            if freed >= frames || self.buddies.load(Ordering::Relaxed) == 0 {
                break;
            }
            let members: Vec<Arc<Group>> = match shard.try_lock() {
                Some(shard) => shard.groups.values().cloned().collect(),
                None => continue,
            };
            for group in members {
                if freed >= frames {
                    break;
                }
                if let Some(mut state) = group.try_lock()
                    && state.pin.is_none()
                    && self.forget_buddy(&mut state)
                {
                    freed += 2;
                }
            }
            if let Some(mut shard) = shard.try_lock() {
                shard.drop_idle();
            }
        }
        freed
    }
}

//! The groups in memory, made on first touch, with their buddies and the totals of the volume.
//!
//! Source: the design's sections on block ownership and the allocator.
//! Invariants: a buddy is built from the newest bitmap and U, R, F under the group's lock; `available` +
//! `claimed` + `held` + what a search is about to take = blocks not in B, corrupt groups aside.

use super::buddy::Buddy;
use super::index::GroupIndexes;
use super::owner::GroupState;
use super::zones::SystemZones;
use super::{bits, freed};
use crate::cache::{BlockCache, BufferRef};
use crate::error::{CorruptKind, Error, Location, Result, Structure};
use crate::format::checksum::{self, BlockKind};
use crate::format::geometry::Geometry;
use crate::format::group::{GroupDesc, flag};
use crate::ids::{FsBlock, GroupIndex, InodeNumber};
use crate::memory::shrinker::Shrinker;
use crate::memory::{Charge, Class, Memory};
use crate::sync::{Mutex, MutexGuard, Rank};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

const SHARDS: usize = 16;
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
    fn of(self, desc: &GroupDesc) -> (FsBlock, u16) {
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
    /// Why groups were given up, for whoever records it.
    errors: Mutex<Vec<Error>>,
    /// Held while the buffer of an uninitialised bitmap is made.
    fresh: Mutex<()>,
    shards: Vec<Mutex<HashMap<u32, Arc<Group>>>>,
    buddies: AtomicU32,
    _charge: Charge,
}

impl Groups {
    pub(super) fn new(
        cache: Arc<BlockCache>,
        memory: Arc<Memory>,
        summary: super::mount::Summary,
    ) -> Arc<Self> {
        let geo = Arc::clone(cache.geometry());
        let bytes = GroupIndexes::size(geo.group_count)
            + geo.group_count as usize * 8
            + summary.zones.bytes();
        let groups = Arc::new(Self {
            _charge: memory.charge(Class::Group, bytes),
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
                .map(|_| Mutex::new(Rank::Shard, HashMap::new()))
                .collect(),
            buddies: AtomicU32::new(0),
            memory,
        });
        let shrinker: Arc<dyn Shrinker> = groups.clone();
        groups.memory.register(shrinker);
        groups
    }

    /// The group, read from its descriptor on first touch.
    pub(super) fn get(&self, index: GroupIndex) -> Result<Arc<Group>> {
        let shard = &self.shards[index.get() as usize % SHARDS];
        if let Some(group) = shard.lock().get(&index.get()) {
            return Ok(Arc::clone(group));
        }
        let (_, desc) = self.descriptor(index)?;
        let size = self.geo.blocks_in_group(index);
        let state = GroupState {
            index,
            size,
            not_in_bitmap: desc.free_blocks,
            free: desc.free_blocks,
            uninit: self.is_uninit(&desc, flag::BLOCK_UNINIT),
            corrupt: false,
            buddy: None,
            order: None,
            unused: BTreeMap::new(),
            reserved: BTreeMap::new(),
            freed: BTreeMap::new(),
            _charge: self.memory.charge(Class::Group, GROUP_BYTES),
        };
        let group = Arc::new(Group {
            index,
            state: Mutex::new(Rank::Group, state),
        });
        // Blocks leave B or enter it only through a group in memory, so the first one made stays right.
        Ok(Arc::clone(shard.lock().entry(index.get()).or_insert(group)))
    }

    /// The group if it is in memory.
    pub(super) fn resident(&self, index: GroupIndex) -> Option<Arc<Group>> {
        self.shards[index.get() as usize % SHARDS]
            .lock()
            .get(&index.get())
            .cloned()
    }

    /// All groups in memory.
    pub(super) fn all_resident(&self) -> Vec<Arc<Group>> {
        let mut groups: Vec<_> = self
            .shards
            .iter()
            .flat_map(|shard| shard.lock().values().cloned().collect::<Vec<_>>())
            .collect();
        groups.sort_unstable_by_key(|group| group.index);
        groups
    }

    /// A group's descriptor as it is now, and the buffer that holds it.
    pub(super) fn descriptor(&self, index: GroupIndex) -> Result<(BufferRef, GroupDesc)> {
        let (block, _) = self.geo.desc_location(index);
        let buffer = self.cache.read(block, BlockKind::Plain)?;
        let desc = self.parse(&buffer.snapshot(), index)?;
        Ok((buffer, desc))
    }

    pub(super) fn parse(&self, block: &[u8], index: GroupIndex) -> Result<GroupDesc> {
        let (at, offset) = self.geo.desc_location(index);
        let end = offset + self.geo.desc_size as usize;
        let bytes = block.get(offset..end).unwrap_or(&[]);
        GroupDesc::parse(bytes, &self.geo, index)
            .map_err(|error| error.located(Location::group(index).with_block(at)))
    }

    pub(super) fn store(&self, block: &mut [u8], index: GroupIndex, desc: &GroupDesc) {
        let offset = self.geo.desc_location(index).1;
        let end = offset + self.geo.desc_size as usize;
        if let Some(bytes) = block.get_mut(offset..end) {
            desc.write_to(bytes, &self.geo, index);
        }
    }

    /// Whether an UNINIT flag is set and means something on this volume.
    pub(super) fn is_uninit(&self, desc: &GroupDesc, flag: u16) -> bool {
        desc.flags & flag != 0 && self.geo.features.group_csum()
    }

    /// The buffer of a group's bitmap, to be written: an uninitialised one is not read from disk.
    pub(super) fn bitmap_for_write(&self, index: GroupIndex, which: Bitmap) -> Result<BufferRef> {
        let (buffer, desc) = self.descriptor(index)?;
        let (block, flag) = which.of(&desc);
        if self.is_uninit(&desc, flag) {
            let _fresh = self.fresh.lock();
            // Whoever initialised it meanwhile has put it into the cache, perhaps even written it home.
            let desc = self.parse(&buffer.snapshot(), index)?;
            if self.is_uninit(&desc, flag) {
                let cached = self.cache.cached(block);
                return Ok(cached.unwrap_or_else(|| self.cache.fresh(block, BlockKind::Plain)));
            }
        }
        self.cache.read(block, BlockKind::Plain)
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
            if let Some(state) = self.build(group)? {
                return Ok(Some(state));
            }
        }
        Ok(None)
    }

    /// Builds the buddy. `None` when the bitmap was initialised meanwhile: once more.
    fn build<'g>(&self, group: &'g Group) -> Result<Option<MutexGuard<'g, GroupState>>> {
        let (buffer, desc) = self.descriptor(group.index)?;
        let bitmap = match self.is_uninit(&desc, flag::BLOCK_UNINIT) {
            true => None,
            false => Some(self.cache.read(desc.block_bitmap, BlockKind::Plain)?),
        };
        let free = self.memory.frame(Class::Buddy);
        let chunks = self.memory.frame(Class::Buddy);
        // Only an uninitialised bitmap needs a place to be written to.
        let mut scratch = bitmap.is_none().then(|| self.memory.frame(Class::Buddy));
        let mut state = group.lock();
        if state.corrupt || state.buddy.is_some() {
            return Ok(Some(state));
        }
        let desc = self.parse(&buffer.snapshot(), group.index)?;
        let uninit = self.is_uninit(&desc, flag::BLOCK_UNINIT);
        let built = match (&bitmap, &mut scratch) {
            (None, Some(scratch)) if uninit => {
                self.zones.fill_bitmap(&self.geo, group.index, scratch);
                Buddy::build(free, chunks, state.size, scratch, state.owned())
                    .map_err(|_| state.conflict())
            }
            (Some(bitmap), _) => {
                let bitmap = bitmap.snapshot();
                self.verify_block_bitmap(group.index, &desc, &bitmap)
                    .and_then(|()| {
                        Buddy::build(free, chunks, state.size, &bitmap, state.owned())
                            .map_err(|_| state.conflict())
                    })
            }
            _ => return Ok(None),
        };
        let built = built.and_then(|buddy| self.adds_up(&state, &desc, buddy));
        match built {
            Ok(buddy) => {
                state.publish(buddy);
                self.buddies.fetch_add(1, Ordering::Relaxed);
                self.reindex(&state);
                Ok(Some(state))
            }
            Err(error) => {
                self.mark_corrupt(&mut state, &error);
                Err(error)
            }
        }
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
        self.errors.lock().push(error.clone());
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
        let free = if state.corrupt { 0 } else { state.free };
        self.index
            .set(state.index.get(), free, state.index_order(), state.uninit);
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
        self.reindex(state);
    }

    pub(super) fn forget_buddy(&self, state: &mut GroupState) -> bool {
        let dropped = state.drop_buddy();
        if dropped {
            self.buddies.fetch_sub(1, Ordering::Relaxed);
        }
        dropped
    }

    /// The group of a block, its bit there, and how many blocks of `len` lie in that group.
    pub(super) fn split(&self, start: FsBlock, len: u32) -> (GroupIndex, u32, u32) {
        let (group, bit) = self.geo.group_of(start);
        let left = self.geo.blocks_in_group(group).saturating_sub(bit.get());
        (group, bit.get(), len.min(left))
    }

    pub(super) fn inode_group(&self, ino: InodeNumber) -> GroupIndex {
        self.geo
            .inode_place(ino)
            .map_or(GroupIndex::ZERO, |(group, _)| group)
    }

    /// Blocks that a bitmap leaves clear.
    pub(super) fn clear_bits(&self, index: GroupIndex, bitmap: &[u8]) -> u32 {
        let size = self.geo.blocks_in_group(index);
        size - bits::count(bitmap, size)
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
                Some(shard) => shard.values().cloned().collect(),
                None => continue,
            };
            for group in members {
                if freed >= frames {
                    break;
                }
                if let Some(mut state) = group.try_lock()
                    && self.forget_buddy(&mut state)
                {
                    freed += 2;
                }
            }
        }
        freed
    }
}

//! Who owns a block: groups, buddies, preallocations, freed extents; and the placement of inodes.
//!
//! Source: the design's sections on block ownership and the allocator.
//! Invariants: in every initialised group each block is in exactly one of B, U, R, F and free; every move
//! between them is one critical section under the group's lock.

mod bitset;
mod buddy;
mod claim;
mod descriptors;
mod discard;
mod freed;
mod groups;
mod index;
mod inodes;
mod load;
mod locality;
mod mark;
pub mod measure;
mod mount;
mod normalize;
mod orlov;
mod owner;
mod pin;
mod prealloc;
mod reserve;
mod reserved;
mod search;
mod zones;

#[cfg(all(test, feature = "shuttle"))]
mod judge;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_of_groups;
#[cfg(test)]
mod volume;

pub use claim::Claim;
pub use load::{BuddyCost, BuddyLoads};
pub use prealloc::PreallocTree;
pub use reserved::Reserved;

use crate::cache::BlockCache;
use crate::error::{Error, Result};
use crate::format::bitmap as bits;
use crate::format::geometry::Geometry;
use crate::ids::{FileBlock, FsBlock, GroupIndex, InodeNumber, Tid};
use crate::journal::Handle;
use crate::journal::handle::CommitListener;
use crate::memory::{Frame, Memory};
use crate::sync::Mutex;
use groups::Groups;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a file asks for.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub ino: InodeNumber,
    /// Where in the file; `None` for metadata (no preallocation, no normalisation).
    pub logical: Option<FileBlock>,
    /// Where on the volume it would be best.
    pub goal: FsBlock,
    /// Blocks wanted, at least 1; fewer may be given.
    pub len: u32,
    /// The file's size in blocks after the write: what normalisation predicts from.
    pub file_blocks: u64,
    pub growth: Growth,
    /// May use the reserved blocks (owner is 0, s_def_resuid or in s_def_resgid).
    pub privileged: bool,
}

/// What is expected of the file, hence how much is set aside for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    /// Nothing: metadata, fallocate.
    Exact,
    /// Nobody has it open for writing any more.
    Closed,
    /// It may grow.
    Open,
}

impl Request {
    /// One block of metadata.
    pub fn metadata(ino: InodeNumber, goal: FsBlock, privileged: bool) -> Self {
        Self {
            ino,
            logical: None,
            goal,
            len: 1,
            file_blocks: 0,
            growth: Growth::Exact,
            privileged,
        }
    }
}

/// The allocator of a mount.
pub struct Allocator {
    groups: Arc<Groups>,
    settings: Settings,
}

impl Allocator {
    /// Streams all descriptors, verifies them and sums the free counts. The caller registers the result with the
    /// journal (`Journal::listen`): without that nothing that was freed becomes free.
    pub fn new(
        cache: Arc<BlockCache>,
        memory: Arc<Memory>,
        settings: Settings,
    ) -> Result<Arc<Self>> {
        let summary = mount::scan(&cache, &memory)?;
        let groups = Groups::new(cache, memory, summary, &settings);
        Ok(Arc::new(Self { groups, settings }))
    }

    pub fn geometry(&self) -> &Arc<Geometry> {
        &self.groups.geo
    }

    /// free or U to R. `tree` is the inode's preallocations. NoSpc when nothing is left for this owner.
    pub fn reserve(
        &self,
        request: &Request,
        tree: Option<&Mutex<PreallocTree>>,
    ) -> Result<Reserved> {
        self.groups
            .reserve(request, tree, self.settings.reserved_blocks, None)
    }

    /// Promises blocks to a write whose place is chosen later: all of them, or `None`. O(1), no lock.
    pub fn claim(&self, blocks: u64, privileged: bool) -> Option<Claim> {
        let floor = if privileged {
            0
        } else {
            self.settings.reserved_blocks
        };
        self.groups.claim(blocks, floor)
    }

    /// `reserve`, paid by a claim, which shrinks by the length of the run (not below 0). With as many claimed blocks
    /// as are asked for it does not run out of space; the run may be shorter than `request.len`, then ask again.
    pub fn reserve_claimed(
        &self,
        request: &Request,
        tree: Option<&Mutex<PreallocTree>>,
        claim: &mut Claim,
    ) -> Result<Reserved> {
        self.groups
            .reserve(request, tree, self.settings.reserved_blocks, Some(claim))
    }

    /// R to B for the first `len` blocks of the run (all of them: `reserved.len()`); the rest goes back.
    /// Dirties bitmap and descriptor: 2 credits.
    pub fn mark(&self, handle: &Handle<'_>, reserved: Reserved, len: u32) -> Result<()> {
        self.groups.mark(handle, reserved, len)
    }

    /// Reserve and mark one metadata block near `goal`: 2 credits.
    pub fn new_meta_block(
        &self,
        handle: &Handle<'_>,
        ino: InodeNumber,
        goal: FsBlock,
        privileged: bool,
    ) -> Result<FsBlock> {
        let reserved = self.reserve(&Request::metadata(ino, goal, privileged), None)?;
        self.mark_one(handle, reserved)
    }

    /// The same, paid by a claim.
    pub fn new_meta_block_claimed(
        &self,
        handle: &Handle<'_>,
        ino: InodeNumber,
        goal: FsBlock,
        claim: &mut Claim,
    ) -> Result<FsBlock> {
        let reserved = self.reserve_claimed(&Request::metadata(ino, goal, true), None, claim)?;
        self.mark_one(handle, reserved)
    }

    fn mark_one(&self, handle: &Handle<'_>, reserved: Reserved) -> Result<FsBlock> {
        let block = reserved.start();
        self.mark(handle, reserved, 1)?;
        Ok(block)
    }

    /// B to F: free after the handle's transaction has committed. 2 credits for each group touched.
    /// Errors (EUCLEAN) when a block is already free or lies in a system zone; checks before it changes anything.
    pub fn free(&self, handle: &Handle<'_>, start: FsBlock, len: u32) -> Result<()> {
        self.groups.free(handle, start, len)
    }

    /// U to free for every preallocation of an inode. No memory, no read.
    pub fn discard_preallocations(&self, tree: &Mutex<PreallocTree>) {
        self.groups.discard_tree(tree);
    }

    /// The same the kernel's way: `load` makes each group's buddy resident first (`load_buddy`, whatever it costs),
    /// then the bitmap says what is unused. What was not reached when `load` failed stays set aside.
    pub fn discard_preallocations_through_buddy(
        &self,
        tree: &Mutex<PreallocTree>,
        load: &mut dyn FnMut(GroupIndex) -> Result<BuddyLoads>,
    ) -> Result<BuddyLoads> {
        self.groups.discard_tree_through_buddy(tree, load)
    }

    /// Makes a group's buddy resident: two frames (or those given) and perhaps a read; a shrinker may drop it again.
    pub fn load_buddy(&self, group: GroupIndex, frames: Option<[Frame; 2]>) -> Result<BuddyLoads> {
        self.groups.load_buddy(group, frames)
    }

    /// The groups in which a file has blocks set aside.
    pub fn preallocated_groups(&self, tree: &Mutex<PreallocTree>) -> Vec<GroupIndex> {
        tree.lock().groups()
    }

    /// Keeps bitmap and buddy of every group in memory in which blocks are set aside, from now on or no more.
    pub fn pin_buddies(&self, on: bool) {
        self.groups.pin_buddies(on);
    }

    /// Bytes of memory that are kept for that.
    pub fn pinned_bytes(&self) -> u64 {
        self.groups.pinned_bytes()
    }

    /// What `load_buddy` would cost now.
    pub fn buddy_cost(&self, group: GroupIndex) -> Result<BuddyCost> {
        self.groups.buddy_cost(group)
    }

    /// U to free for every file: the round before ENOSPC. Returns how many blocks became free.
    pub fn discard_all(&self) -> u64 {
        self.groups.blocks(self.groups.discard_all())
    }

    /// U to free for what small files share: when nothing was written for a while, and at the unmount.
    pub fn discard_localities(&self) {
        self.groups.discard_localities();
    }

    /// Tells the device about what one group has freed (`-o discard`), with no lock and no handle; then it is free.
    /// `false`: nothing waits. A worker calls it after commits.
    pub fn discard_step(&self) -> bool {
        self.groups.discard_step()
    }

    /// Whether `discard_step` has something to do: another round before ENOSPC.
    pub fn has_discards(&self) -> bool {
        self.groups.frees.lock().has_discards()
    }

    /// Whether freed blocks are discarded from now on.
    pub fn set_discard(&self, on: bool) {
        self.groups.discard.store(on, Ordering::Relaxed);
    }

    /// FITRIM: discards the free runs of at least `least` blocks inside of `from..to`; returns the blocks discarded.
    /// Groups that were trimmed as a whole and have freed nothing since are passed over. No lock, no handle.
    pub fn trim(
        &self,
        from: FsBlock,
        to: FsBlock,
        least: u64,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<u64> {
        self.groups.trim(from, to, least, go_on)
    }

    /// Drops from memory the groups of which nothing is there but their counts (they go by themselves, too).
    pub fn drop_idle_groups(&self) {
        self.groups.drop_idle();
    }

    /// What was done since the mount.
    pub fn stats(&self) -> AllocStats {
        let stats = &self.groups.stats;
        AllocStats {
            allocations: stats.allocations.load(Ordering::Relaxed),
            groups_touched: stats.touched.load(Ordering::Relaxed),
            buddies_built: stats.builds.load(Ordering::Relaxed),
            bitmaps_read: stats.bitmap_reads.load(Ordering::Relaxed),
            not_set_aside: self.groups.pins_refused(),
        }
    }

    /// Whether a commit would make blocks free: the other round before ENOSPC.
    pub fn has_uncommitted_frees(&self) -> bool {
        !self.groups.frees.lock().is_empty()
    }

    /// What made groups useless since the last call, where the allocation itself went on elsewhere.
    pub fn take_errors(&self) -> Vec<Error> {
        self.groups.take_errors()
    }

    /// Drops a group's buddy, unless the group is in use; whether there was one.
    pub fn drop_buddy(&self, group: GroupIndex) -> bool {
        let Some(group) = self.groups.resident(group) else {
            return false;
        };
        let state = group.try_lock();
        state.is_some_and(|mut state| self.groups.forget_buddy(&mut state))
    }

    /// Where a file's first block should go: in or near its inode's group.
    pub fn inode_goal(&self, ino: InodeNumber) -> FsBlock {
        self.groups.geo.first_block(self.groups.inode_group(ino))
    }

    /// Names runs that belong to the file system's own files (the journal): no file may claim or free them. Once.
    pub fn protect(&self, runs: &[(FsBlock, u32)]) {
        let _ = self.groups.protected.set(zones::SystemZones::of_runs(runs));
    }

    /// Whether a run lies on the volume, outside of all metadata that mkfs laid down.
    pub fn is_data_run(&self, start: FsBlock, len: u32) -> bool {
        let end = start.get().checked_add(u64::from(len));
        start.get() >= u64::from(self.groups.geo.first_data_block)
            && end.is_some_and(|end| end <= self.groups.geo.blocks_count)
            && !self.groups.touches_metadata(start.get(), len)
    }

    pub fn counts(&self) -> Counts {
        let totals = &self.groups.totals;
        let blocks = |total: &AtomicU64| self.groups.blocks(total.load(Ordering::Relaxed));
        Counts {
            free_blocks: blocks(&totals.not_in_bitmap),
            free_inodes: totals.free_inodes.load(Ordering::Relaxed),
            held_blocks: blocks(&totals.held),
            claimed_blocks: blocks(&totals.claimed),
            directories: totals.directories.load(Ordering::Relaxed),
        }
    }

    /// Allocates an inode: Orlov for directories, the parent's group for others. Sets bitmap and descriptor, and
    /// the block bitmap of an uninitialised group. 4 credits.
    pub fn new_inode(
        &self,
        handle: &Handle<'_>,
        parent: InodeNumber,
        is_dir: bool,
    ) -> Result<InodeNumber> {
        self.groups.new_inode(handle, parent, is_dir)
    }

    /// Clears the inode's bit. 2 credits.
    pub fn free_inode(&self, handle: &Handle<'_>, ino: InodeNumber, is_dir: bool) -> Result<()> {
        self.groups.free_inode(handle, ino, is_dir)
    }

    pub fn inode_in_use(&self, ino: InodeNumber) -> Result<bool> {
        self.groups.inode_in_use(ino)
    }

    pub fn inode_table_block(&self, group: GroupIndex) -> Result<FsBlock> {
        Ok(self.groups.descriptor(group)?.1.inode_table)
    }
}

impl CommitListener for Allocator {
    fn committed(&self, tid: Tid) {
        self.groups.committed(tid);
    }
}

/// Counts since the mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct AllocStats {
    /// Runs found by a search (not from a preallocation).
    pub allocations: u64,
    /// Groups that searches looked into.
    pub groups_touched: u64,
    pub buddies_built: u64,
    /// Block bitmaps read from the device for that.
    pub bitmaps_read: u64,
    /// Times that nothing was set aside because no more groups could be pinned.
    pub not_set_aside: u64,
}

/// What the superblock says about reservation and placement.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// s_r_blocks_count.
    pub reserved_blocks: u64,
    pub read_only: bool,
    /// Blocks of a RAID stripe (s_raid_stripe_width, else s_raid_stride), 0: none.
    pub stripe: u32,
    /// Tell the device about blocks that were freed.
    pub discard: bool,
    /// Threads that write; `None`: as many as there are processors.
    pub writers: Option<usize>,
}

/// Totals, summed at mount and kept exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Not in B (what the superblock shows).
    pub free_blocks: u64,
    pub free_inodes: u64,
    /// Blocks in U, R and F: not in B, but not free either.
    pub held_blocks: u64,
    /// Promised to delayed writes: free in some group, but not available.
    pub claimed_blocks: u64,
    pub directories: u64,
}

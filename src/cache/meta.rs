//! The block cache: finds, reads, verifies and gives up metadata blocks.
//!
//! Source: the design's layers; `format::checksum` for what "verified" means.
//! Invariants: a block that is not here has its newest bytes at home on the device, since transactions and
//! checkpoints hold every buffer that is newer; a block is read by one thread while others wait for it; who serves a
//! request waits only where `patience` lets it.

use crate::cache::buffer::{Buffer, BufferRef};
use crate::cache::shard::Shard;
use crate::device::Device;
use crate::device::submit::ReadRequest;
use crate::error::Result;
use crate::format::checksum::{self, BlockKind};
use crate::format::geometry::Geometry;
use crate::ids::FsBlock;
use crate::memory::shrinker::Shrinker;
use crate::memory::{Class, Frame, IoBuffer, Memory, Need};
use crate::sync::{Condvar, Mutex, MutexGuard, Rank, patience};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

const SHARDS: usize = 32;
/// The longest run that one `prefetch` reads, in blocks.
const PREFETCH_MAX: u32 = 64;

pub struct BlockCache {
    device: Arc<dyn Device>,
    geo: Arc<Geometry>,
    memory: Arc<Memory>,
    shards: Vec<(Mutex<Shard>, Condvar)>,
    /// The shard whose clock goes next.
    next: AtomicUsize,
    /// For completions, which may outlive it.
    me: Weak<Self>,
    /// The budget asks it for as long as the cache lives.
    shrinker: Arc<dyn Shrinker>,
}

impl BlockCache {
    pub fn new(device: Arc<dyn Device>, geo: Arc<Geometry>, memory: Arc<Memory>) -> Arc<Self> {
        let shards = (0..SHARDS)
            .map(|_| (Mutex::new(Rank::Shard, Shard::default()), Condvar::new()))
            .collect();
        let cache = Arc::new_cyclic(|cache| Self {
            device,
            geo,
            memory,
            shards,
            next: AtomicUsize::new(0),
            me: Weak::clone(cache),
            shrinker: Arc::new(CleanBuffers(Weak::clone(cache))),
        });
        cache.memory.register(Arc::clone(&cache.shrinker));
        cache
    }

    pub fn geometry(&self) -> &Arc<Geometry> {
        &self.geo
    }

    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// The block, read and verified as `kind` unless it is here already as that kind.
    pub fn read(&self, block: FsBlock, kind: BlockKind) -> Result<BufferRef> {
        let buffer = self.load(block)?;
        if buffer.kind() != Some(kind) {
            checksum::verify(kind, &self.geo, block, &buffer.snapshot())?;
            buffer.set_kind(kind);
        }
        Ok(buffer)
    }

    /// A block of many things, each with a checksum of its own or none; `sound` looks at them all. Whoever changes one of
    /// them writes its neighbours home as they were read: where one of these is not sound, the block is read once more.
    /// What the device says twice is how it is, and who uses the damaged thing will hear of it.
    pub fn read_shared(&self, block: FsBlock, sound: &dyn Fn(&[u8]) -> bool) -> Result<BufferRef> {
        let mut again = false;
        loop {
            let buffer = self.load(block)?;
            if buffer.kind().is_some() {
                return Ok(buffer);
            }
            let accepted = again || sound(&buffer.snapshot());
            let mut shard = self.shard(block);
            // Nobody changes a block before it was accepted; whoever came first has decided.
            let here = shard.get(block).filter(|here| Arc::ptr_eq(here, &buffer));
            if here.is_some_and(|here| here.kind().is_none()) {
                if accepted {
                    buffer.set_kind(BlockKind::Plain);
                } else {
                    log::warn!("block {block}: a checksum does not match; the block is read again");
                    shard.remove(block);
                    again = true;
                }
            }
        }
    }

    /// A newly allocated block: all zeros, nothing is read. The caller fills it through `Handle::write`.
    pub fn fresh(&self, block: FsBlock, kind: BlockKind) -> BufferRef {
        let mut frame = self.memory.frame(Class::Meta);
        frame.fill(0);
        let buffer = Arc::new(Buffer::new(block, Arc::clone(&self.geo), frame, Some(kind)));
        self.shard(block).put(Arc::clone(&buffer));
        buffer
    }

    /// The block if it is in memory.
    pub fn cached(&self, block: FsBlock) -> Option<BufferRef> {
        self.shard(block).get(block)
    }

    /// Forgets a block that was freed. Whoever still holds its buffer keeps what it has.
    pub fn discard(&self, block: FsBlock) {
        self.shard(block).remove(block);
    }

    /// Reads blocks that will be asked for soon in one go, verifying nothing yet; errors are left to `read`.
    pub fn prefetch(&self, first: FsBlock, count: u32) {
        // Whoever asks for one of these will be refused likewise.
        let Ok(_place) = patience::before_waiting() else {
            return;
        };
        let Some(mut token) = self.memory.try_admit(self.prefetch_need(count)) else {
            return;
        };
        let wanted = self.claim_run(first, count);
        if wanted.is_empty() {
            return;
        }
        let length = wanted.len() << self.geo.block_bits;
        let mut bytes = self.memory.io_buffer(length);
        let offset = first.get() << self.geo.block_bits;
        let read = self.device.read_at(offset, &mut bytes[..length]);
        for (block, bytes) in wanted.into_iter().zip(bytes.chunks(self.block_size())) {
            let loaded = read
                .is_ok()
                .then(|| self.copied(block, token.frame(Class::Meta), bytes));
            self.settle(block, loaded);
        }
    }

    /// The same in the background, and not at all when memory is scarce. Who asks for one of the blocks meanwhile waits
    /// for it.
    pub fn prefetch_later(&self, first: FsBlock, count: u32) {
        if !self.memory.is_roomy() {
            return;
        }
        let Some(mut token) = self.memory.try_admit(self.prefetch_need(count)) else {
            return;
        };
        let wanted = self.claim_run(first, count);
        if wanted.is_empty() {
            return;
        }
        // Memory is asked for here, not where the completion runs.
        let frames: Vec<_> = wanted.iter().map(|_| token.frame(Class::Meta)).collect();
        let length = wanted.len() << self.geo.block_bits;
        let cache = Weak::clone(&self.me);
        let done = Box::new(move |read: Result<()>, bytes: IoBuffer| {
            let Some(cache) = cache.upgrade() else { return };
            let pieces = wanted.into_iter().zip(frames);
            for ((block, frame), bytes) in pieces.zip(bytes.chunks(cache.block_size())) {
                let loaded = read.is_ok().then(|| cache.copied(block, frame, bytes));
                cache.settle(block, loaded);
            }
        });
        self.device.submit_read(ReadRequest {
            offset: first.get() << self.geo.block_bits,
            buffer: self.memory.io_buffer(length),
            range: 0..length,
            done,
        });
    }

    fn prefetch_need(&self, count: u32) -> Need {
        let count = count.min(PREFETCH_MAX);
        let buffer = self.memory.io_need((count << self.geo.block_bits) as usize);
        Need::frames(count).and(buffer)
    }

    /// The blocks from `first` on that are neither here nor being read, up to the first other one: the caller reads them.
    fn claim_run(&self, first: FsBlock, count: u32) -> Vec<FsBlock> {
        let blocks = (0..u64::from(count.min(PREFETCH_MAX))).map_while(|at| first.checked_add(at));
        blocks
            .take_while(|&block| block.get() < self.geo.blocks_count && self.claim(block))
            .collect()
    }

    fn copied(&self, block: FsBlock, mut frame: Frame, bytes: &[u8]) -> BufferRef {
        frame.copy_from_slice(bytes);
        Arc::new(Buffer::new(block, Arc::clone(&self.geo), frame, None))
    }

    fn block_size(&self) -> usize {
        self.geo.block_size as usize
    }

    /// Blocks in memory, for gauges and tests.
    pub fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|(shard, _)| shard.lock().len())
            .sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn load(&self, block: FsBlock) -> Result<BufferRef> {
        let mut place = None;
        {
            let (mutex, loaded) = self.slot(block);
            let mut shard = mutex.lock();
            loop {
                if let Some(buffer) = shard.get(block) {
                    return Ok(buffer);
                }
                if place.is_none() {
                    place = Some(patience::before_waiting()?);
                }
                if shard.loading.insert(block) {
                    break;
                }
                loaded.wait(&mut shard);
            }
        }
        let mut frame = self.memory.frame(Class::Meta);
        let offset = block.get() << self.geo.block_bits;
        match self.device.read_at(offset, &mut frame) {
            Ok(()) => {
                let buffer = Arc::new(Buffer::new(block, Arc::clone(&self.geo), frame, None));
                Ok(self
                    .settle(block, Some(Arc::clone(&buffer)))
                    .unwrap_or(buffer))
            }
            Err(error) => {
                self.settle(block, None);
                Err(error)
            }
        }
    }

    /// Claims the reading of a block; false when it is here or being read.
    fn claim(&self, block: FsBlock) -> bool {
        let mut shard = self.shard(block);
        !shard.contains(block) && shard.loading.insert(block)
    }

    /// Ends the reading of a block. What came in meanwhile (`fresh`) is newer and stays; it is returned.
    fn settle(&self, block: FsBlock, loaded: Option<BufferRef>) -> Option<BufferRef> {
        let (mutex, done) = self.slot(block);
        let mut shard = mutex.lock();
        shard.loading.remove(&block);
        done.notify_all();
        if let Some(newer) = shard.get(block) {
            return Some(newer);
        }
        if let Some(buffer) = loaded {
            shard.put(buffer);
        }
        None
    }

    fn shard(&self, block: FsBlock) -> MutexGuard<'_, Shard> {
        self.slot(block).0.lock()
    }

    fn slot(&self, block: FsBlock) -> &(Mutex<Shard>, Condvar) {
        // Neighbouring blocks lie in one shard, blocks of different groups mostly do not.
        let hash = (block.get() >> 3).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        &self.shards[hash as usize % SHARDS]
    }
}

/// Gives clean buffers back to the budget.
struct CleanBuffers(Weak<BlockCache>);

impl Shrinker for CleanBuffers {
    fn shrink(&self, frames: usize) -> usize {
        let Some(cache) = self.0.upgrade() else {
            return 0;
        };
        let mut freed = 0;
        // Twice round: the first pass takes second chances away. From another shard each time, so that the clocks go alike.
        let first = cache.next.fetch_add(1, Ordering::Relaxed);
        for step in 0..2 * SHARDS {
            if freed >= frames {
                break;
            }
            let index = first.wrapping_add(step) % SHARDS;
            if let Some(mut shard) = cache.shards[index].0.try_lock() {
                freed += shard.sweep(frames - freed);
            }
        }
        freed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::file::{Access, FileDevice};
    use crate::format::superblock::{OFFSET, SIZE, Superblock};
    use std::time::{Duration, Instant};

    fn cache() -> (tempfile::TempDir, Arc<BlockCache>) {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("image");
        let made = std::process::Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-b", "4096"])
            .args([path.as_os_str(), "16M".as_ref()])
            .status();
        assert!(made.unwrap().success());
        let device: Arc<dyn Device> =
            Arc::new(FileDevice::open(&path, &Access::default()).unwrap());
        let mut bytes = [0; SIZE];
        device.read_at(OFFSET, &mut bytes).unwrap();
        let geo = Superblock::parse(&bytes).unwrap();
        let geo = Arc::new(geo.geometry(device.len()).unwrap());
        let memory = Memory::new(8 << 20, geo.block_size, 1 << 20);
        (dir, BlockCache::new(device, geo, memory))
    }

    #[test]
    fn what_is_read_ahead_is_what_is_read() {
        let (_dir, cache) = cache();
        let block = |n| FsBlock::ZERO.checked_add(n).unwrap();
        let fresh = cache.fresh(block(3), BlockKind::Plain);
        // As far as the block that is here already.
        cache.prefetch_later(block(0), 8);
        let until = Instant::now() + Duration::from_secs(10);
        while cache.len() < 4 && Instant::now() < until {
            std::thread::yield_now();
        }
        assert_eq!(cache.len(), 4);
        for n in 0..3 {
            let mut bytes = [0; 4096];
            cache.device().read_at(n * 4096, &mut bytes).unwrap();
            let here = cache.cached(block(n)).expect("read ahead");
            assert_eq!(here.kind(), None, "verified only when it is asked for");
            assert_eq!(&here.snapshot()[..], bytes);
        }
        assert!(Arc::ptr_eq(&fresh, &cache.cached(block(3)).unwrap()));
    }

    #[test]
    fn a_block_with_something_unsound_in_it_is_read_once_more() {
        let (_dir, cache) = cache();
        let block = |n| FsBlock::ZERO.checked_add(n).unwrap();
        let looked = std::cell::Cell::new(0);
        let look = |sound| {
            looked.set(looked.get() + 1);
            sound
        };
        let wrong = cache.load(block(1)).unwrap();
        let right = cache
            .read_shared(block(1), &|_| look(looked.get() > 0))
            .unwrap();
        assert!(!Arc::ptr_eq(&wrong, &right), "not read again");
        assert_eq!(right.kind(), Some(BlockKind::Plain));
        // What the device says twice is accepted, and not doubted any more.
        let first = cache.read_shared(block(2), &|_| look(false)).unwrap();
        let later = cache.read_shared(block(2), &|_| look(false)).unwrap();
        assert!(Arc::ptr_eq(&first, &later));
        assert_eq!(looked.get(), 2);
    }

    #[test]
    fn nothing_is_read_ahead_when_memory_is_scarce() {
        let (_dir, cache) = cache();
        let held: Vec<_> = (0..1700)
            .map(|_| cache.memory().frame(Class::Dirty))
            .collect();
        cache.prefetch_later(FsBlock::ZERO, 4);
        drop(held);
        cache.prefetch_later(FsBlock::ZERO.checked_add(8).unwrap(), 1);
        let until = Instant::now() + Duration::from_secs(10);
        while cache.is_empty() && Instant::now() < until {
            std::thread::yield_now();
        }
        assert!(cache.cached(FsBlock::ZERO).is_none());
        assert_eq!(cache.len(), 1);
    }

    /// Somebody reads a block from home while it is made anew: the new bytes are the block's, however hard memory is sought.
    #[test]
    fn a_block_being_read_is_not_swept() {
        let (_dir, cache) = cache();
        let block = FsBlock::ZERO.checked_add(9).unwrap();
        assert!(cache.claim(block), "nobody reads it yet");
        drop(cache.fresh(block, BlockKind::Plain));
        cache.memory().drop_clean();
        assert!(cache.cached(block).is_some(), "swept while it was read");
        let mut old = cache.memory().frame(Class::Meta);
        old.fill(7);
        let read = Arc::new(Buffer::new(block, Arc::clone(&cache.geo), old, None));
        let newer = cache.settle(block, Some(read)).expect("the newer one");
        assert!(newer.snapshot().iter().all(|&byte| byte == 0));
        drop(newer);
        cache.memory().drop_clean();
        assert!(cache.cached(block).is_none(), "nothing holds it any more");
    }
}

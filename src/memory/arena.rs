//! Where frames and I/O buffers come from: anonymous maps that are reserved once and never move.
//!
//! Source: the design's section on memory (arena).
//! Invariants: every address on the free list is one whole frame that nobody else holds; chunks live as long as
//! the arena, and each `Frame` keeps its `Memory`, so its arena, alive; all bytes are initialised (zero at first).

use super::{Class, Memory};
use crate::sync::{Mutex, Rank};
use memmap2::{MmapMut, MmapOptions};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const PAGE: usize = 4096;
/// The least that a chunk reserves, in frames.
const LEAST_FRAMES: u64 = 1024;

/// The frames of one mount.
pub(super) struct Arena {
    frame_size: usize,
    frames_per_chunk: usize,
    free: Mutex<FreeList>,
    /// Bytes of frames that nobody holds but that still take memory.
    warm: AtomicU64,
}

struct FreeList {
    /// Frames that were used and given back, the warmest last.
    returned: Vec<Address>,
    /// Frames whose memory went back to the kernel.
    cold: Vec<Address>,
    /// The part of the newest chunk that was never used: next offset in bytes.
    fresh: usize,
    /// Owners of all frames; nothing is read or written through them.
    chunks: Vec<MmapMut>,
}

impl FreeList {
    /// Takes frames smaller than a page out, where all frames of their page are free.
    fn take_pages(&mut self, frame_size: usize, wanted: usize) -> Vec<Address> {
        let a_page = PAGE / frame_size;
        let page_of = |address: &Address| address.0.as_ptr().addr() / PAGE;
        self.returned.sort_unstable_by_key(page_of);
        let (mut taken, mut kept) = (Vec::new(), Vec::new());
        let mut rest = std::mem::take(&mut self.returned).into_iter().peekable();
        while let Some(first) = rest.next() {
            let page = page_of(&first);
            let mut frames = vec![first];
            while let Some(next) = rest.next_if(|next| page_of(next) == page) {
                frames.push(next);
            }
            let whole = frames.len() == a_page && taken.len() < wanted;
            if whole { &mut taken } else { &mut kept }.append(&mut frames);
        }
        self.returned = kept;
        taken
    }
}

/// The start of a frame that nobody holds.
struct Address(NonNull<u8>);

// SAFETY: an `Address` is the only handle to its frame's bytes, which belong to no thread.
unsafe impl Send for Address {}

impl Arena {
    /// Reserves address space for `bytes`; pages get memory when they are touched. More chunks follow when the
    /// first is used up: admission alone limits use.
    pub(super) fn new(bytes: u64, frame_size: u32) -> Self {
        let frames = (bytes / u64::from(frame_size)).max(LEAST_FRAMES);
        let arena = Self {
            frame_size: frame_size as usize,
            frames_per_chunk: usize::try_from(frames).expect("a 64-bit address space"),
            free: Mutex::new(
                Rank::Memory,
                FreeList {
                    returned: Vec::new(),
                    cold: Vec::new(),
                    fresh: 0,
                    chunks: Vec::new(),
                },
            ),
            warm: AtomicU64::new(0),
        };
        let chunk = arena.reserve();
        arena.free.lock().chunks.push(chunk);
        arena
    }

    fn chunk_bytes(&self) -> usize {
        self.frames_per_chunk * self.frame_size
    }

    fn reserve(&self) -> MmapMut {
        MmapOptions::new()
            .len(self.chunk_bytes())
            .no_reserve_swap()
            .map_anon()
            .expect("address space for the memory arena")
    }

    /// A frame's address; contents unspecified.
    pub(super) fn take(&self) -> NonNull<u8> {
        let mut free = self.free.lock();
        if let Some(address) = free.returned.pop() {
            self.warm
                .fetch_sub(self.frame_size as u64, Ordering::Relaxed);
            return address.0;
        }
        if let Some(address) = free.cold.pop() {
            return address.0;
        }
        if free.fresh + self.frame_size > self.chunk_bytes() {
            let chunk = self.reserve();
            free.chunks.push(chunk);
            free.fresh = 0;
        }
        let offset = free.fresh;
        free.fresh += self.frame_size;
        let chunk = free.chunks.last_mut().expect("at least one chunk");
        // SAFETY: `offset + frame_size` is within the chunk, checked above.
        let start = unsafe { chunk.as_mut_ptr().add(offset) };
        NonNull::new(start).expect("a mapped address")
    }

    fn give_back(&self, start: NonNull<u8>) {
        let mut free = self.free.lock();
        self.warm
            .fetch_add(self.frame_size as u64, Ordering::Relaxed);
        free.returned.push(Address(start));
    }

    /// Bytes that free frames still take.
    pub(super) fn warm(&self) -> u64 {
        self.warm.load(Ordering::Relaxed)
    }

    /// Gives the memory of about `bytes` of free frames, the coldest ones, back to the kernel.
    pub(super) fn cool(&self, bytes: u64) {
        let mut free = self.free.lock();
        let wanted = usize::try_from(bytes).unwrap_or(usize::MAX) / self.frame_size + 1;
        let cold = if self.frame_size >= PAGE {
            let count = wanted.min(free.returned.len());
            free.returned.drain(..count).collect()
        } else {
            free.take_pages(self.frame_size, wanted)
        };
        for address in &cold {
            let page = address.0.as_ptr();
            if page.addr() % PAGE == 0 {
                let length = self.frame_size.max(PAGE);
                // SAFETY: the bytes are those of frames in the arena's own anonymous map that nobody holds
                // (`take_pages` takes whole pages); they read as zeros afterwards, so they stay initialised.
                unsafe { libc::madvise(page.cast(), length, libc::MADV_DONTNEED) };
            }
        }
        let cooled = (cold.len() * self.frame_size) as u64;
        self.warm.fetch_sub(cooled, Ordering::Relaxed);
        free.cold.extend(cold);
    }
}

/// An owned block-sized piece of the arena; returned when dropped.
pub struct Frame {
    start: NonNull<u8>,
    memory: Arc<Memory>,
    class: Class,
}

// SAFETY: a `Frame` owns its bytes alone (see the invariants), as a `Box<[u8]>` does.
unsafe impl Send for Frame {}
// SAFETY: through `&Frame` the bytes can only be read.
unsafe impl Sync for Frame {}

impl Frame {
    /// `start` comes from `memory`'s arena and is held by nobody else; it is already counted in `class`.
    pub(super) fn new(start: NonNull<u8>, memory: Arc<Memory>, class: Class) -> Self {
        Self {
            start,
            memory,
            class,
        }
    }

    pub fn class(&self) -> Class {
        self.class
    }

    /// The frame is used for something else from now on.
    pub fn set_class(&mut self, class: Class) {
        let cost = self.memory.frame_cost;
        self.memory.gauges.remove(self.class, cost);
        self.memory.gauges.add(class, cost);
        self.class = class;
    }
}

impl Deref for Frame {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the frame's bytes are initialised, live as long as `memory`, and no `&mut` to them exists while
        // `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.memory.frame_size as usize) }
    }
}

impl DerefMut for Frame {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `&mut self` makes this the only reference.
        unsafe {
            std::slice::from_raw_parts_mut(self.start.as_ptr(), self.memory.frame_size as usize)
        }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        let cost = self.memory.frame_cost;
        self.memory.gauges.remove(self.class, cost);
        if !super::leak::is_due() {
            self.memory.arena.give_back(self.start);
        }
        self.memory.ledger.release(cost);
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({:?}, {} bytes)", self.class, self.len())
    }
}

/// Idle buffers of the largest request's size.
pub(super) struct BufferPool {
    buffer_size: usize,
    keep: usize,
    idle: Mutex<Vec<MmapMut>>,
}

impl BufferPool {
    pub(super) fn new(buffer_size: u32, keep: u64) -> Self {
        Self {
            buffer_size: (buffer_size as usize).max(PAGE).next_multiple_of(PAGE),
            keep: usize::try_from(keep).unwrap_or(usize::MAX),
            idle: Mutex::new(Rank::Memory, Vec::new()),
        }
    }

    /// The least bytes that a buffer for `length` takes.
    pub(super) fn size_for(&self, length: usize) -> usize {
        if length > self.buffer_size / 4 {
            self.whole_size(length)
        } else {
            length.max(1).next_multiple_of(PAGE)
        }
    }

    /// The bytes of one that can be kept for any request.
    pub(super) fn whole_size(&self, length: usize) -> usize {
        length.max(self.buffer_size).next_multiple_of(PAGE)
    }

    /// An idle buffer; its bytes are still promised.
    pub(super) fn take_idle(&self, length: usize) -> Option<MmapMut> {
        let fits = length <= self.buffer_size;
        fits.then(|| self.idle.lock().pop()).flatten()
    }

    pub(super) fn make(&self, size: usize) -> MmapMut {
        MmapOptions::new()
            .len(size)
            .map_anon()
            .expect("memory for an I/O buffer")
    }

    /// Keeps a buffer whose bytes stay promised; false: there are enough.
    fn keep(&self, map: MmapMut) -> bool {
        let mut idle = self.idle.lock();
        let kept = map.len() == self.buffer_size && idle.len() < self.keep;
        if kept {
            idle.push(map);
        }
        kept
    }

    /// Gives idle buffers up; returns their bytes, which the caller gives back.
    pub(super) fn drop_idle(&self) -> u64 {
        let idle = std::mem::take(&mut *self.idle.lock());
        (idle.len() * self.buffer_size) as u64
    }

    /// Bytes of idle buffers.
    pub(super) fn idle_bytes(&self) -> u64 {
        (self.idle.lock().len() * self.buffer_size) as u64
    }
}

/// A contiguous, page-aligned buffer; goes back to the pool when dropped.
pub struct IoBuffer {
    map: Option<MmapMut>,
    length: usize,
    memory: Arc<Memory>,
}

impl IoBuffer {
    pub(super) fn new(map: MmapMut, length: usize, memory: Arc<Memory>) -> Self {
        Self {
            map: Some(map),
            length,
            memory,
        }
    }

    /// Makes the buffer end after `length` bytes; it can only shrink.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }
}

impl Deref for IoBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.map.as_ref().expect("held until drop")[..self.length]
    }
}

impl DerefMut for IoBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.map.as_mut().expect("held until drop")[..self.length]
    }
}

impl Drop for IoBuffer {
    fn drop(&mut self) {
        if let Some(map) = self.map.take() {
            let bytes = map.len() as u64;
            self.memory.gauges.remove(Class::Io, bytes);
            let wanted = self.memory.ledger.is_hungry();
            if wanted || !self.memory.buffers.keep(map) {
                self.memory.ledger.release(bytes);
            }
            self.memory.ledger.note_release();
        }
    }
}

//! One metadata block in memory: what readers see, and how a writer replaces it.
//!
//! Source: the design's sections on layers and the journal.
//! Invariants: a `Snapshot` never changes. A writer works on a copy of its own, which becomes the block when the
//! `BufferWrite` is dropped, checksum stamped; so `snapshot` never waits and never sees half a change, and what a
//! committing transaction took stays as it was. Whoever must make two things visible together (a bitmap bit and the
//! record under the group lock) drops the `BufferWrite` inside that critical section.

use crate::format::checksum::{self, BlockKind};
use crate::format::geometry::Geometry;
use crate::ids::FsBlock;
use crate::memory::Frame;
use crate::sync::{Mutex, MutexGuard, Rank};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The bytes of a block at one moment; never changes.
pub type Snapshot = Arc<Frame>;
pub type BufferRef = Arc<Buffer>;

/// A metadata block in memory.
pub struct Buffer {
    block: FsBlock,
    geo: Arc<Geometry>,
    /// Guards the right to replace `current`.
    writer: Mutex<()>,
    /// Guards the newest published bytes and what they were last verified as (`None`: read ahead, not verified).
    current: Mutex<(Snapshot, Option<BlockKind>)>,
    /// Second chance for the clock of the cache: none before the second use, so that what is read ahead or looked at once
    /// leaves before what everybody uses.
    referenced: AtomicBool,
}

impl Buffer {
    pub(super) fn new(
        block: FsBlock,
        geo: Arc<Geometry>,
        bytes: Frame,
        kind: Option<BlockKind>,
    ) -> Self {
        Self {
            block,
            geo,
            writer: Mutex::new(Rank::BufferWrite, ()),
            current: Mutex::new(Rank::Leaf, (Arc::new(bytes), kind)),
            referenced: AtomicBool::new(false),
        }
    }

    pub fn block(&self) -> FsBlock {
        self.block
    }

    /// What the block was last verified or stamped as.
    pub fn kind(&self) -> Option<BlockKind> {
        self.current.lock().1
    }

    /// The bytes as they are now. Cheap, never waits; do not keep it longer than the operation.
    pub fn snapshot(&self) -> Snapshot {
        Arc::clone(&self.current.lock().0)
    }

    pub(super) fn set_kind(&self, kind: BlockKind) {
        self.current.lock().1 = Some(kind);
    }

    pub(super) fn touch(&self) {
        self.referenced.store(true, Ordering::Relaxed);
    }

    /// Takes the second chance; false when there was none left.
    pub(super) fn take_chance(&self) -> bool {
        self.referenced.swap(false, Ordering::Relaxed)
    }

    /// Write access, for `Handle::write`: `frame` becomes the block's new bytes.
    pub fn begin_write(&self, mut frame: Frame) -> BufferWrite<'_> {
        let access = self.writer.lock();
        let (current, kind) = {
            let current = self.current.lock();
            (Arc::clone(&current.0), current.1)
        };
        frame.copy_from_slice(&current);
        BufferWrite {
            buffer: self,
            frame: Some(frame),
            kind: kind.unwrap_or(BlockKind::Plain),
            _access: access,
        }
    }
}

/// Exclusive access to a buffer's bytes, given by `Handle::write`. What was changed becomes visible, checksum
/// stamped, when it is dropped. Keep it short; two at a time only where one operation changes both.
pub struct BufferWrite<'a> {
    buffer: &'a Buffer,
    /// Always there until dropped.
    frame: Option<Frame>,
    kind: BlockKind,
    _access: MutexGuard<'a, ()>,
}

impl BufferWrite<'_> {
    /// What the bytes will be stamped as, where a block changes its kind.
    pub fn set_kind(&mut self, kind: BlockKind) {
        self.kind = kind;
    }
}

impl Deref for BufferWrite<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.frame.as_deref().unwrap_or(&[])
    }
}

impl DerefMut for BufferWrite<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.frame.as_deref_mut().unwrap_or(&mut [])
    }
}

impl Drop for BufferWrite<'_> {
    fn drop(&mut self) {
        if let Some(mut frame) = self.frame.take() {
            checksum::stamp(self.kind, &self.buffer.geo, self.buffer.block, &mut frame);
            *self.buffer.current.lock() = (Arc::new(frame), Some(self.kind));
        }
    }
}

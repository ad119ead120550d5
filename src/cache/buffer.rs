//! stub
use crate::format::checksum::BlockKind;
use crate::ids::FsBlock;
use crate::memory::Frame;
use std::sync::Arc;

/// The bytes of a block at one moment; never changes.
pub type Snapshot = Arc<Frame>;
pub type BufferRef = Arc<Buffer>;

/// A metadata block in memory.
pub struct Buffer {}
impl Buffer {
    pub fn block(&self) -> FsBlock {
        todo!()
    }
    pub fn kind(&self) -> BlockKind {
        todo!()
    }
    /// The bytes as they are now. Cheap; do not keep it longer than the operation.
    pub fn snapshot(&self) -> Snapshot {
        todo!()
    }
}

/// Exclusive access to a buffer's bytes (`DerefMut<Target = [u8]>`), given by `Handle::write`. The checksum is
/// stamped when it is dropped. Keep it short; two at a time only where one operation changes both.
pub struct BufferWrite<'a> {
    _buffer: &'a Buffer,
}
impl std::ops::Deref for BufferWrite<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        todo!()
    }
}
impl std::ops::DerefMut for BufferWrite<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        todo!()
    }
}

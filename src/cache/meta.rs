//! stub
use crate::cache::BufferRef;
use crate::device::Device;
use crate::error::Result;
use crate::format::checksum::BlockKind;
use crate::format::geometry::Geometry;
use crate::ids::FsBlock;
use crate::memory::Memory;
use std::sync::Arc;

pub struct BlockCache {}
impl BlockCache {
    pub fn new(device: Arc<dyn Device>, geo: Arc<Geometry>, memory: Arc<Memory>) -> Arc<Self> {
        let _ = (device, geo, memory);
        todo!()
    }
    pub fn geometry(&self) -> &Arc<Geometry> {
        todo!()
    }
    pub fn device(&self) -> &Arc<dyn Device> {
        todo!()
    }
    pub fn memory(&self) -> &Arc<Memory> {
        todo!()
    }
    /// The block, read and verified as `kind` unless it is here already as that kind.
    pub fn read(&self, block: FsBlock, kind: BlockKind) -> Result<BufferRef> {
        let _ = (block, kind);
        todo!()
    }
    /// A newly allocated block: all zeros, nothing is read. The caller fills it through `Handle::write`.
    pub fn fresh(&self, block: FsBlock, kind: BlockKind) -> BufferRef {
        let _ = (block, kind);
        todo!()
    }
    /// The block if it is in memory.
    pub fn cached(&self, block: FsBlock) -> Option<BufferRef> {
        let _ = block;
        todo!()
    }
    /// Reads blocks that will be asked for soon, verifying nothing yet; errors are ignored.
    pub fn prefetch(&self, first: FsBlock, count: u32) {
        let _ = (first, count);
    }
}

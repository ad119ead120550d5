//! stub
use crate::alloc::Allocator;
use crate::cache::{BlockCache, BufferRef};
use crate::error::Result;
use crate::format::inode::Inode;
use crate::ids::InodeNumber;
use crate::journal::Handle;
use std::sync::Arc;

/// Reads and writes inodes in the inode tables.
pub struct InodeStore {}
impl InodeStore {
    pub fn new(cache: Arc<BlockCache>, alloc: Arc<Allocator>) -> Self {
        let _ = (cache, alloc);
        todo!()
    }
    /// The inode, its checksum verified. Corrupt when it is not in use (mode 0, or links 0 and not an orphan is the caller's matter).
    pub fn read(&self, ino: InodeNumber) -> Result<Inode> {
        let _ = ino;
        todo!()
    }
    /// Writes the inode into its table block: 1 credit.
    pub fn write(&self, handle: &Handle<'_>, ino: InodeNumber, inode: &Inode) -> Result<()> {
        let _ = (handle, ino, inode);
        todo!()
    }
    /// A new inode: zeroes its slot first. 1 credit.
    pub fn create(&self, handle: &Handle<'_>, ino: InodeNumber, inode: &Inode) -> Result<()> {
        let _ = (handle, ino, inode);
        todo!()
    }
    /// The table block of an inode and the byte offset of the inode in it (for in-inode attributes).
    pub fn locate(&self, ino: InodeNumber) -> Result<(BufferRef, usize)> {
        let _ = ino;
        todo!()
    }
    /// Runs `change` on the inode's raw bytes in the table (in-inode attributes) and stamps the checksum. 1 credit.
    pub fn edit(&self, handle: &Handle<'_>, ino: InodeNumber, change: &mut dyn FnMut(&mut [u8])) -> Result<()> {
        let _ = (handle, ino, change);
        todo!()
    }
}

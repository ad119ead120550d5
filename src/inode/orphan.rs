//! stub
use crate::error::Result;
use crate::format::inode::Inode;
use crate::ids::InodeNumber;
use crate::journal::Handle;

/// The orphan file if the image has one, else the orphan list through `i_dtime`.
pub struct Orphans {}
impl Orphans {
    /// Puts an inode on record: 2 credits (list: superblock and inode; file: its block). Idempotent.
    pub fn add(&self, handle: &Handle<'_>, ino: InodeNumber, inode: &mut Inode) -> Result<()> {
        let _ = (handle, ino, inode);
        todo!()
    }
    /// Takes it off again: 2 credits. Idempotent.
    pub fn remove(&self, handle: &Handle<'_>, ino: InodeNumber, inode: &mut Inode) -> Result<()> {
        let _ = (handle, ino, inode);
        todo!()
    }
    /// All that are on record, found at mount, in the order to be finished. Bounded against loops.
    pub fn on_disk(&self) -> Result<Vec<InodeNumber>> {
        todo!()
    }
}

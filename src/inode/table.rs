//! stub
use crate::alloc::PreallocTree;
use crate::error::Result;
use crate::format::inode::Inode;
use crate::ids::InodeNumber;
use crate::inode::InodeStore;
use crate::memory::Memory;
use crate::sync::{Mutex, RwLock};
use std::sync::Arc;

pub type NodeRef = Arc<Node>;

/// An inode in memory.
pub struct Node {
    pub ino: InodeNumber,
    /// The inode lock: exclusive for changes of contents or names, shared for reads. Rank `Inode`.
    pub lock: RwLock<()>,
    /// The on-disk inode as of the running transaction. Rank `Map`.
    pub core: RwLock<Inode>,
    /// Rank `Prealloc`.
    pub prealloc: Mutex<PreallocTree>,
}

impl Node {
    /// Counts one piece of file data I/O in flight; ends when the guard is dropped. Taken under the map lock.
    pub fn begin_io(self: &Arc<Self>) -> IoInFlight {
        todo!()
    }
    /// Waits until no I/O is in flight. Holds the inode lock, no handle.
    pub fn drain(&self) {
        todo!()
    }
}
/// One I/O in flight.
pub struct IoInFlight {}

pub struct InodeTable {}
impl InodeTable {
    pub fn new(store: Arc<InodeStore>, memory: Arc<Memory>) -> Self {
        let _ = (store, memory);
        todo!()
    }
    /// The in-memory inode, loaded on demand. No handle may be open. Stale when it is free on disk.
    pub fn get(&self, ino: InodeNumber) -> Result<NodeRef> {
        let _ = ino;
        todo!()
    }
    /// Puts a just created inode into the table.
    pub fn insert(&self, ino: InodeNumber, inode: Inode) -> NodeRef {
        let _ = (ino, inode);
        todo!()
    }
    /// Drops the in-memory inode (after it was freed).
    pub fn remove(&self, ino: InodeNumber) {
        let _ = ino;
        todo!()
    }
}

//! stub
use crate::cache::{BufferRef, BufferWrite};
use crate::error::Result;
use crate::ids::{FsBlock, Tid};
use crate::memory::Token;
use std::sync::Arc;

/// Called once each time a transaction has become durable.
pub trait CommitListener: Send + Sync {
    /// `tid` has committed: what it freed may be used again. Takes no lock below `Rank::Prealloc`.
    fn committed(&self, tid: Tid);
}

/// The journal of a mount. On an image without one, a commit writes the blocks home and syncs.
pub struct Journal {}
impl Journal {
    /// Opens a handle for at most `credits` dirtied blocks. Waits for journal space and for a transaction being locked;
    /// the caller holds at most inode locks. Handles do not nest.
    pub fn start(&self, token: &mut Token, credits: u32) -> Result<Handle<'_>> {
        let _ = (token, credits);
        todo!()
    }
    /// Commits everything up to and including `tid`, waiting for it.
    pub fn commit(&self, tid: Tid) -> Result<()> {
        let _ = tid;
        todo!()
    }
    /// Calls `done` once `tid` is durable (at once, if it is), without waiting.
    pub fn when_committed(&self, tid: Tid, done: Box<dyn FnOnce(Result<()>) + Send>) {
        let _ = (tid, done);
        todo!()
    }
    /// Commits the running transaction, if it holds anything, and waits.
    pub fn commit_running(&self) -> Result<()> {
        todo!()
    }
    /// The most credits one handle may ask for.
    pub fn max_credits(&self) -> u32 {
        todo!()
    }
    pub fn listen(&self, listener: Arc<dyn CommitListener>) {
        let _ = listener;
        todo!()
    }
}

/// An open handle: a set of changes that are durable together or not at all. Dropping it closes it.
pub struct Handle<'j> {
    _journal: &'j Journal,
}
impl Handle<'_> {
    pub fn tid(&self) -> Tid {
        todo!()
    }
    /// Write access to a metadata block; it joins the transaction. Costs one credit the first time.
    pub fn write<'b>(&self, buffer: &'b BufferRef) -> Result<BufferWrite<'b>> {
        let _ = buffer;
        todo!()
    }
    /// A metadata block is freed: its buffer leaves the transaction and older copies in the log are revoked.
    /// (`Allocator::free` marks the bitmap; call both.)
    pub fn forget(&self, block: FsBlock) {
        let _ = block;
        todo!()
    }
    pub fn credits_left(&self) -> u32 {
        todo!()
    }
}

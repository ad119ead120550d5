//! Extended attributes: in the inode's extra space, then in a block, shared copies counted.
//!
//! Source: the kernel's ext4 documentation, "Extended Attributes".
//! Invariants: names are checked before anything changes; a failed `set` leaves the old value.

use crate::alloc::Allocator;
use crate::cache::BlockCache;
use crate::error::Result;
use crate::format::inode::Inode;
use crate::ids::InodeNumber;
use crate::inode::InodeStore;
use crate::journal::Handle;
use crate::map::Map;
use std::sync::Arc;

/// How `set` treats an existing or missing name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetMode {
    Any,
    Create,
    Replace,
}

/// All extended attributes. Names are full ("user.x", "system.posix_acl_access"); ACL values are in the *user's* (xattr) form
/// here, converted to and from ext4's own form inside. Methods may change `file_acl`, `blocks` of the inode; the caller
/// writes it in the same handle (before `set` it must already be in the table).
pub struct Xattrs {}

impl Xattrs {
    pub fn new(cache: Arc<BlockCache>, alloc: Arc<Allocator>, store: Arc<InodeStore>, map: Arc<Map>) -> Self {
        let _ = (cache, alloc, store, map);
        todo!()
    }

    /// The value, or NoData. OpNotSupp for a name space that ext4 does not have.
    pub fn get(&self, ino: InodeNumber, inode: &Inode, name: &[u8]) -> Result<Vec<u8>> {
        let _ = (ino, inode, name);
        todo!()
    }

    /// All names, each ended by NUL.
    pub fn list(&self, ino: InodeNumber, inode: &Inode) -> Result<Vec<u8>> {
        let _ = (ino, inode);
        todo!()
    }

    /// Sets (`Some`) or removes (`None`) a value. NoSpc when it does not fit.
    pub fn set(
        &self,
        handle: &Handle<'_>,
        ino: InodeNumber,
        inode: &mut Inode,
        name: &[u8],
        value: Option<&[u8]>,
        mode: SetMode,
    ) -> Result<()> {
        let _ = (handle, ino, inode, name, value, mode);
        todo!()
    }

    /// Frees what a deleted inode's attributes hold outside of it.
    pub fn free_all(&self, handle: &Handle<'_>, ino: InodeNumber, inode: &mut Inode) -> Result<()> {
        let _ = (handle, ino, inode);
        todo!()
    }

    /// Credits for `set` and `free_all`, without the inode.
    pub const CREDITS: u32 = 12;
}

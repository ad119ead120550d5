//! Extended attributes as their callers see them, and the mode that goes with an access ACL.
//!
//! Source: Linux xattr(7), acl(5).
//! Invariants: setting an access ACL rewrites the mode in the same transaction; a trivial one is not stored.

use crate::error::{Posix, Result};
use crate::format::acl;
use crate::format::inode::{Inode, flag, mode};
use crate::fs::acl::{ACCESS, DEFAULT};
use crate::fs::{Caller, Fs, need};
use crate::ids::InodeNumber;
use crate::inode::NodeRef;
use crate::journal::Handle;
use crate::memory::Token;
use crate::xattr::{SetMode, Xattrs};

impl Fs {
    pub fn getxattr(&self, ino: InodeNumber, name: &[u8]) -> Result<Vec<u8>> {
        let _token = self.memory.request(need::XATTR_GET)?;
        self.check_xattr_enabled(name)?;
        let node = self.node(ino)?;
        let _shared = node.lock.read();
        let core = node.core.read();
        self.xattrs.get(ino, &core, name)
    }

    /// All names, each ended by NUL; trusted ones only for root.
    pub fn listxattr(&self, caller: Caller, ino: InodeNumber) -> Result<Vec<u8>> {
        let _token = self.memory.request(need::XATTR_GET)?;
        let node = self.node(ino)?;
        let _shared = node.lock.read();
        let core = node.core.read();
        let all = self.xattrs.list(ino, &core)?;
        let mut shown = Vec::with_capacity(all.len());
        for name in all.split_inclusive(|&byte| byte == 0) {
            let hidden = name.starts_with(b"trusted.") && caller.uid != 0;
            if !hidden && self.check_xattr_enabled(name).is_ok() {
                shown.extend_from_slice(name);
            }
        }
        Ok(shown)
    }

    /// Sets (`Some`) or removes (`None`) an attribute.
    pub fn setxattr(
        &self,
        caller: Caller,
        ino: InodeNumber,
        name: &[u8],
        value: Option<&[u8]>,
        how: SetMode,
    ) -> Result<()> {
        self.check_writable()?;
        self.check_xattr_enabled(name)?;
        if name.len() > 255 {
            return Err(Posix::Range.into());
        }
        let mut token = self.memory.request(need::XATTR_SET)?;
        let node = self.node(ino)?;
        let _exclusive = node.lock.write();
        self.check_setxattr(&node, name)?;
        self.files
            .retry_for_space(|| self.setxattr_once(&mut token, caller, &node, name, value, how))?;
        self.sync_if_asked(&node, false)
    }

    fn check_xattr_enabled(&self, name: &[u8]) -> Result<()> {
        let acl = name.starts_with(b"system.posix_acl_") && !self.options.acl;
        let user = name.starts_with(b"user.") && !self.options.user_xattr;
        if acl || user {
            Err(Posix::OpNotSupp.into())
        } else {
            Ok(())
        }
    }

    fn check_setxattr(&self, node: &NodeRef, name: &[u8]) -> Result<()> {
        let core = node.core.read();
        if core.flags & (flag::IMMUTABLE | flag::APPEND) != 0 {
            return Err(Posix::Perm.into());
        }
        if name.starts_with(b"user.") && !core.is_reg() && !core.is_dir() {
            return Err(Posix::Perm.into());
        }
        if name == ACCESS && core.is_symlink() {
            return Err(Posix::OpNotSupp.into());
        }
        if name == DEFAULT && !core.is_dir() {
            return Err(Posix::Access.into());
        }
        Ok(())
    }

    fn setxattr_once(
        &self,
        token: &mut Token,
        caller: Caller,
        node: &NodeRef,
        name: &[u8],
        value: Option<&[u8]>,
        how: SetMode,
    ) -> Result<()> {
        let handle = self.journal.start(token, Xattrs::CREDITS + 2)?;
        let set = self.setxattr_in(&handle, caller, node, name, value, how);
        handle.settle(set)
    }

    fn setxattr_in(
        &self,
        handle: &Handle<'_>,
        caller: Caller,
        node: &NodeRef,
        name: &[u8],
        value: Option<&[u8]>,
        how: SetMode,
    ) -> Result<()> {
        let mut core = node.core.write();
        let mut changed: Inode = core.clone();
        let stored = match (name, value) {
            (ACCESS, Some(value)) => {
                let (permissions, is_trivial) = acl::equivalent_mode(value)?;
                changed.mode = (changed.mode & !0o777) | (permissions & 0o777);
                let in_group = caller.uid == 0 || caller.gid == changed.gid;
                if !in_group {
                    changed.mode &= !mode::SGID;
                }
                (!is_trivial).then_some(value)
            }
            (DEFAULT, Some(value)) => {
                acl::equivalent_mode(value)?;
                Some(value)
            }
            _ => value,
        };
        let is_acl = name == ACCESS || name == DEFAULT;
        let result = self
            .xattrs
            .set(handle, node.ino, &mut changed, name, stored, how);
        match result {
            // Removing an ACL that is not there is no error.
            Err(error) if is_acl && stored.is_none() && error.is_posix(Posix::NoData) => {}
            result => result?,
        }
        changed.ctime = self.now();
        *core = changed;
        self.save(handle, node, &core)
    }
}

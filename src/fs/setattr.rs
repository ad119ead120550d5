//! Changing attributes: mode, owner, size, times.
//!
//! Source: POSIX chmod, chown, utimensat, truncate; the design's FUSE facts on times and privileges.
//! Invariants: everything that one call asks for is one transaction (a truncation may finish in later ones).

use crate::error::{Posix, Result};
use crate::format::inode::{Inode, flag, mode};
use crate::format::time::Timestamp;
use crate::fs::{Attr, Caller, Fs, need};
use crate::ids::InodeNumber;
use crate::inode::NodeRef;
use crate::journal::Handle;
use crate::xattr::{SetMode, Xattrs};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    Now,
    At(Timestamp),
}

/// What to change; `None` stays as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr {
    /// Permissions; the file type cannot change.
    pub mode: Option<u16>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
    /// Given by the kernel where it keeps the times itself.
    pub ctime: Option<Timestamp>,
}

impl SetAttr {
    fn changes_owner(&self) -> bool {
        self.uid.is_some() || self.gid.is_some()
    }

    /// utimensat(2) without times. (Where the kernel keeps the mtime, it says what "now" is.)
    fn only_touches(&self) -> bool {
        let mtime = match self.mtime {
            Some(SetTime::Now) => true,
            Some(SetTime::At(_)) => self.ctime.is_some(),
            None => false,
        };
        self.atime == Some(SetTime::Now) && mtime
    }

    fn only_times(&self) -> bool {
        self.mode.is_none() && !self.changes_owner() && self.size.is_none()
    }
}

const CAPABILITY: &[u8] = b"security.capability";

impl Fs {
    pub fn setattr(&self, caller: Caller, ino: InodeNumber, set: &SetAttr) -> Result<Attr> {
        self.check_writable()?;
        let mut token = self.memory.request(need::SETATTR)?;
        let node = self.node(ino)?;
        let _exclusive = node.lock.write();
        self.check_setattr(&node, set)?;
        if let Some(size) = set.size {
            let mut edit = |core: &mut Inode| {
                self.apply(caller, core, set);
            };
            self.files.truncate(&mut token, &node, size, &mut edit)?;
        }
        let acl = set.mode.is_some();
        let is_dir = node.core.read().is_dir();
        let capability = ((set.changes_owner() && !is_dir) || set.size.is_some())
            && self.acl_of(ino, &node.core.read(), CAPABILITY)?.is_some();
        if set.size.is_none() || acl || capability {
            let handle = self.journal.start(&mut token, 2 * Xattrs::CREDITS + 2)?;
            let changed = self.setattr_in(&handle, caller, &node, set, capability);
            handle.settle(changed)?;
        }
        self.sync_if_asked(&node, false)?;
        let core = node.core.read();
        Ok(Attr::of(&node, &core, self.geo.block_size))
    }

    fn setattr_in(
        &self,
        handle: &Handle<'_>,
        caller: Caller,
        node: &NodeRef,
        set: &SetAttr,
        capability: bool,
    ) -> Result<()> {
        let mut core = node.core.write();
        let mut changed = core.clone();
        if set.size.is_none() {
            self.apply(caller, &mut changed, set);
        }
        if set.mode.is_some() {
            self.chmod_acl(handle, node.ino, &mut changed)?;
        }
        if capability {
            self.xattrs.set(
                handle,
                node.ino,
                &mut changed,
                CAPABILITY,
                None,
                SetMode::Any,
            )?;
        }
        *core = changed;
        if set.only_times() {
            self.store.write(handle, node.ino, &core)?;
            node.touched_in(handle.tid());
            Ok(())
        } else {
            self.save(handle, node, &core)
        }
    }

    fn check_setattr(&self, node: &NodeRef, set: &SetAttr) -> Result<()> {
        let core = node.core.read();
        // The kernel sends the times of cached writes for files that have become immutable meanwhile, too.
        let by_kernel = set.ctime.is_some() && set.atime.is_none() && set.only_times();
        if core.has_flag(flag::IMMUTABLE) && !by_kernel {
            return Err(Posix::Perm.into());
        }
        if core.has_flag(flag::APPEND) && !by_kernel {
            let sets_time = !set.only_touches() && (set.atime.is_some() || set.mtime.is_some());
            if set.mode.is_some() || set.changes_owner() || set.size.is_some() || sets_time {
                return Err(Posix::Perm.into());
            }
        }
        match set.size {
            Some(_) if core.is_dir() => Err(Posix::IsDir.into()),
            Some(_) if !core.is_reg() => Err(Posix::Inval.into()),
            _ => Ok(()),
        }
    }

    fn apply(&self, caller: Caller, core: &mut Inode, set: &SetAttr) {
        let now = self.now();
        if let Some(permissions) = set.mode {
            core.mode = (core.mode & mode::FMT) | (permissions & mode::PERM);
        }
        if set.changes_owner() {
            core.uid = set.uid.unwrap_or(core.uid);
            core.gid = set.gid.unwrap_or(core.gid);
            if !core.is_dir() && set.mode.is_none() {
                clear_privileges(caller, core);
            }
        }
        if set.size.is_some() && caller.uid != 0 {
            clear_privileges(caller, core);
        }
        let at = |time| match time {
            SetTime::Now => now,
            SetTime::At(time) => self.storable(time),
        };
        core.atime = set.atime.map_or(core.atime, at);
        core.mtime = match (set.mtime, set.size) {
            (Some(time), _) => at(time),
            (None, Some(_)) => now,
            (None, None) => core.mtime,
        };
        core.ctime = set.ctime.map_or(now, |time| self.storable(time));
    }
}

/// suid goes; sgid where the group may execute (else it stands for mandatory locking) or the caller is not in the group.
/// (Of his groups we know one.)
pub(crate) fn clear_privileges(caller: Caller, core: &mut Inode) {
    core.mode &= !mode::SUID;
    let in_group = caller.uid == 0 || caller.gid == core.gid;
    if core.mode & 0o010 != 0 || !in_group {
        core.mode &= !mode::SGID;
    }
}

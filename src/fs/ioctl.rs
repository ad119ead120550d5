//! Inode flags: chattr(1), lsattr(1), project ids.
//!
//! Source: Linux ioctl_iflags(2), FS_IOC_FSGETXATTR(2const).
//! Invariants: only flags that users may change change; the rest stays.

use crate::error::{Posix, Result};
use crate::format::inode::{Inode, flag};
use crate::fs::{Caller, Fs, need};
use crate::ids::InodeNumber;

/// What lsattr shows.
const VISIBLE: u32 = flag::SECRM
    | flag::UNRM
    | flag::COMPR
    | flag::SYNC
    | flag::IMMUTABLE
    | flag::APPEND
    | flag::NODUMP
    | flag::NOATIME
    | flag::ENCRYPT
    | flag::INDEX
    | flag::JOURNAL_DATA
    | flag::NOTAIL
    | flag::DIRSYNC
    | flag::TOPDIR
    | flag::EXTENTS
    | flag::VERITY
    | flag::DAX
    | flag::INLINE_DATA
    | flag::PROJINHERIT
    | flag::CASEFOLD;
/// Flags of former times (dirty, compressed, not compressible, blocks behind the end): accepted and ignored.
const IGNORED: u32 = 0x0040_0700;
/// What chattr may ask for; a change of anything else that is visible is ignored.
const SETTABLE: u32 = CHANGEABLE
    | flag::JOURNAL_DATA
    | flag::EXTENTS
    | flag::DAX
    | flag::PROJINHERIT
    | flag::CASEFOLD;
/// What can be changed here.
const CHANGEABLE: u32 = flag::SECRM
    | flag::UNRM
    | flag::COMPR
    | flag::SYNC
    | flag::IMMUTABLE
    | flag::APPEND
    | flag::NODUMP
    | flag::NOATIME
    | flag::NOTAIL
    | flag::DIRSYNC
    | flag::TOPDIR;

/// `struct fsxattr`, as far as ext4 has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FsXattr {
    /// `FS_XFLAG_*`.
    pub flags: u32,
    pub project: u32,
}

/// `FS_XFLAG_*` and the inode flags that they stand for.
const XFLAGS: [(u32, u32); 7] = [
    (0x8, flag::IMMUTABLE),
    (0x10, flag::APPEND),
    (0x20, flag::SYNC),
    (0x40, flag::NOATIME),
    (0x80, flag::NODUMP),
    (0x200, flag::PROJINHERIT),
    (0x8000, flag::DAX),
];

/// The flags that make sense on an inode of this type.
fn allowed_on(inode: &Inode) -> u32 {
    const DIRECTORIES: u32 = flag::DIRSYNC | flag::TOPDIR | flag::CASEFOLD | flag::PROJINHERIT;
    if inode.is_dir() {
        u32::MAX
    } else if inode.is_reg() {
        !DIRECTORIES
    } else {
        flag::NODUMP | flag::NOATIME
    }
}

impl Fs {
    /// `FS_IOC_GETFLAGS`.
    pub fn flags(&self, ino: InodeNumber) -> Result<u32> {
        let _token = self.memory.request(need::GETATTR)?;
        let node = self.node(ino)?;
        let core = node.core.read();
        Ok(core.flags & VISIBLE)
    }

    /// `FS_IOC_SETFLAGS`: owner or root only; immutable and append-only are root's.
    pub fn set_flags(&self, caller: Caller, ino: InodeNumber, flags: u32) -> Result<()> {
        self.check_writable()?;
        let mut token = self.memory.request(need::IOCTL)?;
        let node = self.node(ino)?;
        let _exclusive = node.lock.write();
        let unsupported;
        {
            let handle = self.journal.start(&mut token, 1)?;
            let mut core = node.core.write();
            if caller.uid != 0 && caller.uid != core.uid {
                return Err(Posix::Perm.into());
            }
            let old = core.flags;
            let guarded = flag::IMMUTABLE | flag::APPEND;
            if (old ^ flags) & guarded != 0 && caller.uid != 0 {
                return Err(Posix::Perm.into());
            }
            if flags & !(VISIBLE | IGNORED) != 0 || flags & SETTABLE & !allowed_on(&core) != 0 {
                return Err(Posix::OpNotSupp.into());
            }
            core.flags = (old & !CHANGEABLE) | (flags & CHANGEABLE);
            core.ctime = self.now();
            // The rest has been changed when this fails, as in the kernel.
            unsupported = (old ^ flags) & SETTABLE & !CHANGEABLE != 0;
            self.save(&handle, &node, &core)?;
        }
        if unsupported {
            return Err(Posix::OpNotSupp.into());
        }
        self.sync_if_asked(&node, false)
    }

    /// `FS_IOC_FSGETXATTR`.
    pub fn fs_xattr(&self, ino: InodeNumber) -> Result<FsXattr> {
        let _token = self.memory.request(need::GETATTR)?;
        let node = self.node(ino)?;
        let core = node.core.read();
        let set = XFLAGS
            .iter()
            .filter(|(_, inode_flag)| core.flags & inode_flag != 0);
        let flags = set.fold(0, |flags, (xflag, _)| flags | xflag);
        Ok(FsXattr {
            flags,
            project: core.projid,
        })
    }

    /// `FS_IOC_FSSETXATTR`; project ids need the project feature, which is mounted read-only.
    pub fn set_fs_xattr(&self, caller: Caller, ino: InodeNumber, set: FsXattr) -> Result<()> {
        let current = self.fs_xattr(ino)?;
        if set.project != current.project {
            return Err(Posix::OpNotSupp.into());
        }
        let known = XFLAGS.iter().fold(0, |all, (xflag, _)| all | xflag);
        if set.flags & !known != 0 {
            return Err(Posix::OpNotSupp.into());
        }
        let mut flags = self.flags(ino)?;
        for (xflag, inode_flag) in XFLAGS {
            flags &= !inode_flag;
            if set.flags & xflag != 0 {
                flags |= inode_flag;
            }
        }
        self.set_flags(caller, ino, flags)
    }

    /// `FS_IOC_GETVERSION`.
    pub fn version(&self, ino: InodeNumber) -> Result<u32> {
        let _token = self.memory.request(need::GETATTR)?;
        let node = self.node(ino)?;
        let generation = node.core.read().generation;
        Ok(generation)
    }
}

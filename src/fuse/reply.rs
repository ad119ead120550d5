//! What the operations of the adapter share: who asks, and the replies by kind.
//!
//! Source: fuser's `Request` and replies; the design's FUSE facts (what is cached).
//! Invariants: every error on its way out is reported to `fs`, which obeys `errors=`.

use crate::error::{Error, Result};
use crate::fs::{Attr, Caller, Fs, NewNode};
use crate::fuse::errno::errno;
use crate::fuse::{convert, ino};
use fuser::{
    Errno, FileAttr, INodeNo, OpenAccMode, OpenFlags, ReplyAttr, ReplyEmpty, ReplyEntry,
    ReplyXattr, Request,
};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

/// How long the kernel may believe what we told it.
pub(super) const FOREVER: Duration = Duration::from_secs(24 * 3600);

pub(super) struct Adapter {
    pub(super) fs: Arc<Fs>,
    pub(super) max_write: u32,
}

impl Adapter {
    pub(super) fn new(fs: Arc<Fs>, max_write: u32) -> Self {
        Self { fs, max_write }
    }

    /// Reports what failed and says it in errno.
    pub(super) fn fail(&self, error: &Error) -> Errno {
        self.fs.report(error);
        errno(error)
    }

    pub(super) fn entry(&self, reply: ReplyEntry, result: Result<Attr>) {
        match result {
            Ok(attr) => {
                let generation = convert::generation(&attr);
                reply.entry(&FOREVER, &convert::file_attr(&attr), generation);
            }
            Err(error) => reply.error(self.fail(&error)),
        }
    }

    pub(super) fn attr(&self, reply: ReplyAttr, result: Result<Attr>) {
        match result {
            Ok(attr) => reply.attr(&FOREVER, &convert::file_attr(&attr)),
            Err(error) => reply.error(self.fail(&error)),
        }
    }

    pub(super) fn empty(&self, reply: ReplyEmpty, result: Result<()>) {
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(self.fail(&error)),
        }
    }

    /// An attribute's value or its size, whichever was asked for.
    pub(super) fn xattr(&self, reply: ReplyXattr, size: u32, result: Result<Vec<u8>>) {
        match result {
            Ok(value) if size == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
            Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
            Ok(value) => reply.data(&value),
            Err(error) => reply.error(self.fail(&error)),
        }
    }

    pub(super) fn make(
        &self,
        request: &Request,
        (parent, name): (INodeNo, &OsStr),
        new: NewNode<'_>,
        umask: u32,
    ) -> Result<Attr> {
        let umask = (umask & 0o777) as u16;
        self.fs.create(
            caller(request),
            ino::from_fuse(parent),
            name.as_bytes(),
            new,
            umask,
        )
    }
}

/// As `Adapter::fail`, for a reply that may outlive the session.
pub(super) fn fail_weakly(fs: &Weak<Fs>, error: &Error) -> Errno {
    if let Some(fs) = fs.upgrade() {
        fs.report(error);
    }
    errno(error)
}

pub(super) fn caller(request: &Request) -> Caller {
    Caller {
        uid: request.uid(),
        gid: request.gid(),
        pid: request.pid(),
    }
}

pub(super) fn is_writer(flags: OpenFlags) -> bool {
    flags.acc_mode() != OpenAccMode::O_RDONLY
}

/// A name that is known not to exist.
pub(super) fn no_entry() -> FileAttr {
    let nothing = SystemTime::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: nothing,
        mtime: nothing,
        ctime: nothing,
        crtime: nothing,
        kind: fuser::FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

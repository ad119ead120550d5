//! What the operations of the adapter share: who asks, and the replies by kind.
//!
//! Source: fuser's `Request` and replies; the design's FUSE facts (what is cached).
//! Invariants: every error on its way out is reported to `fs`, which obeys `errors=`.

use crate::error::{Error, Result};
use crate::fs::{Attr, Caller, DirItem, Fs, NewNode};
use crate::fuse::errno::errno;
use crate::fuse::{convert, ino};
use crate::ids::InodeNumber;
use fuser::{
    Errno, FileAttr, Generation, INodeNo, OpenAccMode, OpenFlags, ReplyAttr, ReplyEmpty,
    ReplyEntry, ReplyXattr, Request,
};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::sync::Weak;
use std::time::{Duration, SystemTime};

/// How long the kernel may believe what we told it.
pub(super) const FOREVER: Duration = Duration::from_secs(24 * 3600);

/// Reports what failed and says it in errno.
pub(super) fn fail(fs: &Fs, error: &Error) -> Errno {
    fs.report(error);
    errno(error)
}

pub(super) fn entry(fs: &Fs, reply: ReplyEntry, result: Result<Attr>) {
    match result {
        Ok(attr) => {
            let generation = convert::generation(&attr);
            reply.entry(&FOREVER, &convert::file_attr(&attr), generation);
        }
        Err(error) => reply.error(fail(fs, &error)),
    }
}

pub(super) fn attr(fs: &Fs, reply: ReplyAttr, result: Result<Attr>) {
    match result {
        Ok(attr) => reply.attr(&FOREVER, &convert::file_attr(&attr)),
        Err(error) => reply.error(fail(fs, &error)),
    }
}

pub(super) fn empty(fs: &Fs, reply: ReplyEmpty, result: Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(fail(fs, &error)),
    }
}

/// An attribute's value or its size, whichever was asked for.
pub(super) fn xattr(fs: &Fs, reply: ReplyXattr, size: u32, result: Result<Vec<u8>>) {
    match result {
        Ok(value) if size == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(fail(fs, &error)),
    }
}

/// As `fail`, for a reply that may outlive the session.
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

/// Where something new is to be, and who wants it.
pub(super) struct Parent {
    caller: Caller,
    ino: InodeNumber,
    name: OsString,
    umask: u16,
}

impl Parent {
    pub(super) fn new(request: &Request, parent: INodeNo, name: &OsStr, umask: u32) -> Self {
        Self {
            caller: caller(request),
            ino: ino::from_fuse(parent),
            name: name.to_owned(),
            umask: (umask & 0o777) as u16,
        }
    }

    pub(super) fn make(&self, fs: &Fs, new: NewNode<'_>) -> Result<Attr> {
        fs.create(self.caller, self.ino, self.name.as_bytes(), new, self.umask)
    }
}

/// Of a name that comes without attributes the kernel learns the type alone.
pub(super) fn with_attributes(item: &DirItem<'_>) -> (FileAttr, Generation) {
    if let Some(attr) = &item.attr {
        return (convert::file_attr(attr), convert::generation(attr));
    }
    let is_dot = item.name == b"." || item.name == b"..";
    let ino = if is_dot {
        ino::to_fuse(item.ino)
    } else {
        INodeNo(0)
    };
    let kind = convert::kind(item.file_type);
    let attr = FileAttr {
        ino,
        kind,
        ..no_entry()
    };
    (attr, Generation(0))
}

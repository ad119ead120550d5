//! One short method an operation: convert, call `fs`, reply.
//!
//! Source: fuser's `Filesystem`; the design's FUSE facts (what is cached, what is not answered).
//! Invariants: names and attributes may be cached for ever, since nobody else changes them; FSYNC's reply is parked with the
//! transaction, so that no worker sleeps for a commit.

use crate::error::{Posix, Result};
use crate::file::{Fallocate, Whence};
use crate::fs::{Bytes, Fs, NewNode, RenameMode, SetAttr, WriteMode};
use crate::fuse::errno::errno;
use crate::fuse::reply::{
    FOREVER, Parent, attr, caller, empty, entry, fail, fail_weakly, is_writer, no_entry,
    with_attributes, xattr,
};
use crate::fuse::serve::{Adapter, Reading, Writing};
use crate::fuse::{convert, ino, ioctl, session};
use crate::xattr::SetMode;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        session::configure(config, &self.fs, self.max_write);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (parent, name) = (ino::from_fuse(parent), name.to_owned());
        let ask = move |fs: &Fs| fs.lookup(parent, name.as_bytes());
        self.ask(reply, ask, |fs, reply, result| match result {
            Err(error) if error.is_posix(Posix::NoEnt) => {
                reply.entry(&FOREVER, &no_entry(), Generation(0));
            }
            result => entry(fs, reply, result),
        });
    }

    fn forget(&self, _request: &Request, node: INodeNo, lookups: u64) {
        self.fs.forget(ino::from_fuse(node), lookups);
    }

    fn getattr(&self, _request: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let ino = ino::from_fuse(node);
        self.ask(reply, move |fs| fs.getattr(ino), attr);
    }

    fn setattr(
        &self,
        request: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr {
            mode: mode.map(|mode| (mode & 0o7777) as u16),
            uid,
            gid,
            size,
            atime: atime.map(convert::set_time),
            mtime: mtime.map(convert::set_time),
            ctime: ctime.map(convert::from_system_time),
        };
        let (caller, ino) = (caller(request), ino::from_fuse(node));
        self.serve(move |fs| attr(fs, reply, fs.setattr(caller, ino, &set)));
    }

    fn readlink(&self, _request: &Request, node: INodeNo, reply: ReplyData) {
        let ino = ino::from_fuse(node);
        let ask = move |fs: &Fs| fs.readlink(ino);
        self.ask(reply, ask, |fs, reply, result| match result {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(fail(fs, &error)),
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let mode = (mode & 0o17_7777) as u16;
        let new = match mode & 0o17_0000 {
            0 | 0o10_0000 => NewNode::File { mode },
            _ => NewNode::Special {
                mode,
                rdev: convert::decode_dev(rdev),
            },
        };
        let parent = Parent::new(request, parent, name, umask);
        self.serve(move |fs| entry(fs, reply, parent.make(fs, new)));
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let new = NewNode::Directory {
            mode: (mode & 0o7777) as u16,
        };
        let parent = Parent::new(request, parent, name, umask);
        self.serve(move |fs| entry(fs, reply, parent.make(fs, new)));
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (parent, name) = (ino::from_fuse(parent), name.to_owned());
        self.serve(move |fs| empty(fs, reply, fs.unlink(parent, name.as_bytes())));
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (parent, name) = (ino::from_fuse(parent), name.to_owned());
        self.serve(move |fs| empty(fs, reply, fs.rmdir(parent, name.as_bytes())));
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let parent = Parent::new(request, parent, name, 0);
        let target = target.to_owned();
        self.serve(move |fs| {
            let target = target.as_os_str().as_bytes();
            entry(fs, reply, parent.make(fs, NewNode::Symlink { target }));
        });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let no_replace = flags.contains(RenameFlags::RENAME_NOREPLACE);
        let mode = if flags.contains(RenameFlags::RENAME_EXCHANGE) {
            if flags != RenameFlags::RENAME_EXCHANGE {
                return reply.error(Errno::EINVAL);
            }
            RenameMode::Exchange
        } else if flags.contains(RenameFlags::RENAME_WHITEOUT) {
            RenameMode::Whiteout { no_replace }
        } else if no_replace {
            RenameMode::NoReplace
        } else {
            RenameMode::Replace
        };
        let from = (ino::from_fuse(parent), name.to_owned());
        let to = (ino::from_fuse(new_parent), new_name.to_owned());
        let caller = caller(request);
        self.serve(move |fs| {
            let (from, to) = ((from.0, from.1.as_bytes()), (to.0, to.1.as_bytes()));
            empty(fs, reply, fs.rename(caller, from, to, mode));
        });
    }

    fn link(
        &self,
        _request: &Request,
        node: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        let (node, parent) = (ino::from_fuse(node), ino::from_fuse(parent));
        let name = name.to_owned();
        self.serve(move |fs| entry(fs, reply, fs.link(node, parent, name.as_bytes())));
    }

    fn open(&self, _request: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let append = flags.0 & libc::O_APPEND != 0;
        let truncate = flags.0 & libc::O_TRUNC != 0;
        let (ino, write) = (ino::from_fuse(node), is_writer(flags));
        let ask = move |fs: &Fs| fs.open(ino, write, append, truncate);
        self.ask(reply, ask, |fs, reply, result| match result {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            Err(error) => reply.error(fail(fs, &error)),
        });
    }

    fn read(
        &self,
        _request: &Request,
        node: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let direct = flags.0 & libc::O_DIRECT != 0;
        let fs = Arc::downgrade(&self.fs);
        let answer = Box::new(move |result: Result<Bytes>| match result {
            Ok(bytes) => reply.data(bytes.as_slice()),
            Err(error) => reply.error(fail_weakly(&fs, &error)),
        });
        let read = Reading {
            ino: ino::from_fuse(node),
            offset,
            length: size as usize,
            direct,
        };
        self.read(read, answer);
    }

    fn write(
        &self,
        request: &Request,
        node: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let cached = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let how = WriteMode {
            keep_times: self.fs.kernel_keeps_times(),
            direct: !cached && flags.0 & libc::O_DIRECT != 0,
            kill_privileges: write_flags
                .contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID)
                .then(|| caller(request)),
        };
        let write = Writing {
            ino: ino::from_fuse(node),
            offset,
            how,
            // Of the kernel's cache nobody would learn which part was not taken; of a short O_DIRECT write it makes EIO
            // (FUSE_ASYNC_DIO).
            whole: cached || how.direct,
        };
        self.write(write, data, reply);
    }

    fn flush(
        &self,
        _request: &Request,
        _node: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // The kernel then stops asking.
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _request: &Request,
        node: INodeNo,
        _fh: FileHandle,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let (ino, write) = (ino::from_fuse(node), is_writer(flags));
        self.serve(move |fs| {
            fs.release(ino, write);
            reply.ok();
        });
    }

    fn fsync(
        &self,
        request: &Request,
        node: INodeNo,
        _fh: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        let done = Box::new(move |result: Result<()>| match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        });
        let (asker, ino) = (request.pid(), ino::from_fuse(node));
        self.serve(move |fs| fs.fsync(asker, ino, data_only, done));
    }

    fn opendir(&self, _request: &Request, _node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn readdir(
        &self,
        _request: &Request,
        node: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let ino = ino::from_fuse(node);
        self.serve(move |fs| {
            let listed = fs.readdir(ino, offset, false, &mut |item| {
                let name = OsStr::from_bytes(item.name);
                let kind = convert::kind(item.file_type);
                !reply.add(ino::to_fuse(item.ino), item.cookie, kind, name)
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(fail(fs, &error)),
            }
        });
    }

    fn readdirplus(
        &self,
        _request: &Request,
        node: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let ino = ino::from_fuse(node);
        self.serve(move |fs| {
            let listed = fs.readdir(ino, offset, true, &mut |item| {
                let (attr, generation) = with_attributes(item);
                let name = OsStr::from_bytes(item.name);
                !reply.add(attr.ino, item.cookie, name, &FOREVER, &attr, generation)
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(fail(fs, &error)),
            }
        });
    }

    fn fsyncdir(
        &self,
        request: &Request,
        node: INodeNo,
        fh: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.fsync(request, node, fh, data_only, reply);
    }

    fn statfs(&self, _request: &Request, _node: INodeNo, reply: ReplyStatfs) {
        let s = self.fs.statfs();
        let (bsize, namelen) = (s.block_size, s.name_max);
        reply.statfs(
            s.blocks,
            s.free,
            s.available,
            s.files,
            s.free_files,
            bsize,
            namelen,
            bsize,
        );
    }

    fn setxattr(
        &self,
        request: &Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let how = match flags & (libc::XATTR_CREATE | libc::XATTR_REPLACE) {
            0 => SetMode::Any,
            libc::XATTR_CREATE => SetMode::Create,
            libc::XATTR_REPLACE => SetMode::Replace,
            // It must exist and must not: an error either way.
            _ => match self.fs.getxattr(ino::from_fuse(node), name.as_bytes()) {
                Ok(_) => SetMode::Create,
                Err(_) => SetMode::Replace,
            },
        };
        let (ino, name) = (ino::from_fuse(node), name.as_bytes());
        let _serving = self.fs.serve(false);
        let set = self
            .fs
            .setxattr(caller(request), ino, name, Some(value), how);
        empty(&self.fs, reply, set);
    }

    fn getxattr(
        &self,
        _request: &Request,
        node: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let (ino, name) = (ino::from_fuse(node), name.to_owned());
        let ask = move |fs: &Fs| fs.getxattr(ino, name.as_bytes());
        self.ask(reply, ask, move |fs, reply, result| {
            xattr(fs, reply, size, result);
        });
    }

    fn listxattr(&self, request: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        let (caller, ino) = (caller(request), ino::from_fuse(node));
        let ask = move |fs: &Fs| fs.listxattr(caller, ino);
        self.ask(reply, ask, move |fs, reply, result| {
            xattr(fs, reply, size, result);
        });
    }

    fn removexattr(&self, request: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (ino, name) = (ino::from_fuse(node), name.to_owned());
        let caller = caller(request);
        self.serve(move |fs| {
            let removed = fs.setxattr(caller, ino, name.as_bytes(), None, SetMode::Replace);
            empty(fs, reply, removed);
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let new = NewNode::File {
            mode: (mode & 0o7777) as u16,
        };
        let parent = Parent::new(request, parent, name, umask);
        self.serve(move |fs| match parent.make(fs, new) {
            Ok(attr) => {
                fs.opened(attr.ino, is_writer(OpenFlags(flags)));
                let (generation, keep) = (convert::generation(&attr), FopenFlags::FOPEN_KEEP_CACHE);
                let attr = convert::file_attr(&attr);
                reply.created(&FOREVER, &attr, generation, FileHandle(0), keep);
            }
            Err(error) => reply.error(fail(fs, &error)),
        });
    }

    fn ioctl(
        &self,
        request: &Request,
        node: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        command: u32,
        input: &[u8],
        out_size: u32,
        reply: ReplyIoctl,
    ) {
        if command == ioctl::FITRIM {
            return ioctl::start_trim(&self.fs, caller(request), input.to_vec(), reply);
        }
        let (caller, ino) = (caller(request), ino::from_fuse(node));
        let input = input.to_vec();
        self.serve(
            move |fs| match ioctl::run(fs, caller, ino, command, &input, out_size) {
                Ok(output) => reply.ioctl(0, &output),
                Err(error) => reply.error(fail(fs, &error)),
            },
        );
    }

    fn fallocate(
        &self,
        request: &Request,
        node: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
        let what = match mode & !KEEP {
            0 => Fallocate::Allocate,
            libc::FALLOC_FL_PUNCH_HOLE if mode & KEEP != 0 => Fallocate::PunchHole,
            libc::FALLOC_FL_ZERO_RANGE => Fallocate::ZeroRange,
            _ => return reply.error(Errno::EOPNOTSUPP),
        };
        let (caller, ino) = (caller(request), ino::from_fuse(node));
        let keep_size = mode & KEEP != 0;
        self.serve(move |fs| {
            let done = fs.fallocate(caller, ino, what, offset, length, keep_size);
            empty(fs, reply, done);
        });
    }

    fn lseek(
        &self,
        _request: &Request,
        node: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let whence = match whence {
            libc::SEEK_DATA => Whence::Data,
            libc::SEEK_HOLE => Whence::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else {
            return reply.error(Errno::ENXIO);
        };
        let ino = ino::from_fuse(node);
        self.serve(move |fs| match fs.seek(ino, offset, whence) {
            Ok(found) => reply.offset(i64::try_from(found).unwrap_or(i64::MAX)),
            Err(error) => reply.error(fail(fs, &error)),
        });
    }

    // Not offered; the kernel copies through its page cache. fuser's own answer would warn.
    fn copy_file_range(
        &self,
        _request: &Request,
        _node_in: INodeNo,
        _fh_in: FileHandle,
        _offset_in: u64,
        _node_out: INodeNo,
        _fh_out: FileHandle,
        _offset_out: u64,
        _length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::ENOSYS);
    }

    // Files are always ready.
    fn poll(
        &self,
        _request: &Request,
        _node: INodeNo,
        _fh: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }
}

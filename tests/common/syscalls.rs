//! Single system calls on a tree, as data: one call can be made on two trees and its results compared.

use rustix::fs::{self as sys, AtFlags, CWD, FallocateFlags, FileType, IFlags, Mode, OFlags};
use rustix::fs::{RenameFlags, SeekFrom, Timespec, Timestamps, XattrFlags};
use rustix::io::{self, Errno};
use rustix::process::{Gid, Uid};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Open files of one side.
pub const SLOTS: usize = 6;

#[derive(Clone, Debug)]
pub enum Call {
    Open {
        slot: usize,
        path: String,
        flags: OFlags,
        mode: u32,
    },
    Close {
        slot: usize,
    },
    Mknod {
        path: String,
        kind: FileType,
        mode: u32,
        dev: u64,
    },
    Mkdir {
        path: String,
        mode: u32,
    },
    Rename {
        from: String,
        to: String,
        flags: u32,
    },
    Link {
        from: String,
        to: String,
        follow: bool,
    },
    Symlink {
        target: String,
        path: String,
    },
    Unlink {
        path: String,
    },
    Rmdir {
        path: String,
    },
    Chmod {
        path: String,
        mode: u32,
    },
    Chown {
        path: String,
        uid: Option<u32>,
        gid: Option<u32>,
        follow: bool,
    },
    Utimens {
        path: String,
        atime: (i64, i64),
        mtime: (i64, i64),
        follow: bool,
    },
    Truncate {
        path: String,
        size: u64,
    },
    Ftruncate {
        slot: usize,
        size: u64,
    },
    Pread {
        slot: usize,
        offset: u64,
        len: usize,
    },
    Pwrite {
        slot: usize,
        offset: u64,
        len: usize,
        byte: u8,
    },
    /// At the file's position, or its end where it was opened with O_APPEND.
    Write {
        slot: usize,
        len: usize,
        byte: u8,
    },
    Copy {
        from: usize,
        to: usize,
        offset: u64,
        len: usize,
    },
    Fallocate {
        slot: usize,
        mode: u32,
        offset: u64,
        len: u64,
    },
    Seek {
        slot: usize,
        offset: u64,
        hole: bool,
    },
    Fsync {
        slot: usize,
    },
    Setxattr {
        path: String,
        name: String,
        flags: u32,
        value: Vec<u8>,
    },
    Getxattr {
        path: String,
        name: String,
        room: usize,
    },
    Removexattr {
        path: String,
        name: String,
    },
    Listxattr {
        path: String,
    },
    Getflags {
        path: String,
    },
    Setflags {
        path: String,
        set: u32,
        clear: u32,
    },
    Stat {
        path: String,
    },
    Fstat {
        slot: usize,
    },
    Access {
        path: String,
        mode: u32,
    },
    Readlink {
        path: String,
    },
    Readdir {
        path: String,
    },
    Statfs,
}

/// Who makes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct As {
    pub uid: u32,
    pub gid: u32,
    pub umask: u32,
}

pub struct Side {
    root: PathBuf,
    files: [Option<OwnedFd>; SLOTS],
}

impl Side {
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
            files: Default::default(),
        }
    }

    pub fn close_all(&mut self) {
        self.files = Default::default();
    }

    /// Makes the call as somebody; what it says, in words.
    pub fn make(&mut self, who: As, call: &Call) -> String {
        rustix::process::umask(Mode::from_raw_mode(who.umask));
        let result = if who.uid == 0 {
            self.run(call)
        } else {
            std::thread::scope(|scope| {
                let side = &mut *self;
                let thread = scope.spawn(move || {
                    become_user(who).expect("another user's ids");
                    side.run(call)
                });
                thread.join().expect("the call returns")
            })
        };
        rustix::process::umask(Mode::from_raw_mode(0o022));
        result.unwrap_or_else(|errno| errno.to_string())
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn file(&self, slot: usize) -> io::Result<&OwnedFd> {
        self.files[slot].as_ref().ok_or(Errno::BADF)
    }

    fn run(&mut self, call: &Call) -> io::Result<String> {
        match call {
            Call::Open {
                slot,
                path,
                flags,
                mode,
            } => {
                self.files[*slot] = None;
                let mode = Mode::from_raw_mode(*mode);
                self.files[*slot] = Some(sys::openat(CWD, self.at(path), *flags, mode)?);
                self.fstat(*slot)
            }
            Call::Close { slot } => {
                self.files[*slot] = None;
                done()
            }
            Call::Pread { .. }
            | Call::Pwrite { .. }
            | Call::Write { .. }
            | Call::Copy { .. }
            | Call::Fallocate { .. }
            | Call::Ftruncate { .. }
            | Call::Seek { .. }
            | Call::Fsync { .. }
            | Call::Fstat { .. } => self.on_file(call),
            Call::Setxattr { .. }
            | Call::Getxattr { .. }
            | Call::Removexattr { .. }
            | Call::Listxattr { .. } => self.on_xattr(call),
            Call::Mknod { .. }
            | Call::Mkdir { .. }
            | Call::Rename { .. }
            | Call::Link { .. }
            | Call::Symlink { .. }
            | Call::Unlink { .. }
            | Call::Rmdir { .. } => self.on_names(call),
            _ => self.on_inode(call),
        }
    }

    fn on_names(&self, call: &Call) -> io::Result<String> {
        match call {
            Call::Mknod {
                path,
                kind,
                mode,
                dev,
            } => {
                sys::mknodat(CWD, self.at(path), *kind, Mode::from_raw_mode(*mode), *dev)?;
            }
            Call::Mkdir { path, mode } => {
                sys::mkdirat(CWD, self.at(path), Mode::from_raw_mode(*mode))?;
            }
            Call::Rename { from, to, flags } => {
                let flags = RenameFlags::from_bits_retain(*flags);
                sys::renameat_with(CWD, self.at(from), CWD, self.at(to), flags)?;
            }
            Call::Link { from, to, follow } => {
                let flags = if *follow {
                    AtFlags::SYMLINK_FOLLOW
                } else {
                    AtFlags::empty()
                };
                sys::linkat(CWD, self.at(from), CWD, self.at(to), flags)?;
            }
            Call::Symlink { target, path } => sys::symlinkat(target, CWD, self.at(path))?,
            Call::Unlink { path } => sys::unlinkat(CWD, self.at(path), AtFlags::empty())?,
            Call::Rmdir { path } => sys::unlinkat(CWD, self.at(path), AtFlags::REMOVEDIR)?,
            _ => unreachable!("not a call on names"),
        }
        done()
    }

    fn on_file(&self, call: &Call) -> io::Result<String> {
        match call {
            Call::Pread { slot, offset, len } => {
                let mut bytes = vec![0; *len];
                let got = io::pread(self.file(*slot)?, &mut bytes[..], *offset)?;
                return Ok(format!("{got} bytes, {:016x}", hash(&bytes[..got])));
            }
            Call::Pwrite {
                slot,
                offset,
                len,
                byte,
            } => {
                let wrote = io::pwrite(self.file(*slot)?, &pattern(*byte, *len), *offset)?;
                return Ok(format!("{wrote} bytes, {}", self.fstat(*slot)?));
            }
            Call::Write { slot, len, byte } => {
                let wrote = io::write(self.file(*slot)?, &pattern(*byte, *len))?;
                let position = sys::seek(self.file(*slot)?, SeekFrom::Current(0))?;
                return Ok(format!(
                    "{wrote} bytes to {position}, {}",
                    self.fstat(*slot)?
                ));
            }
            Call::Copy {
                from,
                to,
                offset,
                len,
            } => {
                let (mut read, mut write) = (*offset, *offset / 2);
                let (from, to) = (self.file(*from)?, self.file(*to)?);
                let got = sys::copy_file_range(from, Some(&mut read), to, Some(&mut write), *len)?;
                return Ok(format!("{got} bytes"));
            }
            Call::Fallocate {
                slot,
                mode,
                offset,
                len,
            } => {
                let mode = FallocateFlags::from_bits_retain(*mode);
                sys::fallocate(self.file(*slot)?, mode, *offset, *len)?;
                return self.fstat(*slot);
            }
            Call::Ftruncate { slot, size } => {
                sys::ftruncate(self.file(*slot)?, *size)?;
                return self.fstat(*slot);
            }
            Call::Seek { slot, offset, hole } => return self.seek(*slot, *offset, *hole),
            Call::Fsync { slot } => sys::fsync(self.file(*slot)?)?,
            Call::Fstat { slot } => return self.fstat(*slot),
            _ => unreachable!("not a call on an open file"),
        }
        done()
    }

    /// Where data lies is the file system's business; that it is all found is not.
    fn seek(&self, slot: usize, offset: u64, hole: bool) -> io::Result<String> {
        let file = self.file(slot)?;
        let stat = sys::fstat(file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return done();
        }
        let size = stat.st_size as u64;
        sys::seek(file, SeekFrom::Start(0))?;
        if hole {
            let at = sys::seek(file, SeekFrom::Hole(offset))?;
            let fits = at >= offset && at <= size;
            sys::seek(file, SeekFrom::Start(0))?;
            return Ok(format!("a hole inside: {fits}"));
        }
        let found = sys::seek(file, SeekFrom::Data(offset));
        sys::seek(file, SeekFrom::Start(0))?;
        let at = match found {
            Err(Errno::NXIO) if offset < size => size,
            found => found?,
        };
        let mut skipped = vec![1; at.min(offset + (1 << 20)).saturating_sub(offset) as usize];
        match io::pread(file, &mut skipped[..], offset) {
            Err(Errno::BADF) => done(),
            got => {
                let zeros = skipped[..got?].iter().all(|byte| *byte == 0);
                Ok(format!("zeros before the data: {zeros}"))
            }
        }
    }

    fn on_xattr(&self, call: &Call) -> io::Result<String> {
        match call {
            Call::Setxattr {
                path,
                name,
                value,
                flags,
            } => {
                let flags = XattrFlags::from_bits_retain(*flags);
                sys::lsetxattr(self.at(path), name, value, flags)?;
                self.stat(path)
            }
            Call::Getxattr { path, name, room } => {
                let mut value = vec![0; *room];
                let len = sys::lgetxattr(self.at(path), name, &mut value[..])?;
                value.truncate(len);
                Ok(format!("{len} bytes, {:016x}", hash(&value)))
            }
            Call::Removexattr { path, name } => {
                sys::lremovexattr(self.at(path), name)?;
                self.stat(path)
            }
            Call::Listxattr { path } => {
                let mut names = vec![0; 65536];
                let len = sys::llistxattr(self.at(path), &mut names[..])?;
                let text = String::from_utf8_lossy(&names[..len]).into_owned();
                let mut names: Vec<&str> = text.split_terminator('\0').collect();
                names.sort_unstable();
                Ok(names.join(" "))
            }
            _ => unreachable!("not a call on attributes"),
        }
    }

    fn on_inode(&self, call: &Call) -> io::Result<String> {
        match call {
            Call::Chmod { path, mode } => {
                let mode = Mode::from_raw_mode(*mode);
                sys::chmodat(CWD, self.at(path), mode, AtFlags::empty())?;
                self.stat(path)
            }
            Call::Chown {
                path,
                uid,
                gid,
                follow,
            } => {
                let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
                sys::chownat(CWD, self.at(path), uid, gid, at_flags(*follow))?;
                self.stat(path)
            }
            Call::Utimens {
                path,
                atime,
                mtime,
                follow,
            } => self.utimens(path, *atime, *mtime, at_flags(*follow)),
            Call::Truncate { path, size } => {
                let flags = OFlags::WRONLY | OFlags::NONBLOCK;
                let file = sys::openat(CWD, self.at(path), flags, Mode::empty())?;
                sys::ftruncate(&file, *size)?;
                self.stat(path)
            }
            Call::Getflags { path } => Ok(format!(
                "{:x}",
                sys::ioctl_getflags(self.node(path)?)?.bits()
            )),
            Call::Setflags { path, set, clear } => {
                let node = self.node(path)?;
                let flags = sys::ioctl_getflags(&node)?.bits() & !clear | set;
                sys::ioctl_setflags(&node, IFlags::from_bits_retain(flags))?;
                Ok(format!("{:x}", sys::ioctl_getflags(&node)?.bits()))
            }
            Call::Stat { path } => self.stat(path),
            Call::Access { path, mode } => {
                let mode = sys::Access::from_bits_retain(*mode);
                sys::accessat(CWD, self.at(path), mode, AtFlags::empty())?;
                done()
            }
            Call::Readlink { path } => {
                let target = sys::readlinkat(CWD, self.at(path), Vec::new())?;
                Ok(target.to_string_lossy().into_owned())
            }
            Call::Readdir { path } => self.readdir(path),
            Call::Statfs => {
                let all = sys::statvfs(&self.root)?;
                let (blocks, size) = (all.f_blocks, all.f_bsize);
                Ok(format!(
                    "{blocks} of {size}, {} inodes, {}",
                    all.f_files, all.f_namemax
                ))
            }
            _ => unreachable!("not a call on an inode"),
        }
    }

    fn utimens(
        &self,
        path: &str,
        atime: (i64, i64),
        mtime: (i64, i64),
        flags: AtFlags,
    ) -> io::Result<String> {
        let time = |(tv_sec, tv_nsec)| Timespec { tv_sec, tv_nsec };
        let times = Timestamps {
            last_access: time(atime),
            last_modification: time(mtime),
        };
        sys::utimensat(CWD, self.at(path), &times, flags)?;
        let stat = sys::statat(CWD, self.at(path), flags)?;
        // UTIME_NOW and UTIME_OMIT leave what the clock said.
        let shown = |given: (i64, i64), seconds: i64, nanoseconds: u64| {
            if given.1 < 1_000_000_000 {
                format!("{seconds}.{nanoseconds:09}")
            } else {
                "some time".to_string()
            }
        };
        Ok(format!(
            "atime {} mtime {}",
            shown(atime, stat.st_atime, stat.st_atime_nsec),
            shown(mtime, stat.st_mtime, stat.st_mtime_nsec)
        ))
    }

    fn node(&self, path: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW;
        sys::openat(CWD, self.at(path), flags, Mode::empty())
    }

    fn readdir(&self, path: &str) -> io::Result<String> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let dir = sys::openat(CWD, self.at(path), flags, Mode::empty())?;
        let mut names = Vec::new();
        for entry in sys::Dir::read_from(&dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            names.push(format!("{name} {:?}", entry.file_type()));
        }
        names.sort_unstable();
        Ok(names.join(", "))
    }

    pub fn stat(&self, path: &str) -> io::Result<String> {
        sys::statat(CWD, self.at(path), AtFlags::SYMLINK_NOFOLLOW).map(|stat| describe(&stat))
    }

    fn fstat(&self, slot: usize) -> io::Result<String> {
        sys::fstat(self.file(slot)?).map(|stat| describe(&stat))
    }
}

fn done() -> io::Result<String> {
    Ok("done".to_string())
}

fn at_flags(follow: bool) -> AtFlags {
    if follow {
        AtFlags::empty()
    } else {
        AtFlags::SYMLINK_NOFOLLOW
    }
}

/// This thread alone; its capabilities go with uid 0.
fn become_user(who: As) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(who.uid), Gid::from_raw(who.gid));
    rustix::thread::set_thread_groups(&[gid])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

/// Of a directory's size nothing is promised.
fn describe(stat: &sys::Stat) -> String {
    let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let size = if is_dir { 0 } else { stat.st_size };
    let (mode, owner) = (stat.st_mode, (stat.st_uid, stat.st_gid));
    format!(
        "{mode:o} {owner:?} nlink {} size {size} rdev {:x}",
        stat.st_nlink, stat.st_rdev
    )
}

fn pattern(byte: u8, len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| byte.wrapping_add((at / 7) as u8))
        .collect()
}

/// FNV-1a.
pub fn hash(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

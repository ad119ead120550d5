//! The ioctls that reach a FUSE daemon: inode flags and extended attributes of files.
//!
//! Source: Linux ioctl_iflags(2), `linux/fs.h`.
//! Invariants: an unknown command is ENOTTY; a short argument is EINVAL.

use crate::error::{Posix, Result};
use crate::fs::{Caller, Fs, FsXattr};
use crate::fuse::reply::fail_weakly;
use crate::ids::InodeNumber;
use fuser::ReplyIoctl;
use std::sync::Arc;

const GETFLAGS: u32 = 0x8008_6601;
const SETFLAGS: u32 = 0x4008_6602;
const GETVERSION: u32 = 0x8008_7601;
/// The same for 32-bit callers.
const GETFLAGS32: u32 = 0x8004_6601;
const SETFLAGS32: u32 = 0x4004_6602;
const GETVERSION32: u32 = 0x8004_7601;
/// `struct fstrim_range`: start, len, minlen; len comes back.
pub(super) const FITRIM: u32 = 0xc018_5879;
const FSGETXATTR: u32 = 0x801c_581f;
const FSSETXATTR: u32 = 0x401c_5820;
/// `struct fsxattr`: xflags, extsize, nextents, projid, cowextsize, padding.
const FSXATTR_SIZE: usize = 28;

/// Runs the command; returns its output.
pub(super) fn run(
    fs: &Fs,
    caller: Caller,
    ino: InodeNumber,
    command: u32,
    input: &[u8],
    out_size: u32,
) -> Result<Vec<u8>> {
    match command {
        GETFLAGS | GETFLAGS32 => Ok(word(fs.flags(ino)?, out_size)),
        GETVERSION | GETVERSION32 => Ok(word(fs.version(ino)?, out_size)),
        SETFLAGS | SETFLAGS32 => {
            fs.set_flags(caller, ino, word_at(input, 0)?)?;
            Ok(Vec::new())
        }
        FSGETXATTR => {
            let FsXattr { flags, project } = fs.fs_xattr(ino)?;
            let mut out = vec![0; FSXATTR_SIZE];
            out[..4].copy_from_slice(&flags.to_ne_bytes());
            out[12..16].copy_from_slice(&project.to_ne_bytes());
            Ok(out)
        }
        FSSETXATTR => {
            let set = FsXattr {
                flags: word_at(input, 0)?,
                project: word_at(input, 12)?,
            };
            fs.set_fs_xattr(caller, ino, set)?;
            Ok(Vec::new())
        }
        _ => Err(Posix::NoTty.into()),
    }
}

/// FITRIM, on a thread of its own: it may take long.
pub(super) fn start_trim(fs: &Arc<Fs>, caller: Caller, input: Vec<u8>, reply: ReplyIoctl) {
    let fs = Arc::clone(fs);
    let run = move || match trim(&fs, caller, &input) {
        Ok(output) => reply.ioctl(0, &output),
        Err(error) => reply.error(fail_weakly(&Arc::downgrade(&fs), &error)),
    };
    // A reply that is dropped answers EIO.
    if let Err(error) = std::thread::Builder::new().name("trim".into()).spawn(run) {
        log::warn!("no thread to trim: {error}");
    }
}

fn trim(fs: &Fs, caller: Caller, input: &[u8]) -> Result<Vec<u8>> {
    let long = |index: usize| {
        let bytes = input.get(index * 8..).and_then(|rest| rest.first_chunk());
        bytes
            .map(|bytes| u64::from_ne_bytes(*bytes))
            .ok_or(Posix::Inval)
    };
    let (start, len, least) = (long(0)?, long(1)?, long(2)?);
    let trimmed = fs.trim(caller, start, len, least)?;
    Ok([start, trimmed, least].map(u64::to_ne_bytes).concat())
}

fn word(value: u32, out_size: u32) -> Vec<u8> {
    let mut out = u64::from(value).to_ne_bytes().to_vec();
    out.truncate(out_size.clamp(4, 8) as usize);
    out
}

fn word_at(input: &[u8], at: usize) -> Result<u32> {
    let bytes = input
        .get(at..)
        .and_then(|rest| rest.first_chunk::<4>())
        .ok_or(Posix::Inval)?;
    Ok(u32::from_ne_bytes(*bytes))
}

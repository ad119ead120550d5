//! Our types to FUSE's and back: attributes, times, device numbers, modes.
//!
//! Source: FUSE's `fuse_attr`; the kernel's `new_encode_dev`.
//! Invariants: times before 1970 survive: fuser 0.18 counts their nanoseconds backwards, and `from_system_time` undoes that.

use crate::dir::FileType;
use crate::format::inode::mode;
use crate::format::time::Timestamp;
use crate::fs::{Attr, SetTime};
use crate::fuse::ino;
use fuser::{FileAttr, Generation, TimeOrNow};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    let (major, minor) = attr.rdev;
    FileAttr {
        ino: ino::to_fuse(attr.ino),
        size: attr.size,
        blocks: attr.blocks,
        atime: to_system_time(attr.atime),
        mtime: to_system_time(attr.mtime),
        ctime: to_system_time(attr.ctime),
        crtime: to_system_time(attr.crtime.unwrap_or_default()),
        kind: kind(FileType::of_mode(attr.mode)),
        perm: attr.mode & mode::PERM,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: encode_dev(major, minor),
        blksize: attr.block_size,
        flags: 0,
    }
}

pub(super) fn generation(attr: &Attr) -> Generation {
    Generation(u64::from(attr.generation))
}

pub(super) fn kind(file_type: FileType) -> fuser::FileType {
    match file_type {
        FileType::Directory => fuser::FileType::Directory,
        FileType::Symlink => fuser::FileType::Symlink,
        FileType::CharDevice => fuser::FileType::CharDevice,
        FileType::BlockDevice => fuser::FileType::BlockDevice,
        FileType::Fifo => fuser::FileType::NamedPipe,
        FileType::Socket => fuser::FileType::Socket,
        FileType::Regular | FileType::Unknown => fuser::FileType::RegularFile,
    }
}

fn to_system_time(time: Timestamp) -> SystemTime {
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let base = if time.seconds < 0 {
        UNIX_EPOCH.checked_sub(whole)
    } else {
        UNIX_EPOCH.checked_add(whole)
    };
    let fraction = Duration::from_nanos(u64::from(time.nanoseconds));
    base.and_then(|base| base.checked_add(fraction))
        .unwrap_or(UNIX_EPOCH)
}

/// A time that fuser made from the kernel's seconds and nanoseconds: before 1970 it subtracts both.
pub(super) fn from_system_time(time: SystemTime) -> Timestamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => Timestamp {
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: since.subsec_nanos(),
        },
        Err(before) => Timestamp {
            seconds: i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |s| -s),
            nanoseconds: before.duration().subsec_nanos(),
        },
    }
}

pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(from_system_time(time)),
    }
}

fn encode_dev(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

pub(super) fn decode_dev(dev: u32) -> (u32, u32) {
    (
        (dev & 0xf_ff00) >> 8,
        (dev & 0xff) | ((dev >> 12) & 0xf_ff00),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive() {
        for (major, minor) in [(0, 0), (8, 1), (259, 70_000), (4095, 0xf_ffff)] {
            assert_eq!(decode_dev(encode_dev(major, minor)), (major, minor));
        }
    }

    #[test]
    fn times_before_1970_come_as_the_kernel_sent_them() {
        // The kernel's -2 s and 0.25 s, as fuser 0.18 turns them into a SystemTime.
        let sent = UNIX_EPOCH - Duration::new(2, 250_000_000);
        let expected = Timestamp {
            seconds: -2,
            nanoseconds: 250_000_000,
        };
        assert_eq!(from_system_time(sent), expected);
        // On the way out fuser counts rightly.
        assert_eq!(
            to_system_time(expected),
            UNIX_EPOCH - Duration::new(1, 750_000_000)
        );
    }
}

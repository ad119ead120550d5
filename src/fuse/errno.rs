//! Errors to errno numbers: the only place where the two meet.
//!
//! Source: POSIX and the kernel's practice (EUCLEAN for corruption, EBADMSG for a wrong checksum).
//! Invariants: the match is exhaustive, so a new error cannot be forgotten.

use crate::error::{CorruptKind, Error, Posix};
use fuser::Errno;

pub(super) fn errno(error: &Error) -> Errno {
    match error {
        Error::Io(io) => io_errno(io.source.raw_os_error()),
        Error::Corrupt {
            kind: CorruptKind::Checksum { .. },
            ..
        } => Errno::from_i32(libc::EBADMSG),
        Error::Corrupt { .. } => Errno::from_i32(libc::EUCLEAN),
        Error::Incompatible(_) => Errno::EOPNOTSUPP,
        Error::Aborted => Errno::EROFS,
        Error::Posix(posix) => posix_errno(*posix),
    }
}

/// A full or broken device is what the caller should see; anything else is an I/O error.
fn io_errno(raw: Option<i32>) -> Errno {
    match raw {
        Some(libc::ENOSPC) => Errno::ENOSPC,
        Some(libc::ENOMEM) => Errno::ENOMEM,
        _ => Errno::EIO,
    }
}

fn posix_errno(posix: Posix) -> Errno {
    match posix {
        Posix::NoEnt => Errno::ENOENT,
        Posix::Exist => Errno::EEXIST,
        Posix::NotDir => Errno::ENOTDIR,
        Posix::IsDir => Errno::EISDIR,
        Posix::NotEmpty => Errno::ENOTEMPTY,
        Posix::NoSpc => Errno::ENOSPC,
        Posix::NameTooLong => Errno::ENAMETOOLONG,
        Posix::MLink => Errno::EMLINK,
        Posix::Perm => Errno::EPERM,
        Posix::Access => Errno::EACCES,
        Posix::Inval => Errno::EINVAL,
        Posix::NoData => Errno::from_i32(libc::ENODATA),
        Posix::Range => Errno::ERANGE,
        Posix::FBig => Errno::EFBIG,
        Posix::OpNotSupp => Errno::EOPNOTSUPP,
        Posix::NoTty => Errno::ENOTTY,
        Posix::RoFs => Errno::EROFS,
        Posix::Busy => Errno::EBUSY,
        Posix::NoMem => Errno::ENOMEM,
        Posix::TooBig => Errno::E2BIG,
        Posix::Nxio => Errno::ENXIO,
        Posix::Stale => Errno::from_i32(libc::ESTALE),
        Posix::Again => Errno::EAGAIN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Location, Structure};

    #[test]
    fn corruption_is_told_from_a_wrong_checksum() {
        let what = Structure::Inode;
        let at = Location::default();
        let checksum = CorruptKind::Checksum {
            what,
            found: 1,
            expected: 2,
        };
        let short = CorruptKind::Short { what };
        assert_eq!(errno(&Error::corrupt(checksum, at)).code(), libc::EBADMSG);
        assert_eq!(errno(&Error::corrupt(short, at)).code(), libc::EUCLEAN);
        assert_eq!(errno(&Error::Aborted).code(), libc::EROFS);
    }
}

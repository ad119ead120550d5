//! What can go wrong, by kind: I/O, a corrupt image, an image that is not for us, an aborted
//! journal, and the plain outcomes of POSIX calls.
//!
//! Source: POSIX for the outcomes; the kernel's practice for what counts as corruption.
//! Invariants: corruption always carries where it was found; no errno here (that is `fuse/errno.rs`).

use crate::ids::{FsBlock, GroupIndex, InodeNumber};
use std::fmt;
use std::sync::Arc;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Io(IoError),
    #[error("{kind} ({at})")]
    Corrupt { kind: CorruptKind, at: Location },
    #[error("{0}")]
    Incompatible(Incompatible),
    /// The journal has been aborted, or the file system went read-only after an error.
    #[error("the journal is aborted after an earlier error")]
    Aborted,
    #[error("{0}")]
    Posix(Posix),
}

/// A failed device operation.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{operation} of {length} bytes at byte {offset}: {source}")]
pub struct IoError {
    pub operation: &'static str,
    pub offset: u64,
    pub length: u64,
    pub source: Arc<std::io::Error>,
}

/// Where a corruption was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Location {
    pub inode: Option<InodeNumber>,
    pub group: Option<GroupIndex>,
    pub block: Option<FsBlock>,
    /// A byte offset in that block or structure.
    pub offset: Option<u64>,
}

impl Location {
    pub fn inode(ino: InodeNumber) -> Self {
        Self {
            inode: Some(ino),
            ..Self::default()
        }
    }
    pub fn group(group: GroupIndex) -> Self {
        Self {
            group: Some(group),
            ..Self::default()
        }
    }
    pub fn block(block: FsBlock) -> Self {
        Self {
            block: Some(block),
            ..Self::default()
        }
    }
    pub fn with_block(self, block: FsBlock) -> Self {
        Self {
            block: Some(block),
            ..self
        }
    }
    pub fn with_inode(self, ino: InodeNumber) -> Self {
        Self {
            inode: Some(ino),
            ..self
        }
    }
    pub fn with_offset(self, offset: u64) -> Self {
        Self {
            offset: Some(offset),
            ..self
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        let parts = [
            ("inode", self.inode.map(|i| u64::from(i.get()))),
            ("group", self.group.map(|g| u64::from(g.get()))),
            ("block", self.block.map(FsBlock::get)),
            ("offset", self.offset),
        ];
        for (name, value) in parts {
            if let Some(value) = value {
                write!(f, "{separator}{name} {value}")?;
                separator = ", ";
            }
        }
        if separator.is_empty() {
            f.write_str("superblock")
        } else {
            Ok(())
        }
    }
}

/// What is wrong with a structure. `found`/`expected` are the numbers a person compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CorruptKind {
    #[error("{what}: checksum is {found:#010x}, expected {expected:#010x}")]
    Checksum {
        what: Structure,
        found: u32,
        expected: u32,
    },
    #[error("{what}: magic number is {found:#x}, expected {expected:#x}")]
    Magic {
        what: Structure,
        found: u32,
        expected: u32,
    },
    #[error("{what}: {field} is {found}, which is out of range")]
    Field {
        what: Structure,
        field: &'static str,
        found: u64,
    },
    #[error("{what}: {field} is {found}, expected {expected}")]
    Mismatch {
        what: Structure,
        field: &'static str,
        found: u64,
        expected: u64,
    },
    #[error("{what} is cut short")]
    Short { what: Structure },
    #[error("{what} points to block {block}, outside the file system or inside its metadata")]
    BlockRange { what: Structure, block: u64 },
    #[error("{what} is nested too deep or in a loop")]
    Depth { what: Structure },
    #[error("{what}: blocks of the group are claimed twice or never")]
    Ownership { what: Structure },
}

impl CorruptKind {
    pub fn is_checksum(&self) -> bool {
        matches!(self, Self::Checksum { .. })
    }
}

/// The structure that a corruption was found in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Structure {
    #[error("superblock")]
    Superblock,
    #[error("group descriptor")]
    GroupDescriptor,
    #[error("block bitmap")]
    BlockBitmap,
    #[error("inode bitmap")]
    InodeBitmap,
    #[error("inode")]
    Inode,
    #[error("extent tree node")]
    ExtentNode,
    #[error("indirect block")]
    IndirectBlock,
    #[error("directory block")]
    DirectoryBlock,
    #[error("directory index")]
    DirectoryIndex,
    #[error("symbolic link")]
    Symlink,
    #[error("extended attribute block")]
    XattrBlock,
    #[error("extended attributes in the inode")]
    XattrInode,
    #[error("inline data")]
    InlineData,
    #[error("access control list")]
    Acl,
    #[error("orphan list")]
    OrphanList,
    #[error("orphan file")]
    OrphanFile,
    #[error("journal superblock")]
    JournalSuperblock,
    #[error("journal descriptor block")]
    JournalDescriptor,
    #[error("journal data block")]
    JournalData,
    #[error("journal revoke block")]
    JournalRevoke,
    #[error("journal commit block")]
    JournalCommit,
    #[error("journal inode")]
    JournalInode,
    #[error("multi-mount protection block")]
    Mmp,
}

/// An image that is valid but not for us, or not this way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Incompatible {
    #[error("not an ext4 file system (no magic number 0xef53 at byte 1080)")]
    NotExt4,
    #[error("unknown incompatible features {0:#x}: a newer uext4 may know them")]
    UnknownIncompat(u32),
    #[error("feature {0} is not supported")]
    Feature(&'static str),
    #[error(
        "the file system has {blocks} blocks of {block_size} bytes, the device only {device} bytes: the image is truncated"
    )]
    Truncated {
        blocks: u64,
        block_size: u32,
        device: u64,
    },
    #[error(
        "blocks of {block_size} bytes are smaller than the device's sectors of {sector_size} bytes: mount it read-only"
    )]
    SectorSize { block_size: u32, sector_size: u32 },
    #[error("the journal holds fast commits that must be replayed first: run e2fsck")]
    FastCommit,
    #[error("the journal is on another device, which is not supported")]
    ExternalJournal,
    #[error("the file system is in use (MMP): {0}")]
    Mmp(String),
    #[error("unknown journal features {0:#x}")]
    UnknownJournal(u32),
    #[error("{cap} bytes of memory are too few, {floor} are needed")]
    Memory { cap: u64, floor: u64 },
}

/// Plain outcomes of POSIX calls, named as their errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Posix {
    #[error("no such file or directory")]
    NoEnt,
    #[error("file exists")]
    Exist,
    #[error("not a directory")]
    NotDir,
    #[error("is a directory")]
    IsDir,
    #[error("directory not empty")]
    NotEmpty,
    #[error("no space left")]
    NoSpc,
    #[error("file name too long")]
    NameTooLong,
    #[error("too many links")]
    MLink,
    #[error("operation not permitted")]
    Perm,
    #[error("permission denied")]
    Access,
    #[error("invalid argument")]
    Inval,
    #[error("no such attribute")]
    NoData,
    #[error("result too large")]
    Range,
    #[error("file too large")]
    FBig,
    #[error("operation not supported")]
    OpNotSupp,
    #[error("inappropriate ioctl")]
    NoTty,
    #[error("read-only file system")]
    RoFs,
    #[error("device or resource busy")]
    Busy,
    #[error("out of memory")]
    NoMem,
    #[error("argument list too long")]
    TooBig,
    #[error("no such device or address")]
    Nxio,
    #[error("stale file handle")]
    Stale,
    #[error("try again")]
    Again,
}

impl Error {
    pub fn corrupt(kind: CorruptKind, at: Location) -> Self {
        Self::Corrupt { kind, at }
    }

    /// Adds what the caller knows about the place, without replacing what is known.
    pub fn located(self, more: Location) -> Self {
        match self {
            Self::Corrupt { kind, at } => Self::Corrupt {
                kind,
                at: Location {
                    inode: at.inode.or(more.inode),
                    group: at.group.or(more.group),
                    block: at.block.or(more.block),
                    offset: at.offset.or(more.offset),
                },
            },
            other => other,
        }
    }

    pub fn is_posix(&self, posix: Posix) -> bool {
        matches!(self, Self::Posix(found) if *found == posix)
    }
}

impl From<Posix> for Error {
    fn from(posix: Posix) -> Self {
        Self::Posix(posix)
    }
}

impl From<Incompatible> for Error {
    fn from(incompatible: Incompatible) -> Self {
        Self::Incompatible(incompatible)
    }
}

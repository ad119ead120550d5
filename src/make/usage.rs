//! What a volume is for: block size and inodes that suit it.
//!
//! Source: mke2fs.conf as it comes with e2fsprogs, `fs_types`.
//! Invariants: with several types, the last one that says something counts.

use super::MakeError;
use std::str::FromStr;

const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    Default,
    Floppy,
    Small,
    Big,
    Huge,
    News,
    LargeFile,
    LargeFile4,
    Hurd,
}

impl FromStr for Usage {
    type Err = MakeError;

    fn from_str(name: &str) -> Result<Self, MakeError> {
        Ok(match name {
            "default" => Self::Default,
            "floppy" => Self::Floppy,
            "small" => Self::Small,
            "big" => Self::Big,
            "huge" => Self::Huge,
            "news" => Self::News,
            "largefile" => Self::LargeFile,
            "largefile4" => Self::LargeFile4,
            "hurd" => Self::Hurd,
            _ => return Err(MakeError::Unsupported(format!("usage type {name}"))),
        })
    }
}

impl Usage {
    /// The type that a size implies.
    pub fn of_size(size: u64) -> Self {
        match size {
            size if size < 3 * MIB => Self::Floppy,
            size if size < 512 * MIB => Self::Small,
            size if size < 4 * TIB => Self::Default,
            size if size < 16 * TIB => Self::Big,
            _ => Self::Huge,
        }
    }

    pub fn block_size(self) -> Option<u32> {
        match self {
            Self::Floppy | Self::Small => Some(1024),
            Self::Hurd | Self::LargeFile | Self::LargeFile4 => Some(4096),
            _ => None,
        }
    }

    pub fn bytes_per_inode(self) -> Option<u32> {
        match self {
            Self::Floppy => Some(8192),
            Self::Small | Self::News => Some(4096),
            Self::Big => Some(32768),
            Self::Huge => Some(65536),
            Self::LargeFile => Some(1 << 20),
            Self::LargeFile4 => Some(4 << 20),
            Self::Default | Self::Hurd => None,
        }
    }

    pub fn inode_size(self) -> Option<u32> {
        (self == Self::Hurd).then_some(128)
    }
}

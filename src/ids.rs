//! Newtypes for every number that ext4 and jbd2 count with, so that none can stand in for another.
//!
//! Source: the kernel's ext4 documentation ("High Level Design", "Special inodes"), jbd2 for `Tid`.
//! Invariants: no operators, only checked methods; an `FsBlock` read from disk exists only after
//! `Geometry::fs_block` has checked its range.

mod hash;

pub use hash::{NumberMap, NumberSet};

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name($int);

        impl $name {
            pub const ZERO: Self = Self(0);
            pub const MAX: Self = Self(<$int>::MAX);

            pub const fn new(value: $int) -> Self {
                Self(value)
            }

            pub const fn get(self) -> $int {
                self.0
            }

            pub fn checked_add(self, count: $int) -> Option<Self> {
                self.0.checked_add(count).map(Self)
            }

            pub fn checked_sub(self, count: $int) -> Option<Self> {
                self.0.checked_sub(count).map(Self)
            }

            /// How far `self` lies behind `base`; `None` when it lies before it.
            pub fn checked_offset_from(self, base: Self) -> Option<$int> {
                self.0.checked_sub(base.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

number! {
    /// A block of the file system (unit: its block size), counted from the start of the volume.
    FsBlock(u64)
}
number! {
    /// A logical block of a file (`ee_block`).
    FileBlock(u32)
}
number! {
    /// A number of blocks.
    BlockCount(u64)
}
number! {
    /// A block group.
    GroupIndex(u32)
}
number! {
    /// A block's place in its group: the bit number in the group's block bitmap.
    BlockInGroup(u32)
}
number! {
    /// An inode number; 0 is no inode.
    InodeNumber(u32)
}
number! {
    /// A position in bytes, in a file or on a device.
    ByteOffset(u64)
}

impl InodeNumber {
    pub const ROOT: Self = Self(2);
    pub const RESIZE: Self = Self(7);
    pub const JOURNAL: Self = Self(8);
}

/// A jbd2 transaction number. Numbers wrap around, so they compare by distance.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Tid(u32);

impl Tid {
    pub const fn new(value: u32) -> Self {
        Self(value)
    }

    pub const fn get(self) -> u32 {
        self.0
    }

    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    /// Whether `self` was started after `other`.
    pub fn is_after(self, other: Self) -> bool {
        (self.0.wrapping_sub(other.0)).cast_signed() > 0
    }

    /// Whether `self` is `other` or was started after it.
    pub fn is_at_or_after(self, other: Self) -> bool {
        self == other || self.is_after(other)
    }
}

impl fmt::Display for Tid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A directory name's hash: `hash` has its lowest bit clear (that bit marks a continued leaf).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct DirHash {
    pub hash: u32,
    pub minor: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tids_compare_across_the_wraparound() {
        assert!(Tid::new(1).is_after(Tid::new(u32::MAX)));
        assert!(!Tid::new(u32::MAX).is_after(Tid::new(1)));
        assert!(Tid::new(7).is_at_or_after(Tid::new(7)));
    }
}

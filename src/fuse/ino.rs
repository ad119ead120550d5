//! Node ids: inode numbers, but for the root.
//!
//! Source: FUSE's root id 1; the kernel's ext4 documentation, "Special inodes".
//! Invariants: the two functions are inverse to each other on every number that is ever exchanged. (ext4's inode 1 is the
//! bad blocks file, which no name leads to.)

use crate::ids::InodeNumber;
use fuser::INodeNo;

pub(super) fn to_fuse(ino: InodeNumber) -> INodeNo {
    if ino == InodeNumber::ROOT {
        INodeNo::ROOT
    } else {
        INodeNo(u64::from(ino.get()))
    }
}

/// Numbers that no inode can have become 0, which is never found.
pub(super) fn from_fuse(node: INodeNo) -> InodeNumber {
    if node == INodeNo::ROOT {
        InodeNumber::ROOT
    } else {
        InodeNumber::new(u32::try_from(node.0).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_exchanged_both_ways() {
        assert_eq!(to_fuse(InodeNumber::ROOT), INodeNo(1));
        assert_eq!(from_fuse(INodeNo(1)), InodeNumber::ROOT);
        assert_eq!(
            from_fuse(to_fuse(InodeNumber::new(12))),
            InodeNumber::new(12)
        );
        assert_eq!(from_fuse(INodeNo(1 << 40)), InodeNumber::ZERO);
    }
}

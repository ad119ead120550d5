//! The attributes of an inode as a caller sees them.
//!
//! Source: POSIX stat; Linux stat(2).
//! Invariants: `blocks` is in 512-byte units.

use crate::format::inode::{Inode, flag};
use crate::format::time::Timestamp;
use crate::ids::InodeNumber;
use crate::inode::Node;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    pub ino: InodeNumber,
    pub generation: u32,
    /// File type and permissions.
    pub mode: u16,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub blocks: u64,
    pub block_size: u32,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub crtime: Option<Timestamp>,
    /// Major and minor number of a device node, else zeros.
    pub rdev: (u32, u32),
}

impl Attr {
    pub fn is_dir(&self) -> bool {
        use crate::format::inode::mode::{DIR, FMT};
        self.mode & FMT == DIR
    }

    /// Of an inode in memory, with its delayed data; `inode` is its locked core.
    pub fn of(node: &Node, inode: &Inode, block_size: u32) -> Self {
        let delayed = node.delayed.lock();
        let mut attr = Self::new(node.ino, inode, block_size);
        attr.size = delayed.size(attr.size);
        attr.blocks += delayed.holes() * u64::from(block_size / 512);
        attr
    }

    pub fn new(ino: InodeNumber, inode: &Inode, block_size: u32) -> Self {
        use crate::format::inode::mode::{BLK, CHR, FMT};
        let is_device = matches!(inode.mode & FMT, BLK | CHR);
        // Lest archivers take a file in its inode for a hole.
        let is_inline = inode.is_reg() && inode.has_flag(flag::INLINE_DATA);
        let blocks_inline = if is_inline {
            inode.size.div_ceil(512)
        } else {
            0
        };
        Self {
            ino,
            generation: inode.generation,
            mode: inode.mode,
            nlink: u32::from(inode.links_count),
            uid: inode.uid,
            gid: inode.gid,
            size: inode.size,
            blocks: inode.blocks + blocks_inline,
            block_size,
            atime: inode.atime,
            mtime: inode.mtime,
            ctime: inode.ctime,
            crtime: inode.crtime,
            rdev: if is_device {
                inode.device_number()
            } else {
                (0, 0)
            },
        }
    }
}

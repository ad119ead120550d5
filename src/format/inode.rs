//! The inode: fields of the fixed 128 bytes and of the extra space.
//!
//! Source: the kernel's ext4 documentation, "Index Nodes".
//! Invariants: `write_to` changes only the fields held here, so unknown fields and in-inode attributes survive.

use crate::error::Result;
use crate::format::geometry::Geometry;
use crate::format::time::Timestamp;
use crate::ids::InodeNumber;

pub mod flag {
    pub const SECRM: u32 = 0x1;
    pub const UNRM: u32 = 0x2;
    pub const COMPR: u32 = 0x4;
    pub const SYNC: u32 = 0x8;
    pub const IMMUTABLE: u32 = 0x10;
    pub const APPEND: u32 = 0x20;
    pub const NODUMP: u32 = 0x40;
    pub const NOATIME: u32 = 0x80;
    pub const ENCRYPT: u32 = 0x800;
    pub const INDEX: u32 = 0x1000;
    pub const JOURNAL_DATA: u32 = 0x4000;
    pub const NOTAIL: u32 = 0x8000;
    pub const DIRSYNC: u32 = 0x10000;
    pub const TOPDIR: u32 = 0x20000;
    pub const HUGE_FILE: u32 = 0x40000;
    pub const EXTENTS: u32 = 0x80000;
    pub const VERITY: u32 = 0x100000;
    pub const EA_INODE: u32 = 0x200000;
    pub const DAX: u32 = 0x2000000;
    pub const INLINE_DATA: u32 = 0x10000000;
    pub const PROJINHERIT: u32 = 0x20000000;
    pub const CASEFOLD: u32 = 0x40000000;
}

/// `S_IFMT` and the file types in `mode`.
pub mod mode {
    pub const FMT: u16 = 0o170000;
    pub const FIFO: u16 = 0o010000;
    pub const CHR: u16 = 0o020000;
    pub const DIR: u16 = 0o040000;
    pub const BLK: u16 = 0o060000;
    pub const REG: u16 = 0o100000;
    pub const LNK: u16 = 0o120000;
    pub const SOCK: u16 = 0o140000;
    pub const SUID: u16 = 0o4000;
    pub const SGID: u16 = 0o2000;
    pub const STICKY: u16 = 0o1000;
    pub const PERM: u16 = 0o7777;
}

/// An inode as it is on disk and in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    pub atime: Timestamp,
    pub ctime: Timestamp,
    pub mtime: Timestamp,
    /// Birth; `None` where the inode has no room for it.
    pub crtime: Option<Timestamp>,
    /// Deletion time, or the next inode of the orphan list.
    pub dtime: u32,
    pub links_count: u16,
    /// `i_blocks` in 512-byte units, whatever HUGE_FILE says on disk.
    pub blocks: u64,
    pub flags: u32,
    /// `i_version`.
    pub version: u64,
    /// `i_block`: extent root, block map, fast symlink, device number or inline data.
    pub block: [u8; 60],
    pub generation: u32,
    /// Block of the extended attributes; 0 for none.
    pub file_acl: u64,
    /// Bytes of the extra space in use behind the first 128; 0 for 128-byte inodes.
    pub extra_isize: u16,
    pub projid: u32,
}

impl Inode {
    /// Parses `geo.inode_size` bytes and verifies the checksum.
    pub fn parse(bytes: &[u8], geo: &Geometry, ino: InodeNumber) -> Result<Self> {
        let _ = (bytes, geo, ino);
        todo!()
    }

    /// Writes the fields into the inode's bytes (which hold the old inode, or zeros) and stamps the checksum.
    pub fn write_to(&self, bytes: &mut [u8], geo: &Geometry, ino: InodeNumber) {
        let _ = (bytes, geo, ino);
        todo!()
    }

    /// Seed of the checksums of everything that this inode owns (extent nodes, directory blocks).
    pub fn csum_seed(&self, geo: &Geometry, ino: InodeNumber) -> u32 {
        let _ = (geo, ino);
        todo!()
    }

    pub fn is_dir(&self) -> bool {
        self.mode & mode::FMT == mode::DIR
    }
    pub fn is_reg(&self) -> bool {
        self.mode & mode::FMT == mode::REG
    }
    pub fn is_symlink(&self) -> bool {
        self.mode & mode::FMT == mode::LNK
    }
    pub fn has_flag(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
    /// A symbolic link whose target is in `block`.
    pub fn is_fast_symlink(&self, geo: &Geometry) -> bool {
        let _ = geo;
        todo!()
    }
    /// The device number of a device node, as (major, minor).
    pub fn device_number(&self) -> (u32, u32) {
        todo!()
    }
    pub fn set_device_number(&mut self, major: u32, minor: u32) {
        let _ = (major, minor);
        todo!()
    }
}

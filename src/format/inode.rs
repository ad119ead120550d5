//! The inode: fields of the fixed 128 bytes and of the extra space.
//!
//! Source: the kernel's ext4 documentation, "Index Nodes".
//! Invariants: `write_to` changes only the fields held here, so unknown fields and in-inode attributes survive.

use crate::error::{CorruptKind, Error, Location, Result, Structure};
use crate::format::checksum::crc32c;
use crate::format::features::ro_compat;
use crate::format::geometry::Geometry;
use crate::format::raw::{join, le16, le32, put_le16, put_le32, split};
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

/// Bytes of the inode that revision 0 had.
pub const BASE_SIZE: usize = 128;
const CHECKSUM_LO: usize = 0x7c;
const CHECKSUM_HI: usize = 0x82;
/// Links of a fast symlink lie in `i_block` when they are shorter than it.
const FAST_SYMLINK_MAX: u64 = 60;

impl Inode {
    /// An empty inode of that mode: no blocks, no times, the extra space that the file system wants.
    pub fn new(geo: &Geometry, mode: u16) -> Self {
        let extra = u16::try_from(geo.want_extra_isize).unwrap_or(0);
        Self {
            mode,
            uid: 0,
            gid: 0,
            size: 0,
            atime: Timestamp::default(),
            ctime: Timestamp::default(),
            mtime: Timestamp::default(),
            crtime: (extra >= 24).then(Timestamp::default),
            dtime: 0,
            links_count: 0,
            blocks: 0,
            flags: 0,
            version: 0,
            block: [0; 60],
            generation: 0,
            file_acl: 0,
            extra_isize: extra,
            projid: 0,
        }
    }

    /// Parses `geo.inode_size` bytes and verifies the checksum.
    pub fn parse(bytes: &[u8], geo: &Geometry, ino: InodeNumber) -> Result<Self> {
        let what = Structure::Inode;
        let fail = |kind| Error::corrupt(kind, Location::inode(ino));
        let size = usize::try_from(geo.inode_size).unwrap_or(0);
        let bytes = bytes
            .get(..size)
            .ok_or_else(|| fail(CorruptKind::Short { what }))?;
        let extra_isize = if size > BASE_SIZE {
            le16(bytes, 0x80)
        } else {
            0
        };
        let room = size.saturating_sub(BASE_SIZE);
        if usize::from(extra_isize) > room || extra_isize % 4 != 0 {
            let (field, found) = ("i_extra_isize", u64::from(extra_isize));
            return Err(fail(CorruptKind::Field { what, field, found }));
        }
        if geo.features.metadata_csum() {
            let (found, expected) = (
                stored_checksum(bytes, extra_isize),
                checksum(bytes, geo, ino),
            );
            if found != expected {
                return Err(fail(CorruptKind::Checksum {
                    what,
                    found,
                    expected,
                }));
            }
        }
        let mode = le16(bytes, 0x00);
        let has = |end: u16| extra_isize >= end;
        let time = |at: usize, extra_at: usize, end: u16| {
            Timestamp::decode(le32(bytes, at), has(end).then(|| le32(bytes, extra_at)))
        };
        let flags = le32(bytes, 0x20);
        let sectors = join(le32(bytes, 0x1c), u32::from(le16(bytes, 0x74)));
        let wide = matches!(mode & mode::FMT, mode::REG | mode::DIR) || flags & flag::EA_INODE != 0;
        let block = bytes
            .get(0x28..)
            .and_then(|rest| rest.first_chunk::<60>())
            .copied();
        Ok(Self {
            mode,
            uid: u32::from(le16(bytes, 0x02)) | (u32::from(le16(bytes, 0x78)) << 16),
            gid: u32::from(le16(bytes, 0x18)) | (u32::from(le16(bytes, 0x7a)) << 16),
            size: join(le32(bytes, 0x04), if wide { le32(bytes, 0x6c) } else { 0 }),
            atime: time(0x08, 0x8c, 16),
            ctime: time(0x0c, 0x84, 8),
            mtime: time(0x10, 0x88, 12),
            crtime: has(24).then(|| time(0x90, 0x94, 24)),
            dtime: le32(bytes, 0x14),
            links_count: le16(bytes, 0x1a),
            blocks: blocks_from_disk(sectors, flags, geo),
            flags,
            version: join(
                le32(bytes, 0x24),
                if has(28) { le32(bytes, 0x98) } else { 0 },
            ),
            block: block.unwrap_or([0; 60]),
            generation: le32(bytes, 0x64),
            file_acl: join(le32(bytes, 0x68), u32::from(le16(bytes, 0x76))),
            extra_isize,
            projid: if has(32) { le32(bytes, 0x9c) } else { 0 },
        })
    }

    /// Writes the fields into the inode's bytes (which hold the old inode, or zeros) and stamps the checksum.
    pub fn write_to(&self, bytes: &mut [u8], geo: &Geometry, ino: InodeNumber) {
        let half = |value: u32| {
            let [a, b, c, d] = value.to_le_bytes();
            (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))
        };
        put_le16(bytes, 0x00, self.mode);
        let ((uid_lo, uid_hi), (gid_lo, gid_hi)) = (half(self.uid), half(self.gid));
        put_le16(bytes, 0x02, uid_lo);
        put_le16(bytes, 0x78, uid_hi);
        put_le16(bytes, 0x18, gid_lo);
        put_le16(bytes, 0x7a, gid_hi);
        let (size_lo, size_hi) = split(self.size);
        put_le32(bytes, 0x04, size_lo);
        put_le32(bytes, 0x6c, size_hi);
        put_le32(bytes, 0x14, self.dtime);
        put_le16(bytes, 0x1a, self.links_count);
        let (sectors, flags) = blocks_to_disk(self.blocks, self.flags, geo);
        let (blocks_lo, blocks_hi) = split(sectors);
        put_le32(bytes, 0x1c, blocks_lo);
        put_le16(bytes, 0x74, half(blocks_hi).0);
        put_le32(bytes, 0x20, flags);
        let (version_lo, version_hi) = split(self.version);
        put_le32(bytes, 0x24, version_lo);
        if let Some(block) = bytes
            .get_mut(0x28..)
            .and_then(|rest| rest.first_chunk_mut::<60>())
        {
            *block = self.block;
        }
        put_le32(bytes, 0x64, self.generation);
        let (acl_lo, acl_hi) = split(self.file_acl);
        put_le32(bytes, 0x68, acl_lo);
        put_le16(bytes, 0x76, half(acl_hi).0);
        if geo.inode_size > 128 {
            put_le16(bytes, 0x80, self.extra_isize);
        }
        self.write_times(bytes);
        if self.extra_isize >= 28 {
            put_le32(bytes, 0x98, version_hi);
        }
        if self.extra_isize >= 32 {
            put_le32(bytes, 0x9c, self.projid);
        }
        stamp_checksum(bytes, geo, ino);
    }

    fn write_times(&self, bytes: &mut [u8]) {
        let times = [
            (Some(self.atime), 0x08, 0x8c, 16),
            (Some(self.ctime), 0x0c, 0x84, 8),
            (Some(self.mtime), 0x10, 0x88, 12),
            (self.crtime, 0x90, 0x94, 24),
        ];
        for (time, at, extra_at, end) in times {
            let Some(time) = time else { continue };
            if self.extra_isize >= end {
                let (seconds, extra) = time.encode();
                put_le32(bytes, at, seconds);
                put_le32(bytes, extra_at, extra);
            } else if at < BASE_SIZE {
                put_le32(bytes, at, time.clamp_to_32_bits().encode().0);
            }
        }
    }

    /// Seed of the checksums of everything that this inode owns (extent nodes, directory blocks).
    pub fn csum_seed(&self, geo: &Geometry, ino: InodeNumber) -> u32 {
        seed(geo, ino, self.generation)
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

    /// A symbolic link whose target is in `block`: short, and nothing allocated but perhaps an attribute block.
    pub fn is_fast_symlink(&self, geo: &Geometry) -> bool {
        let acl = if self.file_acl != 0 {
            u64::from(geo.block_size >> 9)
        } else {
            0
        };
        self.is_symlink()
            && self.size < FAST_SYMLINK_MAX
            && self.blocks <= acl
            && !self.has_flag(flag::EXTENTS)
            && !self.has_flag(flag::INLINE_DATA)
    }

    /// The device number of a device node, as (major, minor).
    pub fn device_number(&self) -> (u32, u32) {
        let old = le32(&self.block, 0);
        if old != 0 {
            return ((old >> 8) & 0xff, old & 0xff);
        }
        let new = le32(&self.block, 4);
        (
            (new & 0xf_ff00) >> 8,
            (new & 0xff) | ((new >> 12) & 0xf_ff00),
        )
    }

    /// The old form where both numbers fit a byte, else the new one in the second word.
    pub fn set_device_number(&mut self, major: u32, minor: u32) {
        self.block = [0; 60];
        if major < 256 && minor < 256 {
            put_le32(&mut self.block, 0, (major << 8) | minor);
        } else {
            let encoded = (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & !0xff) << 12);
            put_le32(&mut self.block, 4, encoded);
        }
    }
}

/// Stamps the checksum into an inode's bytes after they were changed (attributes in the inode).
pub fn stamp_checksum(bytes: &mut [u8], geo: &Geometry, ino: InodeNumber) {
    if !geo.features.metadata_csum() {
        return;
    }
    let [a, b, c, d] = checksum(bytes, geo, ino).to_le_bytes();
    put_le16(bytes, CHECKSUM_LO, u16::from_le_bytes([a, b]));
    if has_checksum_hi(bytes, geo) {
        put_le16(bytes, CHECKSUM_HI, u16::from_le_bytes([c, d]));
    }
}

/// Whether every inode in a block of the table, from `first` on, has the checksum that it says; slots never used are zeros.
pub fn all_sound(block: &[u8], geo: &Geometry, first: InodeNumber) -> bool {
    let size = usize::try_from(geo.inode_size).unwrap_or(BASE_SIZE).max(1);
    let numbers = (first.get()..).map(InodeNumber::new);
    !geo.features.metadata_csum()
        || block.chunks_exact(size).zip(numbers).all(|(slot, ino)| {
            let hi = if has_checksum_hi(slot, geo) { 4 } else { 0 };
            stored_checksum(slot, hi) == checksum(slot, geo, ino) || slot.iter().all(|&b| b == 0)
        })
}

fn has_checksum_hi(bytes: &[u8], geo: &Geometry) -> bool {
    geo.inode_size > 128 && le16(bytes, 0x80) >= 4
}

fn stored_checksum(bytes: &[u8], extra_isize: u16) -> u32 {
    let hi = if extra_isize >= 4 {
        u32::from(le16(bytes, CHECKSUM_HI))
    } else {
        0
    };
    u32::from(le16(bytes, CHECKSUM_LO)) | (hi << 16)
}

fn seed(geo: &Geometry, ino: InodeNumber, generation: u32) -> u32 {
    crc32c(
        crc32c(geo.csum_seed, &ino.get().to_le_bytes()),
        &generation.to_le_bytes(),
    )
}

/// Over the whole inode, its checksum fields counted as zeros; 16 bits where there is no room for the upper half.
fn checksum(bytes: &[u8], geo: &Geometry, ino: InodeNumber) -> u32 {
    let part = |from: usize, to: usize| bytes.get(from..to).unwrap_or(&[]);
    let size = usize::try_from(geo.inode_size).unwrap_or(BASE_SIZE);
    let mut crc = seed(geo, ino, le32(bytes, 0x64));
    crc = crc32c(crc, part(0, CHECKSUM_LO));
    crc = crc32c(crc, &[0, 0]);
    crc = crc32c(crc, part(CHECKSUM_LO.saturating_add(2), BASE_SIZE));
    if size > BASE_SIZE {
        crc = crc32c(crc, part(BASE_SIZE, CHECKSUM_HI));
        if has_checksum_hi(bytes, geo) {
            crc = crc32c(crc, &[0, 0]);
            crc = crc32c(crc, part(CHECKSUM_HI.saturating_add(2), size));
        } else {
            crc = crc32c(crc, part(CHECKSUM_HI, size));
        }
    }
    if has_checksum_hi(bytes, geo) {
        crc
    } else {
        crc & 0xffff
    }
}

/// 512-byte units, whatever the inode counts in.
fn blocks_from_disk(stored: u64, flags: u32, geo: &Geometry) -> u64 {
    if !geo.features.has_ro_compat(ro_compat::HUGE_FILE) {
        return stored & 0xffff_ffff;
    }
    if flags & flag::HUGE_FILE != 0 {
        stored
            .checked_shl(geo.block_bits.saturating_sub(9))
            .unwrap_or(u64::MAX)
    } else {
        stored
    }
}

/// What goes into `i_blocks`, and the flags that say how it counts.
fn blocks_to_disk(blocks: u64, flags: u32, geo: &Geometry) -> (u64, u32) {
    if blocks >> 48 != 0 {
        let stored = blocks
            .checked_shr(geo.block_bits.saturating_sub(9))
            .unwrap_or(0);
        return (stored, flags | flag::HUGE_FILE);
    }
    (blocks, flags & !flag::HUGE_FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive() {
        for (major, minor) in [(1, 3), (8, 300), (259, 5), (4095, 0xf_ffff)] {
            let mut inode = Inode::empty_for_test();
            inode.set_device_number(major, minor);
            assert_eq!(inode.device_number(), (major, minor));
        }
    }

    impl Inode {
        fn empty_for_test() -> Self {
            Self {
                mode: mode::CHR,
                uid: 0,
                gid: 0,
                size: 0,
                atime: Timestamp::default(),
                ctime: Timestamp::default(),
                mtime: Timestamp::default(),
                crtime: None,
                dtime: 0,
                links_count: 1,
                blocks: 0,
                flags: 0,
                version: 0,
                block: [0; 60],
                generation: 0,
                file_acl: 0,
                extra_isize: 0,
                projid: 0,
            }
        }
    }
}

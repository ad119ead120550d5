//! What can be damaged in an image: fields of structures, with what makes their checksum right again.
//!
//! Source: the kernel's ext4 documentation.
//! Invariants: read from an image that is whole.

use uext4::error::Result;
use uext4::format::checksum::{self, BlockKind, crc32c};
use uext4::format::extent;
use uext4::format::geometry::Geometry;
use uext4::format::group::{GroupDesc, flag};
use uext4::format::inode::{self, Inode, flag as inode_flag, mode};
use uext4::format::raw::{le16, le32, put_le16, put_le32};
use uext4::ids::{FsBlock, GroupIndex, InodeNumber};

/// How the checksum over a place is made right.
#[derive(Clone, Copy, Debug)]
enum Stamp {
    Superblock,
    Descriptor(u32),
    /// The group, and whether it is the inode bitmap.
    Bitmap(u32, bool),
    Inode(u32),
    Block(u64, BlockKind),
}

pub struct Place {
    pub name: String,
    /// In bytes.
    pub at: usize,
    pub len: usize,
    stamp: Stamp,
}

/// Name, offset, length.
type Fields = &'static [(&'static str, usize, usize)];

const SUPERBLOCK: Fields = &[
    ("s_inodes_count", 0x0, 4),
    ("s_blocks_count", 0x4, 4),
    ("s_r_blocks_count", 0x8, 4),
    ("s_free_blocks_count", 0xc, 4),
    ("s_free_inodes_count", 0x10, 4),
    ("s_first_data_block", 0x14, 4),
    ("s_log_block_size", 0x18, 4),
    ("s_log_cluster_size", 0x1c, 4),
    ("s_blocks_per_group", 0x20, 4),
    ("s_inodes_per_group", 0x28, 4),
    ("s_magic", 0x38, 2),
    ("s_state", 0x3a, 2),
    ("s_rev_level", 0x4c, 4),
    ("s_first_ino", 0x54, 4),
    ("s_inode_size", 0x58, 2),
    ("s_reserved_gdt_blocks", 0xce, 2),
    ("s_journal_inum", 0xe0, 4),
    ("s_last_orphan", 0xe8, 4),
    ("s_desc_size", 0xfe, 2),
    ("s_min_extra_isize", 0x15c, 2),
    ("s_orphan_file_inum", 0x280, 4),
];
const DESCRIPTOR: Fields = &[
    ("bg_block_bitmap", 0x0, 4),
    ("bg_inode_bitmap", 0x4, 4),
    ("bg_inode_table", 0x8, 4),
    ("bg_free_blocks_count", 0xc, 2),
    ("bg_free_inodes_count", 0xe, 2),
    ("bg_used_dirs_count", 0x10, 2),
    ("bg_flags", 0x12, 2),
    ("bg_itable_unused", 0x1c, 2),
    ("bg_checksum", 0x1e, 2),
];
const INODE: Fields = &[
    ("i_mode", 0x0, 2),
    ("i_size_lo", 0x4, 4),
    ("i_dtime", 0x14, 4),
    ("i_links_count", 0x1a, 2),
    ("i_blocks_lo", 0x1c, 4),
    ("i_flags", 0x20, 4),
    ("i_block header", 0x28, 12),
    ("i_block entry", 0x34, 12),
    ("i_generation", 0x64, 4),
    ("i_file_acl_lo", 0x68, 4),
    ("i_size_high", 0x6c, 4),
    ("i_blocks_high", 0x74, 2),
    ("i_file_acl_high", 0x76, 2),
    ("i_extra_isize", 0x80, 2),
    ("extra space", 0x84, 28),
    ("attributes", 0xa0, 64),
];
/// Inodes that are made damaged as often as all the files together.
const SPECIAL: u32 = 12;

impl Place {
    /// Makes the checksum right, where there is one.
    pub fn stamp(&self, bytes: &mut [u8], geo: &Geometry) {
        if !geo.features.metadata_csum() {
            return;
        }
        let block_size = geo.block_size as usize;
        match self.stamp {
            Stamp::Superblock => {
                let sum = crc32c(u32::MAX, &bytes[1024..1024 + 0x3fc]);
                put_le32(bytes, 1024 + 0x3fc, sum);
            }
            Stamp::Descriptor(group) => stamp_descriptor(bytes, geo, group),
            Stamp::Bitmap(group, is_inodes) => {
                let desc = descriptor_at(geo, group);
                let start = le32(bytes, desc + if is_inodes { 4 } else { 0 }) as usize * block_size;
                let bitmap = &bytes[start..start + block_size];
                let (sum, low, high) = match is_inodes {
                    true => (checksum::inode_bitmap(geo, bitmap), 0x1a, 0x3a),
                    false => (checksum::block_bitmap(geo, bitmap), 0x18, 0x38),
                };
                put_le16(bytes, desc + low, sum as u16);
                if geo.desc_size >= 64 {
                    put_le16(bytes, desc + high, (sum >> 16) as u16);
                }
                stamp_descriptor(bytes, geo, group);
            }
            Stamp::Inode(ino) => {
                let at = inode_at(bytes, geo, ino);
                let slot = &mut bytes[at..at + geo.inode_size as usize];
                inode::stamp_checksum(slot, geo, InodeNumber::new(ino));
            }
            Stamp::Block(block, kind) => {
                let at = block as usize * block_size;
                let block = FsBlock::new(block);
                checksum::stamp(kind, geo, block, &mut bytes[at..at + block_size]);
            }
        }
    }
}

fn stamp_descriptor(bytes: &mut [u8], geo: &Geometry, group: u32) {
    let at = descriptor_at(geo, group);
    let desc = &mut bytes[at..at + geo.desc_size as usize];
    put_le16(desc, 0x1e, 0);
    let sum = crc32c(crc32c(geo.csum_seed, &group.to_le_bytes()), desc);
    put_le16(desc, 0x1e, sum as u16);
}

fn descriptor_at(geo: &Geometry, group: u32) -> usize {
    let (block, offset) = geo.desc_location(GroupIndex::new(group));
    block.get() as usize * geo.block_size as usize + offset
}

fn inode_at(bytes: &[u8], geo: &Geometry, ino: u32) -> usize {
    let (group, index) = (
        (ino - 1) / geo.inodes_per_group,
        (ino - 1) % geo.inodes_per_group,
    );
    let table = le32(bytes, descriptor_at(geo, group) + 8) as usize * geo.block_size as usize;
    table + index as usize * geo.inode_size as usize
}

/// Every place, in groups that are about as likely as each other.
pub fn find(bytes: &[u8], geo: &Geometry) -> Result<Vec<Place>> {
    let mut finder = Finder {
        bytes,
        geo,
        places: Vec::new(),
    };
    finder.fields("superblock", 1024, SUPERBLOCK, Stamp::Superblock);
    for group in 0..geo.group_count {
        finder.group(group)?;
    }
    Ok(finder.places)
}

struct Finder<'a> {
    bytes: &'a [u8],
    geo: &'a Geometry,
    places: Vec<Place>,
}

impl Finder<'_> {
    fn add(&mut self, name: String, at: usize, len: usize, stamp: Stamp) {
        self.places.push(Place {
            name,
            at,
            len,
            stamp,
        });
    }

    fn fields(&mut self, of: &str, at: usize, fields: Fields, stamp: Stamp) {
        for &(name, offset, len) in fields {
            self.add(format!("{of} {name}"), at + offset, len, stamp);
        }
    }

    fn group(&mut self, group: u32) -> Result<()> {
        let at = descriptor_at(self.geo, group);
        let of = format!("group {group}");
        self.fields(&of, at, DESCRIPTOR, Stamp::Descriptor(group));
        let size = self.geo.desc_size as usize;
        let desc = GroupDesc::parse(&self.bytes[at..at + size], self.geo, GroupIndex::new(group))?;
        let block_size = self.geo.block_size as usize;
        let start = |block: FsBlock| block.get() as usize * block_size;
        if !desc.has_flag(flag::BLOCK_UNINIT) {
            for at in (0..block_size).step_by(block_size / 8) {
                let name = format!("{of} block bitmap");
                self.add(
                    name,
                    start(desc.block_bitmap) + at,
                    2,
                    Stamp::Bitmap(group, false),
                );
            }
        }
        if desc.has_flag(flag::INODE_UNINIT) {
            return Ok(());
        }
        let bitmap = start(desc.inode_bitmap);
        let per_group = self.geo.inodes_per_group;
        self.add(
            format!("{of} inode bitmap"),
            bitmap,
            2,
            Stamp::Bitmap(group, true),
        );
        let mut files = 0;
        for index in 0..per_group {
            let in_use = self.bytes[bitmap + index as usize / 8] >> (index % 8) & 1 != 0;
            let ino = group * per_group + index + 1;
            // Of the many that are alike, some.
            files += u32::from(in_use && ino > SPECIAL);
            if in_use && (ino <= SPECIAL || files < 30 || files % 40 == 0) {
                self.inode(ino)?;
            }
        }
        Ok(())
    }

    fn inode(&mut self, ino: u32) -> Result<()> {
        let at = inode_at(self.bytes, self.geo, ino);
        let size = self.geo.inode_size as usize;
        let number = InodeNumber::new(ino);
        let slot = &self.bytes[at..at + size];
        let inode = Inode::parse(slot, self.geo, number)?;
        if inode.mode == 0 {
            return Ok(());
        }
        let of = format!("inode {ino} (mode {:o})", inode.mode);
        self.fields(&of, at, INODE, Stamp::Inode(ino));
        let seed = inode.csum_seed(self.geo, number);
        if inode.file_acl != 0 {
            self.block(&of, "attribute block", inode.file_acl, BlockKind::Xattr);
        }
        if inode.flags & inode_flag::EXTENTS != 0 && inode.size > 0 {
            let root = inode.block;
            let mut data = Vec::new();
            self.extents(&of, &root, seed, &mut data)?;
            let kind = match inode.mode & mode::FMT {
                mode::DIR => Some(BlockKind::Directory { seed }),
                _ if ino == self.geo.orphan_file_inum => Some(BlockKind::OrphanFile { seed }),
                _ if self.geo.quota_inums.contains(&ino) || ino == self.geo.journal_inum => {
                    Some(BlockKind::Plain)
                }
                _ => None,
            };
            if let Some(kind) = kind {
                for block in data.into_iter().take(6) {
                    self.block(&of, "contents", block, kind);
                }
            }
        }
        Ok(())
    }

    /// The nodes of an extent tree; the data blocks go to `data`.
    fn extents(&mut self, of: &str, node: &[u8], seed: u32, data: &mut Vec<u64>) -> Result<()> {
        let (entries, depth) = (le16(node, 2), le16(node, 6));
        for index in 0..usize::from(entries) {
            if depth == 0 {
                let found = extent::extent(node, index, self.geo)?;
                let start = found.physical.get();
                data.extend(start..start + u64::from(found.len));
                continue;
            }
            let child = extent::child(node, index, self.geo)?;
            let at = child.get() as usize * self.geo.block_size as usize;
            let block = self.bytes[at..at + self.geo.block_size as usize].to_vec();
            self.block(
                of,
                "extent node",
                child.get(),
                BlockKind::ExtentNode { seed },
            );
            self.extents(of, &block, seed, data)?;
        }
        Ok(())
    }

    /// Pieces of a block: more at its start, where headers are.
    fn block(&mut self, of: &str, what: &str, block: u64, kind: BlockKind) {
        let at = block as usize * self.geo.block_size as usize;
        for (offset, len) in [
            (0, 4),
            (4, 4),
            (8, 4),
            (12, 4),
            (16, 8),
            (24, 8),
            (32, 8),
            (64, 8),
            (1012, 12),
        ] {
            let name = format!("{of} {what} {block}+{offset}");
            self.add(name, at + offset, len, Stamp::Block(block, kind));
        }
    }
}

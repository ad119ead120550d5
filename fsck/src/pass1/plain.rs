//! The most frequent inode, judged without a copy: a regular file with a few extents in its inode and no attributes.
//!
//! Source: the kernel's ext4 documentation, "Index Nodes", "Extent Tree".
//! Invariants: it only ever says that an inode is in order in every respect; all others get the whole look.

use super::check::Around;
use super::extents::EXTENT_END;
use crate::inodes::{Known, known};
use crate::map::{in_volume, raw_extent};
use uext4::format::extent::{Header, MAX_WRITTEN, capacity};
use uext4::format::features::ro_compat;
use uext4::format::inode::{flag, mode, stamp_checksum};
use uext4::format::raw::{le16, le32};
use uext4::ids::InodeNumber;

/// The size of inodes that this is for.
const SIZE: usize = 256;
const LARGE: u64 = 0x7fff_ffff;
const XATTR_MAGIC: u32 = 0xea02_0000;

/// What it is, and its runs: first cluster and count.
pub struct Plain {
    pub known: Known,
    runs: [(u64, u64); 4],
    count: usize,
}

impl Plain {
    pub fn runs(&self) -> &[(u64, u64)] {
        self.runs.get(..self.count).unwrap_or(&[])
    }
}

/// `None` for anything that is not in order, or not this simple.
pub fn judge(around: Around<'_>, ino: u32, bytes: &[u8]) -> Option<Plain> {
    let bytes: &[u8; SIZE] = bytes.try_into().ok()?;
    let geo = around.geo;
    let links = le16(bytes, 0x1a);
    let is_plain = le16(bytes, 0) & mode::FMT == mode::REG
        && le32(bytes, 0x20) == flag::EXTENTS
        && links != 0
        && ino >= geo.first_ino
        && geo.cluster_ratio_bits == 0
        && geo.features.has_ro_compat(ro_compat::HUGE_FILE);
    // Deletion time, attribute block (both parts), upper half of the size, fragment, upper half of `i_blocks`.
    let zeros = le32(bytes, 0x14) | le32(bytes, 0x68) | le32(bytes, 0x6c) | le32(bytes, 0x70);
    if !is_plain || zeros != 0 || le32(bytes, 0x74) != 0 || around.own.contains(&ino) {
        return None;
    }
    let extra = usize::from(le16(bytes, 0x80));
    let room = SIZE - 128;
    if extra < 4 || !extra.is_multiple_of(4) || extra > room {
        return None;
    }
    let behind = 128 + extra;
    if behind + 4 <= SIZE && le32(bytes, behind) == XATTR_MAGIC {
        return None;
    }
    if geo.features.metadata_csum() {
        let mut copy = *bytes;
        stamp_checksum(&mut copy, geo, InodeNumber::new(ino));
        if copy != *bytes {
            return None;
        }
    }
    let mut plain = extents(around, &bytes[0x28..0x28 + 60])?;
    let blocks: u64 = plain.runs().iter().map(|run| run.1).sum();
    let size = u64::from(le32(bytes, 4));
    let last = plain.known.found;
    let short = last > 0 && size < u64::from(last - 1) * u64::from(geo.block_size);
    let sectors = blocks << (geo.block_bits - 9);
    if short || size > LARGE || sectors != u64::from(le32(bytes, 0x1c)) {
        return None;
    }
    let empty = size == 0 && plain.count == 0;
    plain.known = Known {
        file_type: 1,
        flags: if empty { known::EMPTY } else { 0 },
        links,
        found: 0,
    };
    Some(plain)
}

/// Until the size was looked at, `found` is the end of the last extent, in blocks of the file.
fn extents(around: Around<'_>, root: &[u8]) -> Option<Plain> {
    let geo = around.geo;
    let header = Header::parse(root, Some(0)).ok()?;
    if header.max != capacity(root.len()) {
        return None;
    }
    let mut plain = Plain {
        known: Known::default(),
        runs: [(0, 0); 4],
        count: header.entries,
    };
    let mut next = 0;
    for (index, run) in plain.runs.iter_mut().enumerate().take(header.entries) {
        let found = raw_extent(root, index);
        let (lblk, len) = (u64::from(found.lblk), u64::from(found.len));
        let good = !found.unwritten && (1..=u64::from(MAX_WRITTEN)).contains(&len);
        if !good || lblk < next || lblk + len > EXTENT_END || !in_volume(geo, found.pblk, len) {
            return None;
        }
        next = lblk + len;
        *run = crate::alloc::clusters_of(geo, found.pblk, len);
    }
    plain.known.found = u32::try_from(next).ok()?;
    Some(plain)
}

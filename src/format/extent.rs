//! Nodes of the extent tree: header, extents, index entries.
//!
//! Source: the kernel's ext4 documentation, "Extent Tree".
//! Invariants: `Header::parse` accepts a node only when its entries fit into its bytes; an `Extent` or a child block
//! exists only after its range was checked; `check` also proves order and absence of overlap.

use crate::error::{CorruptKind, Error, Location, Result, Structure};
use crate::format::geometry::Geometry;
use crate::format::raw::{join, le16, le32, put_le16, put_le32, split};
use crate::ids::FsBlock;

pub const MAGIC: u16 = 0xf30a;
/// Levels below the root that a tree may have.
pub const MAX_DEPTH: u16 = 5;
/// Blocks of the longest written extent.
pub const MAX_WRITTEN: u32 = 32768;
/// Blocks of the longest unwritten extent.
pub const MAX_UNWRITTEN: u32 = 32767;
/// One past the last file block.
pub const FILE_BLOCKS: u64 = 1 << 32;

const HEADER: usize = 12;
const ENTRY: usize = 12;

/// `ext4_extent_header`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub entries: usize,
    pub max: usize,
    /// 0 for a leaf.
    pub depth: u16,
}

/// `ext4_extent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// `ee_block`.
    pub logical: u32,
    /// Blocks, 1 to `MAX_WRITTEN`.
    pub len: u32,
    pub physical: FsBlock,
    pub unwritten: bool,
}

impl Extent {
    /// One past the last file block, at most `FILE_BLOCKS`.
    pub fn end(&self) -> u64 {
        u64::from(self.logical).saturating_add(u64::from(self.len))
    }

    pub fn max_len(unwritten: bool) -> u32 {
        if unwritten {
            MAX_UNWRITTEN
        } else {
            MAX_WRITTEN
        }
    }

    /// The part from file block `from` to before `to`; `None` when it is empty.
    pub fn part(&self, from: u64, to: u64) -> Option<Self> {
        let from = from.max(u64::from(self.logical));
        let len = to
            .min(self.end())
            .checked_sub(from)
            .filter(|&len| len > 0)?;
        let skipped = from.checked_sub(u64::from(self.logical))?;
        Some(Self {
            logical: u32::try_from(from).ok()?,
            len: u32::try_from(len).ok()?,
            physical: self.physical.checked_add(skipped)?,
            unwritten: self.unwritten,
        })
    }

    /// Both as one extent, if `next` continues this one in the file and on the volume.
    pub fn merged(&self, next: &Self) -> Option<Self> {
        let len = self.len.checked_add(next.len)?;
        let follows = self.end() == u64::from(next.logical)
            && self.physical.checked_add(u64::from(self.len)) == Some(next.physical);
        (follows && self.unwritten == next.unwritten && len <= Self::max_len(self.unwritten))
            .then_some(Self { len, ..*self })
    }
}

impl Header {
    /// `depth` is what the parent promises; `None` for a root, which may have any up to `MAX_DEPTH`.
    pub fn parse(bytes: &[u8], depth: Option<u16>) -> Result<Self> {
        let magic = le16(bytes, 0);
        if magic != MAGIC {
            return Err(corrupt(CorruptKind::Magic {
                what: Structure::ExtentNode,
                found: magic.into(),
                expected: MAGIC.into(),
            }));
        }
        let header = Self {
            entries: le16(bytes, 2).into(),
            max: le16(bytes, 4).into(),
            depth: le16(bytes, 6),
        };
        if header.depth > MAX_DEPTH || depth.is_some_and(|depth| depth != header.depth) {
            return Err(corrupt(CorruptKind::Depth {
                what: Structure::ExtentNode,
            }));
        }
        if header.max == 0 || header.max > capacity(bytes.len()) {
            return Err(field("eh_max", u64::from(le16(bytes, 4))));
        }
        if header.entries > header.max || (header.entries == 0 && header.depth > 0) {
            return Err(field("eh_entries", u64::from(le16(bytes, 2))));
        }
        Ok(header)
    }

    pub fn free(&self) -> usize {
        self.max.saturating_sub(self.entries)
    }
}

/// Entries that fit into a node of `len` bytes.
pub fn capacity(len: usize) -> usize {
    len.saturating_sub(HEADER).checked_div(ENTRY).unwrap_or(0)
}

/// Makes `bytes` an empty node. Its generation stays.
pub fn init(bytes: &mut [u8], depth: u16) {
    let max = u16::try_from(capacity(bytes.len())).unwrap_or(u16::MAX);
    put_le16(bytes, 0, MAGIC);
    put_le16(bytes, 2, 0);
    put_le16(bytes, 4, max);
    put_le16(bytes, 6, depth);
}

pub fn set_entries(bytes: &mut [u8], entries: usize) {
    put_le16(bytes, 2, u16::try_from(entries).unwrap_or(u16::MAX));
}

/// `ee_block` or `ei_block` of an entry.
pub fn key(bytes: &[u8], index: usize) -> u32 {
    le32(bytes, offset(index))
}

pub fn set_key(bytes: &mut [u8], index: usize, key: u32) {
    put_le32(bytes, offset(index), key);
}

/// How many of the first `entries` entries begin at or before `at`.
pub fn search(bytes: &[u8], entries: usize, at: u32) -> usize {
    let (mut low, mut high) = (0usize, entries);
    while low < high {
        let middle = low.midpoint(high);
        if key(bytes, middle) <= at {
            low = middle.saturating_add(1);
        } else {
            high = middle;
        }
    }
    low
}

pub fn extent(bytes: &[u8], index: usize, geo: &Geometry) -> Result<Extent> {
    let at = offset(index);
    let raw = u32::from(le16(bytes, at.saturating_add(4)));
    let (len, unwritten) = match raw.checked_sub(MAX_WRITTEN) {
        Some(len) if len > 0 => (len, true),
        _ => (raw, false),
    };
    let logical = le32(bytes, at);
    if len == 0 || u64::from(logical).saturating_add(u64::from(len)) > FILE_BLOCKS {
        return Err(field("ee_len", u64::from(raw)));
    }
    let start = join(
        le32(bytes, at.saturating_add(8)),
        le16(bytes, at.saturating_add(6)).into(),
    );
    let physical = geo.fs_run(start, len.into(), Structure::ExtentNode)?;
    Ok(Extent {
        logical,
        len,
        physical,
        unwritten,
    })
}

pub fn put_extent(bytes: &mut [u8], index: usize, extent: &Extent) {
    let at = offset(index);
    let unwritten = if extent.unwritten { MAX_WRITTEN } else { 0 };
    let len = extent.len.saturating_add(unwritten);
    let (low, high) = split(extent.physical.get());
    put_le32(bytes, at, extent.logical);
    put_le16(
        bytes,
        at.saturating_add(4),
        u16::try_from(len).unwrap_or(u16::MAX),
    );
    put_le16(
        bytes,
        at.saturating_add(6),
        u16::try_from(high).unwrap_or(u16::MAX),
    );
    put_le32(bytes, at.saturating_add(8), low);
}

/// The block that an index entry points to.
pub fn child(bytes: &[u8], index: usize, geo: &Geometry) -> Result<FsBlock> {
    let at = offset(index);
    let raw = join(
        le32(bytes, at.saturating_add(4)),
        le16(bytes, at.saturating_add(8)).into(),
    );
    geo.fs_block(raw, Structure::ExtentNode)
}

pub fn put_index(bytes: &mut [u8], index: usize, key: u32, child: FsBlock) {
    let at = offset(index);
    let (low, high) = split(child.get());
    put_le32(bytes, at, key);
    put_le32(bytes, at.saturating_add(4), low);
    put_le16(
        bytes,
        at.saturating_add(8),
        u16::try_from(high).unwrap_or(u16::MAX),
    );
    put_le16(bytes, at.saturating_add(10), 0);
}

/// Makes room for `count` entries before entry `index` of a node that has it; the new ones hold leftovers.
pub fn open_gap(bytes: &mut [u8], index: usize, count: usize) {
    let entries = usize::from(le16(bytes, 2));
    let (from, end) = (offset(index), offset(entries));
    let to = offset(index.saturating_add(count));
    let new_end = offset(entries.saturating_add(count));
    if from <= end && new_end <= bytes.len() {
        bytes.copy_within(from..end, to);
        set_entries(bytes, entries.saturating_add(count));
    }
}

/// Takes `count` entries out, from entry `index` on.
pub fn close_gap(bytes: &mut [u8], index: usize, count: usize) {
    let entries = usize::from(le16(bytes, 2));
    let (to, end) = (offset(index), offset(entries));
    let from = offset(index.saturating_add(count));
    if from <= end && end <= bytes.len() {
        bytes.copy_within(from..end, to);
        set_entries(bytes, entries.saturating_sub(count));
    }
}

/// The bytes of the entries `from..to`, as `append` takes them.
pub fn entries(bytes: &[u8], from: usize, to: usize) -> &[u8] {
    bytes.get(offset(from)..offset(to)).unwrap_or(&[])
}

/// Puts entries behind the last one of a node that has room for them.
pub fn append(bytes: &mut [u8], new: &[u8]) {
    let entries = usize::from(le16(bytes, 2));
    let at = offset(entries);
    if let Some(room) = bytes.get_mut(at..at.saturating_add(new.len())) {
        room.copy_from_slice(new);
        set_entries(
            bytes,
            entries.saturating_add(capacity(new.len().saturating_add(HEADER))),
        );
    }
}

/// All entries: in range, in order, without overlap.
pub fn check(bytes: &[u8], header: &Header, geo: &Geometry) -> Result<()> {
    let mut next = 0u64;
    for index in 0..header.entries {
        let start = u64::from(key(bytes, index));
        if start < next {
            return Err(field("ee_block", start));
        }
        next = if header.depth == 0 {
            extent(bytes, index, geo)?.end()
        } else {
            child(bytes, index, geo)?;
            start.saturating_add(1)
        };
    }
    Ok(())
}

fn offset(index: usize) -> usize {
    index.saturating_mul(ENTRY).saturating_add(HEADER)
}

pub(crate) fn field(field: &'static str, found: u64) -> Error {
    corrupt(CorruptKind::Field {
        what: Structure::ExtentNode,
        field,
        found,
    })
}

fn corrupt(kind: CorruptKind) -> Error {
    Error::corrupt(kind, Location::default())
}

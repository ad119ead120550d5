//! Descriptor blocks (which data blocks follow in the log) and revoke blocks (which older copies are void).
//!
//! Source: the kernel's ext4 documentation, "Journal (jbd2)", "Descriptor Block" and "Revocation Block".
//! Invariants: a writer never passes the block's body; iterators end after a bounded number of records.

use super::{BlockType, HEADER_SIZE, Header, Layout};
use crate::error::{CorruptKind, Error, Location, Result, Structure};
use crate::format::jbd2::Checksums;
use crate::format::raw::{be16, be32, be64, join, put_be16, put_be32, put_be64, split};
use crate::ids::{FsBlock, Tid};

/// Flags of a tag.
pub mod flag {
    pub const ESCAPE: u32 = 1;
    pub const SAME_UUID: u32 = 2;
    pub const DELETED: u32 = 4;
    pub const LAST_TAG: u32 = 8;
}

const UUID_SIZE: usize = 16;
/// Bytes in front of a revoke block's records: the header and `r_count`.
const REVOKE_HEADER: usize = 16;

/// One data block of a transaction; its copy is the next block of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Where the block belongs, as read: not yet checked against the file system's size.
    pub block: u64,
    pub escaped: bool,
    /// Full width for v3, 16 bits for v2, else 0: compare with `Layout::data_checksum`.
    pub checksum: u32,
}

/// The tags of a descriptor block. Checks their places, not the block's checksum (`Layout::verify_tail`).
pub struct Tags<'a> {
    block: &'a [u8],
    layout: Layout,
    at: usize,
    done: bool,
}

impl<'a> Tags<'a> {
    pub fn new(block: &'a [u8], layout: &Layout) -> Self {
        Self {
            block,
            layout: *layout,
            at: HEADER_SIZE,
            done: false,
        }
    }
}

impl Iterator for Tags<'_> {
    type Item = Result<Tag>;

    fn next(&mut self) -> Option<Result<Tag>> {
        if self.done {
            return None;
        }
        let at = self.at;
        let end = at.saturating_add(self.layout.tag_size());
        if end > self.layout.body_end().min(self.block.len()) {
            self.done = true;
            // A full block may lack the LAST_TAG flag; one without any tag is not a descriptor.
            return (at == HEADER_SIZE).then(|| {
                let kind = CorruptKind::Short {
                    what: Structure::JournalDescriptor,
                };
                Err(Error::corrupt(kind, Location::default()))
            });
        }
        let v3 = self.layout.checksums == Checksums::V3;
        let flags = if v3 {
            be32(self.block, at.saturating_add(4))
        } else {
            u32::from(be16(self.block, at.saturating_add(6)))
        };
        let checksum = match self.layout.checksums {
            Checksums::V3 => be32(self.block, at.saturating_add(12)),
            Checksums::V2 => u32::from(be16(self.block, at.saturating_add(4))),
            Checksums::None | Checksums::V1 => 0,
        };
        let high = if self.layout.bit64 {
            be32(self.block, at.saturating_add(8))
        } else {
            0
        };
        self.at = if flags & flag::SAME_UUID == 0 {
            end.saturating_add(UUID_SIZE)
        } else {
            end
        };
        self.done = flags & flag::LAST_TAG != 0;
        Some(Ok(Tag {
            block: join(be32(self.block, at), high),
            escaped: flags & flag::ESCAPE != 0,
            checksum,
        }))
    }
}

/// Fills a descriptor block.
pub struct TagWriter<'a> {
    block: &'a mut [u8],
    layout: Layout,
    at: usize,
    /// Where the last tag lies.
    last: Option<usize>,
}

impl<'a> TagWriter<'a> {
    pub fn new(block: &'a mut [u8], layout: &Layout, tid: Tid) -> Self {
        block.fill(0);
        Header {
            block_type: BlockType::Descriptor,
            tid,
        }
        .write_to(block);
        Self {
            block,
            layout: *layout,
            at: HEADER_SIZE,
            last: None,
        }
    }

    /// How many tags one descriptor block holds.
    pub fn capacity(layout: &Layout) -> u32 {
        let body = layout.body_end().saturating_sub(HEADER_SIZE + UUID_SIZE);
        let tags = body.checked_div(layout.tag_size()).unwrap_or(0);
        u32::try_from(tags).unwrap_or(u32::MAX)
    }

    /// Whether no further tag fits.
    pub fn is_full(&self) -> bool {
        self.at.saturating_add(self.need()) > self.layout.body_end()
    }

    fn need(&self) -> usize {
        let uuid = if self.last.is_none() { UUID_SIZE } else { 0 };
        self.layout.tag_size().saturating_add(uuid)
    }

    /// Adds a tag; `checksum` is `Layout::data_checksum` of the block as it goes to the log. `false`: the block is
    /// full and nothing was added.
    #[must_use]
    pub fn push(&mut self, block: FsBlock, escaped: bool, checksum: u32) -> bool {
        if self.is_full() {
            return false;
        }
        let at = self.at;
        let (low, high) = split(block.get());
        let mut flags = if escaped { flag::ESCAPE } else { 0 };
        if self.last.is_some() {
            flags |= flag::SAME_UUID;
        }
        put_be32(self.block, at, low);
        match self.layout.checksums {
            Checksums::V3 => put_be32(self.block, at.saturating_add(12), checksum),
            Checksums::V2 => {
                let (sum, _) = halves(checksum);
                put_be16(self.block, at.saturating_add(4), sum);
            }
            Checksums::None | Checksums::V1 => {}
        }
        if self.layout.bit64 {
            put_be32(self.block, at.saturating_add(8), high);
        }
        self.put_flags(at, flags);
        let need = self.need();
        if self.last.is_none() {
            let uuid_at = at.saturating_add(self.layout.tag_size());
            if let Some(place) = self
                .block
                .get_mut(uuid_at..uuid_at.saturating_add(UUID_SIZE))
            {
                place.copy_from_slice(&self.layout.uuid);
            }
        }
        self.last = Some(at);
        self.at = at.saturating_add(need);
        true
    }

    fn put_flags(&mut self, at: usize, flags: u32) {
        if self.layout.checksums == Checksums::V3 {
            put_be32(self.block, at.saturating_add(4), flags);
        } else {
            put_be16(self.block, at.saturating_add(6), halves(flags).0);
        }
    }

    /// Marks the last tag and stamps the block's checksum.
    pub fn finish(mut self) {
        if let Some(at) = self.last {
            let flags = if self.layout.checksums == Checksums::V3 {
                be32(self.block, at.saturating_add(4))
            } else {
                u32::from(be16(self.block, at.saturating_add(6)))
            };
            self.put_flags(at, flags | flag::LAST_TAG);
        }
        let layout = self.layout;
        layout.stamp_tail(self.block);
    }
}

/// The low and high 16 bits.
fn halves(value: u32) -> (u16, u16) {
    let [a, b, c, d] = value.to_le_bytes();
    (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))
}

/// The blocks of a revoke block, as read. Checks the count, not the block's checksum (`Layout::verify_tail`).
pub struct Revokes<'a> {
    records: &'a [u8],
    size: usize,
}

impl<'a> Revokes<'a> {
    pub fn new(block: &'a [u8], layout: &Layout) -> Result<Self> {
        let count = be32(block, HEADER_SIZE);
        let end = usize::try_from(count).unwrap_or(usize::MAX);
        let bad = end < REVOKE_HEADER || end > layout.body_end();
        match block.get(REVOKE_HEADER..end) {
            Some(records) if !bad => Ok(Self {
                records,
                size: layout.record_size(),
            }),
            _ => {
                let kind = CorruptKind::Field {
                    what: Structure::JournalRevoke,
                    field: "r_count",
                    found: u64::from(count),
                };
                Err(Error::corrupt(kind, Location::default()))
            }
        }
    }
}

impl Iterator for Revokes<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let (record, rest) = self.records.split_at_checked(self.size)?;
        self.records = rest;
        Some(if self.size == 8 {
            be64(record, 0)
        } else {
            u64::from(be32(record, 0))
        })
    }
}

/// Fills a revoke block.
pub struct RevokeWriter<'a> {
    block: &'a mut [u8],
    layout: Layout,
    at: usize,
}

impl<'a> RevokeWriter<'a> {
    pub fn new(block: &'a mut [u8], layout: &Layout, tid: Tid) -> Self {
        block.fill(0);
        Header {
            block_type: BlockType::Revoke,
            tid,
        }
        .write_to(block);
        Self {
            block,
            layout: *layout,
            at: REVOKE_HEADER,
        }
    }

    /// How many blocks one revoke block holds.
    pub fn capacity(layout: &Layout) -> u32 {
        let body = layout.body_end().saturating_sub(REVOKE_HEADER);
        u32::try_from(body.checked_div(layout.record_size()).unwrap_or(0)).unwrap_or(u32::MAX)
    }

    /// `false`: the block is full and nothing was added.
    #[must_use]
    pub fn push(&mut self, block: FsBlock) -> bool {
        let end = self.at.saturating_add(self.layout.record_size());
        if end > self.layout.body_end() {
            return false;
        }
        if self.layout.bit64 {
            put_be64(self.block, self.at, block.get());
        } else {
            put_be32(self.block, self.at, split(block.get()).0);
        }
        self.at = end;
        true
    }

    /// Writes the count and stamps the block's checksum.
    pub fn finish(self) {
        put_be32(
            self.block,
            HEADER_SIZE,
            u32::try_from(self.at).unwrap_or(u32::MAX),
        );
        self.layout.stamp_tail(self.block);
    }
}

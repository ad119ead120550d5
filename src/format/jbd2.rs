//! jbd2's blocks in the log: the header, the commit block, checksums and escaping of data blocks.
//!
//! Source: the kernel's ext4 documentation, "Journal (jbd2)". All of it is big-endian.
//! Invariants: parsers accept exactly what the writers here write, in every combination of 64bit and
//! checksum version; nothing here knows where in the log a block lies.

pub mod descriptor;
pub mod superblock;

pub use descriptor::{RevokeWriter, Revokes, Tag, TagWriter, Tags};
pub use superblock::JournalSuperblock;

use crate::error::{CorruptKind, Error, Location, Result, Structure};
use crate::format::checksum::crc32c;
use crate::format::raw::{be32, be64, put_be32, put_be64, u8_at};
use crate::format::time::Timestamp;
use crate::ids::Tid;

pub const MAGIC: u32 = 0xc03b_3998;
pub const HEADER_SIZE: usize = 12;

/// Compatible features of the journal.
pub mod compat {
    /// Checksum v1: one CRC over a transaction, in its commit block.
    pub const CHECKSUM: u32 = 0x1;
}

/// Incompatible features of the journal.
pub mod incompat {
    pub const REVOKE: u32 = 0x1;
    pub const BIT64: u32 = 0x2;
    pub const ASYNC_COMMIT: u32 = 0x4;
    pub const CSUM_V2: u32 = 0x8;
    pub const CSUM_V3: u32 = 0x10;
    pub const FAST_COMMIT: u32 = 0x20;
    pub const KNOWN: u32 = REVOKE | BIT64 | ASYNC_COMMIT | CSUM_V2 | CSUM_V3 | FAST_COMMIT;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockType {
    Descriptor,
    Commit,
    SuperblockV1,
    SuperblockV2,
    Revoke,
}

impl BlockType {
    fn from_raw(raw: u32) -> Option<Self> {
        Some(match raw {
            1 => Self::Descriptor,
            2 => Self::Commit,
            3 => Self::SuperblockV1,
            4 => Self::SuperblockV2,
            5 => Self::Revoke,
            _ => return None,
        })
    }

    fn raw(self) -> u32 {
        match self {
            Self::Descriptor => 1,
            Self::Commit => 2,
            Self::SuperblockV1 => 3,
            Self::SuperblockV2 => 4,
            Self::Revoke => 5,
        }
    }
}

/// The first 12 bytes of every block of the log that is not a data block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub block_type: BlockType,
    pub tid: Tid,
}

impl Header {
    /// `None` for a block that has no (known) header: a data block, or whatever the log held before.
    pub fn parse(block: &[u8]) -> Option<Self> {
        if be32(block, 0) != MAGIC {
            return None;
        }
        Some(Self {
            block_type: BlockType::from_raw(be32(block, 4))?,
            tid: Tid::new(be32(block, 8)),
        })
    }

    pub fn write_to(self, block: &mut [u8]) {
        put_be32(block, 0, MAGIC);
        put_be32(block, 4, self.block_type.raw());
        put_be32(block, 8, self.tid.get());
    }
}

/// Which checksums the journal carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksums {
    None,
    V1,
    V2,
    V3,
}

/// How the log's blocks are laid out: what every parser and writer of them needs from the journal superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes.
    pub block_size: usize,
    /// Block numbers have 64 bits.
    pub bit64: bool,
    pub checksums: Checksums,
    /// crc32c of the journal's uuid: the seed of all v2 and v3 checksums.
    pub seed: u32,
    pub uuid: [u8; 16],
}

impl Layout {
    /// Descriptor, revoke and commit blocks and the tags have checksums of their own.
    pub fn has_block_checksums(&self) -> bool {
        matches!(self.checksums, Checksums::V2 | Checksums::V3)
    }

    /// Bytes of a tag in a descriptor block, without the uuid that may follow it.
    pub fn tag_size(&self) -> usize {
        match (self.checksums, self.bit64) {
            (Checksums::V3, _) => 16,
            (Checksums::V2, true) => 14,
            (Checksums::V2, false) => 10,
            (_, true) => 12,
            (_, false) => 8,
        }
    }

    /// Bytes of a revoke record.
    pub fn record_size(&self) -> usize {
        if self.bit64 { 8 } else { 4 }
    }

    /// Where the records of a descriptor or revoke block end and its checksum, if any, begins.
    pub fn body_end(&self) -> usize {
        if self.has_block_checksums() {
            self.block_size.saturating_sub(4)
        } else {
            self.block_size
        }
    }

    /// The checksum of a data block for its tag, over the bytes as they are in the log (escaped). Only the low
    /// 16 bits are kept by v2; zero without v2 or v3.
    pub fn data_checksum(&self, tid: Tid, logged: &[u8]) -> u32 {
        let full = || crc32c(crc32c(self.seed, &tid.get().to_be_bytes()), logged);
        match self.checksums {
            Checksums::V3 => full(),
            Checksums::V2 => full() & 0xffff,
            Checksums::None | Checksums::V1 => 0,
        }
    }

    fn stamp_tail(&self, block: &mut [u8]) {
        if self.has_block_checksums() {
            let at = self.body_end();
            put_be32(block, at, 0);
            let sum = crc32c(self.seed, block);
            put_be32(block, at, sum);
        }
    }

    /// Checks the checksum at the end of a descriptor or revoke block.
    pub fn verify_tail(&self, block: &[u8], what: Structure) -> Result<()> {
        if block.len() != self.block_size {
            return Err(Error::corrupt(
                CorruptKind::Short { what },
                Location::default(),
            ));
        }
        if !self.has_block_checksums() {
            return Ok(());
        }
        let at = self.body_end();
        let expected = crc32c(crc32c(self.seed, block.get(..at).unwrap_or(&[])), &[0; 4]);
        checksum_matches(what, be32(block, at), expected)
    }
}

fn checksum_matches(what: Structure, found: u32, expected: u32) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::corrupt(
        CorruptKind::Checksum {
            what,
            found,
            expected,
        },
        Location::default(),
    ))
}

/// Whether a data block would be taken for a block with a header, so that its first 4 bytes must be zero in the
/// log and its tag says `ESCAPE`.
pub fn needs_escape(data: &[u8]) -> bool {
    be32(data, 0) == MAGIC
}

pub fn escape(data: &mut [u8]) {
    put_be32(data, 0, 0);
}

pub fn unescape(data: &mut [u8]) {
    put_be32(data, 0, MAGIC);
}

/// The running CRC of checksum v1 over a transaction's descriptor and data blocks, in the order of the log.
/// Revoke blocks do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionCrc(u32);

impl Default for TransactionCrc {
    fn default() -> Self {
        Self(u32::MAX)
    }
}

impl TransactionCrc {
    pub fn update(&mut self, logged: &[u8]) {
        const MPEG2: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_MPEG_2);
        let mut digest = MPEG2.digest_with_initial(self.0);
        digest.update(logged);
        self.0 = digest.finalize();
    }

    pub fn get(self) -> u32 {
        self.0
    }
}

/// The commit block's contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    pub tid: Tid,
    pub time: Timestamp,
    /// Checksum v1, where the block has one.
    pub crc: Option<u32>,
}

const CRC32_TYPE: u8 = 1;
const COMMIT_CSUM: usize = 16;
/// Bytes of a commit block's fields.
const COMMIT_FIELDS: usize = 60;

impl Commit {
    /// Fills a whole block.
    pub fn write_to(&self, block: &mut [u8], layout: &Layout) {
        block.fill(0);
        Header {
            block_type: BlockType::Commit,
            tid: self.tid,
        }
        .write_to(block);
        put_be64(block, 48, self.time.seconds.cast_unsigned());
        put_be32(block, 56, self.time.nanoseconds);
        if let (Checksums::V1, Some(crc)) = (layout.checksums, self.crc) {
            if let Some(kind) = block.get_mut(12..14) {
                kind.copy_from_slice(&[CRC32_TYPE, 4]);
            }
            put_be32(block, COMMIT_CSUM, crc);
        }
        if layout.has_block_checksums() {
            let sum = crc32c(layout.seed, block);
            put_be32(block, COMMIT_CSUM, sum);
        }
    }

    /// Parses a block whose header says `Commit`, without looking at its checksum.
    pub fn parse(block: &[u8], layout: &Layout) -> Self {
        let has_crc = layout.checksums == Checksums::V1
            && u8_at(block, 12) == CRC32_TYPE
            && u8_at(block, 13) == 4;
        Self {
            tid: Tid::new(be32(block, 8)),
            time: Timestamp {
                seconds: be64(block, 48).cast_signed(),
                nanoseconds: be32(block, 56),
            },
            crc: has_crc.then(|| be32(block, COMMIT_CSUM)),
        }
    }

    /// Checks the commit block's own checksum (v2 and v3). Nothing but zeros follows its fields: where something does, only the
    /// first sectors of the block came down before the power went, and with them all that there is to it.
    pub fn verify(block: &[u8], layout: &Layout) -> Result<()> {
        if block.len() != layout.block_size {
            return Err(Error::corrupt(
                CorruptKind::Short {
                    what: Structure::JournalCommit,
                },
                Location::default(),
            ));
        }
        if !layout.has_block_checksums() {
            return Ok(());
        }
        let part = |from, to| block.get(from..to).unwrap_or(&[]);
        let before = crc32c(layout.seed, part(0, COMMIT_CSUM));
        let fields = crc32c(
            crc32c(before, &[0; 4]),
            part(COMMIT_CSUM + 4, COMMIT_FIELDS),
        );
        let found = be32(block, COMMIT_CSUM);
        let rest = block.len().saturating_sub(COMMIT_FIELDS);
        if crc32c(fields, &vec![0; rest]) == found {
            return Ok(());
        }
        let expected = crc32c(fields, part(COMMIT_FIELDS, block.len()));
        checksum_matches(Structure::JournalCommit, found, expected)
    }
}

#[cfg(test)]
mod tests;

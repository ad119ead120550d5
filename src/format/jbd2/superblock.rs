//! The journal superblock: 1024 bytes at the start of the journal's first block.
//!
//! Source: the kernel's ext4 documentation, "Journal (jbd2)", "Super Block".
//! Invariants: what has passed `parse` has a log of at least one block, inside `maxlen`; unknown fields survive;
//! features that are not known refuse the journal.

use super::{BlockType, Checksums, Header, Layout, MAGIC, compat, incompat};
use crate::error::{CorruptKind, Error, Incompatible, Location, Result, Structure};
use crate::format::checksum::crc32c;
use crate::format::raw::{be32, put_be32, u8_at};
use crate::ids::Tid;

pub const SIZE: usize = 1024;
/// `s_checksum_type` of crc32c.
pub const CRC32C: u8 = 4;
/// Blocks of the fast commit area where `s_num_fc_blks` is zero.
const DEFAULT_FC_BLOCKS: u32 = 256;
const CHECKSUM_AT: usize = 0xfc;
const WHAT: Structure = Structure::JournalSuperblock;

/// The raw 1024 bytes with accessors named after jbd2's fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalSuperblock {
    bytes: Box<[u8; SIZE]>,
}

impl JournalSuperblock {
    /// Checks magic number, version, features, checksum and every number that a walk of the log uses. `blocks` is the
    /// number of blocks that the journal really has, `block_size` the file system's.
    pub fn parse(bytes: &[u8], block_size: u32, blocks: u64) -> Result<Self> {
        let Some(bytes) = bytes.first_chunk::<SIZE>() else {
            return Err(Error::corrupt(
                CorruptKind::Short { what: WHAT },
                Location::default(),
            ));
        };
        let this = Self {
            bytes: Box::new(*bytes),
        };
        let magic = be32(bytes, 0);
        if magic != MAGIC {
            let kind = CorruptKind::Magic {
                what: WHAT,
                found: magic,
                expected: MAGIC,
            };
            return Err(Error::corrupt(kind, Location::default()));
        }
        match Header::parse(bytes).map(|header| header.block_type) {
            Some(BlockType::SuperblockV1 | BlockType::SuperblockV2) => {}
            _ => return Err(field("h_blocktype", be32(bytes, 4))),
        }
        this.check_features()?;
        this.check_numbers(block_size, blocks)?;
        Ok(this)
    }

    /// A new, clean journal of `blocks` blocks (with the superblock), all features off.
    pub fn new(block_size: u32, blocks: u32, uuid: [u8; 16]) -> Self {
        let mut this = Self {
            bytes: Box::new([0; SIZE]),
        };
        Header {
            block_type: BlockType::SuperblockV2,
            tid: Tid::new(0),
        }
        .write_to(&mut *this.bytes);
        this.put(0x0c, block_size);
        this.put(0x10, blocks);
        this.put(0x14, 1);
        this.put(0x18, 1);
        this.put(0x40, 1);
        if let Some(place) = this.bytes.get_mut(0x30..0x40) {
            place.copy_from_slice(&uuid);
        }
        this
    }

    fn check_features(&self) -> Result<()> {
        let unknown = self.feature_incompat() & !incompat::KNOWN;
        let ro_compat = if self.is_v2() { self.get(0x2c) } else { 0 };
        if ro_compat != 0 {
            return Err(Incompatible::UnknownJournal(ro_compat).into());
        }
        if unknown != 0 {
            return Err(Incompatible::UnknownJournal(unknown).into());
        }
        let v2 = self.has_incompat(incompat::CSUM_V2);
        let v3 = self.has_incompat(incompat::CSUM_V3);
        let v1 = self.feature_compat() & compat::CHECKSUM != 0;
        if (v2 && v3) || (v1 && (v2 || v3)) {
            return Err(field("s_feature_incompat", self.feature_incompat()));
        }
        if !(v2 || v3) {
            return Ok(());
        }
        let kind = u8_at(&*self.bytes, 0x50);
        if kind != CRC32C {
            return Err(field("s_checksum_type", u32::from(kind)));
        }
        let (found, expected) = (be32(&*self.bytes, CHECKSUM_AT), self.checksum());
        if found != expected {
            let kind = CorruptKind::Checksum {
                what: WHAT,
                found,
                expected,
            };
            return Err(Error::corrupt(kind, Location::default()));
        }
        Ok(())
    }

    fn check_numbers(&self, block_size: u32, blocks: u64) -> Result<()> {
        if self.get(0x0c) != block_size {
            let kind = CorruptKind::Mismatch {
                what: WHAT,
                field: "s_blocksize",
                found: u64::from(self.get(0x0c)),
                expected: u64::from(block_size),
            };
            return Err(Error::corrupt(kind, Location::default()));
        }
        if u64::from(self.maxlen()) > blocks || self.maxlen() < 2 {
            return Err(field("s_maxlen", self.maxlen()));
        }
        if self.num_fc_blocks() >= self.maxlen() {
            return Err(field("s_num_fc_blks", self.num_fc_blocks()));
        }
        if self.first() == 0 || self.first() >= self.log_end() {
            return Err(field("s_first", self.first()));
        }
        if self.start() != 0 && !(self.first()..self.log_end()).contains(&self.start()) {
            return Err(field("s_start", self.start()));
        }
        Ok(())
    }

    fn get(&self, at: usize) -> u32 {
        be32(&*self.bytes, at)
    }

    fn put(&mut self, at: usize, value: u32) {
        put_be32(&mut *self.bytes, at, value);
    }

    fn is_v2(&self) -> bool {
        self.get(4) == 4
    }

    fn checksum(&self) -> u32 {
        let mut bytes = *self.bytes;
        put_be32(&mut bytes, CHECKSUM_AT, 0);
        crc32c(u32::MAX, &bytes)
    }

    pub fn layout(&self) -> Layout {
        let checksums = if self.has_incompat(incompat::CSUM_V3) {
            Checksums::V3
        } else if self.has_incompat(incompat::CSUM_V2) {
            Checksums::V2
        } else if self.feature_compat() & compat::CHECKSUM != 0 {
            Checksums::V1
        } else {
            Checksums::None
        };
        Layout {
            block_size: usize::try_from(self.get(0x0c)).unwrap_or(0),
            bit64: self.has_incompat(incompat::BIT64),
            checksums,
            seed: crc32c(u32::MAX, &self.uuid()),
            uuid: self.uuid(),
        }
    }

    /// Blocks of the journal, with its superblock.
    pub fn maxlen(&self) -> u32 {
        self.get(0x10)
    }

    /// The log's first block, counted in the journal.
    pub fn first(&self) -> u32 {
        self.get(0x14)
    }

    /// One past the log's last block: the fast commit area, if any, lies behind it.
    pub fn log_end(&self) -> u32 {
        self.maxlen().saturating_sub(self.num_fc_blocks())
    }

    /// The first transaction expected in the log; on a clean journal the last one that was used.
    pub fn sequence(&self) -> Tid {
        Tid::new(self.get(0x18))
    }

    pub fn set_sequence(&mut self, tid: Tid) {
        self.put(0x18, tid.get());
    }

    /// Where the log starts, counted in the journal; 0 when the journal is clean.
    pub fn start(&self) -> u32 {
        self.get(0x1c)
    }

    pub fn set_start(&mut self, block: u32) {
        self.put(0x1c, block);
    }

    /// What the journal was aborted with; 0 when it was not.
    pub fn errno(&self) -> i32 {
        self.get(0x20).cast_signed()
    }

    pub fn set_errno(&mut self, errno: i32) {
        self.put(0x20, errno.cast_unsigned());
    }

    pub fn feature_compat(&self) -> u32 {
        if self.is_v2() { self.get(0x24) } else { 0 }
    }

    pub fn set_feature_compat(&mut self, bits: u32) {
        self.put(0x24, bits);
    }

    pub fn feature_incompat(&self) -> u32 {
        if self.is_v2() { self.get(0x28) } else { 0 }
    }

    /// With a checksum feature the checksum type becomes crc32c.
    pub fn set_feature_incompat(&mut self, bits: u32) {
        Header {
            block_type: BlockType::SuperblockV2,
            tid: Tid::new(self.get(8)),
        }
        .write_to(&mut *self.bytes);
        self.put(0x28, bits);
        let sums = bits & (incompat::CSUM_V2 | incompat::CSUM_V3) != 0;
        if let Some(kind) = self.bytes.get_mut(0x50) {
            *kind = if sums { CRC32C } else { 0 };
        }
        if !sums {
            self.put(CHECKSUM_AT, 0);
        }
    }

    pub fn has_incompat(&self, bit: u32) -> bool {
        self.feature_incompat() & bit != 0
    }

    pub fn uuid(&self) -> [u8; 16] {
        self.bytes
            .get(0x30..)
            .and_then(|rest| rest.first_chunk())
            .copied()
            .unwrap_or_default()
    }

    /// Blocks of the fast commit area at the journal's end; 0 without the feature.
    pub fn num_fc_blocks(&self) -> u32 {
        match (self.has_incompat(incompat::FAST_COMMIT), self.get(0x54)) {
            (false, _) => 0,
            (true, 0) => DEFAULT_FC_BLOCKS,
            (true, count) => count,
        }
    }

    /// Where the log ended at a clean unmount, counted in the journal; a hint only.
    pub fn head(&self) -> u32 {
        self.get(0x58)
    }

    pub fn set_head(&mut self, block: u32) {
        self.put(0x58, block);
    }

    /// The bytes with the checksum stamped.
    pub fn to_bytes(&self) -> [u8; SIZE] {
        let mut bytes = *self.bytes;
        self.write_to(&mut bytes);
        bytes
    }

    /// Writes it to the start of the journal's first block, with the checksum stamped.
    pub fn write_to(&self, block: &mut [u8]) {
        if let Some(place) = block.first_chunk_mut::<SIZE>() {
            *place = *self.bytes;
            if self.layout().has_block_checksums() {
                put_be32(place, CHECKSUM_AT, self.checksum());
            }
        }
    }
}

fn field(field: &'static str, found: u32) -> Error {
    let kind = CorruptKind::Field {
        what: WHAT,
        field,
        found: u64::from(found),
    };
    Error::corrupt(kind, Location::default())
}

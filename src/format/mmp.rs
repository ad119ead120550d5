//! The multi-mount protection block.
//!
//! Source: the kernel's ext4 documentation, "Multiple Mount Protection".
//! Invariants: an `Mmp` has a valid magic number and, with metadata_csum, checksum.

use crate::error::{CorruptKind, Error, Location, Result, Structure};
use crate::format::checksum::crc32c;
use crate::format::geometry::Geometry;
use crate::format::raw;

pub const MAGIC: u32 = 0x004d_4d50;
/// mmp_seq of a cleanly unmounted file system.
pub const SEQ_CLEAN: u32 = 0xff4d_4d50;
/// mmp_seq while a check runs.
pub const SEQ_FSCK: u32 = 0xe24d_4d50;
/// The largest mmp_seq of a mounted file system.
pub const SEQ_MAX: u32 = 0xe24d_4d4f;

const CHECKSUM_AT: usize = 0x3fc;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mmp {
    pub seq: u32,
    /// Seconds since 1970 of the last update.
    pub time: u64,
    /// Host that has it mounted.
    pub nodename: [u8; 64],
    pub bdevname: [u8; 32],
    /// Seconds.
    pub check_interval: u16,
}

impl Mmp {
    /// Parses and verifies the block's first 1024 bytes.
    pub fn parse(bytes: &[u8], geo: &Geometry) -> Result<Self> {
        let what = Structure::Mmp;
        let corrupt = |kind| Error::corrupt(kind, Location::default());
        let Some(bytes) = bytes.first_chunk::<1024>() else {
            return Err(corrupt(CorruptKind::Short { what }));
        };
        let found = raw::le32(bytes, 0);
        if found != MAGIC {
            return Err(corrupt(CorruptKind::Magic {
                what,
                found,
                expected: MAGIC,
            }));
        }
        let found = raw::le32(bytes, CHECKSUM_AT);
        let expected = checksum(bytes, geo);
        if geo.features.metadata_csum() && found != expected {
            return Err(corrupt(CorruptKind::Checksum {
                what,
                found,
                expected,
            }));
        }
        let mut mmp = Self {
            seq: raw::le32(bytes, 4),
            time: raw::le64(bytes, 8),
            nodename: [0; 64],
            bdevname: [0; 32],
            check_interval: raw::le16(bytes, 112),
        };
        mmp.nodename
            .copy_from_slice(bytes.get(16..80).unwrap_or(&[0; 64]));
        mmp.bdevname
            .copy_from_slice(bytes.get(80..112).unwrap_or(&[0; 32]));
        Ok(mmp)
    }

    /// Writes the fields and stamps the checksum; other bytes survive.
    pub fn write_to(&self, bytes: &mut [u8], geo: &Geometry) {
        raw::put_le32(bytes, 0, MAGIC);
        raw::put_le32(bytes, 4, self.seq);
        raw::put_le64(bytes, 8, self.time);
        if let Some(field) = bytes.get_mut(16..80) {
            field.copy_from_slice(&self.nodename);
        }
        if let Some(field) = bytes.get_mut(80..112) {
            field.copy_from_slice(&self.bdevname);
        }
        raw::put_le16(bytes, 112, self.check_interval);
        if geo.features.metadata_csum() {
            let sum = checksum(bytes, geo);
            raw::put_le32(bytes, CHECKSUM_AT, sum);
        }
    }

    pub fn is_clean(&self) -> bool {
        self.seq == SEQ_CLEAN
    }
}

fn checksum(bytes: &[u8], geo: &Geometry) -> u32 {
    crc32c(geo.csum_seed, bytes.get(..CHECKSUM_AT).unwrap_or_default())
}

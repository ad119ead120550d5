//! The superblock: 1024 bytes at byte 1024 and in the backup groups.
//!
//! Source: the kernel's ext4 documentation, "Super Block".
//! Invariants: a `Superblock` has a valid magic number and, with metadata_csum, checksum; `geometry` is the
//! only way to numbers that arithmetic may trust. `to_bytes` keeps unknown fields and stamps the checksum.

mod validate;

use crate::error::{CorruptKind, Error, Incompatible, Location, Result, Structure};
use crate::format::checksum::crc32c;
use crate::format::features::{Features, ro_compat};
use crate::format::raw::{join, le16, le32, put_le16, put_le32, split, u8_at};

pub const SIZE: usize = 1024;
pub const OFFSET: u64 = 1024;
pub const MAGIC: u16 = 0xef53;
/// `s_checksum_type` of crc32c.
const CRC32C: u8 = 1;
const CHECKSUM_AT: usize = 0x3fc;

pub mod state {
    pub const VALID_FS: u16 = 1;
    pub const ERROR_FS: u16 = 2;
    pub const ORPHAN_FS: u16 = 4;
}

/// `s_first_error_errcode` and `s_last_error_errcode`.
pub mod error_code {
    pub const EIO: u8 = 2;
    pub const EFSBADCRC: u8 = 4;
    pub const EFSCORRUPTED: u8 = 5;
}

/// The raw 1024 bytes with accessors named after the kernel's fields.
#[derive(Clone)]
pub struct Superblock {
    bytes: Box<[u8; SIZE]>,
}

macro_rules! fields {
    ($($get:ident $set:ident $at:literal $int:ident;)*) => {
        $(fields!(@one $get $set $at $int);)*
    };
    (@one $get:ident $set:ident $at:literal u8) => {
        pub fn $get(&self) -> u8 {
            u8_at(&self.bytes[..], $at)
        }
        pub fn $set(&mut self, value: u8) {
            if let Some(byte) = self.bytes.get_mut($at) {
                *byte = value;
            }
        }
    };
    (@one $get:ident $set:ident $at:literal u16) => {
        pub fn $get(&self) -> u16 {
            le16(&self.bytes[..], $at)
        }
        pub fn $set(&mut self, value: u16) {
            put_le16(&mut self.bytes[..], $at, value);
        }
    };
    (@one $get:ident $set:ident $at:literal u32) => {
        pub fn $get(&self) -> u32 {
            le32(&self.bytes[..], $at)
        }
        pub fn $set(&mut self, value: u32) {
            put_le32(&mut self.bytes[..], $at, value);
        }
    };
}

/// Fields of two separate 32-bit halves.
macro_rules! wide_fields {
    ($($get:ident $set:ident $lo:literal $hi:literal;)*) => {
        $(
            pub fn $get(&self) -> u64 {
                join(le32(&self.bytes[..], $lo), le32(&self.bytes[..], $hi))
            }
            pub fn $set(&mut self, value: u64) {
                let (lo, hi) = split(value);
                put_le32(&mut self.bytes[..], $lo, lo);
                put_le32(&mut self.bytes[..], $hi, hi);
            }
        )*
    };
}

/// Times: 32 bits of seconds, and 8 more far behind.
macro_rules! time_fields {
    ($($get:ident $set:ident $lo:literal $hi:literal;)*) => {
        $(
            pub fn $get(&self) -> i64 {
                let seconds = join(le32(&self.bytes[..], $lo), u32::from(u8_at(&self.bytes[..], $hi)));
                seconds.cast_signed()
            }
            pub fn $set(&mut self, seconds: i64) {
                let (lo, hi) = split(seconds.cast_unsigned());
                put_le32(&mut self.bytes[..], $lo, lo);
                if let Some(byte) = self.bytes.get_mut($hi) {
                    *byte = hi.to_le_bytes()[0];
                }
            }
        )*
    };
}

#[allow(clippy::indexing_slicing)] // full ranges of an array
impl Superblock {
    /// Checks length, magic number and checksum.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let Some(bytes) = bytes.first_chunk::<SIZE>() else {
            let kind = CorruptKind::Short {
                what: Structure::Superblock,
            };
            return Err(Error::corrupt(kind, Location::default()));
        };
        let sb = Self {
            bytes: Box::new(*bytes),
        };
        if sb.s_magic() != MAGIC {
            return Err(Incompatible::NotExt4.into());
        }
        if sb.features().has_ro_compat(ro_compat::METADATA_CSUM) {
            if sb.s_checksum_type() != CRC32C {
                let kind = CorruptKind::Field {
                    what: Structure::Superblock,
                    field: "s_checksum_type",
                    found: u64::from(sb.s_checksum_type()),
                };
                return Err(Error::corrupt(kind, Location::default()));
            }
            let (found, expected) = (sb.s_checksum(), sb.checksum());
            if found != expected {
                let what = Structure::Superblock;
                let kind = CorruptKind::Checksum {
                    what,
                    found,
                    expected,
                };
                return Err(Error::corrupt(kind, Location::default()));
            }
        }
        Ok(sb)
    }

    /// All zeros but for the magic number, to be filled.
    pub fn new() -> Self {
        let mut sb = Self {
            bytes: Box::new([0; SIZE]),
        };
        sb.set_s_magic(MAGIC);
        sb
    }

    /// The bytes with the checksum stamped.
    pub fn to_bytes(&self) -> [u8; SIZE] {
        let mut bytes = *self.bytes;
        if self.features().has_ro_compat(ro_compat::METADATA_CSUM) {
            put_le32(&mut bytes, CHECKSUM_AT, self.checksum());
        }
        bytes
    }

    fn checksum(&self) -> u32 {
        crc32c(u32::MAX, self.bytes.get(..CHECKSUM_AT).unwrap_or(&[]))
    }

    /// The seed of every other checksum.
    pub fn csum_seed(&self) -> u32 {
        use crate::format::features::incompat::CSUM_SEED;
        if self.features().has_incompat(CSUM_SEED) {
            self.s_checksum_seed()
        } else {
            crc32c(u32::MAX, &self.s_uuid())
        }
    }

    pub fn features(&self) -> Features {
        Features {
            compat: self.s_feature_compat(),
            incompat: self.s_feature_incompat(),
            ro_compat: self.s_feature_ro_compat(),
        }
    }

    pub fn set_feature_compat(&mut self, bits: u32) {
        self.set_s_feature_compat(bits);
    }

    pub fn set_feature_incompat(&mut self, bits: u32) {
        self.set_s_feature_incompat(bits);
    }

    pub fn set_feature_ro_compat(&mut self, bits: u32) {
        self.set_s_feature_ro_compat(bits);
    }

    fields! {
        s_inodes_count set_s_inodes_count 0x00 u32;
        s_free_inodes_count set_s_free_inodes_count 0x10 u32;
        s_first_data_block set_s_first_data_block 0x14 u32;
        s_log_block_size set_s_log_block_size 0x18 u32;
        s_log_cluster_size set_s_log_cluster_size 0x1c u32;
        s_blocks_per_group set_s_blocks_per_group 0x20 u32;
        s_clusters_per_group set_s_clusters_per_group 0x24 u32;
        s_inodes_per_group set_s_inodes_per_group 0x28 u32;
        s_mnt_count set_s_mnt_count 0x34 u16;
        s_max_mnt_count set_s_max_mnt_count 0x36 u16;
        s_magic set_s_magic 0x38 u16;
        s_state set_s_state 0x3a u16;
        s_errors set_s_errors 0x3c u16;
        s_minor_rev_level set_s_minor_rev_level 0x3e u16;
        s_checkinterval set_s_checkinterval 0x44 u32;
        s_creator_os set_s_creator_os 0x48 u32;
        s_rev_level set_s_rev_level 0x4c u32;
        s_def_resuid set_s_def_resuid 0x50 u16;
        s_def_resgid set_s_def_resgid 0x52 u16;
        s_first_ino set_s_first_ino 0x54 u32;
        s_inode_size set_s_inode_size 0x58 u16;
        s_block_group_nr set_s_block_group_nr 0x5a u16;
        s_feature_compat set_s_feature_compat 0x5c u32;
        s_feature_incompat set_s_feature_incompat 0x60 u32;
        s_feature_ro_compat set_s_feature_ro_compat 0x64 u32;
        s_reserved_gdt_blocks set_s_reserved_gdt_blocks 0xce u16;
        s_journal_inum set_s_journal_inum 0xe0 u32;
        s_journal_dev set_s_journal_dev 0xe4 u32;
        s_last_orphan set_s_last_orphan 0xe8 u32;
        s_def_hash_version set_s_def_hash_version 0xfc u8;
        s_jnl_backup_type set_s_jnl_backup_type 0xfd u8;
        s_desc_size set_s_desc_size 0xfe u16;
        s_default_mount_opts set_s_default_mount_opts 0x100 u32;
        s_first_meta_bg set_s_first_meta_bg 0x104 u32;
        s_mkfs_time set_s_mkfs_time 0x108 u32;
        s_min_extra_isize set_s_min_extra_isize 0x15c u16;
        s_want_extra_isize set_s_want_extra_isize 0x15e u16;
        s_flags set_s_flags 0x160 u32;
        s_raid_stride set_s_raid_stride 0x164 u16;
        s_mmp_update_interval set_s_mmp_update_interval 0x166 u16;
        s_raid_stripe_width set_s_raid_stripe_width 0x170 u32;
        s_log_groups_per_flex set_s_log_groups_per_flex 0x174 u8;
        s_checksum_type set_s_checksum_type 0x175 u8;
        s_error_count set_s_error_count 0x194 u32;
        s_first_error_ino set_s_first_error_ino 0x19c u32;
        s_first_error_line set_s_first_error_line 0x1c8 u32;
        s_last_error_ino set_s_last_error_ino 0x1d0 u32;
        s_last_error_line set_s_last_error_line 0x1d4 u32;
        s_usr_quota_inum set_s_usr_quota_inum 0x240 u32;
        s_grp_quota_inum set_s_grp_quota_inum 0x244 u32;
        s_overhead_clusters set_s_overhead_clusters 0x248 u32;
        s_lpf_ino set_s_lpf_ino 0x268 u32;
        s_prj_quota_inum set_s_prj_quota_inum 0x26c u32;
        s_checksum_seed set_s_checksum_seed 0x270 u32;
        s_first_error_errcode set_s_first_error_errcode 0x27a u8;
        s_last_error_errcode set_s_last_error_errcode 0x27b u8;
        s_encoding set_s_encoding 0x27c u16;
        s_orphan_file_inum set_s_orphan_file_inum 0x280 u32;
        s_checksum set_s_checksum 0x3fc u32;
    }

    wide_fields! {
        s_blocks_count set_s_blocks_count 0x04 0x150;
        s_r_blocks_count set_s_r_blocks_count 0x08 0x154;
        s_free_blocks_count set_s_free_blocks_count 0x0c 0x158;
        s_mmp_block set_s_mmp_block 0x168 0x16c;
        s_kbytes_written set_s_kbytes_written 0x178 0x17c;
        s_first_error_block set_s_first_error_block 0x1a0 0x1a4;
        s_last_error_block set_s_last_error_block 0x1d8 0x1dc;
    }

    time_fields! {
        s_mtime set_s_mtime 0x2c 0x275;
        s_wtime set_s_wtime 0x30 0x274;
        s_lastcheck set_s_lastcheck 0x40 0x277;
        s_first_error_time set_s_first_error_time 0x198 0x278;
        s_last_error_time set_s_last_error_time 0x1cc 0x279;
    }

    /// The user whose files may use the reserved blocks; the upper halves lie far behind.
    pub fn def_resuid(&self) -> u32 {
        u32::from(self.s_def_resuid()) | (u32::from(le16(&self.bytes[..], 0x284)) << 16)
    }

    pub fn def_resgid(&self) -> u32 {
        u32::from(self.s_def_resgid()) | (u32::from(le16(&self.bytes[..], 0x286)) << 16)
    }

    pub fn s_uuid(&self) -> [u8; 16] {
        self.array(0x68)
    }

    pub fn s_journal_uuid(&self) -> [u8; 16] {
        self.array(0xd0)
    }

    pub fn s_volume_name(&self) -> [u8; 16] {
        self.array(0x78)
    }

    pub fn s_last_mounted(&self) -> [u8; 64] {
        self.array(0x88)
    }

    pub fn s_hash_seed(&self) -> [u32; 4] {
        [0xec, 0xf0, 0xf4, 0xf8].map(|at| le32(&self.bytes[..], at))
    }

    pub fn s_backup_bgs(&self) -> [u32; 2] {
        [0x24c, 0x250].map(|at| le32(&self.bytes[..], at))
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        self.bytes
            .get(at..)
            .and_then(|rest| rest.first_chunk::<N>())
            .copied()
            .unwrap_or([0; N])
    }

    /// Copies bytes to a place of the superblock; what lies beyond its end is left out.
    pub fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(rest) = self.bytes.get_mut(at..) {
            for (to, from) in rest.iter_mut().zip(bytes) {
                *to = *from;
            }
        }
    }

    /// Takes over another version's record of errors.
    pub fn copy_errors(&mut self, from: &Self) {
        for range in [0x194..0x200, 0x278..0x27c] {
            self.put(range.start, from.bytes.get(range).unwrap_or(&[]));
        }
    }

    /// Counts an error; the first one stays on record, the last one is replaced.
    pub fn record_error(
        &mut self,
        time: i64,
        ino: u32,
        block: u64,
        function: &str,
        line: u32,
        code: u8,
    ) {
        let mut name = [0_u8; 32];
        for (to, from) in name.iter_mut().take(31).zip(function.bytes()) {
            *to = from;
        }
        if self.s_error_count() == 0 {
            self.set_s_first_error_time(time);
            self.set_s_first_error_ino(ino);
            self.set_s_first_error_block(block);
            self.set_s_first_error_line(line);
            self.set_s_first_error_errcode(code);
            self.put(0x1a8, &name);
        }
        self.set_s_last_error_time(time);
        self.set_s_last_error_ino(ino);
        self.set_s_last_error_block(block);
        self.set_s_last_error_line(line);
        self.set_s_last_error_errcode(code);
        self.put(0x1e0, &name);
        self.set_s_error_count(self.s_error_count().saturating_add(1));
    }
}

impl Default for Superblock {
    fn default() -> Self {
        Self::new()
    }
}

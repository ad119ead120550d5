//! An inode's raw bytes: fields are read and written in place, nothing is believed.
//!
//! Source: the kernel's ext4 documentation, "Index Nodes".
//! Invariants: bytes without a name here survive every change.

use uext4::format::features::ro_compat;
use uext4::format::geometry::Geometry;
use uext4::format::inode::{self, flag, mode};
use uext4::format::raw::{join, le16, le32, put_le16, put_le32, split};
use uext4::ids::InodeNumber;

pub const OLD_SIZE: usize = 128;
pub const I_BLOCK: usize = 0x28;
pub const I_BLOCK_LEN: usize = 60;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raw {
    pub bytes: Vec<u8>,
}

impl Raw {
    pub fn zeroed(geo: &Geometry) -> Self {
        Self {
            bytes: vec![0; geo.inode_size as usize],
        }
    }

    pub fn get16(&self, at: usize) -> u16 {
        le16(&self.bytes, at)
    }
    pub fn get32(&self, at: usize) -> u32 {
        le32(&self.bytes, at)
    }
    pub fn put16(&mut self, at: usize, value: u16) {
        put_le16(&mut self.bytes, at, value);
    }
    pub fn put32(&mut self, at: usize, value: u32) {
        put_le32(&mut self.bytes, at, value);
    }

    pub fn mode(&self) -> u16 {
        self.get16(0)
    }
    pub fn set_mode(&mut self, mode: u16) {
        self.put16(0, mode);
    }
    pub fn kind(&self) -> u16 {
        self.mode() & mode::FMT
    }
    pub fn is_dir(&self) -> bool {
        self.kind() == mode::DIR
    }
    pub fn is_reg(&self) -> bool {
        self.kind() == mode::REG
    }
    pub fn is_symlink(&self) -> bool {
        self.kind() == mode::LNK
    }
    pub fn is_special(&self) -> bool {
        matches!(self.kind(), mode::CHR | mode::BLK | mode::FIFO | mode::SOCK)
    }
    /// As in directory entries; 0 for none.
    pub fn file_type(&self) -> u8 {
        match self.kind() {
            mode::REG => 1,
            mode::DIR => 2,
            mode::CHR => 3,
            mode::BLK => 4,
            mode::FIFO => 5,
            mode::SOCK => 6,
            mode::LNK => 7,
            _ => 0,
        }
    }
    pub fn size(&self) -> u64 {
        join(self.get32(4), self.get32(0x6c))
    }
    pub fn set_size(&mut self, size: u64) {
        let (lo, hi) = split(size);
        self.put32(4, lo);
        self.put32(0x6c, hi);
    }
    pub fn size_high(&self) -> u32 {
        self.get32(0x6c)
    }
    pub fn dtime(&self) -> u32 {
        self.get32(0x14)
    }
    pub fn set_dtime(&mut self, time: u32) {
        self.put32(0x14, time);
    }
    pub fn links(&self) -> u16 {
        self.get16(0x1a)
    }
    pub fn set_links(&mut self, links: u16) {
        self.put16(0x1a, links);
    }
    pub fn flags(&self) -> u32 {
        self.get32(0x20)
    }
    pub fn set_flags(&mut self, flags: u32) {
        self.put32(0x20, flags);
    }
    pub fn has(&self, flag: u32) -> bool {
        self.flags() & flag != 0
    }
    pub fn clear_flag(&mut self, flag: u32) {
        self.set_flags(self.flags() & !flag);
    }
    pub fn generation(&self) -> u32 {
        self.get32(0x64)
    }
    pub fn uid(&self) -> u32 {
        u32::from(self.get16(2)) | (u32::from(self.get16(0x78)) << 16)
    }
    pub fn gid(&self) -> u32 {
        u32::from(self.get16(0x18)) | (u32::from(self.get16(0x7a)) << 16)
    }
    pub fn projid(&self) -> u32 {
        if self.extra_isize() >= 32 {
            self.get32(0x9c)
        } else {
            0
        }
    }
    pub fn file_acl(&self) -> u64 {
        join(self.get32(0x68), u32::from(self.get16(0x76)))
    }
    pub fn set_file_acl(&mut self, block: u64) {
        let (lo, hi) = split(block);
        self.put32(0x68, lo);
        self.put16(0x76, hi as u16);
    }
    pub fn extra_isize(&self) -> u16 {
        if self.bytes.len() > OLD_SIZE {
            self.get16(0x80)
        } else {
            0
        }
    }
    pub fn i_block(&self) -> &[u8] {
        self.bytes
            .get(I_BLOCK..I_BLOCK + I_BLOCK_LEN)
            .unwrap_or(&[])
    }
    pub fn i_block_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[I_BLOCK..I_BLOCK + I_BLOCK_LEN]
    }
    pub fn pointer(&self, slot: usize) -> u32 {
        self.get32(I_BLOCK + 4 * slot)
    }
    pub fn set_pointer(&mut self, slot: usize, block: u32) {
        self.put32(I_BLOCK + 4 * slot, block);
    }

    /// `i_blocks` in sectors.
    pub fn sectors(&self, geo: &Geometry) -> u64 {
        let lo = u64::from(self.get32(0x1c));
        if !geo.features.has_ro_compat(ro_compat::HUGE_FILE) {
            return lo;
        }
        let all = lo | (u64::from(self.get16(0x74)) << 32);
        if self.has(flag::HUGE_FILE) {
            all << (geo.block_bits - 9)
        } else {
            all
        }
    }

    pub fn set_sectors(&mut self, geo: &Geometry, sectors: u64) {
        let mut value = sectors;
        if geo.features.has_ro_compat(ro_compat::HUGE_FILE) {
            self.clear_flag(flag::HUGE_FILE);
            if value >> 48 != 0 {
                self.set_flags(self.flags() | flag::HUGE_FILE);
                value >>= geo.block_bits - 9;
            }
            self.put16(0x74, (value >> 32) as u16);
        }
        self.put32(0x1c, value as u32);
    }

    pub fn seed(&self, geo: &Geometry, ino: u32) -> u32 {
        let seed = uext4::format::checksum::crc32c(geo.csum_seed, &ino.to_le_bytes());
        uext4::format::checksum::crc32c(seed, &self.generation().to_le_bytes())
    }

    pub fn stamp(&mut self, geo: &Geometry, ino: u32) {
        inode::stamp_checksum(&mut self.bytes, geo, InodeNumber::new(ino));
    }

    pub fn checksum_is_right(&self, geo: &Geometry, ino: u32) -> bool {
        if !geo.features.metadata_csum() {
            return true;
        }
        let mut copy = self.clone();
        copy.stamp(geo, ino);
        copy.bytes == self.bytes
    }

    pub fn is_zero(&self) -> bool {
        self.bytes.iter().all(|byte| *byte == 0)
    }

    /// A symbolic link that lies in `i_block`.
    pub fn is_fast_symlink(&self) -> bool {
        self.is_symlink()
            && !self.has(flag::INLINE_DATA)
            && (1..I_BLOCK_LEN as u64).contains(&self.size())
    }
}

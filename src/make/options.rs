//! What a person may choose about a new file system, and what a size implies.
//!
//! Source: mke2fs.conf's types `floppy`, `small`, `big` and `huge`.
//! Invariants: `None` means "as mke2fs would"; nothing here reads a clock or a random number.

use super::{FeatureSet, MakeError};
use crate::format::time::Timestamp;

const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes that the file system may take.
    pub size: u64,
    /// Bytes: a power of two from 1024 to 65536.
    pub block_size: Option<u32>,
    pub features: FeatureSet,
    /// At most 16 bytes.
    pub label: Vec<u8>,
    pub uuid: [u8; 16],
    pub hash_seed: [u8; 16],
    pub time: Timestamp,
    /// Hundredths of a percent of the blocks, for the super-user.
    pub reserved: u32,
    pub bytes_per_inode: Option<u32>,
    pub inodes: Option<u32>,
    /// Bytes: a power of two from 128 to the block size.
    pub inode_size: u32,
    /// Bytes.
    pub journal_size: Option<u64>,
}

impl Options {
    /// The defaults for `size` bytes.
    pub fn new(size: u64, uuid: [u8; 16], hash_seed: [u8; 16], time: Timestamp) -> Self {
        Self {
            size,
            block_size: None,
            features: FeatureSet::default(),
            label: Vec::new(),
            uuid,
            hash_seed,
            time,
            reserved: 500,
            bytes_per_inode: None,
            inodes: None,
            inode_size: 256,
            journal_size: None,
        }
    }

    /// Blocks of 1 KiB below 512 MiB, else 4 KiB.
    pub fn block_size(&self) -> u32 {
        self.block_size
            .unwrap_or(if self.size < 512 * MIB { 1024 } else { 4096 })
    }

    /// Bytes of the volume for which one inode is made.
    pub fn bytes_per_inode(&self) -> u64 {
        let by_size = match self.size {
            size if size < 3 * MIB => 8192,
            size if size < 512 * MIB => 4096,
            size if size < 4 * TIB => 16384,
            size if size < 16 * TIB => 32768,
            _ => 65536,
        };
        u64::from(
            self.bytes_per_inode
                .unwrap_or_else(|| by_size.max(self.block_size())),
        )
    }

    /// Checks each value by itself.
    pub fn check(&self) -> Result<(), MakeError> {
        let block_size = self.block_size();
        let invalid = |what: String| Err(MakeError::Invalid(what));
        if !block_size.is_power_of_two() || !(1024..=65536).contains(&block_size) {
            return invalid(format!(
                "block size {block_size}: must be a power of two from 1024 to 65536"
            ));
        }
        if !self.inode_size.is_power_of_two() || !(128..=block_size).contains(&self.inode_size) {
            let size = self.inode_size;
            return invalid(format!(
                "inode size {size}: must be a power of two from 128 to the block size {block_size}"
            ));
        }
        if self.label.len() > 16 {
            return invalid(format!(
                "the label has {} bytes, at most 16 fit",
                self.label.len()
            ));
        }
        if self.reserved > 5000 {
            return invalid("more than 50 percent reserved blocks".into());
        }
        if let Some(bytes) = self.bytes_per_inode
            && !(1024..=64 << 20).contains(&bytes)
        {
            return invalid(format!(
                "{bytes} bytes per inode: must be from 1024 to 67108864"
            ));
        }
        Ok(())
    }
}

/// A UUID in any of its usual spellings.
pub fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    uuid::Uuid::parse_str(text).ok().map(uuid::Uuid::into_bytes)
}

/// The UUID in groups with hyphens.
pub fn format_uuid(uuid: [u8; 16]) -> String {
    uuid::Uuid::from_bytes(uuid).to_string()
}

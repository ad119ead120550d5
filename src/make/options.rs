//! What a person may choose about a new file system, and what a size implies.
//!
//! Source: mke2fs(8), mke2fs.conf.
//! Invariants: `None` means "as mke2fs would"; nothing here reads a clock or a random number.

use super::usage::Usage;
use super::{FeatureSet, MakeError};
use crate::format::features::{incompat, ro_compat};
use crate::format::time::Timestamp;

const BLOCK_SIZE: u32 = 4096;
const BYTES_PER_INODE: u32 = 16384;
const INODE_SIZE: u32 = 256;
/// Blocks in a cluster of bigalloc, unless asked for.
const CLUSTER_BLOCKS: u32 = 16;
const MAX_CLUSTER_SIZE: u32 = 1 << 29;
const UTF8_12_1: u16 = 1;

#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes that the file system may take.
    pub size: u64,
    /// Bytes: a power of two from 1024 to 65536.
    pub block_size: Option<u32>,
    /// Bytes, with bigalloc: a power of two, at least the block size.
    pub cluster_size: Option<u32>,
    pub features: FeatureSet,
    /// Empty: what the size implies.
    pub usage: Vec<Usage>,
    /// At most 16 bytes.
    pub label: Vec<u8>,
    /// `s_last_mounted`, at most 64 bytes.
    pub last_mounted: Vec<u8>,
    pub uuid: [u8; 16],
    pub hash_seed: [u8; 16],
    pub time: Timestamp,
    /// Hundredths of a percent of the blocks, for the super-user.
    pub reserved: u32,
    pub bytes_per_inode: Option<u32>,
    pub inodes: Option<u32>,
    /// Bytes: a power of two from 128 to the block size.
    pub inode_size: Option<u32>,
    /// Blocks (clusters with bigalloc) in a group, a multiple of 8.
    pub blocks_per_group: Option<u32>,
    /// Groups in a flex group: a power of two.
    pub groups_per_flex: Option<u32>,
    /// `s_rev_level`: 0 or 1.
    pub revision: u32,
    /// `s_errors`: 1 continue, 2 remount read-only, 3 panic.
    pub errors: u16,
    /// Bytes.
    pub journal_size: Option<u64>,
    /// The block near which the journal goes.
    pub journal_location: Option<u64>,
    /// Blocks.
    pub orphan_file_size: Option<u32>,
    /// RAID: blocks on one disk before the next, and on all of them.
    pub stride: u16,
    pub stripe_width: u32,
    /// Blocks to which the volume can grow online.
    pub resize: Option<u64>,
    /// Leave inode tables to be zeroed by who mounts it.
    pub lazy_itable_init: bool,
    /// Leave what the journal's blocks hold.
    pub lazy_journal_init: bool,
    /// Every block reads as zeroes already.
    pub zeroed: bool,
    /// Owner of the root directory.
    pub root_owner: (u32, u32),
    /// Which quotas: user, group, project. The last one comes with its feature, too.
    pub quotas: [bool; 3],
    /// Backups of the superblock with sparse_super2: 0 to 2.
    pub backups: u32,
    /// `s_encoding_flags`: 1 strict.
    pub encoding_flags: u16,
    /// Seconds.
    pub mmp_interval: u16,
}

impl Options {
    /// The defaults for `size` bytes.
    pub fn new(size: u64, uuid: [u8; 16], hash_seed: [u8; 16], time: Timestamp) -> Self {
        Self {
            size,
            block_size: None,
            cluster_size: None,
            features: FeatureSet::default(),
            usage: Vec::new(),
            label: Vec::new(),
            last_mounted: Vec::new(),
            uuid,
            hash_seed,
            time,
            reserved: 500,
            bytes_per_inode: None,
            inodes: None,
            inode_size: None,
            blocks_per_group: None,
            groups_per_flex: None,
            revision: 1,
            errors: 1,
            journal_size: None,
            journal_location: None,
            orphan_file_size: None,
            stride: 0,
            stripe_width: 0,
            resize: None,
            lazy_itable_init: false,
            lazy_journal_init: false,
            zeroed: false,
            root_owner: (0, 0),
            quotas: [true, true, false],
            backups: 2,
            encoding_flags: 0,
            mmp_interval: 5,
        }
    }

    fn of_usage<T>(&self, say: impl Fn(Usage) -> Option<T>) -> Option<T> {
        match self.usage.as_slice() {
            [] => say(Usage::of_size(self.size)),
            types => types.iter().rev().find_map(|&usage| say(usage)),
        }
    }

    pub fn block_size(&self) -> u32 {
        self.block_size
            .unwrap_or_else(|| self.of_usage(Usage::block_size).unwrap_or(BLOCK_SIZE))
    }

    /// The block size without bigalloc.
    pub fn cluster_size(&self) -> u32 {
        if !self.features.bits().has_ro_compat(ro_compat::BIGALLOC) {
            return self.block_size();
        }
        self.cluster_size
            .unwrap_or(self.block_size() * CLUSTER_BLOCKS)
    }

    pub fn inode_size(&self) -> u32 {
        let usual = if self.revision == 0 { 128 } else { INODE_SIZE };
        self.inode_size
            .unwrap_or_else(|| self.of_usage(Usage::inode_size).unwrap_or(usual))
    }

    /// Bytes of the volume for which one inode is made.
    pub fn bytes_per_inode(&self) -> u64 {
        let usual = || {
            self.of_usage(Usage::bytes_per_inode)
                .unwrap_or(BYTES_PER_INODE)
                .max(self.block_size())
                .max(self.cluster_size())
        };
        u64::from(self.bytes_per_inode.unwrap_or_else(usual))
    }

    /// `s_encoding` and `s_encoding_flags`.
    pub fn encoding(&self) -> Option<(u16, u16)> {
        let casefold = self.features.bits().has_incompat(incompat::CASEFOLD);
        casefold.then_some((UTF8_12_1, self.encoding_flags))
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
        let size = self.inode_size();
        if !size.is_power_of_two() || !(128..=block_size).contains(&size) {
            return invalid(format!(
                "inode size {size}: must be a power of two from 128 to the block size {block_size}"
            ));
        }
        if self.revision > 1 || self.revision == 0 && size != 128 {
            let revision = self.revision;
            return invalid(format!("revision {revision} with inodes of {size} bytes"));
        }
        if self.label.len() > 16 || self.last_mounted.len() > 64 {
            return invalid(format!(
                "the label has {} bytes, at most 16 fit; a mount point has at most 64",
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
        self.check_groups()?;
        self.check_features()
    }

    fn check_groups(&self) -> Result<(), MakeError> {
        let invalid = |what: String| Err(MakeError::Invalid(what));
        let bits = self.features.bits();
        let (block_size, cluster) = (self.block_size(), self.cluster_size());
        if self.cluster_size.is_some() && !bits.has_ro_compat(ro_compat::BIGALLOC) {
            return invalid("a cluster size needs feature bigalloc".into());
        }
        if !cluster.is_power_of_two() || !(block_size..=MAX_CLUSTER_SIZE).contains(&cluster) {
            return invalid(format!(
                "cluster size {cluster}: must be a power of two from the block size to {MAX_CLUSTER_SIZE}"
            ));
        }
        if bits.has_ro_compat(ro_compat::BIGALLOC) && cluster == block_size {
            return invalid("a cluster must be larger than a block".into());
        }
        if let Some(blocks) = self.blocks_per_group
            && (blocks % 8 != 0 || !(256..=(block_size * 8).min(65528)).contains(&blocks))
        {
            return invalid(format!(
                "{blocks} blocks per group: must be a multiple of 8 from 256 to {}",
                (block_size * 8).min(65528)
            ));
        }
        if let Some(groups) = self.groups_per_flex {
            if !bits.has_incompat(incompat::FLEX_BG) {
                return invalid("a flex group size needs feature flex_bg".into());
            }
            if !groups.is_power_of_two() || groups > 1 << 30 {
                return invalid(format!("flex group size {groups}: must be a power of two"));
            }
        }
        Ok(())
    }

    fn check_features(&self) -> Result<(), MakeError> {
        let invalid = |what: &str| Err(MakeError::Invalid(what.into()));
        let bits = self.features.bits();
        let small = self.inode_size() == 128;
        if small && bits.has_incompat(incompat::INLINE_DATA) {
            return invalid("inodes of 128 bytes are too small for inline_data");
        }
        if small && bits.has_ro_compat(ro_compat::PROJECT) {
            return invalid("inodes of 128 bytes are too small for project");
        }
        if self.encoding_flags != 0 && self.encoding().is_none() {
            return invalid("encoding flags need feature casefold");
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

//! From the superblock's fields to numbers that arithmetic may trust.
//!
//! Source: the kernel's ext4 documentation, "Super Block", "Block Group Descriptors".
//! Invariants: each check runs before the arithmetic that needs it.

use crate::error::{CorruptKind, Error, Incompatible, Location, Result, Structure};
use crate::format::features::{incompat, ro_compat};
use crate::format::geometry::Geometry;
use crate::format::superblock::Superblock;

/// `s_flags`: names are hashed with unsigned characters.
const UNSIGNED_HASH: u32 = 0x2;
/// Revision 0 had fixed inodes.
const OLD_INODE_SIZE: u32 = 128;
const OLD_FIRST_INO: u32 = 11;

fn bad(field: &'static str, found: impl Into<u64>) -> Error {
    let kind = CorruptKind::Field {
        what: Structure::Superblock,
        field,
        found: found.into(),
    };
    Error::corrupt(kind, Location::default())
}

fn ensure(good: bool, field: &'static str, found: impl Into<u64>) -> Result<()> {
    if good { Ok(()) } else { Err(bad(field, found)) }
}

/// `value / by`, rounded up; `by` is not zero where this is used.
fn div_ceil(value: u64, by: u64) -> u64 {
    value
        .checked_add(by.saturating_sub(1))
        .and_then(|sum| sum.checked_div(by))
        .unwrap_or(0)
}

impl Superblock {
    /// Validates every number that later arithmetic uses. `device_len` in bytes.
    pub fn geometry(&self, device_len: u64) -> Result<Geometry> {
        let (block_bits, block_size) = self.block_size()?;
        let blocks_count = self.checked_blocks_count(block_size, device_len)?;
        let (cluster_ratio_bits, clusters_per_group) = self.clusters(block_size)?;
        let blocks_per_group = self.blocks_per_group(block_size, cluster_ratio_bits)?;
        let group_count = self.group_count(blocks_count, blocks_per_group)?;
        let (inode_size, inodes_per_block) = self.inodes(block_size)?;
        let inodes_per_group = self.inodes_per_group(block_size, inodes_per_block)?;
        let inodes_count = self.s_inodes_count();
        ensure(
            inodes_per_group.checked_mul(group_count) == Some(inodes_count),
            "s_inodes_count",
            inodes_count,
        )?;
        let desc_size = self.desc_size(block_size)?;
        let descs_per_block = block_size.checked_div(desc_size).unwrap_or(1);
        let desc_blocks = self.desc_blocks(block_size, group_count, descs_per_block)?;
        Ok(Geometry {
            features: self.features(),
            block_size,
            block_bits,
            blocks_count,
            first_data_block: self.s_first_data_block(),
            blocks_per_group,
            cluster_ratio_bits,
            clusters_per_group,
            inodes_count,
            inodes_per_group,
            group_count,
            desc_size,
            descs_per_block,
            desc_blocks,
            reserved_gdt_blocks: u32::from(self.s_reserved_gdt_blocks()),
            first_meta_bg: self.s_first_meta_bg(),
            backup_bgs: self.s_backup_bgs(),
            inode_size,
            inodes_per_block,
            itable_blocks: inodes_per_group.div_ceil(inodes_per_block.max(1)),
            first_ino: self.first_ino(inodes_count)?,
            log_groups_per_flex: self.log_groups_per_flex()?,
            want_extra_isize: self.want_extra_isize(inode_size),
            csum_seed: self.csum_seed(),
            uuid: self.s_uuid(),
            hash_seed: self.s_hash_seed(),
            def_hash_version: self.s_def_hash_version(),
            hash_unsigned: self.s_flags() & UNSIGNED_HASH != 0,
            journal_inum: self.s_journal_inum(),
            orphan_file_inum: self.s_orphan_file_inum(),
            quota_inums: [
                self.s_usr_quota_inum(),
                self.s_grp_quota_inum(),
                self.s_prj_quota_inum(),
            ],
        })
    }

    /// log2 of the block size, and the size.
    fn block_size(&self) -> Result<(u32, u32)> {
        let log = self.s_log_block_size();
        ensure(log <= 6, "s_log_block_size", log)?;
        let block_bits = log.saturating_add(10);
        let block_size = 1_u32 << block_bits.min(16);
        let first = self.s_first_data_block();
        // Clusters of bigalloc begin with the boot block.
        let bigalloc = self.features().has_ro_compat(ro_compat::BIGALLOC);
        ensure(
            first == u32::from(block_size == 1024 && !bigalloc),
            "s_first_data_block",
            first,
        )?;
        Ok((block_bits, block_size))
    }

    fn checked_blocks_count(&self, block_size: u32, device: u64) -> Result<u64> {
        let blocks = self.blocks_count();
        ensure(
            blocks > u64::from(self.s_first_data_block()),
            "s_blocks_count",
            blocks,
        )?;
        let bytes = blocks.checked_mul(u64::from(block_size));
        if bytes.is_none_or(|bytes| bytes > device) {
            return Err(Incompatible::Truncated {
                blocks,
                block_size,
                device,
            }
            .into());
        }
        Ok(blocks)
    }

    fn blocks_per_group(&self, block_size: u32, cluster_ratio_bits: u32) -> Result<u32> {
        let blocks = self.s_blocks_per_group();
        let most = block_size
            .saturating_mul(8)
            .checked_shl(cluster_ratio_bits)
            .unwrap_or(0);
        ensure(
            blocks >= 8 && blocks.trailing_zeros() >= 3 && blocks <= most,
            "s_blocks_per_group",
            blocks,
        )?;
        Ok(blocks)
    }

    fn inodes_per_group(&self, block_size: u32, inodes_per_block: u32) -> Result<u32> {
        let inodes = self.s_inodes_per_group();
        ensure(
            inodes >= inodes_per_block.max(8)
                && inodes.trailing_zeros() >= 3
                && inodes <= block_size.saturating_mul(8),
            "s_inodes_per_group",
            inodes,
        )?;
        Ok(inodes)
    }

    /// Blocks of the descriptor table, after a check of what is reserved behind it.
    fn desc_blocks(&self, block_size: u32, groups: u32, per_block: u32) -> Result<u32> {
        let blocks = div_ceil(u64::from(groups), u64::from(per_block));
        let blocks = u32::try_from(blocks).map_err(|_| bad("s_desc_size", self.s_desc_size()))?;
        let reserved = u32::from(self.s_reserved_gdt_blocks());
        ensure(
            reserved <= block_size >> 2,
            "s_reserved_gdt_blocks",
            reserved,
        )?;
        if self.features().has_incompat(incompat::META_BG) {
            let first = self.s_first_meta_bg();
            ensure(first <= blocks, "s_first_meta_bg", first)?;
        }
        Ok(blocks)
    }

    fn log_groups_per_flex(&self) -> Result<u32> {
        if !self.features().has_incompat(incompat::FLEX_BG) {
            return Ok(0);
        }
        let flex = self.s_log_groups_per_flex();
        ensure(flex < 32, "s_log_groups_per_flex", flex)?;
        Ok(u32::from(flex))
    }

    /// The high half counts only with the 64bit feature.
    fn blocks_count(&self) -> u64 {
        let all = self.s_blocks_count();
        if self.features().has_incompat(incompat::BIT64) {
            all
        } else {
            all & 0xffff_ffff
        }
    }

    fn clusters(&self, block_size: u32) -> Result<(u32, u32)> {
        let clusters_per_group = self.s_clusters_per_group();
        if !self.features().has_ro_compat(ro_compat::BIGALLOC) {
            return Ok((0, self.s_blocks_per_group()));
        }
        let log = self.s_log_cluster_size();
        let ratio = log
            .checked_sub(self.s_log_block_size())
            .filter(|&ratio| ratio <= 16);
        let ratio = ratio.ok_or_else(|| bad("s_log_cluster_size", log))?;
        let expected = clusters_per_group.checked_mul(1_u32 << ratio.min(16));
        ensure(
            clusters_per_group > 0
                && clusters_per_group <= block_size.saturating_mul(8)
                && expected == Some(self.s_blocks_per_group()),
            "s_clusters_per_group",
            clusters_per_group,
        )?;
        Ok((ratio, clusters_per_group))
    }

    fn group_count(&self, blocks_count: u64, blocks_per_group: u32) -> Result<u32> {
        let data = blocks_count.saturating_sub(u64::from(self.s_first_data_block()));
        let groups = div_ceil(data, u64::from(blocks_per_group));
        u32::try_from(groups).map_err(|_| bad("s_blocks_count", blocks_count))
    }

    fn inodes(&self, block_size: u32) -> Result<(u32, u32)> {
        let size = if self.s_rev_level() == 0 {
            OLD_INODE_SIZE
        } else {
            u32::from(self.s_inode_size())
        };
        ensure(
            size.is_power_of_two() && size >= OLD_INODE_SIZE && size <= block_size,
            "s_inode_size",
            size,
        )?;
        Ok((size, block_size.checked_div(size).unwrap_or(1)))
    }

    fn first_ino(&self, inodes_count: u32) -> Result<u32> {
        let first = if self.s_rev_level() == 0 {
            OLD_FIRST_INO
        } else {
            self.s_first_ino()
        };
        ensure(
            (OLD_FIRST_INO..=inodes_count).contains(&first),
            "s_first_ino",
            first,
        )?;
        Ok(first)
    }

    /// Room for all times at least, whole words, and within the inode.
    fn want_extra_isize(&self, inode_size: u32) -> u32 {
        let wanted = self.s_want_extra_isize().max(self.s_min_extra_isize());
        u32::from(wanted)
            .max(32)
            .min(inode_size.saturating_sub(OLD_INODE_SIZE))
            & !3
    }

    fn desc_size(&self, block_size: u32) -> Result<u32> {
        if !self.features().has_incompat(incompat::BIT64) {
            return Ok(32);
        }
        let size = u32::from(self.s_desc_size());
        ensure(
            size.is_power_of_two() && (64..=1024).contains(&size) && size <= block_size,
            "s_desc_size",
            size,
        )?;
        Ok(size)
    }
}

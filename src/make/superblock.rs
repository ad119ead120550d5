//! The superblock of a new file system.
//!
//! Source: the kernel's ext4 documentation, "Super Block".
//! Invariants: the checksum is stamped last.

use super::{Plan, tree};
use crate::format::checksum::crc32c;
use crate::format::features::{compat, incompat};
use crate::format::raw::{put_le16, put_le32, put_le64, split};
use crate::format::superblock::{SIZE, state};

const MAGIC: u16 = 0xef53;
const DEFM_XATTR_USER: u32 = 0x4;
const DEFM_ACL: u32 = 0x8;
const SIGNED_HASH: u32 = 0x1;
const HALF_MD4: u8 = 1;
const CRC32C: u8 = 1;
/// `s_encrypt_algos`
const AES_256_XTS: u8 = 1;
const AES_256_CTS: u8 = 4;
/// `s_jnl_backup_type`: `s_jnl_blocks` holds the journal inode's `i_block`.
const JOURNAL_BLOCKS_SAVED: u8 = 1;
const FIRST_INO: u32 = 11;
const JOURNAL_INO: u32 = 8;
/// Seed of a checksum that starts fresh.
const FRESH: u32 = !0;

/// The 1024 bytes for the copy in `group`, as it is there after `mkfs` (backups are never
/// marked clean). `kbytes` is what was written so far.
pub fn bytes(plan: &Plan, kbytes: u64, group: u32) -> [u8; SIZE] {
    let (numbers, options) = (&plan.numbers, &plan.options);
    let mut out = [0u8; SIZE];
    put_counts(plan, &mut out);
    put_times(plan, &mut out);
    put_le16(&mut out, 0x36, 0xffff); // s_max_mnt_count: never
    put_le16(&mut out, 0x38, MAGIC);
    put_le16(&mut out, 0x3a, if group == 0 { state::VALID_FS } else { 0 });
    put_le16(&mut out, 0x3c, options.errors);
    if options.revision > 0 {
        put_le32(&mut out, 0x4c, options.revision);
        put_le32(&mut out, 0x54, FIRST_INO);
        put_le16(&mut out, 0x58, numbers.inode_size as u16);
        put_le32(&mut out, 0x100, DEFM_XATTR_USER | DEFM_ACL);
    }
    put_le16(&mut out, 0x5a, group as u16); // s_block_group_nr: its lower half
    let (features, hidden) = (numbers.features, plan.hidden);
    put_le32(&mut out, 0x5c, features.compat & !hidden.compat);
    put_le32(&mut out, 0x60, features.incompat & !hidden.incompat);
    put_le32(&mut out, 0x64, features.ro_compat & !hidden.ro_compat);
    out[0x68..0x78].copy_from_slice(&options.uuid);
    put_text(&mut out[0x78..0x88], &options.label);
    put_text(&mut out[0x88..0xc8], &options.last_mounted);
    put_le16(&mut out, 0xce, numbers.reserved_gdt_blocks as u16);
    out[0xec..0xfc].copy_from_slice(&options.hash_seed);
    out[0xfc] = HALF_MD4;
    if numbers.features.has_incompat(incompat::BIT64) {
        put_le16(&mut out, 0xfe, numbers.desc_size as u16);
    }
    put_journal(plan, &mut out);
    put_rarely_used(plan, &mut out);
    if numbers.inode_size > 128 {
        put_le16(&mut out, 0x15c, 32); // s_min_extra_isize
        put_le16(&mut out, 0x15e, 32); // s_want_extra_isize
    }
    put_le32(&mut out, 0x160, SIGNED_HASH);
    out[0x174] = numbers.log_groups_per_flex as u8;
    put_le64(&mut out, 0x178, kbytes);
    put_le32(&mut out, 0x248, u32::try_from(plan.overhead()).unwrap_or(0));
    if numbers.features.has_incompat(incompat::CSUM_SEED) {
        put_le32(&mut out, 0x270, crc32c(FRESH, &options.uuid));
    }
    if numbers.features.has_compat(compat::ORPHAN_FILE) {
        put_le32(&mut out, 0x280, plan.orphan_ino);
    }
    if numbers.features.metadata_csum() {
        out[0x175] = CRC32C;
        let checksum = crc32c(FRESH, &out[..0x3fc]);
        put_le32(&mut out, 0x3fc, checksum);
    }
    out
}

fn put_text(field: &mut [u8], text: &[u8]) {
    for (to, from) in field.iter_mut().zip(text) {
        *to = *from;
    }
}

/// What only some features and options fill.
fn put_rarely_used(plan: &Plan, out: &mut [u8]) {
    let (numbers, options) = (&plan.numbers, &plan.options);
    put_le16(out, 0x164, options.stride);
    put_le32(out, 0x170, options.stripe_width);
    if let Some(block) = plan.mmp_block {
        put_le16(out, 0x166, options.mmp_interval);
        put_le64(out, 0x168, block);
    }
    for (quota, at) in plan.quotas.iter().zip([0x240, 0x244, 0x26c]) {
        if let Some(file) = quota {
            put_le32(out, at, file.ino);
        }
    }
    let [first, second] = numbers.backup_groups;
    put_le32(out, 0x24c, first);
    put_le32(out, 0x250, second);
    if numbers.features.has_incompat(incompat::ENCRYPT) {
        out[0x254..0x258].copy_from_slice(&[AES_256_XTS, AES_256_CTS, 0, 0]);
    }
    if let Some((encoding, flags)) = options.encoding() {
        put_le16(out, 0x27c, encoding);
        put_le16(out, 0x27e, flags);
    }
}

fn put_counts(plan: &Plan, out: &mut [u8]) {
    let numbers = &plan.numbers;
    let (blocks_lo, blocks_hi) = split(numbers.blocks_count);
    let (reserved_lo, reserved_hi) = split(numbers.reserved_blocks);
    let (free_lo, free_hi) = split(plan.free_blocks());
    put_le32(out, 0x0, numbers.inodes_count);
    put_le32(out, 0x4, blocks_lo);
    put_le32(out, 0x8, reserved_lo);
    put_le32(out, 0xc, free_lo);
    put_le32(out, 0x10, plan.free_inodes());
    put_le32(out, 0x14, numbers.first_data_block);
    let log_block_size = numbers.block_size.trailing_zeros() - 10;
    put_le32(out, 0x18, log_block_size);
    put_le32(out, 0x1c, log_block_size + numbers.cluster_bits); // s_log_cluster_size
    put_le32(out, 0x20, numbers.blocks_per_group);
    let clusters_per_group = numbers.blocks_per_group >> numbers.cluster_bits;
    put_le32(out, 0x24, clusters_per_group);
    put_le32(out, 0x28, numbers.inodes_per_group);
    put_le32(out, 0x150, blocks_hi);
    put_le32(out, 0x154, reserved_hi);
    put_le32(out, 0x158, free_hi);
}

/// `s_wtime`, `s_lastcheck`, `s_mkfs_time`, each with its upper byte elsewhere.
fn put_times(plan: &Plan, out: &mut [u8]) {
    let (lo, hi) = split(plan.options.time.seconds.cast_unsigned());
    for (low_at, high_at) in [(0x30, 0x274), (0x40, 0x277), (0x108, 0x276)] {
        put_le32(out, low_at, lo);
        out[high_at] = hi as u8;
    }
}

fn put_journal(plan: &Plan, out: &mut [u8]) {
    let Some(journal) = &plan.journal else { return };
    put_le32(out, 0xe0, JOURNAL_INO);
    out[0xfd] = JOURNAL_BLOCKS_SAVED;
    out[0x10c..0x148].copy_from_slice(&tree::root(journal, plan.numbers.block_size as usize));
    let (size_lo, size_hi) = split(journal.blocks() * u64::from(plan.numbers.block_size));
    put_le32(out, 0x148, size_hi);
    put_le32(out, 0x14c, size_lo);
}

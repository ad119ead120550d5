//! The core structures against images that mke2fs made.

use crate::format::checksum;
use crate::format::geometry::Geometry;
use crate::format::group::{GroupDesc, flag};
use crate::format::inode::Inode;
use crate::format::superblock::{OFFSET, SIZE, Superblock};
use crate::ids::{FsBlock, InodeNumber};
use std::process::Command;

struct Image {
    bytes: Vec<u8>,
    geo: Geometry,
}

impl Image {
    fn make(size: &str, options: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let path = dir.path().join("image");
        let made = Command::new("mke2fs")
            .args(["-q", "-F"])
            .args(options)
            .arg(&path)
            .arg(size)
            .output()
            .expect("mke2fs is installed");
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        let bytes = std::fs::read(&path).expect("the image");
        let sb = superblock_of(&bytes);
        let geo = sb.geometry(bytes.len() as u64).expect("valid numbers");
        Self { bytes, geo }
    }

    fn block(&self, block: FsBlock) -> &[u8] {
        let at = (block.get() << self.geo.block_bits) as usize;
        &self.bytes[at..at + self.geo.block_size as usize]
    }
}

fn superblock_of(bytes: &[u8]) -> Superblock {
    Superblock::parse(&bytes[OFFSET as usize..OFFSET as usize + SIZE]).expect("a superblock")
}

fn check(size: &str, options: &[&str]) {
    let image = Image::make(size, options);
    let geo = &image.geo;
    let sb = superblock_of(&image.bytes);
    assert_eq!(
        sb.to_bytes()[..],
        image.bytes[1024..2048],
        "{options:?}: the superblock's checksum"
    );
    let mut free = 0;
    for group in geo.groups() {
        let (block, at) = geo.desc_location(group);
        let raw = &image.block(block)[at..at + geo.desc_size as usize];
        let desc = GroupDesc::parse(raw, geo, group).unwrap_or_else(|e| panic!("{options:?}: {e}"));
        let mut again = raw.to_vec();
        desc.write_to(&mut again, geo, group);
        assert_eq!(again, raw, "{options:?}: group {group}");
        free += u64::from(desc.free_blocks);
        if geo.features.metadata_csum() {
            let bitmap = image.block(desc.inode_bitmap);
            if !desc.has_flag(flag::INODE_UNINIT) {
                assert_eq!(checksum::inode_bitmap(geo, bitmap), desc.inode_bitmap_csum);
            }
            if !desc.has_flag(flag::BLOCK_UNINIT) {
                let bitmap = image.block(desc.block_bitmap);
                assert_eq!(checksum::block_bitmap(geo, bitmap), desc.block_bitmap_csum);
            }
        }
        if geo.has_super(group) && group.get() > 0 {
            let at = (geo.first_block(group).get() << geo.block_bits) as usize;
            let backup = Superblock::parse(&image.bytes[at..at + SIZE]).expect("a backup");
            assert_eq!(u32::from(backup.s_block_group_nr()), group.get() & 0xffff);
        }
    }
    assert_eq!(free, sb.s_free_blocks_count(), "{options:?}");
    for ino in [2, 7, 8, 11] {
        let ino = InodeNumber::new(ino);
        let (group, index) = geo.inode_place(ino).expect("in range");
        let (block, at) = geo.desc_location(group);
        let desc = GroupDesc::parse(&image.block(block)[at..], geo, group).expect("a descriptor");
        let start = (desc.inode_table.get() << geo.block_bits) as usize;
        let at = start + (index * geo.inode_size) as usize;
        let raw = &image.bytes[at..at + geo.inode_size as usize];
        if raw.iter().all(|&byte| byte == 0) {
            continue;
        }
        let inode = Inode::parse(raw, geo, ino).unwrap_or_else(|e| panic!("{options:?}: {e}"));
        let mut again = raw.to_vec();
        inode.write_to(&mut again, geo, ino);
        assert_eq!(again, raw, "{options:?}: inode {ino}");
        assert_eq!(inode.is_dir(), matches!(ino.get(), 2 | 11));
    }
}

#[test]
fn structures_of_mke2fs_images_parse_and_survive() {
    check("64M", &["-t", "ext4"]);
    check(
        "300M",
        &[
            "-t",
            "ext4",
            "-b",
            "4096",
            "-O",
            "metadata_csum_seed,orphan_file",
        ],
    );
    check("64M", &["-t", "ext4", "-b", "1024"]);
    check("64M", &["-t", "ext4", "-b", "2048", "-I", "512"]);
    check("64M", &["-t", "ext4", "-O", "^metadata_csum,uninit_bg"]);
    check("64M", &["-t", "ext4", "-O", "^64bit"]);
    check("64M", &["-t", "ext4", "-O", "^flex_bg"]);
    check("64M", &["-t", "ext4", "-O", "sparse_super2"]);
    check("64M", &["-t", "ext3"]);
    check("64M", &["-t", "ext2"]);
    check("64M", &["-t", "ext4", "-I", "128"]);
    check(
        "300M",
        &["-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode"],
    );
    check("64M", &["-t", "ext4", "-b", "65536"]);
}

/// Whatever the numbers are: an error, or a geometry whose arithmetic holds.
#[test]
fn hostile_superblocks_give_errors_or_sound_numbers() {
    let mut sound = 0;
    let mut random = 1_u32;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        random
    };
    for options in [
        &["-t", "ext4"][..],
        &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum"],
    ] {
        let image = Image::make("64M", options);
        let original: [u8; SIZE] = image.bytes[1024..2048].try_into().expect("1024 bytes");
        for _ in 0..20_000 {
            let mut bytes = original;
            for _ in 0..=next() % 3 {
                let at = [
                    0x00, 0x14, 0x18, 0x20, 0x28, 0x4c, 0x54, 0x58, 0xce, 0xfe, 0x104, 0x174,
                ][next() as usize % 12];
                bytes[at + next() as usize % 4] = [0, 1, 0x20, 0x80, 0xff][next() as usize % 5];
            }
            // The magic number and the features stay, so that the numbers are looked at.
            bytes[0x38..0x3a].copy_from_slice(&original[0x38..0x3a]);
            bytes[0x5c..0x68].copy_from_slice(&original[0x5c..0x68]);
            let sum = checksum::crc32c(u32::MAX, &bytes[..0x3fc]);
            bytes[0x3fc..].copy_from_slice(&sum.to_le_bytes());
            let Ok(geo) = Superblock::parse(&bytes).and_then(|sb| sb.geometry(64 << 20)) else {
                continue;
            };
            sound += 1;
            let last = crate::ids::GroupIndex::new(geo.group_count - 1);
            let in_last = geo.blocks_in_group(last);
            assert!(in_last > 0 && in_last <= geo.blocks_per_group);
            assert_eq!(
                geo.first_block(last).get() + u64::from(in_last),
                geo.blocks_count
            );
            let (group, index) = geo
                .inode_place(InodeNumber::new(geo.inodes_count))
                .expect("valid");
            assert_eq!((group, index), (last, geo.inodes_per_group - 1));
            assert!(geo.want_extra_isize + 128 <= geo.inode_size);
            assert!(geo.desc_location(last).1 < geo.block_size as usize);
        }
    }
    assert!(sound > 0, "no mutation left a valid superblock");
}

#[test]
fn file_sizes_end_where_the_kernel_ends_them() {
    let size = |options: &[&str], extents| Image::make("64M", options).geo.max_file_size(extents);
    let ext4 = &["-t", "ext4", "-b", "4096"][..];
    assert_eq!(size(ext4, true), 0xffff_ffff << 12);
    assert_eq!(size(ext4, false), (12 + 1024 + (1 << 20) + (1 << 30)) << 12);
    // Without huge_file data and map together have less than 2^32 sectors.
    let ext3 = &["-t", "ext3", "-b", "4096"][..];
    let data = size(ext3, false) >> 12;
    let triple = data - 12 - 1024 - (1 << 20);
    let map = 3 + 1024 + triple.div_ceil(1024) + triple.div_ceil(1 << 20);
    assert!((data + map) * 8 <= u64::from(u32::MAX));
    assert!((data + map + 2048) * 8 > u64::from(u32::MAX));
}

#[test]
fn a_real_multi_mount_protection_block() {
    let image = Image::make("64M", &["-t", "ext4", "-O", "mmp"]);
    let block = FsBlock::new(superblock_of(&image.bytes).s_mmp_block());
    let raw = image.block(block);
    let mmp = crate::format::mmp::Mmp::parse(raw, &image.geo).expect("an MMP block");
    assert!(mmp.is_clean());
    let mut again = raw.to_vec();
    mmp.write_to(&mut again, &image.geo);
    assert_eq!(again, raw);
    again[4] ^= 1;
    assert!(crate::format::mmp::Mmp::parse(&again, &image.geo).is_err());
}

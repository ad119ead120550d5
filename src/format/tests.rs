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
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
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
    assert_eq!(sb.to_bytes()[..], image.bytes[1024..2048], "{options:?}: the superblock's checksum");
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
    check("300M", &["-t", "ext4", "-b", "4096", "-O", "metadata_csum_seed,orphan_file"]);
    check("64M", &["-t", "ext4", "-b", "1024"]);
    check("64M", &["-t", "ext4", "-b", "2048", "-I", "512"]);
    check("64M", &["-t", "ext4", "-O", "^metadata_csum,uninit_bg"]);
    check("64M", &["-t", "ext4", "-O", "^64bit"]);
    check("64M", &["-t", "ext4", "-O", "^flex_bg"]);
    check("64M", &["-t", "ext4", "-O", "sparse_super2"]);
    check("64M", &["-t", "ext3"]);
    check("64M", &["-t", "ext2"]);
    check("64M", &["-t", "ext4", "-I", "128"]);
    check("300M", &["-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode"]);
    check("64M", &["-t", "ext4", "-b", "65536"]);
}

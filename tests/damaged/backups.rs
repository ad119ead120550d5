//! Superblocks and group descriptors that are gone or wrong: a backup is read in their place, read-only, and it is said.
//!
//! Source: the kernel's ext4 documentation, "Super Block", "Block Group Descriptors".

use super::without_fuse::{CoreImage, ROOT, Walk, file, write};
use super::{CSUM, find};
use uext4::fs::{Fs, Options};

fn is_backup_notice(fs: &Fs, words: &[&str]) -> bool {
    let notices = fs.notices();
    let said = notices
        .iter()
        .any(|line| words.iter().all(|word| line.contains(word)));
    assert!(said, "{words:?} not in {notices:?}");
    said
}

const LAYOUTS: [(&str, &str, &str); 5] = [
    ("300M", "-t ext4 -b 4096", "32768"),
    ("40M", "-t ext4 -b 1024", "8193"),
    ("40M", "-t ext4 -b 1024 -O sparse_super2", "8193"),
    ("140M", "-t ext4 -b 2048 -I 512", "16384"),
    ("40M", "-t ext2 -b 1024", "8193"),
];

#[test]
fn a_superblock_that_is_gone_or_wrong() {
    for (size, options, backup) in LAYOUTS {
        for damage in ["zeros", "field"] {
            let image = CoreImage::mke2fs(size, options);
            let fs = image.mount_rw();
            let kept = file(&fs, ROOT, "kept");
            write(&fs, kept, 0, b"kept");
            fs.unmount().expect("unmount");
            drop(fs);
            match damage {
                "zeros" => image.patch(1024, &[0; 1024]),
                // s_inodes_per_group: noticed with and without a checksum.
                _ => image.patch(1024 + 0x28, &[0x13]),
            }
            let before = std::fs::read(&image.path).expect("the image");
            let fs = image.mount(Options::default()).expect("a backup serves");
            assert!(fs.is_read_only() && is_backup_notice(&fs, &["backup at block", backup]));
            assert_eq!(
                fs.read(find(&fs, "kept"), 0, 9).expect("read").as_slice(),
                b"kept"
            );
            assert!(Walk::everything(&fs).errors.is_empty());
            fs.unmount().expect("unmount");
            drop(fs);
            assert!(
                before == std::fs::read(&image.path).expect("the image"),
                "it was written to"
            );
        }
    }
}

#[test]
fn the_first_backup_is_gone_too() {
    let image = CoreImage::mke2fs("40M", "-t ext4 -b 1024");
    image.patch(1024, &[0; 1024]);
    image.patch(8193 * 1024, &[0; 1024]);
    let fs = image
        .mount(Options::default())
        .expect("the next backup serves");
    assert!(fs.is_read_only() && is_backup_notice(&fs, &["backup at block 24577"]));
}

#[test]
fn group_descriptors() {
    let meta = ("300M", "-t ext4 -b 1024 -O meta_bg,^resize_inode", "");
    for (size, options, _) in LAYOUTS.into_iter().chain([meta]) {
        for group in [0, 1] {
            let image = CoreImage::mke2fs(size, options);
            let fs = image.mount_rw();
            let kept = file(&fs, ROOT, "kept");
            write(&fs, kept, 0, b"kept");
            fs.unmount().expect("unmount");
            drop(fs);
            let size = if options.contains("ext2") { 32 } else { 64 };
            let table = if image.block_size() == 1024 {
                2048
            } else {
                image.block_size()
            };
            // The inode table lies outside of the volume: noticed with and without a checksum.
            image.patch(table + group * size + 8, &[0xff; 4]);
            let before = std::fs::read(&image.path).expect("the image");
            let fs = image
                .mount(Options::default())
                .unwrap_or_else(|e| panic!("{options}: {e}"));
            let place = format!("group {group}");
            assert!(
                fs.is_read_only()
                    && is_backup_notice(&fs, &["group descriptor", &place, "backup at"])
            );
            assert_eq!(
                fs.read(find(&fs, "kept"), 0, 9).expect("read").as_slice(),
                b"kept"
            );
            assert!(Walk::everything(&fs).errors.is_empty());
            fs.unmount().expect("unmount");
            drop(fs);
            assert!(
                before == std::fs::read(&image.path).expect("the image"),
                "it was written to"
            );
        }
    }
}

#[test]
fn group_descriptors_without_a_backup() {
    let image = CoreImage::mke2fs("64M", CSUM);
    image.patch(4096 + 8, &[0xff; 4]);
    let error = image
        .mount(Options::default())
        .err()
        .expect("it has one group only");
    assert!(error.to_string().contains("group 0"), "{error}");
}

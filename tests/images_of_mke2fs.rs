//! Images with mke2fs's options: what ordinary tools write through the mount, the kernel reads, and the reverse.

#[path = "common/harness.rs"]
mod harness;

use harness::fill::{self, Ability};
use harness::mount::with_kernel;
use harness::{Image, Kind, Mount, Scratch, judge, run, tree};

/// Writes through the mount on trial; e2fsck and the kernel judge.
fn written_by_us(size: &str, options: &str, ability: Ability) {
    let scratch = Scratch::new();
    let image = Image::mke2fs(&scratch, "disk.img", size, options);
    let mount = Mount::new(Kind::on_trial(), image.path(), &scratch.dir("mnt"), "");
    fill::fill(mount.path(), ability);
    let live = tree::read(mount.path());
    mount.unmount();
    judge::clean(&image);
    let kernel = with_kernel(&image, &scratch.dir("kernel"), "ro", tree::read);
    tree::same(&live, &kernel);
    again(&scratch, &image, &kernel);
}

/// The kernel writes; we read, and then write on.
fn written_by_the_kernel(size: &str, options: &str, ability: Ability) {
    let scratch = Scratch::new();
    let image = Image::mke2fs(&scratch, "disk.img", size, options);
    let kernel = with_kernel(&image, &scratch.dir("kernel"), "rw", |root| {
        fill::fill(root, ability);
        tree::read(root)
    });
    again(&scratch, &image, &kernel);
    let mount = Mount::new(Kind::on_trial(), image.path(), &scratch.dir("mnt"), "");
    run!("cp", "-a", mount.at("files"), mount.at("files_again"));
    run!("rm", "-r", mount.at("large"), mount.at("xattrs"));
    mount.unmount();
    judge::clean(&image);
}

/// A fresh mount, read-only, shows `expected` and changes nothing.
fn again(scratch: &Scratch, image: &Image, expected: &tree::Tree) {
    let before = image.sha256();
    let mount = Mount::new(Kind::on_trial(), image.path(), &scratch.dir("again"), "ro");
    let found = tree::read(mount.path());
    mount.unmount();
    tree::same(expected, &found);
    assert_eq!(
        before,
        image.sha256(),
        "a read-only mount changed the image"
    );
}

/// Tests of one kind of image, both ways.
macro_rules! images {
    ($($name:ident: $size:expr, $options:expr, $ability:expr;)*) => {
        $(mod $name {
            use super::*;
            #[test]
            fn written_by_us() {
                super::written_by_us($size, $options, $ability);
            }
            #[test]
            fn written_by_the_kernel() {
                super::written_by_the_kernel($size, $options, $ability);
            }
        })*
    };
}

const EXT4: Ability = Ability::DEFAULT;
const SMALL_BLOCKS: Ability = Ability { xattr: 700, ..EXT4 };
const BLOCK_MAP: Ability = Ability {
    extents: false,
    ..EXT4
};
const SMALL_INODES: Ability = Ability {
    large_inodes: false,
    ..EXT4
};

images! {
    defaults: "512M", "-t ext4", Ability { names: 20_000, ..EXT4 };
    csum_seed_and_orphan_file: "512M", "-t ext4 -O metadata_csum_seed,orphan_file", EXT4;
    blocks_of_1k: "512M", "-t ext4 -b 1024", SMALL_BLOCKS;
    blocks_of_2k_inodes_of_512: "512M", "-t ext4 -b 2048 -I 512", SMALL_BLOCKS;
    uninit_bg: "512M", "-t ext4 -O ^metadata_csum,uninit_bg", EXT4;
    no_journal: "512M", "-t ext4 -O ^has_journal", EXT4;
    no_64bit: "512M", "-t ext4 -O ^64bit", EXT4;
    no_flex_bg: "512M", "-t ext4 -O ^flex_bg", EXT4;
    no_extents: "512M", "-t ext4 -O ^extent,^64bit", BLOCK_MAP;
    sparse_super2: "512M", "-t ext4 -O sparse_super2", EXT4;
    ext3: "512M", "-t ext3", BLOCK_MAP;
    ext2: "512M", "-t ext2", BLOCK_MAP;
    inodes_of_128: "512M", "-t ext4 -I 128", SMALL_INODES;
    meta_bg: "512M", "-t ext4 -O meta_bg,^resize_inode", EXT4;
}

/// The kernel fills an image with a feature that we read and do not write: same tree, read-only, with the reason.
fn read_only_with_reason(options: &str, feature: &str, fill: impl FnOnce(&std::path::Path)) {
    let scratch = Scratch::new();
    let image = Image::mke2fs(&scratch, "disk.img", "512M", options);
    let kernel = with_kernel(&image, &scratch.dir("kernel"), "rw", |root| {
        fill(root);
        tree::read(root)
    });
    if feature == "large_dir" {
        let dump = image.debugfs(false, "htree_dump /deep");
        assert!(
            dump.contains("Indirect levels: 2"),
            "not three levels of hash tree: {}",
            &dump[..dump.len().min(500)]
        );
    }
    let before = image.sha256();
    let mount = Mount::new(Kind::on_trial(), image.path(), &scratch.dir("mnt"), "");
    let found = tree::read(mount.path());
    let (read_only, log) = (mount.is_read_only(), mount.log());
    mount.unmount();
    tree::same(&kernel, &found);
    if Kind::on_trial() == Kind::Uext4 {
        assert!(read_only, "mounted read-write");
        assert!(
            log.contains(feature) && log.contains("read-only"),
            "no reason in: {log}"
        );
        assert_eq!(
            before,
            image.sha256(),
            "a read-only mount changed the image"
        );
    }
}

#[test]
fn inline_data_is_read_only() {
    read_only_with_reason("-t ext4 -O inline_data", "inline_data", |root| {
        fill::fill(root, EXT4)
    });
}

#[test]
fn ea_inode_is_read_only() {
    read_only_with_reason("-t ext4 -O ea_inode", "ea_inode", |root| {
        fill::fill(
            root,
            Ability {
                xattr: 20_000,
                ..EXT4
            },
        );
    });
}

#[test]
fn large_dir_of_three_levels_is_read_only() {
    read_only_with_reason(
        "-t ext4 -b 1024 -O large_dir -N 150000",
        "large_dir",
        |root| {
            let deep = root.join("deep");
            std::fs::create_dir(&deep).expect("mkdir");
            for number in 0..100_000 {
                std::fs::File::create(deep.join(format!("{number:0>200}"))).expect("create");
            }
        },
    );
}

//! What cannot be mounted: one line, a nonzero exit, and an image that is the same byte for byte.

#[path = "common/harness.rs"]
mod harness;

use harness::image::SUPERBLOCK;
use harness::mount::{UEXT4, is_mounted};
use harness::{Image, Kind, LoopDevice, Mount, Scratch, attempt};
use std::path::Path;

/// Mounting must fail, name every one of `words`, and leave the image alone.
fn refused(scratch: &Scratch, image: &Image, words: &[&str]) {
    let before = image.sha256();
    refused_source(image.path(), &scratch.dir("mnt"), words);
    assert_eq!(before, image.sha256(), "the image was changed");
}

fn refused_source(source: &Path, dir: &Path, words: &[&str]) {
    let outcome = attempt!(UEXT4, "mount", source, dir);
    let mounted = is_mounted(dir);
    if mounted {
        attempt!(UEXT4, "umount", dir);
    }
    assert!(
        !mounted && !outcome.ok() && !outcome.timed_out,
        "mounted: {}",
        outcome.describe()
    );
    assert_eq!(
        outcome.stderr.lines().count(),
        1,
        "not one line: {}",
        outcome.describe()
    );
    for word in words {
        assert!(
            outcome.stderr.contains(word),
            "no `{word}` in: {}",
            outcome.stderr
        );
    }
}

#[test]
fn a_file_that_is_not_ext4() {
    let scratch = Scratch::new();
    refused(
        &scratch,
        &Image::blank(&scratch, "disk.img", "8M"),
        &["disk.img"],
    );
    refused(
        &scratch,
        &Image::blank(&scratch, "empty.img", "0"),
        &["empty.img"],
    );
}

#[test]
fn a_truncated_image() {
    let scratch = Scratch::new();
    let image = Image::default(&scratch);
    harness::run!("truncate", "-s", "100M", image.path());
    refused(&scratch, &image, &["disk.img"]);
}

#[test]
fn an_unknown_incompat_feature_is_named() {
    let scratch = Scratch::new();
    let image = Image::default(&scratch);
    image.debugfs(true, "set_super_value feature_incompat 0x80002c2");
    refused(&scratch, &image, &["0x8000000"]);
}

#[test]
fn an_unknown_ro_compat_feature_is_read_only() {
    let scratch = Scratch::new();
    let image = Image::default(&scratch);
    image.debugfs(true, "set_super_value feature_ro_compat 0x800046b");
    let before = image.sha256();
    let mount = Mount::new(Kind::Uext4, image.path(), &scratch.dir("mnt"), "");
    assert!(
        mount.is_read_only() && mount.log().contains("read-only"),
        "{}",
        mount.log()
    );
    mount.unmount();
    assert_eq!(before, image.sha256());
}

#[test]
fn a_superblock_and_backups_with_wrong_checksums() {
    let scratch = Scratch::new();
    let image = Image::mke2fs(&scratch, "disk.img", "100M", "-t ext4 -b 4096");
    image.damage(SUPERBLOCK + 0x78);
    refused(&scratch, &image, &["checksum"]);
}

#[test]
fn an_image_that_is_mounted_or_attached_is_busy() {
    let scratch = Scratch::new();
    let image = Image::default(&scratch);
    let mount = Mount::new(Kind::Uext4, image.path(), &scratch.dir("first"), "");
    refused_source(image.path(), &scratch.dir("second"), &["use"]);
    mount.unmount();
    let device = LoopDevice::attach(image.path(), &[]);
    refused(&scratch, &image, &["use"]);
    drop(device);
}

#[test]
fn a_mount_point_that_is_missing() {
    let scratch = Scratch::new();
    let image = Image::default(&scratch);
    let before = image.sha256();
    refused_source(image.path(), &scratch.file("missing"), &["missing"]);
    assert_eq!(before, image.sha256());
}

#[test]
fn small_blocks_on_a_device_with_large_sectors() {
    let scratch = Scratch::new();
    let image = Image::mke2fs(&scratch, "disk.img", "100M", "-t ext4 -b 1024");
    let before = image.sha256();
    let device = LoopDevice::attach(image.path(), &["-b", "4096"]);
    refused_source(device.path(), &scratch.dir("mnt"), &["4096"]);
    drop(device);
    assert_eq!(before, image.sha256());
}

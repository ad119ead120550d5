//! What cannot be mounted: one line, a nonzero exit, and an image that is the same byte for byte.

#[path = "common/harness.rs"]
mod harness;

use harness::image::SUPERBLOCK;
use harness::mount::{UEXT4, is_mounted};
use harness::{Detached, Image, Kind, LoopDevice, Mount, Scratch, attempt, namespace, run};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

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
    read_only(&scratch, &image, &["read-only", "0x8000000"]);
}

/// Mounts read-only although asked for more, says why in every one of `words`, and changes nothing.
fn read_only(scratch: &Scratch, image: &Image, words: &[&str]) {
    let before = image.sha256();
    let mount = Mount::new(Kind::Uext4, image.path(), &scratch.dir("mnt"), "");
    let (read_only, log) = (mount.is_read_only(), mount.log());
    run!("ls", "-lR", mount.path());
    mount.unmount();
    assert!(read_only, "mounted read-write: {log}");
    for word in words {
        assert!(log.contains(word), "no `{word}` in: {log}");
    }
    assert_eq!(before, image.sha256(), "the image was changed");
}

/// The label: of no consequence but for the checksum.
const LABEL: u64 = 0x78;

#[test]
fn a_superblock_with_a_wrong_checksum() {
    let scratch = Scratch::new();
    // One group, so no backup.
    let image = Image::mke2fs(&scratch, "disk.img", "100M", "-t ext4 -b 4096");
    image.damage(SUPERBLOCK + LABEL);
    refused(&scratch, &image, &["disk.img", "checksum"]);

    let image = Image::mke2fs(&scratch, "backed.img", "300M", "-t ext4 -b 4096");
    image.damage(SUPERBLOCK + LABEL);
    read_only(
        &scratch,
        &image,
        &["checksum", "backup", "32768", "read-only"],
    );
    image.damage(32768 * 4096 + LABEL);
    refused(&scratch, &image, &["backed.img", "checksum"]);
}

#[test]
fn descriptors_with_wrong_checksums() {
    let scratch = Scratch::new();
    let image = Image::mke2fs(&scratch, "disk.img", "100M", "-t ext4 -b 4096");
    image.damage(4096 + 0x0c);
    refused(&scratch, &image, &["disk.img", "checksum"]);

    let image = Image::mke2fs(&scratch, "backed.img", "300M", "-t ext4 -b 4096");
    image.damage(4096 + 0x0c);
    read_only(&scratch, &image, &["checksum", "backup", "read-only"]);
    image.damage(32769 * 4096 + 0x0c);
    refused(&scratch, &image, &["backed.img", "checksum"]);
}

#[test]
fn a_device_that_somebody_else_holds() {
    let scratch = Scratch::new();
    let image = Image::mke2fs(&scratch, "disk.img", "100M", "-t ext4");
    let before = image.sha256();
    let device = LoopDevice::attach(image.path(), &[]);
    let holder = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_EXCL)
        .open(device.path())
        .expect("exclusive");
    let dir = scratch.dir("mnt");
    refused_source(device.path(), &dir, &["use"]);
    drop(holder);
    let kernel = Mount::new(
        Kind::Kernel,
        device.path(),
        &scratch.dir("kernel"),
        "ro,noload",
    );
    refused_source(device.path(), &dir, &["use", "kernel"]);
    kernel.unmount();
    drop(device);
    assert_eq!(before, image.sha256(), "the image was changed");
}

#[test]
fn no_permission_for_fuse() {
    let scratch = Scratch::new();
    let image = Image::mke2fs(&scratch, "disk.img", "64M", "-t ext4");
    run!("chown", "nobody", image.path(), scratch.dir("mnt"));
    let before = image.sha256();
    let outcome = namespace::script(
        &scratch,
        "600",
        Duration::from_secs(60),
        "runuser -u nobody -- ./uext4 mount disk.img mnt && exit 0 || exit $?",
    );
    assert_eq!(outcome.code, Some(32), "{}", outcome.describe());
    assert_eq!(
        outcome.stderr.trim(),
        "uext4: cannot open /dev/fuse: Permission denied"
    );
    assert_eq!(before, image.sha256(), "the image was changed");
}

#[test]
fn a_mount_point_that_is_not_empty_is_a_warning() {
    let scratch = Scratch::new();
    let image = Image::mke2fs(&scratch, "disk.img", "64M", "-t ext4");
    let dir = scratch.dir("mnt");
    std::fs::write(dir.join("covered"), "").expect("write");
    let detached = Detached::on(&dir);
    let outcome = attempt!(UEXT4, "mount", image.path(), dir).expect_ok("mount");
    let warning = outcome.stderr.lines().next().unwrap_or_default();
    assert!(
        warning.starts_with("uext4: warning: ") && warning.ends_with("is not empty"),
        "{warning}"
    );
    assert!(is_mounted(&dir) && !dir.join("covered").exists());
    detached.unmount();
}

#[test]
fn wrong_words() {
    let scratch = Scratch::new();
    let image = Image::mke2fs(&scratch, "disk.img", "64M", "-t ext4");
    let before = image.sha256();
    let dir = scratch.dir("mnt");
    let file = scratch.file("file");
    std::fs::write(&file, "").expect("write");
    refused_source(image.path(), &file, &["file", "not a directory"]);
    refused_source(&scratch.dir("directory"), &dir, &["directory"]);
    refused_source(
        &scratch.file("absent.img"),
        &dir,
        &["absent.img", "No such file"],
    );
    for (option, word) in [
        ("ro,nodelalloc", "nodelalloc"),
        ("errors=ignore", "errors=ignore"),
    ] {
        let outcome = attempt!(UEXT4, "mount", image.path(), dir, "-o", option);
        assert!(
            !outcome.ok() && !is_mounted(&dir),
            "{option}: {}",
            outcome.describe()
        );
        assert!(
            outcome.stderr.contains(word),
            "{option}: {}",
            outcome.describe()
        );
        assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.describe());
    }
    assert_eq!(before, image.sha256(), "the image was changed");
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

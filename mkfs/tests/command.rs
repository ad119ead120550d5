//! `mkfs.uext4` as a person meets it.

use std::path::Path;
use std::process::{Command, Output};

fn mkfs(args: &[&str], image: &Path, size: Option<&str>) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mkfs-uext4"))
        .args(args)
        .arg(image)
        .args(size)
        .output()
        .unwrap()
}

/// Exit 1 and one line, which holds `words`; the image has the same bytes as before.
fn refused(args: &[&str], image: &Path, size: Option<&str>, words: &str) {
    let before = std::fs::read(image).ok();
    let output = mkfs(args, image, size);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(words) && text.lines().count() == 1, "{text}");
    assert_eq!(std::fs::read(image).ok(), before);
}

fn e2fsck(image: &Path) {
    let output = Command::new("e2fsck")
        .arg("-fn")
        .arg(image)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_missing_file_needs_a_size() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    refused(&[], &image, None, "give a size");
    let output = mkfs(&["-q", "-L", "name"], &image, Some("8m"));
    assert!(
        output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(),
        "{output:?}"
    );
    assert_eq!(std::fs::metadata(&image).unwrap().len(), 8 << 20);
    e2fsck(&image);
}

#[test]
fn what_a_device_holds_is_named_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    assert!(
        mkfs(&["-L", "old one"], &image, Some("8m"))
            .status
            .success()
    );
    refused(&[], &image, None, "an ext4 file system labelled old one");
    let output = mkfs(&["-n", "-F"], &image, None);
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .starts_with("would make"),
        "{}",
        output.status
    );
    assert!(mkfs(&["-F"], &image, None).status.success());
    e2fsck(&image);

    for (offset, magic, words) in [
        (0, &b"XFSB"[..], "XFS"),
        (0x1_0040, b"_BHRfS_M", "Btrfs"),
        (4086, b"SWAPSPACE2", "swap"),
        (512, b"EFI PART", "GPT"),
    ] {
        let mut bytes = vec![0; 8 << 20];
        bytes[offset..offset + magic.len()].copy_from_slice(magic);
        std::fs::write(&image, bytes).unwrap();
        refused(&[], &image, None, words);
    }
}

#[test]
fn what_is_not_built_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    std::fs::write(&image, vec![0; 8 << 20]).unwrap();
    refused(&["-O", "fast_commit"], &image, None, "fast_commit");
    refused(&["-E", "packed_meta_blocks=1"], &image, None, "packed_meta");
    refused(&["-J", "device=/dev/null"], &image, None, "device=");
    refused(&["-b", "1000"], &image, None, "1000");
    refused(&["-I", "64"], &image, None, "64");
    refused(&[], &image, Some("4k"), "too small");
}

#[test]
fn a_device_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    std::fs::write(&image, vec![0; 8 << 20]).unwrap();
    let attached = Command::new("losetup")
        .args(["-f", "--show"])
        .arg(&image)
        .output()
        .unwrap();
    assert!(attached.status.success(), "{attached:?}");
    let node = String::from_utf8(attached.stdout).unwrap();
    let before = std::fs::read(&image).unwrap();
    let output = mkfs(&[], &image, None);
    Command::new("losetup")
        .args(["-d", node.trim()])
        .status()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(std::fs::read(&image).unwrap(), before);
}

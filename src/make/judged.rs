//! Images judged by e2fsck and by the kernel.
//!
//! Source: none; the judges are strangers.
//! Invariants: whatever is attached or mounted is let go again.

use super::{FeatureSet, Options, create_with};
use std::path::Path;
use std::process::Command;

fn run(command: &mut Command) -> Result<String, String> {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    if output.status.success() {
        Ok(text)
    } else {
        Err(format!("{command:?}: {}\n{text}", output.status))
    }
}

fn e2fsck(image: &Path) {
    run(Command::new("e2fsck").arg("-fn").arg(image)).unwrap_or_else(|text| panic!("{text}"));
}

/// Makes the image, has it checked, lets the kernel write to it and has it checked again.
fn judge(options: &Options, kernel: bool) {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    create_with(&image, options).unwrap();
    e2fsck(&image);
    if !kernel {
        return;
    }
    let mount = dir.path().join("mount");
    std::fs::create_dir(&mount).unwrap();
    run(Command::new("mount")
        .args(["-o", "loop"])
        .arg(&image)
        .arg(&mount))
    .unwrap_or_else(|text| panic!("{text}"));
    let written = write_tree(&mount);
    run(Command::new("sh")
        .args([
            "-c",
            "for i in 1 2 3 4 5 6 7 8 9; do umount \"$0\" && exit; sleep 0.3; done; exit 1",
        ])
        .arg(&mount))
    .unwrap_or_else(|text| panic!("{text}"));
    written.unwrap();
    e2fsck(&image);
}

fn write_tree(mount: &Path) -> std::io::Result<()> {
    for directory in 0..3 {
        let path = mount.join(format!("directory {directory}"));
        std::fs::create_dir(&path)?;
        for file in 0..8 {
            std::fs::write(path.join(format!("file {file}")), vec![b'x'; 1000 * file])?;
        }
    }
    std::os::unix::fs::symlink("directory 0", mount.join("link"))?;
    std::fs::remove_file(mount.join("directory 1/file 3"))
}

fn with_features(size: u64, list: &str) -> Options {
    let mut features = FeatureSet::default();
    features.apply(list).unwrap();
    Options {
        features,
        ..Options::fresh(size)
    }
}

#[test]
fn default_images() {
    for size in [1536 << 10, 2 << 20, 8 << 20, 64 << 20, 1 << 30, 10 << 30] {
        judge(&Options::fresh(size), true);
    }
}

#[test]
fn a_large_image_stays_sparse() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    create_with(&image, &Options::fresh(2 << 40)).unwrap();
    e2fsck(&image);
    assert!(std::fs::metadata(&image).unwrap().blocks() * 512 < 64 << 20);
}

#[test]
fn images_with_options() {
    let size = 300 << 20;
    for block_size in [1024, 2048, 4096, 16384, 65536] {
        judge(
            &Options {
                block_size: Some(block_size),
                ..Options::fresh(size)
            },
            block_size <= 4096,
        );
    }
    for list in [
        "^metadata_csum",
        "^64bit",
        "^extent",
        "^extent,^64bit",
        "^flex_bg",
        "^has_journal",
        "^resize_inode",
        "^orphan_file",
        "^metadata_csum_seed",
    ] {
        judge(&with_features(size, list), true);
    }
    judge(
        &Options {
            inode_size: Some(512),
            label: b"sixteen bytes 16".to_vec(),
            ..Options::fresh(size)
        },
        true,
    );
    judge(
        &Options {
            inode_size: Some(128),
            block_size: Some(4096),
            ..Options::fresh(size)
        },
        true,
    );
    judge(
        &Options {
            inodes: Some(1000),
            reserved: 0,
            journal_size: Some(16 << 20),
            ..Options::fresh(size)
        },
        true,
    );
}

#[test]
fn what_was_on_the_device_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    std::fs::write(&image, vec![0xffu8; 64 << 20]).unwrap();
    let plan = super::Plan::new(&Options::fresh(64 << 20)).unwrap();
    let device = crate::device::file::FileDevice::open(&image, &Default::default()).unwrap();
    super::write(&plan, &device).unwrap();
    drop(device);
    e2fsck(&image);
}

#[test]
fn an_existing_file_is_left_alone_and_a_failure_leaves_none() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    std::fs::write(&image, b"precious").unwrap();
    assert!(super::create(&image, 64 << 20).is_err());
    assert_eq!(std::fs::read(&image).unwrap(), b"precious");
    let missing = dir.path().join("small");
    assert!(super::create(&missing, 4096).is_err());
    assert!(!missing.exists());
}

//! What is free goes back to the host: fstrim(8) and `-o discard`, seen by the blocks that the image file occupies.
//!
//! Source: Linux fstrim(8); ext4(5) on discard.

#[path = "common/harness.rs"]
mod harness;

use harness::{Image, Kind, Mount, Scratch, judge, run};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const DATA: usize = 24 << 20;

/// An image of which every block is occupied.
fn full_image(scratch: &Scratch) -> Image {
    let image = Image::mke2fs(scratch, "disk.img", "64M", "-t ext4 -b 4096 -E nodiscard");
    let bytes = fs::read(image.path()).expect("the image");
    // Not by way of a file of zeroes, which would stay sparse.
    fs::write(image.path(), bytes).expect("the image");
    assert!(occupied(image.path()) >= 64 << 20);
    image
}

fn occupied(path: &Path) -> u64 {
    fs::metadata(path).expect("the image").blocks() * 512
}

fn fstrim(mount: &Mount, options: &[&str]) -> String {
    let output = Command::new("fstrim")
        .args(["-v"])
        .args(options)
        .arg(mount.path())
        .output()
        .expect("fstrim");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "fstrim: {text}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn fstrim_gives_free_blocks_back_and_no_others() {
    let scratch = Scratch::new();
    let image = full_image(&scratch);
    let mount = Mount::new(Kind::Uext4, image.path(), &scratch.dir("mnt"), "commit=1");
    let data: Vec<u8> = (0..DATA).map(|i| (i / 4096) as u8 | 1).collect();
    for (name, bytes) in [("kept", &data[..]), ("gone", &data[..DATA / 2])] {
        fs::write(mount.at(name), bytes).expect("write");
        let file = fs::File::open(mount.at(name)).expect("open");
        file.sync_all().expect("fsync");
    }
    fs::remove_file(mount.at("gone")).expect("unlink");
    let before = occupied(image.path());
    let free: u64 = run!("stat", "-f", "-c", "%f", mount.path())
        .trim()
        .parse()
        .expect("a number");
    let said = fstrim(&mount, &[]);
    let freed = before - occupied(image.path());
    assert!(freed > 16 << 20, "{freed} bytes went back; {said}");
    assert!(freed <= free * 4096, "{freed} bytes of {free} blocks");
    // What was freed meanwhile is trimmed later, then nothing is left.
    let begin = Instant::now();
    loop {
        let again = fstrim(&mount, &[]);
        if again.contains(" 0 B (0 bytes)") {
            break;
        }
        assert!(
            begin.elapsed() < Duration::from_secs(30),
            "trimmed again and again: {again}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(fs::read(mount.at("kept")).expect("read"), data);
    mount.unmount();
    judge::clean(&image);
    let mount = Mount::new(Kind::Uext4, image.path(), &scratch.dir("mnt"), "");
    assert_eq!(fs::read(mount.at("kept")).expect("read"), data);
    mount.unmount();
}

#[test]
fn with_discard_freed_blocks_go_back_after_the_commit() {
    let scratch = Scratch::new();
    let image = full_image(&scratch);
    let mount = Mount::new(
        Kind::Uext4,
        image.path(),
        &scratch.dir("mnt"),
        "discard,commit=1",
    );
    let data = vec![7u8; DATA];
    for name in ["kept", "gone"] {
        fs::write(mount.at(name), &data[..DATA / 2]).expect("write");
    }
    let file = fs::File::open(mount.at("gone")).expect("open");
    file.sync_all().expect("fsync");
    drop(file);
    let before = occupied(image.path());
    fs::remove_file(mount.at("gone")).expect("unlink");
    let begin = Instant::now();
    while before - occupied(image.path()).min(before) < DATA as u64 / 2 {
        assert!(
            begin.elapsed() < Duration::from_secs(30),
            "nothing was discarded"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(fs::read(mount.at("kept")).expect("read"), data[..DATA / 2]);
    mount.unmount();
    judge::clean(&image);
}

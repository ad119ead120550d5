//! What the kernel knows of inodes takes a share of the cap and no more, and the kernel is asked to forget before that.
//!
//! Source: the design's section on memory (lookup counts); FUSE_NOTIFY_PRUNE.

#[path = "common/harness.rs"]
mod harness;
#[path = "common/without_fuse.rs"]
mod without_fuse;

use harness::mount::UEXT4;
use harness::{Image, Kind, Mount, Scratch, judge, run};
use std::time::{Duration, Instant};
use uext4::error::Posix;
use uext4::fs::{NewNode, Options};
use uext4::memory::sizes::floor;
use without_fuse::{CoreImage, ROOT, create};

/// Directories of the root spread over the groups, and so do their numbers.
const SPREAD: &str = "-t ext4 -b 1024 -g 1024 -N 524288 -J size=4 -m 0 -O ^resize_inode,^flex_bg";
const SIZE: &str = "4G";
/// Of one lookup in each block of numbers, the share holds about so many.
fn most(cap: u64) -> usize {
    usize::try_from(cap / 8 / 150).unwrap()
}

/// Invariant 9 of the budget.
#[test]
fn a_new_inode_is_refused_before_anything_is_changed() {
    let cap = floor(0, 1024, 64 << 10);
    let image = CoreImage::mke2fs(SIZE, SPREAD);
    let options = Options {
        memory: cap,
        max_write: 64 << 10,
        threads: 0,
        ..Options::default()
    };
    let fs = image.mount(options).expect("it mounts");
    let dir = NewNode::Directory { mode: 0o755 };
    let name = |i: usize| format!("d{i}");
    let mut made = Vec::new();
    let error = loop {
        match create(&fs, ROOT, &name(made.len()), dir) {
            Ok(attr) => made.push(attr.ino),
            Err(error) => break error,
        }
        assert!(made.len() < most(cap), "there is no limit");
    };
    assert!(error.is_posix(Posix::NoMem), "{error}");
    assert!(made.len() > most(cap) / 4, "{} are all", made.len());
    let lookup = |i: usize| fs.lookup(ROOT, name(i).as_bytes());
    assert!(lookup(made.len()).unwrap_err().is_posix(Posix::NoEnt));
    // What is known can be looked up; what is listed is listed without its inode.
    lookup(3).expect("it is known");
    let (mut listed, mut named) = (0, 0);
    fs.readdir(ROOT, 0, true, &mut |item| {
        listed += 1;
        named += usize::from(item.attr.is_some());
        true
    })
    .expect("readdir");
    assert_eq!((listed, named), (made.len() + 3, 0));
    made.iter().for_each(|&ino| fs.forget(ino, 2));
    create(&fs, ROOT, "again", dir).expect("there is room again");
    let known = fs.stats().known;
    assert_eq!((known.inodes, known.refused), (1, 1));
    fs.unmount().expect("unmount");
    drop(fs);
    image.fsck();
}

#[test]
fn the_kernel_forgets_when_it_is_asked() {
    let scratch = Scratch::new();
    let image = Image::mke2fs(&scratch, "disk.img", SIZE, SPREAD);
    let mount = Mount::new(
        Kind::Uext4,
        image.path(),
        &scratch.dir("mnt"),
        "memory=7M,threads=2",
    );
    let known = |what: &str| {
        let stats = run!(UEXT4, "stats", "--json", mount.path());
        let stats: serde_json::Value = serde_json::from_str(&stats).expect("JSON");
        stats["known"][what].as_u64().expect("a number")
    };
    let dirs = most(7 << 20) * 3 / 5;
    for i in 0..dirs {
        std::fs::create_dir(mount.at(format!("d{i}"))).expect("mkdir");
    }
    let end = Instant::now() + Duration::from_secs(10);
    while (known("prunes_sent") == 0 || known("inodes") as usize > dirs * 3 / 4)
        && Instant::now() < end
    {
        std::thread::sleep(Duration::from_millis(50));
    }
    let (prunes, left) = (known("prunes_sent"), known("inodes") as usize);
    println!("{dirs} made, {prunes} prunes, {left} known");
    assert!(
        prunes > 0 && left < dirs * 3 / 4,
        "{prunes} prunes, {left} known"
    );
    // What was forgotten is found again.
    for i in 0..dirs {
        assert!(mount.at(format!("d{i}")).is_dir(), "d{i}");
    }
    assert_eq!(known("refused"), 0);
    mount.unmount();
    judge::clean(&image);
}

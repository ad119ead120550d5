//! Repairs that a cut of the power ends in the middle: a second run finishes them, and nothing is lost.
//!
//! Source: the design's section on the checker; e2fsck and debugfs judge.

mod common;
#[path = "common/library.rs"]
mod library;

use common::run;
use fsck::Answer;
use library::{check, options};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use uext4::device::record::{Event, Record};
use uext4::device::sim::{Disk, Image, Kept, Power, Rng};

const FILES: u32 = 700;

/// A linear directory of many files, and a few more.
fn make(dir: &Path) -> PathBuf {
    let script = "set -e; cd $0; mkdir -p tree/many tree/sub; seq 20000 > tree/sub/long; ln tree/sub/long tree/hard; \
        for i in $(seq $1); do : > tree/many/a-name-of-some-length-$i; done; \
        mke2fs -q -F -t ext4 -b 1024 -N 2000 -O metadata_csum_seed,orphan_file -J size=1 -d tree image 24M";
    let status = Command::new("bash")
        .args(["-c", script])
        .arg(dir)
        .arg(FILES.to_string())
        .status();
    assert!(status.unwrap().success());
    dir.join("image")
}

fn debugfs(command: &str, image: &Path) -> String {
    let output = run("debugfs", &["-w", "-R", command], image);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Names in a directory, as debugfs lists them.
fn names(directory: &str, image: &Path) -> BTreeSet<String> {
    let list = debugfs(&format!("ls -p {directory}"), image);
    list.lines()
        .filter_map(|line| line.split('/').nth(5).map(str::to_owned))
        .collect()
}

/// The writes and barriers of a run that repairs, with `-D` if so.
fn record(image: &Image, optimize: bool) -> Vec<Event> {
    let disk = Disk::new(image.clone());
    let record = Arc::new(Record::new(disk));
    let mut options = options(Answer::Yes);
    options.optimize = optimize;
    let (status, found) = check(record.clone(), &options);
    assert_eq!(status, fsck::exit::CORRECTED, "{found:?}");
    record.take()
}

/// Of debugfs: the contents of a file, by its number.
fn contents_of_long(image: &Path) -> String {
    let stat = debugfs("stat /sub/long", image);
    format!("cat <{}>", stat.split_whitespace().nth(1).unwrap())
}

/// Cuts a run off at many places, and lets another finish it; gives the number of images.
fn cut(bytes: &[u8], long: &str, optimize: bool, image: &Path, expected: &BTreeSet<String>) -> u32 {
    let before = Image::new(bytes);
    let events = record(&before, optimize);
    let mut rng = Rng(11);
    let mut power = Power::new(before);
    let mut seen = BTreeSet::new();
    for (at, event) in events.iter().enumerate() {
        power.apply(event).unwrap();
        // Around barriers always, else now and then.
        let next_is_sync = events.get(at + 1) == Some(&Event::Sync);
        if !next_is_sync && *event != Event::Sync && rng.below(20) > 0 {
            continue;
        }
        let kinds = [
            Kept::All,
            Kept::Writes,
            Kept::Newest,
            Kept::AllButOne,
            Kept::Pieces(512),
        ];
        for kept in kinds
            .into_iter()
            .take(if power.pending() > 0 { 5 } else { 1 })
        {
            let after = power.cut(kept, &mut rng).unwrap();
            if !seen.insert(after.fingerprint()) {
                continue;
            }
            let disk = Disk::new(after);
            let mut again = options(Answer::Yes);
            again.optimize = optimize;
            let (status, found) = check(disk.clone(), &again);
            assert!(status <= 1, "event {at}, {kept:?}: {status} {found:?}");
            let (status, found) = check(disk.clone(), &options(Answer::No));
            assert!(
                status == 0 && found.is_empty(),
                "event {at}, {kept:?}: {found:?}"
            );
            if seen.len() % 5 == 0 {
                std::fs::write(image, disk.image().bytes()).unwrap();
                let theirs = run("e2fsck", &["-fn"], image);
                let text = String::from_utf8_lossy(&theirs.stdout);
                assert_eq!(
                    theirs.status.code(),
                    Some(0),
                    "event {at}, {kept:?}: {text}"
                );
                assert!(
                    names("/many", image).is_superset(expected),
                    "event {at}, {kept:?}"
                );
                assert!(debugfs(long, image).ends_with("19999\n20000\n"));
            }
        }
    }
    seen.len() as u32
}

#[test]
fn directories_that_are_packed() {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path());
    let expected = names("/many", &image);
    assert_eq!(expected.len(), FILES as usize + 2);
    let bytes = std::fs::read(&image).unwrap();
    let images = cut(&bytes, &contents_of_long(&image), true, &image, &expected);
    assert!(images > 10, "{images} images");
}

#[test]
fn damage_that_is_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path());
    let mut expected = names("/many", &image);
    expected.remove("a-name-of-some-length-9");
    let sound = std::fs::read(&image).unwrap();
    let long = contents_of_long(&image);
    let mut images = 0;
    for commands in [
        // An entry that leads nowhere; a directory without an entry; wrong counts.
        &[
            "clri /many/a-name-of-some-length-9",
            "set_bg 1 free_blocks_count 5",
        ][..],
        &["unlink /sub", "ssv free_blocks_count 77"],
        // A file with a block of the file system's own.
        &[
            "sif /many/a-name-of-some-length-7 flags 0",
            "sif /many/a-name-of-some-length-7 block[0] 9",
        ],
        &["sif /lost+found links_count 9", "sif /hard links_count 1"],
        // A journal and an orphan file are made anew.
        &["ssv orphan_file_inum 0", "sif <8> mode 0"],
    ] {
        std::fs::write(&image, &sound).unwrap();
        for command in commands {
            debugfs(command, &image);
        }
        let damaged = std::fs::read(&image).unwrap();
        images += cut(&damaged, &long, false, &image, &expected);
    }
    assert!(images > 10, "{images} images");
}

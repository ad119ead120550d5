//! Directories that are packed and indexed anew: e2fsck and the kernel find every name by its hash.
//!
//! Source: e2fsck(8), `-D`; debugfs(8).

mod common;

use common::{fsck, run};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn debugfs(command: &str, image: &Path) -> String {
    let output = run("debugfs", &["-w", "-R", command], image);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A directory `many` of so many files, linear as mke2fs writes it.
fn make(dir: &Path, options: &[&str], files: u32, length: usize) -> PathBuf {
    let image = dir.join("image");
    let many = dir.join("tree/many");
    std::fs::create_dir_all(&many).unwrap();
    for index in 0..files {
        let name = format!("{index}-{}", "n".repeat(length));
        std::fs::write(many.join(name), b"").unwrap();
    }
    let tree = dir.join("tree");
    let status = Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-d"])
        .arg(tree)
        .args(options)
        .arg(&image)
        .arg("64M")
        .status();
    assert!(status.unwrap().success());
    image
}

/// The names as the kernel lists them; each of them is looked up, too.
fn names(image: &Path, dir: &Path) -> BTreeSet<String> {
    let mount = dir.join("mount");
    std::fs::create_dir_all(&mount).unwrap();
    let mounted = Command::new("mount")
        .args(["-o", "ro,noload,loop"])
        .args([image, &mount])
        .status();
    assert!(mounted.unwrap().success());
    let list = std::fs::read_dir(mount.join("many")).unwrap();
    let all: BTreeSet<String> = list
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let lost: Vec<_> = all
        .iter()
        .filter(|name| !mount.join("many").join(name).exists())
        .collect();
    let unmount = || Command::new("umount").arg(&mount).status().unwrap();
    assert!((0..20).any(|_| unmount().success()));
    assert!(lost.is_empty(), "not found by name: {lost:?}");
    all
}

fn blocks(image: &Path) -> u64 {
    let stat = debugfs("stat /many", image);
    let size = stat.split("Size: ").nth(1).unwrap();
    size.split_whitespace().next().unwrap().parse().unwrap()
}

fn is_indexed(image: &Path) -> bool {
    let stat = debugfs("stat /many", image);
    let flags = stat.split("Flags: 0x").nth(1).unwrap();
    let flags = flags.split_whitespace().next().unwrap();
    u32::from_str_radix(flags, 16).unwrap() & 0x1000 != 0
}

fn whole(image: &Path) {
    let theirs = run("e2fsck", &["-fn"], image);
    let text = String::from_utf8_lossy(&theirs.stdout);
    assert_eq!(theirs.status.code(), Some(0), "{text}");
    assert_eq!(fsck(&["-fn"], image).0, 0);
}

#[test]
fn linear_directories_get_an_index() {
    // One level, two levels, and no checksums.
    for (options, files, length) in [
        (&["-b", "1024"][..], 500, 20),
        (&["-b", "1024"], 1200, 200),
        (&["-b", "4096", "-O", "^metadata_csum"], 300, 60),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut with = vec!["-N", "2000"];
        with.extend(options);
        let image = make(dir.path(), &with, files, length);
        assert!(!is_indexed(&image));
        let before = names(&image, dir.path());
        // The run's own moves are no problems.
        let (status, text) = fsck(&["-fy", "-D", "-v"], &image);
        let quiet = text.contains("0 problems") && !text.contains("bitmap is wrong");
        assert!(status == 1 && quiet, "{options:?}: {status} {text}");
        assert!(is_indexed(&image), "{options:?}");
        whole(&image);
        assert_eq!(names(&image, dir.path()).len(), files as usize);
        assert!(names(&image, dir.path()) == before, "{options:?}");
    }
}

#[test]
fn what_is_empty_is_packed() {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path(), &["-b", "1024", "-N", "2000"], 600, 60);
    let before = blocks(&image);
    let script = dir.path().join("script");
    let lines: String = (4..600)
        .map(|index| format!("rm /many/{index}-{}\n", "n".repeat(60)))
        .collect();
    std::fs::write(&script, lines).unwrap();
    run("debugfs", &["-w", "-f", script.to_str().unwrap()], &image);
    assert_eq!(fsck(&["-fy", "-D"], &image).0, 1);
    whole(&image);
    assert!(!is_indexed(&image));
    let after = blocks(&image);
    assert!(
        after == 1024 && before > 40 * 1024,
        "{before} bytes, then {after}"
    );
    assert_eq!(names(&image, dir.path()).len(), 4);
}

#[test]
fn a_damaged_index_is_built_again() {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path(), &["-b", "1024", "-N", "2000"], 1200, 200);
    fsck(&["-fy", "-D"], &image);
    let sound = std::fs::read(&image).unwrap();
    let before = names(&image, dir.path());
    // The root's entries; a node, which lies behind the leaves; a leaf's place in the root.
    let last = blocks(&image) / 1024 - 1;
    for (lblk, offset) in [(0, 0x28), (last, 4), (last, 40), (0, 0x1c)] {
        let mut bytes = sound.clone();
        std::fs::write(&image, &bytes).unwrap();
        let place = debugfs(&format!("bmap /many {lblk}"), &image);
        let at = place.trim().parse::<usize>().unwrap() * 1024 + offset;
        bytes[at..at + 4].fill(0xa5);
        std::fs::write(&image, bytes).unwrap();
        let (found, text) = fsck(&["-fn"], &image);
        assert_eq!(found, 4, "{lblk} {offset}: {text}");
        let (repaired, text) = fsck(&["-fy"], &image);
        assert_eq!(repaired, 1, "{lblk} {offset}: {text}");
        whole(&image);
        assert!(is_indexed(&image), "{lblk} {offset}");
        assert!(names(&image, dir.path()) == before, "{lblk} {offset}");
    }
}

/// The old blocks must be kept until the new ones are in their place.
#[test]
fn without_space_a_directory_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path(), &["-b", "1024", "-N", "2000"], 1200, 200);
    let before = names(&image, dir.path());
    let free = run("dumpe2fs", &["-h"], &image).stdout;
    let free = String::from_utf8_lossy(&free).into_owned();
    let line = free
        .lines()
        .find(|l| l.starts_with("Free blocks:"))
        .unwrap();
    let free: u64 = line.split_whitespace().last().unwrap().parse().unwrap();
    let filler = dir.path().join("filler");
    std::fs::write(&filler, vec![1; (free as usize - 100) * 1024]).unwrap();
    debugfs(&format!("write {} filler", filler.display()), &image);
    let (status, text) = fsck(&["-fy", "-D"], &image);
    assert!(text.contains("no space to rebuild"), "{status} {text}");
    whole(&image);
    assert!(!is_indexed(&image));
    assert!(names(&image, dir.path()) == before);
}

/// A bar for a person, lines for a program, and neither without being asked.
#[test]
fn progress_as_it_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path(), &["-b", "1024"], 50, 10);
    let bar = fsck(&["-fn", "-C", "0"], &image).1;
    assert!(
        bar.contains("image: |=") && bar.contains("100.0%"),
        "{bar:?}"
    );
    assert!(!fsck(&["-fn"], &image).1.contains("|="));
    let lines = |fd: &str| {
        let out = dir.path().join("lines");
        let script = "exec 7>$0; $1 -fn -C $2 $3 >/dev/null";
        let status = Command::new("bash")
            .args(["-c", script])
            .arg(&out)
            .arg(env!("CARGO_BIN_EXE_fsck-uext4"))
            .arg(fd)
            .arg(&image)
            .status();
        assert!(status.unwrap().success());
        std::fs::read_to_string(&out).unwrap()
    };
    let text = lines("7");
    let passes: BTreeSet<u32> = text
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            assert!(words.len() == 4 && words[3] == image.to_str().unwrap());
            let numbers: Vec<u32> = words[..3].iter().map(|w| w.parse().unwrap()).collect();
            assert!(numbers[1] <= numbers[2], "{line}");
            numbers[0]
        })
        .collect();
    assert_eq!(passes, (1..=5).collect(), "{text}");
    assert_eq!(lines("-7"), "");
}

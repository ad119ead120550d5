//! One field changed in a sound image: found, repaired, and every file kept.
//!
//! Source: debugfs(8), which changes the field and makes its checksum right; e2fsck(8) for exit codes.

use std::path::Path;
use std::process::{Command, Output, Stdio};

const MODERN: &str = "64bit,metadata_csum_seed,orphan_file";

fn run(program: &str, args: &[&str], image: &Path) -> Output {
    Command::new(program)
        .args(args)
        .arg(image)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn code(program: &str, args: &[&str], image: &Path) -> i32 {
    run(program, args, image).status.code().unwrap()
}

fn fsck(args: &[&str], image: &Path) -> (i32, String) {
    let output = run(env!("CARGO_BIN_EXE_fsck-uext4"), args, image);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code().unwrap(), text)
}

fn debugfs(command: &str, image: &Path) -> String {
    let output = run("debugfs", &["-w", "-R", command], image);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// An image of 24 MiB with a few files.
fn make(dir: &Path, features: &str) -> std::path::PathBuf {
    let image = dir.join("image");
    let script = "set -e; cd $0; mkdir -p tree/sub; echo short > tree/short; : > tree/empty; mkfifo tree/fifo; \
        seq 20000 > tree/sub/long; truncate -s 24M image; \
        mke2fs -q -F -t ext4 -b 1024 -N 512 -J size=1 -O $1 -d tree image";
    let status = Command::new("bash")
        .args(["-c", script])
        .arg(dir)
        .arg(features)
        .status();
    assert!(status.unwrap().success());
    image
}

struct Case {
    features: &'static str,
    command: &'static str,
    /// What must be among the problems.
    problem: &'static str,
}

fn judge(case: &Case) {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path(), &format!("{MODERN}{}", case.features));
    let in_use = |image: &Path| {
        let output = run("dumpe2fs", &["-h"], image).stdout;
        let text = String::from_utf8_lossy(&output).into_owned();
        let number = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace()
                .last()
                .unwrap()
                .parse::<u32>()
                .unwrap()
        };
        number("Inode count:") - number("Free inodes:")
    };
    let before = in_use(&image);
    let stat = debugfs("stat /short", &image);
    let number = stat.split_whitespace().nth(1).unwrap();
    debugfs(case.command, &image);
    let what = case.command;
    let (found, text) = fsck(&["-fn"], &image);
    assert_eq!(found & 4, 4, "{what}: {text}");
    let (_, json) = fsck(&["-fn", "--json"], &image);
    assert!(
        json.contains(&format!("\"{}\"", case.problem)),
        "{what}: {json}"
    );
    let (repaired, text) = fsck(&["-fy"], &image);
    assert_eq!(repaired, 1, "{what}: {text}");
    let (again, text) = fsck(&["-fn"], &image);
    assert_eq!(again, 0, "{what}: {text}");
    assert_eq!(code("e2fsck", &["-fn"], &image), 0, "{what}");
    let contents = debugfs(&format!("cat <{number}>"), &image);
    assert!(contents.starts_with("short\n"), "{what}: {contents:?}");
    assert!(in_use(&image) >= before, "{what}: fewer inodes in use");
}

fn case(features: &'static str, command: &'static str, problem: &'static str) -> Case {
    Case {
        features,
        command,
        problem,
    }
}

#[test]
fn with_clusters() {
    judge(&case(
        ",bigalloc",
        "sif <7> blocks 2432",
        "ResizeInodeInvalid",
    ));
    judge(&case(
        ",bigalloc",
        "sif /sub/long block[3] 1",
        "ClusterUnaligned",
    ));
    // There is no copy: only what other fields of the superblock say.
    judge(&case(
        ",bigalloc",
        "ssv log_block_size 9",
        "SuperblockField",
    ));
    judge(&case(
        ",bigalloc",
        "set_bg 0 inode_table 134217774",
        "InodeTablePlace",
    ));
}

#[test]
fn with_the_superblock() {
    judge(&case("", "ssv rev_level 0", "SuperblockField"));
    judge(&case("", "set_bg 0 inode_table 4000", "InodeTablePlace"));
    judge(&case("", "ssv journal_inum 14", "SuperblockField"));
}

#[test]
fn with_own_inodes() {
    judge(&case("", "sif <8> size 1048577", "SizeWrong"));
    judge(&case("", "sif <12> size 1000", "OrphanFileInode"));
    judge(&case("", "sif <12> mode 0140600", "OrphanFileInode"));
}

#[test]
fn with_files() {
    judge(&case("", "sif /short extra_isize 1056", "ExtraIsize"));
    judge(&case(
        ",ea_inode",
        "sif /short flags 0x280000",
        "EaInodeFlagSpurious",
    ));
    judge(&case("", "sif /fifo flags 0x1000", "HtreeNotDir"));
    judge(&case("", "sif <2> mode 0177777", "RootNotDirectory"));
}

#[test]
fn what_was_overwritten_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path(), MODERN);
    // Many pieces: every inode of a table, a directory, counts.
    debugfs("sif <2> mode 0177777", &image);
    debugfs("ssv free_blocks_count 77", &image);
    debugfs("set_bg 1 free_blocks_count 5", &image);
    debugfs("sif /sub/long block[3] 9", &image);
    let before = std::fs::read(&image).unwrap();
    let file = dir.path().join("undo");
    let (repaired, text) = fsck(&["-fy", "-z", file.to_str().unwrap()], &image);
    assert_eq!(repaired, 1, "{text}");
    assert!(std::fs::read(&image).unwrap() != before);
    let undone = run("e2undo", &[file.to_str().unwrap()], &image);
    assert!(undone.status.success(), "{undone:?}");
    assert!(std::fs::read(&image).unwrap() == before);
    // The way back of a run is not overwritten by the next.
    assert_eq!(fsck(&["-fy", "-z", file.to_str().unwrap()], &image).0, 8);
    assert!(std::fs::read(&image).unwrap() == before);
}

//! Runs with little memory: the same findings and the same repairs, out of a file in TMPDIR; without that file an end that
//! says so.
//!
//! Source: e2fsck(8) for exit codes.

mod common;
#[path = "common/library.rs"]
mod library;

use common::run;
use fsck::Answer;
use library::{check, options};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use uext4::device::sim::{Disk, Image, Rng};

/// Many small groups, so that tables have many pages; one directory of many names.
fn make(dir: &Path) -> PathBuf {
    let script = "set -e; cd $0; mkdir -p tree/many; \
        for d in $(seq 60); do mkdir tree/d$d; for f in $(seq 30); do echo $d > tree/d$d/f$f; done; ln tree/d$d/f1 tree/d$d/g; done; \
        (cd tree/many; for i in $(seq 3000); do : > a-name-of-some-length-$i; done); \
        for d in $(seq 20); do setfattr -n user.more -v $(printf \"$d%.0s\" $(seq 150)) tree/d$d/f2; done; \
        mke2fs -q -F -t ext4 -b 1024 -g 1024 -N 16384 -J size=1 -O metadata_csum_seed,orphan_file -d tree image 128M; \
        e2fsck -fyD image >/dev/null || [ $? = 1 ]";
    let status = Command::new("bash").args(["-c", script]).arg(dir).status();
    assert!(status.unwrap().success());
    dir.join("image")
}

fn fsck(args: &[&str], image: &Path, tmpdir: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fsck-uext4"))
        .args(args)
        .arg(image)
        .env("TMPDIR", tmpdir)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

#[test]
fn what_does_not_fit_lies_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path());
    let before = std::fs::read(&image).unwrap();
    let tmp = dir.path().join("tmp");
    std::fs::create_dir(&tmp).unwrap();
    for args in [
        &["-fn", "--memory", "1k"][..],
        &["-fy", "--memory", "1k"],
        &["-fn"],
    ] {
        let output = fsck(args, &image, &tmp);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output));
    }
    // Nothing is left behind, nor was anything there by name.
    assert!(std::fs::read_dir(&tmp).unwrap().next().is_none());
    let missing = dir.path().join("missing");
    assert_eq!(fsck(&["-fn"], &image, &missing).status.code(), Some(0));
    assert_eq!(
        fsck(&["-fn", "--memory", "1g"], &image, &missing)
            .status
            .code(),
        Some(0)
    );
    let output = fsck(&["-fn", "--memory", "1k"], &image, &missing);
    assert_eq!(output.status.code(), Some(8), "{}", text(&output));
    assert!(text(&output).contains("spill file"), "{}", text(&output));
    for size in ["", "many", "-1"] {
        let output = fsck(&["-fn", "--memory", size], &image, &tmp);
        assert_eq!(output.status.code(), Some(16), "{}", text(&output));
    }
    assert!(std::fs::read(&image).unwrap() == before);
}

/// A file system without space for the file: the run ends, and the image is as it was.
#[test]
fn a_file_that_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path());
    for command in ["clri /d7", "clri /d9/f3", "set_bg 3 free_blocks_count 7"] {
        run("debugfs", &["-w", "-R", command], &image);
    }
    let before = std::fs::read(&image).unwrap();
    let tmp = dir.path().join("tmp");
    std::fs::create_dir(&tmp).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=16k", "none"])
        .arg(&tmp)
        .status();
    assert!(mounted.unwrap().success());
    let output = fsck(&["-fy", "--memory", "1k"], &image, &tmp);
    assert!(Command::new("umount").arg(&tmp).status().unwrap().success());
    assert_eq!(output.status.code(), Some(8), "{}", text(&output));
    assert!(text(&output).contains("spill file"), "{}", text(&output));
    assert!(std::fs::read(&image).unwrap() == before);
    let output = fsck(&["-fy", "--memory", "1k"], &image, &tmp);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert_eq!(run("e2fsck", &["-fn"], &image).status.code(), Some(0));
}

#[test]
fn little_memory_changes_nothing_of_what_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path());
    let sound = std::fs::read(&image).unwrap();
    let commands = [
        "clri /d5",
        "clri /d6/f7",
        "sif /d8/f2 links_count 7",
        "unlink /d11",
        "set_bg 9 checksum 1",
        "sif /d12/f3 block[5] 9",
        "sif /d13/f4 block[5] 5000",
        "clri /many/a-name-of-some-length-77",
        "sif /many links_count 3",
        "sif /d14/f2 mode 0",
        "ea_set /d15/f5 user.new value",
    ];
    for command in commands {
        run("debugfs", &["-w", "-R", command], &image);
    }
    let several = std::fs::read(&image).unwrap();
    let mut rng = Rng(5);
    let mut damaged = 0;
    for round in 0..14 {
        let mut bytes = if round < 2 {
            several.clone()
        } else {
            sound.clone()
        };
        for _ in 0..round * 2 {
            let at = 2048 + rng.below(24 << 20) as usize;
            bytes[at..at + 8].copy_from_slice(&rng.draw().to_le_bytes());
        }
        for answer in [Answer::No, Answer::Yes] {
            let result = |memory| {
                let disk = Disk::new(Image::new(&bytes));
                let mut options = options(answer);
                options.memory = memory;
                let (status, found) = check(disk.clone(), &options);
                (status, found, disk.image().fingerprint())
            };
            let (little, much) = (result(Some(1)), result(None));
            assert_eq!(little, much, "round {round}");
            damaged += u32::from(much.0 != 0);
        }
    }
    assert!(damaged > 10, "{damaged} of 28 runs found something");
}

/// Descriptors and what is kept of each of 122 880 groups are as much within the bound as the rest.
#[test]
fn a_volume_of_many_groups_keeps_to_its_memory() {
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str, size: &str| {
        let image = dir.path().join(name);
        let status = Command::new("mke2fs")
            .args([
                "-q",
                "-F",
                "-t",
                "ext4",
                "-E",
                "lazy_itable_init=1,nodiscard",
            ])
            .args(["-J", "size=4"])
            .arg(&image)
            .arg(size)
            .status();
        assert!(status.unwrap().success());
        image
    };
    let (small, large) = (make("small", "64M"), make("large", "15T"));
    let peak = |args: &[&str], image: &Path| {
        let output = fsck(&[&["-fn", "-t"], args].concat(), image, dir.path());
        let said = text(&output);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {said}");
        let mut lines = said.lines();
        let line = lines.find_map(|line| line.strip_suffix(" KiB of memory at most"));
        line.unwrap().parse::<u64>().unwrap()
    };
    // 4 MiB of it are meant for the program and its buffers; a test build takes more, and threads do.
    let program = peak(&[], &small);
    let bounded = peak(&["--memory", "5m"], &large);
    let whole = peak(&[], &large);
    assert!(
        bounded <= program + 1024 + 512 && whole > program + 4096,
        "{program}, {bounded} and {whole} KiB"
    );
    run(
        "debugfs",
        &["-w", "-R", "set_bg 77777 free_blocks_count 9"],
        &large,
    );
    run(
        "debugfs",
        &["-w", "-R", "set_bg 77777 checksum calc"],
        &large,
    );
    let repaired = fsck(&["-fy", "--memory", "5m"], &large, dir.path());
    assert_eq!(repaired.status.code(), Some(1), "{}", text(&repaired));
    assert_eq!(run("e2fsck", &["-fn"], &large).status.code(), Some(0));
}

/// Rust's runtime says what it could not have; the exit code is that of fsck(8).
#[test]
fn without_memory_the_exit_code_is_8() {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path());
    run("debugfs", &["-w", "-R", "clri /d5"], &image);
    let before = std::fs::read(&image).unwrap();
    let mut failed = 0;
    for kibibytes in (2..=60).map(|step| step * 1000) {
        let output = Command::new("bash")
            .args(["-c", "ulimit -v $0; exec $1 -fn $2"])
            .arg(kibibytes.to_string())
            .arg(env!("CARGO_BIN_EXE_fsck-uext4"))
            .arg(&image)
            .output()
            .unwrap();
        match output.status.code() {
            Some(4) => break,
            Some(8) => {
                assert!(text(&output).lines().count() > 0);
                failed += 1;
            }
            // Too little for the program itself.
            Some(126 | 127) => {}
            None if failed == 0 => {}
            other => panic!("{kibibytes} KiB: {other:?} {}", text(&output)),
        }
    }
    assert!(failed > 0);
    assert!(std::fs::read(&image).unwrap() == before);
}

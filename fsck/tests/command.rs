//! `fsck.uext4` as a person meets it; e2fsck and the kernel judge what it leaves.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn fsck(args: &[&str], image: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fsck-uext4"))
        .args(args)
        .arg(image)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap()
}

fn succeed(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs with each of these options end in this exit code and change not a byte.
fn change_nothing(image: &Path, code: i32, runs: &[&[&str]]) {
    let before = std::fs::read(image).unwrap();
    for args in runs {
        let output = fsck(args, image);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
        assert!(std::fs::read(image).unwrap() == before, "{args:?}");
    }
}

fn make(dir: &Path) -> PathBuf {
    let image = dir.join("image");
    std::fs::File::create(&image)
        .unwrap()
        .set_len(64 << 20)
        .unwrap();
    succeed("mke2fs", &["-q", "-F", "-t", "ext4", text(&image)]);
    image
}

/// An image whose journal holds a committed transaction: block 5000 is to become 1024 bytes of `x`.
fn make_dirty(dir: &Path) -> PathBuf {
    let image = make(dir);
    let block = dir.join("block");
    std::fs::write(&block, [b'x'; 1024]).unwrap();
    let script = dir.join("script");
    let commands = format!("jo -c\njw -b 5000 {}\njc\n", text(&block));
    std::fs::write(&script, commands).unwrap();
    succeed("debugfs", &["-w", "-f", text(&script), text(&image)]);
    image
}

fn needs_recovery(image: &Path) -> bool {
    succeed("dumpe2fs", &["-h", text(image)]).contains("needs_recovery")
}

#[test]
fn an_empty_journal_is_nothing_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path());
    change_nothing(&image, 0, &[&["-E", "journal_only"]]);
}

#[test]
fn a_dirty_journal_is_replayed_once() {
    let dir = tempfile::tempdir().unwrap();
    let image = make_dirty(dir.path());
    assert!(needs_recovery(&image));
    let output = fsck(&["-p", "-E", "journal_only"], &image);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(!needs_recovery(&image));
    let bytes = std::fs::read(&image).unwrap();
    assert!(
        bytes[5000 * 1024..5001 * 1024]
            .iter()
            .all(|&byte| byte == b'x')
    );
    succeed("e2fsck", &["-fn", text(&image)]);
    assert_eq!(fsck(&["-E", "journal_only"], &image).status.code(), Some(0));
}

#[test]
fn options_that_contradict_or_are_not_known_are_exit_16() {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path());
    for args in [
        &["-f"][..],
        &["-n", "-y"],
        &["-y", "-E", "fixes_only"],
        &["-n", "-E", "journal_only"],
        &["-n", "-D"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_fsck-uext4"))
            .args(args)
            .arg(&image)
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(16), "{args:?}: {line}");
        assert_eq!(line.lines().count(), 1, "{line}");
    }
}

/// What e2fsck takes and we do not is refused by its name, in one line.
#[test]
fn options_that_are_not_built_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path());
    let cases: [(&[&str], &str); 6] = [
        (&["-fyj", "/dev/null"], "option -j: external journals"),
        (&["-n", "-c"], "option -c: bad blocks"),
        (&["-y", "-cck"], "option -c: bad blocks"),
        (&["-y", "-l", "list"], "option -l: bad blocks"),
        (&["-y", "-L", "list"], "option -L: bad blocks"),
        (&["-n", "-E", "unshare_blocks"], "-E unshare_blocks is not"),
    ];
    for (args, named) in cases {
        change_nothing(&image, 16, &[args]);
        let line = String::from_utf8(fsck(args, &image).stderr).unwrap();
        assert!(line.contains(named) && line.lines().count() == 1, "{line}");
    }
}

#[test]
fn a_full_check_of_a_sound_image_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path());
    let runs: [&[&str]; 7] = [
        &["-fn"],
        &["-fy"],
        &["-fp"],
        &["-n"],
        &["-fn", "--json"],
        &["-fn", "-F"],
        &["-n", "-r"],
    ];
    change_nothing(&image, 0, &runs);
}

#[test]
fn an_image_in_use_or_broken_is_exit_8() {
    let dir = tempfile::tempdir().unwrap();
    let image = make_dirty(dir.path());
    let node = succeed("losetup", &["-f", "--show", text(&image)]);
    let output = fsck(&["-E", "journal_only"], &image);
    succeed("losetup", &["-d", node.trim()]);
    assert_eq!(output.status.code(), Some(8), "{output:?}");
    assert!(needs_recovery(&image));
    std::fs::write(&image, [0; 4096]).unwrap();
    assert_eq!(fsck(&["-E", "journal_only"], &image).status.code(), Some(8));
    assert_eq!(
        fsck(&["-E", "journal_only"], &dir.path().join("missing"))
            .status
            .code(),
        Some(8)
    );
}

#[test]
fn what_the_kernel_left_behind_is_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path());
    let mount = dir.path().join("mount");
    let copy = dir.path().join("copy");
    std::fs::create_dir(&mount).unwrap();
    succeed("mount", &["-o", "loop", text(&image), text(&mount)]);
    for index in 0..100 {
        std::fs::write(mount.join(format!("file {index}")), vec![b'y'; 100 * index]).unwrap();
    }
    succeed("sync", &["-f", text(&mount)]);
    std::fs::copy(&image, &copy).unwrap();
    succeed("umount", &[text(&mount)]);
    assert!(needs_recovery(&copy));
    let output = fsck(&["-E", "journal_only"], &copy);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    succeed("e2fsck", &["-fn", text(&copy)]);
    let names = succeed("debugfs", &["-R", "ls -p /", text(&copy)]);
    assert_eq!(names.matches("/file ").count(), 100);
}

/// The checker in process, as tests of other parts call it.
#[test]
fn the_library_finds_and_repairs() {
    use fsck::report::{Collect, Reporter};
    use uext4::device::file::{Access, FileDevice};
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path());
    let script = dir.path().join("script");
    std::fs::write(&script, "mkdir a\nmkdir a/b\nclri a\n").unwrap();
    succeed("debugfs", &["-w", "-f", text(&script), text(&image)]);
    let check = |answer| {
        let device = FileDevice::open(&image, &Access::default()).unwrap();
        let options = fsck::Options {
            answer,
            force: true,
            now: 1_700_000_000,
            ..fsck::Options::default()
        };
        let mut found = Collect::default();
        let mut report = Reporter::new(answer, &mut found);
        let outcome = fsck::check(std::sync::Arc::new(device), &options, &mut report);
        (outcome.status, found.0)
    };
    let before = std::fs::read(&image).unwrap();
    let (status, found) = check(fsck::Answer::No);
    assert_eq!(status, fsck::exit::UNCORRECTED, "{found:?}");
    assert!(std::fs::read(&image).unwrap() == before);
    // Directory b hangs in the air, and the entry of a leads nowhere.
    for name in ["EntryUnused", "DirectoryUnconnected"] {
        assert!(
            found.iter().any(|finding| finding.name == name),
            "{name}: {found:?}"
        );
    }
    assert_eq!(check(fsck::Answer::Yes).0, fsck::exit::CORRECTED);
    let (status, found) = check(fsck::Answer::No);
    assert_eq!((status, found.len()), (fsck::exit::CLEAN, 0));
    succeed("e2fsck", &["-fn", text(&image)]);
    assert!(succeed("debugfs", &["-R", "ls -p /lost+found", text(&image)]).contains("/#"));
}

/// As fsck(8) finds it.
#[test]
fn called_by_fsck() {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path());
    let path = format!(
        "{}:{}",
        dir.path().display(),
        std::env::var("PATH").unwrap()
    );
    for name in ["uext4", "fuse.uext4"] {
        let program = dir.path().join(format!("fsck.{name}"));
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_fsck-uext4"), program).unwrap();
        let check = |args: &[&str]| {
            let mut command = Command::new("fsck");
            command.args(["-t", name]).env("PATH", &path).arg(&image);
            command.args(args).output().unwrap()
        };
        for args in [&["-n", "-f"][..], &["-p", "-f"], &["-y", "-f"]] {
            let output = check(args);
            assert_eq!(output.status.code(), Some(0), "{name} {args:?}: {output:?}");
        }
        succeed(
            "debugfs",
            &["-w", "-R", "ssv free_blocks_count 1", text(&image)],
        );
        succeed(
            "debugfs",
            &["-w", "-R", "set_bg 0 free_blocks_count 1", text(&image)],
        );
        assert_eq!(check(&["-n", "-f"]).status.code(), Some(4));
        assert_eq!(check(&["-p", "-f"]).status.code(), Some(1));
        assert_eq!(check(&["-n", "-f"]).status.code(), Some(0));
    }
}

#[test]
fn a_copy_of_the_superblock() {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path());
    let sound = std::fs::read(&image).unwrap();
    let damage = || {
        let mut bytes = sound.clone();
        bytes[1024..2048].fill(0);
        std::fs::write(&image, bytes).unwrap();
    };
    for args in [
        &["-fy", "-b", "8193", "-B", "1024"][..],
        &["-fy", "-b", "24577"],
        &["-fy"],
    ] {
        damage();
        let output = fsck(args, &image);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {output:?}");
        succeed("e2fsck", &["-fn", text(&image)]);
        assert_eq!(fsck(&["-fn"], &image).status.code(), Some(0), "{args:?}");
    }
    // Not where one is, or not with blocks of this size.
    damage();
    let runs: [&[&str]; 2] = [
        &["-fy", "-b", "8194", "-B", "1024"],
        &["-fy", "-b", "8193", "-B", "4096"],
    ];
    change_nothing(&image, 8, &runs);
}

/// What `-p` may not decide it leaves; `-v`, `-t` and `--json` say what they are for.
#[test]
fn what_is_said_of_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path());
    let script = dir.path().join("script");
    std::fs::write(&script, "mkdir a\nmkdir a/b\nclri a\n").unwrap();
    succeed("debugfs", &["-w", "-f", text(&script), text(&image)]);
    let before = std::fs::read(&image).unwrap();
    let output = fsck(&["-fp"], &image);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("without -p"), "{said}");
    assert!(std::fs::read(&image).unwrap() == before);

    let output = fsck(&["-fn", "--json"], &image);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let problems = report["problems"].as_array().unwrap();
    assert_eq!(report["status"], 4);
    // Totals of the superblock are no damage with -n.
    let found = report["found"].as_u64().unwrap() as usize;
    assert!(found > 5 && found <= problems.len(), "{found}");
    let unused = problems.iter().find(|one| one["name"] == "EntryUnused");
    let unused = unused.unwrap();
    assert!(unused["code"] == 2001 && unused["dir"] == 2 && unused["label"] == "a");
    assert!(unused["action"] == "Clear" && unused["done"] == false);

    let output = fsck(&["-fy", "-v", "-t"], &image);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines.iter().any(|line| line.ends_with("of them repaired")));
    let seconds = lines.last().and_then(|line| line.strip_suffix(" s"));
    assert!(seconds.is_some_and(|s| s.parse::<f64>().is_ok()), "{said}");
    assert_eq!(output.status.code(), Some(1), "{said}");
}

#[test]
fn it_goes_on_when_nobody_reads_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path());
    let mut child = Command::new(env!("CARGO_BIN_EXE_fsck-uext4"))
        .args(["-f", "-n", "-v"])
        .arg(&image)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

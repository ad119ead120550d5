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

/// A pipe that nobody reads any more.
fn unread() -> std::io::PipeWriter {
    std::io::pipe().unwrap().1
}

#[test]
fn it_goes_on_when_nobody_reads_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let mkfs = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mkfs-uext4"));
        command.args(args).arg(&image).arg("8m");
        command
    };
    for args in [
        &["-n", "-v"][..],
        &["-q"],
        &["-F", "-v"],
        &["-V"],
        &["--help"],
    ] {
        let status = mkfs(args).stdout(unread()).status().unwrap();
        assert_eq!(status.code(), Some(0), "{args:?}");
    }
    e2fsck(&image);
    // It holds a file system; and an option that is not known.
    for args in [&[][..], &["-Q"]] {
        let status = mkfs(args).stderr(unread()).status().unwrap();
        assert_eq!(status.code(), Some(1), "{args:?}");
    }
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
    refused(&["-O", "journal_dev"], &image, None, "journal_dev");
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

/// A device that held something else before, with the inode tables and the journal left as they are.
#[test]
fn stale_bytes_are_not_taken_for_inodes() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let mount = dir.path().join("mount");
    std::fs::create_dir(&mount).unwrap();
    let run = |program: &str, args: &[&Path]| {
        let status = Command::new(program).args(args).status().unwrap();
        assert!(status.success(), "{program} {args:?}");
    };
    let stale: Vec<u8> = (0..64_u32 << 18)
        .flat_map(|n| (n | 1).to_le_bytes())
        .collect();
    for extended in [
        "lazy_itable_init=1,lazy_journal_init=1,nodiscard",
        "lazy_itable_init=0,lazy_journal_init=0,nodiscard",
    ] {
        for features in ["metadata_csum_seed,orphan_file", "^metadata_csum,uninit_bg"] {
            std::fs::write(&image, &stale).unwrap();
            let args = ["-q", "-F", "-O", features, "-E", extended];
            let made = mkfs(&args, &image, None);
            assert!(made.status.success(), "{made:?}");
            e2fsck(&image);
            run(
                "mount",
                &[Path::new("-o"), Path::new("loop"), &image, &mount],
            );
            for index in 0..3000 {
                std::fs::write(mount.join(format!("file {index}")), "text").unwrap();
            }
            let unmount = || Command::new("umount").arg(&mount).status().unwrap();
            assert!((0..20).any(|_| unmount().success()));
            e2fsck(&image);
        }
    }
}

/// As mkfs(8) finds it, and under the names that make other types.
#[test]
fn called_by_other_names() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let path = format!(
        "{}:{}",
        dir.path().display(),
        std::env::var("PATH").unwrap()
    );
    for (name, by_mkfs, feature, without) in [
        ("mkfs.uext4", true, "extent", None),
        ("mkfs.fuse.uext4", true, "extent", None),
        ("mkfs.ext4", false, "extent", None),
        ("mkfs.ext3", false, "has_journal", Some("extent")),
        ("mkfs.ext2", false, "ext_attr", Some("has_journal")),
    ] {
        let program = dir.path().join(name);
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_mkfs-uext4"), &program).unwrap();
        std::fs::write(&image, vec![0; 16 << 20]).unwrap();
        let mut command = match by_mkfs {
            true => Command::new("mkfs"),
            false => Command::new(&program),
        };
        if let Some(kind) = name.strip_prefix("mkfs.").filter(|_| by_mkfs) {
            command.args(["-t", kind]);
        }
        let made = command.env("PATH", &path).arg(&image).output().unwrap();
        assert!(made.status.success(), "{name}: {made:?}");
        e2fsck(&image);
        let output = Command::new("dumpe2fs").arg("-h").arg(&image).output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with("Filesystem features:"));
        let features: Vec<&str> = line.unwrap().split_whitespace().collect();
        assert!(features.contains(&feature), "{name}: {features:?}");
        let none = without.is_none_or(|word| !features.contains(&word));
        assert!(none, "{name}: {features:?}");
        // An error names the program as it was called.
        let refused = Command::new(&program)
            .args(["-b", "1000"])
            .arg(&image)
            .output();
        let text = String::from_utf8(refused.unwrap().stderr).unwrap();
        assert!(text.starts_with(&format!("{name}: ")), "{text}");
    }
}

/// A bar is for a terminal, after a second: a pipe never sees one.
#[test]
fn output_is_plain_in_a_pipe() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let output = mkfs(&[], &image, Some("16m"));
    let (out, err) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    assert!(output.status.success() && err.is_empty(), "{err}");
    assert!(
        !out.is_empty() && !out.contains(['\r', '\x1b', '\x08']),
        "{out:?}"
    );
}

/// What takes longer than a second says on a terminal how far it is: an archive that comes slowly.
#[test]
fn a_bar_on_a_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let script = "set -e; mkdir tree; for i in $(seq 50); do echo $i > tree/f$i; done; tar cf archive -C tree .; \
        for quiet in '' -q; do \
          script -qec \"(head -c 8192 archive; sleep 1.5; tail -c +8193 archive) | $0 $quiet -F -d - image 16M\" out$quiet </dev/null >/dev/null; \
        done; e2fsck -fn image";
    let output = Command::new("bash")
        .args(["-c", script, env!("CARGO_BIN_EXE_mkfs-uext4")])
        .current_dir(dir.path())
        .env("TERM", "xterm")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let seen = |name: &str| {
        let text = std::fs::read_to_string(dir.path().join(name)).unwrap();
        // Between the lines of script(1) itself.
        let lines = text.lines().filter(|line| !line.starts_with("Script "));
        lines.collect::<Vec<_>>().join("\n")
    };
    let bar = seen("out");
    assert!(bar.contains("files ") && bar.contains('\r'), "{bar:?}");
    assert_eq!(seen("out-q"), "");
}

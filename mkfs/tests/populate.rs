//! `mkfs.uext4 -d` as a person meets it, read back by the kernel.
//!
//! Source: none; the judges are e2fsck and the kernel.
//! Invariants: whatever is mounted is let go again.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const ID: &str = "11111111-2222-3333-4444-555555555555";

fn mkfs(args: &[&str], image: &Path, size: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mkfs-uext4"))
        .args(args)
        .arg(image)
        .arg(size)
        .output()
        .unwrap()
}

fn sh(script: &str, dir: &Path) -> String {
    let output = Command::new("bash")
        .args(["-euc", script])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Something of every kind.
fn tree(dir: &Path) -> PathBuf {
    let script = r#"
        mkdir -p tree/sub/deep tree/many tree/empty
        echo hello > tree/file; : > tree/nothing
        head -c 3000000 /dev/urandom > tree/sub/large
        for i in $(seq 600); do echo $i > tree/many/file-with-a-longer-name-$i; done
        ln tree/file tree/sub/hard; ln -s ../file tree/sub/soft
        ln -s "$(printf 'x%.0s' $(seq 200))" tree/long-link
        mknod tree/null c 1 3; mknod tree/loop b 7 200; mkfifo tree/fifo
        truncate -s 5M tree/sparse; printf data | dd of=tree/sparse bs=1 seek=2000000 conv=notrunc status=none
        chown 1000:1001 tree/file; chmod 4711 tree/sub/large; chown 7:8 tree/sub; chmod 2775 tree/sub
        setfattr -n user.note -v value tree/file; setfattr -n user.dir -v d tree/sub
        setfattr -n trusted.t -v t tree/nothing; setfattr -h -n trusted.l -v l tree/sub/soft
        setfacl -m u:1234:rw tree/file; setfacl -d -m g:55:rx tree/sub/deep
        touch -d '2001-02-03 04:05:06.789' tree/sub/large
        find tree -exec touch -h -d '2010-10-10 10:10:10.5' {} +
    "#;
    sh(script, dir);
    dir.join("tree")
}

/// Every name with all its attributes, and the contents.
fn listing(root: &Path) -> String {
    let script = r#"
        find . -path ./lost+found -prune -o -type d ! -name . -printf '%p %y %m %U %G %n %T@\n' | sort
        find . -path ./lost+found -prune -o ! -type d -printf '%p %y %m %U %G %s %n %T@ %l\n' | sort
        find . -path ./lost+found -prune -o -type f -print0 | sort -z | xargs -0 sha256sum
        find . -path ./lost+found -prune -o \( -type c -o -type b \) -print0 | sort -z | xargs -0 -r stat -c '%n %t %T'
        find . ! -name . -path ./lost+found -prune -o ! -name . -print0 | sort -z | xargs -0 getfattr -h -d -m - --absolute-names
    "#;
    sh(script, root)
}

fn e2fsck(image: &Path) {
    let output = Command::new("e2fsck")
        .arg("-fn")
        .arg(image)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// What the kernel finds in the image.
fn read_back(dir: &Path, image: &Path) -> String {
    let mount = dir.join("mount");
    std::fs::create_dir_all(&mount).unwrap();
    let words = [image.to_str().unwrap(), mount.to_str().unwrap()];
    sh(&format!("mount -o loop,ro {} {}", words[0], words[1]), dir);
    let found = std::panic::catch_unwind(|| listing(&mount));
    let umount = "for i in 1 2 3 4 5 6 7 8 9; do umount DIR && exit; sleep 0.3; done; exit 1";
    sh(&umount.replace("DIR", words[1]), dir);
    found.unwrap()
}

fn same(found: &str, expected: &str) {
    assert!(expected.lines().count() > 1200);
    for (found, expected) in found.lines().zip(expected.lines()) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len());
}

#[test]
fn a_directory_and_its_archive_arrive_whole() {
    let dir = tempfile::tempdir().unwrap();
    let tree = tree(dir.path());
    let expected = listing(&tree);
    let image = dir.path().join("image");
    let source = tree.to_str().unwrap().to_owned();
    let output = mkfs(&["-q", "-d", &source], &image, "64M");
    assert!(output.status.success(), "{output:?}");
    e2fsck(&image);
    same(&read_back(dir.path(), &image), &expected);
    let sparse = sh("debugfs -R 'stat /sparse' image 2>/dev/null", dir.path());
    let blocks: u64 = sparse
        .split("Blockcount: ")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap();
    assert!(blocks < 100, "{sparse}");

    // With pax headers for what tar's own do not hold.
    sh(
        "tar --format=pax --xattrs --xattrs-include='*' -C tree -cf tree.tar .",
        dir.path(),
    );
    std::fs::remove_file(&image).unwrap();
    let archive = std::fs::File::open(dir.path().join("tree.tar")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_mkfs-uext4"))
        .args(["-q", "-O", "inline_data,ea_inode,project", "-d", "-"])
        .arg(&image)
        .arg("64M")
        .stdin(archive)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    e2fsck(&image);
    same(&read_back(dir.path(), &image), &expected);
    let features = sh("dumpe2fs -h image 2>/dev/null | grep features:", dir.path());
    for name in ["has_journal", "inline_data", "ea_inode", "orphan_file"] {
        assert!(features.contains(name), "{features}");
    }
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let tree = tree(dir.path());
    let copy = sh(
        "cp -a tree copy; sleep 1.1; touch -a copy/file; pwd",
        dir.path(),
    );
    let copy = format!("{}/copy", copy.trim());
    let seed = format!("hash_seed={ID}");
    let make = |source: &str, name: &str| {
        let image = dir.path().join(name);
        let output = Command::new(env!("CARGO_BIN_EXE_mkfs-uext4"))
            .args(["-q", "-U", ID, "-E", &seed, "-d", source])
            .arg(&image)
            .arg("64M")
            .env("SOURCE_DATE_EPOCH", "1500000000")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        std::fs::read(image).unwrap()
    };
    let (first, second) = (make(tree.to_str().unwrap(), "one"), make(&copy, "two"));
    assert!(first == second, "the images differ");
    e2fsck(&dir.path().join("one"));
}

#[test]
fn owners_are_mapped() {
    let dir = tempfile::tempdir().unwrap();
    sh(
        "mkdir tree; touch tree/a tree/b; chown 1000:1000 tree/a; chown 5:6 tree/b",
        dir.path(),
    );
    std::fs::write(
        dir.path().join("map"),
        "# comment\nu 1000 0\ng 1000 3\nu * 9\n",
    )
    .unwrap();
    let image = dir.path().join("image");
    let (tree, map) = (dir.path().join("tree"), dir.path().join("map"));
    let args = [
        "-q",
        "-d",
        tree.to_str().unwrap(),
        "--owner-map",
        map.to_str().unwrap(),
    ];
    let output = mkfs(&args, &image, "8M");
    assert!(output.status.success(), "{output:?}");
    let found = sh(
        "for f in a b; do debugfs -R \"stat /$f\" image 2>/dev/null | grep User; done",
        dir.path(),
    );
    let words: Vec<&str> = found.split_whitespace().collect();
    assert_eq!((words[1], words[3]), ("0", "3"), "{found}");
    let second = words.iter().rposition(|word| *word == "User:").unwrap();
    assert_eq!(
        (words[second + 1], words[second + 3]),
        ("9", "6"),
        "{found}"
    );
}

#[test]
fn what_does_not_fit_or_does_not_parse_leaves_no_image() {
    let dir = tempfile::tempdir().unwrap();
    sh(
        "mkdir tree; head -c 9M /dev/zero | tr '\\0' x > tree/big",
        dir.path(),
    );
    let image = dir.path().join("image");
    let tree = dir.path().join("tree");
    let output = mkfs(&["-q", "-d", tree.to_str().unwrap()], &image, "8M");
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("big") && text.lines().count() == 1, "{text}");
    assert!(!image.exists());

    let mut child = Command::new(env!("CARGO_BIN_EXE_mkfs-uext4"))
        .args(["-q", "-d", "-"])
        .arg(&image)
        .arg("8M")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The reader may have given up already.
    let _ = child.stdin.take().unwrap().write_all(&[b'x'; 4096]);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(!image.exists());
}

//! The golden images: unchanged, and what they are for can be read from them.
//!
//! Source: images/README.md.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use uext4::device::Device;
use uext4::device::file::{Access, FileDevice};
use uext4::fs::{Fs, Options};
use uext4::ids::InodeNumber;

const ROOT: InodeNumber = InodeNumber::ROOT;

/// Unpacks an image and compares its hash with the table's.
fn unpack(name: &str, dir: &Path) -> PathBuf {
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("images");
    let path = dir.join(name);
    let file = std::fs::File::create(&path).expect("a scratch file");
    let packed = images.join(format!("{name}.gz"));
    let status = Command::new("gzip")
        .arg("-dc")
        .arg(packed)
        .stdout(Stdio::from(file))
        .status();
    assert!(status.expect("gzip").success());
    let hash = Command::new("sha256sum")
        .arg(&path)
        .output()
        .expect("sha256sum");
    let hash = String::from_utf8_lossy(&hash.stdout)[..64].to_owned();
    let table = std::fs::read_to_string(images.join("README.md")).expect("the table");
    let row = table
        .lines()
        .find(|line| line.contains(name))
        .expect("a row of the table");
    assert!(row.contains(&hash), "{name}: {hash}");
    path
}

fn mount(path: &Path, read_only: bool) -> Arc<Fs> {
    let access = Access {
        read_only,
        ..Access::default()
    };
    let device = FileDevice::open(path, &access).expect("the image opens");
    let options = Options {
        read_only,
        ..Options::default()
    };
    Fs::mount(Arc::new(device) as Arc<dyn Device>, options).expect("it mounts")
}

/// Follows a path from the root.
fn find(fs: &Fs, path: &str) -> Option<InodeNumber> {
    let mut at = ROOT;
    for name in path.split('/') {
        at = fs.lookup(at, name.as_bytes()).ok()?.ino;
    }
    Some(at)
}

fn contents(fs: &Fs, path: &str) -> Vec<u8> {
    let ino = find(fs, path).expect(path);
    fs.read(ino, 0, 1 << 20).expect("read").as_slice().to_vec()
}

fn check_replayed(fs: &Fs) {
    for i in (6..=60).filter(|i| *i != 9) {
        assert_eq!(
            contents(fs, &format!("dir/file-{i}")),
            format!("file {i}\n").as_bytes()
        );
    }
    assert!(find(fs, "dir/file-9").is_none());
    assert!(find(fs, "dir/held").is_none());
    assert_eq!(contents(fs, "dir/file-5").len(), 100 << 10);
    let noted = find(fs, "dir/file-7").expect("the file");
    assert_eq!(
        fs.getxattr(noted, b"user.note").expect("the attribute"),
        b"kept"
    );
    assert_eq!(find(fs, "hard"), find(fs, "dir/file-8"));
}

#[test]
fn a_dirty_journal_is_replayed_in_memory_or_for_good() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let path = unpack("dirty-journal.img", dir.path());
    let before = std::fs::read(&path).expect("the image");
    let fs = mount(&path, true);
    assert!(
        fs.notices()
            .iter()
            .any(|n| n.starts_with("journal replayed in memory"))
    );
    check_replayed(&fs);
    fs.unmount().expect("unmount");
    drop(fs);
    assert!(
        std::fs::read(&path).expect("the image") == before,
        "a read-only mount wrote"
    );

    let fs = mount(&path, false);
    assert!(
        fs.notices()
            .iter()
            .any(|n| n.starts_with("journal replayed:"))
    );
    assert!(
        fs.notices()
            .iter()
            .any(|n| n == "1 orphaned inodes finished"),
        "{:?}",
        fs.notices()
    );
    check_replayed(&fs);
    fs.unmount().expect("unmount");
    drop(fs);
    let checked = Command::new("e2fsck")
        .arg("-fn")
        .arg(&path)
        .output()
        .expect("e2fsck");
    assert!(
        checked.status.success(),
        "{}",
        String::from_utf8_lossy(&checked.stdout)
    );
}

#[test]
fn a_block_map_of_every_depth_is_read() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let fs = mount(&unpack("ext3-block-map.img", dir.path()), true);
    let sparse = find(&fs, "sparse").expect("the file");
    for block in [0, 11, 12, 267, 268, 1000, 66_000] {
        let expected = format!("block {block}");
        let read = fs.read(sparse, block * 1024, expected.len()).expect("read");
        assert_eq!(read.as_slice(), expected.as_bytes());
    }
    assert!(
        fs.read(sparse, 500 * 1024, 4096)
            .expect("read")
            .as_slice()
            .iter()
            .all(|&b| b == 0)
    );
    let long = find(&fs, "longlink").expect("the link");
    assert_eq!(fs.readlink(long).expect("readlink"), vec![b'x'; 300]);
    let null = fs.lookup(ROOT, b"null").expect("the node");
    assert_eq!(null.rdev, (1, 3));
}

#[test]
fn inline_data_is_read() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let fs = mount(&unpack("inline.img", dir.path()), false);
    assert!(fs.is_read_only());
    assert!(fs.notices().iter().any(|n| n.contains("inline_data")));
    assert_eq!(contents(&fs, "tiny"), b"tiny\n");
    assert_eq!(contents(&fs, "medium"), [b'a'; 120]);
    assert!(find(&fs, "small-dir/one").is_some() && find(&fs, "small-dir/two").is_some());
    assert!(
        fs.getxattr(find(&fs, "tiny").expect("it"), b"system.posix_acl_access")
            .is_ok()
    );
}

//! Everything that a person can see of a file tree, and the comparison of two.

use super::sh;
use rustix::fs::SeekFrom;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One name. Access times are left out: looking changes them.
#[derive(Debug, PartialEq, Eq)]
pub struct Node {
    /// Type and permission bits.
    mode: u32,
    owner: (u32, u32),
    size: u64,
    blocks: u64,
    nlink: u64,
    rdev: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
    /// The first name of the same inode.
    same_as: PathBuf,
    symlink: Option<PathBuf>,
    /// ACLs are among them (`system.posix_acl_access`).
    xattrs: BTreeMap<String, Vec<u8>>,
    /// Start and end of every run of data, from SEEK_DATA and SEEK_HOLE.
    data: Vec<(u64, u64)>,
    sha256: Option<String>,
}

pub type Tree = BTreeMap<PathBuf, Node>;

/// Reads the tree under `root`, the root itself included as the empty path.
pub fn read(root: &Path) -> Tree {
    let mut first_names = BTreeMap::new();
    let mut tree = Tree::new();
    let mut left = vec![PathBuf::new()];
    while let Some(name) = left.pop() {
        let path = root.join(&name);
        let meta =
            fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        if meta.is_dir() {
            let mut names: Vec<OsString> = list(&path);
            names.sort();
            left.extend(names.into_iter().rev().map(|entry| name.join(entry)));
        }
        let same_as = first_names
            .entry(meta.ino())
            .or_insert_with(|| name.clone())
            .clone();
        tree.insert(name, node(&path, &meta, same_as));
    }
    // Last: the kernel's SEEK_DATA takes unwritten blocks for data once they are in the page cache.
    for (name, hash) in hashes(root) {
        tree.get_mut(&name).expect("a file of the tree").sha256 = Some(hash);
    }
    tree
}

/// A directory's names; each must come once.
pub fn list(dir: &Path) -> Vec<OsString> {
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let names: Vec<OsString> = entries
        .map(|entry| entry.expect("entry").file_name())
        .collect();
    let mut once = names.clone();
    once.sort();
    once.dedup();
    assert_eq!(
        once.len(),
        names.len(),
        "{}: a name comes twice",
        dir.display()
    );
    names
}

fn node(path: &Path, meta: &Metadata, same_as: PathBuf) -> Node {
    Node {
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        size: meta.size(),
        blocks: meta.blocks(),
        nlink: meta.nlink(),
        rdev: meta.rdev(),
        mtime: (meta.mtime(), meta.mtime_nsec()),
        ctime: (meta.ctime(), meta.ctime_nsec()),
        same_as,
        symlink: meta
            .is_symlink()
            .then(|| fs::read_link(path).expect("symlink")),
        xattrs: xattrs(path),
        data: if meta.is_file() {
            data_runs(path, meta.size())
        } else {
            Vec::new()
        },
        sha256: None,
    }
}

/// Of all files with content, by one process; a file's name may hold anything but a newline.
fn hashes(root: &Path) -> BTreeMap<PathBuf, String> {
    let script = format!(
        "cd '{}' && find . -xdev -type f -size +0 -print0 | xargs -0 -r sha256sum -bz | tr '\\0' '\\n'",
        root.display()
    );
    let mut hashes = BTreeMap::new();
    for line in sh(Duration::from_secs(180), &script).lines() {
        let (hash, name) = line.split_once(" *./").expect("sha256sum's format");
        hashes.insert(PathBuf::from(name), hash.to_string());
    }
    hashes
}

/// Every attribute that listxattr(2) names, without following a symlink.
pub fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 8192];
    let len = rustix::fs::llistxattr(path, &mut names)
        .unwrap_or_else(|e| panic!("listxattr {}: {e}", path.display()));
    let mut found = BTreeMap::new();
    for name in names[..len]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let mut value = vec![0; 65536];
        let len = rustix::fs::lgetxattr(path, name, &mut value).unwrap_or_else(|e| {
            panic!(
                "getxattr {} {}: {e}",
                path.display(),
                String::from_utf8_lossy(name)
            )
        });
        value.truncate(len);
        found.insert(String::from_utf8_lossy(name).into_owned(), value);
    }
    found
}

/// Where a file has data, to its end of `size` bytes.
pub fn data_runs(path: &Path, size: u64) -> Vec<(u64, u64)> {
    let file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut runs = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(&file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(e) => panic!("SEEK_DATA {}: {e}", path.display()),
        };
        let end = rustix::fs::seek(&file, SeekFrom::Hole(start)).expect("SEEK_HOLE");
        assert!(
            start >= at && end > start,
            "{}: data from {start} to {end} after {at}",
            path.display()
        );
        runs.push((start, end));
        at = end;
    }
    runs
}

/// Panics with the first differences.
pub fn same(expected: &Tree, found: &Tree) {
    let mut differences = Vec::new();
    for (name, node) in expected {
        match found.get(name) {
            None => differences.push(format!("{}: missing", name.display())),
            Some(other) if other != node => {
                differences.push(format!(
                    "{}:\n  expected {node:?}\n  found    {other:?}",
                    name.display()
                ));
            }
            Some(_) => {}
        }
    }
    let extra = found.keys().filter(|name| !expected.contains_key(*name));
    differences.extend(extra.map(|name| format!("{}: not expected", name.display())));
    assert!(
        differences.is_empty(),
        "{} of {} names differ:\n{}",
        differences.len(),
        expected.len(),
        differences[..differences.len().min(10)].join("\n")
    );
}

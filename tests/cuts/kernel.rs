//! The kernel's own ext4 mounts a cut image, replays its journal and shows what it finds.

use crate::model::{Kind, Node, ROOT, Tree};
use crate::op::FILLER;
use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io::Result;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A mounted image; unmounted when it is dropped.
struct Mounted(PathBuf);

impl Mounted {
    /// A child that another thread is starting may hold a file of ours for a moment.
    fn unmount(&self) -> bool {
        (0..100).any(|_| {
            let done = Command::new("umount").arg(&self.0).output();
            let done = done.is_ok_and(|output| output.status.success());
            if !done {
                std::thread::sleep(Duration::from_millis(20));
            }
            done
        })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if !self.unmount() {
            eprintln!("cannot unmount {}", self.0.display());
        }
    }
}

/// What the kernel shows of the image, which it recovers and unmounts. Needs root.
pub fn dump(image: &Path, at: &Path) -> Result<(Tree, BTreeMap<u32, Vec<u8>>)> {
    let output = Command::new("mount")
        .args(["-t", "ext4", "-o", "loop"])
        .arg(image)
        .arg(at)
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "mount: {text}");
    let mounted = Mounted(at.to_path_buf());
    let mut tree = Tree::default();
    let mut contents = BTreeMap::new();
    let mut todo = vec![(ROOT, at.to_path_buf())];
    tree.nodes.insert(
        ROOT,
        node(at, &std::fs::symlink_metadata(at)?, &mut contents)?,
    );
    while let Some((dir, path)) = todo.pop() {
        let mut names = BTreeMap::new();
        for entry in std::fs::read_dir(&path)? {
            let path = entry?.path();
            let metadata = std::fs::symlink_metadata(&path)?;
            let number = u32::try_from(metadata.ino()).expect("ext4's numbers");
            let name = path.file_name().expect("a name").as_bytes().to_vec();
            names.insert(name, number);
            tree.nodes
                .insert(number, node(&path, &metadata, &mut contents)?);
            if metadata.is_dir() {
                todo.push((number, path));
            }
        }
        tree.dirs.insert(dir, names);
    }
    drop(mounted);
    Ok((tree, contents))
}

fn node(path: &Path, metadata: &Metadata, contents: &mut BTreeMap<u32, Vec<u8>>) -> Result<Node> {
    let kind = if metadata.is_dir() {
        Kind::Directory
    } else if metadata.is_symlink() {
        Kind::Symlink(std::fs::read_link(path)?.as_os_str().as_bytes().to_vec())
    } else {
        if path.file_name().is_none_or(|name| name != FILLER) {
            contents.insert(metadata.ino() as u32, std::fs::read(path)?);
        }
        Kind::File
    };
    let mut xattrs = BTreeMap::new();
    let mut keys = [0_u8; 4096];
    let length = rustix::fs::llistxattr(path, &mut keys)?;
    for key in keys[..length]
        .split(|byte| *byte == 0)
        .filter(|key| !key.is_empty())
    {
        let mut value = [0_u8; 4096];
        let length = rustix::fs::lgetxattr(path, key, &mut value)?;
        xattrs.insert(key.to_vec(), value[..length].to_vec());
    }
    Ok(Node {
        kind,
        nlink: metadata.nlink() as u32,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        xattrs,
    })
}

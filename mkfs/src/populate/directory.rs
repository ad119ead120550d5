//! A directory tree as a source.
//!
//! Source: lstat(2), lseek(2) on SEEK_DATA, listxattr(2).
//! Invariants: names in byte order, all of a directory before what is below it; the tree may not be followed out of by a
//! symbolic link.

use super::node::{CHUNK, Event, Node, NodeKind};
use rustix::fs::{SeekFrom, seek};
use std::collections::HashMap;
use std::ffi::CString;
use std::fs::{File, Metadata};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use uext4::format::time::Timestamp;
use uext4::make::MakeError;

type Name = Vec<u8>;

/// Yields the tree below `root`, and the attributes of `root` itself.
pub fn read(root: &Path, xattrs: bool, send: &dyn Fn(Event) -> bool) -> Result<(), MakeError> {
    let mut tree = Tree {
        root: root.to_owned(),
        xattrs,
        links: HashMap::new(),
        send,
    };
    let metadata = std::fs::metadata(root).map_err(|error| fail(root, error))?;
    let node = tree.node(root, Vec::new(), NodeKind::Directory, &metadata)?;
    if !send(Event::Node(Box::new(node))) {
        return Ok(());
    }
    // Directories still to be read, the next one last.
    let mut pending = vec![Vec::new()];
    while let Some(path) = pending.pop() {
        let Some(mut below) = tree.directory(&path)? else {
            return Ok(());
        };
        below.reverse();
        pending.append(&mut below);
    }
    Ok(())
}

struct Tree<'a> {
    root: PathBuf,
    xattrs: bool,
    /// Files with several names: the first one.
    links: HashMap<(u64, u64), Vec<Name>>,
    send: &'a dyn Fn(Event) -> bool,
}

impl Tree<'_> {
    /// Yields what is in a directory; returns its subdirectories, or `None` when nobody listens any more.
    fn directory(&mut self, path: &[Name]) -> Result<Option<Vec<Vec<Name>>>, MakeError> {
        let full = self.full(path);
        let list = |error| fail(&full, error);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&full).map_err(list)? {
            names.push(entry.map_err(list)?.file_name().into_vec());
        }
        names.sort();
        let mut below = Vec::new();
        for name in names {
            let mut path = path.to_vec();
            path.push(name);
            let full = self.full(&path);
            let metadata = std::fs::symlink_metadata(&full).map_err(|error| fail(&full, error))?;
            if metadata.is_dir() {
                below.push(path.clone());
            }
            if !self.entry(&full, path, &metadata)? {
                return Ok(None);
            }
        }
        Ok(Some(below))
    }

    fn full(&self, path: &[Name]) -> PathBuf {
        let mut full = self.root.clone();
        for name in path {
            full.push(std::ffi::OsStr::from_bytes(name));
        }
        full
    }

    /// False when nobody listens any more.
    fn entry(
        &mut self,
        full: &Path,
        path: Vec<Name>,
        metadata: &Metadata,
    ) -> Result<bool, MakeError> {
        let first = (!metadata.is_dir() && metadata.nlink() > 1)
            .then(|| self.first_name(metadata, &path))
            .flatten();
        let is_link = first.is_some();
        let kind = match first {
            Some(first) => NodeKind::Link(first),
            None => kind(full, metadata)?,
        };
        let node = self.node(full, path, kind, metadata)?;
        if !(self.send)(Event::Node(Box::new(node))) {
            return Ok(false);
        }
        if metadata.is_file() && !is_link && metadata.len() > 0 {
            return self.data(full, metadata);
        }
        Ok(true)
    }

    /// The name that this file has already; else this one is noted.
    fn first_name(&mut self, metadata: &Metadata, path: &[Name]) -> Option<Vec<Name>> {
        let key = (metadata.dev(), metadata.ino());
        let first = self.links.get(&key).cloned();
        if first.is_none() {
            self.links.insert(key, path.to_vec());
        }
        first
    }

    fn node(
        &self,
        full: &Path,
        path: Vec<Name>,
        kind: NodeKind,
        metadata: &Metadata,
    ) -> Result<Node, MakeError> {
        let wanted = self.xattrs && !matches!(kind, NodeKind::Link(_));
        let time = |seconds, nanoseconds: i64| Timestamp {
            seconds,
            nanoseconds: u32::try_from(nanoseconds).unwrap_or(0),
        };
        Ok(Node {
            path,
            kind,
            mode: (metadata.mode() & 0o7777) as u16,
            uid: metadata.uid(),
            gid: metadata.gid(),
            atime: time(metadata.atime(), metadata.atime_nsec()),
            mtime: time(metadata.mtime(), metadata.mtime_nsec()),
            ctime: time(metadata.ctime(), metadata.ctime_nsec()),
            xattrs: if wanted { xattrs(full)? } else { Vec::new() },
        })
    }

    /// The parts of a file that are no holes.
    fn data(&self, full: &Path, metadata: &Metadata) -> Result<bool, MakeError> {
        let fail = |error: std::io::Error| fail(full, error);
        let file = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(full)
            .map_err(fail)?;
        let len = metadata.len();
        let sparse = metadata.blocks() * 512 < len;
        let mut at = 0;
        while at < len {
            let (start, end) = if sparse {
                match data_run(&file, at, len) {
                    Some(run) => run,
                    None => break,
                }
            } else {
                (0, len)
            };
            at = start;
            while at < end {
                let size = (end - at).min(CHUNK as u64) as usize;
                let mut bytes = vec![0; size];
                let read = read_up_to(&file, &mut bytes, at).map_err(fail)?;
                bytes.truncate(read);
                if read > 0 && !(self.send)(Event::Data { offset: at, bytes }) {
                    return Ok(false);
                }
                if read < size {
                    return Ok(true);
                }
                at += read as u64;
            }
        }
        Ok(true)
    }
}

/// The next part from `at` on that is no hole.
fn data_run(file: &File, at: u64, len: u64) -> Option<(u64, u64)> {
    let start = match seek(file, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(rustix::io::Errno::NXIO) => return None,
        // Where holes are not known, all is data.
        Err(_) => return Some((at, len)),
    };
    let end = seek(file, SeekFrom::Hole(start)).unwrap_or(len).min(len);
    (start < end).then_some((start, end))
}

/// The file may have become shorter.
fn read_up_to(file: &File, bytes: &mut [u8], offset: u64) -> std::io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

fn kind(full: &Path, metadata: &Metadata) -> Result<NodeKind, MakeError> {
    let file_type = metadata.file_type();
    Ok(if file_type.is_dir() {
        NodeKind::Directory
    } else if file_type.is_symlink() {
        let target = std::fs::read_link(full).map_err(|error| fail(full, error))?;
        NodeKind::Symlink(target.into_os_string().into_vec())
    } else if file_type.is_file() {
        NodeKind::File {
            size: metadata.len(),
        }
    } else {
        let rdev = metadata.rdev();
        let has_number = file_type.is_char_device() || file_type.is_block_device();
        NodeKind::Special {
            file_type: (metadata.mode() & 0o170_000) as u16,
            rdev: if has_number {
                (rustix::fs::major(rdev), rustix::fs::minor(rdev))
            } else {
                (0, 0)
            },
        }
    })
}

/// Attributes in the order of their names.
fn xattrs(full: &Path) -> Result<Vec<(Name, Name)>, MakeError> {
    // Most files have none, and then one call tells.
    let mut names = [0_u8; 4096];
    let listed = match rustix::fs::llistxattr(full, &mut names) {
        Ok(0) => return Ok(Vec::new()),
        Ok(len) => names[..len].to_vec(),
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(rustix::io::Errno::RANGE) => {
            let mut names = vec![0; 1 << 16];
            let len = rustix::fs::llistxattr(full, names.as_mut_slice())
                .map_err(|error| fail(full, error.into()))?;
            names.truncate(len);
            names
        }
        Err(error) => return Err(fail(full, error.into())),
    };
    let mut all = Vec::new();
    for name in listed
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
    {
        let c_name = CString::new(name).unwrap_or_default();
        let mut value = vec![0; 1 << 16];
        let len = rustix::fs::lgetxattr(full, c_name.as_c_str(), value.as_mut_slice())
            .map_err(|error| fail(full, error.into()))?;
        value.truncate(len);
        all.push((name.to_vec(), value));
    }
    all.sort();
    Ok(all)
}

fn fail(path: &Path, source: std::io::Error) -> MakeError {
    MakeError::File {
        path: path.display().to_string(),
        source,
    }
}

//! The file system that is filled: the library's, without a mount.
//!
//! Source: the design's decision that the core works without FUSE.
//! Invariants: nothing depends on a clock or on a map's order, so that the same events give the same bytes; times and
//! attributes of directories are set when nothing more goes into them.

use super::node::{Event, Node, NodeKind, join};
use super::owners::Owners;
use std::sync::Arc;
use std::time::Duration;
use uext4::device::Device;
use uext4::error::{Error, Posix, Result};
use uext4::format::time::Timestamp;
use uext4::fs::{Attr, Caller, Clock, Fs, NewNode, Options, SetAttr, SetMode, SetTime, WriteMode};
use uext4::ids::InodeNumber;
use uext4::make::{MakeError, Plan};

const MEMORY: u64 = 512 << 20;
const ROOT: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 0,
};

/// The time stands still.
struct Still(Timestamp);

impl Clock for Still {
    fn wall(&self) -> (i64, u32) {
        (self.0.seconds, self.0.nanoseconds)
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

pub struct Target {
    fs: Arc<Fs>,
    owners: Owners,
    /// Nothing is younger; times of reading and of changes are not kept.
    latest: Option<i64>,
    /// The directory of the last node.
    parent: (Vec<Vec<u8>>, InodeNumber),
    /// The file whose data comes.
    open: Option<OpenFile>,
    directories: Vec<(InodeNumber, Box<Node>)>,
}

struct OpenFile {
    ino: InodeNumber,
    node: Box<Node>,
    size: u64,
    /// Up to where data was written.
    end: u64,
}

impl Target {
    pub fn open(
        plan: &Plan,
        device: Arc<dyn Device>,
        owners: Owners,
    ) -> std::result::Result<Self, MakeError> {
        let options = Options {
            memory: MEMORY,
            atime: false,
            ..Options::default()
        };
        let fs = Fs::mount_at(device, options, Arc::new(Still(plan.options.time)))?;
        if fs.is_read_only() {
            return Err(MakeError::Invalid(format!(
                "-d: {}",
                fs.notices().join("; ")
            )));
        }
        let fixed = std::env::var_os("SOURCE_DATE_EPOCH").is_some();
        Ok(Self {
            fs,
            owners,
            latest: fixed.then_some(plan.options.time.seconds),
            parent: (Vec::new(), InodeNumber::ROOT),
            open: None,
            directories: Vec::new(),
        })
    }

    pub fn apply(&mut self, event: Event) -> std::result::Result<(), MakeError> {
        match event {
            Event::Data { offset, bytes } => {
                let Some(open) = &mut self.open else {
                    return Ok(());
                };
                let how = WriteMode {
                    keep_times: true,
                    ..WriteMode::default()
                };
                open.end = offset + bytes.len() as u64;
                let written = self.fs.write(open.ino, offset, &bytes, how);
                written.map_err(|error| named(&open.node.path, error))
            }
            Event::Node(node) => {
                self.close()?;
                let path = node.path.clone();
                self.node(node).map_err(|error| named(&path, error))
            }
        }
    }

    /// Everything is on the device when it returns.
    pub fn finish(mut self) -> std::result::Result<(), MakeError> {
        self.close()?;
        // What is inside first: a directory's times change with its entries, not with theirs.
        for (ino, node) in std::mem::take(&mut self.directories) {
            let done = self.finish_node(ino, &node);
            done.map_err(|error| named(&node.path, error))?;
        }
        self.fs.sync_all()?;
        self.fs.unmount()?;
        Ok(())
    }

    fn close(&mut self) -> std::result::Result<(), MakeError> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        self.close_file(&open)
            .map_err(|error| named(&open.node.path, error))
    }

    fn close_file(&self, open: &OpenFile) -> Result<()> {
        if open.end != open.size {
            let set = SetAttr {
                size: Some(open.size),
                ..SetAttr::default()
            };
            self.fs.setattr(ROOT, open.ino, &set)?;
        }
        self.fs.release(open.ino, true);
        self.finish_node(open.ino, &open.node)?;
        self.fs.forget(open.ino, 1);
        Ok(())
    }

    fn node(&mut self, node: Box<Node>) -> Result<()> {
        let Some((name, parent)) = node.path.split_last() else {
            self.directories.push((InodeNumber::ROOT, node));
            return Ok(());
        };
        let dir = self.directory(parent)?;
        if let NodeKind::Link(first) = &node.kind {
            let ino = self.resolve(first)?;
            self.make_room(dir, name)?;
            self.fs.link(ino, dir, name)?;
            self.fs.forget(ino, 1);
            return Ok(());
        }
        let ino = match self.existing_directory(&node, dir, name)? {
            Some(ino) => ino,
            None => self.create(&node, dir, name)?.ino,
        };
        match node.kind {
            NodeKind::Directory => {
                self.fs.forget(ino, 1);
                self.directories.push((ino, node));
            }
            NodeKind::File { size } => {
                self.fs.opened(ino, true);
                self.open = Some(OpenFile {
                    ino,
                    node,
                    size,
                    end: 0,
                });
            }
            _ => {
                self.finish_node(ino, &node)?;
                self.fs.forget(ino, 1);
            }
        }
        Ok(())
    }

    fn create(&self, node: &Node, dir: InodeNumber, name: &[u8]) -> Result<Attr> {
        let (uid, gid) = self.owners.map(node.uid, node.gid);
        let caller = Caller { uid, gid, pid: 0 };
        let mode = node.mode;
        let new = match &node.kind {
            NodeKind::Directory => NewNode::Directory { mode },
            NodeKind::Symlink(target) => NewNode::Symlink { target },
            NodeKind::Special { file_type, rdev } => NewNode::Special {
                mode: file_type | mode,
                rdev: *rdev,
            },
            NodeKind::File { .. } | NodeKind::Link(_) => NewNode::File { mode },
        };
        match self.fs.create(caller, dir, name, new, 0) {
            Err(error) if error.is_posix(Posix::Exist) => {
                self.make_room(dir, name)?;
                self.fs.create(caller, dir, name, new, 0)
            }
            made => made,
        }
    }

    /// A directory that is there already, as lost+found is, only gets new attributes.
    fn existing_directory(
        &self,
        node: &Node,
        dir: InodeNumber,
        name: &[u8],
    ) -> Result<Option<InodeNumber>> {
        if !matches!(node.kind, NodeKind::Directory) {
            return Ok(None);
        }
        match self.fs.lookup(dir, name) {
            Ok(attr) if attr.mode & 0o170_000 == 0o040_000 => Ok(Some(attr.ino)),
            Ok(attr) => {
                self.fs.forget(attr.ino, 1);
                Ok(None)
            }
            Err(error) if error.is_posix(Posix::NoEnt) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What an archive has twice: the last one counts.
    fn make_room(&self, dir: InodeNumber, name: &[u8]) -> Result<()> {
        match self.fs.unlink(dir, name) {
            Err(error) if error.is_posix(Posix::NoEnt) => {}
            done => done?,
        }
        while self.fs.reap_step() {}
        Ok(())
    }

    /// Owner, permissions, times and attributes, when nothing else is done to it any more.
    fn finish_node(&self, ino: InodeNumber, node: &Node) -> Result<()> {
        for (name, value) in &node.xattrs {
            self.fs
                .setxattr(ROOT, ino, name, Some(value), SetMode::Any)?;
        }
        let clamp = |time: Timestamp| match self.latest {
            Some(latest) if time.seconds > latest => Timestamp {
                seconds: latest,
                nanoseconds: 0,
            },
            _ => time,
        };
        let (atime, ctime) = match self.latest {
            Some(_) => (node.mtime, node.mtime),
            None => (node.atime, node.ctime),
        };
        let (uid, gid) = self.owners.map(node.uid, node.gid);
        let attr = self.fs.getattr(ino)?;
        let permissions = attr.mode & 0o7777;
        let is_symlink = matches!(node.kind, NodeKind::Symlink(_));
        // A new owner takes away what the mode does not say again.
        let owned = attr.uid == uid && attr.gid == gid;
        let set = SetAttr {
            uid: (!owned).then_some(uid),
            gid: (!owned).then_some(gid),
            mode: ((!owned || permissions != node.mode) && !is_symlink).then_some(node.mode),
            size: None,
            atime: Some(SetTime::At(clamp(atime))),
            mtime: Some(SetTime::At(clamp(node.mtime))),
            ctime: Some(clamp(ctime)),
        };
        self.fs.setattr(ROOT, ino, &set).map(drop)
    }

    /// The directory of that path; what an archive left out is made.
    fn directory(&mut self, path: &[Vec<u8>]) -> Result<InodeNumber> {
        if self.parent.0 == path {
            return Ok(self.parent.1);
        }
        let mut at = InodeNumber::ROOT;
        for name in path {
            let found = match self.fs.lookup(at, name) {
                Err(error) if error.is_posix(Posix::NoEnt) => {
                    let new = NewNode::Directory { mode: 0o755 };
                    self.fs.create(ROOT, at, name, new, 0)
                }
                found => found,
            }?;
            at = found.ino;
            self.fs.forget(at, 1);
        }
        self.parent = (path.to_vec(), at);
        Ok(at)
    }

    fn resolve(&self, path: &[Vec<u8>]) -> Result<InodeNumber> {
        let mut at = InodeNumber::ROOT;
        for name in path {
            at = self.fs.lookup(at, name)?.ino;
            self.fs.forget(at, 1);
        }
        Ok(at)
    }
}

fn named(path: &[Vec<u8>], error: Error) -> MakeError {
    MakeError::Invalid(format!("-d: {}: {error}", join(path)))
}

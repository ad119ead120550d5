//! A FUSE server that keeps names and sizes and no data: what FUSE itself allows at best.
//!
//! It runs in a process of its own, mounts as the daemon does and asks the kernel for the same things.

use super::beneath::Beneath;
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, Session, SessionACL, TimeOrNow, WriteFlags,
};
use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::RwLock;
use std::time::{Duration, SystemTime};
use uext4::fuse::mount::{self, MountSettings};
use uext4::fuse::session;

const FOREVER: Duration = Duration::from_secs(24 * 3600);
const MAX_WRITE: u32 = 1 << 20;
const READ_AHEAD: &str = "4096";
const ROOT: u64 = 1;

/// Serves until it is unmounted; with a raw file, what is read and written goes there.
pub fn serve(point: &Path, raw: Option<&Path>) -> Result<(), String> {
    let beneath = raw.map(|raw| Beneath::open(raw).map_err(|e| format!("{}: {e}", raw.display())));
    let settings = MountSettings {
        source: "null".into(),
        flags: rustix::mount::MountFlags::NODEV | rustix::mount::MountFlags::NOSUID,
        words: Vec::new(),
        allow_other: true,
        max_read: MAX_WRITE,
    };
    let (fd, mounted) = mount::mount(point, &settings).map_err(|e| e.to_string())?;
    if let Some((major, minor)) = mounted.major_minor() {
        let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
        std::thread::spawn(move || {
            // As soon as the mount answers.
            let _ = std::fs::write(path, READ_AHEAD);
        });
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(cores.clamp(4, 16));
    config.clone_fd = true;
    let session = Session::from_fd(Null::new(beneath.transpose()?), fd, SessionACL::All, config);
    session
        .and_then(|session| session.run())
        .map_err(|e| e.to_string())
}

struct Node {
    attr: FileAttr,
    names: HashMap<OsString, u64>,
    /// In the order of creation, so that a reader's place survives removals.
    order: BTreeMap<u64, OsString>,
}

struct Tree {
    nodes: HashMap<u64, Node>,
    next: u64,
}

struct Null {
    tree: RwLock<Tree>,
    zeroes: Vec<u8>,
    beneath: Option<Beneath>,
}

impl Tree {
    fn add(&mut self, parent: u64, name: &OsStr, kind: FileType, mode: u32) -> Option<FileAttr> {
        let ino = self.next;
        let parent = self.nodes.get_mut(&parent)?;
        if parent.names.contains_key(name) {
            return None;
        }
        parent.names.insert(name.to_owned(), ino);
        parent.order.insert(ino, name.to_owned());
        self.next += 1;
        let node = Node::new(ino, kind, mode);
        let attr = node.attr;
        self.nodes.insert(ino, node);
        Some(attr)
    }

    fn remove(&mut self, parent: u64, name: &OsStr) -> Result<(), Errno> {
        let parent = self.nodes.get_mut(&parent).ok_or(Errno::ENOENT)?;
        let ino = *parent.names.get(name).ok_or(Errno::ENOENT)?;
        parent.names.remove(name);
        parent.order.remove(&ino);
        self.nodes.remove(&ino);
        Ok(())
    }

    fn find(&self, parent: u64, name: &OsStr) -> Option<FileAttr> {
        let ino = self.nodes.get(&parent)?.names.get(name)?;
        self.nodes.get(ino).map(|node| node.attr)
    }
}

impl Node {
    fn new(ino: u64, kind: FileType, mode: u32) -> Self {
        let now = SystemTime::now();
        let attr = FileAttr {
            ino: INodeNo(ino),
            size: 0,
            blocks: 0,
            atime: now,
            mtime: now,
            ctime: now,
            crtime: now,
            kind,
            perm: (mode & 0o7777) as u16,
            nlink: if kind == FileType::Directory { 2 } else { 1 },
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        Self {
            attr,
            names: HashMap::new(),
            order: BTreeMap::new(),
        }
    }
}

impl Null {
    fn new(beneath: Option<Beneath>) -> Self {
        let root = Node::new(ROOT, FileType::Directory, 0o755);
        Self {
            tree: RwLock::new(Tree {
                nodes: HashMap::from([(ROOT, root)]),
                next: ROOT + 1,
            }),
            zeroes: vec![0; MAX_WRITE as usize],
            beneath,
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Tree> {
        self.tree.read().unwrap_or_else(|e| e.into_inner())
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Tree> {
        self.tree.write().unwrap_or_else(|e| e.into_inner())
    }

    fn grow(&self, node: INodeNo, size: u64) {
        let known = self.read().nodes.get(&node.0).map_or(0, |n| n.attr.size);
        if size > known
            && let Some(node) = self.write().nodes.get_mut(&node.0)
        {
            node.attr.size = node.attr.size.max(size);
        }
    }
}

fn entry(reply: ReplyEntry, attr: Option<FileAttr>, otherwise: Errno) {
    match attr {
        Some(attr) => reply.entry(&FOREVER, &attr, Generation(0)),
        None => reply.error(otherwise),
    }
}

fn empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Null {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        session::ask(config, MAX_WRITE);
        let _ = config.add_capabilities(fuser::InitFlags::FUSE_POSIX_ACL);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.read().find(parent.0, name) {
            Some(attr) => reply.entry(&FOREVER, &attr, Generation(0)),
            None => {
                // Known not to exist, as the daemon says it.
                let nothing = Node::new(0, FileType::RegularFile, 0).attr;
                reply.entry(&FOREVER, &nothing, Generation(0));
            }
        }
    }

    fn getattr(&self, _request: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.read().nodes.get(&node.0) {
            Some(node) => reply.attr(&FOREVER, &node.attr),
            None => reply.error(Errno::ESTALE),
        }
    }

    fn setattr(
        &self,
        _request: &Request,
        node: INodeNo,
        mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut tree = self.write();
        let Some(node) = tree.nodes.get_mut(&node.0) else {
            // Removed while open: nobody looks at it again.
            return reply.attr(&FOREVER, &Node::new(node.0, FileType::RegularFile, 0).attr);
        };
        if let Some(mode) = mode {
            node.attr.perm = (mode & 0o7777) as u16;
        }
        if let Some(size) = size {
            node.attr.size = size;
        }
        if let Some(TimeOrNow::SpecificTime(time)) = mtime {
            node.attr.mtime = time;
        }
        reply.attr(&FOREVER, &node.attr);
    }

    fn mkdir(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let made = self.write().add(parent.0, name, FileType::Directory, mode);
        entry(reply, made, Errno::EEXIST);
    }

    fn create(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let made = self
            .write()
            .add(parent.0, name, FileType::RegularFile, mode);
        match made {
            Some(attr) => {
                let (generation, keep) = (Generation(0), FopenFlags::FOPEN_KEEP_CACHE);
                reply.created(&FOREVER, &attr, generation, FileHandle(0), keep);
            }
            None => reply.error(Errno::EEXIST),
        }
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.write().remove(parent.0, name);
        empty(reply, removed);
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.write().remove(parent.0, name);
        empty(reply, removed);
    }

    fn rename(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _new_parent: INodeNo,
        _new_name: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EOPNOTSUPP);
    }

    fn open(&self, _request: &Request, _node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _request: &Request,
        node: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let known = self.read().nodes.get(&node.0).map_or(0, |n| n.attr.size);
        let left = usize::try_from(known.saturating_sub(offset)).unwrap_or(usize::MAX);
        let count = left.min(size as usize).min(self.zeroes.len());
        match &self.beneath {
            Some(beneath) => beneath.read(offset, count, |read| match read {
                Ok(bytes) => reply.data(bytes),
                Err(_) => reply.error(Errno::EIO),
            }),
            None => reply.data(&self.zeroes[..count]),
        }
    }

    fn write(
        &self,
        _request: &Request,
        node: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.grow(node, offset.saturating_add(data.len() as u64));
        if let Some(beneath) = &self.beneath
            && beneath.write(offset, data).is_err()
        {
            return reply.error(Errno::EIO);
        }
        reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX));
    }

    fn flush(
        &self,
        _request: &Request,
        _node: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _request: &Request,
        _node: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsync(
        &self,
        _request: &Request,
        _node: INodeNo,
        _fh: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        let synced = self.beneath.as_ref().map_or(Ok(()), Beneath::sync);
        empty(reply, synced.map_err(|_| Errno::EIO));
    }

    fn opendir(&self, _request: &Request, _node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn readdir(
        &self,
        _request: &Request,
        node: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let tree = self.read();
        let Some(directory) = tree.nodes.get(&node.0) else {
            return reply.error(Errno::ESTALE);
        };
        for (ino, name) in directory.order.range(offset + 1..) {
            let kind = tree
                .nodes
                .get(ino)
                .map_or(FileType::RegularFile, |n| n.attr.kind);
            if reply.add(INodeNo(*ino), *ino, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _request: &Request,
        node: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let tree = self.read();
        let Some(directory) = tree.nodes.get(&node.0) else {
            return reply.error(Errno::ESTALE);
        };
        for (ino, name) in directory.order.range(offset + 1..) {
            let Some(child) = tree.nodes.get(ino) else {
                continue;
            };
            if reply.add(
                INodeNo(*ino),
                *ino,
                name,
                &FOREVER,
                &child.attr,
                Generation(0),
            ) {
                break;
            }
        }
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        _node: INodeNo,
        _fh: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _node: INodeNo, reply: ReplyStatfs) {
        let many = 1 << 32;
        reply.statfs(many, many, many, many, many, 4096, 255, 4096);
    }

    fn getxattr(
        &self,
        _request: &Request,
        _node: INodeNo,
        _name: &OsStr,
        _size: u32,
        reply: ReplyXattr,
    ) {
        reply.error(Errno::ENODATA);
    }
}

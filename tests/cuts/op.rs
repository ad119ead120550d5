//! The operations of a run, as a file of them says it, and how they are done and noted in the model. One whose names do not
//! exist (any more) is passed over, so that a sequence stays one when some of it is taken away.

use crate::aside::{Aside, Gate};
use crate::beside::Beside;
use crate::form::{Setup, WHO, mount};
use crate::met::Met;
use crate::model::{Kind, Model, ROOT};
use crate::tree::dump;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use uext4::device::Device;
use uext4::device::record::{Event, Record};
use uext4::device::sim::{Rng, Ticks};
use uext4::error::{Error, Posix, Result};
use uext4::file::Fallocate;
use uext4::fs::{Fs, NewNode, SetAttr, WriteMode};
use uext4::ids::InodeNumber;
use uext4::memory::Token;
use uext4::xattr::SetMode;

/// A file in the root that takes up space; nobody looks into it.
pub const FILLER: &str = "filler";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    Allocate,
    Zero,
    Punch,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    Create(String),
    Mkdir(String),
    Symlink {
        path: String,
        length: usize,
    },
    Write {
        path: String,
        offset: u64,
        length: u64,
        seed: u64,
    },
    /// Every other block of a file, from the first on.
    Scatter {
        path: String,
        count: u64,
        seed: u64,
    },
    Truncate {
        path: String,
        size: u64,
    },
    Rename {
        from: String,
        to: String,
        exchange: bool,
    },
    Link {
        path: String,
        to: String,
    },
    Unlink(String),
    Rmdir(String),
    Fallocate {
        path: String,
        mode: Mode,
        from: u64,
        length: u64,
        keep_size: bool,
    },
    SetXattr {
        path: String,
        key: u8,
        length: usize,
        byte: u8,
    },
    RemoveXattr {
        path: String,
        key: u8,
    },
    SetAttr {
        path: String,
        mode: u16,
        uid: u32,
        gid: u32,
    },
    Fsync(String),
    Fdatasync(String),
    Sync,
    /// Time goes by, and a round of the committer.
    Step {
        millis: u64,
    },
    /// Time goes by, and a round of the flushers.
    Flush {
        millis: u64,
    },
    /// Everything home and the file system marked clean.
    Clean,
    /// A round of the flushers that stands still behind its write number `after`, until it is waited for.
    FlushAside {
        millis: u64,
        after: u32,
    },
    /// A round of the committer, the same.
    CommitAside {
        after: u32,
    },
    /// The step aside goes on to its end.
    EndAside,
    /// Inodes go from memory: all that can, after their data is written, or only those that need no write.
    Evict {
        all: bool,
    },
    /// Every preallocation is given up, as before ENOSPC.
    GiveUp,
    /// The disk is told what is free: all of it, or what was freed.
    Trim {
        all: bool,
    },
    /// A file is opened for writing.
    Open(String),
    /// The first of the open files is closed.
    Close,
    /// The last users of this many nameless inodes go.
    Forget {
        count: usize,
    },
    Remount,
    /// Links of a file, until the directory splits.
    ManyNames {
        dir: String,
        path: String,
        count: usize,
    },
    /// Takes all names of files away but these many.
    FewNames {
        dir: String,
        left: usize,
    },
}

pub struct Run {
    pub fs: Arc<Fs>,
    pub record: Arc<Record>,
    pub clock: Arc<Ticks>,
    pub model: Model,
    /// What reached the disk, with the operation that sent it.
    pub events: Vec<(usize, Event)>,
    pub block: u64,
    /// Inodes without a name that nobody has forgotten yet.
    pub nameless: Vec<u32>,
    pub names: u64,
    pub setup: Setup,
    /// Open for writing.
    pub open: Vec<u32>,
    /// Memory that nobody else gets.
    pub ballast: Option<Token>,
    /// A step that stands still.
    pub aside: Option<(Beside, Aside)>,
    pub met: Met,
}

pub fn ino(raw: u32) -> InodeNumber {
    InodeNumber::new(raw)
}

pub fn file_name(path: &str) -> &[u8] {
    path.rsplit('/').next().unwrap_or(path).as_bytes()
}

impl Run {
    /// Mounts and prepares; what is done until then is not recorded.
    pub fn begin(device: Arc<dyn Device>, setup: &Setup) -> Result<Self> {
        let record = Arc::new(Record::new(device));
        let gate = Arc::new(Gate(Arc::clone(&record) as Arc<_>));
        let (fs, clock) = mount(gate, setup.options())?;
        assert!(!fs.is_read_only(), "{:?}", fs.notices());
        setup.prepare(&fs)?;
        let mut run = Self::of(fs, record, clock, setup)?;
        run.ballast = setup.press(&run.fs);
        Ok(run)
    }

    /// The same on a file system as it is.
    pub fn of(fs: Arc<Fs>, record: Arc<Record>, clock: Arc<Ticks>, setup: &Setup) -> Result<Self> {
        let (tree, _, _) = dump(&fs)?;
        record.take();
        Ok(Self {
            block: u64::from(fs.geometry().block_size),
            fs,
            record,
            clock,
            model: Model::new(tree),
            events: Vec::new(),
            nameless: Vec::new(),
            names: 0,
            setup: setup.clone(),
            open: Vec::new(),
            ballast: None,
            aside: None,
            met: Met::default(),
        })
    }

    /// What was met by the mount that ends.
    fn meet(&mut self) {
        let stats = self.fs.stats();
        self.met.evicted += stats.eviction.evicted;
        self.met.evicted_with_preallocations += stats.eviction.with_preallocations;
        let activity = stats.memory.activity;
        self.met.reclaims += activity.direct_reclaims + activity.shrinks;
    }

    /// Nothing is under way any more; what it came across.
    pub fn end(&mut self) -> Result<()> {
        self.op(Self::end_aside)?;
        self.meet();
        Ok(())
    }

    /// Whether there was space for it.
    pub fn had_space(&mut self, result: Result<()>) -> Result<bool> {
        match result {
            Err(Error::Posix(Posix::NoSpc)) => {
                self.met.enospc += 1;
                Ok(false)
            }
            done => done.map(|()| true),
        }
    }

    /// Does `work` as the next operation of the model. What it fails with ends the run.
    pub fn op(&mut self, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let done = work(self);
        if let Some((_, aside)) = &self.aside {
            aside.settle();
        }
        let now = self.model.now();
        let events = self.record.take().into_iter();
        self.met.set_aside += u64::from(self.fs.stats().held_blocks > 0);
        let discard = |event: &Event| u64::from(matches!(event, Event::Discard { .. }));
        self.met.discards += events.as_slice().iter().map(discard).sum::<u64>();
        self.events.extend(events.map(|event| (now, event)));
        self.model.end();
        done
    }

    pub fn find(&self, path: &str) -> Option<u32> {
        let mut names = path.split('/').filter(|name| !name.is_empty());
        names.try_fold(ROOT, |dir, name| {
            self.model
                .tree
                .dirs
                .get(&dir)?
                .get(name.as_bytes())
                .copied()
        })
    }

    /// The directory of a path.
    pub fn parent(&self, path: &str) -> Option<u32> {
        let dir = self.find(path.rsplit_once('/')?.0)?;
        self.model.is_dir(dir).then_some(dir)
    }

    pub fn file(&self, path: &str) -> Option<u32> {
        let found = self.find(path)?;
        (self.model.tree.nodes[&found].kind == Kind::File).then_some(found)
    }

    /// The directory of a path that does not exist yet.
    fn free_place(&self, path: &str) -> Option<u32> {
        let dir = self.parent(path)?;
        self.find(path).is_none().then_some(dir)
    }

    /// Does one operation if it can be done.
    pub fn run(&mut self, op: &Op) -> Result<()> {
        if self
            .aside
            .as_ref()
            .is_some_and(|(kind, _)| op.waits_for(*kind))
        {
            self.op(Self::end_aside)?;
        }
        self.attempt(op).unwrap_or(Ok(()))
    }

    fn attempt(&mut self, op: &Op) -> Option<Result<()>> {
        Some(match op {
            Op::Create(path) => self.create(path, NewNode::File { mode: 0o644 }, Kind::File)?,
            Op::Mkdir(path) => {
                self.create(path, NewNode::Directory { mode: 0o755 }, Kind::Directory)?
            }
            Op::Symlink { path, length } => {
                let target = vec![b'a' + (length % 26) as u8; *length];
                let new = NewNode::Symlink { target: &target };
                self.create(path, new, Kind::Symlink(target.clone()))?
            }
            Op::Write {
                path,
                offset,
                length,
                seed,
            } => {
                let file = self.file(path)?;
                self.write(file, *offset, *length, *seed)
            }
            Op::Scatter { path, count, seed } => {
                let file = self.file(path)?;
                let block = self.block;
                (0..*count).try_for_each(|index| {
                    self.write(file, index * 2 * block, block, seed.wrapping_add(index))
                })
            }
            Op::Truncate { path, size } => self.truncate(path, *size)?,
            Op::Rename { from, to, exchange } => self.rename(from, to, *exchange)?,
            Op::Link { path, to } => {
                let (file, dir) = (self.file(path)?, self.free_place(to)?);
                self.op(|run| run.link(file, dir, file_name(to)))
            }
            Op::Unlink(path) => {
                let (dir, file) = (self.parent(path)?, self.find(path)?);
                if self.model.is_dir(file) {
                    return None;
                }
                self.op(|run| run.unlink(dir, file_name(path), file))
            }
            Op::Rmdir(path) => self.rmdir(path)?,
            Op::ManyNames { dir, path, count } => self.many_names(dir, path, *count)?,
            Op::FewNames { dir, left } => self.few_names(dir, *left)?,
            other => self.attempt_more(other)?,
        })
    }

    fn attempt_more(&mut self, op: &Op) -> Option<Result<()>> {
        Some(match op {
            Op::Fallocate {
                path,
                mode,
                from,
                length,
                keep_size,
            } => {
                let file = self.file(path)?;
                self.op(|run| run.fallocate(file, *mode, *from, *length, *keep_size))
            }
            Op::SetXattr {
                path,
                key,
                length,
                byte,
            } => self.xattr(path, *key, Some(vec![*byte; *length]))?,
            Op::RemoveXattr { path, key } => self.xattr(path, *key, None)?,
            Op::SetAttr {
                path,
                mode,
                uid,
                gid,
            } => self.set_attr(path, (*mode, *uid, *gid))?,
            Op::Fsync(path) => {
                let which = self.find(path)?;
                self.op(|run| {
                    run.fs.fsync_wait(ino(which))?;
                    run.model.sync(which);
                    Ok(())
                })
            }
            Op::Fdatasync(path) => {
                let which = self.file(path)?;
                self.op(|run| {
                    run.fs.fdatasync_wait(ino(which))?;
                    run.model.sync_data(which);
                    Ok(())
                })
            }
            Op::Sync => self.op(|run| {
                run.fs.sync_all()?;
                run.model.sync_all();
                Ok(())
            }),
            Op::Step { millis } => self.op(|run| {
                run.clock.advance(Duration::from_millis(*millis));
                run.fs.commit_step()
            }),
            Op::Flush { millis } => self.op(|run| {
                run.clock.advance(Duration::from_millis(*millis));
                run.met.flushed += u64::from(run.fs.flush_step()?);
                Ok(())
            }),
            Op::Clean => self.op(|run| run.fs.mark_clean()),
            _ => return self.attempt_aside(op),
        })
    }

    fn create(&mut self, path: &str, new: NewNode<'_>, kind: Kind) -> Option<Result<()>> {
        let dir = self.free_place(path)?;
        let name = file_name(path);
        Some(self.op(|run| {
            match run.fs.create(WHO, ino(dir), name, new, 0) {
                Err(Error::Posix(Posix::NoSpc)) => run.met.enospc += 1,
                made => run.model.add(dir, name, made?.ino.get(), kind),
            }
            Ok(())
        }))
    }

    /// What the operation under way left of the content that it meant to give the file.
    fn only_in_part(&mut self, file: u32) -> Result<()> {
        let size = self.fs.getattr(ino(file))?.size as usize;
        let bytes = self.fs.read(ino(file), 0, size)?;
        self.model.set_content(file, bytes.as_slice().to_vec());
        Ok(())
    }

    fn write(&mut self, file: u32, offset: u64, length: u64, seed: u64) -> Result<()> {
        let mut bytes = Rng(seed);
        // Never zero: a hole is no data.
        let data: Vec<u8> = (0..length).map(|_| bytes.draw() as u8 | 1).collect();
        self.op(|run| {
            let mut content = run.model.content(file);
            let end = (offset + length) as usize;
            content.resize(content.len().max(end), 0);
            content[offset as usize..end].copy_from_slice(&data);
            run.model.set_content(file, content);
            let done = run.fs.write(ino(file), offset, &data, WriteMode::default());
            if !run.had_space(done)? {
                run.only_in_part(file)?;
            }
            Ok(())
        })
    }

    fn truncate(&mut self, path: &str, size: u64) -> Option<Result<()>> {
        let file = self.file(path)?;
        Some(self.op(|run| {
            let mut content = run.model.content(file);
            content.resize(size as usize, 0);
            run.model.set_content(file, content);
            let to = SetAttr {
                size: Some(size),
                ..SetAttr::default()
            };
            run.fs.setattr(WHO, ino(file), &to).map(|_| ())
        }))
    }

    fn fallocate(
        &mut self,
        file: u32,
        mode: Mode,
        from: u64,
        length: u64,
        keep_size: bool,
    ) -> Result<()> {
        let keep_size = keep_size || mode == Mode::Punch;
        let mut content = self.model.content(file);
        let end = (from + length) as usize;
        if !keep_size {
            content.resize(content.len().max(end), 0);
        }
        if mode != Mode::Allocate {
            let end = end.min(content.len());
            let from = (from as usize).min(end);
            content[from..end].fill(0);
        }
        self.model.set_content(file, content);
        let mode = match mode {
            Mode::Allocate => Fallocate::Allocate,
            Mode::Zero => Fallocate::ZeroRange,
            Mode::Punch => Fallocate::PunchHole,
        };
        let done = self
            .fs
            .fallocate(WHO, ino(file), mode, from, length, keep_size);
        if matches!(done, Err(Error::Posix(Posix::OpNotSupp))) || !self.had_space(done)? {
            self.only_in_part(file)?;
        }
        Ok(())
    }

    fn xattr(&mut self, path: &str, key: u8, value: Option<Vec<u8>>) -> Option<Result<()>> {
        let file = self.file(path)?;
        let key = format!("user.k{key}").into_bytes();
        if value.is_none() && !self.model.tree.nodes[&file].xattrs.contains_key(&key) {
            return None;
        }
        Some(self.op(|run| {
            let set = value.as_deref();
            let done = run.fs.setxattr(WHO, ino(file), &key, set, SetMode::Any);
            if run.had_space(done)? {
                let xattrs = &mut run.model.node(file).xattrs;
                match value {
                    Some(value) => xattrs.insert(key, value),
                    None => xattrs.remove(&key),
                };
            }
            Ok(())
        }))
    }

    /// Three attributes that change together or not at all.
    fn set_attr(&mut self, path: &str, (mode, uid, gid): (u16, u32, u32)) -> Option<Result<()>> {
        let which = self.find(path)?;
        if matches!(self.model.tree.nodes[&which].kind, Kind::Symlink(_)) {
            return None;
        }
        Some(self.op(|run| {
            let set = SetAttr {
                mode: Some(mode),
                uid: Some(uid),
                gid: Some(gid),
                ..SetAttr::default()
            };
            run.fs.setattr(WHO, ino(which), &set)?;
            let node = run.model.node(which);
            (node.mode, node.uid, node.gid) = (u32::from(mode), uid, gid);
            Ok(())
        }))
    }

    pub fn forget(&mut self) -> Result<()> {
        let Some(gone) = self.nameless.pop() else {
            return Ok(());
        };
        self.op(|run| {
            run.fs.forget(ino(gone), u64::MAX);
            while run.fs.reap_step() {}
            Ok(())
        })
    }

    pub fn remount(&mut self) -> Result<()> {
        self.op(|run| {
            run.meet();
            run.ballast = None;
            run.fs.unmount()?;
            run.nameless.clear();
            run.open.clear();
            run.model.sync_all();
            Ok(())
        })?;
        self.op(|run| {
            let gate = Arc::new(Gate(Arc::clone(&run.record) as Arc<_>));
            (run.fs, run.clock) = mount(gate, run.setup.options())?;
            run.ballast = run.setup.press(&run.fs);
            Ok(())
        })
    }
}

//! Seeded sequences of operations on a mounted file system, noted in the model as they go.

use crate::disk::{Rng, Ticks};
use crate::model::{Kind, Model, Node, ROOT, Tree};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use uext4::device::record::{Event, Record};
use uext4::error::{Error, Posix, Result};
use uext4::file::Fallocate;
use uext4::fs::{Caller, Fs, NewNode, RenameMode, SetAttr, WriteMode};
use uext4::ids::InodeNumber;
use uext4::xattr::SetMode;

const WHO: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 1,
};
const DIRS_MAX: usize = 8;
const FILES_MAX: usize = 40;
const SIZE_MAX: u64 = 120_000;

pub struct Run {
    pub fs: Arc<Fs>,
    pub record: Arc<Record>,
    pub clock: Arc<Ticks>,
    pub model: Model,
    /// What reached the disk, with the operation that sent it.
    pub events: Vec<(usize, Event)>,
    pub rng: Rng,
    pub fallocate: bool,
    /// Inodes without a name that nobody has forgotten yet.
    nameless: Vec<u32>,
    names: u64,
}

fn ino(raw: u32) -> InodeNumber {
    InodeNumber::new(raw)
}

impl Run {
    pub fn new(
        fs: Arc<Fs>,
        record: Arc<Record>,
        clock: Arc<Ticks>,
        seed: u64,
        fallocate: bool,
    ) -> Self {
        let (tree, _) = dump(&fs).expect("the first tree");
        let events = record.take().into_iter().map(|event| (0, event)).collect();
        Self {
            fs,
            record,
            clock,
            model: Model::new(tree),
            events,
            rng: Rng(seed),
            fallocate,
            nameless: Vec::new(),
            names: 0,
        }
    }

    /// Does `work` as the next operation. What it fails with ends the run.
    fn op(&mut self, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let done = work(self);
        let now = self.model.now();
        self.events
            .extend(self.record.take().into_iter().map(|event| (now, event)));
        self.model.end();
        done
    }

    fn files(&self) -> Vec<u32> {
        let nodes = self.model.tree.nodes.iter();
        nodes
            .filter(|(_, node)| node.kind == Kind::File)
            .map(|(ino, _)| *ino)
            .collect()
    }

    /// Directories that may change.
    fn dirs(&self) -> Vec<u32> {
        let lost = self.model.tree.dirs[&ROOT]
            .get(b"lost+found".as_slice())
            .copied();
        self.model
            .tree
            .dirs
            .keys()
            .copied()
            .filter(|ino| Some(*ino) != lost)
            .collect()
    }

    fn dir(&mut self) -> u32 {
        let all = self.dirs();
        *self.rng.pick(&all).unwrap_or(&ROOT)
    }

    fn file(&mut self) -> Option<u32> {
        let all = self.files();
        self.rng.pick(&all).copied()
    }

    /// A name of what is no directory, or of one.
    fn name_of(&mut self, directory: bool) -> Option<(u32, Vec<u8>, u32)> {
        let mut all = Vec::new();
        for dir in self.dirs() {
            for (name, ino) in &self.model.tree.dirs[&dir] {
                if name != b"lost+found" && self.model.is_dir(*ino) == directory {
                    all.push((dir, name.clone(), *ino));
                }
            }
        }
        self.rng.pick(&all).cloned()
    }

    fn new_name(&mut self) -> Vec<u8> {
        self.names += 1;
        let long = if self.rng.below(3) == 0 {
            "-with-a-name-so-long-that-few-fit-into-a-block-of-the-directory"
        } else {
            ""
        };
        format!("n{}{long}", self.names).into_bytes()
    }

    /// One step of the sequence: one operation or a few.
    pub fn step(&mut self) -> Result<()> {
        match self.rng.below(100) {
            0..10 => self.create(),
            10..13 => self.mkdir(),
            13..15 => self.symlink(),
            15..30 => self.write(),
            30..36 => self.truncate(),
            36..44 => self.rename(),
            44..48 => self.link(),
            48..56 => self.unlink(),
            56..58 => self.rmdir(),
            58..65 => self.space(),
            65..71 => self.xattr(),
            71..73 => self.many_names(),
            73..76 => self.forget(),
            76..92 => self.fsync(),
            92..95 => self.op(|run| {
                run.fs.sync_all()?;
                run.model.sync_all();
                Ok(())
            }),
            95..98 => self.op(|run| {
                run.clock.advance(Duration::from_secs(6));
                run.fs.commit_step()
            }),
            _ => self.op(|run| run.fs.mark_clean()),
        }
    }

    fn create(&mut self) -> Result<()> {
        if self.files().len() >= FILES_MAX {
            return self.unlink();
        }
        let dir = self.dir();
        let name = self.new_name();
        self.op(|run| run.create_in(dir, &name))?;
        if self.rng.below(4) > 0 {
            self.write()
        } else {
            Ok(())
        }
    }

    fn create_in(&mut self, dir: u32, name: &[u8]) -> Result<()> {
        let made = self
            .fs
            .create(WHO, ino(dir), name, NewNode::File { mode: 0o644 }, 0)?;
        self.model.add(dir, name, made.ino.get(), Kind::File);
        Ok(())
    }

    fn mkdir(&mut self) -> Result<()> {
        if self.dirs().len() >= DIRS_MAX {
            return self.rmdir();
        }
        let dir = self.dir();
        let name = self.new_name();
        self.op(|run| {
            let made =
                run.fs
                    .create(WHO, ino(dir), &name, NewNode::Directory { mode: 0o755 }, 0)?;
            run.model.add(dir, &name, made.ino.get(), Kind::Directory);
            Ok(())
        })
    }

    fn symlink(&mut self) -> Result<()> {
        let dir = self.dir();
        let name = self.new_name();
        let length = [10, 59, 60, 300][self.rng.below(4) as usize];
        let target = vec![b'a' + (self.names % 26) as u8; length];
        self.op(|run| {
            let made = run.fs.create(
                WHO,
                ino(dir),
                &name,
                NewNode::Symlink { target: &target },
                0,
            )?;
            run.model
                .add(dir, &name, made.ino.get(), Kind::Symlink(target.clone()));
            Ok(())
        })
    }

    fn write(&mut self) -> Result<()> {
        let Some(file) = self.file() else {
            return self.create();
        };
        let size = self.model.content(file).len() as u64;
        let offset = match self.rng.below(4) {
            0 => 0,
            1 | 2 => size,
            _ => self.rng.below(size + 20_000),
        }
        .min(SIZE_MAX);
        let len = 1 + match self.rng.below(4) {
            0 => self.rng.below(300),
            1 | 2 => self.rng.below(5000),
            _ => self.rng.below(30_000),
        };
        let seed = self.rng.next();
        let mut bytes = Rng(seed);
        let data: Vec<u8> = (0..len).map(|_| bytes.next() as u8 | 1).collect();
        self.op(|run| {
            let mut content = run.model.content(file);
            let end = (offset + len) as usize;
            content.resize(content.len().max(end), 0);
            content[offset as usize..end].copy_from_slice(&data);
            run.model.set_content(file, content);
            run.fs.write(ino(file), offset, &data, WriteMode::default())
        })
    }

    fn truncate(&mut self) -> Result<()> {
        let Some(file) = self.file() else {
            return self.create();
        };
        let size = self.model.content(file).len() as u64;
        let to = match self.rng.below(4) {
            0 => 0,
            1 => size / 2,
            _ => self.rng.below(size + 10_000),
        };
        self.op(|run| {
            let mut content = run.model.content(file);
            content.resize(to as usize, 0);
            run.model.set_content(file, content);
            run.fs.setattr(
                WHO,
                ino(file),
                &SetAttr {
                    size: Some(to),
                    ..SetAttr::default()
                },
            )?;
            Ok(())
        })
    }

    fn rename(&mut self) -> Result<()> {
        let directory = self.rng.below(5) == 0;
        let Some((dir, name, what)) = self.name_of(directory) else {
            return self.create();
        };
        let exchange = self.rng.below(4) == 0;
        let replace = exchange || self.rng.below(2) == 0;
        let target = if replace {
            self.name_of(directory)
        } else {
            None
        };
        let (to_dir, to_name) = match &target {
            Some((dir, name, _)) => (*dir, name.clone()),
            None => (self.dir(), self.new_name()),
        };
        let target = target.map(|(_, _, ino)| ino);
        if exchange && target.is_none() {
            return Ok(());
        }
        let mode = if exchange {
            RenameMode::Exchange
        } else {
            RenameMode::Replace
        };
        self.op(|run| {
            match run
                .fs
                .rename(WHO, (ino(dir), &name), (ino(to_dir), &to_name), mode)
            {
                // Into itself, onto a full directory.
                Err(Error::Posix(Posix::Inval | Posix::NotEmpty)) => return Ok(()),
                done => done?,
            }
            if target == Some(what) {
                return Ok(());
            }
            run.renamed((dir, &name, what), (to_dir, &to_name, target), exchange);
            Ok(())
        })
    }

    fn renamed(
        &mut self,
        (dir, name, what): (u32, &[u8], u32),
        (to_dir, to_name, target): (u32, &[u8], Option<u32>),
        exchange: bool,
    ) {
        let model = &mut self.model;
        let moves_directory = model.is_dir(what) && dir != to_dir;
        model.leave(dir, name);
        if let Some(target) = target {
            model.leave(to_dir, to_name);
            if exchange {
                model.enter(dir, name, target);
            } else {
                model.drop_link(to_dir, target);
                if !model.tree.nodes.contains_key(&target) {
                    self.nameless.push(target);
                }
            }
        }
        model.enter(to_dir, to_name, what);
        if moves_directory && !exchange {
            model.parent(dir, -1);
            model.parent(to_dir, 1);
        }
    }

    fn link(&mut self) -> Result<()> {
        let Some(file) = self.file() else {
            return self.create();
        };
        let dir = self.dir();
        let name = self.new_name();
        self.op(|run| {
            run.fs.link(ino(file), ino(dir), &name)?;
            run.model.enter(dir, &name, file);
            run.model.node(file).nlink += 1;
            Ok(())
        })
    }

    fn unlink(&mut self) -> Result<()> {
        let Some((dir, name, file)) = self.name_of(false) else {
            return self.create();
        };
        self.op(|run| run.unlink_in(dir, &name, file))
    }

    fn unlink_in(&mut self, dir: u32, name: &[u8], file: u32) -> Result<()> {
        self.fs.unlink(ino(dir), name)?;
        self.model.leave(dir, name);
        self.model.drop_link(dir, file);
        if !self.model.tree.nodes.contains_key(&file) {
            self.nameless.push(file);
        }
        Ok(())
    }

    fn rmdir(&mut self) -> Result<()> {
        let Some((dir, name, which)) = self.name_of(true) else {
            return self.mkdir();
        };
        if !self.model.tree.dirs[&which].is_empty() {
            return self.unlink();
        }
        self.op(|run| {
            run.fs.rmdir(ino(dir), &name)?;
            run.model.leave(dir, &name);
            run.model.drop_link(dir, which);
            run.nameless.push(which);
            Ok(())
        })
    }

    /// fallocate's modes.
    fn space(&mut self) -> Result<()> {
        let Some(file) = self.file() else {
            return self.create();
        };
        let mode = match self.rng.below(3) {
            0 if self.fallocate => Fallocate::Allocate,
            1 if self.fallocate => Fallocate::ZeroRange,
            _ => Fallocate::PunchHole,
        };
        let size = self.model.content(file).len() as u64;
        let from = self.rng.below(size + 1000);
        let len = 1 + self.rng.below(20_000);
        let keep_size = mode == Fallocate::PunchHole || self.rng.below(2) == 0;
        self.op(|run| {
            let mut content = run.model.content(file);
            let end = (from + len) as usize;
            if !keep_size {
                content.resize(content.len().max(end), 0);
            }
            if mode != Fallocate::Allocate {
                let end = end.min(content.len());
                let from = (from as usize).min(end);
                content[from..end].fill(0);
            }
            run.model.set_content(file, content);
            run.fs
                .fallocate(Caller::default(), ino(file), mode, from, len, keep_size)
        })
    }

    fn xattr(&mut self) -> Result<()> {
        let Some(file) = self.file() else {
            return self.create();
        };
        let key = format!("user.k{}", self.rng.below(4)).into_bytes();
        let length = [0, 20, 200, 500][self.rng.below(4) as usize];
        let value = vec![self.rng.next() as u8; length];
        let has = self.model.tree.nodes[&file].xattrs.contains_key(&key);
        let remove = has && self.rng.below(3) == 0;
        self.op(|run| {
            let set = (!remove).then_some(value.as_slice());
            match run.fs.setxattr(WHO, ino(file), &key, set, SetMode::Any) {
                Err(Error::Posix(Posix::NoSpc)) => return Ok(()),
                done => done?,
            }
            let xattrs = &mut run.model.node(file).xattrs;
            if remove {
                xattrs.remove(&key);
            } else {
                xattrs.insert(key.clone(), value.clone());
            }
            Ok(())
        })
    }

    /// Fills a directory until it splits, and takes most names away again later.
    fn many_names(&mut self) -> Result<()> {
        let dir = self.dir();
        let count = self.model.tree.dirs[&dir].len();
        if count > 50 {
            let mut names: Vec<_> = self.model.tree.dirs[&dir].clone().into_iter().collect();
            names.retain(|(_, file)| !self.model.is_dir(*file));
            for (name, file) in names.into_iter().skip(5) {
                self.op(|run| run.unlink_in(dir, &name, file))?;
            }
            return Ok(());
        }
        let Some(file) = self.file() else {
            return self.create();
        };
        for index in 0..60 {
            let name = format!(
                "{index}-{}-of-many-names-that-make-this-directory-split",
                self.names
            );
            self.op(|run| {
                run.fs.link(ino(file), ino(dir), name.as_bytes())?;
                run.model.enter(dir, name.as_bytes(), file);
                run.model.node(file).nlink += 1;
                Ok(())
            })?;
            self.names += 1;
        }
        Ok(())
    }

    /// The last user of some nameless inodes goes, and they are freed.
    fn forget(&mut self) -> Result<()> {
        while let Some(gone) = self.nameless.pop() {
            self.op(|run| {
                run.fs.forget(ino(gone), u64::MAX);
                while run.fs.reap_step() {}
                Ok(())
            })?;
            if self.rng.below(3) == 0 {
                break;
            }
        }
        Ok(())
    }

    fn fsync(&mut self) -> Result<()> {
        let directory = self.rng.below(4) == 0;
        let which = if directory {
            Some(self.dir())
        } else {
            self.file()
        };
        let Some(which) = which else {
            return self.create();
        };
        self.op(|run| {
            run.fs.fsync_wait(ino(which))?;
            run.model.sync(which);
            Ok(())
        })
    }
}

/// The tree and the contents of its files as the file system shows them.
pub fn dump(fs: &Fs) -> Result<(Tree, BTreeMap<u32, Vec<u8>>)> {
    let mut tree = Tree::default();
    let mut contents = BTreeMap::new();
    let mut todo = vec![ROOT];
    let attr = fs.getattr(ino(ROOT))?;
    tree.nodes.insert(
        ROOT,
        Node {
            kind: Kind::Directory,
            nlink: attr.nlink,
            xattrs: BTreeMap::new(),
        },
    );
    while let Some(dir) = todo.pop() {
        let mut names = BTreeMap::new();
        fs.readdir(ino(dir), 0, false, &mut |item| {
            if item.name != b"." && item.name != b".." {
                names.insert(item.name.to_vec(), item.ino.get());
            }
            true
        })?;
        for (name, number) in &names {
            assert_eq!(
                fs.lookup(ino(dir), name)?.ino.get(),
                *number,
                "lookup and readdir agree"
            );
            if !tree.nodes.contains_key(number) {
                let node = node(fs, *number, &mut contents)?;
                if node.kind == Kind::Directory {
                    todo.push(*number);
                }
                tree.nodes.insert(*number, node);
            }
        }
        tree.dirs.insert(dir, names);
    }
    Ok((tree, contents))
}

fn node(fs: &Fs, number: u32, contents: &mut BTreeMap<u32, Vec<u8>>) -> Result<Node> {
    let attr = fs.getattr(ino(number))?;
    let kind = match attr.mode & 0o170_000 {
        0o040_000 => Kind::Directory,
        0o120_000 => Kind::Symlink(fs.readlink(ino(number))?),
        _ => {
            let bytes = fs.read(ino(number), 0, attr.size as usize)?;
            contents.insert(number, bytes.as_slice().to_vec());
            Kind::File
        }
    };
    let mut xattrs = BTreeMap::new();
    for key in fs
        .listxattr(WHO, ino(number))?
        .split(|byte| *byte == 0)
        .filter(|key| !key.is_empty())
    {
        xattrs.insert(key.to_vec(), fs.getxattr(ino(number), key)?);
    }
    Ok(Node {
        kind,
        nlink: attr.nlink,
        xattrs,
    })
}

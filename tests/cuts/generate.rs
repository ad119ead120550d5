//! Chooses the operations of a run by its seed and by what there is so far.

use crate::form::Profile;
use crate::model::{Kind, Model, ROOT, Tree};
use crate::op::{FILLER, Mode, Op};
use std::collections::{BTreeMap, VecDeque};
use uext4::device::sim::Rng;

const DIRS_MAX: usize = 8;
const FILES_MAX: usize = 30;
const SIZE_MAX: u64 = 120_000;

pub struct Generator {
    rng: Rng,
    profile: Profile,
    extents: bool,
    /// What follows of a chain of operations.
    chain: VecDeque<Op>,
    names: u64,
}

/// The paths of what there is.
#[derive(Default)]
struct Paths {
    files: Vec<(String, u32)>,
    dirs: Vec<String>,
    others: Vec<String>,
}

impl Paths {
    fn of(tree: &Tree) -> Self {
        let mut paths = Self::default();
        let mut todo = vec![(ROOT, String::new())];
        while let Some((dir, path)) = todo.pop() {
            for (name, ino) in &tree.dirs[&dir] {
                let name = String::from_utf8_lossy(name);
                if name == FILLER || name == "lost+found" {
                    continue;
                }
                let path = format!("{path}/{name}");
                match tree.nodes[ino].kind {
                    Kind::File => paths.files.push((path, *ino)),
                    Kind::Directory => todo.push((*ino, path)),
                    Kind::Symlink(_) => paths.others.push(path),
                }
            }
            paths.dirs.push(path);
        }
        paths
    }
}

impl Generator {
    pub fn new(seed: u64, profile: Profile, extents: bool) -> Self {
        Self {
            rng: Rng(seed),
            profile,
            extents,
            chain: VecDeque::new(),
            names: 0,
        }
    }

    /// The next operation.
    pub fn next(&mut self, model: &Model) -> Op {
        let op = self.draw(model);
        let rounds = matches!(
            op,
            Op::Fsync(_)
                | Op::Fdatasync(_)
                | Op::Step { .. }
                | Op::Clean
                | Op::Remount
                | Op::CommitAside { .. }
                | Op::Evict { all: true }
        );
        if rounds && self.profile == Profile::Full {
            return Op::Sync;
        }
        op
    }

    fn draw(&mut self, model: &Model) -> Op {
        if let Some(op) = self.chain.pop_front() {
            return op;
        }
        let (paths, sizes) = (Paths::of(&model.tree), &model.sizes());
        match (self.profile, self.rng.below(4)) {
            (Profile::Recycle, 0) => self.recycle(&paths),
            (Profile::Space, 0) => self.space(&paths, sizes),
            (Profile::Space, 1) => self.write(&paths, sizes),
            (Profile::Names, 0 | 1) => self.names(&paths),
            (Profile::Eviction, 0 | 1) => self.keep_open(&paths, sizes),
            _ if self.rng.below(7) == 0 => self.beside(&paths, sizes),
            _ => self.any(&paths, sizes),
        }
    }

    fn any(&mut self, paths: &Paths, sizes: &BTreeMap<u32, u64>) -> Op {
        match self.rng.below(100) {
            0..10 => self.create(paths),
            10..26 => self.write(paths, sizes),
            26..34 => self.truncate(paths, sizes),
            34..48 => self.names(paths),
            48..56 => self.space(paths, sizes),
            56..62 => self.xattr(paths),
            62..65 => self.attributes(paths),
            65..67 => self.many_names(paths),
            67..71 => Op::Forget {
                count: 1 + self.rng.below(3) as usize,
            },
            71..85 => self.fsync(paths),
            85..90 => Op::Sync,
            90..95 => {
                let millis = [0, 100, 6000][self.rng.below(3) as usize];
                if self.rng.below(2) == 0 {
                    self.chain.push_back(Op::Flush { millis });
                }
                Op::Step { millis }
            }
            95..97 => Op::Clean,
            97..98 => Op::Remount,
            _ => self.recycle(paths),
        }
    }

    /// Steps that stand still, eviction, preallocations and what the disk is told.
    fn beside(&mut self, paths: &Paths, sizes: &BTreeMap<u32, u64>) -> Op {
        match self.rng.below(16) {
            0..3 => self.in_flight(paths),
            3..5 => Op::FlushAside {
                millis: [0, 6000][self.rng.below(2) as usize],
                after: self.rng.below(3) as u32,
            },
            5..8 => Op::CommitAside {
                after: self.rng.below(12) as u32,
            },
            8 => Op::EndAside,
            9..12 => Op::Evict {
                all: self.rng.below(4) == 0,
            },
            12 => Op::GiveUp,
            13 => Op::Trim {
                all: self.rng.below(3) == 0,
            },
            14 => Op::Close,
            _ => self.keep_open(paths, sizes),
        }
    }

    /// A file that stays open keeps its preallocations, until it is evicted.
    fn keep_open(&mut self, paths: &Paths, sizes: &BTreeMap<u32, u64>) -> Op {
        let Some((path, ino)) = self.file(paths) else {
            return self.create(paths);
        };
        let end = sizes.get(&ino).copied().unwrap_or(0).min(SIZE_MAX);
        let write = self.write_to(path.clone(), end);
        self.chain.push_back(write);
        let flush = Op::Flush { millis: 6000 };
        self.chain.push_back(flush);
        self.chain.push_back(Op::Evict { all: false });
        Op::Open(path)
    }

    /// Data of one file is on its way while preallocations are given up, and another file gets blocks.
    fn in_flight(&mut self, paths: &Paths) -> Op {
        let (Some((path, _)), Some((other, _))) = (self.file(paths), self.file(paths)) else {
            return self.create(paths);
        };
        let mut chain = vec![Op::Flush { millis: 6000 }];
        for _ in 0..3 {
            chain.push(Op::Flush { millis: 0 });
        }
        let offset = self.rng.below(3) * 40_000;
        chain.push(self.write_to(path.clone(), offset));
        chain.push(Op::FlushAside {
            millis: 6000,
            after: 0,
        });
        chain.push(match self.rng.below(4) {
            0 => Op::Clean,
            1 => Op::Evict { all: false },
            _ => Op::GiveUp,
        });
        let offset = self.rng.below(3) * 40_000;
        chain.push(self.write_to(other.clone(), offset));
        chain.push(Op::Fsync(other));
        chain.push(Op::EndAside);
        self.chain.extend(chain);
        Op::Open(path)
    }

    fn new_path(&mut self, paths: &Paths) -> String {
        self.names += 1;
        let long = if self.rng.below(3) == 0 {
            "-with-a-name-so-long-that-few-fit-into-a-block-of-the-directory"
        } else {
            ""
        };
        let dir = self.rng.pick(&paths.dirs).cloned().unwrap_or_default();
        format!("{dir}/n{}{long}", self.names)
    }

    fn file(&mut self, paths: &Paths) -> Option<(String, u32)> {
        self.rng.pick(&paths.files).cloned()
    }

    fn create(&mut self, paths: &Paths) -> Op {
        if paths.files.len() >= FILES_MAX {
            return self.unlink(paths);
        }
        let path = self.new_path(paths);
        match self.rng.below(8) {
            0 if paths.dirs.len() < DIRS_MAX => Op::Mkdir(path),
            1 => Op::Symlink {
                path,
                length: [10, 59, 60, 300][self.rng.below(4) as usize],
            },
            2..4 => Op::Create(path),
            _ => {
                let write = self.write_to(path.clone(), 0);
                self.chain.push_back(write);
                Op::Create(path)
            }
        }
    }

    fn write(&mut self, paths: &Paths, sizes: &BTreeMap<u32, u64>) -> Op {
        let Some((path, ino)) = self.file(paths) else {
            return self.create(paths);
        };
        let size = sizes.get(&ino).copied().unwrap_or(0);
        if self.rng.below(8) == 0 {
            let count = 4 + self.rng.below(12);
            let seed = self.rng.draw();
            return Op::Scatter { path, count, seed };
        }
        let offset = match self.rng.below(4) {
            0 => 0,
            1 | 2 => size,
            _ => self.rng.below(size + 20_000),
        };
        self.write_to(path, offset.min(SIZE_MAX))
    }

    fn write_to(&mut self, path: String, offset: u64) -> Op {
        let length = 1 + match self.rng.below(4) {
            0 => self.rng.below(300),
            1 | 2 => self.rng.below(5000),
            _ => self.rng.below(30_000),
        };
        let seed = self.rng.draw();
        Op::Write {
            path,
            offset,
            length,
            seed,
        }
    }

    fn truncate(&mut self, paths: &Paths, sizes: &BTreeMap<u32, u64>) -> Op {
        let Some((path, ino)) = self.file(paths) else {
            return self.create(paths);
        };
        let size = sizes.get(&ino).copied().unwrap_or(0);
        let size = match self.rng.below(4) {
            0 => 0,
            1 => size / 2,
            _ => self.rng.below(size + 10_000),
        };
        Op::Truncate { path, size }
    }

    fn names(&mut self, paths: &Paths) -> Op {
        match self.rng.below(10) {
            0..5 => self.rename(paths),
            5..7 => match self.file(paths) {
                Some((path, _)) => Op::Link {
                    path,
                    to: self.new_path(paths),
                },
                None => self.create(paths),
            },
            7 => match self.rng.pick(&paths.dirs).cloned() {
                Some(dir) if !dir.is_empty() => Op::Rmdir(dir),
                _ => self.create(paths),
            },
            _ => self.unlink(paths),
        }
    }

    fn rename(&mut self, paths: &Paths) -> Op {
        let dirs = &paths.dirs[1.min(paths.dirs.len())..];
        let directory = self.rng.below(5) == 0 && !dirs.is_empty();
        let one = |rng: &mut Rng| {
            if directory {
                rng.pick(dirs).cloned()
            } else if rng.below(6) == 0 {
                rng.pick(&paths.others).cloned()
            } else {
                rng.pick(&paths.files).map(|(path, _)| path.clone())
            }
        };
        let Some(from) = one(&mut self.rng) else {
            return self.create(paths);
        };
        let exchange = self.rng.below(4) == 0;
        let onto = one(&mut self.rng).filter(|_| exchange || self.rng.below(2) == 0);
        let to = onto.unwrap_or_else(|| self.new_path(paths));
        Op::Rename { from, to, exchange }
    }

    fn unlink(&mut self, paths: &Paths) -> Op {
        let other = self.rng.below(6) == 0;
        let found = match self.file(paths) {
            Some((path, _)) if !other => Some(path),
            _ => self.rng.pick(&paths.others).cloned(),
        };
        match found {
            Some(path) => Op::Unlink(path),
            None => Op::Create(self.new_path(paths)),
        }
    }

    fn space(&mut self, paths: &Paths, sizes: &BTreeMap<u32, u64>) -> Op {
        let Some((path, ino)) = self.file(paths) else {
            return self.create(paths);
        };
        let mode = match self.rng.below(3) {
            0 if self.extents => Mode::Allocate,
            1 if self.extents => Mode::Zero,
            _ => Mode::Punch,
        };
        let size = sizes.get(&ino).copied().unwrap_or(0);
        Op::Fallocate {
            path,
            mode,
            from: self.rng.below(size + 1000),
            length: 1 + self.rng.below(20_000),
            keep_size: self.rng.below(2) == 0,
        }
    }

    fn xattr(&mut self, paths: &Paths) -> Op {
        let Some((path, _)) = self.file(paths) else {
            return self.create(paths);
        };
        let key = self.rng.below(4) as u8;
        if self.rng.below(4) == 0 {
            return Op::RemoveXattr { path, key };
        }
        Op::SetXattr {
            path,
            key,
            length: [0, 20, 200, 500][self.rng.below(4) as usize],
            byte: self.rng.draw() as u8,
        }
    }

    fn attributes(&mut self, paths: &Paths) -> Op {
        let dirs = self.rng.below(3) == 0;
        let path = if dirs {
            self.rng.pick(&paths.dirs).cloned()
        } else {
            self.file(paths).map(|(path, _)| path)
        };
        let odd = self.rng.draw();
        Op::SetAttr {
            path: path.unwrap_or_default(),
            mode: 0o600 | (odd as u16 & 0o77),
            uid: (odd >> 16) as u32 & 0xffff,
            gid: (odd >> 32) as u32 & 0xff_ffff,
        }
    }

    fn many_names(&mut self, paths: &Paths) -> Op {
        let dir = self.rng.pick(&paths.dirs).cloned().unwrap_or_default();
        let Some((path, _)) = self.file(paths) else {
            return self.create(paths);
        };
        let inside = format!("{dir}/");
        if paths
            .files
            .iter()
            .filter(|(path, _)| path.starts_with(&inside))
            .count()
            > 50
        {
            return Op::FewNames { dir, left: 5 };
        }
        Op::ManyNames {
            dir,
            path,
            count: 60,
        }
    }

    fn fsync(&mut self, paths: &Paths) -> Op {
        match (self.rng.below(4), self.file(paths)) {
            (0, _) | (_, None) => {
                Op::Fsync(self.rng.pick(&paths.dirs).cloned().unwrap_or_default())
            }
            (1, Some((path, _))) => Op::Fdatasync(path),
            (_, Some((path, _))) => Op::Fsync(path),
        }
    }

    /// A directory whose blocks are committed, freed, committed again, and then a file's, before the log is emptied.
    fn recycle(&mut self, paths: &Paths) -> Op {
        let dir = self.new_path(paths);
        let Some((path, _)) = self.file(paths) else {
            return self.create(paths);
        };
        let durable = |rng: &mut Rng, path: &str| match rng.below(4) {
            0 => Op::Step { millis: 6000 },
            1 => Op::Fsync(path.to_owned()),
            _ => Op::Sync,
        };
        let mut chain = vec![
            Op::Mkdir(dir.clone()),
            Op::ManyNames {
                dir: dir.clone(),
                path: path.clone(),
                count: 30 + self.rng.below(60) as usize,
            },
            durable(&mut self.rng, &path),
            Op::FewNames {
                dir: dir.clone(),
                left: 0,
            },
            Op::Rmdir(dir),
            Op::Forget { count: 3 },
        ];
        if self.rng.below(4) > 0 {
            chain.push(durable(&mut self.rng, &path));
        }
        for _ in 0..=self.rng.below(3) {
            let offset = self.rng.below(4) * 30_000;
            let length = 20_000 + self.rng.below(60_000);
            let seed = self.rng.draw();
            let path = path.clone();
            chain.push(Op::Write {
                path,
                offset,
                length,
                seed,
            });
        }
        chain.push(durable(&mut self.rng, &path));
        if self.rng.below(3) == 0 {
            chain.push(Op::Clean);
        }
        let first = chain.remove(0);
        self.chain.extend(chain);
        first
    }
}

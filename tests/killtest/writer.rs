//! A thread that writes, syncs and notes what it was promised, until its file system is gone.

use crate::log::{Attempt, BLOCK, BLOCKS, Log, Made, content};
use crate::rng::Rng;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub struct Writer {
    dir: PathBuf,
    rng: Rng,
    log: Log,
    next: u32,
}

impl Writer {
    pub fn new(dir: &Path, seed: u64) -> Self {
        Self {
            dir: dir.to_path_buf(),
            rng: Rng(seed),
            log: Log::new(seed),
            next: 0,
        }
    }

    /// Until the first error.
    pub fn run(mut self) -> Log {
        let begun = std::fs::create_dir(&self.dir);
        let mut done = begun;
        while done.is_ok() {
            done = match self.rng.below(10) {
                0..4 => self.create(),
                4 => self.truncate(),
                5 => self.unlink(),
                6 | 7 => self.append(),
                8 => self.replace(),
                _ => self.overwrite(),
            };
        }
        self.log
    }

    fn create(&mut self) -> io::Result<()> {
        let number = self.next;
        self.next += 1;
        let path = Log::path_of(&self.dir, number);
        let len = match self.rng.below(4) {
            0 => self.rng.below(100),
            1 | 2 => self.rng.below(20_000),
            _ => self.rng.below(300_000),
        };
        let key = self.rng.draw();
        let made = Made {
            key,
            sure: None,
            attempt: Some(Attempt::Create(len)),
        };
        self.log.made.insert(number, made);
        if let Some(parent) = path.parent()
            && number.is_multiple_of(16)
        {
            std::fs::create_dir(parent)?;
        }
        let mut file = File::create_new(&path)?;
        file.write_all(&content(key, len))?;
        file.sync_all()?;
        self.promised(number, Some(len));
        Ok(())
    }

    /// One of the files that are there.
    fn pick(&mut self) -> Option<(u32, u64)> {
        let there: Vec<(u32, u64)> = self
            .log
            .made
            .iter()
            .filter_map(|(number, made)| Some((*number, made.sure?)))
            .collect();
        (!there.is_empty()).then(|| there[self.rng.below(there.len() as u64) as usize])
    }

    fn truncate(&mut self) -> io::Result<()> {
        let Some((number, len)) = self.pick() else {
            return Ok(());
        };
        let to = self.rng.below(len + 1);
        self.attempt(number, Attempt::Truncate(to));
        let file = OpenOptions::new()
            .write(true)
            .open(Log::path_of(&self.dir, number))?;
        file.set_len(to)?;
        file.sync_all()?;
        self.promised(number, Some(to));
        Ok(())
    }

    fn unlink(&mut self) -> io::Result<()> {
        let Some((number, _)) = self.pick() else {
            return Ok(());
        };
        self.attempt(number, Attempt::Unlink);
        let path = Log::path_of(&self.dir, number);
        std::fs::remove_file(&path)?;
        File::open(path.parent().unwrap_or(&self.dir))?.sync_all()?;
        self.promised(number, None);
        Ok(())
    }

    fn append(&mut self) -> io::Result<()> {
        let (sure, _) = self.log.appended;
        let to = sure + 1 + self.rng.below(9000);
        self.log.appended.1 = to;
        let all = content(self.log.seed, to);
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.dir.join("append"))?;
        file.write_all(&all[sure as usize..])?;
        file.sync_data()?;
        self.log.appended.0 = to;
        self.log.synced += 1;
        Ok(())
    }

    fn replace(&mut self) -> io::Result<()> {
        let version = self.log.replaced.0 + 1;
        self.log.replaced.1 = version;
        let next = self.dir.join("replace.next");
        let mut file = File::create(&next)?;
        file.write_all(&self.log.replacement(version))?;
        file.sync_all()?;
        std::fs::rename(&next, self.dir.join("replace"))?;
        File::open(&self.dir)?.sync_all()?;
        self.log.replaced.0 = version;
        self.log.synced += 2;
        Ok(())
    }

    fn overwrite(&mut self) -> io::Result<()> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.dir.join("blocks"))?;
        let mut changed = Vec::new();
        for _ in 0..1 + self.rng.below(6) {
            let index = self.rng.below(BLOCKS as u64) as usize;
            let version = self.log.blocks[index].1 + 1;
            self.log.blocks[index].1 = version;
            changed.push((index, version));
            file.write_all_at(&self.log.block(index, version), (index * BLOCK) as u64)?;
        }
        file.sync_data()?;
        for (index, version) in changed {
            self.log.blocks[index].0 = version;
        }
        self.log.synced += 1;
        Ok(())
    }

    fn attempt(&mut self, number: u32, attempt: Attempt) {
        if let Some(made) = self.log.made.get_mut(&number) {
            made.attempt = Some(attempt);
        }
    }

    fn promised(&mut self, number: u32, length: Option<u64>) {
        if let Some(made) = self.log.made.get_mut(&number) {
            (made.sure, made.attempt) = (length, None);
        }
        self.log.synced += 1;
    }
}

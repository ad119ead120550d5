//! The operations on names: renames, links, what takes names away, directories with many.

use crate::form::WHO;
use crate::op::{FILLER, Run, file_name, ino};
use uext4::error::{Error, Posix, Result};
use uext4::fs::RenameMode;

impl Run {
    pub fn rename(&mut self, from: &str, to: &str, exchange: bool) -> Option<Result<()>> {
        let (dir, what, to_dir) = (self.parent(from)?, self.find(from)?, self.parent(to)?);
        let target = self.find(to);
        if exchange && target.is_none() {
            return None;
        }
        let mode = if exchange {
            RenameMode::Exchange
        } else {
            RenameMode::Replace
        };
        let (name, to_name) = (file_name(from), file_name(to));
        Some(self.op(|run| {
            let done = run
                .fs
                .rename(WHO, (ino(dir), name), (ino(to_dir), to_name), mode);
            match done {
                Err(Error::Posix(
                    Posix::Inval
                    | Posix::NotEmpty
                    | Posix::IsDir
                    | Posix::NotDir
                    | Posix::Exist
                    | Posix::NoSpc,
                )) => return Ok(()),
                done => done?,
            }
            if target != Some(what) {
                run.renamed((dir, name, what), (to_dir, to_name, target), exchange);
            }
            Ok(())
        }))
    }

    fn renamed(
        &mut self,
        (dir, name, what): (u32, &[u8], u32),
        (to_dir, to_name, target): (u32, &[u8], Option<u32>),
        exchange: bool,
    ) {
        let model = &mut self.model;
        let links = |ino: Option<u32>| i32::from(ino.is_some_and(|ino| model.is_dir(ino)));
        let (moves, comes_back) = (links(Some(what)), links(target.filter(|_| exchange)));
        model.leave(dir, name);
        if let Some(target) = target {
            model.leave(to_dir, to_name);
            if exchange {
                model.enter(dir, name, target);
            } else {
                model.flush_before_replace(what);
                model.drop_link(to_dir, target);
                if !model.tree.nodes.contains_key(&target) {
                    self.nameless.push(target);
                }
            }
        }
        model.enter(to_dir, to_name, what);
        if dir != to_dir {
            model.parent(dir, comes_back - moves);
            model.parent(to_dir, moves - comes_back);
        }
    }

    pub fn link(&mut self, file: u32, dir: u32, name: &[u8]) -> Result<()> {
        let done = self.fs.link(ino(file), ino(dir), name).map(|_| ());
        if self.had_space(done)? {
            self.model.enter(dir, name, file);
            self.model.node(file).nlink += 1;
        }
        Ok(())
    }

    pub fn unlink(&mut self, dir: u32, name: &[u8], file: u32) -> Result<()> {
        self.fs.unlink(ino(dir), name)?;
        self.model.leave(dir, name);
        self.model.drop_link(dir, file);
        if !self.model.tree.nodes.contains_key(&file) {
            self.nameless.push(file);
        }
        Ok(())
    }

    pub fn rmdir(&mut self, path: &str) -> Option<Result<()>> {
        let (dir, which) = (self.parent(path)?, self.find(path)?);
        if !self.model.tree.dirs.get(&which)?.is_empty() {
            return None;
        }
        Some(self.op(|run| {
            run.fs.rmdir(ino(dir), file_name(path))?;
            run.model.leave(dir, file_name(path));
            run.model.drop_link(dir, which);
            run.nameless.push(which);
            Ok(())
        }))
    }

    pub fn many_names(&mut self, dir: &str, path: &str, count: usize) -> Option<Result<()>> {
        let (to, file) = (self.find(dir)?, self.file(path)?);
        self.model.tree.dirs.get(&to)?;
        Some((0..count).try_for_each(|_| {
            self.names += 1;
            let name = format!(
                "{}-of-many-names-that-make-this-directory-split",
                self.names
            );
            if self.model.tree.dirs[&to].contains_key(name.as_bytes()) {
                return Ok(());
            }
            self.op(|run| run.link(file, to, name.as_bytes()))
        }))
    }

    pub fn few_names(&mut self, dir: &str, left: usize) -> Option<Result<()>> {
        let dir = self.find(dir)?;
        let names = self.model.tree.dirs.get(&dir)?.clone().into_iter();
        let files: Vec<_> = names
            .filter(|(name, ino)| !self.model.is_dir(*ino) && name != FILLER.as_bytes())
            .collect();
        let gone = files.into_iter().skip(left);
        let mut all = gone.map(|(name, file)| self.op(|run| run.unlink(dir, &name, file)));
        Some(all.find(Result::is_err).unwrap_or(Ok(())))
    }
}

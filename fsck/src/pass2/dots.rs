//! The first two entries of a directory: "." and "..".
//!
//! Source: the kernel's ext4 documentation, "Linear (Classic) Directories".
//! Invariants: afterwards both are there, with their names and lengths; where ".." points is judged by pass 3.

use super::Directory;
use crate::Result;
use crate::dirblock::{self, HEADER};
use crate::problem::{At, Problem};
use crate::session::Fsck;

const DOT_LEN: usize = 12;

impl Fsck<'_, '_> {
    pub fn dots(&mut self, dir: &mut Directory, bytes: &mut [u8], end: usize) -> Result<()> {
        self.dot(dir, bytes)?;
        let second = dirblock::rec_len(bytes, 0);
        if second + DOT_LEN <= end {
            self.dotdot(dir, bytes, second)?;
        }
        self.inodes.found(dir.ino);
        Ok(())
    }

    fn dot(&mut self, dir: &Directory, bytes: &mut [u8]) -> Result<()> {
        let at = At::dir(dir.ino);
        let kind = self.directory_type();
        let length = dirblock::rec_len(bytes, 0);
        let (ino, name) = (dirblock::ino(bytes, 0), dirblock::name(bytes, 0));
        let problem = if ino == 0 {
            Some((Problem::DotMissing, at.clone()))
        } else if name != b"." {
            Some((Problem::DotNotFirst, at.clone().name(&name)))
        } else if ino != dir.ino {
            Some((Problem::DotWrongInode, at.clone().target(ino)))
        } else if bytes[HEADER + 1] != 0 {
            Some((Problem::DotTerminator, at.clone().name(b".")))
        } else {
            None
        };
        if let Some((problem, at)) = problem
            && self.report.fix(problem, at)?
        {
            bytes[HEADER..DOT_LEN].fill(0);
            dirblock::put(bytes, 0, length, dir.ino, kind, b".");
        }
        if length > DOT_LEN {
            let rest = length - DOT_LEN;
            // A second entry may hide behind a length that is too large.
            if rest >= DOT_LEN && self.report.fix(Problem::DotLong, at)? {
                dirblock::set_rec_len(bytes, 0, DOT_LEN);
                let hidden = dirblock::name(bytes, DOT_LEN) == b".."
                    && dirblock::rec_len(bytes, DOT_LEN) == rest;
                if !hidden {
                    dirblock::put(bytes, DOT_LEN, rest, 0, 0, b"");
                }
            }
        }
        if dirblock::name(bytes, 0) == b"." && ![0, kind].contains(&dirblock::file_type(bytes, 0)) {
            let at = At::dir(dir.ino).target(dir.ino).name(b".");
            let found = dirblock::file_type(bytes, 0);
            let at = at.found(found.into()).expected(kind.into());
            if self.report.fix(Problem::EntryFileType, at)? {
                dirblock::set_u8(bytes, 7, kind);
            }
        }
        Ok(())
    }

    fn dotdot(&mut self, dir: &Directory, bytes: &mut [u8], at: usize) -> Result<()> {
        let here = At::dir(dir.ino);
        let kind = self.directory_type();
        let length = dirblock::rec_len(bytes, at);
        let (ino, name) = (dirblock::ino(bytes, at), dirblock::name(bytes, at));
        let problem = if ino == 0 {
            Some((Problem::DotDotMissing, here.clone()))
        } else if name != b".." {
            Some((Problem::DotDotNotSecond, here.clone().name(&name)))
        } else if bytes[at + HEADER + 2] != 0 {
            Some((Problem::DotTerminator, here.clone().name(b"..")))
        } else {
            None
        };
        if let Some((problem, here)) = problem
            && self.report.fix(problem, here)?
        {
            let target = if problem == Problem::DotTerminator {
                ino
            } else {
                2
            };
            bytes[at + HEADER..at + DOT_LEN].fill(0);
            dirblock::put(bytes, at, length, target, kind, b"..");
        }
        if ![0, kind].contains(&dirblock::file_type(bytes, at))
            && dirblock::name(bytes, at) == b".."
        {
            let found = dirblock::file_type(bytes, at);
            let here = At::dir(dir.ino).target(ino).name(b"..");
            let here = here.found(found.into()).expected(kind.into());
            if self.report.fix(Problem::EntryFileType, here)? {
                dirblock::set_u8(bytes, at + 7, kind);
            }
        }
        self.dirs
            .change(dir.ino, |known| known.dotdot = dirblock::ino(bytes, at));
        Ok(())
    }
}

//! Operations beside those on names and data: steps that stand still, eviction, what is given up and what the disk is told.

use crate::aside::Aside;
use crate::form::WHO;
use crate::op::{Op, Run, ino};
use std::sync::Arc;
use std::time::Duration;
use uext4::error::Result;
use uext4::fs::Fs;
use uext4::memory::{Reclaimer, Relief};

/// What stands aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    Flush,
    Commit,
}

impl Op {
    /// Whether it waits for such a step anyway.
    pub fn waits_for(&self, step: Beside) -> bool {
        let both = matches!(
            self,
            Op::Sync
                | Op::Evict { .. }
                | Op::FlushAside { .. }
                | Op::CommitAside { .. }
                | Op::EndAside
                | Op::Remount
        );
        both || match step {
            Beside::Flush => matches!(self, Op::Flush { .. }),
            Beside::Commit => matches!(
                self,
                Op::Fsync(_) | Op::Fdatasync(_) | Op::Step { .. } | Op::Clean
            ),
        }
    }
}

impl Run {
    pub fn end_aside(&mut self) -> Result<()> {
        self.aside.take().map_or(Ok(()), |(_, aside)| aside.end())
    }

    fn begin_aside(
        &mut self,
        kind: Beside,
        after: u32,
        step: impl FnOnce(&Fs) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let fs = Arc::clone(&self.fs);
        self.op(|run| {
            run.aside = Some((kind, Aside::begin(after, move || step(&fs))));
            run.met.asides += 1;
            Ok(())
        })
    }

    /// What goes on beside the operations on names and data.
    pub fn attempt_aside(&mut self, op: &Op) -> Option<Result<()>> {
        Some(match op {
            Op::FlushAside { millis, after } => {
                self.clock.advance(Duration::from_millis(*millis));
                self.begin_aside(Beside::Flush, *after, |fs| fs.flush_step().map(|_| ()))
            }
            Op::CommitAside { after } => {
                self.clock.advance(Duration::from_secs(6));
                // As the committer's thread does.
                self.begin_aside(Beside::Commit, *after, |fs| {
                    fs.commit_step().inspect_err(|error| fs.report(error))
                })
            }
            Op::Evict { all: true } => self.op(|run| {
                run.fs.evict_all();
                Ok(())
            }),
            Op::Evict { all: false } => self.op(|run| {
                let by = if run.setup.direct {
                    Reclaimer::Direct
                } else {
                    Reclaimer::Evictor
                };
                // Twice: what was used of late is passed over once.
                (0..2).for_each(|_| run.fs.prune(1 << 20, by));
                Ok(())
            }),
            Op::GiveUp => self.op(|run| {
                run.met.given_up += run.fs.discard_preallocations();
                Ok(())
            }),
            Op::Trim { all: true } => self.op(|run| run.fs.trim(WHO, 0, u64::MAX, 0).map(|_| ())),
            Op::Trim { all: false } => self.op(|run| {
                run.fs.discard_freed();
                Ok(())
            }),
            Op::Open(path) => {
                let file = self.file(path)?;
                self.op(|run| {
                    run.fs.open(ino(file), true, false, false)?;
                    run.open.push(file);
                    Ok(())
                })
            }
            Op::Close if self.open.is_empty() => return None,
            Op::Close => self.op(|run| {
                let file = run.open.remove(0);
                run.fs.release(ino(file), true);
                while run.fs.reap_step() {}
                Ok(())
            }),
            Op::Forget { count } => (0..*count).try_for_each(|_| self.forget()),
            Op::Remount => self.remount(),
            _ => return None,
        })
    }
}

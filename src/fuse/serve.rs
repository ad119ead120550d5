//! Where a request is served: by the worker that received it, or by a thread that may wait for the device.
//!
//! Source: the design's FUSE facts (workers do not sleep); fuser's replies, which any thread may give.
//! Invariants: every request is answered once. What is begun twice has changed nothing the first time; what changes something
//! from its beginning is put aside whole or waits.

use crate::error::{Posix, Result};
use crate::fs::{Fs, ReadReply, WriteMode};
use crate::fuse::reply::fail;
use crate::fuse::standby::Standby;
use crate::ids::InodeNumber;
use fuser::ReplyWrite;
use std::sync::Arc;

pub(super) struct Adapter {
    pub(super) fs: Arc<Fs>,
    pub(super) max_write: u32,
    standby: Standby,
}

impl Adapter {
    pub(super) fn start(fs: Arc<Fs>, workers: usize, max_write: u32) -> std::io::Result<Self> {
        let standby = Standby::start(&fs, workers)?;
        Ok(Self {
            fs,
            max_write,
            standby,
        })
    }

    fn put_aside(&self, work: impl FnOnce(&Fs) + Send + 'static) {
        self.fs.note_put_aside();
        self.standby.put(work);
    }

    /// Serves a request; on another thread when enough workers wait for the device.
    pub(super) fn serve(&self, work: impl FnOnce(&Fs) + Send + 'static) {
        if self.fs.enough_wait() {
            self.put_aside(work);
        } else {
            let _serving = self.fs.serve(false);
            work(&self.fs);
        }
    }

    /// The same for a question that changes nothing before it has read all that it needs: it is begun here, and once more on
    /// another thread if it would have to wait.
    pub(super) fn ask<T, R: Send + 'static>(
        &self,
        reply: R,
        ask: impl Fn(&Fs) -> Result<T> + Send + 'static,
        answer: impl FnOnce(&Fs, R, Result<T>) + Send + 'static,
    ) {
        let result = {
            let _serving = self.fs.serve(true);
            ask(&self.fs)
        };
        match result {
            Err(error) if error.is_posix(Posix::Again) => {
                self.put_aside(move |fs| answer(fs, reply, ask(fs)));
            }
            result => answer(&self.fs, reply, result),
        }
    }

    /// A read's answer may come later still, from the device.
    pub(super) fn read(&self, read: Reading, reply: ReadReply) {
        let _serving = self.fs.serve(true);
        let again = |reply| self.put_aside(move |fs| read.begin(fs, reply, drop));
        read.begin(&self.fs, reply, again);
    }

    /// A write that would have to wait takes a copy of its data along; without room for one the worker waits.
    pub(super) fn write(&self, write: Writing, data: &[u8], reply: ReplyWrite) {
        let written = {
            let _serving = self.fs.serve(true);
            write.run(&self.fs, data)
        };
        match written {
            Err(error) if error.is_posix(Posix::Again) => {
                if let Some(copy) = self.standby.copy(data) {
                    let work = move |fs: &Fs| write.answer(fs, reply, write.run(fs, &copy));
                    self.put_aside(work);
                } else {
                    let _serving = self.fs.serve(false);
                    write.answer(&self.fs, reply, write.run(&self.fs, data));
                }
            }
            written => write.answer(&self.fs, reply, written),
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Reading {
    pub(super) ino: InodeNumber,
    pub(super) offset: u64,
    pub(super) length: usize,
    pub(super) direct: bool,
}

impl Reading {
    fn begin(self, fs: &Fs, reply: ReadReply, again: impl FnOnce(ReadReply)) {
        let Self {
            ino,
            offset,
            length,
            direct,
        } = self;
        fs.read_parked(ino, offset, length, direct, reply, again);
    }
}

#[derive(Clone, Copy)]
pub(super) struct Writing {
    pub(super) ino: InodeNumber,
    pub(super) offset: u64,
    pub(super) how: WriteMode,
    /// All of it or nothing.
    pub(super) whole: bool,
}

impl Writing {
    fn run(self, fs: &Fs, data: &[u8]) -> Result<usize> {
        let Self {
            ino, offset, how, ..
        } = self;
        if self.whole {
            fs.write(ino, offset, data, how).map(|()| data.len())
        } else {
            fs.write_some(ino, offset, data, how)
        }
    }

    fn answer(self, fs: &Fs, reply: ReplyWrite, written: Result<usize>) {
        match written {
            Ok(length) => {
                let told = u32::try_from(length).unwrap_or(u32::MAX);
                let delayed = if self.how.direct { 0 } else { length };
                fs.answer_in_time(delayed, move || reply.written(told));
            }
            Err(error) => reply.error(fail(fs, &error)),
        }
    }
}

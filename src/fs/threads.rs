//! The daemon's background threads: each loops over a `step` of the core.
//!
//! Source: the design's decision that the core starts no thread itself.
//! Invariants: they end when `stop_threads` is called, and hold nothing while they sleep.

use crate::error::Result;
use crate::fs::{Fs, flush};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long without a change before the file system is marked clean.
const IDLE: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_secs(1);

/// What a thread runs until the end.
type Run = fn(&Fs);

impl Fs {
    /// Starts the committer, the reaper and the flushers.
    pub fn start_threads(self: &Arc<Self>) -> std::io::Result<()> {
        if self.is_read_only() {
            return Ok(());
        }
        let mut threads = Vec::new();
        if self.options.discard {
            let fs = Arc::clone(self);
            let builder = std::thread::Builder::new().name("discard".into());
            threads.push(builder.spawn(move || discard_loop(&fs))?);
        }
        let flushers = [("flush", Fs::flush_loop as Run); flush::THREADS];
        let others: [(&str, Run); 3] = [
            ("commit", commit_loop),
            ("reap", reap_loop),
            ("evict", evict_loop),
        ];
        for (name, run) in others.into_iter().chain(flushers) {
            let fs = Arc::clone(self);
            let builder = std::thread::Builder::new().name(name.into());
            threads.push(builder.spawn(move || run(&fs))?);
        }
        self.threads.lock().extend(threads);
        self.reaper.set_served(true);
        self.flushers.set_served(true);
        self.memory.set_served(true);
        Ok(())
    }

    pub(crate) fn stop_threads(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.journal.stop();
        self.reaper.set_served(false);
        self.reaper.wake();
        self.flushers.set_served(false);
        self.flushers.wake();
        self.memory.set_served(false);
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            if thread.join().is_err() {
                log::error!("a background thread ended with a panic");
            }
        }
        self.flush_rest();
        self.memory.answer_all(Duration::MAX);
    }

    /// One round of the committer.
    pub fn commit_step(&self) -> Result<()> {
        self.journal.step()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

fn commit_loop(fs: &Fs) {
    let mut last = (fs.journal.newest(), fs.clock.monotonic());
    let mut clean = false;
    while !fs.is_stopping() {
        fs.journal.wait_for_work(TICK);
        if let Err(error) = fs.commit_step() {
            fs.report(&error);
        }
        fs.report_groups(None);
        let newest = fs.journal.newest();
        if newest != last.0 {
            last = (newest, fs.clock.monotonic());
            clean = false;
        } else if !clean && fs.clock.monotonic().saturating_sub(last.1) >= IDLE {
            clean = fs.mark_clean().is_ok();
        }
        if fs.journal.is_aborted() {
            std::thread::sleep(TICK);
        }
    }
}

/// Not woken by a commit: what waits goes down together.
fn discard_loop(fs: &Fs) {
    while !fs.is_stopping() {
        std::thread::sleep(TICK);
        fs.discard_freed();
    }
}

fn reap_loop(fs: &Fs) {
    while !fs.is_stopping() {
        fs.reaper.wait(TICK);
        while fs.reap_step() {}
    }
}

fn evict_loop(fs: &Fs) {
    while !fs.is_stopping() {
        fs.wait_for_pressure(TICK);
        fs.evict_step();
    }
}

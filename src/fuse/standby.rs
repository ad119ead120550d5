//! Threads that may wait for the device on behalf of workers, so that what needs no device is served while it stands still.
//!
//! Source: the design's FUSE facts (workers do not sleep).
//! Invariants: what is put here is answered once, by any thread, in no order; there is no more of it than the kernel has requests
//! under way. Data of writes is copied into as many buffers of one request as there are workers, made once and kept: they are
//! the second buffer a worker of the fixed overhead. All threads have ended when this is dropped.

use crate::fs::Fs;
use crate::sync::{Mutex, Rank};
use crossbeam_channel::{Receiver, Sender, unbounded};
use std::ops::Deref;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Threads a worker.
const EACH: usize = 2;

type Work = Box<dyn FnOnce(&Fs) + Send>;

pub(super) struct Standby {
    /// `None`: no more comes.
    sender: Option<Sender<Work>>,
    threads: Vec<JoinHandle<()>>,
    free: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Standby {
    pub(super) fn start(fs: &Arc<Fs>, workers: usize) -> std::io::Result<Self> {
        let (sender, receiver) = unbounded::<Work>();
        let mut standby = Self {
            sender: Some(sender),
            threads: Vec::new(),
            free: Arc::new(Mutex::new(Rank::Leaf, vec![Vec::new(); workers])),
        };
        for _ in 0..workers * EACH {
            let (fs, receiver) = (Arc::clone(fs), receiver.clone());
            let builder = std::thread::Builder::new().name("standby".into());
            let thread = builder.spawn(move || serve(&fs, &receiver))?;
            standby.threads.push(thread);
        }
        Ok(standby)
    }

    /// `work` begins when a thread is free.
    pub(super) fn put(&self, work: impl FnOnce(&Fs) + Send + 'static) {
        // The threads live as long as the sender. A reply that is dropped answers EIO.
        if let Some(sender) = &self.sender {
            let _ = sender.send(Box::new(work));
        }
    }

    /// A copy of a write's data, where a buffer is free.
    pub(super) fn copy(&self, data: &[u8]) -> Option<Copied> {
        let mut bytes = self.free.lock().pop()?;
        bytes.clear();
        bytes.extend_from_slice(data);
        Some(Copied {
            bytes,
            home: Arc::clone(&self.free),
        })
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        self.sender = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("a standby thread ended with a panic");
            }
        }
    }
}

fn serve(fs: &Fs, receiver: &Receiver<Work>) {
    while let Ok(work) = receiver.recv() {
        work(fs);
    }
}

/// Goes back where it came from.
pub(super) struct Copied {
    bytes: Vec<u8>,
    home: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Deref for Copied {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        self.home.lock().push(std::mem::take(&mut self.bytes));
    }
}

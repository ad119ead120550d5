//! A truncation beside a read in flight: what the read gets is the file's, old or gone, and never another file's.

use crate::form::{Form, WHO, options};
use crate::op::ino;
use std::io::IoSlice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use uext4::canary::Canary;
use uext4::device::Device;
use uext4::device::sim::{Disk, Ticks};
use uext4::device::submit::ReadRequest;
use uext4::error::Result;
use uext4::fs::{Fs, NewNode, Options, SetAttr, WriteMode};

const LENGTH: usize = 60_000;

/// Keeps reads that are submitted until they are let go.
struct Held {
    disk: Arc<Disk>,
    /// Which: those of now. (Bitmaps are read ahead, too.)
    keeps: AtomicBool,
    reads: Mutex<Vec<ReadRequest>>,
}

impl Device for Held {
    fn len(&self) -> u64 {
        self.disk.len()
    }
    fn sector_size(&self) -> u32 {
        self.disk.sector_size()
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.disk.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.disk.write_at(offset, bytes)
    }
    fn write_vectored_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> Result<()> {
        self.disk.write_vectored_at(offset, slices)
    }
    fn sync(&self) -> Result<()> {
        Ok(())
    }
    fn discard(&self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }
    fn write_zeroes(&self, offset: u64, length: u64) -> Result<()> {
        self.disk.write_zeroes(offset, length)
    }
    fn submit_read(&self, request: ReadRequest) {
        if self.keeps.load(Ordering::SeqCst) {
            self.reads.lock().expect("no panic").push(request);
        } else {
            request.run(|offset, bytes| self.disk.read_at(offset, bytes));
        }
    }
}

/// Whether the read gets the bytes of its file alone.
pub fn a_read_keeps_its_blocks(canary: Option<Canary>) -> bool {
    let disk = Disk::new(Form::named("1k").image());
    let held = Arc::new(Held {
        disk,
        keeps: AtomicBool::new(false),
        reads: Mutex::default(),
    });
    // With one worker no read waits in place.
    let options = Options {
        threads: 1,
        ..options()
    };
    let clock = Arc::new(Ticks::default());
    let fs = Fs::mount_at(Arc::clone(&held) as Arc<_>, options, clock).expect("it mounts");
    let create = |name: &[u8]| {
        let new = NewNode::File { mode: 0o644 };
        let made = fs.create(WHO, ino(2), name, new, 0);
        made.expect("a file").ino
    };
    let (one, other) = (create(b"one"), create(b"other"));
    fs.write(one, 0, &[1; LENGTH], WriteMode::default())
        .expect("written");
    fs.sync_all().expect("synced");
    let (sender, receiver) = mpsc::channel();
    let reply = move |result: Result<uext4::fs::Bytes>| {
        let bytes = result.map(|bytes| bytes.as_slice().to_vec());
        sender.send(bytes).expect("somebody waits");
    };
    held.keeps.store(true, Ordering::SeqCst);
    fs.read_parked(one, 0, LENGTH, true, Box::new(reply), drop);
    held.keeps.store(false, Ordering::SeqCst);
    let waits = !held.reads.lock().expect("no panic").is_empty();
    assert!(waits, "the read is in flight");
    let (done, is_done) = mpsc::channel();
    std::thread::scope(|scope| {
        let fs = &fs;
        scope.spawn(move || {
            crate::seed::select(canary);
            let empty = SetAttr {
                size: Some(0),
                ..SetAttr::default()
            };
            let truncated = fs.setattr(WHO, one, &empty).map(|_| ());
            crate::seed::select(None);
            let _ = done.send(truncated);
        });
        if is_done.recv_timeout(Duration::from_millis(300)).is_ok() {
            fs.sync_all().expect("synced");
            fill(fs, other);
        }
        for read in held.reads.lock().expect("no panic").drain(..) {
            read.run(|offset, bytes| held.disk.read_at(offset, bytes));
        }
    });
    let bytes = receiver.recv().expect("an answer").expect("read");
    assert_eq!(bytes.len(), LENGTH);
    fs.unmount().expect("unmount");
    bytes.iter().all(|&byte| byte == 1)
}

/// Writes until there is no space left.
fn fill(fs: &Fs, file: uext4::ids::InodeNumber) {
    let piece = vec![2; 64 << 10];
    let mut offset = 0;
    while fs.write(file, offset, &piece, WriteMode::default()).is_ok() {
        offset += piece.len() as u64;
    }
    fs.sync_all().expect("synced");
}

//! The raw file beneath the null server: what a request asks for is read or written there, and nothing else is done. So FUSE and
//! the device show what they allow together, in one process and on the same processors.
//!
//! A sync does what the raw side does for one: what was written is synced, then 4 KiB and a sync for a journal.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::Result;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// What O_DIRECT wants memory and places to be a multiple of.
const ALIGNED: usize = 4096;
/// The longest request.
const LONGEST: usize = 1 << 20;

thread_local! {
    static AREA: RefCell<Vec<u8>> = RefCell::new(vec![0; LONGEST + ALIGNED]);
}

pub struct Beneath {
    file: File,
    length: u64,
}

impl Beneath {
    pub fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(rustix::fs::OFlags::DIRECT.bits() as i32)
            .open(path)?;
        let length = file.metadata()?.len() / LONGEST as u64 * LONGEST as u64;
        Ok(Self { file, length })
    }

    /// Reads `count` bytes, at most the longest request, and hands them on.
    pub fn read(&self, offset: u64, count: usize, reply: impl FnOnce(Result<&[u8]>)) {
        in_area(count, |area| {
            let read = self
                .file
                .read_exact_at(area, self.place(offset, area.len()));
            reply(read.map(|()| &area[..count]));
        });
    }

    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        in_area(bytes.len(), |area| {
            area[..bytes.len()].copy_from_slice(bytes);
            self.file.write_all_at(area, self.place(offset, area.len()))
        })
    }

    pub fn sync(&self) -> Result<()> {
        self.file.sync_data()?;
        self.write(0, &[0; ALIGNED])?;
        self.file.sync_data()
    }

    /// A place in the file, however large the server's own files are.
    fn place(&self, offset: u64, count: usize) -> u64 {
        let aligned = offset / ALIGNED as u64 * ALIGNED as u64;
        aligned % (self.length - count as u64 + ALIGNED as u64)
    }
}

/// `count` bytes, rounded up, where O_DIRECT can use them.
fn in_area<R>(count: usize, work: impl FnOnce(&mut [u8]) -> R) -> R {
    AREA.with_borrow_mut(|area| {
        let skip = area.as_ptr().align_offset(ALIGNED);
        work(&mut area[skip..skip + count.next_multiple_of(ALIGNED)])
    })
}

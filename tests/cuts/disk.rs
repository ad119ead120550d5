//! A disk in memory, the faults it can have, and a clock that only moves when it is read.

use std::io::IoSlice;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use uext4::clock::Clock;
use uext4::device::Device;
use uext4::error::{Error, IoError, Result};

pub struct Disk {
    bytes: Mutex<Vec<u8>>,
    len: u64,
}

impl Disk {
    pub fn new(bytes: Vec<u8>) -> Arc<Self> {
        let len = bytes.len() as u64;
        Arc::new(Self {
            bytes: Mutex::new(bytes),
            len,
        })
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().expect("the disk").clone()
    }
}

impl Device for Disk {
    fn len(&self) -> u64 {
        self.len
    }
    fn sector_size(&self) -> u32 {
        512
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let from = offset as usize;
        buffer.copy_from_slice(&self.bytes.lock().expect("the disk")[from..from + buffer.len()]);
        Ok(())
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let from = offset as usize;
        self.bytes.lock().expect("the disk")[from..from + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
    fn write_vectored_at(&self, mut offset: u64, slices: &[IoSlice<'_>]) -> Result<()> {
        for slice in slices {
            self.write_at(offset, slice)?;
            offset += slice.len() as u64;
        }
        Ok(())
    }
    fn sync(&self) -> Result<()> {
        Ok(())
    }
    fn discard(&self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }
    fn write_zeroes(&self, offset: u64, length: u64) -> Result<()> {
        self.write_at(offset, &vec![0; length as usize])
    }
}

/// Fails the write or sync of a given number once; works before and after, as a disk may.
pub struct Faulty {
    inner: Arc<dyn Device>,
    fails: u64,
    done: AtomicU64,
}

impl Faulty {
    pub fn new(inner: Arc<dyn Device>, fails: u64) -> Arc<Self> {
        Arc::new(Self {
            inner,
            fails,
            done: AtomicU64::new(0),
        })
    }

    /// Writes and syncs so far.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    fn count(&self, operation: &'static str) -> Result<()> {
        if self.done.fetch_add(1, Ordering::Relaxed) != self.fails {
            return Ok(());
        }
        let source = Arc::new(std::io::Error::from_raw_os_error(libc::EIO));
        Err(Error::Io(IoError {
            operation,
            offset: 0,
            length: 0,
            source,
        }))
    }
}

impl Device for Faulty {
    fn len(&self) -> u64 {
        self.inner.len()
    }
    fn sector_size(&self) -> u32 {
        self.inner.sector_size()
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.inner.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.count("write")?;
        self.inner.write_at(offset, bytes)
    }
    fn write_vectored_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> Result<()> {
        self.count("write")?;
        self.inner.write_vectored_at(offset, slices)
    }
    fn sync(&self) -> Result<()> {
        self.count("sync")?;
        self.inner.sync()
    }
    fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.inner.discard(offset, length)
    }
    fn write_zeroes(&self, offset: u64, length: u64) -> Result<()> {
        self.count("write")?;
        self.inner.write_zeroes(offset, length)
    }
}

/// Milliseconds since some day in 2025; each look takes one.
#[derive(Default)]
pub struct Ticks(AtomicU64);

impl Ticks {
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_millis() as u64, Ordering::Relaxed);
    }
}

impl Clock for Ticks {
    fn wall(&self) -> (i64, u32) {
        let now = self.monotonic();
        (1_750_000_000 + now.as_secs() as i64, now.subsec_nanos())
    }
    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// A seeded generator (splitmix64).
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        (!all.is_empty()).then(|| &all[self.below(all.len() as u64) as usize])
    }
}

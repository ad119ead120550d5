//! A device with faults: delays, errors at a given read, write or sync, silent bit rot, and a write cache that is lost.
//!
//! Source: the design's section on devices.
//! Invariants: operations are counted from 1, each kind by itself, and each fault happens once; with a cache nothing written
//! reaches the device below before the next sync, except what the cache has no room for, and what is kept of a lost cache.

use super::{Device, io_error};
use crate::error::Result;
use crate::sync::{Mutex, Rank};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{self, IoSlice};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// The unit of the write cache, in bytes.
const PAGE: usize = 4096;
/// What a torn page is torn at.
const SECTOR: usize = 512;
/// Pages that the cache holds.
const PAGES_MAX: usize = 64 << 8;

/// Which faults. Numbers count from 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    pub read_delay: Duration,
    /// Only from this read on.
    pub read_delay_from: u64,
    pub write_delay: Duration,
    /// This read fails with EIO.
    pub eio_read: Option<u64>,
    pub eio_write: Option<u64>,
    pub eio_sync: Option<u64>,
    /// This write fails with ENOSPC, as the write to a hole of a sparse image on a full file system does.
    pub enospc_write: Option<u64>,
    /// This read fails with EIO after the first half of its bytes.
    pub short_read: Option<u64>,
    /// Of this write only the first half is done, then EIO.
    pub short_write: Option<u64>,
    /// This read gives one wrong bit and no error.
    pub rot_read: Option<u64>,
    /// The thread that does this read, write or sync panics.
    pub panic_read: Option<u64>,
    pub panic_write: Option<u64>,
    pub panic_sync: Option<u64>,
    /// At this write or sync the power is cut: what was written since the last sync is lost.
    pub drop_cache_at: Option<u64>,
    /// With `drop_cache_at`: some of it is not lost; a seed says what.
    pub keep_some: Option<u64>,
    /// Not the device's: of so many frames and charges the daemon loses one.
    pub leak: Option<u64>,
}

impl Faults {
    /// Adds one fault by its name and value: `read-delay=5ms`, `eio-sync=3`.
    pub fn add(&mut self, word: &str) -> std::result::Result<(), String> {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let number = || {
            let number = u64::from_str(value).ok().filter(|&number| number > 0);
            number.ok_or_else(|| format!("{word}: not a number from 1"))
        };
        match name {
            "read-delay-from" => self.read_delay_from = number()?,
            "read-delay" => self.read_delay = delay(word, value)?,
            "write-delay" => self.write_delay = delay(word, value)?,
            "eio-read" => self.eio_read = Some(number()?),
            "eio-write" => self.eio_write = Some(number()?),
            "eio-sync" => self.eio_sync = Some(number()?),
            "enospc-write" => self.enospc_write = Some(number()?),
            "short-read" => self.short_read = Some(number()?),
            "short-write" => self.short_write = Some(number()?),
            "rot-read" => self.rot_read = Some(number()?),
            "panic-read" => self.panic_read = Some(number()?),
            "panic-write" => self.panic_write = Some(number()?),
            "panic-sync" => self.panic_sync = Some(number()?),
            "drop-cache-at" => self.drop_cache_at = Some(number()?),
            "keep-some" => self.keep_some = Some(number()?),
            "leak" => self.leak = Some(number()?),
            _ => return Err(format!("{word}: not a fault")),
        }
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn delay(word: &str, value: &str) -> std::result::Result<Duration, String> {
    let millis = value.strip_suffix("ms").and_then(|n| u64::from_str(n).ok());
    millis
        .map(Duration::from_millis)
        .ok_or_else(|| format!("{word}: not a number of ms"))
}

pub struct Faulty {
    inner: Arc<dyn Device>,
    faults: Faults,
    reads: AtomicU64,
    writes: AtomicU64,
    syncs: AtomicU64,
    /// Writes and syncs.
    changes: AtomicU64,
    /// What was written since the last sync, by page.
    cache: Mutex<BTreeMap<u64, Vec<u8>>>,
    ended: AtomicBool,
    /// What the cut of the power does to the rest of the world.
    end: Box<dyn Fn() + Send + Sync>,
}

impl Faulty {
    pub fn new(
        inner: Arc<dyn Device>,
        faults: Faults,
        end: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self {
            inner,
            faults,
            reads: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            cache: Mutex::new(Rank::Leaf, BTreeMap::new()),
            ended: AtomicBool::new(false),
            end: Box::new(end),
        }
    }

    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    pub fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// Whether the power was cut.
    pub fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    fn caches(&self) -> bool {
        self.faults.drop_cache_at.is_some()
    }

    fn check_power(&self, operation: &'static str, offset: u64, length: u64) -> Result<()> {
        if self.ended() {
            return Err(failure(operation, offset, length, libc::EIO));
        }
        Ok(())
    }

    /// Counts a write or sync; cuts the power at the chosen one. Called with the cache locked.
    fn count_change(&self, cache: &mut BTreeMap<u64, Vec<u8>>) -> Result<()> {
        let number = self.changes.fetch_add(1, Ordering::Relaxed) + 1;
        if self.faults.drop_cache_at != Some(number) {
            return Ok(());
        }
        let lost = std::mem::take(cache);
        if let Some(seed) = self.faults.keep_some {
            self.keep_some(lost, seed);
        }
        self.ended.store(true, Ordering::Release);
        (self.end)();
        Err(failure("write", 0, 0, libc::EIO))
    }

    /// Any pages of a lost cache, a few of them torn (the superblock's never).
    fn keep_some(&self, lost: BTreeMap<u64, Vec<u8>>, seed: u64) {
        let mut state = seed;
        for (page, bytes) in lost {
            let roll = mix(&mut state);
            let kept = match roll % 8 {
                0..4 => continue,
                4 if page > 0 => (roll >> 8) as usize % (PAGE / SECTOR) * SECTOR,
                _ => bytes.len(),
            };
            let kept = &bytes[..kept.min(bytes.len())];
            // The power goes: nobody is left to hear of an error.
            let _ = self.inner.write_at(page * PAGE as u64, kept);
        }
    }

    fn write_cached(&self, offset: u64, slices: &[IoSlice<'_>]) -> Result<()> {
        let length = slices.iter().map(|s| s.len() as u64).sum();
        let mut cache = self.cache.lock();
        self.check_power("write", offset, length)?;
        self.count_change(&mut cache)?;
        let mut at = offset;
        for slice in slices {
            self.put(&mut cache, at, slice)?;
            at += slice.len() as u64;
        }
        if cache.len() > PAGES_MAX {
            self.write_out(&mut cache)?;
        }
        Ok(())
    }

    fn put(&self, cache: &mut BTreeMap<u64, Vec<u8>>, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        let mut at = offset;
        while !rest.is_empty() {
            let (page, from) = (at / PAGE as u64, (at % PAGE as u64) as usize);
            let count = rest.len().min(PAGE - from);
            let (now, later) = rest.split_at(count);
            if let Entry::Vacant(vacant) = cache.entry(page) {
                let start = page * PAGE as u64;
                let length = (PAGE as u64).min(self.inner.len().saturating_sub(start)) as usize;
                let mut whole = vec![0; length];
                if from > 0 || count < length {
                    self.inner.read_at(start, &mut whole)?;
                }
                vacant.insert(whole);
            }
            let target = cache
                .get_mut(&page)
                .and_then(|whole| whole.get_mut(from..from + count));
            let Some(target) = target else {
                return Err(failure("write", at, count as u64, libc::EINVAL));
            };
            target.copy_from_slice(now);
            at += count as u64;
            rest = later;
        }
        Ok(())
    }

    /// Everything in the cache goes down; no sync.
    fn write_out(&self, cache: &mut BTreeMap<u64, Vec<u8>>) -> Result<()> {
        let pages: Vec<(u64, Vec<u8>)> = std::mem::take(cache).into_iter().collect();
        for run in pages.chunk_by(|a, b| a.0 + 1 == b.0) {
            for piece in run.chunks(256) {
                let slices: Vec<IoSlice<'_>> =
                    piece.iter().map(|(_, bytes)| IoSlice::new(bytes)).collect();
                self.inner
                    .write_vectored_at(piece[0].0 * PAGE as u64, &slices)?;
            }
        }
        Ok(())
    }

    /// Fails the write that is to fail; `slices` as far as they are to be done before.
    fn fail_write(&self, offset: u64, slices: &[IoSlice<'_>]) -> Result<()> {
        std::thread::sleep(self.faults.write_delay);
        let number = self.writes.fetch_add(1, Ordering::Relaxed) + 1;
        let length: u64 = slices.iter().map(|s| s.len() as u64).sum();
        panic_at(self.faults.panic_write, number, "write");
        if self.faults.eio_write == Some(number) {
            return Err(failure("write", offset, length, libc::EIO));
        }
        if self.faults.enospc_write == Some(number) {
            return Err(failure("write", offset, length, libc::ENOSPC));
        }
        if self.faults.short_write == Some(number) {
            let all: Vec<u8> = slices.iter().flat_map(|s| s.iter().copied()).collect();
            let half = all.len() / 2 / SECTOR * SECTOR;
            self.inner.write_at(offset, &all[..half])?;
            return Err(failure("write", offset, length, libc::EIO));
        }
        Ok(())
    }
}

/// A mistake of the program, as it would be in the middle of its work.
fn panic_at(chosen: Option<u64>, number: u64, operation: &str) {
    assert_ne!(
        chosen,
        Some(number),
        "simulated: a panic at {operation} {number}"
    );
}

fn failure(operation: &'static str, offset: u64, length: u64, errno: i32) -> crate::error::Error {
    io_error(
        operation,
        offset,
        length,
        io::Error::from_raw_os_error(errno),
    )
}

/// The next number of a seeded sequence (splitmix64).
fn mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Device for Faulty {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn sector_size(&self) -> u32 {
        self.inner.sector_size()
    }

    fn read_only(&self) -> bool {
        self.inner.read_only()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let number = self.reads.fetch_add(1, Ordering::Relaxed) + 1;
        if number >= self.faults.read_delay_from {
            std::thread::sleep(self.faults.read_delay);
        }
        let length = buffer.len() as u64;
        self.check_power("read", offset, length)?;
        panic_at(self.faults.panic_read, number, "read");
        if self.faults.eio_read == Some(number) {
            return Err(failure("read", offset, length, libc::EIO));
        }
        if self.faults.short_read == Some(number) {
            let half = buffer.len() / 2;
            self.inner.read_at(offset, &mut buffer[..half])?;
            return Err(failure("read", offset, length, libc::EIO));
        }
        if self.caches() {
            let cache = self.cache.lock();
            self.inner.read_at(offset, buffer)?;
            let pages = offset / PAGE as u64..(offset + length).div_ceil(PAGE as u64);
            for (page, bytes) in cache.range(pages) {
                let start = page * PAGE as u64;
                let from = start.max(offset);
                let to = (start + bytes.len() as u64).min(offset + length);
                buffer[(from - offset) as usize..(to - offset) as usize]
                    .copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
            }
        } else {
            self.inner.read_at(offset, buffer)?;
        }
        if self.faults.rot_read == Some(number) && !buffer.is_empty() {
            let at = (mix(&mut (offset ^ number)) % length) as usize;
            buffer[at] ^= 0x10;
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.write_vectored_at(offset, &[IoSlice::new(bytes)])
    }

    fn write_vectored_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> Result<()> {
        self.fail_write(offset, slices)?;
        if self.caches() {
            self.write_cached(offset, slices)
        } else {
            self.inner.write_vectored_at(offset, slices)
        }
    }

    fn sync(&self) -> Result<()> {
        let number = self.syncs.fetch_add(1, Ordering::Relaxed) + 1;
        panic_at(self.faults.panic_sync, number, "sync");
        if self.faults.eio_sync == Some(number) {
            return Err(failure("sync", 0, self.len(), libc::EIO));
        }
        if self.caches() {
            let mut cache = self.cache.lock();
            self.check_power("sync", 0, self.len())?;
            self.count_change(&mut cache)?;
            self.write_out(&mut cache)?;
        }
        self.inner.sync()
    }

    fn discard(&self, offset: u64, length: u64) -> Result<()> {
        // With a cache: allowed to do nothing, and that keeps the order of writes.
        if self.caches() {
            return Ok(());
        }
        self.inner.discard(offset, length)
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> Result<()> {
        const PIECE: u64 = 1 << 20;
        let zeroes = vec![0; length.min(PIECE) as usize];
        let mut at = 0;
        while at < length {
            let piece = &zeroes[..(length - at).min(PIECE) as usize];
            self.write_at(offset + at, piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::file::{Access, FileDevice};
    use crate::error::Error;
    use std::path::Path;

    fn faulty(path: &Path, words: &[&str]) -> Faulty {
        let mut faults = Faults::default();
        for word in words {
            faults.add(word).unwrap();
        }
        let device = FileDevice::open(path, &Access::default()).unwrap();
        Faulty::new(Arc::new(device), faults, || {})
    }

    fn file() -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 << 10).unwrap();
        file
    }

    fn code(result: Result<()>) -> i32 {
        match result {
            Err(Error::Io(error)) => error.source.raw_os_error().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn faults_come_once_at_their_number() {
        let file = file();
        let words = ["eio-write=2", "eio-sync=1", "eio-read=2", "enospc-write=3"];
        let device = faulty(file.path(), &words);
        device.write_at(0, &[1; 512]).unwrap();
        assert_eq!(code(device.write_at(0, &[2; 512])), libc::EIO);
        assert_eq!(code(device.write_at(0, &[2; 512])), libc::ENOSPC);
        assert_eq!(code(device.sync()), libc::EIO);
        device.sync().unwrap();
        let mut bytes = [0; 512];
        device.read_at(0, &mut bytes).unwrap();
        assert_eq!(bytes, [1; 512]);
        assert_eq!(code(device.read_at(0, &mut bytes)), libc::EIO);
        device.read_at(0, &mut bytes).unwrap();
        assert_eq!((device.reads(), device.writes(), device.syncs()), (3, 3, 2));
    }

    #[test]
    fn half_of_a_short_write_is_done_and_rot_changes_one_bit() {
        let file = file();
        let device = faulty(file.path(), &["short-write=1", "rot-read=2"]);
        assert_eq!(code(device.write_at(4096, &[7; 4096])), libc::EIO);
        let mut bytes = [0; 4096];
        device.read_at(4096, &mut bytes).unwrap();
        assert!(bytes[..2048] == [7; 2048] && bytes[2048..] == [0; 2048]);
        let mut rotten = bytes;
        device.read_at(4096, &mut rotten).unwrap();
        let differing = bytes.iter().zip(&rotten).filter(|(a, b)| a != b).count();
        assert_eq!(differing, 1);
    }

    #[test]
    fn a_dropped_cache_loses_what_was_not_synced_and_nothing_else() {
        let file = file();
        let device = faulty(file.path(), &["drop-cache-at=5"]);
        device.write_at(4096, &[1; 4096]).unwrap();
        device.sync().unwrap();
        device.write_at(4608, &[2; 512]).unwrap();
        device.write_zeroes(8192, 512).unwrap();
        let mut bytes = [0; 8192];
        device.read_at(4096, &mut bytes).unwrap();
        assert_eq!((bytes[511], bytes[512], bytes[1024]), (1, 2, 1));
        assert_eq!(code(device.sync()), libc::EIO);
        assert!(device.ended());
        assert_eq!(code(device.write_at(0, &[3; 512])), libc::EIO);
        drop(device);
        let image = std::fs::read(file.path()).unwrap();
        assert!(image[4096..8192].iter().all(|&byte| byte == 1));
        assert!(image[8192..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn what_is_kept_of_a_lost_cache_is_some_of_its_pages() {
        let file = file();
        let device = faulty(file.path(), &["drop-cache-at=17", "keep-some=3"]);
        for page in 0..16 {
            device.write_at(page * 4096, &[9; 4096]).unwrap();
        }
        device.sync().unwrap_err();
        drop(device);
        let image = std::fs::read(file.path()).unwrap();
        let kept = image.iter().filter(|&&byte| byte == 9).count();
        assert!((1..image.len()).contains(&kept), "{kept}");
    }

    #[test]
    #[should_panic(expected = "a panic at sync 2")]
    fn a_thread_panics_where_it_should() {
        let file = file();
        let device = faulty(file.path(), &["panic-sync=2", "panic-write=9"]);
        device.write_at(0, &[1; 512]).unwrap();
        device.sync().unwrap();
        let _ = device.sync();
    }

    #[test]
    fn unknown_faults_are_refused() {
        let mut faults = Faults::default();
        for bad in ["eio-read", "eio-read=0", "read-delay=5", "smoke=1"] {
            assert!(faults.add(bad).is_err(), "{bad}");
        }
        faults.add("read-delay=5ms").unwrap();
        assert_eq!(faults.read_delay, Duration::from_millis(5));
    }
}

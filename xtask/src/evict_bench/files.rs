//! (a) 100 000 files of 1 to 64 KiB are created in 1000 directories, (b) walked and looked at, (e) deleted.

use super::content::{self, mix};
use super::meter::Meter;
use super::mounted::Mounted;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

const DIRECTORIES: usize = 1000;
const EACH: usize = 100;
const THREADS: usize = 4;

/// One of the three, measured.
pub struct Measured {
    pub meter: Meter,
    /// Files created, found or deleted.
    pub files: u64,
    pub seconds: f64,
    pub stuck: bool,
    pub before: serde_json::Value,
    pub after: serde_json::Value,
}

type Work = fn(&Path, usize, &AtomicU64, &mut Meter) -> u64;

/// (a), and everything that was written is on the device at its end.
pub fn create(mounted: &Mounted) -> Result<Measured, String> {
    measure(mounted, create_directory, true)
}

/// (b): nothing is in the kernel's caches, so that it asks.
pub fn walk(mounted: &Mounted) -> Result<Measured, String> {
    crate::bench::sides::drop_caches()?;
    measure(mounted, walk_directory, false)
}

/// (e).
pub fn delete(mounted: &Mounted) -> Result<Measured, String> {
    measure(mounted, delete_directory, true)
}

fn measure(mounted: &Mounted, work: Work, sync: bool) -> Result<Measured, String> {
    let (progress, busy) = (AtomicU64::new(0), AtomicBool::new(true));
    let before = mounted.stats()?;
    let begun = Instant::now();
    let (mut meter, mut files) = (Meter::default(), 0);
    let panicked = |_| "a thread of the load panicked".to_owned();
    let part = |first: usize| {
        let (mut meter, mut files) = (Meter::default(), 0);
        for number in (first..DIRECTORIES).step_by(THREADS) {
            files += work(&mounted.dir, number, &progress, &mut meter);
        }
        (meter, files)
    };
    let stuck = std::thread::scope(|scope| {
        let watchdog = scope.spawn(|| mounted.watch(&progress, &busy));
        let part = &part;
        let parts: Vec<_> = (0..THREADS)
            .map(|first| scope.spawn(move || part(first)))
            .collect();
        for part in parts {
            let (its, count) = part.join().map_err(panicked)?;
            meter.add(its);
            files += count;
        }
        busy.store(false, Ordering::Relaxed);
        watchdog.join().map_err(panicked)
    })?;
    if sync {
        mounted.sync()?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let after = mounted.stats()?;
    Ok(Measured {
        meter,
        files,
        seconds,
        stuck,
        before,
        after,
    })
}

fn directory(root: &Path, number: usize) -> PathBuf {
    root.join(format!("d{number:03}"))
}

fn length(number: u64) -> u64 {
    let mut seed = number;
    1024 + mix(&mut seed) % (63 << 10)
}

fn create_directory(root: &Path, number: usize, progress: &AtomicU64, meter: &mut Meter) -> u64 {
    let dir = directory(root, number);
    let mut bytes = vec![0; 64 << 10];
    let mut files = 0;
    meter.request(progress, "mkdir", || std::fs::create_dir(&dir));
    for index in 0..EACH {
        let (path, file) = (
            dir.join(format!("f{index:02}")),
            (number * EACH + index) as u64,
        );
        let count = length(file) as usize;
        content::write(&mut bytes[..count], file, 0, 0);
        let create = || OpenOptions::new().create_new(true).write(true).open(&path);
        let Some(open) = meter.request(progress, "create", create) else {
            continue;
        };
        let wrote = meter.request(progress, "write", || open.write_all_at(&bytes[..count], 0));
        drop(open);
        files += u64::from(wrote.is_some());
        meter.bytes += count as u64;
    }
    files
}

fn walk_directory(root: &Path, number: usize, progress: &AtomicU64, meter: &mut Meter) -> u64 {
    let dir = directory(root, number);
    let list = || std::fs::read_dir(&dir)?.collect::<std::io::Result<Vec<_>>>();
    let entries = meter.request(progress, "readdir", list).unwrap_or_default();
    let mut files = 0;
    for entry in entries {
        let found = meter.request(progress, "stat", || entry.metadata());
        files += u64::from(found.is_some());
    }
    files
}

fn delete_directory(root: &Path, number: usize, progress: &AtomicU64, meter: &mut Meter) -> u64 {
    let dir = directory(root, number);
    let mut files = 0;
    for index in 0..EACH {
        let path = dir.join(format!("f{index:02}"));
        let gone = meter.request(progress, "unlink", || std::fs::remove_file(&path));
        files += u64::from(gone.is_some());
    }
    meter.request(progress, "rmdir", || std::fs::remove_dir(&dir));
    files
}

/// Every file holds what was written; returns the bytes that were compared.
pub fn verify(root: &Path) -> Result<u64, String> {
    let mut compared = 0;
    for number in 0..DIRECTORIES {
        for index in 0..EACH {
            let file = (number * EACH + index) as u64;
            let path = directory(root, number).join(format!("f{index:02}"));
            content::check(&path, file, 0, length(file))?;
            compared += length(file);
        }
    }
    Ok(compared)
}

/// Nothing is left but what mke2fs made.
pub fn verify_empty(root: &Path) -> Result<(), String> {
    let left: Vec<_> = std::fs::read_dir(root)
        .map_err(|e| e.to_string())?
        .filter_map(Result::ok)
        .map(|entry| entry.file_name())
        .filter(|name| name != "lost+found")
        .collect();
    if left.is_empty() {
        Ok(())
    } else {
        Err(format!("not deleted: {left:?}"))
    }
}

/// One that holds all of it, its blocks already on the disk below so that no run pays for that.
pub fn make_image(path: &Path) -> Result<(), String> {
    const BYTES: u64 = 5 << 30;
    let fail = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    if !path.exists() {
        let file = File::create(path).map_err(|e| fail(&e))?;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, BYTES)
            .map_err(|e| fail(&e))?;
    }
    let options = "-q -F -t ext4 -m 0 -J size=64 -N 131072 -E nodiscard,lazy_itable_init=1";
    let name = path.to_string_lossy();
    let mut words: Vec<&str> = options.split(' ').collect();
    words.push(&name);
    crate::bench::sides::output("mke2fs", &words).map(drop)
}

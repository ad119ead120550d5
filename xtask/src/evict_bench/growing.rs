//! (c) and (d): files that stay open grow in turns, by appends that leave a rest of every preallocation, while others look at
//! inodes that nobody has in memory.

use super::content::{self, BLOCK, mix};
use super::image::{GROWING, Shape, cold_file, directory, growing_file};
use super::meter::Meter;
use super::mounted::Mounted;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const WRITERS: usize = 8;
const READERS: usize = 2;
/// A file that would become larger begins a new life: all together they are half of the free space.
const LARGEST: u64 = 640 << 10;
/// Bytes of an append, about.
const AVERAGE: u64 = 300 << 10;
/// The file whose blocks are overwritten all the time: a request that needs nothing of the device.
const PROBE: &str = "probe";
const PROBE_BLOCKS: u64 = 16;
const PROBE_PAUSE: Duration = Duration::from_millis(5);

/// What one file should hold.
pub struct Growing {
    number: u64,
    path: PathBuf,
    file: Option<File>,
    life: u64,
    length: u64,
    /// A write to it failed: nobody knows how far it came.
    unsure: bool,
}

pub struct Measured {
    pub appends: Meter,
    pub looks: Meter,
    pub probes: Meter,
    pub seconds: f64,
    /// No request was served for too long.
    pub stuck: bool,
    pub files: Vec<Growing>,
    pub before: serde_json::Value,
    pub after: serde_json::Value,
}

/// What the threads share.
struct Shared<'a> {
    root: &'a Path,
    shape: Shape,
    /// Appended so far.
    bytes: AtomicU64,
    progress: AtomicU64,
    busy: AtomicBool,
    stop: AtomicBool,
}

impl Shared<'_> {
    fn goes_on(&self, since: Instant, time: Duration) -> bool {
        let files = (self.shape.directories() * GROWING) as u64;
        let enough = self.bytes.load(Ordering::Relaxed) >= 2 * files * AVERAGE;
        let limit = if enough { time } else { 4 * time };
        since.elapsed() < limit && self.busy.load(Ordering::Relaxed)
    }
}

/// Runs the workload for `time`, not counting how long it takes to open the files; on a busy machine up to four times as
/// long, until every file has grown twice: before that nothing that has blocks set aside need be evicted.
pub fn run(mounted: &Mounted, shape: Shape, time: Duration) -> Result<Measured, String> {
    let shared = Shared {
        root: &mounted.dir,
        shape,
        bytes: AtomicU64::new(0),
        progress: AtomicU64::new(0),
        busy: AtomicBool::new(true),
        stop: AtomicBool::new(false),
    };
    std::thread::scope(|scope| {
        let watchdog = scope.spawn(|| mounted.watch(&shared.progress, &shared.busy));
        let measured = measure(mounted, &shared, time);
        shared.busy.store(false, Ordering::Relaxed);
        let stuck = watchdog.join().map_err(|_| "the watchdog panicked")?;
        measured.map(|measured| Measured { stuck, ..measured })
    })
}

fn measure(mounted: &Mounted, shared: &Shared<'_>, time: Duration) -> Result<Measured, String> {
    let mut files = open_all(shared)?;
    let probe = make_probe(shared.root)?;
    let before = mounted.stats()?;
    let begun = Instant::now();
    let (mut appends, mut looks) = (Meter::default(), Meter::default());
    let mut probes = Meter::default();
    let panicked = |_| "a thread of the load panicked".to_owned();
    std::thread::scope(|scope| {
        let writers: Vec<_> = files
            .chunks_mut(files_each(shared.shape))
            .map(|mine| scope.spawn(|| append_in_turns(shared, mine)))
            .collect();
        let readers: Vec<_> = (0..READERS)
            .map(|first| scope.spawn(move || look(shared, first)))
            .collect();
        let prober = scope.spawn(|| overwrite(shared, &probe));
        while shared.goes_on(begun, time) {
            std::thread::sleep(Duration::from_millis(10));
        }
        shared.stop.store(true, Ordering::Relaxed);
        for writer in writers {
            appends.add(writer.join().map_err(panicked)?);
        }
        for reader in readers {
            looks.add(reader.join().map_err(panicked)?);
        }
        probes.add(prober.join().map_err(panicked)?);
        Ok::<_, String>(())
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    let after = mounted.stats()?;
    for growing in &mut files {
        growing.file = None;
    }
    Ok(Measured {
        appends,
        looks,
        probes,
        seconds,
        stuck: false,
        files,
        before,
        after,
    })
}

fn files_each(shape: Shape) -> usize {
    (shape.directories() * GROWING).div_ceil(WRITERS)
}

fn open_all(shared: &Shared<'_>) -> Result<Vec<Growing>, String> {
    let numbers: Vec<usize> = (0..shared.shape.directories() * GROWING).collect();
    let open = |&number: &usize| -> std::io::Result<Growing> {
        let dir = shared.root.join(directory(number / GROWING));
        let path = dir.join(growing_file(number % GROWING));
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        shared.progress.fetch_add(1, Ordering::Relaxed);
        let (number, file) = (number as u64, Some(file));
        Ok(Growing {
            number,
            path,
            file,
            life: 0,
            length: 0,
            unsure: false,
        })
    };
    std::thread::scope(|scope| {
        let parts: Vec<_> = numbers
            .chunks(files_each(shared.shape))
            .map(|part| scope.spawn(move || part.iter().map(open).collect::<Result<Vec<_>, _>>()))
            .collect();
        let mut files = Vec::new();
        for part in parts {
            let opened = part.join().map_err(|_| "a thread panicked".to_owned())?;
            files.extend(opened.map_err(|e| format!("opening the files: {e}"))?);
        }
        Ok(files)
    })
}

fn append_in_turns(shared: &Shared<'_>, mine: &mut [Growing]) -> Meter {
    let mut meter = Meter::default();
    let mut seed = mine.first().map_or(0, |growing| growing.number);
    let mut bytes = vec![0; 512 << 10];
    loop {
        for growing in &mut *mine {
            if shared.stop.load(Ordering::Relaxed) {
                return meter;
            }
            append(shared, growing, &mut meter, &mut bytes, &mut seed);
        }
    }
}

/// 100 to 500 KiB; the file's size is then an odd number of blocks, which no preallocation is made for.
fn append(
    shared: &Shared<'_>,
    growing: &mut Growing,
    meter: &mut Meter,
    bytes: &mut [u8],
    seed: &mut u64,
) {
    let Some(file) = growing.file.as_ref().filter(|_| !growing.unsure) else {
        return;
    };
    let mut blocks = 25 + mix(seed) % 100;
    let old = growing.length / BLOCK as u64;
    blocks += u64::from((old + blocks).is_multiple_of(2));
    let count = blocks as usize * BLOCK;
    if growing.length + count as u64 > LARGEST {
        let emptied = meter.request(&shared.progress, "truncate", || file.set_len(0));
        growing.unsure = emptied.is_none();
        (growing.life, growing.length) = (growing.life + 1, 0);
        return;
    }
    content::write(&mut bytes[..count], growing.number, growing.life, old);
    let at = growing.length;
    let wrote = meter.request(&shared.progress, "append", || {
        file.write_all_at(&bytes[..count], at)
    });
    growing.unsure = wrote.is_none();
    growing.length += count as u64;
    meter.bytes += count as u64;
    shared.bytes.fetch_add(count as u64, Ordering::Relaxed);
}

/// Cold inodes, in an order that is nobody's.
fn look(shared: &Shared<'_>, first: usize) -> Meter {
    let mut meter = Meter::default();
    let all = shared.shape.directories() * shared.shape.cold();
    for step in (first..all).step_by(READERS) {
        if shared.stop.load(Ordering::Relaxed) {
            break;
        }
        let index = step * 611_953 % all;
        let name = directory(index / shared.shape.cold());
        let path = shared
            .root
            .join(name)
            .join(cold_file(index % shared.shape.cold()));
        meter.request(&shared.progress, "stat", || path.metadata());
    }
    meter
}

fn make_probe(root: &Path) -> Result<File, String> {
    let path = root.join(PROBE);
    let made = || -> std::io::Result<File> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .open(&path)?;
        file.write_all_at(&vec![0; PROBE_BLOCKS as usize * BLOCK], 0)?;
        file.sync_all()?;
        Ok(file)
    };
    made().map_err(|e| format!("{}: {e}", path.display()))
}

fn overwrite(shared: &Shared<'_>, probe: &File) -> Meter {
    let mut meter = Meter::default();
    let bytes = [7; BLOCK];
    let mut block = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        block = (block + 1) % PROBE_BLOCKS;
        let at = block * BLOCK as u64;
        meter.request(&shared.progress, "overwrite", || {
            probe.write_all_at(&bytes, at)
        });
        std::thread::sleep(PROBE_PAUSE);
    }
    meter
}

/// Every file that grew holds what was written; returns the bytes that were compared.
pub fn verify(root: &Path, mounted_on: &Path, files: &[Growing]) -> Result<u64, String> {
    let mut compared = 0;
    for growing in files.iter().filter(|growing| !growing.unsure) {
        let name = growing
            .path
            .strip_prefix(mounted_on)
            .unwrap_or(&growing.path);
        content::check(
            &root.join(name),
            growing.number,
            growing.life,
            growing.length,
        )?;
        compared += growing.length;
    }
    Ok(compared)
}

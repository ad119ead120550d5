//! The loops that are timed: each works on a directory of any side, or on the raw file, and says how fast it was.

use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const KIB4: usize = 4096;
const MIB: usize = 1 << 20;

type Outcome<T = f64> = Result<T, String>;

fn said(path: &Path) -> impl Fn(std::io::Error) -> String + '_ {
    move |error| format!("{}: {error}", path.display())
}

/// Bytes at an address that O_DIRECT takes.
struct Aligned(Vec<u8>, usize);

impl Aligned {
    fn new(length: usize) -> Self {
        let bytes = vec![0xa5; length + KIB4];
        let skip = bytes.as_ptr().align_offset(KIB4);
        Self(bytes, skip)
    }

    fn bytes(&mut self) -> &mut [u8] {
        let length = self.0.len() - KIB4;
        &mut self.0[self.1..self.1 + length]
    }
}

fn direct(path: &Path) -> Outcome<File> {
    let flags = i32::try_from(OFlags::DIRECT.bits()).unwrap_or_default();
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(flags);
    options.open(path).map_err(said(path))
}

fn per_second(count: u64, begun: Instant) -> f64 {
    count as f64 / begun.elapsed().as_secs_f64()
}

/// MiB/s of writing a new file, its fsync included.
pub fn write_new(path: &Path, mebibytes: u64) -> Outcome {
    let mut file = File::create(path).map_err(said(path))?;
    let mut chunk = Aligned::new(MIB);
    let begun = Instant::now();
    for number in 0..mebibytes {
        chunk.bytes()[..8].copy_from_slice(&number.to_le_bytes());
        file.write_all(chunk.bytes()).map_err(said(path))?;
    }
    file.sync_all().map_err(said(path))?;
    Ok(per_second(mebibytes, begun))
}

/// MiB/s of writing over a file past the page cache.
pub fn write_raw(path: &Path, mebibytes: u64) -> Outcome {
    let file = direct(path)?;
    let mut chunk = Aligned::new(MIB);
    let begun = Instant::now();
    for number in 0..mebibytes {
        let at = number * MIB as u64;
        file.write_all_at(chunk.bytes(), at).map_err(said(path))?;
    }
    file.sync_all().map_err(said(path))?;
    Ok(per_second(mebibytes, begun))
}

/// MiB/s of reading a file from beginning to end.
pub fn read_whole(path: &Path, mebibytes: u64, raw: bool) -> Outcome {
    let mut file = if raw {
        direct(path)?
    } else {
        File::open(path).map_err(said(path))?
    };
    let mut chunk = Aligned::new(MIB);
    let begun = Instant::now();
    for _ in 0..mebibytes {
        file.read_exact(chunk.bytes()).map_err(said(path))?;
    }
    Ok(per_second(mebibytes, begun))
}

/// Buffered writes of 4 KiB a second to random places of a file, its fsync at the end included.
pub fn write_random(path: &Path, mebibytes: u64) -> Outcome {
    let file = OpenOptions::new()
        .write(true)
        .open(path)
        .map_err(said(path))?;
    let blocks = mebibytes * 256;
    let bytes = [0x5a; KIB4];
    let (mut state, begun) = (1u64, Instant::now());
    for _ in 0..blocks {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let at = (state >> 33) % blocks * KIB4 as u64;
        file.write_all_at(&bytes, at).map_err(said(path))?;
    }
    file.sync_all().map_err(said(path))?;
    Ok(per_second(blocks, begun))
}

/// Transfers a second, by fio.
pub struct Fio {
    /// `randread` or `randwrite`.
    pub kind: &'static str,
    pub depth: u32,
    pub mebibytes: u64,
    pub time: Duration,
    /// An fsync at the end.
    pub sync: bool,
}

impl Fio {
    pub fn run(&self, path: &Path) -> Outcome {
        let reads = self.kind == "randread";
        let arguments = [
            "--name=bench".to_owned(),
            format!("--filename={}", path.display()),
            format!("--rw={}", self.kind),
            "--bs=4k".to_owned(),
            "--direct=1".to_owned(),
            format!(
                "--ioengine={}",
                if self.depth > 1 { "io_uring" } else { "psync" }
            ),
            format!("--iodepth={}", self.depth),
            format!("--size={}M", self.mebibytes),
            format!("--runtime={}ms", self.time.as_millis()),
            "--time_based".to_owned(),
            "--randrepeat=1".to_owned(),
            "--allow_file_create=0".to_owned(),
            format!("--end_fsync={}", u8::from(self.sync)),
            "--output-format=json".to_owned(),
        ];
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let text = super::sides::output("fio", &arguments)?;
        let begin = text.find('{').ok_or("fio printed no JSON")?;
        let report: serde_json::Value =
            serde_json::from_str(&text[begin..]).map_err(|e| format!("fio: {e}"))?;
        let part = if reads { "read" } else { "write" };
        report["jobs"][0][part]["iops"]
            .as_f64()
            .filter(|&iops| iops > 0.0)
            .ok_or_else(|| "fio reports no transfers".to_owned())
    }
}

/// Appends of 4 KiB, each with an fsync, a second; `jobs` files in `dir`, a thread each.
pub fn append(dir: &Path, jobs: usize, time: Duration) -> Outcome {
    beside(jobs, |job| {
        let path = dir.join(format!("append-{job}"));
        let mut file = File::create(&path).map_err(said(&path))?;
        let bytes = [0x5a; KIB4];
        let (mut count, begun) = (0, Instant::now());
        while begun.elapsed() < time {
            file.write_all(&bytes).map_err(said(&path))?;
            file.sync_all().map_err(said(&path))?;
            count += 1;
        }
        let rate = per_second(count, begun);
        std::fs::remove_file(&path).map_err(said(&path))?;
        Ok(rate)
    })
}

/// What an append with fsync costs at least: a write and a sync, twice.
pub fn append_raw(path: &Path, jobs: usize, time: Duration) -> Outcome {
    beside(jobs, |job| {
        let file = direct(path)?;
        let mut bytes = Aligned::new(KIB4);
        let (mut count, begun) = (0, Instant::now());
        while begun.elapsed() < time {
            for half in 0..2 {
                // Eight mebibytes a job: the two halves of them in turn.
                let at = (job as u64 * 2 + half) * (4 * MIB) as u64 + count % 1024 * KIB4 as u64;
                file.write_all_at(bytes.bytes(), at).map_err(said(path))?;
                file.sync_data().map_err(said(path))?;
            }
            count += 1;
        }
        Ok(per_second(count, begun))
    })
}

/// The sum over threads.
fn beside(jobs: usize, work: impl Fn(usize) -> Outcome + Sync) -> Outcome {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs)
            .map(|job| {
                let work = &work;
                scope.spawn(move || work(job))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| "a job panicked".to_owned())?)
            .sum()
    })
}

fn name(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("file-{number:06}"))
}

pub fn create(dir: &Path, count: usize) -> Outcome {
    std::fs::create_dir(dir).map_err(said(dir))?;
    let begun = Instant::now();
    for number in 0..count {
        let path = name(dir, number);
        File::create_new(&path).map_err(said(&path))?;
    }
    Ok(per_second(count as u64, begun))
}

pub fn stat(dir: &Path, count: usize) -> Outcome {
    let begun = Instant::now();
    for number in 0..count {
        let path = name(dir, number);
        path.symlink_metadata().map_err(said(&path))?;
    }
    Ok(per_second(count as u64, begun))
}

pub fn delete(dir: &Path, count: usize) -> Outcome {
    let begun = Instant::now();
    for number in 0..count {
        let path = name(dir, number);
        std::fs::remove_file(&path).map_err(said(&path))?;
    }
    let rate = per_second(count as u64, begun);
    std::fs::remove_dir(dir).map_err(said(dir))?;
    Ok(rate)
}

/// Seconds that a program takes; what it prints goes through a pipe and is counted.
pub fn seconds(program: &str, arguments: &[&str]) -> Outcome {
    let begun = Instant::now();
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("{program}: {e}"))?;
    let mut chunk = vec![0; 1 << 16];
    if let Some(mut printed) = child.stdout.take() {
        while printed.read(&mut chunk).map_err(|e| e.to_string())? > 0 {}
    }
    let status = child.wait().map_err(|e| e.to_string())?;
    if !status.success() {
        return Err(format!("{program} {}: {status}", arguments.join(" ")));
    }
    Ok(begun.elapsed().as_secs_f64())
}

/// Writes `files` files of about `average` bytes in directories of twelve, and packs them.
pub fn make_tarball(scratch: &Path, files: usize, average: usize) -> Outcome<PathBuf> {
    let tree = scratch.join("tree");
    let mut state = 7u64;
    for number in 0..files {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let dir = tree.join(format!("d{}/e{}", number / 144, number / 12 % 12));
        std::fs::create_dir_all(&dir).map_err(said(&dir))?;
        // Mostly small ones, a few large ones, as in a source tree.
        let size = match (state >> 40) % 16 {
            0 => average * 8,
            1..=5 => average,
            _ => average / 6,
        };
        let path = dir.join(format!("f{number}"));
        let bytes: Vec<u8> = (0..size).map(|at| (at as u64 ^ state) as u8).collect();
        std::fs::write(&path, bytes).map_err(said(&path))?;
    }
    let tarball = scratch.join("tree.tar");
    let (from, to) = (scratch.to_string_lossy(), tarball.to_string_lossy());
    super::sides::output("tar", &["-C", &from, "-cf", &to, "tree"])?;
    std::fs::remove_dir_all(&tree).map_err(said(&tree))?;
    Ok(tarball)
}

/// Eight files grow by 4 KiB in turn, each synced once a mebibyte.
pub fn interleave(dir: &Path, mebibytes: usize) -> Outcome<()> {
    let mut files = Vec::new();
    for number in 0..8 {
        let path = dir.join(format!("interleave-{number}"));
        files.push(File::create(&path).map_err(said(&path))?);
    }
    let bytes = [0x5a; KIB4];
    for block in 0..mebibytes * 256 {
        for file in &mut files {
            file.write_all(&bytes).map_err(said(dir))?;
            if block % 256 == 255 {
                file.sync_data().map_err(said(dir))?;
            }
        }
    }
    Ok(())
}

/// Extents a file, as debugfs counts them.
pub fn extents(image: &Path) -> Outcome {
    let mut total = 0;
    for number in 0..8 {
        let request = format!("dump_extents -l /bench/interleave-{number}");
        let text = super::sides::output("debugfs", &["-R", &request, &image.to_string_lossy()])?;
        // A heading, then a line an extent.
        let lines = text.lines().filter(|line| line.contains('/')).count();
        if lines == 0 {
            return Err(format!("debugfs shows no extents: {text}"));
        }
        total += lines;
    }
    Ok(total as f64 / 8.0)
}

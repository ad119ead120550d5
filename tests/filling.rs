//! Filling to the last block, again and again: what was accepted is there, and what was freed comes back.
//!
//! Accepted is what write(2) took with `-o writethrough`, and what fsync(2) or close(2) confirmed with the kernel's
//! writeback cache. `cargo xtask filling` runs many rounds (UEXT4_FILL_ROUNDS, UEXT4_FILL_SEED).

#[path = "common/harness.rs"]
mod harness;
#[path = "killtest/rng.rs"]
mod rng;

use harness::command::attempt_with;
use harness::{Image, Kind, Mount, Scratch, judge};
use rng::Rng;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const WRITERS: u64 = 8;
const LARGEST: u64 = 400_000;

/// A file and how much of it was accepted.
type Accepted = BTreeMap<PathBuf, (u64, u64)>;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn with_the_writeback_cache() {
    fill_and_empty("allow_other");
}

#[test]
fn with_writethrough() {
    fill_and_empty("allow_other,writethrough");
}

fn fill_and_empty(options: &str) {
    let rounds = number("UEXT4_FILL_ROUNDS", 2);
    let seed = number("UEXT4_FILL_SEED", 1);
    let scratch = Scratch::in_memory();
    let image = Image::mke2fs(&scratch, "disk.img", "96M", "-t ext4 -J size=4");
    let point = scratch.dir("mnt");
    let limit = Duration::from_secs(60 + 30 * rounds);
    let mut free_at_first = None;
    let mut totals = (0, 0);
    for round in 0..rounds {
        let mount = Mount::patient(Kind::Uext4, image.path(), &point, options, limit);
        let free = free_blocks(mount.path());
        assert_eq!(
            *free_at_first.get_or_insert(free),
            free,
            "free blocks before round {round}"
        );
        let accepted = fill(&scratch, mount.path(), seed ^ (round << 32), options);
        let left = free_blocks(mount.path());
        assert!(left * 50 < free, "{left} of {free} blocks are still free");
        compare(mount.path(), &accepted);
        mount.unmount();
        judge::clean(&image);
        totals.0 += accepted.len();
        totals.1 += accepted.values().map(|(_, length)| length).sum::<u64>();

        let mount = Mount::patient(Kind::Uext4, image.path(), &point, options, limit);
        compare(mount.path(), &accepted);
        for writer in 0..WRITERS {
            std::fs::remove_dir_all(mount.at(writer.to_string())).expect("remove");
        }
        // Blocks of unlinked files are freed behind the unlink.
        let end = Instant::now() + Duration::from_secs(20);
        while free_blocks(mount.path()) != free && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(free_blocks(mount.path()), free, "all is removed");
        mount.unmount();
        judge::clean(&image);
    }
    println!(
        "{options}: seed {seed}, {rounds} rounds, {} files, {} bytes accepted, nothing lost",
        totals.0, totals.1
    );
}

fn free_blocks(dir: &Path) -> u64 {
    rustix::fs::statvfs(dir).expect("statvfs").f_bfree
}

/// Writes from all sides until not one block more goes in.
fn fill(scratch: &Scratch, dir: &Path, seed: u64, options: &str) -> Accepted {
    let writethrough = options.contains("writethrough");
    let parts = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let source = scratch.file(&format!("source{writer}"));
                let dir = dir.join(writer.to_string());
                scope.spawn(move || fill_one(&dir, &source, seed ^ (writer << 16), writethrough))
            })
            .collect();
        writers
            .into_iter()
            .map(|writer| writer.join().expect("a writer"))
            .collect::<Vec<_>>()
    });
    parts.into_iter().flatten().collect()
}

fn fill_one(dir: &Path, source: &Path, seed: u64, writethrough: bool) -> Accepted {
    let mut accepted = Accepted::new();
    let mut rng = Rng(seed);
    let mut largest = LARGEST;
    std::fs::create_dir(dir).expect("mkdir");
    for file in 0.. {
        let path = dir.join(format!("file{file}"));
        let pattern = rng.draw();
        let length = 1 + rng.below(largest);
        let bytes = contents(pattern, length);
        let taken = match rng.below(3) {
            0 => copied(source, &path, &bytes),
            1 => written(&path, &bytes, true, writethrough),
            _ => written(&path, &bytes, !writethrough, writethrough),
        };
        let full = taken < length;
        if taken > 0 {
            accepted.insert(path, (pattern, taken));
        }
        if full && largest <= 4096 {
            return accepted;
        }
        if full {
            largest = (largest / 4).max(4096);
        }
    }
    unreachable!("an image is finite")
}

/// cp(1) looks at what close(2) says.
fn copied(source: &Path, path: &Path, bytes: &[u8]) -> u64 {
    std::fs::write(source, bytes).expect("the source");
    let mut command = Command::new("cp");
    let outcome = attempt_with(Duration::from_secs(60), command.arg(source).arg(path));
    if outcome.ok() {
        return bytes.len() as u64;
    }
    assert!(
        outcome.stderr.contains("No space left on device"),
        "{}",
        outcome.describe()
    );
    0
}

/// How many bytes of a new file were accepted.
fn written(path: &Path, bytes: &[u8], sync: bool, writethrough: bool) -> u64 {
    let mut file = match File::create(path) {
        Ok(file) => file,
        Err(error) => return none_left(&error),
    };
    let mut taken = 0;
    while taken < bytes.len() {
        let end = bytes.len().min(taken + 70_000);
        match file.write(&bytes[taken..end]) {
            Ok(count) => taken += count,
            Err(error) => {
                none_left(&error);
                break;
            }
        }
    }
    if sync {
        match file.sync_all() {
            Ok(()) => {}
            Err(error) if !writethrough => return none_left(&error),
            Err(error) => panic!("{}: fsync of what write took: {error}", path.display()),
        }
    }
    taken as u64
}

fn none_left(error: &std::io::Error) -> u64 {
    let errno = Errno::from_io_error(error);
    assert_eq!(errno, Some(Errno::NOSPC), "{error}");
    0
}

fn compare(root: &Path, accepted: &Accepted) {
    for (path, (pattern, length)) in accepted {
        let mut found = Vec::new();
        let mut file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        file.read_to_end(&mut found).expect("read");
        let expected = contents(*pattern, *length);
        let same = found.len() >= expected.len() && found[..expected.len()] == expected;
        assert!(
            same,
            "{} under {}: {} bytes, {length} were accepted, they differ from byte {:?}",
            path.display(),
            root.display(),
            found.len(),
            found.iter().zip(&expected).position(|(a, b)| a != b)
        );
    }
}

fn contents(pattern: u64, length: u64) -> Vec<u8> {
    let mut rng = Rng(pattern);
    let words = std::iter::repeat_with(|| rng.draw().to_le_bytes());
    words.flatten().take(length as usize).collect()
}

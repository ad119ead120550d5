//! From outside: the daemon's resident memory is at most its cap and its fixed overhead, whatever is done in the mount.
//!
//! Source: the design's section on memory (proof from outside). The long forms are `cargo xtask memory-proof`; the short ones
//! are part of `cargo xtask test`. They measure release builds, so that they are ignored elsewhere.

#[path = "memory_proof/daemon.rs"]
mod daemon;
#[path = "common/harness.rs"]
mod harness;
#[path = "memory_proof/holders.rs"]
mod holders;

use daemon::{Cgroup, Daemon, MIB};
use harness::{Image, Scratch, judge};
use holders::Holders;
use rustix::fs::{FallocateFlags, OFlags, fallocate};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

const CAP: u64 = 16 * MIB;
const EACH: usize = 100;
const THREADS: usize = 4;
/// For commands that take long where there is much.
const LIMIT: Duration = Duration::from_secs(900);

fn directory(root: &Path, number: usize) -> PathBuf {
    root.join(format!("d{number:05}"))
}

fn content(number: usize, index: usize) -> Vec<u8> {
    let length = (number * 7919 + index * 104_729) % 4097;
    vec![(number ^ index) as u8 | 1; length]
}

/// Runs `work` for every number below `count`, on so many threads.
fn in_parallel(threads: usize, count: usize, work: impl Fn(usize) + Sync) {
    let work = &work;
    std::thread::scope(|scope| {
        for first in 0..threads {
            scope.spawn(move || (first..count).step_by(threads).for_each(work));
        }
    });
}

fn drop_caches(root: &Path) {
    let root = root.display();
    harness::sh(
        LIMIT,
        &format!("sync -f {root}; echo 3 > /proc/sys/vm/drop_caches"),
    );
}

/// Directories of `EACH` small files, used by so many threads.
struct Files<'a> {
    root: &'a Path,
    directories: usize,
    threads: usize,
}

impl Files<'_> {
    fn create(&self) {
        in_parallel(self.threads, self.directories, |number| {
            let dir = directory(self.root, number);
            std::fs::create_dir(&dir).expect("mkdir");
            for index in 0..EACH {
                let mut file = File::create_new(dir.join(index.to_string())).expect("create");
                file.write_all(&content(number, index)).expect("write");
            }
        });
    }

    /// Every file is looked at, some are read.
    fn walk(&self) {
        in_parallel(self.threads, self.directories, |number| {
            let dir = directory(self.root, number);
            let entries = std::fs::read_dir(&dir).expect("readdir");
            let mut found = 0;
            for entry in entries {
                let entry = entry.expect("an entry");
                let name = entry.file_name();
                let index: usize = name.to_string_lossy().parse().expect("a number");
                let expected = content(number, index);
                let length = entry.metadata().expect("stat").len();
                assert_eq!(length, expected.len() as u64, "{}", entry.path().display());
                if index.is_multiple_of(10) {
                    let read = std::fs::read(entry.path()).expect("read");
                    assert!(read == expected, "{}", entry.path().display());
                }
                found += 1;
            }
            assert_eq!(found, EACH, "{}", dir.display());
        });
    }

    fn delete(&self) {
        in_parallel(self.threads, self.directories, |number| {
            let dir = directory(self.root, number);
            for index in 0..EACH {
                std::fs::remove_file(dir.join(index.to_string())).expect("unlink");
            }
            std::fs::remove_dir(&dir).expect("rmdir");
        });
    }
}

fn files_under(cap: u64, directories: usize, cgroup: Option<Cgroup>) {
    let scratch = Scratch::new();
    let inodes = (directories * (EACH + 1) + 1000).next_multiple_of(8192);
    let options = format!("-t ext4 -m 0 -N {inodes}");
    let image = Image::mke2fs(&scratch, "disk.img", "12G", &options);
    let daemon = Daemon::start(&image, &scratch, cap, 4, "rw", cgroup);
    let files = Files {
        root: daemon.path(),
        directories,
        threads: THREADS,
    };
    files.create();
    daemon.check("created");
    drop_caches(daemon.path());
    files.walk();
    daemon.check("walked");
    files.delete();
    daemon.end("deleted");
    judge::clean_within(LIMIT, &image);
}

/// The proof sees a daemon that loses one charge of a hundred. (A debug build: it has `fault=`, and the same memory.)
#[cfg(feature = "faults")]
#[test]
fn a_leak_of_a_hundredth_fails_the_proof() {
    let passes = |options: &str| {
        let scratch = Scratch::new();
        let image = Image::mke2fs(&scratch, "disk.img", "4G", "-t ext4 -m 0");
        let daemon = Daemon::start(&image, &scratch, CAP, 4, options, None);
        let files = Files {
            root: daemon.path(),
            directories: 200,
            threads: THREADS,
        };
        files.create();
        files.walk();
        files.delete();
        let (is_within, words) = daemon.is_within_limit();
        println!("{options}: {words}");
        daemon.unmount();
        judge::clean(&image);
        is_within
    };
    assert!(passes("rw"), "a daemon that is sound");
    assert!(!passes("fault=leak=100"), "a daemon that leaks");
}

#[test]
#[ignore = "measures a release build: cargo xtask test"]
fn short_files_under_a_small_cap() {
    files_under(CAP, 1000, None);
}

#[test]
#[ignore = "measures a release build: cargo xtask test"]
fn short_files_inside_a_memory_cgroup() {
    let cgroup = Cgroup::new(CAP + daemon::overhead(4) + 4 * MIB);
    files_under(CAP, 300, Some(cgroup));
}

#[test]
#[ignore = "minutes: cargo xtask memory-proof"]
fn long_a_million_files() {
    files_under(CAP, 10_000, None);
}

#[test]
#[ignore = "minutes: cargo xtask memory-proof"]
fn long_a_million_files_inside_a_memory_cgroup() {
    let cgroup = Cgroup::new(CAP + daemon::overhead(4) + 4 * MIB);
    files_under(CAP, 10_000, Some(cgroup));
}

/// The rest of the forms: one daemon, one thing done, one judgement.
fn under(size: &str, options: &str, cap: u64, threads: usize, work: impl FnOnce(&Daemon)) {
    let scratch = Scratch::new();
    let image = Image::mke2fs(&scratch, "disk.img", size, options);
    let daemon = Daemon::start(&image, &scratch, cap, threads, "rw", None);
    work(&daemon);
    daemon.end("done");
    judge::clean_within(LIMIT, &image);
}

#[test]
#[ignore = "minutes: cargo xtask memory-proof"]
fn long_one_directory_of_a_million_entries() {
    under("4G", "-t ext4 -m 0 -N 1100000", CAP, 4, |daemon| {
        let dir = daemon.path().join("large");
        std::fs::create_dir(&dir).expect("mkdir");
        for index in 0..1_000_000 {
            File::create_new(dir.join(format!("entry-{index}"))).expect("create");
        }
        daemon.check("created");
        drop_caches(daemon.path());
        let entries = std::fs::read_dir(&dir).expect("readdir");
        let found = entries.inspect(|entry| assert!(entry.is_ok())).count();
        assert_eq!(found, 1_000_000);
    });
}

const OPEN_FILES: usize = 100_000;

fn open_many(daemon: &Daemon, unlink: bool) {
    let mut holders = Holders::start(daemon.path(), OPEN_FILES / EACH, unlink);
    daemon.check("open");
    // What is looked at then is the daemon's to tell, of inodes that it has evicted long ago.
    drop_caches(daemon.path());
    holders.look();
    daemon.check("read");
    holders.end();
}

#[test]
#[ignore = "a process of the forms with open files, which start it"]
fn part_of_the_open_files() {
    holders::hold();
}

#[test]
#[ignore = "minutes: cargo xtask memory-proof"]
fn long_a_hundred_thousand_open_files() {
    under("4G", "-t ext4 -m 0", CAP, 4, |daemon| {
        open_many(daemon, false);
    });
}

#[test]
#[ignore = "minutes: cargo xtask memory-proof"]
fn long_a_hundred_thousand_open_unlinked_files() {
    under("4G", "-t ext4 -m 0", CAP, 4, |daemon| {
        open_many(daemon, true);
    });
}

#[test]
#[ignore = "minutes: cargo xtask memory-proof"]
fn long_twenty_thousand_groups() {
    let options = "-t ext4 -m 0 -E lazy_itable_init=1,lazy_journal_init=1";
    under("15T", options, CAP, 4, |daemon| {
        // 20 000 groups of 128 MiB.
        for number in 0..20 {
            let file = File::create_new(daemon.path().join(format!("f{number}"))).expect("create");
            for part in 0..1000_u64 {
                let (at, length) = (part * 128 * MIB, 128 * MIB);
                fallocate(&file, FallocateFlags::empty(), at, length).expect("fallocate");
            }
        }
    });
}

#[test]
#[ignore = "minutes: cargo xtask memory-proof"]
fn long_one_file_of_a_million_extents() {
    const EXTENTS: u64 = 1_000_000;
    under("10G", "-t ext4 -m 0", CAP, 4, |daemon| {
        let file = File::create_new(daemon.path().join("file")).expect("create");
        fallocate(&file, FallocateFlags::empty(), 0, EXTENTS * 8192).expect("fallocate");
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        for index in 0..EXTENTS {
            fallocate(&file, punch, index * 8192, 4096).expect("punch");
        }
        // The tree of so many extents, four levels of at most 340 (one of 4 in the inode), and half of the blocks.
        let blocks = file.metadata().expect("stat").blocks() / 8;
        assert!(
            (EXTENTS + 2942..EXTENTS + 6000).contains(&blocks),
            "{blocks} blocks"
        );
        for index in (0..EXTENTS).step_by(1009) {
            let body = [1 + (index % 250) as u8; 4096];
            file.write_all_at(&body, index * 8192 + 4096)
                .expect("write");
        }
        drop_caches(daemon.path());
        let file = File::open(daemon.path().join("file")).expect("open");
        for index in (0..EXTENTS).step_by(1009) {
            let mut read = [1; 8192];
            file.read_exact_at(&mut read, index * 8192).expect("read");
            let byte = 1 + (index % 250) as u8;
            let (hole, data) = read.split_at(4096);
            assert!(hole == [0; 4096] && data == [byte; 4096], "part {index}");
        }
    });
}

/// Requests of the largest size, as many at once as the daemon has threads.
fn large_requests(root: &Path, threads: usize) {
    const CHUNK: usize = 256 << 10;
    in_parallel(threads, threads, |number| {
        let mut options = OpenOptions::new();
        options.create_new(true).read(true).write(true);
        options.custom_flags(OFlags::DIRECT.bits().cast_signed());
        let file = options.open(root.join(format!("large{number}")));
        let file = file.expect("create");
        let chunk = |at: u64| vec![(number as u8) ^ (at as u8); CHUNK];
        for at in 0..32 {
            let place = at * CHUNK as u64;
            file.write_all_at(&chunk(at), place).expect("write");
        }
        let mut read = vec![0; CHUNK];
        for at in 0..32 {
            file.read_exact_at(&mut read, at * CHUNK as u64)
                .expect("read");
            assert!(read == chunk(at), "file {number}, part {at}");
        }
    });
}

#[test]
#[ignore = "minutes: cargo xtask memory-proof"]
fn long_thirty_two_threads() {
    const WORKERS: usize = 32;
    under("4G", "-t ext4 -m 0", 31 * MIB, WORKERS, |daemon| {
        large_requests(daemon.path(), WORKERS);
        daemon.check("large requests");
        let files = Files {
            root: daemon.path(),
            directories: 1000,
            threads: WORKERS,
        };
        files.create();
        drop_caches(daemon.path());
        files.walk();
        files.delete();
    });
}

//! From outside: the daemon's resident memory is at most its cap and its fixed overhead, whatever is done in the mount.
//!
//! Source: the design's section on memory (proof from outside). The long forms are `cargo xtask memory-proof`; the short ones
//! are part of `cargo xtask test`. They measure release builds, so that they are ignored elsewhere.

#[path = "memory_proof/daemon.rs"]
mod daemon;
#[path = "common/harness.rs"]
mod harness;

use daemon::{Cgroup, Daemon, MIB};
use harness::{Image, Scratch, judge};
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const CAP: u64 = 16 * MIB;
const EACH: usize = 100;
const THREADS: usize = 4;

fn directory(root: &Path, number: usize) -> PathBuf {
    root.join(format!("d{number:05}"))
}

fn content(number: usize, index: usize) -> Vec<u8> {
    let length = (number * 7919 + index * 104_729) % 4097;
    vec![(number ^ index) as u8 | 1; length]
}

/// Runs `work` for every directory's number, on a few threads.
fn in_parallel(directories: usize, work: impl Fn(usize) + Sync) {
    let work = &work;
    std::thread::scope(|scope| {
        for first in 0..THREADS {
            scope.spawn(move || (first..directories).step_by(THREADS).for_each(work));
        }
    });
}

fn create(root: &Path, directories: usize) {
    in_parallel(directories, |number| {
        let dir = directory(root, number);
        std::fs::create_dir(&dir).expect("mkdir");
        for index in 0..EACH {
            let mut file = File::create_new(dir.join(index.to_string())).expect("create");
            file.write_all(&content(number, index)).expect("write");
        }
    });
}

/// Every file is looked at, some are read.
fn walk(root: &Path, directories: usize) {
    in_parallel(directories, |number| {
        let dir = directory(root, number);
        let entries = std::fs::read_dir(&dir).expect("readdir");
        let mut found = 0;
        for entry in entries {
            let entry = entry.expect("an entry");
            let index: usize = entry
                .file_name()
                .to_string_lossy()
                .parse()
                .expect("a number");
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

fn delete(root: &Path, directories: usize) {
    in_parallel(directories, |number| {
        let dir = directory(root, number);
        for index in 0..EACH {
            std::fs::remove_file(dir.join(index.to_string())).expect("unlink");
        }
        std::fs::remove_dir(&dir).expect("rmdir");
    });
}

fn files_under(cap: u64, directories: usize, cgroup: Option<Cgroup>) {
    let scratch = Scratch::new();
    let inodes = (directories * (EACH + 1) + 1000).next_multiple_of(8192);
    let options = format!("-t ext4 -m 0 -N {inodes}");
    let image = Image::mke2fs(&scratch, "disk.img", "12G", &options);
    let daemon = Daemon::start(&image, &scratch, cap, 4, "rw", cgroup);
    create(daemon.path(), directories);
    daemon.check("created");
    harness::sh(
        std::time::Duration::from_secs(60),
        "echo 2 > /proc/sys/vm/drop_caches",
    );
    walk(daemon.path(), directories);
    daemon.check("walked");
    delete(daemon.path(), directories);
    daemon.end("deleted");
    judge::clean(&image);
}

/// The proof sees a daemon that loses one charge of a hundred. (A debug build: it has `fault=`, and the same memory.)
#[cfg(feature = "faults")]
#[test]
fn a_leak_of_a_hundredth_fails_the_proof() {
    let passes = |options: &str| {
        let scratch = Scratch::new();
        let image = Image::mke2fs(&scratch, "disk.img", "4G", "-t ext4 -m 0");
        let daemon = Daemon::start(&image, &scratch, CAP, 4, options, None);
        create(daemon.path(), 200);
        walk(daemon.path(), 200);
        delete(daemon.path(), 200);
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
    judge::clean(&image);
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
        let entries = std::fs::read_dir(&dir).expect("readdir");
        let found = entries.inspect(|entry| assert!(entry.is_ok())).count();
        assert_eq!(found, 1_000_000);
    });
}

fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let limit = Rlimit {
        current: Some(200_000),
        maximum: Some(200_000),
    };
    setrlimit(Resource::Nofile, limit).expect("200000 open files");
}

fn open_many(daemon: &Daemon, unlink: bool) {
    const FILES: usize = 100_000;
    raise_open_files();
    let mut open = Vec::with_capacity(FILES);
    for number in 0..FILES / EACH {
        let dir = directory(daemon.path(), number);
        std::fs::create_dir(&dir).expect("mkdir");
        for index in 0..EACH {
            let path = dir.join(index.to_string());
            let mut file = OpenOptions::new()
                .create_new(true)
                .read(true)
                .write(true)
                .open(&path)
                .expect("open");
            file.write_all(&content(number, index)).expect("write");
            if unlink {
                std::fs::remove_file(&path).expect("unlink");
            }
            open.push(file);
        }
    }
    daemon.check("open");
    for (at, file) in open.iter().enumerate().step_by(50) {
        let expected = content(at / EACH, at % EACH);
        let mut read = vec![0; expected.len()];
        file.read_exact_at(&mut read, 0).expect("read");
        assert!(read == expected, "file {at}");
    }
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
    });
}

#[test]
#[ignore = "minutes: cargo xtask memory-proof"]
fn long_thirty_two_threads() {
    under("4G", "-t ext4 -m 0", 31 * MIB, 32, |daemon| {
        create(daemon.path(), 1000);
        walk(daemon.path(), 1000);
        delete(daemon.path(), 1000);
    });
}

//! Faults of the device at every place of a run: the Nth read, write or sync fails, is cut short, finds no space below, is
//! slow, or gives a wrong bit. Nobody is told that something is durable which is not, nothing half done is committed, and
//! after the fault the next mount has all that was acknowledged.
//!
//! Source: the design's section on devices and its judges.

#[path = "cuts/aside.rs"]
#[allow(dead_code)]
mod aside;
#[path = "cuts/beside.rs"]
#[allow(dead_code)]
mod beside;
#[path = "common/checker.rs"]
#[allow(dead_code)]
mod checker;
#[path = "cuts/form.rs"]
#[allow(dead_code)]
mod form;
#[path = "cuts/generate.rs"]
#[allow(dead_code)]
mod generate;
#[path = "cuts/met.rs"]
#[allow(dead_code)]
mod met;
#[path = "cuts/model.rs"]
#[allow(dead_code)]
mod model;
#[path = "cuts/names.rs"]
#[allow(dead_code)]
mod names;
#[path = "cuts/op.rs"]
#[allow(dead_code)]
mod op;
#[path = "faults/sequences.rs"]
mod sequences;
#[path = "cuts/tree.rs"]
#[allow(dead_code)]
mod tree;

use form::{Profile, Setup};
use generate::Generator;
use model::Model;
use op::{Op, Run};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tree::dump;
use uext4::device::fault::{Faults, Faulty};
use uext4::device::record::Record;
use uext4::device::sim::{Disk, Image, Ticks};
use uext4::error::{Error, Posix, Result};
use uext4::format::superblock::Superblock;
use uext4::fs::{Caller, ErrorPolicy, Fs, NewNode, Options, WriteMode};
use uext4::ids::InodeNumber;

const CHECKSUMS: &[&str] = &["-t", "ext4", "-b", "1024", "-g", "1024", "-J", "size=1"];
const LIST: &[&str] = &[
    "-t",
    "ext4",
    "-b",
    "2048",
    "-g",
    "1024",
    "-J",
    "size=2",
    "-O",
    "^orphan_file,^metadata_csum",
];
const BLOCK_MAP: &[&str] = &["-t", "ext3", "-b", "1024", "-g", "1024", "-J", "size=1"];
const ID: &str = "c0ffee00-1234-4321-8888-0123456789ab";

fn image(form: &[&str]) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let output = Command::new("mke2fs")
        .args(["-q", "-F", "-N", "128", "-U", ID, "-E"])
        .arg(format!("lazy_itable_init=0,hash_seed={ID}"))
        .args(form)
        .arg(file.path())
        .arg("8M")
        .output()
        .expect("mke2fs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    std::fs::read(file.path()).expect("the image")
}

fn e2fsck(image: &[u8]) -> std::result::Result<(), String> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), image).expect("the image");
    let output = Command::new("e2fsck").arg("-fn").arg(file.path()).output();
    let output = output.expect("e2fsck");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    checker::finds_nothing(file.path())
}

fn options(errors: ErrorPolicy) -> Options {
    Options {
        memory: 32 << 20,
        max_write: 128 << 10,
        errors: Some(errors),
        ..Options::default()
    }
}

/// A mounted image whose device has faults.
struct Bench {
    disk: Arc<Disk>,
    faulty: Arc<Faulty>,
    run: Run,
    generator: Generator,
}

impl Bench {
    /// Where the fault struck the mount or the first look at the tree: the disk alone.
    fn start(
        form: &[&str],
        base: &[u8],
        seed: u64,
        errors: ErrorPolicy,
        fault: &str,
    ) -> std::result::Result<Self, Arc<Disk>> {
        let mut faults = Faults::default();
        faults.add(fault).expect("a fault");
        let disk = Disk::new(Image::new(base));
        let faulty = Arc::new(Faulty::new(Arc::clone(&disk) as Arc<_>, faults, || {}));
        let record = Arc::new(Record::new(Arc::clone(&faulty) as Arc<_>));
        let clock = Arc::new(Ticks::default());
        let fs = Fs::mount_at(
            Arc::clone(&record) as Arc<_>,
            options(errors),
            Arc::clone(&clock) as Arc<_>,
        );
        let fs = fs.ok().filter(|fs| !fs.is_read_only() && dump(fs).is_ok());
        let Some(fs) = fs else {
            return Err(disk);
        };
        let Ok(run) = Run::of(fs, record, clock, &Setup::full(seed, "4k", 0)) else {
            return Err(disk);
        };
        let generator = Generator::new(seed, Profile::General, form != BLOCK_MAP);
        Ok(Self {
            disk,
            faulty,
            run,
            generator,
        })
    }

    /// Steps with a cold cache, until one fails; the failure is reported as the adapter does.
    fn until_failure(&mut self, steps: usize) -> Option<Error> {
        for _ in 0..steps {
            self.run.fs.memory().drop_clean();
            let op = self.generator.next(&self.run.model);
            // With the next mount the faults would be others.
            if op == Op::Remount {
                continue;
            }
            if let Err(error) = self.run.run(&op) {
                self.run.fs.report(&error);
                return Some(error);
            }
        }
        None
    }
}

/// The next mount, of a device without faults, has what was acknowledged; returns the image after it.
fn recovered(image: Vec<u8>, model: &Model, op: usize, at: &str) -> Vec<u8> {
    let disk = Disk::new(Image::new(&image));
    let clock = Arc::new(Ticks::default());
    let fs = Fs::mount_at(
        Arc::clone(&disk) as Arc<_>,
        options(ErrorPolicy::RemountRo),
        clock,
    )
    .unwrap_or_else(|error| panic!("{at}: it does not mount: {error}"));
    let (tree, contents, _) = dump(&fs).unwrap_or_else(|error| panic!("{at}: {error}"));
    if let Err(wrong) = model.judge(op, &tree, &contents) {
        panic!("{at}: {wrong}");
    }
    fs.unmount()
        .unwrap_or_else(|error| panic!("{at}: unmount: {error}"));
    disk.image().bytes()
}

fn io_code(error: &Error) -> Option<i32> {
    match error {
        Error::Io(error) => error.source.raw_os_error(),
        _ => None,
    }
}

fn is_checksum(error: &Error) -> bool {
    matches!(error, Error::Corrupt { kind, .. } if kind.is_checksum())
}

/// What a call gets once writing has ended.
fn is_end(error: &Error) -> bool {
    matches!(error, Error::Aborted | Error::Posix(Posix::RoFs))
}

#[derive(Default, Debug)]
struct Tally {
    positions: u64,
    at_mount: u64,
    heard: u64,
    went_on: u64,
    /// A superblock was written in part.
    torn: u64,
}

impl Tally {
    /// Mounting met the fault: the image is as good as before.
    fn failed_mount(&mut self, disk: &Disk, at: &str) {
        self.at_mount += 1;
        if let Err(said) = e2fsck(&without_errors(disk.image().bytes())) {
            panic!("{at}: a mount that failed: {said}");
        }
    }

    fn show(&self, what: &str) {
        println!("{what}: {self:?}");
        assert!(self.heard > 0, "{what}: nobody heard of any fault");
    }
}

/// Every Nth read fails under `errors`. What fails is whole or not at all, and where writing goes on, the image is clean.
fn every_read(form: &[&str], word: &str, seed: u64, steps: usize, errors: ErrorPolicy) -> Tally {
    let base = image(form);
    let mut tally = Tally::default();
    for number in 1.. {
        let at = format!("{form:?} seed {seed} {word}={number} {errors:?}");
        let fault = format!("{word}={number}");
        let mut bench = match Bench::start(form, &base, seed, errors, &fault) {
            Ok(bench) => bench,
            Err(disk) => {
                tally.failed_mount(&disk, &at);
                continue;
            }
        };
        let failed = bench.until_failure(steps);
        if bench.faulty.reads() < number {
            assert!(failed.is_none(), "{at}: {failed:?} without a fault");
            return tally;
        }
        tally.positions += 1;
        judge_read(&bench, failed, &mut tally, &at);
    }
    tally
}

fn judge_read(bench: &Bench, failed: Option<Error>, tally: &mut Tally, at: &str) {
    let fs = &bench.run.fs;
    let op = bench.run.model.now() - usize::from(failed.is_some());
    if let Some(error) = &failed {
        tally.heard += 1;
        let told = io_code(error) == Some(libc::EIO) || is_checksum(error);
        // With another policy the first failure may have been met where nobody was to be told, and the next call is.
        let ended = fs.is_read_only() && is_end(error);
        assert!(told || ended, "{at}: {error}");
    }
    if fs.is_read_only() {
        let later = fs.sync_all();
        assert!(
            later.is_err(),
            "{at}: sync succeeds after the end of writing"
        );
        assert!(fs.unmount().is_err(), "{at}: unmount succeeds");
    } else {
        let ended = fs.sync_all().and_then(|()| fs.unmount());
        // The fault may have come this late.
        if failed.is_some() || ended.is_ok() {
            ended.unwrap_or_else(|error| panic!("{at}: {failed:?}, then the end: {error}"));
            tally.went_on += u64::from(failed.is_some());
            if let Err(said) = e2fsck(&without_errors(bench.disk.image().bytes())) {
                panic!("{at}: {failed:?}, then e2fsck: {said}");
            }
        }
    }
    let after = recovered(bench.disk.image().bytes(), &bench.run.model, op, at);
    if let Err(said) = e2fsck(&without_errors(after)) {
        panic!("{at}: {failed:?}, after recovery e2fsck: {said}");
    }
}

/// The record of errors is right to be there; e2fsck would speak of nothing else.
fn without_errors(image: Vec<u8>) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), &image).expect("the image");
    let state = u16::from_le_bytes([image[1024 + 58], image[1024 + 59]]);
    if state & 2 == 0 {
        return image;
    }
    let output = Command::new("debugfs")
        .args(["-w", "-R", "ssv state 1"])
        .arg(file.path())
        .output()
        .expect("debugfs");
    assert!(output.status.success());
    std::fs::read(file.path()).expect("the image")
}

/// Every Nth write or sync fails, with `code` for the caller: writing has ended, and what was acknowledged is there.
fn every_change(form: &[&str], word: &str, seed: u64, steps: usize, code: i32) -> Tally {
    let base = image(form);
    let mut tally = Tally::default();
    for number in 1.. {
        let at = format!("{form:?} seed {seed} {word}={number}");
        let fault = format!("{word}={number}");
        let policy = ErrorPolicy::Continue;
        let Ok(mut bench) = Bench::start(form, &base, seed, policy, &fault) else {
            panic!("{at}: mounting a clean image writes");
        };
        let failed = bench.until_failure(steps);
        let op = bench.run.model.now() - usize::from(failed.is_some());
        let ended = match &failed {
            Some(error) => {
                tally.heard += 1;
                let told = io_code(error) == Some(code) || is_end(error);
                assert!(told, "{at}: {error}");
                refuses_changes(&bench.run, &at);
                true
            }
            None => bench.run.fs.unmount().is_err(),
        };
        if !ended {
            return tally;
        }
        tally.positions += 1;
        let image = bench.disk.image().bytes();
        if word == "short-write" && Superblock::parse(&image[1024..]).is_err() {
            // ext4 takes its superblock for one that no disk tears; a test of power cuts tears it.
            tally.torn += 1;
            continue;
        }
        let after = recovered(image, &bench.run.model, op, &at);
        // Every one would take minutes; what comes home is the same for many.
        if number % 3 == 0
            && let Err(said) = e2fsck(&without_errors(after))
        {
            panic!("{at}: {failed:?}, after recovery e2fsck: {said}");
        }
    }
    tally
}

/// Nothing succeeds later that would have to write.
fn refuses_changes(run: &Run, at: &str) {
    let ends = |error: &Error| matches!(error, Error::Io(_)) || is_end(error);
    for _ in 0..2 {
        for number in run.model.tree.nodes.keys() {
            let ino = InodeNumber::new(*number);
            let synced = run.fs.fsync_wait(ino);
            assert!(synced.is_err_and(|e| ends(&e)), "{at}: a later fsync");
        }
        let root = InodeNumber::ROOT;
        let new = NewNode::File { mode: 0o644 };
        let made = run.fs.create(Caller::default(), root, b"later", new, 0);
        assert!(made.is_err_and(|e| ends(&e)), "{at}: a later create");
        assert!(run.fs.sync_all().is_err(), "{at}: a later sync");
    }
    assert!(run.fs.unmount().is_err(), "{at}: unmount succeeds");
}

#[test]
fn every_read_may_fail_and_writing_goes_on_or_ends_whole() {
    let tally = every_read(CHECKSUMS, "eio-read", 21, 40, ErrorPolicy::Continue);
    assert!(
        tally.went_on > 0,
        "errors=continue never goes on: {tally:?}"
    );
    tally.show("eio-read, continue");
    every_read(LIST, "eio-read", 22, 40, ErrorPolicy::Continue).show("eio-read, continue, list");
    every_read(BLOCK_MAP, "short-read", 23, 40, ErrorPolicy::Continue).show("short-read, ext3");
}

#[test]
fn every_read_that_fails_ends_writing_under_remount_ro() {
    let tally = every_read(CHECKSUMS, "eio-read", 24, 40, ErrorPolicy::RemountRo);
    assert_eq!(tally.went_on, 0, "{tally:?}");
    tally.show("eio-read, remount-ro");
}

#[test]
fn every_write_may_fail() {
    every_change(CHECKSUMS, "eio-write", 31, 30, libc::EIO).show("eio-write");
    every_change(LIST, "enospc-write", 32, 30, libc::ENOSPC).show("enospc-write");
    every_change(BLOCK_MAP, "short-write", 33, 30, libc::EIO).show("short-write");
}

#[test]
fn every_sync_may_fail() {
    every_change(CHECKSUMS, "eio-sync", 41, 60, libc::EIO).show("eio-sync");
    every_change(LIST, "eio-sync", 42, 60, libc::EIO).show("eio-sync, list");
}

/// Metadata with a wrong bit is refused or read again, and never written back, whether it was asked for or lies beside what
/// was. (File data has no checksums in ext4.)
#[test]
fn every_read_may_give_a_wrong_bit() {
    let base = image(CHECKSUMS);
    let mut tally = Tally::default();
    for seed in 51..55 {
        every_wrong_bit(&base, seed, &mut tally);
    }
    tally.show("rot-read");
}

fn every_wrong_bit(base: &[u8], seed: u64, tally: &mut Tally) {
    for number in 1.. {
        let fault = format!("rot-read={number}");
        let at = format!("seed {seed} {fault}");
        let policy = ErrorPolicy::Continue;
        let mut bench = match Bench::start(CHECKSUMS, base, seed, policy, &fault) {
            Ok(bench) => bench,
            Err(disk) => {
                tally.failed_mount(&disk, &at);
                continue;
            }
        };
        let failed = bench.until_failure(40);
        if bench.faulty.reads() < number {
            assert!(failed.is_none(), "{at}: {failed:?} without a fault");
            return;
        }
        tally.positions += 1;
        if let Some(error) = &failed {
            tally.heard += 1;
            assert!(
                matches!(error, Error::Corrupt { .. }) || is_end(error),
                "{at}: {error}"
            );
        }
        // It may have ended by itself, or go on.
        let _ = bench.run.fs.unmount();
        let after = remounted(bench.disk.image().bytes(), &at);
        let on_record = after[1024 + 58] & 2 != 0;
        if let Err(said) = e2fsck(&without_errors(after)) {
            // What lies in a group that was given up is not freed, and somebody has been told to run e2fsck.
            assert!(on_record, "{at}: {failed:?}, then e2fsck: {said}");
        }
    }
}

/// The image after a mount and an unmount without faults.
fn remounted(image: Vec<u8>, at: &str) -> Vec<u8> {
    let disk = Disk::new(Image::new(&image));
    let clock = Arc::new(Ticks::default());
    let fs = Fs::mount_at(
        Arc::clone(&disk) as Arc<_>,
        options(ErrorPolicy::RemountRo),
        clock,
    );
    let fs = fs.unwrap_or_else(|error| panic!("{at}: it does not mount: {error}"));
    dump(&fs).unwrap_or_else(|error| panic!("{at}: {error}"));
    fs.unmount().unwrap_or_else(|error| panic!("{at}: {error}"));
    disk.image().bytes()
}

/// All who wait for one commit are told of its failure, once each, and no later fsync succeeds.
#[test]
fn a_failed_sync_is_told_to_every_waiter() {
    let base = image(CHECKSUMS);
    let mut struck = 0;
    for number in 1..8 {
        let fault = format!("eio-sync={number}");
        let bench = Bench::start(CHECKSUMS, &base, 1, ErrorPolicy::Continue, &fault);
        let Ok(bench) = bench else {
            panic!("{fault}: mounting a clean image syncs");
        };
        let fs = &bench.run.fs;
        let told: Arc<Mutex<Vec<(usize, bool)>>> = Arc::default();
        let mut files = Vec::new();
        for index in 0..8 {
            let name = format!("f{index}");
            let new = NewNode::File { mode: 0o644 };
            let made = fs.create(
                Caller::default(),
                InodeNumber::ROOT,
                name.as_bytes(),
                new,
                0,
            );
            let ino = made.expect("nothing is synced yet").ino;
            fs.write(ino, 0, b"data", WriteMode::default())
                .expect("nothing is synced yet");
            files.push(ino);
        }
        for (index, ino) in files.iter().enumerate() {
            let told = Arc::clone(&told);
            let done = move |result: Result<()>| {
                told.lock().expect("told").push((index, result.is_ok()));
            };
            fs.fsync(0, *ino, index % 2 == 1, Box::new(done));
        }
        for _ in 0..3 {
            if let Err(error) = fs.commit_step() {
                fs.report(&error);
            }
        }
        let mut told = told.lock().expect("told").clone();
        told.sort_unstable();
        // From the failure on everybody is told of it.
        let durable = told.iter().take_while(|(_, is_durable)| *is_durable);
        let durable = durable.count();
        let all: Vec<_> = (0..8).map(|index| (index, index < durable)).collect();
        assert_eq!(told, all, "{fault}");
        let failed = durable < 8;
        if failed {
            struck += 1;
            for ino in files {
                assert!(
                    fs.fsync_wait(ino).is_err(),
                    "{fault}: a later fsync succeeds"
                );
            }
            assert!(fs.unmount().is_err(), "{fault}");
        } else {
            let _ = fs.unmount();
        }
    }
    assert!(struck >= 2, "a commit has two syncs, {struck} were struck");
}

/// A slow device changes nothing but the time.
#[test]
fn latency_changes_nothing() {
    let base = image(CHECKSUMS);
    let start = Instant::now();
    for fault in ["read-delay=2ms", "write-delay=2ms"] {
        let policy = ErrorPolicy::RemountRo;
        let Ok(mut bench) = Bench::start(CHECKSUMS, &base, 61, policy, fault) else {
            panic!("{fault}: no mount");
        };
        let failed = bench.until_failure(25);
        assert!(failed.is_none(), "{fault}: {failed:?}");
        bench.run.fs.unmount().expect("unmount");
        e2fsck(&bench.disk.image().bytes()).expect("clean");
        let op = bench.run.model.now();
        recovered(bench.disk.image().bytes(), &bench.run.model, op, fault);
    }
    assert!(
        start.elapsed() > Duration::from_millis(50),
        "nothing was slow"
    );
}

/// Under remount-ro the journal is aborted first and the cause recorded then: the half-done change is never committed, and
/// the next mount knows of the error.
#[test]
fn the_error_is_on_record_after_the_end_of_writing() {
    let base = image(CHECKSUMS);
    let mut seen = 0;
    for number in 1..200 {
        let fault = format!("eio-read={number}");
        let policy = ErrorPolicy::RemountRo;
        let Ok(mut bench) = Bench::start(CHECKSUMS, &base, 24, policy, &fault) else {
            continue;
        };
        if bench.until_failure(40).is_none() || !bench.run.fs.is_read_only() {
            continue;
        }
        seen += 1;
        let image = bench.disk.image().bytes();
        let state = u16::from_le_bytes([image[1024 + 58], image[1024 + 59]]);
        let count = u32::from_le_bytes(image[1024 + 0x194..][..4].try_into().expect("4 bytes"));
        assert!(state & 2 != 0 && count > 0, "{fault}: {state} {count}");
        bench.run.fs.report(&Error::Aborted);
        let after = remounted(image, &fault);
        let state = u16::from_le_bytes([after[1024 + 58], after[1024 + 59]]);
        assert!(state & 2 != 0, "{fault}: the next mount forgot it");
    }
    assert!(seen > 5, "{seen}");
}

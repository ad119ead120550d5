//! Power cuts: a run of operations is recorded write by write; the image is rebuilt as a cut after each of them leaves it
//! (of what was not synced, any part may be missing), mounted, compared with what was synced, and judged by e2fsck.
//!
//! Source: the design's judges.

#[path = "cuts/disk.rs"]
mod disk;
#[path = "cuts/kernel.rs"]
mod kernel;
#[path = "cuts/model.rs"]
mod model;
#[path = "cuts/ops.rs"]
mod ops;

use disk::{Disk, Faulty, Rng, Ticks};
use model::{Kind, Model};
use ops::{Run, dump};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use uext4::device::Device;
use uext4::device::record::{self, Event, Record};
use uext4::error::{Error, Posix};
use uext4::fs::{Fs, Options, WriteMode};
use uext4::ids::InodeNumber;

/// A form of image, small.
struct Form {
    name: &'static str,
    mke2fs: &'static [&'static str],
    size: &'static str,
    block: usize,
    fallocate: bool,
}

const DEFAULT: Form = Form {
    name: "default",
    mke2fs: &[
        "-t",
        "ext4",
        "-b",
        "4096",
        "-g",
        "1024",
        "-O",
        "orphan_file,metadata_csum",
    ],
    size: "16M",
    block: 4096,
    fallocate: true,
};
const SMALL: Form = Form {
    name: "1k",
    mke2fs: &[
        "-t",
        "ext4",
        "-b",
        "1024",
        "-J",
        "size=1",
        "-O",
        "orphan_file",
    ],
    size: "12M",
    block: 1024,
    fallocate: true,
};
const NO_CSUM: Form = Form {
    name: "^metadata_csum",
    mke2fs: &[
        "-t",
        "ext4",
        "-b",
        "1024",
        "-J",
        "size=1",
        "-O",
        "^metadata_csum",
    ],
    size: "12M",
    block: 1024,
    fallocate: true,
};
const NO_ORPHAN_FILE: Form = Form {
    name: "^orphan_file",
    mke2fs: &[
        "-t",
        "ext4",
        "-b",
        "2048",
        "-J",
        "size=2",
        "-I",
        "128",
        "-O",
        "^orphan_file",
    ],
    size: "16M",
    block: 2048,
    fallocate: true,
};
const NO_JOURNAL: Form = Form {
    name: "^has_journal",
    mke2fs: &["-t", "ext4", "-b", "1024", "-O", "^has_journal"],
    size: "8M",
    block: 1024,
    fallocate: true,
};
const EXT3: Form = Form {
    name: "ext3",
    mke2fs: &["-t", "ext3", "-b", "1024", "-J", "size=1"],
    size: "12M",
    block: 1024,
    fallocate: false,
};

/// The feature bit of a file system whose journal is to be replayed.
const RECOVER: u32 = 4;
/// The same hashes in every run.
const ID: &str = "c0ffee00-1234-4321-8888-0123456789ab";

fn scratch() -> tempfile::TempDir {
    let memory = PathBuf::from("/dev/shm");
    let dir = if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    };
    tempfile::tempdir_in(dir).expect("a scratch directory")
}

fn image(form: &Form) -> Vec<u8> {
    let dir = scratch();
    let path = dir.path().join("image");
    let output = Command::new("mke2fs")
        .args(["-q", "-F", "-N", "256", "-U", ID, "-E"])
        .arg(format!("lazy_itable_init=0,hash_seed={ID}"))
        .args(form.mke2fs)
        .arg(&path)
        .arg(form.size)
        .output()
        .expect("mke2fs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    std::fs::read(&path).expect("the image")
}

fn options() -> Options {
    Options {
        memory: 32 << 20,
        max_write: 128 << 10,
        ..Options::default()
    }
}

fn begin(form: &Form, device: Arc<dyn Device>, seed: u64) -> Run {
    let record = Arc::new(Record::new(device));
    let clock = Arc::new(Ticks::default());
    let fs = Fs::mount_at(
        Arc::clone(&record) as Arc<_>,
        options(),
        Arc::clone(&clock) as Arc<_>,
    )
    .expect("it mounts");
    assert!(!fs.is_read_only(), "{:?}", fs.notices());
    Run::new(fs, record, clock, seed, form.fallocate)
}

/// An image and all that was written to it since.
struct Recorded {
    base: Vec<u8>,
    events: Vec<(usize, Event)>,
    model: Model,
}

fn recorded(form: &Form, seed: u64, steps: usize) -> Recorded {
    let base = image(form);
    let mut run = begin(form, Disk::new(base.clone()), seed);
    for step in 0..steps {
        run.step()
            .unwrap_or_else(|error| panic!("{} seed {seed} step {step}: {error}", form.name));
    }
    Recorded {
        base,
        events: run.events,
        model: run.model,
    }
}

/// Any part of what was not synced: each block of each write, in its order.
fn some_of(pending: &[Event], block: usize, rng: &mut Rng) -> Vec<Event> {
    let odds = 1 + rng.below(4);
    let mut kept = Vec::new();
    for event in pending {
        let Event::Write { offset, bytes } = event else {
            kept.push(event.clone());
            continue;
        };
        for (index, piece) in bytes.chunks(block).enumerate() {
            if rng.below(odds + 1) > 0 {
                let offset = offset + (index * block) as u64;
                kept.push(Event::Write {
                    offset,
                    bytes: piece.to_vec(),
                });
            }
        }
    }
    kept
}

/// What the disk holds as the power is cut at any place.
struct Cutter<'a> {
    durable: Vec<u8>,
    pending: Vec<Event>,
    block: usize,
    rng: &'a mut Rng,
}

impl Cutter<'_> {
    fn apply(&mut self, event: &Event) {
        self.pending.push(event.clone());
        if *event == Event::Sync {
            record::replay(&mut self.durable, &self.pending).expect("inside of the image");
            self.pending.clear();
        }
    }

    fn whole(&self) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        record::replay(&mut bytes, &self.pending).expect("inside of the image");
        bytes
    }

    fn part(&mut self) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        let kept = some_of(&self.pending, self.block, self.rng);
        record::replay(&mut bytes, &kept).expect("inside of the image");
        bytes
    }
}

/// Where a check stands, for its report.
struct Place<'a> {
    form: &'a Form,
    seed: u64,
    event: usize,
    op: usize,
    how: &'static str,
}

impl Place<'_> {
    fn fail(&self, image: &[u8], what: &str) -> ! {
        let (_, path) = tempfile::NamedTempFile::new()
            .expect("a file")
            .keep()
            .expect("a file");
        std::fs::write(&path, image).expect("the image");
        let Place {
            form,
            seed,
            event,
            op,
            how,
        } = self;
        panic!(
            "{} seed {seed}, cut at event {event} in operation {op} ({how}), {}: {what}",
            form.name,
            path.display()
        );
    }
}

/// Mounts a cut image, compares it with the model, unmounts it; returns what that wrote and the image after.
fn survives(image: Vec<u8>, model: &Model, place: &Place<'_>) -> (Vec<Event>, Vec<u8>) {
    let before = image.clone();
    let disk = Disk::new(image);
    let record = Arc::new(Record::new(Arc::clone(&disk) as Arc<_>));
    let clock = Arc::new(Ticks::default());
    let result = Fs::mount_at(Arc::clone(&record) as Arc<_>, options(), clock).and_then(|fs| {
        let (tree, contents) = dump(&fs)?;
        if let Err(wrong) = model.judge(place.op, &tree, &contents) {
            place.fail(&before, &wrong);
        }
        fs.unmount()
    });
    if let Err(error) = result {
        place.fail(&before, &error.to_string());
    }
    let after = disk.bytes();
    let incompat = u32::from_le_bytes(after[1024 + 0x60..][..4].try_into().expect("4 bytes"));
    if incompat & RECOVER != 0 {
        place.fail(&before, "it asks for recovery after unmount");
    }
    (record.take(), after)
}

fn run_e2fsck(arguments: &[&str], image: &[u8]) -> (Option<i32>, String, Vec<u8>) {
    let dir = scratch();
    let path = dir.path().join("image");
    std::fs::write(&path, image).expect("the image");
    let output = Command::new("e2fsck")
        .args(arguments)
        .arg(&path)
        .output()
        .expect("e2fsck");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (
        output.status.code(),
        text,
        std::fs::read(&path).expect("the image"),
    )
}

fn judged_by_e2fsck(before: &[u8], after: &[u8], place: &Place<'_>) {
    let (code, text, _) = run_e2fsck(&["-fn"], after);
    if code != Some(0) {
        place.fail(before, &format!("e2fsck -fn: {code:?}: {text}"));
    }
}

fn survives_in_the_kernel(image: &[u8], model: &Model, place: &Place<'_>) {
    let dir = scratch();
    let (path, at) = (dir.path().join("image"), dir.path().join("mounted"));
    std::fs::write(&path, image).expect("the image");
    std::fs::create_dir(&at).expect("a mount point");
    let (tree, contents) = kernel::dump(&path, &at).expect("the kernel reads it");
    if let Err(wrong) = model.judge(place.op, &tree, &contents) {
        place.fail(image, &format!("the kernel: {wrong}"));
    }
    judged_by_e2fsck(image, &std::fs::read(&path).expect("the image"), place);
}

/// Without a journal e2fsck has to put things right; files that were synced and not changed since are whole.
fn cut_without_a_journal(form: &Form, seed: u64, steps: usize) {
    let Recorded {
        base,
        events,
        model,
    } = recorded(form, seed, steps);
    let mut rng = Rng(seed ^ 0x5eed);
    let mut cutter = Cutter {
        durable: base,
        pending: Vec::new(),
        block: form.block,
        rng: &mut rng,
    };
    let mut synced = 0;
    for at in 0..=events.len() {
        let op = events.get(at).map_or(model.now(), |(op, _)| *op);
        let place = Place {
            form,
            seed,
            event: at,
            op,
            how: "some written, no journal",
        };
        let image = cutter.part();
        let (code, text, repaired) = run_e2fsck(&["-fy"], &image);
        if code.is_none_or(|code| code > 1) {
            place.fail(&image, &text);
        }
        let disk = Disk::new(repaired);
        let clock = Arc::new(Ticks::default());
        let fs = Fs::mount_at(Arc::clone(&disk) as Arc<_>, options(), clock).expect("it mounts");
        let (_, contents) = dump(&fs).expect("all of it is readable");
        match model.judge_synced(op, &contents) {
            Ok(files) => synced += files,
            Err(wrong) => place.fail(&image, &wrong),
        }
        fs.unmount().expect("unmount");
        judged_by_e2fsck(&image, &disk.bytes(), &place);
        if let Some((_, event)) = events.get(at) {
            cutter.apply(event);
        }
    }
    assert!(synced > events.len(), "the run synced files");
}

fn cut_here(cutter: &mut Cutter<'_>, model: &Model, mut place: Place<'_>) {
    let at = place.event;
    let image = if cutter.pending.is_empty() || at.is_multiple_of(4) {
        cutter.whole()
    } else {
        place.how = "some written";
        cutter.part()
    };
    let (written, after) = survives(image.clone(), model, &place);
    if at.is_multiple_of(9) {
        judged_by_e2fsck(&image, &after, &place);
    }
    if at.is_multiple_of(5) {
        cut_again(&image, &written, model, &place);
    }
    if at % 30 == 15 {
        survives_in_the_kernel(&image, model, &place);
    }
    if at % 40 == 20 {
        let (code, text, replayed) = run_e2fsck(&["-fy", "-E", "journal_only"], &image);
        if code.is_none_or(|code| code > 1) {
            place.fail(&image, &text);
        }
        place.how = "replayed by e2fsck";
        survives(replayed, model, &place);
    }
}

/// Cuts at every event of a number that `stride` divides.
fn cut_everywhere(form: &Form, seed: u64, steps: usize, stride: usize) {
    let Recorded {
        base,
        events,
        model,
    } = recorded(form, seed, steps);
    let mut rng = Rng(seed ^ 0x5eed);
    let mut cutter = Cutter {
        durable: base,
        pending: Vec::new(),
        block: form.block,
        rng: &mut rng,
    };
    for at in 0..=events.len() {
        if at % stride == 0 {
            let op = events.get(at).map_or(model.now(), |(op, _)| *op);
            let place = Place {
                form,
                seed,
                event: at,
                op,
                how: "all written",
            };
            cut_here(&mut cutter, &model, place);
        }
        if let Some((_, event)) = events.get(at) {
            cutter.apply(event);
        }
    }
    println!(
        "{}: seed {seed}, {} operations, {} events",
        form.name,
        model.now(),
        events.len()
    );
}

/// The power is cut once more, while the next mount recovers or unmounts.
fn cut_again(image: &[u8], written: &[Event], model: &Model, place: &Place<'_>) {
    let mut rng = Rng(place.event as u64);
    let at = rng.below(written.len() as u64 + 1) as usize;
    let mut cutter = Cutter {
        durable: image.to_vec(),
        pending: Vec::new(),
        block: place.form.block,
        rng: &mut rng,
    };
    for event in &written[..at] {
        cutter.apply(event);
    }
    let again = cutter.part();
    let place = Place {
        how: "cut again",
        ..*place
    };
    let (_, after) = survives(again.clone(), model, &place);
    if place.event.is_multiple_of(4) {
        judged_by_e2fsck(&again, &after, &place);
    }
}

const STEPS: usize = 120;

#[test]
fn default_images_survive() {
    cut_everywhere(&DEFAULT, 1, STEPS, 1);
}

#[test]
fn small_journals_survive() {
    cut_everywhere(&SMALL, 2, STEPS, 1);
}

/// Many more operations on a small log.
#[test]
fn full_journals_survive() {
    cut_everywhere(&SMALL, 7, 4 * STEPS, 3);
}

#[test]
fn images_without_checksums_survive() {
    cut_everywhere(&NO_CSUM, 3, STEPS, 1);
}

#[test]
fn images_with_an_orphan_list_survive() {
    cut_everywhere(&NO_ORPHAN_FILE, 4, STEPS, 1);
}

#[test]
fn ext3_images_survive() {
    cut_everywhere(&EXT3, 5, STEPS, 1);
}

#[test]
fn images_without_a_journal_keep_what_was_synced() {
    cut_without_a_journal(&NO_JOURNAL, 6, STEPS);
}

/// One write or sync fails: nothing is acknowledged any more, and what was is there.
fn fail_everywhere(form: &Form, seed: u64, steps: usize) {
    let base = image(form);
    let mut fails = 0;
    loop {
        let disk = Disk::new(base.clone());
        let faulty = Faulty::new(Arc::clone(&disk) as Arc<_>, fails);
        let mut run = begin(form, Arc::clone(&faulty) as Arc<_>, seed);
        let failed = (0..steps).find_map(|_| run.step().err());
        let at = format!("{} seed {seed}, failure {fails}", form.name);
        let Some(error) = failed else {
            assert!(faulty.done() <= fails, "{at}: nobody heard of it");
            return;
        };
        assert!(
            matches!(error, Error::Io(_) | Error::Aborted),
            "{at}: {error}"
        );
        assert!(faulty.done() > fails, "{at}: {error} without a failure");
        refuses_changes(&run, &at);
        let place = Place {
            form,
            seed,
            event: fails as usize,
            op: run.model.now() - 1,
            how: "a failed write",
        };
        let image = disk.bytes();
        let (_, after) = survives(image.clone(), &run.model, &place);
        if fails % 4 == 0 {
            judged_by_e2fsck(&image, &after, &place);
        }
        fails += 1;
    }
}

fn refuses_changes(run: &Run, at: &str) {
    let ends = |error: Error| {
        matches!(
            error,
            Error::Io(_) | Error::Aborted | Error::Posix(Posix::RoFs)
        )
    };
    for (number, node) in &run.model.tree.nodes {
        let ino = InodeNumber::new(*number);
        let synced = run
            .fs
            .fsync_wait(ino)
            .expect_err("fsync succeeds after a failure");
        assert!(ends(synced), "{at}");
        let written = run.fs.write(ino, 0, b"later", WriteMode::default());
        assert!(
            node.kind != Kind::File || written.is_err_and(ends),
            "{at}: a later write"
        );
    }
    run.fs
        .sync_all()
        .expect_err("sync succeeds after a failure");
    run.fs
        .unmount()
        .expect_err("unmount succeeds after a failure");
}

#[test]
fn failures_end_all_writing() {
    fail_everywhere(&SMALL, 11, 40);
}

#[test]
fn failures_end_all_writing_with_an_orphan_list() {
    fail_everywhere(&NO_ORPHAN_FILE, 12, 40);
}

/// Other sequences than the tests above always have.
#[test]
#[ignore = "minutes"]
fn many_sequences_survive() {
    for seed in 100..130 {
        for form in [&DEFAULT, &SMALL, &NO_CSUM, &NO_ORPHAN_FILE, &EXT3] {
            cut_everywhere(form, seed, STEPS, 1);
            cut_everywhere(form, seed + 1000, 4 * STEPS, 2);
        }
        fail_everywhere(&SMALL, seed, 40);
    }
}

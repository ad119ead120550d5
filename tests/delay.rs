//! Delayed allocation without FUSE: what is accepted is seen at once, reaches the disk late or never, and is never lost; the disk
//! never tells of data that is not there.

#[path = "delay/full.rs"]
mod full;
#[path = "delay/together.rs"]
mod together;

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use uext4::device::Device;
use uext4::device::fault::{Faults, Faulty};
use uext4::device::record::{self, Event, Record};
use uext4::device::sim::{Disk, Image, Rng, Ticks};
use uext4::error::{Error, Posix};
use uext4::file::{Fallocate, Whence};
use uext4::fs::{Caller, Fs, NewNode, Options, RenameMode, SetAttr, WriteMode};
use uext4::ids::InodeNumber;
use uext4::memory::Class;

const ROOT: InodeNumber = InodeNumber::ROOT;
const KEEP: WriteMode = WriteMode {
    keep_times: true,
    direct: false,
    kill_privileges: None,
};
const DIRECT: WriteMode = WriteMode {
    direct: true,
    ..KEEP
};

fn image(size: &str, options: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let path = dir.path().join("image");
    let output = Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-N", "512"])
        .args(["-b", "4096", "-E", "lazy_itable_init=0"])
        .args(options)
        .arg(&path)
        .arg(size)
        .output()
        .expect("mke2fs");
    assert!(output.status.success(), "{output:?}");
    std::fs::read(&path).expect("the image")
}

fn check(bytes: &[u8]) {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let path = dir.path().join("image");
    std::fs::write(&path, bytes).expect("the image");
    let output = Command::new("e2fsck")
        .arg("-fn")
        .arg(&path)
        .output()
        .expect("e2fsck");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

fn options() -> Options {
    Options {
        memory: 16 << 20,
        max_write: 128 << 10,
        ..Options::default()
    }
}

fn mount(device: Arc<dyn Device>) -> Arc<Fs> {
    Fs::mount(device, options()).expect("it mounts")
}

fn create(fs: &Fs, name: &str) -> InodeNumber {
    let new = NewNode::File { mode: 0o644 };
    fs.create(Caller::default(), ROOT, name.as_bytes(), new, 0)
        .expect(name)
        .ino
}

fn write(fs: &Fs, ino: InodeNumber, offset: u64, bytes: &[u8]) {
    fs.write(ino, offset, bytes, KEEP).expect("a write");
}

fn read(fs: &Fs, ino: InodeNumber, offset: u64, length: usize) -> Vec<u8> {
    let bytes = fs.read(ino, offset, length).expect("a read");
    bytes.as_slice().to_vec()
}

/// Commits what is running, without flushing anything of the other files.
fn commit(fs: &Fs, name: &str) {
    let ino = create(fs, name);
    fs.fsync_wait(ino).expect("fsync");
}

fn holds(events: &[Event], value: u8) -> bool {
    events.iter().any(|event| {
        let Event::Write { bytes, .. } = event else {
            return false;
        };
        bytes.windows(64).any(|w| w.iter().all(|&b| b == value))
    })
}

#[test]
fn files_deleted_before_writeback_never_touch_the_disk() {
    let record = Arc::new(Record::new(Disk::new(Image::new(&image("32M", &[])))));
    let fs = mount(Arc::clone(&record) as Arc<_>);
    let before = fs.statfs();
    let ino = create(&fs, "short");
    record.take();
    (0..16).for_each(|i| write(&fs, ino, i << 16, &[0xa5; 1 << 16]));
    assert_eq!(
        before.free - fs.statfs().free,
        259,
        "data, and the map blocks that it may need"
    );
    assert_eq!(fs.getattr(ino).expect("getattr").blocks, 2048);
    fs.unlink(ROOT, b"short").expect("unlink");
    fs.forget(ino, 1);
    while fs.reap_step() {}
    assert_eq!(fs.statfs().free, before.free);
    fs.sync_all().expect("sync");
    assert!(!holds(&record.take(), 0xa5));
    assert_eq!(fs.memory().snapshot().class(Class::Dirty).current, 0);
    fs.unmount().expect("unmount");
}

#[test]
fn delayed_data_is_seen_by_everybody() {
    let record = Arc::new(Record::new(Disk::new(Image::new(&image("32M", &[])))));
    let fs = mount(Arc::clone(&record) as Arc<_>);
    let ino = create(&fs, "file");
    write(&fs, ino, 100, &[1; 5000]);
    write(&fs, ino, 40_960, &[2; 4096]);
    record.take();
    assert_eq!(fs.getattr(ino).expect("getattr").size, 45_056);
    let all = read(&fs, ino, 0, 100_000);
    assert_eq!(all.len(), 45_056);
    assert!(all[100..5100].iter().all(|&b| b == 1) && all[..100].iter().all(|&b| b == 0));
    assert!(all[5100..40_960].iter().all(|&b| b == 0));
    let seek = |at, whence| fs.seek(ino, at, whence).expect("seek");
    assert_eq!(seek(0, Whence::Hole), 8192);
    assert_eq!(seek(9000, Whence::Data), 40_960);
    assert_eq!(seek(41_000, Whence::Hole), 45_056);
    assert!(record.take().is_empty(), "nothing of this needs the disk");

    // Partly over delayed and written blocks, and past a direct write.
    fs.fsync_wait(ino).expect("fsync");
    write(&fs, ino, 4090, &[3; 20]);
    fs.write(ino, 40_960, &[4; 4096], DIRECT).expect("direct");
    write(&fs, ino, 41_000, &[5; 10]);
    fs.write(ino, 0, &[6; 4096], DIRECT).expect("direct");
    let all = read(&fs, ino, 0, 100_000);
    assert!(all[..4096].iter().all(|&b| b == 6) && all[4096..4110].iter().all(|&b| b == 3));
    assert_eq!(
        (all[4110], all[40_960], all[41_000], all[41_010]),
        (1, 4, 5, 4)
    );
    shrink_and_grow(&fs, ino);
    fs.unmount().expect("unmount");
}

fn shrink_and_grow(fs: &Fs, ino: InodeNumber) {
    let set_size = |size| {
        let set = SetAttr {
            size: Some(size),
            ..SetAttr::default()
        };
        fs.setattr(Caller::default(), ino, &set).expect("truncate");
    };
    write(fs, ino, 0, &[7; 20_000]);
    set_size(10_000);
    set_size(30_000);
    let all = read(fs, ino, 0, 50_000);
    assert_eq!(all.len(), 30_000);
    assert!(all[..10_000].iter().all(|&b| b == 7) && all[10_000..].iter().all(|&b| b == 0));
    write(fs, ino, 50_000, &[8; 10]);
    let who = Caller::default();
    let punch = Fallocate::PunchHole;
    fs.fallocate(who, ino, punch, 4096, 4096, true)
        .expect("punch");
    let all = read(fs, ino, 0, 60_000);
    assert!(all[4096..8192].iter().all(|&b| b == 0) && all[8192] == 7 && all[50_009] == 8);
}

/// What is on the disk after a commit that another file asked for.
#[test]
fn the_size_never_comes_before_the_data() {
    let disk = Disk::new(Image::new(&image("32M", &[])));
    let fs = mount(Arc::clone(&disk) as Arc<_>);
    let ino = create(&fs, "file");
    fs.fsync_wait(ino).expect("fsync");
    write(&fs, ino, 0, &[1; 10_000]);
    let mode = SetAttr {
        mode: Some(0o600),
        ..SetAttr::default()
    };
    fs.setattr(Caller::default(), ino, &mode).expect("chmod");
    commit(&fs, "other");
    let cut = mount(Disk::new(Image::new(&disk.image().bytes())));
    let attr = cut.getattr(ino).expect("getattr");
    assert_eq!((attr.size, attr.mode & 0o777), (0, 0o600));
    fs.fsync_wait(ino).expect("fsync");
    let cut = mount(Disk::new(Image::new(&disk.image().bytes())));
    assert_eq!(cut.getattr(ino).expect("getattr").size, 10_000);
    assert!(read(&cut, ino, 0, 10_000).iter().all(|&b| b == 1));
    fs.unmount().expect("unmount");
    check(&disk.image().bytes());
}

#[test]
fn data_grows_no_older_than_it_may() {
    let record = Arc::new(Record::new(Disk::new(Image::new(&image("32M", &[])))));
    let clock = Arc::new(Ticks::default());
    let fs = Fs::mount_at(
        Arc::clone(&record) as Arc<_>,
        options(),
        Arc::clone(&clock) as Arc<_>,
    )
    .expect("it mounts");
    let ino = create(&fs, "file");
    write(&fs, ino, 0, &[0xa5; 10_000]);
    assert!(!fs.flush_step().expect("a step"), "it is young");
    assert!(!holds(&record.take(), 0xa5));
    clock.advance(Duration::from_secs(6));
    assert!(fs.flush_step().expect("a step"));
    assert!(holds(&record.take(), 0xa5));
    assert!(!fs.flush_step().expect("a step"));
    fs.unmount().expect("unmount");
}

#[test]
fn what_replaces_a_file_is_there_before_the_name() {
    let disk = Disk::new(Image::new(&image("32M", &[])));
    let fs = mount(Arc::clone(&disk) as Arc<_>);
    let old = create(&fs, "file");
    write(&fs, old, 0, &[1; 5000]);
    fs.fsync_wait(old).expect("fsync");
    let new = create(&fs, "file.new");
    write(&fs, new, 0, &[2; 9000]);
    let (from, to) = ((ROOT, b"file.new".as_slice()), (ROOT, b"file".as_slice()));
    fs.rename(Caller::default(), from, to, RenameMode::Replace)
        .expect("rename");
    commit(&fs, "first");
    let cut = mount(Disk::new(Image::new(&disk.image().bytes())));
    let found = cut.lookup(ROOT, b"file").expect("the name");
    assert_eq!((found.ino, found.size), (new, 9000));
    assert!(read(&cut, new, 0, 9000).iter().all(|&b| b == 2));

    // The same with truncation: at the last close.
    fs.opened(new, true);
    let empty = SetAttr {
        size: Some(0),
        ..SetAttr::default()
    };
    fs.setattr(Caller::default(), new, &empty)
        .expect("truncate");
    write(&fs, new, 0, &[3; 7000]);
    fs.release(new, true);
    commit(&fs, "second");
    let cut = mount(Disk::new(Image::new(&disk.image().bytes())));
    assert!(read(&cut, new, 0, 9000) == [3; 7000]);
    fs.unmount().expect("unmount");
}

/// Free blocks hold something that no file may ever show.
#[test]
fn a_cut_between_data_and_commit_shows_nothing_stale() {
    let mut base = image("16M", &["-O", "metadata_csum"]);
    let fs = mount(Disk::new(Image::new(&base.clone())));
    let ino = create(&fs, "stale");
    let free = fs.statfs().free;
    drop(fs);
    let disk = Disk::new(Image::new(&base.clone()));
    let fs = mount(Arc::clone(&disk) as Arc<_>);
    let filler = create(&fs, "stale");
    assert_eq!(ino, filler);
    let mut at = 0;
    while fs.write(filler, at << 12, &[0xee; 4096], KEEP).is_ok() {
        at += 1;
    }
    assert!(at > free * 9 / 10, "{at} of {free}");
    fs.sync_all().expect("sync");
    fs.unlink(ROOT, b"stale").expect("unlink");
    fs.forget(filler, 1);
    fs.unmount().expect("unmount");
    base = disk.image().bytes();

    let record = Arc::new(Record::new(Disk::new(Image::new(&base.clone()))));
    let fs = mount(Arc::clone(&record) as Arc<_>);
    let mut rng = Rng(11);
    let files: Vec<_> = (0..4).map(|i| create(&fs, &format!("f{i}"))).collect();
    for step in 0..40 {
        let ino = files[rng.below(4) as usize];
        let (at, length) = (rng.below(200_000), 1 + rng.below(20_000));
        let how = if rng.below(4) == 0 { DIRECT } else { KEEP };
        fs.write(ino, at, &vec![0x11; length as usize], how)
            .expect("a write");
        match step % 8 {
            3 => fs.fsync_wait(ino).expect("fsync"),
            5 => fs.commit_step().expect("a step"),
            7 => fs.sync_all().expect("sync"),
            _ => {}
        }
    }
    let events = record.take();
    assert!(events.len() > 60, "{}", events.len());
    let mut disk = base;
    for event in events {
        record::replay(&mut disk, std::slice::from_ref(&event)).expect("inside");
        if rng.below(4) > 0 {
            continue;
        }
        let cut = mount(Disk::new(Image::new(&disk.clone())));
        for ino in &files {
            let Ok(attr) = cut.getattr(*ino) else {
                continue;
            };
            let bytes = read(&cut, *ino, 0, attr.size as usize);
            assert!(bytes.iter().all(|&b| b == 0 || b == 0x11), "stale data");
        }
    }
}

#[test]
fn a_failed_write_is_told_to_every_sync_and_loses_no_reader() {
    let disk = Disk::new(Image::new(&image("32M", &[])));
    let fs = mount(Arc::clone(&disk) as Arc<_>);
    let ino = create(&fs, "file");
    fs.unmount().expect("unmount");
    // The first write after the mount is the data's.
    let fs = mount(Arc::new(Faulty::new(
        disk,
        Faults {
            eio_write: Some(1),
            ..Faults::default()
        },
        || {},
    )));
    write(&fs, ino, 0, &[9; 5000]);
    for _ in 0..3 {
        assert!(fs.fsync_wait(ino).is_err());
    }
    assert!(read(&fs, ino, 0, 5000) == [9; 5000]);
    assert!(fs.write(ino, 0, &[1; 10], KEEP).is_err());
    assert!(fs.unmount().is_err());
}

#[test]
fn no_more_waits_for_the_disk_than_may() {
    let fs = mount(Disk::new(Image::new(&image("64M", &[]))));
    let ino = create(&fs, "file");
    (0..384).for_each(|i| write(&fs, ino, i << 17, &[i as u8; 1 << 17]));
    let peak = fs.memory().snapshot().class(Class::Dirty).peak;
    let limit = fs.memory().dirty_limit();
    assert!(
        peak > limit / 2 && peak < limit + (1 << 20),
        "{peak} of {limit}"
    );
    for i in (0..384).step_by(7) {
        assert!(
            read(&fs, ino, i << 17, 1 << 17)
                .iter()
                .all(|&b| b == i as u8)
        );
    }
    assert_eq!(fs.memory().snapshot().overdrawn_frames, 0);
    fs.unmount().expect("unmount");
}

/// The same with flushers at work and writers that are quicker than the disk.
#[test]
fn throttled_writers_come_through() {
    let disk = Disk::new(Image::new(&image("160M", &[])));
    let fs = mount(Arc::clone(&disk) as Arc<_>);
    fs.start_threads().expect("threads");
    let files: Vec<_> = (0..4).map(|i| create(&fs, &format!("f{i}"))).collect();
    std::thread::scope(|scope| {
        for (i, ino) in files.iter().enumerate() {
            let fs = &fs;
            scope.spawn(move || {
                for step in 0..200_u64 {
                    write(fs, *ino, step << 17, &[i as u8 + 1; 1 << 17]);
                }
            });
        }
    });
    for (i, ino) in files.iter().enumerate() {
        for step in (0..200_u64).step_by(13) {
            let bytes = read(&fs, *ino, step << 17, 1 << 17);
            assert!(bytes.iter().all(|&b| b == i as u8 + 1));
        }
    }
    fs.unmount().expect("unmount");
    check(&disk.image().bytes());
}

/// Files that were accepted, with their contents' seed.
type Accepted = BTreeMap<(InodeNumber, String), (u64, u8)>;

fn fill(fs: &Fs, thread: u64, round: u64, full: &AtomicBool) -> Accepted {
    let mut rng = Rng(1000 * round + thread + 1);
    let mut accepted = Accepted::new();
    for number in 0.. {
        let name = format!("t{thread}-{number}");
        let new = NewNode::File { mode: 0o644 };
        let made = fs.create(Caller::default(), ROOT, name.as_bytes(), new, 0);
        let Ok(attr) = made else { break };
        let value = 1 + (number * 7 + thread) as u8 % 250;
        let wanted = 1 + rng.below(400_000);
        let mut size = 0;
        let mut error = None;
        while size < wanted && error.is_none() {
            let length = (1 + rng.below(30_000)).min(wanted - size);
            match fs.write(attr.ino, size, &vec![value; length as usize], KEEP) {
                Ok(()) => size += length,
                Err(found) => error = Some(found),
            }
        }
        if number % 3 == 0 {
            fs.fsync_wait(attr.ino)
                .expect("what was accepted has its space");
        }
        accepted.insert((attr.ino, name), (size, value));
        if let Some(error) = error {
            assert!(error.is_posix(Posix::NoSpc), "{error}");
            full.store(true, Ordering::Relaxed);
            break;
        }
    }
    accepted
}

#[test]
fn a_full_file_system_loses_nothing_that_was_accepted() {
    for form in [
        &["-b", "1024"][..],
        &[],
        &["-b", "1024", "-O", "^extent,^64bit"],
    ] {
        let disk = Disk::new(Image::new(&image("24M", form)));
        let start = mount(Arc::clone(&disk) as Arc<_>);
        // The directory keeps its blocks when its names go.
        let names: Vec<_> = (0..300).map(|i| format!("{i:0100}")).collect();
        let many = names
            .iter()
            .map(|name| ((create(&start, name), name.clone()), (0, 0)));
        remove(&start, &many.collect());
        let before = start.statfs().free;
        start.unmount().expect("unmount");
        for round in 0..2 {
            let fs = mount(Arc::clone(&disk) as Arc<_>);
            fs.start_threads().expect("threads");
            let full = AtomicBool::new(false);
            let accepted: Accepted = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..8)
                    .map(|thread| {
                        let (fs, full) = (&fs, &full);
                        scope.spawn(move || fill(fs, thread, round, full))
                    })
                    .collect();
                let all = threads.into_iter().map(|t| t.join().expect("a writer"));
                all.flatten().collect()
            });
            assert!(full.load(Ordering::Relaxed), "it was filled");
            fs.unmount()
                .expect("unmount: all that was accepted has its space");
            drop(fs);
            check(&disk.image().bytes());
            let fs = mount(Arc::clone(&disk) as Arc<_>);
            assert!(fs.statfs().free < 64, "{:?}", fs.statfs());
            for ((ino, name), (size, value)) in &accepted {
                let bytes = read(&fs, *ino, 0, 500_000);
                assert_eq!(bytes.len() as u64, *size, "{name}");
                assert!(bytes.iter().all(|b| b == value), "{name}");
            }
            remove(&fs, &accepted);
            assert_eq!(fs.statfs().free, before, "{form:?} round {round}");
            fs.unmount().expect("unmount");
            drop(fs);
            check(&disk.image().bytes());
        }
    }
}

fn remove(fs: &Fs, accepted: &Accepted) {
    for (ino, name) in accepted.keys() {
        fs.unlink(ROOT, name.as_bytes()).expect("unlink");
        fs.forget(*ino, 1);
    }
    while fs.reap_step() {}
    fs.sync_all().expect("sync");
}

/// Files that grow side by side, a little at a time, lie in few pieces.
#[test]
fn appenders_side_by_side_get_large_extents() {
    let disk = Disk::new(Image::new(&image("128M", &[])));
    let fs = mount(Arc::clone(&disk) as Arc<_>);
    let files: Vec<_> = (0..8).map(|i| create(&fs, &format!("f{i}"))).collect();
    files.iter().for_each(|ino| fs.opened(*ino, true));
    for step in 0..1024_u64 {
        files
            .iter()
            .for_each(|ino| write(&fs, *ino, step << 13, &[1; 1 << 13]));
    }
    fs.unmount().expect("unmount");
    let dir = tempfile::tempdir().expect("a scratch directory");
    let path = dir.path().join("image");
    std::fs::write(&path, disk.image().bytes()).expect("the image");
    for i in 0..8 {
        let output = Command::new("debugfs")
            .args(["-R", &format!("stat f{i}")])
            .arg(&path)
            .output()
            .expect("debugfs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let extents = text.split("EXTENTS:").nth(1).unwrap_or_default();
        let count = extents.split("), (").count();
        assert!(count <= 8, "{count} extents: {extents}");
    }
}

#[test]
fn errors_are_of_the_right_kind() {
    let fs = mount(Disk::new(Image::new(&image("32M", &[]))));
    let ino = create(&fs, "file");
    let error = fs
        .write(ino, u64::MAX - 5, &[1; 10], KEEP)
        .expect_err("too far");
    assert!(matches!(error, Error::Posix(Posix::FBig)), "{error}");
    let error = fs.write(ROOT, 0, &[1; 10], KEEP).expect_err("a directory");
    assert!(error.is_posix(Posix::Inval), "{error}");
    fs.unmount().expect("unmount");
}

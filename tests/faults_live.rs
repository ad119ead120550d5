//! Faults of the device under the real daemon: what callers get, what `errors=` does, and that the next mount has what was
//! acknowledged. With the feature `faults`, as `cargo xtask test` has it; the image file without space below needs none.

#[path = "common/harness.rs"]
mod harness;

use harness::{Kind, Mount, Scratch, judge, run};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Writes and fsyncs files until it fails; returns how many are promised, and the failure.
fn write_files(mount: &Mount, most: u32) -> (u32, Option<io::Error>) {
    for number in 0..most {
        let written = File::create(mount.at(number.to_string())).and_then(|mut file| {
            file.write_all(&content(number))?;
            file.sync_all()
        });
        if let Err(error) = written {
            return (number, Some(error));
        }
    }
    (most, None)
}

fn content(number: u32) -> Vec<u8> {
    vec![b'a' + (number % 26) as u8; 20_000 + number as usize]
}

/// The next mount, without faults, has them all.
fn all_there(scratch: &Scratch, image: &Path, promised: u32) {
    let mount = Mount::new(Kind::Uext4, image, &scratch.dir("again"), "");
    for number in 0..promised {
        let found = std::fs::read(mount.at(number.to_string()));
        let found = found.unwrap_or_else(|e| panic!("file {number} of {promised}: {e}"));
        assert!(found == content(number), "file {number} of {promised}");
    }
    mount.unmount();
}

/// A full host file system under a sparse image: an error that ends writing, and nothing is lost that was acknowledged.
#[test]
fn an_image_without_space_below_it() {
    let scratch = Scratch::new();
    let host = scratch.dir("host");
    run!("mount", "-t", "tmpfs", "-o", "size=24M", "tmpfs", host);
    let path = host.join("disk.img");
    run!("truncate", "-s", "256M", path);
    run!("mke2fs", "-q", "-F", "-t", "ext4", "-J", "size=4", path);
    let outcome = std::panic::catch_unwind(|| {
        let mount = Mount::new(Kind::Uext4, &path, &scratch.dir("mnt"), "");
        let (promised, error) = write_files(&mount, 4000);
        let error = error.expect("24 MiB are not enough for 80");
        let code = error.raw_os_error();
        let expected = [libc::ENOSPC, libc::EIO, libc::EROFS];
        assert!(code.is_some_and(|code| expected.contains(&code)), "{error}");
        assert!(promised > 20, "{promised}");
        for _ in 0..3 {
            let later = File::open(mount.at("0")).and_then(|file| file.sync_all());
            assert!(later.is_err(), "fsync succeeds after the end of writing");
            assert!(std::fs::write(mount.at("later"), "x").is_err());
        }
        mount.kill();
        // Somebody makes room.
        run!("mount", "-o", "remount,size=200M", host);
        all_there(&scratch, &path, promised);
        judge_recorded(&path);
    });
    run!("umount", "-l", host);
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// Clean but for the record of the error, which is right to be there: e2fsck -p clears it and finds nothing else.
fn judge_recorded(path: &Path) {
    let outcome = harness::attempt!("e2fsck", "-fp", path);
    assert!(
        matches!(outcome.code, Some(0 | 1)),
        "{}",
        outcome.describe()
    );
    judge::clean_at(path);
}

#[cfg(feature = "faults")]
mod by_option {
    use super::*;
    use harness::Image;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{Duration, Instant};

    fn start(scratch: &Scratch, options: &str) -> (Image, Mount) {
        let image = Image::mke2fs(scratch, "disk.img", "128M", "-t ext4 -J size=4");
        let dir = scratch.dir("mnt");
        let mount = Mount::new(Kind::Uext4, image.path(), &dir, options);
        (image, mount)
    }

    #[test]
    fn a_failed_sync_reaches_every_caller_and_stays() {
        let scratch = Scratch::in_memory();
        let (image, mount) = start(&scratch, "rw,fault=eio-sync=40");
        let (promised, error) = write_files(&mount, 1000);
        let error = error.expect("a sync fails");
        let code = error.raw_os_error();
        assert!(matches!(code, Some(libc::EIO | libc::EROFS)), "{error}");
        // Every file is asked, from threads of their own: none is durable any more by asking.
        std::thread::scope(|scope| {
            for number in 0..promised.min(8) {
                let path = mount.at(number.to_string());
                scope.spawn(move || {
                    let synced = File::open(path).and_then(|file| file.sync_all());
                    assert!(synced.is_err(), "fsync {number} succeeds later");
                });
            }
        });
        mount.kill();
        all_there(&scratch, image.path(), promised);
        judge_recorded(image.path());
    }

    #[test]
    fn a_failed_write_ends_writing_and_reading_goes_on() {
        let scratch = Scratch::in_memory();
        let (image, mount) = start(&scratch, "rw,fault=eio-write=60");
        let (promised, error) = write_files(&mount, 1000);
        assert!(error.is_some() && promised > 3, "{promised}: {error:?}");
        for number in 0..promised {
            let found = std::fs::read(mount.at(number.to_string())).expect("it is readable");
            assert!(found == content(number));
        }
        assert!(std::fs::create_dir(mount.at("later")).is_err());
        let ended = harness::attempt!(env!("CARGO_BIN_EXE_uext4"), "umount", mount.path());
        assert!(!ended.ok(), "the unmount says that not all was written");
        drop(mount);
        all_there(&scratch, image.path(), promised);
        judge_recorded(image.path());
    }

    /// `errors=panic`: the daemon ends at once and leaves the journal.
    #[test]
    fn errors_panic_ends_the_daemon() {
        let scratch = Scratch::in_memory();
        let (image, mount) = start(&scratch, "rw,errors=panic,fault=eio-write=60");
        let (promised, error) = write_files(&mount, 1000);
        assert!(error.is_some(), "nothing failed");
        wait_for_the_end(&mount);
        mount.kill();
        all_there(&scratch, image.path(), promised);
        judge_recorded(image.path());
    }

    fn wait_for_the_end(mount: &Mount) {
        let end = Instant::now() + Duration::from_secs(20);
        while !mount.has_ended() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(mount.has_ended(), "the daemon lives: {}", mount.log());
    }

    /// Whichever thread it is that panics: nobody waits for ever for what it held, and what was promised is there.
    #[test]
    fn a_panic_ends_the_daemon() {
        for (fault, doing) in [
            ("panic-read=12", "read 12"),
            ("panic-write=45", "write 45"),
            ("panic-write=46", "write 46"),
            ("panic-write=47", "write 47"),
            ("panic-sync=20", "sync 20"),
        ] {
            let scratch = Scratch::in_memory();
            let (image, mount) = start(&scratch, &format!("rw,fault={fault}"));
            let (promised, error) = write_files(&mount, 1000);
            assert!(error.is_some(), "{fault}: nothing failed");
            wait_for_the_end(&mount);
            let log = mount.log();
            let line = log.lines().find(|line| line.contains(doing));
            let said = line.is_some_and(|_| log.contains("the daemon ends"));
            assert!(said && log.contains("ERROR"), "{fault}: {log}");
            mount.kill();
            all_there(&scratch, image.path(), promised);
            judge_recorded(image.path());
        }
    }

    /// An image whose root has these directories, each with a file `file`.
    fn directories(scratch: &Scratch, names: &[String]) -> Image {
        let image = Image::mke2fs(scratch, "disk.img", "1G", "-t ext4");
        let mount = Mount::new(Kind::Uext4, image.path(), &scratch.dir("mnt"), "rw");
        for name in names {
            std::fs::create_dir(mount.at(name)).expect("mkdir");
            std::fs::write(mount.at(name).join("file"), "x").expect("write");
        }
        mount.unmount();
        image
    }

    fn numbers(count: u64) -> Vec<String> {
        (0..count).map(|number| number.to_string()).collect()
    }

    /// The gauges are there although nobody is answered who needs the device.
    #[test]
    fn stats_answer_while_the_device_stands_still() {
        const DIRECTORIES: u64 = 40;
        let scratch = Scratch::in_memory();
        let image = directories(&scratch, &numbers(DIRECTORIES));
        let dir = scratch.dir("mnt");
        let options = "rw,fault=read-delay=100000ms,fault=read-delay-from=40";
        let mount = Mount::new(Kind::Uext4, image.path(), &dir, options);
        let reads = |number: u64| dir.join(number.to_string()).join("file").metadata().is_ok();
        let answered = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for number in 0..DIRECTORIES {
                let (reads, answered) = (&reads, &answered);
                scope.spawn(move || {
                    if reads(number) {
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            std::thread::sleep(Duration::from_secs(2));
            let before = answered.load(Ordering::Relaxed);
            assert!(before < DIRECTORIES, "nothing hangs");
            let stats = run!(env!("CARGO_BIN_EXE_uext4"), "stats", "--json", mount.path());
            let stats: serde_json::Value = serde_json::from_str(&stats).expect("JSON");
            assert!(stats["memory"]["cap"].as_u64() > Some(0), "{stats}");
            assert_eq!(answered.load(Ordering::Relaxed), before);
            mount.kill();
        });
    }

    /// More questions than workers wait for a device that stands still; whatever is in memory is served all the same.
    #[test]
    fn what_needs_no_device_is_served_while_the_device_stands_still() {
        const COLD: u64 = 60;
        let scratch = Scratch::in_memory();
        let mut names = numbers(COLD);
        names.push("hot".into());
        let image = directories(&scratch, &names);
        let dir = scratch.dir("mnt");
        let hot = dir.join("hot");
        let options = "rw,writethrough,fault=read-delay=100000ms,fault=read-delay-from=40";
        let mount = Mount::new(Kind::Uext4, image.path(), &dir, options);
        let mut file = File::options().append(true).open(hot.join("file"));
        let file = file.as_mut().expect("open");
        file.write_all(b"warm").expect("write");
        assert!(!hot.join("none").exists());
        let (asked, answered) = (AtomicU64::new(0), AtomicU64::new(0));
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            for number in 0..COLD {
                let (dir, asked, answered) = (&dir, &asked, &answered);
                scope.spawn(move || {
                    asked.fetch_add(1, Ordering::Relaxed);
                    let cold = dir.join(number.to_string()).join("file").metadata();
                    answered.fetch_add(u64::from(cold.is_ok()), Ordering::Relaxed);
                });
            }
            std::thread::sleep(Duration::from_secs(2));
            let before = answered.load(Ordering::Relaxed);
            assert_eq!(asked.load(Ordering::Relaxed), COLD);
            assert!(COLD - before > 4, "{before} of {COLD} were served");
            scope.spawn(|| {
                file.write_all(&[b'x'; 4000]).expect("write");
                assert!(!hot.join("none of the names").exists());
                tell.send(()).expect("somebody waits");
            });
            let served = told.recv_timeout(Duration::from_secs(20));
            let after = answered.load(Ordering::Relaxed);
            mount.kill();
            assert!(served.is_ok(), "nothing is served any more");
            assert_eq!(after, before, "the device did not stand still");
        });
    }

    /// Two workers, one of which may wait: what the others ask is served by threads that stand by, writes too, from copies.
    #[test]
    fn what_is_put_aside_is_served_once_and_right() {
        const EACH: usize = 12;
        let scratch = Scratch::in_memory();
        let options = "rw,writethrough,threads=2,memory=12M,fault=read-delay=3ms";
        let (image, mount) = start(&scratch, options);
        let part = |writer: u8, round: usize| vec![writer + round as u8; 5000 + 100 * round];
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let (mount, dir) = (&mount, mount.at(writer.to_string()));
                scope.spawn(move || {
                    std::fs::create_dir(&dir).expect("mkdir");
                    let create = |n: usize| File::create(dir.join(n.to_string())).expect("create");
                    let files: Vec<File> = (0..EACH).map(create).collect();
                    for round in 0..4 {
                        for mut file in &files {
                            file.write_all(&part(writer, round)).expect("write");
                        }
                        run!(env!("CARGO_BIN_EXE_uext4"), "evict", mount.path());
                    }
                    std::fs::rename(dir.join("0"), dir.join("renamed")).expect("rename");
                    std::fs::remove_file(dir.join("1")).expect("remove");
                });
            }
        });
        let stats = run!(env!("CARGO_BIN_EXE_uext4"), "stats", "--json", mount.path());
        let stats: serde_json::Value = serde_json::from_str(&stats).expect("JSON");
        assert!(stats["put_aside"].as_u64() > Some(8), "{stats}");
        mount.unmount();
        judge::clean(&image);
        let mount = Mount::new(Kind::Uext4, image.path(), &scratch.dir("again"), "");
        for writer in 0..8_u8 {
            let expected: Vec<u8> = (0..4).flat_map(|round| part(writer, round)).collect();
            let dir = mount.at(writer.to_string());
            assert!(!dir.join("0").exists() && !dir.join("1").exists());
            for name in ["renamed", "2", "11"] {
                let found = std::fs::read(dir.join(name)).expect("read");
                assert!(found == expected, "{writer}/{name}");
            }
        }
        mount.unmount();
    }

    #[test]
    fn a_slow_device_is_only_slow() {
        let scratch = Scratch::in_memory();
        let (image, mount) = start(&scratch, "rw,fault=read-delay=5ms,fault=write-delay=2ms");
        let (promised, error) = write_files(&mount, 20);
        assert!(error.is_none(), "{error:?}");
        mount.unmount();
        judge::clean(&image);
        all_there(&scratch, image.path(), promised);
    }
}

//! `kill -9` of the daemon under load: the next mount replays the journal, and what was fsynced is whole.

#[path = "common/harness.rs"]
mod harness;

use harness::{Image, Kind, Mount, Scratch, judge};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A file's content follows from its number.
fn content(number: u32) -> Vec<u8> {
    let len = 1000 + (number as usize * 7919) % 60_000;
    (0..len)
        .map(|at| ((at as u32).wrapping_mul(31).wrapping_add(number) >> 3) as u8)
        .collect()
}

/// Writes and fsyncs files until the daemon is gone; `done` is the number of whole ones.
fn write_files(dir: &Path, done: &AtomicU32) {
    for number in 0..1_000_000 {
        let written = File::create(dir.join(number.to_string())).and_then(|mut file| {
            file.write_all(&content(number))?;
            file.sync_all()
        });
        if written.is_err() {
            return;
        }
        done.store(number + 1, Ordering::SeqCst);
    }
}

/// One round: fill, kill, replay, look, judge.
fn kill_after(pause: Duration) {
    let scratch = Scratch::new();
    let image = Image::default(&scratch);
    let mount = Mount::new(Kind::Uext4, image.path(), &scratch.dir("mnt"), "");
    let done = Arc::new(AtomicU32::new(0));
    let writer = {
        let (dir, done) = (mount.path().to_path_buf(), done.clone());
        std::thread::spawn(move || write_files(&dir, &done))
    };
    std::thread::sleep(pause);
    mount.kill();
    writer.join().expect("writer");
    let done = done.load(Ordering::SeqCst);
    assert!(done > 0, "nothing was fsynced in {pause:?}");

    let mount = Mount::new(Kind::Uext4, image.path(), &scratch.dir("again"), "");
    for number in 0..done {
        let found = std::fs::read(mount.at(number.to_string()))
            .unwrap_or_else(|e| panic!("fsynced file {number}: {e}"));
        assert!(
            found == content(number),
            "fsynced file {number} of {done} is not whole"
        );
    }
    mount.unmount();
    judge::clean(&image);
}

#[test]
fn files_fsynced_before_a_kill_are_whole() {
    for millis in [300, 1100, 2300] {
        kill_after(Duration::from_millis(millis));
    }
}

#[test]
fn e2fsck_replays_what_a_killed_daemon_left() {
    let scratch = Scratch::new();
    let image = Image::default(&scratch);
    let mount = Mount::new(Kind::Uext4, image.path(), &scratch.dir("mnt"), "");
    std::fs::write(mount.at("kept"), "kept").expect("write");
    File::open(mount.at("kept"))
        .and_then(|file| file.sync_all())
        .expect("fsync");
    mount.kill();
    let outcome = harness::attempt!("e2fsck", "-fp", image.path());
    assert!(
        matches!(outcome.code, Some(0 | 1)),
        "{}",
        outcome.describe()
    );
    judge::clean(&image);
    let kept = harness::mount::with_kernel(&image, &scratch.dir("kernel"), "ro", |root| {
        std::fs::read(root.join("kept"))
    });
    assert_eq!(kept.expect("kept"), b"kept");
}

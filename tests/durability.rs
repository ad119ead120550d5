//! What becomes durable when: moments inside of a commit, and inside of marking the file system clean.
//!
//! Source: the design's section on the journal.

use std::io::IoSlice;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use uext4::clock::Clock;
use uext4::device::Device;
use uext4::device::record::{Event, Record};
use uext4::device::sim::{Disk, Image, Ticks};
use uext4::error::{Error, Result};
use uext4::fs::{Caller, Fs, NewNode, Options, WriteMode};
use uext4::ids::InodeNumber;

type Hook = Box<dyn FnMut(Moment) + Send>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Moment {
    Write(u64),
    /// The sync of this number is under way.
    Sync(u32),
}

/// Tells of each write and sync before it is done.
struct Watched {
    disk: Arc<Disk>,
    syncs: AtomicU32,
    /// Every sync fails.
    broken: AtomicBool,
    hook: Mutex<Option<Hook>>,
}

impl Watched {
    fn new(options: &[&str]) -> Arc<Self> {
        let disk = Disk::new(Image::new(&image(options)));
        Arc::new(Self {
            disk,
            syncs: AtomicU32::new(0),
            broken: AtomicBool::new(false),
            hook: Mutex::new(None),
        })
    }

    fn syncs(&self) -> u32 {
        self.syncs.load(Ordering::SeqCst)
    }

    fn watch(&self, hook: impl FnMut(Moment) + Send + 'static) {
        *self.hook.lock().expect("the hook") = Some(Box::new(hook));
    }

    fn tell(&self, moment: Moment) {
        // Not locked meanwhile: what the hook does may write.
        let hook = self.hook.lock().expect("the hook").take();
        if let Some(mut hook) = hook {
            hook(moment);
            self.hook.lock().expect("the hook").get_or_insert(hook);
        }
    }
}

impl Device for Watched {
    fn len(&self) -> u64 {
        self.disk.len()
    }
    fn sector_size(&self) -> u32 {
        512
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.disk.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.tell(Moment::Write(offset));
        self.disk.write_at(offset, bytes)
    }
    fn write_vectored_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> Result<()> {
        self.tell(Moment::Write(offset));
        self.disk.write_vectored_at(offset, slices)
    }
    fn sync(&self) -> Result<()> {
        let number = self.syncs.fetch_add(1, Ordering::SeqCst) + 1;
        self.tell(Moment::Sync(number));
        if self.broken.load(Ordering::SeqCst) {
            return Err(Error::Aborted);
        }
        self.disk.sync()
    }
    fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.disk.discard(offset, length)
    }
    fn write_zeroes(&self, offset: u64, length: u64) -> Result<()> {
        self.disk.write_zeroes(offset, length)
    }
}

fn image(options: &[&str]) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let mut command = Command::new("mke2fs");
    command
        .args(["-q", "-F", "-t", "ext4"])
        .args(options)
        .arg(file.path())
        .arg("8M");
    let output = command.output().expect("mke2fs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    std::fs::read(file.path()).expect("the image")
}

fn mount(device: Arc<dyn Device>) -> Arc<Fs> {
    let options = Options {
        memory: 32 << 20,
        ..Options::default()
    };
    Fs::mount_at(device, options, Arc::new(Ticks::default())).expect("it mounts")
}

fn create(fs: &Fs, name: &[u8]) -> InodeNumber {
    let new = NewNode::File { mode: 0o644 };
    fs.create(Caller::default(), InodeNumber::ROOT, name, new, 0)
        .expect("a file")
        .ino
}

#[test]
fn fsync_during_a_commit_takes_a_sync_that_begins_later() {
    let device = Watched::new(&["-b", "1024"]);
    let fs = mount(Arc::clone(&device) as Arc<_>);
    let ino = create(&fs, b"a");
    let asked_at = Arc::new(AtomicU32::new(0));
    let done_at = Arc::new(AtomicU32::new(0));
    let start = device.syncs();
    // The second sync of a commit has begun: file data written from now on need not be part of it.
    let hook = {
        let (fs, asked_at, done_at, device) = (
            Arc::clone(&fs),
            Arc::clone(&asked_at),
            Arc::clone(&done_at),
            Arc::clone(&device),
        );
        move |moment| {
            if moment == Moment::Sync(start + 2) {
                asked_at.store(start + 2, Ordering::SeqCst);
                let (done_at, device) = (Arc::clone(&done_at), Arc::clone(&device));
                let done = move |result: Result<()>| {
                    result.expect("it is durable");
                    done_at.store(device.syncs(), Ordering::SeqCst);
                };
                fs.fsync(0, ino, false, Box::new(done));
            }
        }
    };
    device.watch(hook);
    fs.sync_all().expect("sync");
    fs.commit_step().expect("a step");
    assert_ne!(
        asked_at.load(Ordering::SeqCst),
        0,
        "the commit had two syncs"
    );
    assert!(done_at.load(Ordering::SeqCst) > asked_at.load(Ordering::SeqCst));
    device.watch(|_| {});
    fs.unmount().expect("unmount");
}

#[test]
fn changes_wait_while_the_file_system_is_marked_clean() {
    let device = Watched::new(&["-b", "1024"]);
    let fs = mount(Arc::clone(&device) as Arc<_>);
    create(&fs, b"a");
    fs.sync_all().expect("sync");
    let finished = Arc::new(AtomicBool::new(false));
    let threads = Arc::new(Mutex::new(Vec::new()));
    let hook = {
        let (fs, finished, threads) =
            (Arc::clone(&fs), Arc::clone(&finished), Arc::clone(&threads));
        move |moment| {
            if moment == Moment::Write(1024) {
                let (fs, finished) = (Arc::clone(&fs), Arc::clone(&finished));
                let change = std::thread::spawn({
                    let finished = Arc::clone(&finished);
                    move || {
                        create(&fs, b"b");
                        finished.store(true, Ordering::SeqCst);
                    }
                });
                threads.lock().expect("threads").push(change);
                std::thread::sleep(Duration::from_millis(100));
                assert!(
                    !finished.load(Ordering::SeqCst),
                    "the superblock counts what may be lost"
                );
            }
        }
    };
    device.watch(hook);
    fs.mark_clean().expect("it is marked clean");
    device.watch(|_| {});
    for thread in threads.lock().expect("threads").drain(..) {
        thread.join().expect("the change is made afterwards");
    }
    assert!(finished.load(Ordering::SeqCst));
    fs.unmount().expect("unmount");
}

/// Without a journal a crash leaves blocks of two times: the image must not say that it is clean.
#[test]
fn without_a_journal_the_mark_of_use_is_durable_before_anything_goes_home() {
    let record = Arc::new(Record::new(Disk::new(Image::new(&image(&[
        "-b",
        "1024",
        "-O",
        "^has_journal",
    ])))));
    let fs = mount(Arc::clone(&record) as Arc<_>);
    let ino = create(&fs, b"a");
    fs.write(ino, 0, b"data", WriteMode::default())
        .expect("a write");
    record.take();
    fs.sync_all().expect("sync");
    let mut events = record.take();
    // Data goes into free blocks before anything tells of it.
    events
        .retain(|event| !matches!(event, Event::Write { bytes, .. } if bytes.starts_with(b"data")));
    let first = events.iter().take(2).collect::<Vec<_>>();
    assert!(
        matches!(first[0], Event::Write { offset: 1024, .. }),
        "the superblock first"
    );
    assert_eq!(*first[1], Event::Sync);
    assert!(events.len() > 3, "then the rest");
    fs.unmount().expect("unmount");
}

/// A mount with threads of its own and `workers` that ask.
fn mount_served(device: &Arc<Watched>, workers: usize) -> Arc<Fs> {
    let options = Options {
        memory: 32 << 20,
        threads: workers,
        ..Options::default()
    };
    let device = Arc::clone(device) as Arc<dyn Device>;
    let fs = Fs::mount(device, options).expect("it mounts");
    fs.start_threads().expect("threads");
    fs
}

/// Which threads sync from now on.
fn syncing_threads(device: &Watched) -> Arc<Mutex<Vec<std::thread::ThreadId>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let theirs = Arc::clone(&seen);
    device.watch(move |moment| {
        if matches!(moment, Moment::Sync(_)) {
            theirs
                .lock()
                .expect("threads")
                .push(std::thread::current().id());
        }
    });
    seen
}

fn fsync_told(fs: &Fs, ino: InodeNumber) -> mpsc::Receiver<Result<()>> {
    fsync_by(0, fs, ino)
}

fn fsync_by(asker: u32, fs: &Fs, ino: InodeNumber) -> mpsc::Receiver<Result<()>> {
    let (sender, receiver) = mpsc::channel();
    fs.fsync(
        asker,
        ino,
        false,
        Box::new(move |result| sender.send(result).expect("somebody listens")),
    );
    receiver
}

const LONG: Duration = Duration::from_secs(30);

#[test]
fn who_asks_commits_if_nobody_else_is_at_it() {
    for (workers, here) in [(4, true), (1, false)] {
        let device = Watched::new(&["-b", "1024"]);
        let fs = mount_served(&device, workers);
        let ino = create(&fs, b"a");
        fs.sync_all().expect("sync");
        fs.write(ino, 0, b"data", WriteMode::default())
            .expect("a write");
        let threads = syncing_threads(&device);
        let told = fsync_told(&fs, ino).recv_timeout(LONG);
        told.expect("an answer").expect("it is durable");
        device.watch(|_| {});
        let threads = threads.lock().expect("threads").clone();
        assert!(threads.len() >= 2, "a commit has two syncs");
        let me = std::thread::current().id();
        // The only worker is there for others.
        assert!(threads.iter().all(|&thread| (thread == me) == here));
        fs.unmount().expect("unmount");
    }
}

/// One commits and stands still in its first sync: the others do not wait with it, and one more commit serves them all.
#[test]
fn who_comes_during_a_commit_is_told_by_the_next_one() {
    for broken in [false, true] {
        let device = Watched::new(&["-b", "1024"]);
        let fs = mount_served(&device, 8);
        let files: Vec<_> = (0..6_u8).map(|i| create(&fs, &[b'a' + i])).collect();
        fs.sync_all().expect("sync");
        let (inside, waits) = (mpsc::channel(), mpsc::channel::<()>());
        let release = Mutex::new(Some(waits.1));
        let start = device.syncs();
        device.watch(move |moment| {
            if moment == Moment::Sync(start + 1) {
                inside.0.send(()).expect("somebody listens");
                let waits = release.lock().expect("waits").take();
                waits.expect("once").recv_timeout(LONG).expect("a release");
            }
        });
        let write = |i: usize| {
            fs.write(files[i], 0, &[7; 3000], WriteMode::default())
                .expect("a write");
        };
        write(0);
        std::thread::scope(|scope| {
            let first = scope.spawn(|| fsync_told(&fs, files[0]).recv_timeout(LONG));
            inside.1.recv_timeout(LONG).expect("it commits");
            let told: Vec<_> = (1..6)
                .map(|i| {
                    write(i);
                    fsync_told(&fs, files[i])
                })
                .collect();
            assert!(told.iter().all(|told| told.try_recv().is_err()));
            device.broken.store(broken, Ordering::SeqCst);
            waits.0.send(()).expect("it stands still");
            let mut results = vec![first.join().expect("the first")];
            results.extend(told.iter().map(|told| told.recv_timeout(LONG)));
            for result in results {
                assert_eq!(result.expect("an answer").is_err(), broken);
            }
        });
        device.watch(|_| {});
        assert!(broken || device.syncs() - start <= 8, "they share a commit");
        assert_eq!(fs.unmount().is_err(), broken);
    }
}

/// Moved by the test alone.
#[derive(Default)]
struct Still(AtomicU64);

impl Still {
    fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
    }
}

impl Clock for Still {
    fn wall(&self) -> (i64, u32) {
        (1_750_000_000, 0)
    }
    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// Two processes that sync side by side: the last commit served both, and took some time.
struct Side {
    clock: Arc<Still>,
    fs: Arc<Fs>,
    files: [InodeNumber; 2],
}

impl Side {
    fn new() -> Self {
        let device = Watched::new(&["-b", "1024"]);
        let clock = Arc::new(Still::default());
        let options = Options {
            memory: 32 << 20,
            ..Options::default()
        };
        let fs = Fs::mount_at(
            Arc::clone(&device) as Arc<_>,
            options,
            Arc::clone(&clock) as Arc<_>,
        );
        let fs = fs.expect("it mounts");
        let files = [create(&fs, b"a"), create(&fs, b"b")];
        let other = create(&fs, b"c");
        fs.sync_all().expect("sync");
        let side = Self { clock, fs, files };
        // A third one's commit stands still: who asks meanwhile is served by the next one.
        let (inside, is_inside) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let start = device.syncs();
        device.watch(move |moment| {
            if moment == Moment::Sync(start + 1) {
                inside.send(()).expect("somebody listens");
                released.recv_timeout(LONG).expect("a release");
            }
        });
        side.write(other);
        let told = std::thread::scope(|scope| {
            let third = scope.spawn(|| fsync_by(9, &side.fs, other).recv_timeout(LONG));
            is_inside.recv_timeout(LONG).expect("it commits");
            let told = [0, 1].map(|who| side.sync(who));
            release.send(()).expect("it stands still");
            third
                .join()
                .expect("the third")
                .expect("it is told")
                .expect("durable");
            told
        });
        let clock = Arc::clone(&side.clock);
        device.watch(move |moment| {
            if matches!(moment, Moment::Sync(_)) {
                clock.advance(Duration::from_millis(100));
            }
        });
        side.fs.commit_step().expect("a step");
        for told in told {
            told.try_recv()
                .expect("one commit for both")
                .expect("durable");
        }
        device.watch(|_| {});
        side
    }

    fn write(&self, ino: InodeNumber) {
        let written = self.fs.write(ino, 0, &[7; 3000], WriteMode::default());
        written.expect("a write");
    }

    /// One of the two changes its file and asks.
    fn sync(&self, who: usize) -> mpsc::Receiver<Result<()>> {
        self.write(self.files[who]);
        fsync_by(1 + who as u32, &self.fs, self.files[who])
    }

    /// How many commits there were, and how many of them were put off.
    fn commits(&self) -> (u64, u64) {
        let stats = self.fs.stats().journal;
        (stats.commits, stats.gatherings)
    }

    /// One syncs, and what `meanwhile` does comes when its commit has been put off.
    fn sync_and(&self, who: usize, meanwhile: impl FnOnce()) {
        let (_, before) = self.commits();
        std::thread::scope(|scope| {
            let first = scope.spawn(|| self.sync(who).recv_timeout(LONG));
            while self.commits().1 == before {
                assert!(!first.is_finished(), "nobody was waited for");
                std::thread::yield_now();
            }
            meanwhile();
            let told = first.join().expect("no panic");
            told.expect("it is told").expect("durable");
        });
    }
}

#[test]
fn who_was_served_together_shares_the_next_commit_whoever_comes_first() {
    let side = Side::new();
    for first in [0, 1, 0, 0, 1] {
        let (commits, put_off) = side.commits();
        side.sync_and(first, || {
            let told = side.sync(1 - first).recv_timeout(LONG);
            told.expect("it is told").expect("durable");
        });
        assert_eq!(side.commits(), (commits + 1, put_off + 1));
    }
    side.fs.unmount().expect("unmount");
}

#[test]
fn who_does_not_come_is_not_waited_for_again() {
    let side = Side::new();
    let (commits, put_off) = side.commits();
    // The longest that a commit is put off is less.
    side.sync_and(0, || side.clock.advance(Duration::from_millis(11)));
    assert_eq!(side.commits(), (commits + 1, put_off + 1));
    let told = side.sync(1).recv_timeout(LONG);
    told.expect("it is told").expect("durable");
    assert_eq!(side.commits(), (commits + 2, put_off + 1));
    side.fs.unmount().expect("unmount");
}

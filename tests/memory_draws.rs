//! Every admission and every draw on a reserve of one run is refused, or takes a second, once: nothing is lost by it.
//!
//! Source: the design's section on memory (fault injection by draw; each reserve at its computed minimum).

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use uext4::device::sim::{Disk, Image, Ticks};
use uext4::error::{Posix, Result};
use uext4::evict::{From, PolicyName, Settings};
use uext4::fs::{Caller, Clock, Fs, NewNode, Options, RenameMode, SetAttr, WriteMode};
use uext4::ids::InodeNumber;
use uext4::memory::sizes::floor;
use uext4::memory::{Inject, Need, Point, Reserve, Token};

const ROOT: InodeNumber = InodeNumber::ROOT;
const MAX_WRITE: u32 = 64 << 10;
/// Longer runs are not tried at every point.
const POINTS: u64 = 500;
const FILES: u64 = 24;

fn base() -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let made = Command::new("mke2fs")
        .args("-q -F -t ext4 -b 1024 -g 1024 -N 256 -J size=1 -m 0".split(' '))
        .arg(file.path())
        .arg("8M")
        .status();
    assert!(made.expect("mke2fs").success());
    std::fs::read(file.path()).expect("the image")
}

fn fsck(disk: &Disk, what: &str) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), disk.image().bytes()).expect("the image");
    let output = Command::new("e2fsck").arg("-fn").arg(file.path()).output();
    let output = output.expect("e2fsck");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{what}: {said}");
}

#[derive(Clone, Copy, Debug)]
enum What {
    Nothing,
    Refuse,
    Wait,
}

/// Counts the points, and does something at one of them.
struct Once {
    clock: Arc<Ticks>,
    at: u64,
    what: What,
    seen: AtomicU64,
    draws: [AtomicU64; Reserve::ALL.len()],
}

impl Inject for Once {
    fn grants(&self, point: Point) -> bool {
        if let Point::Draw(reserve) = point {
            self.draws[reserve as usize].fetch_add(1, Ordering::Relaxed);
        }
        if self.seen.fetch_add(1, Ordering::Relaxed) != self.at {
            return true;
        }
        match self.what {
            What::Nothing => true,
            What::Refuse => false,
            What::Wait => {
                self.clock.advance(Duration::from_secs(1));
                true
            }
        }
    }
}

/// What was refused for want of memory is asked for again, as users do.
fn again<T>(mut operation: impl FnMut() -> Result<T>) -> T {
    for _ in 0..8 {
        match operation() {
            Err(error) if error.is_posix(Posix::NoMem) => {}
            done => return done.expect("an operation"),
        }
    }
    panic!("refused again and again");
}

fn body(file: u64, round: u64) -> Vec<u8> {
    let length = 700 + usize::try_from(file * 211 % 4000).expect("small");
    vec![(file * 7 + round) as u8 | 1; length]
}

fn make(fs: &Fs, parent: InodeNumber, name: &str, new: NewNode<'_>) -> InodeNumber {
    again(|| fs.create(Caller::default(), parent, name.as_bytes(), new, 0o022)).ino
}

fn work(fs: &Fs, tight: bool) {
    let dirs: Vec<_> = (0..4)
        .map(|i| {
            make(
                fs,
                ROOT,
                &format!("d{i}"),
                NewNode::Directory { mode: 0o755 },
            )
        })
        .collect();
    let dir = |i: u64| dirs[(i % 4) as usize];
    let files: Vec<_> = (0..FILES)
        .map(|i| make(fs, dir(i), &format!("f{i}"), NewNode::File { mode: 0o644 }))
        .collect();
    for round in 0..2 {
        for (i, &ino) in (0..).zip(&files) {
            let data = body(i, round);
            let at = round * data.len() as u64;
            again(|| fs.write(ino, at, &data, WriteMode::default()));
        }
        squeeze(fs, tight, || again(|| fs.sync_all()));
        fs.evict_step();
    }
    for (i, &ino) in (0..).zip(&files) {
        match i % 4 {
            0 => {
                again(|| fs.unlink(dir(i), format!("f{i}").as_bytes()));
                fs.forget(ino, 1);
                squeeze(fs, tight, || while fs.reap_step() {});
            }
            1 => {
                let size = SetAttr {
                    size: Some(500),
                    ..SetAttr::default()
                };
                again(|| fs.setattr(Caller::default(), ino, &size));
            }
            2 => {
                let (old, new) = (format!("f{i}"), format!("g{i}"));
                let (from, to) = ((dir(i), old.as_bytes()), (dir(i + 1), new.as_bytes()));
                again(|| fs.rename(Caller::default(), from, to, RenameMode::Replace));
            }
            _ => {}
        }
    }
    squeeze(fs, tight, || fs.evict_all());
    squeeze(fs, tight, || again(|| fs.sync_all()));
}

/// Does what gives memory back while there is none but the reserves, as the threads do it that the reserves are for.
fn squeeze<T>(fs: &Fs, tight: bool, work: impl FnOnce() -> T) -> T {
    if !tight {
        return work();
    }
    let memory = fs.memory();
    memory.drop_clean();
    let free = memory.cap().saturating_sub(memory.snapshot().promised);
    // Eight more come with every token.
    let frames = (free / memory.frame_cost()).saturating_sub(8);
    let taken = (frames > 0)
        .then(|| memory.admit_private(Need::frames(u32::try_from(frames).expect("few"))));
    let own = memory.draw_on(Reserve::Flushers);
    let done = work();
    drop((own, taken));
    done
}

fn check(fs: &Fs) {
    let find = |parent, name: String| again(|| fs.lookup(parent, name.as_bytes())).ino;
    for i in 0..FILES {
        let dir = |i: u64| find(ROOT, format!("d{}", i % 4));
        let ino = match i % 4 {
            0 => {
                let (dir, name) = (dir(i), format!("f{i}"));
                let gone = again(|| match fs.lookup(dir, name.as_bytes()) {
                    Err(error) if error.is_posix(Posix::NoEnt) => Ok(true),
                    other => other.map(|_| false),
                });
                assert!(gone, "{name} is there");
                continue;
            }
            2 => find(dir(i + 1), format!("g{i}")),
            _ => find(dir(i), format!("f{i}")),
        };
        let mut expected = [body(i, 0), body(i, 1)].concat();
        if i % 4 == 1 {
            expected.truncate(500);
        }
        let read = again(|| fs.read(ino, 0, 20_000));
        assert_eq!(read.as_slice(), expected, "f{i}");
    }
}

struct Ran {
    points: u64,
    draws: [u64; Reserve::ALL.len()],
    overdrafts: u64,
}

/// `tight`: so much is taken away that reserves are drawn on.
fn run(base: &[u8], policy: PolicyName, tight: bool, at: u64, what: What) -> Ran {
    let name = format!("{policy:?}, {what:?} at {at}");
    let (disk, clock) = (Disk::new(Image::new(base)), Arc::new(Ticks::default()));
    let options = Options {
        memory: floor(0, 1024, MAX_WRITE),
        max_write: MAX_WRITE,
        threads: 0,
        writethrough: true,
        evict: Settings {
            policy,
            from: From::Direct,
            ..Settings::default()
        },
        ..Options::default()
    };
    let mount = || {
        let clock: Arc<dyn Clock> = clock.clone();
        Fs::mount_at(disk.clone(), options.clone(), clock).expect("it mounts")
    };
    let fs = mount();
    let once = Arc::new(Once {
        clock: Arc::clone(&clock),
        at,
        what,
        seen: AtomicU64::new(0),
        draws: Default::default(),
    });
    let memory = Arc::clone(fs.memory());
    let taken = tight.then(|| take(&fs));
    memory.inject(once.clone());
    work(&fs, tight);
    drop(taken);
    check(&fs);
    fs.unmount()
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let snapshot = memory.snapshot();
    for reserve in &snapshot.reserves {
        assert!(reserve.low <= reserve.size, "{name}: {reserve:?}");
    }
    assert!(snapshot.promised < 2 * memory.cap(), "{name}: {snapshot:?}");
    drop(fs);
    assert_eq!(memory.leaks(), [], "{name}");
    fsck(&disk, &name);
    let fs = mount();
    check(&fs);
    fs.unmount().expect("unmount");
    Ran {
        points: once.seen.load(Ordering::Relaxed),
        draws: [0, 1, 2, 3].map(|reserve: usize| once.draws[reserve].load(Ordering::Relaxed)),
        overdrafts: snapshot.activity.overdrafts,
    }
}

/// All but what one request and its commit need.
fn take(fs: &Fs) -> Token {
    const LEFT: u64 = 200 << 10;
    let memory = fs.memory();
    let free = memory.cap() - memory.snapshot().promised;
    let frames = free.saturating_sub(LEFT) / memory.frame_cost();
    memory.admit_private(Need::frames(u32::try_from(frames).expect("few")))
}

/// Invariants 5 and 6 of the budget.
#[test]
fn with_every_reserve_at_its_minimum_nothing_is_lost() {
    let base = base();
    for policy in PolicyName::ALL {
        let ran = run(&base, policy, false, u64::MAX, What::Nothing);
        assert_eq!(ran.overdrafts, 0, "{policy:?}");
    }
}

/// Invariants 3 and 5 of the budget.
#[test]
fn every_admission_and_every_draw_may_fail_or_take_a_second() {
    let base = base();
    let policy = PolicyName::Reserve;
    let whole = run(&base, policy, true, u64::MAX, What::Nothing);
    println!("{} points, draws {:?}", whole.points, whole.draws);
    assert!((100..=POINTS).contains(&whole.points), "{}", whole.points);
    let all: u64 = whole.draws.iter().sum();
    assert!(all >= 20, "reserves are hardly drawn on: {:?}", whole.draws);
    for at in 0..whole.points {
        for what in [What::Refuse, What::Wait] {
            run(&base, policy, true, at, what);
        }
    }
}

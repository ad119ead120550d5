//! Sixteen threads look up, open, unlink, make and forget the same few names while inodes are evicted and loaded again: whoever
//! the inode is known to finds that one and no other.
//!
//! Source: the design's inode cache (FREEING, reload on demand, lookup counts); the stress with generation checks.

#[path = "common/without_fuse.rs"]
mod without_fuse;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use uext4::device::sim::Rng;
use uext4::error::Posix;
use uext4::evict::PolicyName;
use uext4::fs::{Attr, Caller, Fs, NewNode, Options, WriteMode};
use uext4::memory::sizes::floor;
use without_fuse::{CoreImage, ROOT};

const THREADS: u64 = 16;
const STEPS: u64 = 2000;
const NAMES: u64 = 40;
const MAX_WRITE: u32 = 64 << 10;

fn name(random: &mut Rng) -> String {
    format!("n{}", random.below(NAMES))
}

/// What the kernel knows, and what must be true of it until it is forgotten.
struct Known {
    attr: Attr,
    open: bool,
}

struct Stress {
    fs: Arc<Fs>,
    reloads: AtomicU64,
    reused: AtomicU64,
}

impl Stress {
    fn look_up(&self, name: &str) -> Option<Known> {
        match self.fs.lookup(ROOT, name.as_bytes()) {
            Ok(attr) => Some(Known { attr, open: false }),
            Err(error) => {
                assert!(error.is_posix(Posix::NoEnt), "{name}: {error}");
                None
            }
        }
    }

    fn create(&self, name: &str) -> Option<Known> {
        let new = NewNode::File { mode: 0o644 };
        match self
            .fs
            .create(Caller::default(), ROOT, name.as_bytes(), new, 0)
        {
            Ok(attr) => Some(Known { attr, open: false }),
            Err(error) => {
                assert!(error.is_posix(Posix::Exist), "{name}: {error}");
                None
            }
        }
    }

    /// The inode is there, and it is the one that was found.
    fn check(&self, known: &Known) {
        let now = self.fs.getattr(known.attr.ino);
        let now = now.unwrap_or_else(|error| panic!("{}: {error}", known.attr.ino));
        assert_eq!(now.generation, known.attr.generation, "{}", known.attr.ino);
        self.reloads.fetch_add(1, Ordering::Relaxed);
    }

    fn write(&self, known: &mut Known, random: &mut Rng) {
        if !known.open {
            self.fs.opened(known.attr.ino, true);
            known.open = true;
        }
        let offset = random.below(8) * 3000;
        let body = [random.below(256) as u8; 3000];
        let written = self
            .fs
            .write(known.attr.ino, offset, &body, WriteMode::default());
        written.unwrap_or_else(|error| panic!("{}: {error}", known.attr.ino));
    }

    fn unlink(&self, name: &str) {
        match self.fs.unlink(ROOT, name.as_bytes()) {
            Ok(()) => {
                self.reused.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => assert!(error.is_posix(Posix::NoEnt), "{name}: {error}"),
        }
    }

    fn forget(&self, known: Known) {
        if known.open {
            self.fs.release(known.attr.ino, true);
        }
        self.fs.forget(known.attr.ino, 1);
    }

    fn thread(&self, number: u64) {
        let mut random = Rng(number);
        let mut known: Vec<Known> = Vec::new();
        for _ in 0..STEPS {
            let name = name(&mut random);
            match random.below(10) {
                0 | 1 => known.extend(self.look_up(&name)),
                2 => known.extend(self.create(&name)),
                3 => self.unlink(&name),
                4 | 5 => {
                    if let Some(known) = known.last_mut() {
                        self.write(known, &mut random);
                    }
                }
                6 if !known.is_empty() => {
                    let at = random.below(known.len() as u64) as usize;
                    self.forget(known.swap_remove(at));
                }
                7 if random.below(20) == 0 => {
                    self.fs.evict_all();
                }
                _ => known.iter().for_each(|known| self.check(known)),
            }
            if known.len() > 6 {
                self.forget(known.remove(0));
            }
        }
        known.into_iter().for_each(|known| self.forget(known));
    }
}

#[test]
fn what_is_known_stays_what_it_is() {
    for policy in [PolicyName::Derive, PolicyName::NoFail] {
        let image = CoreImage::mke2fs("64M", "-t ext4 -b 1024 -N 256 -J size=4 -m 0");
        let mut options = Options {
            max_write: MAX_WRITE,
            threads: THREADS as usize,
            memory: floor(THREADS as usize, 1024, MAX_WRITE),
            ..Options::default()
        };
        options.evict.policy = policy;
        let fs = image.mount(options).expect("it mounts");
        let free = fs.statfs().free_files;
        fs.start_threads().expect("threads");
        let stress = Stress {
            fs: Arc::clone(&fs),
            reloads: AtomicU64::new(0),
            reused: AtomicU64::new(0),
        };
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let evictor = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    fs.evict_all();
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            let threads: Vec<_> = (0..THREADS)
                .map(|number| {
                    let stress = &stress;
                    scope.spawn(move || stress.thread(number))
                })
                .collect();
            let ended: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
            done.store(true, Ordering::Relaxed);
            evictor.join().expect("the evictor");
            ended.into_iter().for_each(|ended| ended.expect("no panic"));
        });
        let stats = fs.stats();
        assert_eq!(
            (stats.known.inodes, stats.known.open),
            (0, 0),
            "{:?}",
            stats.known
        );
        let (reloads, reused) = (stress.reloads, stress.reused);
        assert!(reused.into_inner() > THREADS * STEPS / 100, "{policy:?}");
        assert!(reloads.into_inner() > THREADS * STEPS, "{policy:?}");
        assert!(stats.eviction.evicted > 100, "{:?}", stats.eviction);
        for number in 0..NAMES {
            let _ = fs.unlink(ROOT, format!("n{number}").as_bytes());
        }
        fs.unmount().expect("unmount");
        assert_eq!(fs.statfs().free_files, free, "an inode is lost");
        drop(fs);
        drop(stress.fs);
        image.fsck();
    }
}

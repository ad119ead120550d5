//! The judge of the inode table and of the lookup counts: what the kernel's threads, the evictor and the reaper do, under
//! interleavings that shuttle chooses. `cargo test --lib --features shuttle,canaries fs::judge`.
//!
//! Source: the design's inode cache and eviction path; its section on memory (lookup counts).
//! Invariants, looked at after every step: an inode has one `Node` that anybody can hold; nobody finds one that is being
//! freed; whoever looks a name up, or finds it in a listing with attributes, is given a file that had this name, and holds the
//! same one until it is forgotten, whatever is evicted, unlinked, replaced or made meanwhile; what was changed is there after a
//! reload. At the end nothing is left of what was unlinked and forgotten, and nobody waits.

use crate::canary::{Canary, select};
use crate::device::sim::{Disk, Image, Rng, Ticks};
use crate::error::{Posix, Result};
use crate::fs::{Attr, Caller, Fs, NewNode, Options, RenameMode, SetAttr};
use crate::ids::InodeNumber;
use crate::inode::{Node, NodeRef};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

const ROOT: InodeNumber = InodeNumber::ROOT;
const NAMES: [&str; 3] = ["a", "b", "c"];
/// What replaces one of them is made under this name.
const NEW: &str = "new";
const STEPS: u32 = 5;

/// 1 KiB blocks, no journal, so that a commit is short.
fn image() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let options = "-q -F -t ext4 -O ^has_journal,^resize_inode,^dir_index -b 1024 -N 24 -m 0";
    let made = Command::new("mke2fs")
        .args(options.split(' '))
        .arg(&path)
        .arg("512K")
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    std::fs::read(&path).unwrap()
}

/// What is known from outside of the table.
#[derive(Default)]
struct Seen {
    /// The node that somebody found last.
    nodes: HashMap<InodeNumber, Weak<Node>>,
    /// Taken out, not yet given up or put back.
    freeing: Vec<InodeNumber>,
}

struct Bed {
    fs: Arc<Fs>,
    /// Never held over a point at which another thread may go on.
    seen: std::sync::Mutex<Seen>,
}

impl Bed {
    /// The node, and that it is the only one.
    fn find(&self, ino: InodeNumber) -> Option<NodeRef> {
        let node = self.fs.node(ino).ok()?;
        let mut seen = self.seen.lock().unwrap();
        assert!(!seen.freeing.contains(&ino), "inode {ino} is being freed");
        if let Some(other) = seen.nodes.get(&ino).and_then(Weak::upgrade) {
            assert!(Arc::ptr_eq(&other, &node), "two of inode {ino}");
        }
        seen.nodes.insert(ino, Arc::downgrade(&node));
        Some(node)
    }

    /// One of the kernel's threads: finds a name, uses the inode, forgets it.
    fn use_name(&self, rng: &mut Rng, thread: u32) {
        let which = rng.below(3) as u32;
        let found = if rng.below(3) > 0 {
            self.look_up(which)
        } else {
            self.list(which)
        };
        let Some(attr) = found else {
            return;
        };
        assert_eq!(attr.uid, which, "inode {} never had this name", attr.ino);
        for round in 0..2 {
            let held = self.find(attr.ino);
            assert!(held.is_some(), "inode {} is gone though known", attr.ino);
            shuttle::thread::yield_now();
            drop(held);
            let now = self.fs.getattr(attr.ino).expect("it is known");
            assert_eq!(now.generation, attr.generation, "inode {}", attr.ino);
            let set = SetAttr {
                gid: Some(1000 * thread + round),
                ..SetAttr::default()
            };
            let set = self.fs.setattr(Caller::default(), attr.ino, &set);
            assert_eq!(set.expect("it is known").generation, attr.generation);
        }
        self.fs.forget(attr.ino, 1);
    }

    fn look_up(&self, which: u32) -> Option<Attr> {
        match self.fs.lookup(ROOT, NAMES[which as usize].as_bytes()) {
            Ok(attr) => Some(attr),
            Err(error) => {
                assert!(error.is_posix(Posix::NoEnt), "{error}");
                None
            }
        }
    }

    /// The same by a listing, which counts a lookup of all that it tells of.
    fn list(&self, which: u32) -> Option<Attr> {
        let name = NAMES[which as usize].as_bytes();
        let (mut found, mut others) = (None, Vec::new());
        let listed = self.fs.readdir(ROOT, 0, true, &mut |item| {
            // Another thread may go on between two entries.
            shuttle::thread::yield_now();
            let is_dot = item.name == b"." || item.name == b"..";
            assert!(is_dot || item.attr.is_some(), "inode {} is gone", item.ino);
            if item.name == name {
                found = item.attr;
            } else {
                others.extend(item.attr);
            }
            true
        });
        listed.expect("a listing");
        others.iter().for_each(|other| self.fs.forget(other.ino, 1));
        found
    }

    /// Another: takes names away and makes new files of them, or puts new ones in their places. A file's owner tells its name.
    fn replace_name(&self, rng: &mut Rng) {
        let which = rng.below(3) as u32;
        let name = NAMES[which as usize].as_bytes();
        let replaces = rng.below(2) > 0;
        if !replaces {
            match self.fs.unlink(ROOT, name) {
                // Its number is free for the next file, if nobody knows it.
                Ok(()) => {
                    self.fs.reap_step();
                }
                Err(error) => assert!(error.is_posix(Posix::NoEnt), "{error}"),
            }
        }
        match create(
            &self.fs,
            which,
            if replaces { NEW.as_bytes() } else { name },
        ) {
            Ok(ino) => self.fs.forget(ino, 1),
            Err(error) => assert!(error.is_posix(Posix::Exist), "{error}"),
        }
        if replaces {
            let (from, to) = ((ROOT, NEW.as_bytes()), (ROOT, name));
            let renamed = self
                .fs
                .rename(Caller::default(), from, to, RenameMode::Replace);
            renamed.expect("nobody else takes the new name");
        }
    }

    /// The evictor: takes an inode out and gives it up, or puts it back.
    fn evict(&self, rng: &mut Rng) {
        let Some(freeing) = self.fs.table.next_victim(true, |node| !node.is_dirty()) else {
            return;
        };
        let ino = freeing.node().map_or(ROOT, |node| node.ino);
        self.seen.lock().unwrap().freeing.push(ino);
        for _ in 0..40 * rng.below(3) {
            shuttle::thread::yield_now();
        }
        self.seen.lock().unwrap().freeing.retain(|&one| one != ino);
        if rng.below(3) > 0 {
            freeing.finish();
        } else {
            drop(freeing);
        }
    }
}

/// A file that belongs to one of the names.
fn create(fs: &Fs, which: u32, name: &[u8]) -> Result<InodeNumber> {
    let owner = Caller {
        uid: which,
        ..Caller::default()
    };
    let new = NewNode::File { mode: 0o644 };
    fs.create(owner, ROOT, name, new, 0).map(|attr| attr.ino)
}

fn mount(image: &[u8]) -> Arc<Fs> {
    let options = Options {
        memory: 16 << 20,
        max_write: 64 << 10,
        threads: 0,
        ..Options::default()
    };
    let disk = Disk::new(Image::new(image));
    Fs::mount_at(disk, options, Arc::new(Ticks::default())).expect("it mounts")
}

/// One interleaving.
fn run(image: &[u8], seed: u64) {
    let fs = mount(image);
    let free = fs.statfs().free_files;
    for (which, name) in (0..).zip(NAMES) {
        let made = create(&fs, which, name.as_bytes());
        fs.forget(made.expect("a file"), 1);
    }
    let bed = Arc::new(Bed {
        fs,
        seen: std::sync::Mutex::default(),
    });
    let mut threads = Vec::new();
    for thread in 0..4 {
        let bed = Arc::clone(&bed);
        let mut rng = Rng(seed * 8 + u64::from(thread));
        threads.push(shuttle::thread::spawn(move || {
            for _ in 0..STEPS {
                match thread {
                    0 | 1 => bed.use_name(&mut rng, thread),
                    2 => bed.replace_name(&mut rng),
                    _ => {
                        bed.evict(&mut rng);
                        bed.fs.reap_step();
                    }
                }
            }
        }));
    }
    for thread in threads {
        thread.join().unwrap();
    }
    let fs = &bed.fs;
    while fs.reap_step() {}
    let known = fs.stats().known;
    assert_eq!((known.inodes, known.lookups), (0, 0), "{known:?}");
    for name in NAMES {
        let _ = fs.unlink(ROOT, name.as_bytes());
    }
    while fs.reap_step() {}
    assert_eq!(fs.statfs().free_files, free, "an inode is lost");
    fs.evict_all();
    assert_eq!(fs.stats().inodes, 0, "somebody holds an inode");
}

/// Threads that go on at random, then threads of which one stands still for long.
fn explore(iterations: usize, which: Option<Canary>) -> bool {
    let random = RandomScheduler::new_from_seed(11, iterations / 2);
    let unfair = PctScheduler::new_from_seed(12, 3, iterations / 2);
    explore_by(unfair, which) || explore_by(random, which)
}

/// Whether the canary, if there is one, was noticed.
fn explore_by(scheduler: impl Scheduler + 'static, which: Option<Canary>) -> bool {
    let image = Arc::new(image());
    let seeds = AtomicU64::new(1);
    let mut config = shuttle::Config::new();
    config.stack_size = 1 << 20;
    if which.is_some() {
        config.failure_persistence = shuttle::FailurePersistence::None;
    }
    select(which);
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| {
        shuttle::Runner::new(scheduler, config)
            .run(move || run(&image, seeds.fetch_add(1, Ordering::Relaxed)));
    }));
    select(None);
    match which {
        None => {
            if let Err(panic) = outcome {
                std::panic::resume_unwind(panic);
            }
            false
        }
        Some(_) => outcome.is_err(),
    }
}

#[test]
fn an_inode_is_one_and_stays_while_it_is_known_under_every_interleaving() {
    explore(400, None);
}

#[cfg(feature = "canaries")]
#[test]
fn each_canary_is_noticed() {
    let missed: Vec<_> = Canary::OF_THE_INODE_TABLE
        .into_iter()
        .filter(|&canary| !explore(20_000, Some(canary)))
        .collect();
    assert!(missed.is_empty(), "not noticed: {missed:?}");
}

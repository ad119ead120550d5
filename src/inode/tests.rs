//! Inodes through the journal on images of mke2fs; e2fsck is the judge.
//!
//! Source: the kernel's ext4 documentation, "Index Nodes", "Orphan file".
//! Invariants: every test works on its own image in a directory that goes away.

use super::orphan::Orphans;
use super::{InodeStore, InodeTable};
use crate::alloc::{Allocator, Settings};
use crate::cache::BlockCache;
use crate::clock::SystemClock;
use crate::device::Device;
use crate::device::file::{Access, FileDevice};
use crate::error::Posix;
use crate::format::superblock::{self, Superblock};
use crate::ids::InodeNumber;
use crate::journal::log::Log;
use crate::journal::recover::{self, LogMap};
use crate::journal::{Handle, Journal};
use crate::map::Map;
use crate::memory::{Memory, Need};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

fn run(program: &str, arguments: &[&str], path: &Path, more: &[&str]) -> String {
    let mut command = Command::new(program);
    let output = command.args(arguments).arg(path).args(more).output();
    let output = output.expect("e2fsprogs is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program}: {text}");
    text
}

/// An image with eight empty files, whose inodes are 12 to 19.
fn image(dir: &Path, options: &[&str]) -> PathBuf {
    let path = dir.join("image");
    let arguments = [&["-q", "-F"], options].concat();
    run("mke2fs", &arguments, &path, &["32M"]);
    for name in 0..8 {
        let request = format!("write /dev/null f{name}");
        run("debugfs", &["-w", "-R", &request], &path, &[]);
    }
    path
}

struct Mounted {
    memory: Arc<Memory>,
    journal: Arc<Journal>,
    store: Arc<InodeStore>,
    table: InodeTable,
    orphans: Orphans,
}

impl Mounted {
    fn new(path: &Path) -> Self {
        let access = Access::default();
        let device: Arc<dyn Device> = Arc::new(FileDevice::open(path, &access).expect("a device"));
        let mut bytes = [0; superblock::SIZE];
        device
            .read_at(superblock::OFFSET, &mut bytes)
            .expect("read");
        let sb = Superblock::parse(&bytes).expect("a superblock");
        let geo = Arc::new(sb.geometry(device.len()).expect("valid numbers"));
        let map = LogMap::read(&*device, &geo).expect("a journal");
        let recovery = recover::recover(&*device, &geo, &map).expect("recovered");
        let memory = Memory::new(64 << 20, geo.block_size, 1 << 18);
        let cache = BlockCache::new(Arc::clone(&device), Arc::clone(&geo), Arc::clone(&memory));
        let log = Log::open(geo, map, &recovery);
        let clock = Arc::new(SystemClock::new());
        let journal = Journal::new(Arc::clone(&cache), clock, Some(log), Duration::from_secs(5));
        let settings = Settings::default();
        let alloc = Allocator::new(Arc::clone(&cache), Arc::clone(&memory), settings);
        let alloc = alloc.expect("an allocator");
        journal.listen(alloc.clone());
        let store = Arc::new(InodeStore::new(Arc::clone(&cache), Arc::clone(&alloc)));
        let map = Arc::new(Map::new(Arc::clone(&cache), Arc::clone(&alloc)));
        let orphans = Orphans::new(cache, Arc::clone(&store), map, &sb).expect("orphans");
        let table = InodeTable::new(Arc::clone(&store), Arc::clone(&memory), alloc);
        Self {
            memory,
            journal,
            store,
            table,
            orphans,
        }
    }

    fn change(&self, credits: u32, work: impl FnOnce(&Handle<'_>)) {
        let mut token = self.memory.admit(Need {
            frames: credits,
            bytes: 0,
        });
        let handle = self.journal.start(&mut token, credits).expect("a handle");
        work(&handle);
    }

    fn add(&self, ino: u32) {
        let ino = InodeNumber::new(ino);
        let mut inode = self.store.read(ino).expect("an inode");
        self.change(2, |handle| {
            self.orphans.add(handle, ino, &mut inode).expect("added")
        });
    }

    fn remove(&self, ino: u32) {
        let ino = InodeNumber::new(ino);
        let mut inode = self.store.read(ino).expect("an inode");
        self.change(3, |handle| {
            self.orphans
                .remove(handle, ino, &mut inode)
                .expect("removed")
        });
    }

    fn on_record(&self) -> Vec<u32> {
        let all = self.orphans.on_disk().expect("the record");
        all.into_iter().map(InodeNumber::get).collect()
    }

    fn finish(self) {
        self.journal.quiesce(&mut || Ok(())).expect("quiet");
    }
}

fn orphans_survive_a_mount(options: &[&str]) {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let path = image(dir.path(), options);
    let first = Mounted::new(&path);
    assert!(first.orphans.is_empty());
    for ino in [12, 13, 14, 15, 16, 14] {
        first.add(ino);
    }
    // From the middle, the head and the tail.
    for ino in [14, 16, 12, 14] {
        first.remove(ino);
    }
    first.finish();
    let second = Mounted::new(&path);
    assert_eq!(second.on_record(), [13, 15], "{options:?}");
    second.add(17);
    // Writing an inode must not break the list that runs through it.
    let ino = InodeNumber::new(15);
    let mut inode = second.store.read(ino).expect("an inode");
    inode.dtime = 0;
    inode.uid = 70_000;
    second.change(1, |handle| {
        second.store.write(handle, ino, &inode).expect("written")
    });
    second.finish();
    let third = Mounted::new(&path);
    assert_eq!(third.on_record(), [13, 15, 17], "{options:?}");
    assert_eq!(third.store.read(ino).expect("an inode").uid, 70_000);
    for ino in [13, 15, 17] {
        third.remove(ino);
    }
    assert!(third.orphans.is_empty());
    third.finish();
    run("e2fsck", &["-fn"], &path, &[]);
}

#[test]
fn the_orphan_list_survives_a_mount() {
    orphans_survive_a_mount(&["-t", "ext4", "-O", "^orphan_file"]);
    orphans_survive_a_mount(&["-t", "ext3", "-b", "1024", "-I", "128"]);
}

#[test]
fn the_orphan_file_survives_a_mount() {
    orphans_survive_a_mount(&["-t", "ext4", "-O", "orphan_file,metadata_csum_seed"]);
}

#[test]
fn a_node_is_loaded_once_and_free_inodes_are_stale() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let path = image(dir.path(), &["-t", "ext4"]);
    run("debugfs", &["-w", "-R", "rm f3"], &path, &[]);
    let mounted = Mounted::new(&path);
    let ino = InodeNumber::new(12);
    let nodes: Vec<_> = std::thread::scope(|scope| {
        let get = || mounted.table.get(ino).expect("a node");
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(get)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect()
    });
    assert!(nodes.iter().all(|node| Arc::ptr_eq(node, &nodes[0])));
    for free in [15, 20, 5000] {
        let error = mounted
            .table
            .get(InodeNumber::new(free))
            .map(|_| ())
            .expect_err("free");
        assert!(error.is_posix(Posix::Stale), "inode {free}: {error}");
    }
    assert!(mounted.table.get(InodeNumber::new(0)).is_err());
    assert!(mounted.table.get(InodeNumber::MAX).is_err());
}

#[test]
fn draining_waits_for_the_last_io() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let mounted = Mounted::new(&image(dir.path(), &["-t", "ext4"]));
    let node = mounted.table.get(InodeNumber::new(13)).expect("a node");
    let ended = std::sync::atomic::AtomicU32::new(0);
    let (one, two) = (node.begin_io(), node.begin_io());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for io in [one, two] {
                std::thread::sleep(Duration::from_millis(20));
                ended.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                drop(io);
            }
        });
        node.drain();
        assert_eq!(ended.load(std::sync::atomic::Ordering::SeqCst), 2);
    });
}

/// Else fsync of an inode that was dropped and loaded again would find nothing to commit.
#[test]
fn a_node_loaded_again_knows_that_it_may_not_be_durable() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let mounted = Mounted::new(&image(dir.path(), &["-t", "ext4"]));
    let ino = InodeNumber::new(12);
    let inode = mounted.store.read(ino).expect("an inode");
    let node = mounted.table.get(ino).expect("a node");
    mounted.change(1, |handle| {
        mounted.store.write(handle, ino, &inode).expect("written");
        node.changed_in(handle.tid());
    });
    let tid = node.last_change();
    drop(node);
    // Made-up neighbours in use, until the table drops the one that nobody uses.
    let mut used = Vec::new();
    for step in 1..5000 {
        let other = InodeNumber::new(12 + 32 * step);
        used.push(mounted.table.insert(other, inode.clone()));
    }
    assert!(mounted.table.peek(ino).is_none());
    let node = mounted.table.get(ino).expect("a node");
    assert_eq!(node.last_change(), tid);
    assert!(tid.is_some_and(|tid| mounted.journal.is_running(tid)));
}

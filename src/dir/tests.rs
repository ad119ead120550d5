//! Directories on images that mke2fs made, through cache, journal, allocator and map; judged by e2fsck.

use super::{Directories, Entry, FileType};
use crate::alloc::{Allocator, Settings};
use crate::cache::BlockCache;
use crate::clock::SystemClock;
use crate::device::Device;
use crate::device::file::{Access, FileDevice};
use crate::error::{Posix, Result};
use crate::format::inode::{Inode, flag};
use crate::format::superblock::{OFFSET, SIZE, Superblock};
use crate::ids::InodeNumber;
use crate::inode::InodeStore;
use crate::journal::{Handle, Journal};
use crate::map::Map;
use crate::memory::{Memory, Need};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

mod judged;

/// A mounted image without a journal, with an empty directory "d" and a file "f".
struct Volume {
    directory: tempfile::TempDir,
    memory: Arc<Memory>,
    journal: Arc<Journal>,
    store: InodeStore,
    dirs: Directories,
    ino: InodeNumber,
    target: InodeNumber,
    names: BTreeSet<Vec<u8>>,
}

impl Volume {
    fn new(options: &[&str], size: &str) -> Self {
        Self::with_hash(options, size, "half_md4")
    }

    fn with_hash(options: &[&str], size: &str, hash: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("tree");
        std::fs::create_dir_all(tree.join("d")).unwrap();
        std::fs::write(tree.join("f"), "").unwrap();
        let image = directory.path().join("image");
        let run = |command: &mut Command| {
            let output = command.output().expect("e2fsprogs runs");
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
        };
        let mut mke2fs = Command::new("mke2fs");
        mke2fs
            .args(["-q", "-t", "ext4", "-O", "^has_journal"])
            .args(options);
        run(mke2fs.arg("-d").arg(tree).arg(&image).arg(size));
        run(Command::new("tune2fs")
            .arg("-E")
            .arg(format!("hash_alg={hash}"))
            .arg(&image));
        Self::open(directory)
    }

    fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    fn open(directory: tempfile::TempDir) -> Self {
        let device = FileDevice::open(&directory.path().join("image"), &Access::default()).unwrap();
        let device: Arc<dyn Device> = Arc::new(device);
        let mut bytes = vec![0; SIZE];
        device.read_at(OFFSET, &mut bytes).unwrap();
        let geo = Arc::new(
            Superblock::parse(&bytes)
                .unwrap()
                .geometry(device.len())
                .unwrap(),
        );
        let memory = Memory::new(64 << 20, geo.block_size, 1 << 20);
        let cache = BlockCache::new(device, geo, Arc::clone(&memory));
        let clock = Arc::new(SystemClock::new());
        let journal = Journal::new(Arc::clone(&cache), clock, None, Duration::from_secs(5));
        let alloc =
            Allocator::new(Arc::clone(&cache), Arc::clone(&memory), Settings::default()).unwrap();
        let map = Arc::new(Map::new(Arc::clone(&cache), Arc::clone(&alloc)));
        let store = InodeStore::new(Arc::clone(&cache), Arc::clone(&alloc));
        let dirs = Directories::new(cache, map, alloc);
        let root = store.read(InodeNumber::ROOT).unwrap();
        let find = |name: &[u8]| {
            dirs.lookup(InodeNumber::ROOT, &root, name)
                .unwrap()
                .unwrap()
                .ino
        };
        let (ino, target, names) = (find(b"d"), find(b"f"), BTreeSet::new());
        Self {
            directory,
            memory,
            journal,
            store,
            dirs,
            ino,
            target,
            names,
        }
    }

    fn inode(&self) -> Inode {
        self.store.read(self.ino).unwrap()
    }

    fn change<R>(&self, change: impl FnOnce(&Handle<'_>, &mut Inode) -> Result<R>) -> Result<R> {
        let mut inode = self.inode();
        let credits = self.dirs.insert_credits(&inode) + 1;
        let mut token = self.memory.admit(Need::frames(credits));
        let result = {
            let handle = self.journal.start(&mut token, credits)?;
            let result = change(&handle, &mut inode);
            // A failed change needs no writing back: the others rely on that.
            if result.is_ok() {
                self.store.write(&handle, self.ino, &inode)?;
            }
            result
        };
        if self.journal.newest().get().is_multiple_of(64) {
            self.journal.commit_running()?;
        }
        result
    }

    fn entry(&self) -> Entry {
        Entry {
            ino: self.target,
            file_type: FileType::Regular,
        }
    }

    fn insert(&mut self, name: &[u8]) -> Result<()> {
        self.change(|handle, inode| {
            self.dirs
                .insert(handle, self.ino, inode, name, self.entry())
        })?;
        assert!(self.names.insert(name.to_vec()));
        Ok(())
    }

    fn remove(&mut self, name: &[u8]) {
        let removed = self.change(|handle, inode| self.dirs.remove(handle, self.ino, inode, name));
        assert_eq!(removed.unwrap(), self.entry());
        assert!(self.names.remove(name));
    }

    fn has(&self, name: &[u8]) -> bool {
        let found = self.dirs.lookup(self.ino, &self.inode(), name).unwrap();
        assert!(found.is_none_or(|found| found == self.entry()));
        found.is_some()
    }

    /// At most `count` names after a cookie, with the cookie to go on.
    fn read(&self, cookie: u64, count: usize) -> (u64, Vec<Vec<u8>>) {
        let (mut last, mut names) = (cookie, Vec::new());
        let mut sink = |cookie: u64, _: Entry, name: &[u8]| {
            if names.len() == count {
                return false;
            }
            assert!(
                cookie > last && cookie < 1 << 63,
                "{cookie:#x} after {last:#x}"
            );
            last = cookie;
            names.push(name.to_vec());
            true
        };
        self.dirs
            .read(self.ino, &self.inode(), cookie, &mut sink)
            .unwrap();
        (last, names)
    }

    fn assert_complete(&self, count: usize) {
        let (mut cookie, mut all) = (0, Vec::new());
        loop {
            let (next, names) = self.read(cookie, count);
            all.extend(names.iter().cloned());
            cookie = next;
            if names.len() < count {
                break;
            }
        }
        assert_eq!(all[..2], [b".".to_vec(), b"..".to_vec()]);
        assert_eq!(all.len(), self.names.len() + 2);
        let all: BTreeSet<_> = all.into_iter().skip(2).collect();
        assert!(all == self.names);
    }

    /// Sets the file's link count, closes the image and lets e2fsck judge it.
    fn check(self) -> tempfile::TempDir {
        let mut file = self.store.read(self.target).unwrap();
        file.links_count = 1 + u16::try_from(self.names.len()).unwrap();
        let mut token = self.memory.admit(Need::frames(2));
        {
            let handle = self.journal.start(&mut token, 2).unwrap();
            self.store.write(&handle, self.target, &file).unwrap();
        }
        drop(token);
        self.journal.quiesce(&mut || Ok(())).unwrap();
        let Self {
            directory,
            journal,
            dirs,
            store,
            ..
        } = self;
        drop((journal, dirs, store));
        let image: PathBuf = directory.path().join("image");
        let e2fsck = Command::new("e2fsck")
            .arg("-fn")
            .arg(image)
            .output()
            .unwrap();
        assert!(
            e2fsck.status.success(),
            "{}",
            String::from_utf8_lossy(&e2fsck.stdout)
        );
        directory
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for index in (1..items.len()).rev() {
            items.swap(index, self.below(index + 1));
        }
    }
}

fn name(index: usize) -> Vec<u8> {
    let mut name = format!("{index}-").into_bytes();
    name.extend(std::iter::repeat_n(b'n', index % 23));
    name
}

fn fill_and_empty(options: &[&str], hash: &str, count: usize) {
    let mut volume = Volume::with_hash(options, "64M", hash);
    for index in 0..count {
        volume.insert(&name(index)).unwrap();
    }
    assert!(volume.inode().has_flag(flag::INDEX));
    volume.assert_complete(777);
    let names = volume.names.clone();
    let mut volume = Volume::open(volume.check());
    volume.names = names;
    for index in 0..count {
        assert!(volume.has(&name(index)));
        assert!(!volume.has(&name(index + count)));
    }
    let mut order: Vec<usize> = (0..count).collect();
    Random(7).shuffle(&mut order);
    let (first, rest) = order.split_at(count / 2);
    for &index in first {
        volume.remove(&name(index));
    }
    volume.assert_complete(50);
    for &index in rest {
        assert!(
            !volume.dirs.is_empty(volume.ino, &volume.inode()).unwrap() || volume.names.is_empty()
        );
        volume.remove(&name(index));
    }
    assert!(volume.dirs.is_empty(volume.ino, &volume.inode()).unwrap());
    volume.assert_complete(50);
    volume.check();
}

#[test]
fn two_levels_with_checksums() {
    fill_and_empty(&["-b", "1024", "-O", "metadata_csum"], "half_md4", 20_000);
}

#[test]
fn two_levels_without_checksums_by_tea() {
    fill_and_empty(&["-b", "1024", "-O", "^metadata_csum"], "tea", 6_000);
}

#[test]
fn blocks_of_4_kib() {
    fill_and_empty(&["-b", "4096"], "half_md4", 5_000);
}

#[test]
fn block_mapped_directories() {
    fill_and_empty(&["-b", "1024", "-O", "^extents,^64bit"], "half_md4", 6_000);
}

/// Names present all the time must come exactly once, whatever else happens between two calls.
fn read_while_changing(options: &[&str], stable: usize) {
    let mut volume = Volume::new(options, "64M");
    let mut random = Random(3);
    for index in 0..stable {
        volume.insert(&name(index)).unwrap();
    }
    let steady = volume.names.clone();
    let mut passing: Vec<Vec<u8>> = Vec::new();
    let (mut cookie, mut seen) = (0, BTreeSet::new());
    let mut fresh = stable;
    loop {
        let count = 1 + random.below(40);
        let (next, names) = volume.read(cookie, count);
        cookie = next;
        let end = names.len() < count;
        for name in names.into_iter().filter(|name| steady.contains(name)) {
            assert!(seen.insert(name));
        }
        if end {
            break;
        }
        for _ in 0..random.below(30) {
            if passing.len() > 5 && random.below(2) == 0 {
                let gone = passing.swap_remove(random.below(passing.len()));
                volume.remove(&gone);
            } else {
                volume.insert(&name(fresh)).unwrap();
                passing.push(name(fresh));
                fresh += 1;
            }
        }
    }
    assert!(seen == steady, "{} of {}", seen.len(), steady.len());
    volume.check();
}

#[test]
fn a_reader_keeps_its_place_through_splits() {
    read_while_changing(&["-b", "1024"], 3000);
}

#[test]
fn a_reader_keeps_its_place_through_the_conversion() {
    read_while_changing(&["-b", "1024"], 20);
}

#[test]
fn a_reader_keeps_its_place_without_an_index() {
    read_while_changing(&["-b", "1024", "-O", "^dir_index"], 300);
}

#[test]
fn deleting_what_was_read_leaves_nothing() {
    let mut volume = Volume::new(&["-b", "1024"], "64M");
    for index in 0..2000 {
        volume.insert(&name(index)).unwrap();
    }
    let mut cookie = 2;
    loop {
        let (next, names) = volume.read(cookie, 13);
        for name in &names {
            volume.remove(name);
        }
        if names.is_empty() {
            break;
        }
        cookie = next;
    }
    assert!(volume.names.is_empty());
    volume.check();
}

/// Each behind 200 times "a" has the legacy hash 0x2468acf0.
const COLLIDING: [&str; 24] = [
    "spLfa0y", "Gq8fapu", "kdjhaVs", "vMJpazc", "ly9qaCB", "MjQravV", "66AsapV", "4gywazB",
    "6LBzaVL", "GAuBaYi", "kPpKaud", "AB5KaNg", "nGnLaLE", "zuuLa4i", "AwINa6h", "vBcQahS",
    "3HjQaXf", "07KQaJn", "OGSQaP1", "4ifRatL", "yjgVaTR", "yiFXa2s", "FLK0a7z", "slY4aGY",
];

#[test]
fn names_of_one_hash_go_on_in_the_next_leaf() {
    let mut volume = Volume::with_hash(&["-b", "1024"], "16M", "legacy");
    let colliding = |suffix: &str| format!("{}{suffix}", "a".repeat(200)).into_bytes();
    for (index, suffix) in COLLIDING.iter().enumerate() {
        volume.insert(&colliding(suffix)).unwrap();
        volume.insert(&name(index)).unwrap();
    }
    for suffix in COLLIDING {
        assert!(volume.has(&colliding(suffix)));
    }
    assert!(!volume.has(&colliding("zzzzzzz")));
    for count in [1, 2, 7, 100] {
        volume.assert_complete(count);
    }
    for suffix in &COLLIDING[..12] {
        volume.remove(&colliding(suffix));
    }
    volume.assert_complete(3);
    volume.check();
}

#[test]
fn a_full_volume_leaves_the_directory_as_it_was() {
    let mut volume = Volume::new(&["-b", "1024", "-m", "0"], "2M");
    let mut index = 0;
    let refused = loop {
        let before = volume.inode();
        let long = format!("{index}{}", "n".repeat(240)).into_bytes();
        match volume.insert(&long) {
            Ok(()) => index += 1,
            Err(error) => {
                assert!(error.is_posix(Posix::NoSpc), "{error}");
                assert_eq!(volume.inode(), before);
                break long;
            }
        }
    };
    assert!(index > 1000);
    assert!(!volume.has(&refused));
    volume.assert_complete(100);
    volume.remove(format!("7{}", "n".repeat(240)).as_bytes());
    volume.check();
}

#[test]
fn targets_are_replaced_in_place() {
    let mut volume = Volume::new(&["-b", "1024"], "16M");
    for index in 0..500 {
        volume.insert(&name(index)).unwrap();
    }
    let root = Entry {
        ino: InodeNumber::ROOT,
        file_type: FileType::Directory,
    };
    let file = volume.entry();
    let replace = |name: &[u8], entry| {
        volume.change(|handle, inode| volume.dirs.replace(handle, volume.ino, inode, name, entry))
    };
    assert_eq!(replace(b"..", file).unwrap(), root);
    assert_eq!(replace(&name(77), root).unwrap(), file);
    let lookup = |name: &[u8]| {
        volume
            .dirs
            .lookup(volume.ino, &volume.inode(), name)
            .unwrap()
            .unwrap()
    };
    assert_eq!(lookup(b".."), file);
    assert_eq!(lookup(&name(77)), root);
    replace(b"..", root).unwrap();
    replace(&name(77), file).unwrap();
    assert!(replace(b"absent", file).unwrap_err().is_posix(Posix::NoEnt));
    volume.check();
}

#[test]
fn entries_in_the_inode_are_read() {
    let mut volume = Volume::new(&["-O", "inline_data", "-b", "4096"], "16M");
    assert!(volume.inode().has_flag(flag::INLINE_DATA));
    volume.assert_complete(10);
    let entry = volume.entry();
    let refused =
        volume.change(|handle, inode| volume.dirs.insert(handle, volume.ino, inode, b"x", entry));
    assert!(refused.unwrap_err().is_posix(Posix::OpNotSupp));
    assert_eq!(
        volume
            .dirs
            .lookup(volume.ino, &volume.inode(), b"..")
            .unwrap()
            .unwrap()
            .ino,
        InodeNumber::ROOT
    );
    volume.ino = InodeNumber::ROOT;
    assert_eq!(
        volume
            .dirs
            .lookup(volume.ino, &volume.inode(), b"f")
            .unwrap(),
        Some(entry)
    );
}

//! What single steps cost: `cargo bench -p xtask`. Times of one machine; compare them before and after a change.

use divan::{Bencher, black_box};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use uext4::alloc::{Allocator, Growth, Request, Settings};
use uext4::cache::BlockCache;
use uext4::clock::SystemClock;
use uext4::device::Device;
use uext4::device::file::{Access, FileDevice};
use uext4::dir::{Directories, Entry, FileType};
use uext4::format::checksum;
use uext4::format::geometry::Geometry;
use uext4::format::inode::Inode;
use uext4::format::superblock::{OFFSET, SIZE, Superblock};
use uext4::ids::{FileBlock, FsBlock, GroupIndex, InodeNumber};
use uext4::inode::InodeStore;
use uext4::journal::log::Log;
use uext4::journal::recover::{self, LogMap};
use uext4::journal::{Handle, Journal};
use uext4::map::Map;
use uext4::memory::{Memory, Need};

#[path = "../src/bench/scale.rs"]
#[allow(dead_code)]
mod scale;
#[path = "../src/bench/sides.rs"]
#[allow(dead_code)]
mod sides;

fn main() {
    divan::main();
}

/// Everything up to directories, on an image of its own with one file, `f`, in its root.
struct Volume {
    memory: Arc<Memory>,
    journal: Arc<Journal>,
    alloc: Arc<Allocator>,
    map: Arc<Map>,
    store: InodeStore,
    dirs: Directories,
    geo: Arc<Geometry>,
    file: InodeNumber,
    _scratch: tempfile::TempDir,
}

impl Volume {
    fn new(size: &str, full: bool) -> Self {
        let scratch = tempfile::tempdir_in("/var/tmp").expect("scratch");
        let path = scratch.path().join("image");
        let tree = scratch.path().join("tree");
        std::fs::create_dir(&tree).expect("a tree");
        std::fs::write(tree.join("f"), []).expect("a file");
        let made = Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-d"])
            .args([&tree, &path])
            .arg(size)
            .output();
        assert!(made.expect("mke2fs").status.success());
        if full {
            scale::fill_up(&path).expect("a full image");
        }
        let opened = FileDevice::open(&path, &Access::default()).expect("an image");
        Self::open(Arc::new(opened), scratch)
    }

    fn open(device: Arc<dyn Device>, scratch: tempfile::TempDir) -> Self {
        let mut bytes = [0; SIZE];
        device.read_at(OFFSET, &mut bytes).expect("a superblock");
        let superblock = Superblock::parse(&bytes).expect("a superblock");
        let geo = Arc::new(superblock.geometry(device.len()).expect("a geometry"));
        let map = LogMap::read(&*device, &geo).expect("a journal");
        let recovery = recover::recover(&*device, &geo, &map).expect("a clean journal");
        let log = Log::open(Arc::clone(&geo), map, &recovery);
        let memory = Memory::new(256 << 20, geo.block_size, 1 << 20);
        let cache = BlockCache::new(device, Arc::clone(&geo), Arc::clone(&memory));
        let interval = Duration::from_secs(5);
        let journal = Journal::new(
            Arc::clone(&cache),
            Arc::new(SystemClock::new()),
            Some(log),
            interval,
        );
        let settings = Settings::default();
        let alloc = Allocator::new(Arc::clone(&cache), Arc::clone(&memory), settings)
            .expect("group descriptors");
        journal.listen(Arc::clone(&alloc) as Arc<_>);
        let map = Arc::new(Map::new(Arc::clone(&cache), Arc::clone(&alloc)));
        let store = InodeStore::new(Arc::clone(&cache), Arc::clone(&alloc));
        let dirs = Directories::new(cache, Arc::clone(&map), Arc::clone(&alloc));
        let root = store.read(InodeNumber::ROOT).expect("the root");
        let found = dirs.lookup(InodeNumber::ROOT, &root, b"f");
        Self {
            file: found.expect("a directory").expect("the file").ino,
            memory,
            journal,
            alloc,
            map,
            store,
            dirs,
            geo,
            _scratch: scratch,
        }
    }

    fn with_handle<R>(&self, credits: u32, work: impl FnOnce(&Handle<'_>) -> R) -> R {
        let mut token = self.memory.admit(Need::frames(credits));
        let handle = self.journal.start(&mut token, credits).expect("a handle");
        work(&handle)
    }

    fn middle(&self) -> FsBlock {
        let group = self.geo.group_count / 2;
        self.geo.first_block(GroupIndex::new(group))
    }
}

#[divan::bench]
fn buddy_build_from_a_bitmap(bencher: Bencher) {
    let volume = Volume::new("256M", true);
    let group = GroupIndex::new(1);
    let _ = volume.alloc.load_buddy(group, None);
    bencher.bench_local(|| {
        volume.alloc.drop_buddy(group);
        volume.alloc.load_buddy(group, None).expect("a buddy")
    });
}

/// One reservation, given back; `blocks` and the state of the volume decide which level finds it.
fn reserve(bencher: Bencher, full: bool, blocks: u32, at_goal: bool) {
    let volume = Volume::new("8G", full);
    let goal = if at_goal {
        // The first free run behind the middle.
        let found = volume
            .alloc
            .reserve(&request(&volume, volume.middle(), 1), None);
        found.expect("space").start()
    } else {
        volume.middle()
    };
    bencher.bench_local(|| {
        let reserved = volume.alloc.reserve(&request(&volume, goal, blocks), None);
        black_box(reserved.expect("space").start())
    });
}

fn request(volume: &Volume, goal: FsBlock, len: u32) -> Request {
    Request {
        ino: volume.file,
        logical: None,
        goal,
        len,
        file_blocks: 0,
        growth: Growth::Exact,
        privileged: true,
    }
}

#[divan::bench]
fn search_goal(bencher: Bencher) {
    reserve(bencher, false, 8, true);
}

#[divan::bench]
fn search_power_of_two(bencher: Bencher) {
    reserve(bencher, true, 16, false);
}

#[divan::bench]
fn search_goal_length(bencher: Bencher) {
    reserve(bencher, true, 13, false);
}

/// No group has a run as long as this one.
#[divan::bench]
fn search_best_available(bencher: Bencher) {
    reserve(bencher, true, 500, false);
}

/// The longest that a search is asked for, where there are short runs alone.
#[divan::bench]
fn search_any(bencher: Bencher) {
    reserve(bencher, true, 2047, false);
}

#[divan::bench]
fn extent_insert(bencher: Bencher) {
    let volume = Volume::new("256M", false);
    let mut inode: Inode = volume.store.read(volume.file).expect("an inode");
    let mut next = 0;
    bencher.bench_local(|| {
        // Every second block, so that nothing merges; a truncated file starts again.
        if next > 20_000 {
            inode = volume.store.read(volume.file).expect("an inode");
            volume.journal.commit_running().expect("a commit");
            next = 0;
        }
        let at = FileBlock::new(next * 2);
        let goal = volume.map.goal(volume.file, &inode, at);
        let reserved = volume.alloc.reserve(&request(&volume, goal, 1), None);
        let reserved = reserved.expect("space");
        let start = reserved.start();
        let credits = volume.map.insert_credits(&inode);
        volume.with_handle(credits, |handle| {
            let map = &volume.map;
            map.insert(handle, volume.file, &mut inode, at, start, 1, false)
                .expect("room in the tree");
        });
        next += 1;
    });
}

#[divan::bench]
fn htree_lookup_among_20000(bencher: Bencher) {
    let volume = Volume::new("256M", false);
    let mut root = volume.store.read(InodeNumber::ROOT).expect("the root");
    let entry = Entry {
        ino: volume.file,
        file_type: FileType::Regular,
    };
    for number in 0..20_000 {
        let name = format!("file-{number:06}");
        let credits = volume.dirs.insert_credits(&root);
        volume.with_handle(credits, |handle| {
            let dirs = &volume.dirs;
            dirs.insert(handle, InodeNumber::ROOT, &mut root, name.as_bytes(), entry)
                .expect("room in the directory");
        });
    }
    let mut number = 0;
    bencher.bench_local(|| {
        number = (number + 7919) % 20_000;
        let name = format!("file-{number:06}");
        let found = volume
            .dirs
            .lookup(InodeNumber::ROOT, &root, name.as_bytes());
        found.expect("a directory").expect("the name")
    });
}

#[divan::bench]
fn crc32c_of_4_kib(bencher: Bencher) {
    let bytes = vec![0x5a; 4096];
    bencher.bench_local(|| checksum::crc32c(!0, black_box(&bytes)));
}

#[divan::bench]
fn handle_start_and_stop(bencher: Bencher) {
    let volume = Volume::new("256M", false);
    bencher.bench_local(|| volume.with_handle(8, |handle| handle.tid()));
}

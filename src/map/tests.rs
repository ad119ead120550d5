//! Maps against a model of one entry a block, on mke2fs's images; e2fsck and the kernel are the judges.
//!
//! Source: the kernel's ext4 documentation, "The Contents of inode.i_block".
//! Invariants: every test works on its own image in a directory that goes away; handles get no more credits than
//! `insert_credits` and `REMOVE_STEP` promise to suffice.

use super::*;
use crate::alloc::{Growth, Request, Settings};
use crate::clock::SystemClock;
use crate::device::Device;
use crate::device::file::{Access, FileDevice};
use crate::format::checksum::BlockKind;
use crate::format::extent::Header;
use crate::format::superblock::{OFFSET, SIZE, Superblock};
use crate::journal::Journal;
use crate::journal::log::Log;
use crate::journal::recover::{self, LogMap};
use crate::memory::{Memory, Need};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const VARIANTS: [&[&str]; 5] = [
    &["-t", "ext4"],
    &["-t", "ext4", "-b", "1024"],
    &["-t", "ext4", "-b", "1024", "-O", "^extent,^64bit"],
    &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum"],
    &["-t", "ext2", "-b", "1024"],
];

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// An image with the empty file `/f`.
struct Image {
    dir: tempfile::TempDir,
    path: PathBuf,
}

impl Image {
    fn new(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        run(Command::new("mke2fs")
            .args(["-q", "-F"])
            .args(options)
            .arg(&path)
            .arg("48M"));
        let empty = dir.path().join("empty");
        std::fs::write(&empty, []).unwrap();
        let request = format!("write {} f", empty.display());
        run(Command::new("debugfs")
            .args(["-w", "-R", &request])
            .arg(&path));
        Self { dir, path }
    }

    fn with_the_kernel(&self, work: impl FnOnce(&Path)) {
        let point = self.dir.path().join("mnt");
        std::fs::create_dir_all(&point).unwrap();
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(&self.path)
            .arg(&point));
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&point)));
        run(Command::new("sh")
            .args([
                "-c",
                "for i in 1 2 3 4 5 6 7 8 9; do umount \"$0\" && exit; sleep 0.3; done; exit 1",
            ])
            .arg(&point));
        done.unwrap();
    }

    fn judge(&self) {
        run(Command::new("e2fsck").arg("-fn").arg(&self.path));
    }
}

/// The layers up to maps over an image, and a model of `/f`.
struct Bed {
    memory: Arc<Memory>,
    cache: Arc<BlockCache>,
    journal: Arc<Journal>,
    alloc: Arc<Allocator>,
    map: Map,
    ino: InodeNumber,
    model: BTreeMap<u32, (u64, bool)>,
}

/// `/f` gets the first inode that mke2fs left free: 11 is lost+found.
const INO: InodeNumber = InodeNumber::new(12);

impl Bed {
    fn new(image: &Image) -> Self {
        let device: Arc<dyn Device> =
            Arc::new(FileDevice::open(&image.path, &Access::default()).unwrap());
        let mut bytes = [0; SIZE];
        device.read_at(OFFSET, &mut bytes).unwrap();
        let superblock = Superblock::parse(&bytes).unwrap();
        let geo = Arc::new(superblock.geometry(device.len()).unwrap());
        let log = (geo.journal_inum != 0).then(|| {
            let map = LogMap::read(&*device, &geo).unwrap();
            let recovery = recover::recover(&*device, &geo, &map).unwrap();
            Log::open(Arc::clone(&geo), map, &recovery)
        });
        let memory = Memory::new(64 << 20, geo.block_size, 256 << 10);
        let cache = BlockCache::new(device, geo, Arc::clone(&memory));
        let clock = Arc::new(SystemClock::new());
        let journal = Journal::new(Arc::clone(&cache), clock, log, Duration::from_secs(5));
        let alloc =
            Allocator::new(Arc::clone(&cache), Arc::clone(&memory), Settings::default()).unwrap();
        journal.listen(alloc.clone());
        Self {
            map: Map::new(Arc::clone(&cache), Arc::clone(&alloc)),
            memory,
            cache,
            journal,
            alloc,
            ino: INO,
            model: BTreeMap::new(),
        }
    }

    fn place(&self) -> (FsBlock, usize) {
        let geo = self.cache.geometry();
        let (group, index) = geo.inode_place(self.ino).unwrap();
        let table = self.alloc.inode_table_block(group).unwrap();
        let block = table
            .checked_add(u64::from(index / geo.inodes_per_block))
            .unwrap();
        let at = (index % geo.inodes_per_block) * geo.inode_size;
        (block, at as usize)
    }

    fn inode(&self) -> Inode {
        let geo = self.cache.geometry();
        let (block, at) = self.place();
        let bytes = self.cache.read(block, BlockKind::Plain).unwrap().snapshot();
        Inode::parse(&bytes[at..at + geo.inode_size as usize], geo, self.ino).unwrap()
    }

    /// One handle with `credits` and those of the inode's block.
    fn change<R>(&self, credits: u32, work: impl FnOnce(&Handle<'_>, &mut Inode) -> R) -> R {
        let credits = credits + 1;
        let mut inode = self.inode();
        let mut token = self.memory.admit(Need {
            frames: credits,
            bytes: 0,
        });
        let handle = self.journal.start(&mut token, credits).unwrap();
        let (block, at) = self.place();
        let geo = self.cache.geometry();
        let buffer = self.cache.read(block, BlockKind::Plain).unwrap();
        let result = work(&handle, &mut inode);
        let mut bytes = handle.write(&buffer).unwrap();
        inode.write_to(&mut bytes[at..at + geo.inode_size as usize], geo, self.ino);
        drop(bytes);
        result
    }

    /// Fills the holes of `at..at + len`.
    fn insert(&mut self, at: u32, len: u32, unwritten: bool) {
        let end = at + len;
        let mut at = at;
        while at < end {
            let inode = self.inode();
            let here = self
                .map
                .lookup(self.ino, &inode, FileBlock::new(at), end - at)
                .unwrap();
            if here.mapping != Mapping::Hole {
                at += here.len;
                continue;
            }
            let goal = self.map.goal(self.ino, &inode, FileBlock::new(at));
            let request = Request {
                ino: self.ino,
                logical: None,
                goal,
                len: here.len,
                file_blocks: 0,
                growth: Growth::Exact,
                privileged: true,
            };
            let reserved = self.alloc.reserve(&request, None).unwrap();
            let (start, len) = (reserved.start(), reserved.len().min(here.len));
            self.change(self.map.insert_credits(&inode) + 2, |handle, inode| {
                self.alloc.mark(handle, reserved, len).unwrap();
                let at = FileBlock::new(at);
                self.map
                    .insert(handle, self.ino, inode, at, start, len, unwritten)
                    .unwrap();
            });
            for step in 0..len {
                self.model
                    .insert(at + step, (start.get() + u64::from(step), unwritten));
            }
            at += len;
        }
    }

    fn mark(&mut self, at: u32, len: u32, unwritten: bool) {
        let mut cursor = at;
        while cursor < at + len {
            let inode = self.inode();
            let at_block = FileBlock::new(cursor);
            let here = self
                .map
                .lookup(self.ino, &inode, at_block, at + len - cursor)
                .unwrap();
            self.change(self.map.insert_credits(&inode), |handle, inode| {
                if unwritten {
                    self.map
                        .mark_unwritten(handle, self.ino, inode, at_block, here.len)
                        .unwrap();
                } else {
                    self.map
                        .mark_written(handle, self.ino, inode, at_block, here.len)
                        .unwrap();
                }
            });
            cursor += here.len;
        }
        self.model
            .range_mut(at..at + len)
            .for_each(|(_, entry)| entry.1 = unwritten);
    }

    fn remove(&mut self, from: u32, to: u32, meta: bool) {
        let mut end = Some(FileBlock::new(to));
        while let Some(to) = end {
            end = self.change(Map::REMOVE_STEP, |handle, inode| {
                let from = FileBlock::new(from);
                self.map
                    .remove(handle, self.ino, inode, from, to, meta)
                    .unwrap()
            });
        }
        self.model.retain(|&block, _| block < from || block >= to);
    }

    /// The whole of `0..limit` as the map shows it must be the model.
    fn compare(&self, limit: u32) {
        let inode = self.inode();
        let mut seen = BTreeMap::new();
        let mut at = 0;
        while at < limit {
            let block = FileBlock::new(at);
            let here = self
                .map
                .lookup(self.ino, &inode, block, limit - at)
                .unwrap();
            assert!(
                here.start == block && here.len > 0 && here.len <= limit - at,
                "{here:?}"
            );
            let (start, unwritten) = match here.mapping {
                Mapping::Written(start) => (Some(start), false),
                Mapping::Unwritten(start) => (Some(start), true),
                _ => (None, false),
            };
            if let Some(start) = start {
                for step in 0..here.len {
                    seen.insert(at + step, (start.get() + u64::from(step), unwritten));
                }
            }
            at += here.len;
        }
        assert_eq!(seen, self.model);
    }

    /// Writes all home, with a size that covers the map.
    fn finish(self) {
        let last = self
            .model
            .keys()
            .last()
            .map_or(0, |&last| u64::from(last) + 1);
        let block_size = u64::from(self.cache.geometry().block_size);
        self.change(0, |_, inode| inode.size = last * block_size);
        self.journal.quiesce(&mut || Ok(())).unwrap();
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as u32 % limit
    }
}

#[test]
fn random_operations_follow_the_model() {
    const LIMIT: u32 = 3000;
    for (options, seed) in VARIANTS.into_iter().zip(1..) {
        let image = Image::new(options);
        let mut bed = Bed::new(&image);
        let extents = bed.inode().has_flag(flag::EXTENTS);
        let mut random = Random(seed * 0x9e37_79b9);
        for round in 0..400 {
            let at = random.below(LIMIT - 200);
            let longest = [3, 40, 200][random.below(3) as usize];
            let len = 1 + random.below(longest);
            match random.below(10) {
                0..=4 => bed.insert(at, len, extents && random.below(2) == 0),
                5 | 6 => bed.remove(at, at + len, false),
                7 if extents => bed.mark(at, len, true),
                8 if extents => bed.mark(at, len, false),
                _ => (0..20).for_each(|step| bed.insert((at + step * 2) % LIMIT, 1, false)),
            }
            bed.compare(LIMIT + 10);
            if round % 50 == 49 {
                bed.journal.commit_running().unwrap();
            }
        }
        bed.finish();
        image.judge();
    }
}

#[test]
fn trees_grow_two_levels_deep_and_shrink_to_the_inode() {
    for options in [VARIANTS[0], VARIANTS[1]] {
        let image = Image::new(options);
        let mut bed = Bed::new(&image);
        let blocks = bed.inode().blocks;
        let extents = if options.len() == 2 { 1600 } else { 900 };
        // Backwards in strides, so that leaves split in the middle too.
        for stride in (0..4).rev() {
            (0..extents / 4).for_each(|step| bed.insert((step * 4 + stride) * 2, 1, false));
            bed.journal.commit_running().unwrap();
        }
        bed.compare(extents * 2);
        assert_eq!(Header::parse(&bed.inode().block, None).unwrap().depth, 2);
        bed.remove(100, extents, true);
        bed.mark(0, 100, true);
        bed.compare(extents * 2);
        bed.remove(0, u32::MAX, false);
        bed.compare(extents * 2);
        let inode = bed.inode();
        assert_eq!(Header::parse(&inode.block, None).unwrap().depth, 0);
        assert_eq!(inode.blocks, blocks);
        bed.finish();
        image.judge();
    }
}

#[test]
fn deep_images_are_judged_by_e2fsck_and_read_by_the_kernel() {
    for options in VARIANTS {
        let image = Image::new(options);
        let mut bed = Bed::new(&image);
        // Reaches double indirect blocks, and triple ones where blocks are small.
        for at in (0..1200).step_by(2).chain([65_900, 70_000]) {
            bed.insert(at, 1, false);
        }
        let block_size = bed.cache.geometry().block_size as usize;
        let content = |at: u32| at.to_le_bytes().repeat(block_size / 4);
        for (&at, &(block, _)) in &bed.model {
            let offset = block * block_size as u64;
            let mut bytes = bed.memory.io_buffer(block_size);
            bytes[..block_size].copy_from_slice(&content(at));
            bed.cache
                .device()
                .write_at(offset, &bytes[..block_size])
                .unwrap();
        }
        bed.remove(300, 500, false);
        let model = bed.model.clone();
        bed.finish();
        image.judge();
        image.with_the_kernel(|point| {
            let read = std::fs::read(point.join("f")).unwrap();
            for (found, at) in read.chunks(block_size).zip(0..) {
                let expected = match model.get(&at) {
                    Some(_) => content(at),
                    None => vec![0; block_size],
                };
                assert!(found == expected, "{options:?}: block {at}");
            }
        });
    }
}

#[test]
fn maps_of_the_kernel_lead_to_its_data() {
    use std::os::unix::fs::FileExt;
    for options in VARIANTS {
        let image = Image::new(options);
        let content = |at: u32| [at.wrapping_mul(0x9e37_79b9).to_le_bytes(), *b"data"].concat();
        let blocks: Vec<u32> = (0..1500)
            .map(|step| step * 3)
            .chain([66_000, 90_000])
            .collect();
        let mut block_size = 0;
        image.with_the_kernel(|point| {
            let file = std::fs::File::options()
                .write(true)
                .open(point.join("f"))
                .unwrap();
            block_size = rustix::fs::statvfs(point).unwrap().f_bsize;
            for &at in &blocks {
                file.write_all_at(&content(at), u64::from(at) * block_size)
                    .unwrap();
            }
        });
        let bed = Bed::new(&image);
        let inode = bed.inode();
        let mut mapped = 0;
        let mut at = 0;
        while at < 90_001 {
            let here = bed
                .map
                .lookup(INO, &inode, FileBlock::new(at), 90_001 - at)
                .unwrap();
            if let Mapping::Written(start) = here.mapping {
                for step in 0..here.len {
                    let offset = (start.get() + u64::from(step)) * block_size;
                    let mut bytes = bed.memory.io_buffer(block_size as usize);
                    bed.cache
                        .device()
                        .read_at(offset, &mut bytes[..block_size as usize])
                        .unwrap();
                    assert_eq!(
                        bytes[..8],
                        content(at + step),
                        "{options:?}: block {}",
                        at + step
                    );
                    mapped += 1;
                }
            }
            at += here.len;
        }
        assert_eq!(mapped, blocks.len());
    }
}

#[test]
fn hostile_trees_are_corrupt() {
    let image = Image::new(VARIANTS[0]);
    let bed = Bed::new(&image);
    let mut inode = bed.inode();
    let lookup = |inode: &Inode| bed.map.lookup(INO, inode, FileBlock::ZERO, 1);
    let corrupt = |inode: &Inode| matches!(lookup(inode), Err(crate::error::Error::Corrupt { .. }));
    let extent = crate::format::extent::Extent {
        logical: 0,
        len: 1,
        physical: bed.place().0,
        unwritten: false,
    };
    crate::format::extent::set_entries(&mut inode.block, 1);
    crate::format::extent::put_extent(&mut inode.block, 0, &extent);
    assert!(corrupt(&inode), "an extent in the inode table");
    let outside = crate::format::extent::Extent {
        physical: FsBlock::new(1 << 40),
        ..extent
    };
    crate::format::extent::put_extent(&mut inode.block, 0, &outside);
    assert!(corrupt(&inode), "an extent outside");
    crate::format::extent::init(&mut inode.block, 6);
    assert!(corrupt(&inode), "too deep");
    crate::format::extent::init(&mut inode.block, 0);
    crate::format::extent::set_entries(&mut inode.block, 5);
    assert!(corrupt(&inode), "too many entries");
    inode.block[0] = 0;
    assert!(corrupt(&inode), "no magic number");
}

//! The allocator against a naive model: one letter a block. No block is given twice, none leaks, every count is exact.
//!
//! Source: the design's section on block ownership.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use uext4::alloc::{Allocator, Claim, Growth, PreallocTree, Request, Reserved, Settings};
use uext4::cache::BlockCache;
use uext4::clock::SystemClock;
use uext4::device::Device;
use uext4::error::{Posix, Result};
use uext4::format::superblock::{OFFSET, SIZE, Superblock};
use uext4::ids::{FileBlock, FsBlock, InodeNumber};
use uext4::journal::log::Log;
use uext4::journal::recover::{self, LogMap};
use uext4::journal::{Handle, Journal};
use uext4::memory::{Memory, Need};
use uext4::sync::{self, Rank};

const FILES: usize = 12;

/// An image in memory that notes what it was told to discard.
struct MemoryDevice {
    bytes: Mutex<Vec<u8>>,
    discarded: Mutex<Vec<(u64, u64)>>,
}

impl Device for MemoryDevice {
    fn len(&self) -> u64 {
        self.bytes.lock().unwrap().len() as u64
    }
    fn sector_size(&self) -> u32 {
        512
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let at = offset as usize;
        buffer.copy_from_slice(&self.bytes.lock().unwrap()[at..at + buffer.len()]);
        Ok(())
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let at = offset as usize;
        self.bytes.lock().unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
    fn write_vectored_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> Result<()> {
        let bytes: Vec<u8> = slices.iter().flat_map(|s| s.to_vec()).collect();
        self.write_at(offset, &bytes)
    }
    fn sync(&self) -> Result<()> {
        Ok(())
    }
    fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.discarded.lock().unwrap().push((offset, length));
        self.write_zeroes(offset, length)
    }
    fn write_zeroes(&self, offset: u64, length: u64) -> Result<()> {
        self.bytes.lock().unwrap()[offset as usize..(offset + length) as usize].fill(0);
        Ok(())
    }
}

/// What the model knows of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    /// The file system's own.
    Fixed,
    Free,
    /// Handed out.
    Reserved,
    Used,
    /// Its bit is clear in a transaction that has not committed.
    Freed,
    /// Committed, but not yet discarded.
    ToDiscard,
}

#[derive(Default)]
struct File {
    tree: Option<sync::Mutex<PreallocTree>>,
    end: u32,
}

struct World {
    device: Arc<MemoryDevice>,
    memory: Arc<Memory>,
    journal: Arc<Journal>,
    alloc: Arc<Allocator>,
    ratio: u64,
    bits: u32,
    model: Vec<Block>,
    files: Vec<File>,
    pending: Vec<Reserved>,
    used: BTreeMap<u64, u32>,
    claims: Vec<Claim>,
    random: u64,
    discards: bool,
    /// How often there was no space.
    full: u32,
}

impl World {
    fn new(options: &[&str], size: &str, settings: Settings, seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let mut command = Command::new("mke2fs");
        command
            .args(["-q", "-F"])
            .args(options)
            .arg(&path)
            .arg(size);
        assert!(command.status().unwrap().success());
        let device = Arc::new(MemoryDevice {
            bytes: Mutex::new(std::fs::read(&path).unwrap()),
            discarded: Mutex::new(Vec::new()),
        });
        let mut bytes = [0; SIZE];
        device.read_at(OFFSET, &mut bytes).unwrap();
        let sb = Superblock::parse(&bytes).unwrap();
        let geo = Arc::new(sb.geometry(device.len()).unwrap());
        let log = (geo.journal_inum != 0).then(|| {
            let map = LogMap::read(&*device, &geo).unwrap();
            let recovery = recover::recover(&*device, &geo, &map).unwrap();
            Log::open(Arc::clone(&geo), map, &recovery)
        });
        let memory = Memory::new(8 << 20, geo.block_size, 128 << 10);
        let cache = BlockCache::new(device.clone(), Arc::clone(&geo), Arc::clone(&memory));
        let clock = Arc::new(SystemClock::new());
        let journal = Journal::new(Arc::clone(&cache), clock, log, Duration::from_secs(1 << 20));
        let alloc = Allocator::new(cache, Arc::clone(&memory), settings).unwrap();
        journal.listen(alloc.clone());
        let (ratio, bits) = (1 << geo.cluster_ratio_bits, geo.block_bits);
        let mut world = Self {
            device,
            memory,
            journal,
            alloc,
            ratio,
            bits,
            model: vec![Block::Fixed; geo.blocks_count as usize],
            files: (0..FILES).map(|_| File::default()).collect(),
            pending: Vec::new(),
            used: BTreeMap::new(),
            claims: Vec::new(),
            random: seed,
            discards: settings.discard,
            full: 0,
        };
        world.learn_what_is_free(&dir.path().join("image"));
        world
    }

    /// From dumpe2fs, which is not ours.
    fn learn_what_is_free(&mut self, image: &std::path::Path) {
        let output = Command::new("dumpe2fs").arg(image).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let lists = text
            .lines()
            .filter_map(|l| l.strip_prefix("  Free blocks: "));
        for run in lists
            .flat_map(|list| list.split(", "))
            .filter(|run| !run.is_empty())
        {
            let (first, last) = run.split_once('-').unwrap_or((run, run));
            let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
            // With clusters the last one is named by its first block.
            let last = last + self.ratio as usize - 1;
            self.model[first..=last].fill(Block::Free);
        }
        assert_eq!(self.count(Block::Free), self.alloc.counts().free_blocks);
    }

    fn below(&mut self, limit: u32) -> u32 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % u64::from(limit.max(1))) as u32
    }

    fn count(&self, what: Block) -> u64 {
        self.model.iter().filter(|&&block| block == what).count() as u64
    }

    /// Moves a run from one owner to another.
    fn move_run(&mut self, start: u64, len: u32, from: &[Block], to: Block) {
        for block in start..start + u64::from(len) {
            let owner = &mut self.model[block as usize];
            assert!(
                from.contains(owner),
                "block {block} is {owner:?}, goes to {to:?}"
            );
            *owner = to;
        }
    }

    fn with_handle<R>(&self, credits: u32, work: impl FnOnce(&Handle<'_>) -> R) -> R {
        let need = Need {
            frames: credits,
            bytes: 0,
        };
        let mut token = self.memory.admit(need);
        let handle = self.journal.start(&mut token, credits).unwrap();
        work(&handle)
    }

    fn step(&mut self) {
        match self.below(24) {
            0..=8 => self.reserve(),
            9..=12 => self.mark(),
            13 => self.fail(),
            14..=17 => self.free(),
            18 if self.below(6) == 0 => self.commit(),
            19 => self.claim(),
            20 => {
                let file = self.below(FILES as u32) as usize;
                self.forget(file);
            }
            21 if self.below(60) == 0 => {
                self.alloc.discard_all();
                self.check_held();
            }
            22 if self.below(40) == 0 => self.trim(),
            23 => {
                self.claims.pop();
            }
            _ => self.discard(),
        }
    }

    fn request(&mut self, file: usize) -> Request {
        let most = [4, 30, 300][self.below(3) as usize];
        let (at, len) = (self.files[file].end, 1 + self.below(most));
        let growth = [Growth::Exact, Growth::Closed, Growth::Open, Growth::Open];
        let ratio = self.ratio as u32;
        Request {
            ino: InodeNumber::new(20 + file as u32),
            logical: (self.below(5) > 0).then(|| FileBlock::new(at.next_multiple_of(ratio))),
            goal: FsBlock::new(u64::from(self.below(self.model.len() as u32))),
            len,
            file_blocks: u64::from(at + len),
            growth: growth[self.below(4) as usize],
            privileged: self.below(4) > 0,
        }
    }

    fn reserve(&mut self) {
        let file = self.below(FILES as u32) as usize;
        let request = self.request(file);
        let paying = self.below(3) == 0 && !self.claims.is_empty();
        let tree = self.files[file].tree.take();
        let tree =
            tree.unwrap_or_else(|| sync::Mutex::new(Rank::Prealloc, PreallocTree::default()));
        let result = if paying {
            let last = self.claims.len() - 1;
            let before = self.claims[last].blocks();
            let result = self
                .alloc
                .reserve_claimed(&request, Some(&tree), &mut self.claims[last]);
            let reserved = result.as_ref().map_or(0, |run| u64::from(run.len()));
            assert_eq!(before - self.claims[last].blocks(), reserved.min(before));
            assert!(before == 0 || result.is_ok(), "a claim was not honoured");
            result
        } else {
            self.alloc.reserve(&request, Some(&tree))
        };
        self.files[file].tree = Some(tree);
        match result {
            Ok(run) => {
                assert!(run.len() >= 1);
                assert!(
                    u64::from(run.len()) <= u64::from(request.len).next_multiple_of(self.ratio)
                );
                self.move_run(
                    run.start().get(),
                    run.len(),
                    &[Block::Free],
                    Block::Reserved,
                );
                if let Some(logical) = request.logical {
                    self.files[file].end = logical.get() + run.len();
                }
                self.pending.push(run);
            }
            Err(error) => {
                assert!(error.is_posix(Posix::NoSpc), "{error}");
                self.check_full(&request);
            }
        }
    }

    /// There is no space: is that so?
    fn check_full(&mut self, request: &Request) {
        self.full += 1;
        self.alloc.discard_all();
        self.check_held();
        let claimed: u64 = self.claims.iter().map(Claim::blocks).sum();
        let left = self.count(Block::Free) - claimed;
        let request = Request {
            logical: None,
            growth: Growth::Exact,
            ..*request
        };
        match self.alloc.reserve(&request, None) {
            Ok(run) => {
                assert!(left > 0);
                assert!(u64::from(run.len()) <= left);
            }
            Err(_) => {
                let floor = if request.privileged { 0 } else { RESERVED };
                assert!(left <= floor, "{left} blocks were free");
            }
        }
    }

    fn mark(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let at = self.below(self.pending.len() as u32) as usize;
        let run = self.pending.swap_remove(at);
        let (start, len) = (run.start().get(), run.len());
        let part = if self.below(4) == 0 {
            let ratio = self.ratio as u32;
            self.below(len / ratio + 1) * ratio
        } else {
            len
        };
        self.with_handle(2, |handle| self.alloc.mark(handle, run, part))
            .unwrap();
        self.move_run(start, part, &[Block::Reserved], Block::Used);
        self.move_run(
            start + u64::from(part),
            len - part,
            &[Block::Reserved],
            Block::Free,
        );
        if part > 0 {
            self.used.insert(start, part);
        }
    }

    fn fail(&mut self) {
        if let Some(run) = self.pending.pop() {
            self.move_run(
                run.start().get(),
                run.len(),
                &[Block::Reserved],
                Block::Free,
            );
        }
    }

    fn free(&mut self) {
        let from = u64::from(self.below(self.model.len() as u32));
        let found = self.used.range(from..).next().or(self.used.iter().next());
        let Some((&start, &len)) = found else {
            return;
        };
        let ratio = self.ratio as u32;
        let keep = self.below(len / ratio) * ratio;
        let first = FsBlock::new(start + u64::from(keep));
        self.with_handle(4, |handle| self.alloc.free(handle, first, len - keep))
            .unwrap();
        self.move_run(first.get(), len - keep, &[Block::Used], Block::Freed);
        self.used.remove(&start);
        if keep > 0 {
            self.used.insert(start, keep);
        }
    }

    fn commit(&mut self) {
        self.journal.commit_running().unwrap();
        let next = if self.discards {
            Block::ToDiscard
        } else {
            Block::Free
        };
        for block in &mut self.model {
            if *block == Block::Freed {
                *block = next;
            }
        }
        assert!(!self.alloc.has_uncommitted_frees());
    }

    fn claim(&mut self) {
        let (blocks, privileged) = (u64::from(self.below(400)), self.below(2) == 0);
        if let Some(claim) = self.alloc.claim(blocks, privileged) {
            assert!(claim.blocks() >= blocks);
            self.claims.push(claim);
        }
        let claimed: u64 = self.claims.iter().map(Claim::blocks).sum();
        assert!(claimed <= self.count(Block::Free));
    }

    fn forget(&mut self, file: usize) {
        if let Some(tree) = self.files[file].tree.take() {
            if self.below(2) == 0 {
                self.alloc.discard_preallocations(&tree);
            } else {
                let alloc = &self.alloc;
                alloc
                    .discard_preallocations_through_buddy(&tree, &mut |group| {
                        alloc.load_buddy(group, None)
                    })
                    .unwrap();
            }
            assert!(tree.lock().is_empty());
        }
        self.files[file].end = 0;
    }

    /// What the device was told to discard holds nothing.
    fn check_discarded(&mut self, owners: &[Block]) -> u64 {
        let runs = std::mem::take(&mut *self.device.discarded.lock().unwrap());
        let mut blocks = 0;
        for (offset, length) in runs {
            for block in offset >> self.bits..(offset + length) >> self.bits {
                let owner = self.model[block as usize];
                assert!(
                    owners.contains(&owner),
                    "discarded {block}, which is {owner:?}"
                );
                blocks += 1;
            }
        }
        blocks
    }

    fn discard(&mut self) {
        if self.discards && self.below(4) == 0 {
            while self.alloc.discard_step() {}
            assert!(!self.alloc.has_discards());
            let waiting = self.count(Block::ToDiscard);
            assert_eq!(self.check_discarded(&[Block::ToDiscard]), waiting);
            for block in &mut self.model {
                if *block == Block::ToDiscard {
                    *block = Block::Free;
                }
            }
        }
    }

    fn trim(&mut self) {
        let least = u64::from(1 + self.below(8));
        let end = FsBlock::new(self.model.len() as u64);
        let start = FsBlock::new(u64::from(self.below(self.model.len() as u32)));
        let start = if self.below(2) == 0 {
            FsBlock::new(0)
        } else {
            start
        };
        let trimmed = self.alloc.trim(start, end, least, &mut || true).unwrap();
        assert_eq!(self.check_discarded(&[Block::Free]), trimmed);
    }

    fn check_held(&self) {
        let held = [Block::Reserved, Block::Freed, Block::ToDiscard];
        let held: u64 = held.iter().map(|&what| self.count(what)).sum();
        assert_eq!(self.alloc.counts().held_blocks, held);
    }

    fn check(&self) {
        let counts = self.alloc.counts();
        let in_bitmap = self.count(Block::Fixed) + self.count(Block::Used);
        assert_eq!(counts.free_blocks, self.model.len() as u64 - in_bitmap);
        let claimed: u64 = self.claims.iter().map(Claim::blocks).sum();
        assert_eq!(counts.claimed_blocks, claimed);
        assert!(self.alloc.take_errors().is_empty());
    }

    /// Gives everything back; then all that was free at the start can be had.
    fn end(mut self, judged: bool) {
        self.claims.clear();
        while !self.pending.is_empty() {
            self.fail();
        }
        for file in 0..FILES {
            self.forget(file);
        }
        while !self.used.is_empty() {
            self.free();
        }
        self.commit();
        while self.alloc.discard_step() {}
        self.alloc.discard_localities();
        for block in &mut self.model {
            if *block == Block::ToDiscard {
                *block = Block::Free;
            }
        }
        self.check();
        self.check_held();
        assert_eq!(self.alloc.counts().held_blocks, 0);
        let mut all = Vec::new();
        let goal = FsBlock::new(1);
        while let Ok(run) = self
            .alloc
            .reserve(&Request::metadata(InodeNumber::ROOT, goal, true), None)
        {
            self.move_run(
                run.start().get(),
                run.len(),
                &[Block::Free],
                Block::Reserved,
            );
            all.push(run);
        }
        assert_eq!(self.count(Block::Free), 0, "blocks leaked");
        drop(all);
        self.journal.quiesce(&mut || Ok(())).unwrap();
        if judged {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("image");
            std::fs::write(&path, &*self.device.bytes.lock().unwrap()).unwrap();
            let output = Command::new("e2fsck")
                .arg("-fn")
                .arg(&path)
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert_eq!(output.status.code(), Some(0), "{text}");
        }
    }
}

const RESERVED: u64 = 200;

fn run(options: &[&str], size: &str, discard: bool, seed: u64, steps: u32) {
    let settings = Settings {
        reserved_blocks: RESERVED,
        discard,
        stripe: 24,
        ..Settings::default()
    };
    let mut world = World::new(options, size, settings, seed);
    for step in 0..steps {
        world.step();
        if step % 64 == 0 {
            world.check();
        }
    }
    assert!(world.full > 0, "the volume was never full");
    world.end(true);
}

const DEFAULT: &[&str] = &["-t", "ext4", "-b", "1024", "-g", "2048", "-J", "size=1"];
const NO_CSUM: &[&str] = &[
    "-t",
    "ext4",
    "-b",
    "1024",
    "-O",
    "^metadata_csum,uninit_bg",
    "-J",
    "size=1",
];
const NO_JOURNAL: &[&str] = &["-t", "ext2", "-b", "1024", "-g", "1024"];
const CLUSTERS: &[&str] = &[
    "-t", "ext4", "-b", "4096", "-O", "bigalloc", "-C", "16384", "-g", "1024", "-J", "size=4",
];

#[test]
fn a_naive_model_agrees() {
    run(DEFAULT, "6M", false, 1, 8000);
    run(NO_CSUM, "12M", true, 2, 6000);
    run(NO_JOURNAL, "5M", false, 3, 6000);
}

#[test]
fn a_naive_model_agrees_on_clusters() {
    run(CLUSTERS, "64M", true, 4, 8000);
}

/// A million operations. Minutes in a debug build.
#[test]
#[ignore = "long: cargo xtask test runs it in release"]
fn a_naive_model_agrees_for_a_million_operations() {
    run(DEFAULT, "6M", true, 11, 400_000);
    run(NO_CSUM, "12M", false, 12, 250_000);
    run(NO_JOURNAL, "5M", true, 13, 250_000);
    run(CLUSTERS, "64M", false, 14, 100_000);
}

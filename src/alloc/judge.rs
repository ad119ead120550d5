//! The judge of ownership: two allocators do the same under every interleaving of their locks with builders, droppers
//! and a trimmer; one keeps its buddies, one drops them after each step; their free sets stay the same.
//!
//! Source: the design's section on block ownership, its judge and its canaries. `cargo test --lib --features
//! shuttle,canaries alloc::judge`.

use super::Settings;
use super::buddy::tests::Rng;
use super::tests::Two;
use super::volume::Volume;
use crate::canary::{Canary, select};
use crate::device::Device;
use crate::error::Result;
use crate::ids::{FsBlock, GroupIndex};
use shuttle::scheduler::RandomScheduler;
use std::io::IoSlice;
use std::panic::AssertUnwindSafe;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const STEPS: u32 = 14;
const BUILDS: u32 = 12;
const BLOCK: u64 = 1024;

/// An image in memory. It knows which blocks hold data, and gives others a turn before it discards.
struct MemoryDevice {
    bytes: std::sync::Mutex<Vec<u8>>,
    data: std::sync::Mutex<Vec<bool>>,
    discards: AtomicU64,
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
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        self.write_at(offset, &bytes)
    }
    fn sync(&self) -> Result<()> {
        Ok(())
    }
    fn discard(&self, offset: u64, length: u64) -> Result<()> {
        // Some discards take as long as a few steps of the others.
        let slow = self.discards.fetch_add(1, Ordering::Relaxed) % 4 == 0;
        for _ in 0..if slow { 400 } else { 1 } {
            shuttle::thread::yield_now();
        }
        let data = self.data.lock().unwrap();
        let run = &data[(offset / BLOCK) as usize..((offset + length) / BLOCK) as usize];
        assert!(!run.contains(&true), "data was discarded");
        Ok(())
    }
    fn write_zeroes(&self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }
}

/// Three groups without a journal, so that a commit is short.
fn image() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let options = "-q -F -t ext4 -O ^has_journal,^resize_inode -b 1024 -g 256 -N 24 -m 0";
    let made = Command::new("mke2fs")
        .args(options.split(' '))
        .arg(&path)
        .arg("700K")
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    std::fs::read(&path).unwrap()
}

fn device(image: &[u8]) -> Arc<MemoryDevice> {
    Arc::new(MemoryDevice {
        bytes: std::sync::Mutex::new(image.to_vec()),
        data: std::sync::Mutex::new(vec![false; image.len() / BLOCK as usize]),
        discards: AtomicU64::new(0),
    })
}

/// Notes where data lies: what is handed out or in use.
fn note_data(device: &MemoryDevice, two: &Two) {
    let pending = two.keeps.pending.iter();
    let runs = pending
        .map(|run| (run.start(), run.len()))
        .chain(two.marked.iter().copied());
    let mut data = device.data.lock().unwrap();
    data.fill(false);
    for (start, len) in runs {
        let start = start.get() as usize;
        data[start..start + len as usize].fill(true);
    }
}

/// One interleaving.
fn run(image: &[u8], seed: u64) {
    let keeper = device(image);
    let volume = |device: Arc<MemoryDevice>| Volume::on(device, Settings::default());
    let two = Two::new(volume(keeper.clone()), volume(device(image)), seed);
    let sides = [&two.keeps, &two.drops].map(|side| Arc::clone(&side.volume.alloc));
    let groups = two.keeps.volume.geo().group_count;
    let two = Arc::new(shuttle::sync::Mutex::new(two));
    let mut threads = Vec::new();
    for _ in 0..2 {
        let (two, keeper) = (Arc::clone(&two), Arc::clone(&keeper));
        threads.push(shuttle::thread::spawn(move || {
            for _ in 0..STEPS {
                let mut two = two.lock().unwrap();
                // A step may free blocks before it is over.
                keeper.data.lock().unwrap().fill(false);
                two.step();
                note_data(&keeper, &two);
                let keeps = two.keeps.volume.audit_beside_trim();
                assert_eq!(keeps, two.drops.volume.audit_beside_trim());
            }
        }));
    }
    for (side, alloc) in sides.iter().cloned().enumerate() {
        threads.push(shuttle::thread::spawn(move || {
            let mut rng = Rng(seed + side as u64);
            for _ in 0..BUILDS {
                let group = GroupIndex::new(rng.below(groups));
                alloc.load_buddy(group, None).unwrap();
                shuttle::thread::yield_now();
                alloc.drop_buddy(group);
            }
        }));
    }
    let [alloc, _] = sides;
    threads.push(shuttle::thread::spawn(move || {
        for _ in 0..2 {
            let (from, to) = (FsBlock::new(0), FsBlock::new(u64::MAX));
            alloc.trim(from, to, 1, &mut || true).unwrap();
        }
    }));
    for thread in threads {
        thread.join().unwrap();
    }
    let two = two.lock().unwrap();
    assert_eq!(two.keeps.volume.audit(), two.drops.volume.audit());
}

fn explore(iterations: usize, which: Option<Canary>) {
    let image = Arc::new(image());
    let seeds = AtomicU64::new(1);
    let mut config = shuttle::Config::new();
    config.stack_size = 1 << 20;
    if which.is_some() {
        config.failure_persistence = shuttle::FailurePersistence::None;
    }
    let scheduler = RandomScheduler::new_from_seed(7, iterations);
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
        }
        Some(canary) => assert!(outcome.is_err(), "{canary:?} was not noticed"),
    }
}

#[test]
fn both_have_the_same_free_set_under_every_interleaving() {
    explore(200, None);
}

#[cfg(feature = "canaries")]
#[test]
fn each_canary_is_noticed() {
    for canary in Canary::OF_THE_ALLOCATOR {
        explore(3000, Some(canary));
    }
}

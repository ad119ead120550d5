//! Test bed: an allocator with a real cache, journal and image below it, and an audit of all ownership sets.
//!
//! Source: the design's section on block ownership, whose invariants `audit` checks block by block.

use super::owner::{GroupState, Wait};
use super::{Allocator, Settings, bits};
use crate::cache::BlockCache;
use crate::clock::SystemClock;
use crate::device::Device;
use crate::device::file::{Access, FileDevice};
use crate::format::checksum::BlockKind;
use crate::format::geometry::Geometry;
use crate::format::group::flag;
use crate::format::superblock::{OFFSET, SIZE, Superblock};
use crate::ids::GroupIndex;
use crate::journal::log::Log;
use crate::journal::recover::{self, LogMap};
use crate::journal::{Handle, Journal};
use crate::memory::{Memory, Need};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub(super) struct Volume {
    /// Where the image is, unless it is in memory.
    place: Option<(tempfile::TempDir, PathBuf)>,
    pub(super) memory: Arc<Memory>,
    pub(super) journal: Arc<Journal>,
    pub(super) alloc: Arc<Allocator>,
}

impl Volume {
    /// A new image by mke2fs, opened.
    pub(super) fn make(size: &str, options: &[&str]) -> Self {
        Self::with_settings(size, options, Settings::default())
    }

    pub(super) fn with_settings(size: &str, options: &[&str], settings: Settings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let made = Command::new("mke2fs")
            .args(["-q", "-F"])
            .args(options)
            .arg(&path)
            .arg(size)
            .output()
            .unwrap();
        assert!(made.status.success(), "mke2fs {options:?}: {made:?}");
        let device = FileDevice::open(&path, &Access::default()).unwrap();
        let mut volume = Self::on(Arc::new(device), settings);
        volume.place = Some((dir, path));
        volume
    }

    /// What a device holds.
    pub(super) fn on(device: Arc<dyn Device>, settings: Settings) -> Self {
        let mut bytes = [0; SIZE];
        device.read_at(OFFSET, &mut bytes).unwrap();
        let geo = Arc::new(
            Superblock::parse(&bytes)
                .unwrap()
                .geometry(device.len())
                .unwrap(),
        );
        let log = (geo.journal_inum != 0).then(|| {
            let map = LogMap::read(&*device, &geo).unwrap();
            let recovery = recover::recover(&*device, &geo, &map).unwrap();
            Log::open(Arc::clone(&geo), map, &recovery)
        });
        let memory = Memory::new(64 << 20, geo.block_size, 256 << 10);
        let cache = BlockCache::new(device, geo, Arc::clone(&memory));
        let journal = Journal::new(
            Arc::clone(&cache),
            Arc::new(SystemClock::new()),
            log,
            Duration::from_secs(5),
        );
        let alloc = Allocator::new(cache, Arc::clone(&memory), settings).unwrap();
        journal.listen(alloc.clone());
        Self {
            place: None,
            memory,
            journal,
            alloc,
        }
    }

    pub(super) fn geo(&self) -> &Geometry {
        &self.alloc.groups.geo
    }

    pub(super) fn with_handle<R>(&self, credits: u32, work: impl FnOnce(&Handle<'_>) -> R) -> R {
        let mut token = self.memory.admit(Need {
            frames: credits,
            bytes: 0,
        });
        let handle = self.journal.start(&mut token, credits).unwrap();
        work(&handle)
    }

    pub(super) fn drop_buddies(&self) {
        for group in self.geo().groups() {
            self.alloc.drop_buddy(group);
        }
    }

    /// Checks that the sets of every group are disjoint and all counts exact; returns the free set.
    pub(super) fn audit(&self) -> Vec<bool> {
        let owners = self.audit_groups();
        let count = |letter| owners.iter().filter(|&&owner| owner == letter).count() as u64;
        let (free, clear) = (count(b'.'), owners.len() as u64 - count(b'B'));
        let groups = &self.alloc.groups;
        let counts = self.alloc.counts();
        assert_eq!(
            (counts.free_blocks, counts.held_blocks),
            (groups.blocks(clear), groups.blocks(clear - free))
        );
        let claimed = groups.clusters(counts.claimed_blocks);
        let available = groups.totals.available.load(Ordering::Relaxed);
        assert_eq!(available, free - claimed);
        owners.iter().map(|&owner| owner == b'.').collect()
    }

    /// The same while others trim: what they hold counts as free, and no total stands still.
    #[cfg(feature = "shuttle")]
    pub(super) fn audit_beside_trim(&self) -> Vec<bool> {
        let owners = self.audit_groups();
        owners.iter().map(|owner| b".t".contains(owner)).collect()
    }

    /// Checks each group; the owners of all blocks.
    fn audit_groups(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for index in self.geo().groups() {
            let group = self.alloc.groups.get(index).unwrap();
            let state = group.lock();
            assert!(!state.corrupt, "group {index}");
            let owners = self.owners(index, &state);
            let in_bitmap = owners.iter().filter(|&&owner| owner == b'B').count() as u32;
            let unowned = owners.iter().filter(|&&owner| owner == b'.').count() as u32;
            assert_eq!(state.not_in_bitmap, state.size - in_bitmap, "group {index}");
            assert_eq!(state.free, unowned, "group {index}");
            if let Some(buddy) = &state.buddy {
                for (bit, &owner) in owners.iter().enumerate() {
                    let free = buddy.is_free(bit as u32, 1);
                    assert_eq!(free, owner == b'.', "group {index} bit {bit}");
                }
            }
            all.extend(owners);
        }
        all
    }

    /// One letter a block: B, U, R, F, t (in F to be trimmed) or '.'.
    fn owners(&self, index: GroupIndex, state: &GroupState) -> Vec<u8> {
        let groups = &self.alloc.groups;
        let (_, desc) = groups.descriptor(index).unwrap();
        let mut bitmap = vec![0; self.geo().block_size as usize];
        if groups.is_uninit(&desc, flag::BLOCK_UNINIT) {
            groups.zones.fill_bitmap(self.geo(), index, &mut bitmap);
        } else {
            let buffer = groups.cache.cached(desc.block_bitmap);
            let buffer = buffer.unwrap_or_else(|| {
                groups
                    .cache
                    .read(desc.block_bitmap, BlockKind::Plain)
                    .unwrap()
            });
            bitmap.copy_from_slice(&buffer.snapshot());
            groups.verify_block_bitmap(index, &desc, &bitmap).unwrap();
        }
        assert_eq!(desc.free_blocks, state.not_in_bitmap);
        let letter = |bit| if bits::get(&bitmap, bit) { b'B' } else { b'.' };
        let mut owners: Vec<u8> = (0..state.size).map(letter).collect();
        let mut own = |start: u32, len: u32, name: u8| {
            for owner in &mut owners[start as usize..(start + len) as usize] {
                assert_eq!(
                    *owner, b'.',
                    "block of {index} is {} and {}",
                    *owner as char, name as char
                );
                *owner = name;
            }
        };
        state
            .unused
            .values()
            .for_each(|run| own(run.start, run.len, b'U'));
        state
            .reserved
            .iter()
            .for_each(|(&start, &len)| own(start, len, b'R'));
        state.freed.iter().for_each(|(&start, run)| {
            let trimmed = run.wait == Wait::Underway;
            own(start, run.len, if trimmed { b't' } else { b'F' });
        });
        owners
    }

    /// Writes everything home and lets e2fsck judge.
    pub(super) fn judge(self) {
        self.journal.quiesce(&mut || Ok(())).unwrap();
        let Self {
            place,
            memory,
            journal,
            alloc,
        } = self;
        drop((journal, alloc, memory));
        let (dir, path) = place.expect("an image in a file");
        fsck(&path);
        drop(dir);
    }
}

fn fsck(path: &Path) {
    let output = Command::new("e2fsck")
        .arg("-fn")
        .arg(path)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
}

//! `alloc-scale` and the huge image: what one allocation costs as the volume grows and fills.
//!
//! The full images have every tenth 64 KiB free; the used blocks are marked in bitmaps and descriptors only, and owned by
//! no file, so no fsck judges these images.

use super::sides::{drop_caches, output};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use uext4::alloc::{Allocator, Growth, Request, Reserved, Settings};
use uext4::cache::BlockCache;
use uext4::clock::SystemClock;
use uext4::device::Device;
use uext4::device::file::{Access, FileDevice};
use uext4::format::geometry::Geometry;
use uext4::format::group::{GroupDesc, flag};
use uext4::format::superblock::{OFFSET, SIZE, Superblock};
use uext4::format::{bitmap, checksum};
use uext4::ids::{FileBlock, FsBlock, GroupIndex, InodeNumber};
use uext4::journal::Journal;
use uext4::journal::log::Log;
use uext4::journal::recover::{self, LogMap};
use uext4::memory::{Memory, Need};

/// Files that grow side by side.
const STREAMS: usize = 8;
/// Lengths asked for in turn, in blocks.
const LENGTHS: [u32; 4] = [1, 4, 16, 64];

pub struct Measured {
    /// The largest full volume's time by the smallest one's.
    pub times: f64,
    /// A table.
    pub lines: Vec<String>,
}

/// A fresh sparse image of 15 TiB; the one of an earlier round is kept.
pub fn huge_image(scratch: &Path) -> Result<PathBuf, String> {
    let path = scratch.join("huge.img");
    if !path.exists() {
        make(&path, "15T")?;
    }
    Ok(path)
}

fn make(path: &Path, size: &str) -> Result<(), String> {
    let word = path.to_string_lossy();
    output(
        "mke2fs",
        &["-q", "-F", "-t", "ext4", "-i", "1048576", &word, size],
    )
    .map(drop)
}

/// Allocates on volumes of three sizes, fresh and full.
pub fn measure(scratch: &Path, allocations: usize, sizes: &[&str]) -> Result<Measured, String> {
    let mut lines = vec![
        "alloc-scale: volume, fill: us per allocation; groups touched, buddies built, bitmaps read per 1000".to_owned(),
    ];
    let mut full = Vec::new();
    for size in sizes {
        let path = scratch.join("scale.img");
        make(&path, size)?;
        for fill in ["fresh", "90 % full"] {
            if fill != "fresh" {
                fill_up(&path)?;
            }
            drop_caches()?;
            let found = allocate(&path, allocations)?;
            let per_thousand = |count: u64| count as f64 * 1000.0 / allocations as f64;
            lines.push(format!(
                "alloc-scale: {size}, {fill}: {:.2} us; {:.0}, {:.0}, {:.0}",
                found.microseconds,
                per_thousand(found.touched),
                per_thousand(found.built),
                per_thousand(found.read),
            ));
            if fill != "fresh" {
                full.push(found.microseconds);
            }
        }
        std::fs::remove_file(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    let (first, last) = (full.first(), full.last());
    let times = first.zip(last).map_or(0.0, |(first, last)| last / first);
    Ok(Measured { times, lines })
}

struct Found {
    microseconds: f64,
    touched: u64,
    built: u64,
    read: u64,
}

fn geometry(device: &dyn Device) -> Result<(Superblock, Geometry), String> {
    let mut bytes = [0; SIZE];
    device
        .read_at(OFFSET, &mut bytes)
        .map_err(|e| e.to_string())?;
    let superblock = Superblock::parse(&bytes).map_err(|e| e.to_string())?;
    let geo = superblock
        .geometry(device.len())
        .map_err(|e| e.to_string())?;
    Ok((superblock, geo))
}

/// Eight files that grow in turn: searches, takes and marks, as writeback does.
fn allocate(path: &Path, allocations: usize) -> Result<Found, String> {
    let device: Arc<dyn Device> =
        Arc::new(FileDevice::open(path, &Access::default()).map_err(|e| e.to_string())?);
    let (_, geo) = geometry(&*device)?;
    let geo = Arc::new(geo);
    let map = LogMap::read(&*device, &geo).map_err(|e| e.to_string())?;
    let recovery = recover::recover(&*device, &geo, &map).map_err(|e| e.to_string())?;
    let log = Log::open(Arc::clone(&geo), map, &recovery);
    let memory = Memory::new(256 << 20, geo.block_size, 1 << 20);
    let cache = BlockCache::new(device, Arc::clone(&geo), Arc::clone(&memory));
    let clock = Arc::new(SystemClock::new());
    let journal = Journal::new(Arc::clone(&cache), clock, Some(log), Duration::from_secs(5));
    let alloc = Allocator::new(cache, Arc::clone(&memory), Settings::default())
        .map_err(|e| e.to_string())?;
    journal.listen(Arc::clone(&alloc) as Arc<_>);
    // The middle of the volume: the search has the whole of it to choose from.
    let middle = geo.first_block(GroupIndex::new(geo.group_count / 2));
    let mut streams = [(middle, 0u32); STREAMS];
    let mut spent = Duration::ZERO;
    for number in 0..allocations {
        let (stream, len) = (number % STREAMS, LENGTHS[number / STREAMS % LENGTHS.len()]);
        let (goal, logical) = streams[stream];
        let request = Request {
            ino: InodeNumber::new(20 + stream as u32),
            logical: Some(FileBlock::new(logical)),
            goal,
            len,
            file_blocks: u64::from(logical + len),
            growth: Growth::Closed,
            privileged: true,
        };
        let begun = Instant::now();
        let reserved = alloc.reserve(&request, None).map_err(|e| e.to_string())?;
        spent += begun.elapsed();
        streams[stream] = advance(&reserved, logical);
        let mut token = memory.admit(Need::frames(2));
        let handle = journal.start(&mut token, 2).map_err(|e| e.to_string())?;
        let taken = reserved.len();
        alloc
            .mark(&handle, reserved, taken)
            .map_err(|e| e.to_string())?;
    }
    let stats = alloc.stats();
    Ok(Found {
        microseconds: spent.as_secs_f64() * 1e6 / allocations as f64,
        touched: stats.groups_touched,
        built: stats.buddies_built,
        read: stats.bitmaps_read,
    })
}

/// Where a file goes on: behind what it was given.
fn advance(reserved: &Reserved, logical: u32) -> (FsBlock, u32) {
    let len = reserved.len();
    let next = reserved.start().checked_add(u64::from(len) - 1);
    (next.unwrap_or(reserved.start()), logical + len)
}

/// Marks all but every tenth 64 KiB used.
pub fn fill_up(path: &Path) -> Result<(), String> {
    let device = FileDevice::peek(path, 0).map_err(|e| e.to_string())?;
    let (_, geo) = geometry(&device)?;
    drop(device);
    let fail = |e: std::io::Error| format!("{}: {e}", path.display());
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(fail)?;
    let block_size = geo.block_size as usize;
    let mut table: Option<(FsBlock, Vec<u8>)> = None;
    for group in geo.groups() {
        let (block, offset) = geo.desc_location(group);
        if table.as_ref().is_none_or(|(held, _)| *held != block) {
            flush(&file, &geo, table.take()).map_err(fail)?;
            let mut bytes = vec![0; block_size];
            file.read_exact_at(&mut bytes, block.get() << geo.block_bits)
                .map_err(fail)?;
            table = Some((block, bytes));
        }
        let Some((_, bytes)) = &mut table else {
            continue;
        };
        let place = &mut bytes[offset..offset + geo.desc_size as usize];
        fill_group(&file, &geo, group, place).map_err(|e| format!("group {group}: {e}"))?;
    }
    flush(&file, &geo, table).map_err(fail)
}

fn flush(file: &File, geo: &Geometry, table: Option<(FsBlock, Vec<u8>)>) -> std::io::Result<()> {
    match table {
        Some((block, bytes)) => file.write_all_at(&bytes, block.get() << geo.block_bits),
        None => Ok(()),
    }
}

fn fill_group(
    file: &File,
    geo: &Geometry,
    group: GroupIndex,
    place: &mut [u8],
) -> Result<(), String> {
    let mut desc = GroupDesc::parse(place, geo, group).map_err(|e| e.to_string())?;
    let at = desc.block_bitmap.get() << geo.block_bits;
    let (size, end) = (geo.blocks_in_group(group), geo.blocks_per_group);
    let mut bytes = vec![0; geo.block_size as usize];
    if desc.has_flag(flag::BLOCK_UNINIT) {
        bitmap::fill(&mut bytes, 0, geo.base_meta_blocks(group), true);
        bitmap::fill(&mut bytes, size, end - size, true);
    } else {
        file.read_exact_at(&mut bytes, at)
            .map_err(|e| e.to_string())?;
    }
    let run = (64 << 10 >> geo.block_bits).max(1);
    for start in (0..size).step_by(10 * run as usize) {
        let from = (start + run).min(size);
        let to = (start + 10 * run).min(size);
        bitmap::fill(&mut bytes, from, to - from, true);
    }
    desc.flags &= !flag::BLOCK_UNINIT;
    desc.free_blocks = size - bitmap::count(&bytes, size);
    desc.block_bitmap_csum = checksum::block_bitmap(geo, &bytes);
    desc.write_to(place, geo, group);
    file.write_all_at(&bytes, at).map_err(|e| e.to_string())
}

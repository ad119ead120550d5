//! The parallel part of pass 1: groups in chunks, a thread each, large reads, nothing written.
//!
//! Source: the design's section on the checker.
//! Invariants: an inode that is not entirely in order adds nothing but its number to `suspects`; groups whose inode
//! table was never used are skipped.

use super::Facts;
use super::check::{Around, Check, Verdict, own_files};
use crate::groups::Group;
use crate::inode::Raw;
use crate::session::Fsck;
use crate::{Answer, Result, Stop};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU32, Ordering};
use uext4::format::group::flag;

/// Bytes of an inode table that are read at once: through the page cache, which reads ahead, and past it.
const READ_SIZE: (usize, usize) = (1 << 15, 1 << 18);
const THREADS_MAX: usize = 8;
/// Groups that a thread takes at once.
const CHUNK: u32 = 16;

pub fn all(fsck: &mut Fsck<'_, '_>) -> Result<Facts> {
    let around = Around {
        image: &fsck.image,
        geo: &fsck.geo,
        sb: &fsck.sb,
        groups: &fsck.groups,
        zones: &fsck.zones,
        orphans: &fsck.orphans,
        own: own_files(&fsck.sb),
        lost: &fsck.lost_inodes,
        now: fsck.options.now as u32,
    };
    let whole = &fsck.whole_tables;
    let cached = fsck.options.answer == Answer::No;
    let next = AtomicU32::new(0);
    let mut threads = (fsck.geo.group_count / CHUNK) as usize + 1;
    if threads > 1 {
        let all = std::thread::available_parallelism().map_or(1, |n| n.get().min(THREADS_MAX));
        threads = threads.min(all);
    }
    let work = || -> Result<Facts> {
        let geo = around.geo;
        let mut facts = Facts::new(geo, around.image.spill());
        let size = if cached { READ_SIZE.0 } else { READ_SIZE.1 };
        let mut buffer = Buffer {
            bytes: Vec::new(),
            blocks: (size / geo.block_size as usize).max(1) as u32,
        };
        loop {
            let first = next.fetch_add(CHUNK, Ordering::Relaxed);
            if first >= geo.group_count {
                return Ok(facts);
            }
            for group in first..geo.group_count.min(first + CHUNK) {
                let whole = whole.contains(&group);
                scan(around, group, whole, &mut facts, &mut buffer)?;
            }
        }
    };
    let mut results: Vec<Result<Facts>> = if threads == 1 {
        vec![work()]
    } else {
        std::thread::scope(|scope| {
            let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let join = |handle: std::thread::ScopedJoinHandle<'_, Result<Facts>>| {
                handle.join().unwrap_or_else(|panic| resume_unwind(panic))
            };
            handles.into_iter().map(join).collect()
        })
    };
    let mut facts = results.pop().unwrap_or(Err(Stop::Cancelled))?;
    for other in results {
        facts.join(other?);
    }
    Ok(facts)
}

/// How many inodes of a group's table may be in use.
fn used_inodes(around: Around<'_>, group: u32, desc: &Group, whole: bool) -> u32 {
    let all = around.geo.inodes_per_group;
    if whole || !around.geo.features.group_csum() {
        return all;
    }
    if desc.has(flag::INODE_UNINIT) && group != 0 {
        return 0;
    }
    all.saturating_sub(desc.itable_unused)
}

struct Buffer {
    bytes: Vec<u8>,
    /// That are read at once.
    blocks: u32,
}

fn scan(
    around: Around<'_>,
    group: u32,
    whole: bool,
    facts: &mut Facts,
    buffer: &mut Buffer,
) -> Result<()> {
    let geo = around.geo;
    let desc = around.groups.get(group);
    let count = used_inodes(around, group, &desc, whole);
    let blocks = count.div_ceil(geo.inodes_per_block);
    let mut ino = group * geo.inodes_per_group + 1;
    let end = ino + count;
    let mut block = 0;
    while block < blocks {
        let now = buffer.blocks.min(blocks - block);
        let first = desc.inode_table + u64::from(block);
        if !crate::map::in_volume(geo, first, now.into()) {
            return Ok(());
        }
        around
            .image
            .read_run(first, now as usize, &mut buffer.bytes)?;
        for raw in buffer.bytes.chunks(geo.inode_size as usize) {
            if ino >= end {
                break;
            }
            look(around, ino, raw, facts)?;
            ino += 1;
        }
        block += now;
    }
    Ok(())
}

fn look(around: Around<'_>, ino: u32, bytes: &[u8], facts: &mut Facts) -> Result<()> {
    if around.lost.contains(&ino) || ino != 2 && bytes.iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    if around.orphans.contains(&ino) {
        facts.suspects.push(ino);
        return Ok(());
    }
    if let Some(plain) = super::plain::judge(around, ino, bytes) {
        facts.add_plain(ino, &plain);
        return Ok(());
    }
    let raw = Raw {
        bytes: bytes.to_vec(),
    };
    let mut check = Check::new(ino, raw, around, None);
    match check.run() {
        Ok(Verdict::Used) => {
            facts.add(ino, check.one);
            Ok(())
        }
        Ok(Verdict::Unused) => Ok(()),
        Ok(Verdict::Clear) | Err(Stop::Suspect) => {
            facts.suspects.push(ino);
            Ok(())
        }
        Err(other) => Err(other),
    }
}

impl Facts {
    fn join(&mut self, other: Self) {
        let twice = &mut self.twice;
        self.used.merge(other.used, |a, n| twice.add(a, n));
        self.twice.merge(other.twice, |_, _| {});
        self.inodes.join(other.inodes);
        self.xattr_blocks.join(other.xattr_blocks, |mine, theirs| {
            mine.found = mine.found.saturating_add(theirs.found);
            mine.refcount = theirs.refcount;
        });
        self.ea_refs.join(other.ea_refs, |mine, theirs| {
            *mine = mine.saturating_add(theirs);
        });
        self.policies.join(other.policies);
        self.rewrites.extend(other.rewrites);
        self.large_file |= other.large_file;
        self.suspects.extend(other.suspects);
    }
}

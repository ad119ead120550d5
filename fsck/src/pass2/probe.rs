//! The parallel part of pass 2: directories in chunks, a thread each, large reads, nothing written.
//!
//! Source: the kernel's ext4 documentation, "Linear (Classic) Directories", "Hash Tree Directories".
//! Invariants: only a directory that is in order in every respect counts; any other adds nothing but its number to
//! `suspects`, and is left to the serial look, which asks and repairs. Of a directory with very many entries only a part
//! is kept at a time: it is read more than once.

use super::index::{Index, Place, Reader};
use crate::dirblock::{self, HEADER};
use crate::groups::Groups;
use crate::inode::Raw;
use crate::inodes::{Inodes, Targets, known};
use crate::map::Map;
use crate::session::{Fsck, inode_place};
use crate::{Answer, Result};
use std::collections::HashSet;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use uext4::format::checksum::{self, BlockKind};
use uext4::format::features::incompat;
use uext4::format::inode::flag;
use uext4::ids::FsBlock;

/// Bytes of a directory that are read at once: through the page cache, which reads ahead, and past it.
const READ_SIZE: (u64, u64) = (1 << 15, 1 << 17);
/// Entries of a directory of which a thread keeps names and targets: least and most.
const ENTRIES: (u64, u64) = (1 << 10, 1 << 16);
const THREADS_MAX: usize = 8;
/// Directories that a thread takes at once.
const CHUNK: usize = 32;

/// What the directories in order hold.
#[derive(Default)]
pub struct Found {
    /// Targets of entries, "." included.
    pub targets: Vec<Targets>,
    /// Directories with who holds them.
    pub parents: Vec<(u32, u32)>,
    /// Directories with what their ".." says.
    pub dotdots: Vec<(u32, u32)>,
    pub suspects: Vec<u32>,
}

pub fn all(fsck: &Fsck<'_, '_>, dirs: &[u32]) -> Result<Found> {
    let reader = Reader {
        image: &fsck.image,
        geo: &fsck.geo,
    };
    let (groups, inodes) = (&fsck.groups, &fsck.inodes);
    let cached = fsck.options.answer == Answer::No;
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(THREADS_MAX));
    let threads = threads.min(dirs.len() / CHUNK + 1);
    let work = || -> Result<Found> {
        let spill = reader.image.spill();
        let mut scan = Scan {
            reader,
            groups,
            inodes,
            found: Found::default(),
            all: Targets::new(reader.geo.inodes_per_group, reader.geo.group_count, spill),
            round: Round::First,
            kept: (spill.limit() as u64 / 16).clamp(ENTRIES.0, ENTRIES.1),
            count: 0,
            targets: Vec::new(),
            names: Vec::new(),
            dotdot: 0,
            read_size: if cached { READ_SIZE.0 } else { READ_SIZE.1 },
            table: None,
            bytes: Vec::new(),
        };
        loop {
            let first = next.fetch_add(CHUNK, Ordering::Relaxed);
            let Some(rest) = dirs.get(first..) else {
                scan.found.targets.push(scan.all);
                return Ok(scan.found);
            };
            for ino in rest.iter().take(CHUNK) {
                scan.directory(*ino)?;
            }
        }
    };
    let results: Vec<Result<Found>> = std::thread::scope(|scope| {
        let handles: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut results = vec![work()];
        for handle in handles {
            results.push(handle.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        results
    });
    let mut all = Found::default();
    for one in results {
        let one = one?;
        all.targets.extend(one.targets);
        all.parents.extend(one.parents);
        all.dotdots.extend(one.dotdots);
        all.suspects.extend(one.suspects);
    }
    Ok(all)
}

/// What is kept of a directory while it is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Round {
    /// Everything, up to `kept`.
    First,
    /// Of a large one: hashes of names that belong to this part, of so many.
    Names(u64, u64),
    /// Of a large one that is in order: targets.
    Targets,
}

struct Scan<'a> {
    reader: Reader<'a>,
    groups: &'a Groups,
    inodes: &'a Inodes,
    found: Found,
    all: Targets,
    round: Round,
    /// Entries of which names and targets are kept.
    kept: u64,
    /// Entries of the directory that is looked at.
    count: u64,
    targets: Vec<u32>,
    /// Hashes of names: equal ones may be equal names.
    names: Vec<u64>,
    dotdot: u32,
    read_size: u64,
    /// The block of inodes that was read last.
    table: Option<(u64, Arc<[u8]>)>,
    bytes: Vec<u8>,
}

impl Scan<'_> {
    fn directory(&mut self, ino: u32) -> Result<()> {
        let before = self.found.parents.len();
        if self.is_in_order(ino, Round::First)? && self.has_different_names(ino)? {
            self.all.add(ino);
            for target in &self.targets {
                self.all.add(*target);
            }
            self.found.dotdots.push((ino, self.dotdot));
        } else {
            self.found.parents.truncate(before);
            self.found.suspects.push(ino);
        }
        Ok(())
    }

    /// Of a directory whose entries were not all kept the names are compared part by part, and its targets added.
    fn has_different_names(&mut self, ino: u32) -> Result<bool> {
        if self.count <= self.kept {
            return Ok(true);
        }
        let parts = self.count.div_ceil(self.kept);
        for part in 0..parts {
            if !self.is_in_order(ino, Round::Names(part, parts))? {
                return Ok(false);
            }
        }
        self.is_in_order(ino, Round::Targets)
    }

    /// The inode, out of the last block of inodes if it lies there.
    fn inode(&mut self, ino: u32) -> Result<Raw> {
        let Reader { image, geo } = self.reader;
        let mut raw = Raw::zeroed(geo);
        let Some((block, at)) = inode_place(geo, self.groups, ino) else {
            return Ok(raw);
        };
        let table = match &self.table {
            Some((of, bytes)) if *of == block => Arc::clone(bytes),
            _ => image.read(block)?,
        };
        let end = at + raw.bytes.len();
        raw.bytes
            .copy_from_slice(table.get(at..end).unwrap_or_default());
        self.table = Some((block, table));
        Ok(raw)
    }

    fn is_in_order(&mut self, ino: u32, round: Round) -> Result<bool> {
        self.round = round;
        self.names.clear();
        self.targets.clear();
        self.dotdot = 0;
        self.count = 0;
        let mut bytes = std::mem::take(&mut self.bytes);
        let good = self.is_sound(ino, &mut bytes)?;
        self.bytes = bytes;
        if !good {
            return Ok(false);
        }
        if round == Round::First && self.count > self.kept {
            self.targets.clear();
            return Ok(true); // judged part by part
        }
        self.names.sort_unstable();
        Ok(self.names.is_sorted_by(|a, b| a < b))
    }

    fn is_sound(&mut self, ino: u32, bytes: &mut Vec<u8>) -> Result<bool> {
        let Reader { image, geo } = self.reader;
        let raw = self.inode(ino)?;
        let special = flag::INLINE_DATA | flag::ENCRYPT | flag::CASEFOLD;
        let size = u64::from(geo.block_size);
        if !raw.is_dir() || raw.flags() & special != 0 || !raw.size().is_multiple_of(size) {
            return Ok(false);
        }
        let map = crate::map::read(image, geo, &raw)?;
        let blocks = raw.size() / size;
        if !covers(&map, blocks) {
            return Ok(false);
        }
        let seed = raw.seed(geo, ino);
        let (mut index, mut nodes) = (None, HashSet::new());
        if raw.has(flag::INDEX) {
            match self.reader.walk(seed, false, &mut nodes, &map, blocks)? {
                Ok(found) if found.has_all(&nodes, blocks) => index = Some(found),
                _ => return Ok(false),
            }
        }
        let chunk = (self.read_size / size).max(1);
        for run in &map.data {
            let mut done = 0;
            while done < run.len {
                let now = chunk.min(run.len - done);
                image.read_run(run.pblk + done, now as usize, bytes)?;
                for (at, part) in (done..).zip(bytes.chunks(size as usize)) {
                    let (lblk, block) = (run.lblk + at, run.pblk + at);
                    let skipped = lblk != 0 && nodes.contains(&lblk);
                    if !skipped && !self.block(ino, seed, lblk, block, part, index.as_ref()) {
                        return Ok(false);
                    }
                }
                done += now;
            }
        }
        Ok(true)
    }

    fn block(
        &mut self,
        ino: u32,
        seed: u32,
        lblk: u64,
        block: u64,
        bytes: &[u8],
        index: Option<&Index>,
    ) -> bool {
        let geo = self.reader.geo;
        let is_root = lblk == 0 && index.is_some();
        let sums = geo.features.metadata_csum();
        if sums && !is_root {
            let kind = BlockKind::Directory { seed };
            let place = FsBlock::new(block);
            if !dirblock::has_tail(bytes) || checksum::verify(kind, geo, place, bytes).is_err() {
                return false;
            }
        }
        let end = if is_root {
            bytes.len()
        } else {
            dirblock::end(geo, bytes.len())
        };
        let place = match index {
            Some(index) if !is_root => match index.place(lblk) {
                Some(place) => Some(place),
                None => return false,
            },
            _ => None,
        };
        let mut at = 0;
        let mut number = 0;
        while at < end {
            if !super::leaf::is_sound(bytes, at, end) {
                return false;
            }
            let good = match (lblk, number) {
                (0, 0) => self.dot(ino, bytes),
                (0, 1) => self.dotdot(bytes, at),
                _ => self.entry(ino, bytes, at, place),
            };
            if !good {
                return false;
            }
            number += 1;
            at += dirblock::rec_len(bytes, at);
            if is_root && number == 2 {
                return at == end;
            }
        }
        lblk != 0 || number >= 2
    }

    fn has_type(&self, bytes: &[u8], at: usize, expected: u8) -> bool {
        let with_types = self.reader.geo.features.has_incompat(incompat::FILETYPE);
        let found = dirblock::file_type(bytes, at);
        found == 0 || with_types && found == expected
    }

    fn dot(&self, ino: u32, bytes: &[u8]) -> bool {
        dirblock::ino(bytes, 0) == ino
            && dirblock::rec_len(bytes, 0) == 12
            && bytes.get(6) == Some(&1)
            && bytes.get(HEADER..HEADER + 2) == Some(b".\0")
            && self.has_type(bytes, 0, 2)
    }

    fn dotdot(&mut self, bytes: &[u8], at: usize) -> bool {
        self.dotdot = dirblock::ino(bytes, at);
        self.dotdot != 0
            && bytes.get(at + 6) == Some(&2)
            && bytes.get(at + HEADER..at + HEADER + 3) == Some(b"..\0")
            && self.has_type(bytes, at, 2)
    }

    fn entry(&mut self, dir: u32, bytes: &[u8], at: usize, place: Option<Place<'_>>) -> bool {
        let ino = dirblock::ino(bytes, at);
        if ino == 0 {
            return true;
        }
        let geo = self.reader.geo;
        let length = dirblock::name_len(bytes, at);
        let Some(name) = bytes.get(at + HEADER..at + HEADER + length) else {
            return false;
        };
        let possible = ino >= geo.first_ino && ino <= geo.inodes_count && ino != dir;
        let odd = name.is_empty() || name == b"." || name == b"..";
        if !possible || odd || name.iter().any(|byte| *byte == b'/' || *byte == 0) {
            return false;
        }
        let target = self.inodes.get(ino);
        if target.file_type == 0
            || target.flags & (known::SPECIAL | known::EA) != 0
            || !self.has_type(bytes, at, target.file_type)
            || place.is_some_and(|place| !place.is_of(name))
        {
            return false;
        }
        self.count += 1;
        match self.round {
            Round::First => {
                if self.count <= self.kept {
                    self.names.push(quick_hash(name));
                    self.targets.push(ino);
                }
                if target.file_type == 2 {
                    self.found.parents.push((ino, dir));
                }
            }
            Round::Names(part, parts) => {
                let hash = quick_hash(name);
                if hash % parts == part {
                    self.names.push(hash);
                }
            }
            Round::Targets => self.all.add(ino),
        }
        true
    }
}

/// Every block of the directory has its place, in order and once.
fn covers(map: &Map, blocks: u64) -> bool {
    let mut next = 0;
    for run in &map.data {
        if run.lblk != next {
            return false;
        }
        next = run.end();
    }
    next == blocks && blocks > 0
}

/// Good enough to tell names apart: equal hashes cost a second look, nothing else.
fn quick_hash(name: &[u8]) -> u64 {
    let mut hash = name.len() as u64;
    for part in name.chunks(8) {
        let mut word = [0; 8];
        word[..part.len()].copy_from_slice(part);
        hash = (hash.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(0x517c_c1b7_2722_0a95);
        hash ^= hash >> 29;
    }
    hash
}

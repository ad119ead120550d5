//! Quota files of users, groups and projects: what they say is in use, against what is.
//!
//! Source: the kernel's documentation of quota (`vfsv1`, format version 1): a header, a tree of 256 references a block
//! over the bytes of an id, and blocks of entries.
//! Invariants: limits and grace times are kept wherever they can be read; a file that is wrong is written whole.

use crate::Result;
use crate::image::Stage;
use crate::inode::Raw;
use crate::inodes::{Known, known};
use crate::map::Run;
use crate::problem::{At, Problem};
use crate::session::Fsck;
use std::collections::BTreeMap;
use uext4::format::features::ro_compat;
use uext4::format::raw::{le16, le32, le64, put_le16, put_le32, put_le64};
use uext4::format::superblock::Superblock;

const BLOCK: usize = 1024;
const DEPTH: u32 = 4;
const ENTRY: usize = 72;
const DATA_HEADER: usize = 16;
const PER_BLOCK: usize = (BLOCK - DATA_HEADER) / ENTRY;
const INFO: usize = 8;
/// Nothing reads a file that is longer.
const SIZE_MAX: u64 = 1 << 31;
const GRACE: u32 = 7 * 24 * 3600;
const MAGIC: [u32; 3] = [0xd9c0_1f11, 0xd9c0_1927, 0xd9c0_3f14];
const NAMES: [&str; 3] = ["user", "group", "project"];

/// Bytes and inodes in use by an id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    space: u64,
    inodes: u64,
}

/// An entry as it is on disk, id aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry([u8; ENTRY]);

impl Entry {
    fn usage(&self) -> Usage {
        Usage {
            inodes: le64(&self.0, 24),
            space: le64(&self.0, 48),
        }
    }

    fn with(mut self, id: u32, usage: Usage) -> Self {
        put_le32(&mut self.0, 0, id);
        put_le64(&mut self.0, 24, usage.inodes);
        put_le64(&mut self.0, 48, usage.space);
        self
    }

    /// Whether anything but zeros is kept by it.
    fn has_limits(&self) -> bool {
        [8, 16, 32, 40].iter().any(|at| le64(&self.0, *at) != 0)
    }
}

type Entries = BTreeMap<u32, Entry>;

/// The inodes of the files, 0 for none.
pub fn inums(sb: &Superblock) -> [u32; 3] {
    [
        sb.s_usr_quota_inum(),
        sb.s_grp_quota_inum(),
        sb.s_prj_quota_inum(),
    ]
}

impl Fsck<'_, '_> {
    pub fn check_quotas(&mut self) -> Result<()> {
        if !self.geo.features.has_ro_compat(ro_compat::QUOTA) {
            return Ok(());
        }
        let inums = inums(&self.sb);
        let usage = self.usage(&inums)?;
        for (kind, ino) in inums.into_iter().enumerate() {
            if ino != 0 {
                self.check_quota(kind, ino, &usage[kind])?;
            } else if self.new_quota[kind] {
                self.make_quota(kind, &usage[kind])?;
            }
        }
        Ok(())
    }

    /// A file in the place of one that was dropped.
    fn make_quota(&mut self, kind: usize, usage: &BTreeMap<u32, Usage>) -> Result<()> {
        let own = [Some(3), Some(4), None][kind];
        let Some(ino) = own.or_else(|| self.free_inode()) else {
            return Ok(());
        };
        let entry = |(id, usage): (&u32, &Usage)| (*id, Entry([0; ENTRY]).with(*id, *usage));
        let file = write(&usage.iter().map(entry).collect(), kind, &[]);
        let raw = self.new_file(0);
        if !self.store_file(ino, raw, &file)? {
            return Ok(());
        }
        let known = Known {
            file_type: 1,
            flags: known::SPECIAL,
            ..Known::default()
        };
        self.inodes.set(ino, known);
        match kind {
            0 => self.sb.set_s_usr_quota_inum(ino),
            1 => self.sb.set_s_grp_quota_inum(ino),
            _ => self.sb.set_s_prj_quota_inum(ino),
        }
        Ok(())
    }

    /// Inodes that are no files are dropped before pass 1, which then judges them as what they are.
    pub fn check_quota_inodes(&mut self) -> Result<()> {
        if !self.geo.features.has_ro_compat(ro_compat::QUOTA) {
            return Ok(());
        }
        for (kind, ino) in inums(&self.sb).into_iter().enumerate() {
            let raw = self.read_inode(ino)?;
            let free = ino >= self.geo.first_ino || ino == [3, 4, 0][kind];
            if ino == 0 || free && raw.is_reg() && raw.links() != 0 {
                continue;
            }
            let at = At::ino(ino).label(NAMES[kind]);
            if self.report.fix(Problem::QuotaInode, at)? {
                self.forget_quota_inode(ino);
            }
        }
        Ok(())
    }

    /// A file whose inode is none, or was emptied: another is made in its place.
    pub fn forget_quota_inode(&mut self, ino: u32) {
        let has = self.geo.features.has_ro_compat(ro_compat::QUOTA);
        for (kind, named) in inums(&self.sb).into_iter().enumerate() {
            if !has || named != ino {
                continue;
            }
            match kind {
                0 => self.sb.set_s_usr_quota_inum(0),
                1 => self.sb.set_s_grp_quota_inum(0),
                _ => self.sb.set_s_prj_quota_inum(0),
            }
            self.new_quota[kind] = true;
        }
    }

    /// What is in use by each user, group and project.
    fn usage(&mut self, inums: &[u32; 3]) -> Result<[BTreeMap<u32, Usage>; 3]> {
        let mut all = [BTreeMap::new(), BTreeMap::new(), BTreeMap::new()];
        for group in 0..self.inodes.group_count() {
            for (ino, known) in self.inodes.of_group(group) {
                let own = ino != 2 && ino < self.geo.first_ino || inums.contains(&ino);
                if own || known.flags & (known::SPECIAL | known::EA) != 0 {
                    continue;
                }
                let raw = self.read_inode(ino)?;
                let space = raw.sectors(&self.geo) * 512;
                let inodes = 1 + self.values_in_inodes(&raw)?;
                let ids = [raw.uid(), raw.gid(), raw.projid()];
                for (usage, id) in all.iter_mut().zip(ids) {
                    let usage: &mut Usage = usage.entry(id).or_default();
                    usage.space += space;
                    usage.inodes += inodes;
                }
            }
        }
        Ok(all)
    }

    fn check_quota(&mut self, kind: usize, ino: u32, usage: &BTreeMap<u32, Usage>) -> Result<()> {
        let raw = self.read_inode(ino)?;
        let at = At::ino(ino).label(NAMES[kind]);
        if !raw.is_reg() || raw.links() == 0 {
            return Ok(()); // left as it is, by an answer
        }
        let bytes = self.contents(&raw)?;
        let (old, wrong) = match read(&bytes, kind) {
            Some(old) if !header_is_sound(&bytes) || raw.size() > SIZE_MAX => {
                (old, Some(Problem::QuotaFileBad))
            }
            Some(old) => {
                let wrong = !agrees(&old, usage);
                (old, wrong.then_some(Problem::QuotaUsage))
            }
            None => (Entries::new(), Some(Problem::QuotaFileBad)),
        };
        let Some(problem) = wrong else {
            return Ok(());
        };
        if !self.report.fix(problem, at)? {
            return Ok(());
        }
        let mut new = Entries::new();
        for (id, entry) in old.iter().filter(|(_, entry)| entry.has_limits()) {
            new.insert(*id, entry.with(*id, Usage::default()));
        }
        for (id, usage) in usage {
            let entry = old.get(id).copied().unwrap_or(Entry([0; ENTRY]));
            new.insert(*id, entry.with(*id, *usage));
        }
        let file = write(&new, kind, &bytes);
        self.store_file(ino, raw, &file).map(|_| ())
    }

    fn contents(&self, raw: &Raw) -> Result<Vec<u8>> {
        let map = crate::map::read(&self.image, &self.geo, raw)?;
        let end = map.data.last().map_or(0, Run::end);
        let blocks = raw.size().div_ceil(self.geo.block_size.into());
        let blocks = blocks.min(end).min(1 << 16);
        let mut bytes = Vec::new();
        for lblk in 0..blocks {
            match map.find(lblk) {
                Some(block) => bytes.extend_from_slice(&self.image.read(block)?),
                None => bytes.resize(bytes.len() + self.image.block_size(), 0),
            }
        }
        Ok(bytes)
    }

    /// Writes a whole file into the blocks that it has, and into new ones; false without space.
    fn store_file(&mut self, ino: u32, mut raw: Raw, file: &[u8]) -> Result<bool> {
        let map = crate::map::read(&self.image, &self.geo, &raw)?;
        let mut runs = map.data.clone();
        let mut grown = false;
        for (lblk, chunk) in file.chunks(self.image.block_size()).enumerate() {
            let lblk = lblk as u64;
            let mut bytes = chunk.to_vec();
            bytes.resize(self.image.block_size(), 0);
            if let Some(block) = map.find(lblk) {
                self.image.write(block, bytes, Stage::Body)?;
                continue;
            }
            let new = crate::map::Map {
                data: runs.clone(),
                meta: Vec::new(),
            };
            let near = runs.first().map_or(0, |run| run.pblk);
            let Some(block) = self.block_for(&new, lblk, near) else {
                self.report.note("there is no space for a quota file");
                return Ok(false);
            };
            self.image.write(block, bytes, Stage::Fresh)?;
            let run = Run {
                lblk,
                pblk: block,
                len: 1,
                unwritten: false,
            };
            runs = crate::mapedit::with(&runs, run);
            grown = true;
        }
        if grown && !self.replace_map(ino, &mut raw, &map, &runs)? {
            return Ok(false);
        }
        let end = runs.last().map_or(0, Run::end) * u64::from(self.geo.block_size);
        let size = if raw.size() > SIZE_MAX {
            end
        } else {
            raw.size()
        };
        raw.set_size(size.max(file.len() as u64));
        self.write_inode(ino, &mut raw)?;
        Ok(true)
    }
}

fn agrees(old: &Entries, usage: &BTreeMap<u32, Usage>) -> bool {
    let same = |(id, usage): (&u32, &Usage)| {
        let found = old.get(id).map_or(Usage::default(), Entry::usage);
        found == *usage
    };
    let gone =
        |(id, entry): (&u32, &Entry)| usage.contains_key(id) || entry.usage() == Usage::default();
    usage.iter().all(same) && old.iter().all(gone)
}

/// Whether the lists of free blocks lie in the blocks that are counted, and these in the file.
fn header_is_sound(bytes: &[u8]) -> bool {
    let blocks = le32(bytes, INFO + 12);
    let lists = [le32(bytes, INFO + 16), le32(bytes, INFO + 20)];
    lists.iter().all(|list| *list < blocks) && blocks as usize <= bytes.len() / BLOCK
}

/// The entries of a file; `None` when it is none of this kind.
fn read(bytes: &[u8], kind: usize) -> Option<Entries> {
    if le32(bytes, 0) != MAGIC[kind] || le32(bytes, 4) != 1 {
        return None;
    }
    let mut entries = Entries::new();
    let mut seen = std::collections::BTreeSet::new();
    walk(bytes, 1, 0, &mut seen, &mut entries)?;
    Some(entries)
}

fn walk(
    bytes: &[u8],
    block: usize,
    level: u32,
    seen: &mut std::collections::BTreeSet<usize>,
    entries: &mut Entries,
) -> Option<()> {
    let part = bytes.get(block.checked_mul(BLOCK)?..)?.get(..BLOCK)?;
    if level == DEPTH {
        for index in 0..PER_BLOCK {
            let at = DATA_HEADER + index * ENTRY;
            let entry = Entry(part.get(at..)?.first_chunk().copied()?);
            if entry.0.iter().any(|byte| *byte != 0) {
                entries.insert(le32(&entry.0, 0), entry);
            }
        }
        return Some(());
    }
    for index in 0..BLOCK / 4 {
        let child = le32(part, 4 * index) as usize;
        if child == 0 {
            continue;
        }
        // Many ids share a block of entries; a block of references has one parent.
        let first = seen.insert(child);
        if first {
            walk(bytes, child, level + 1, seen, entries)?;
        } else if level + 1 < DEPTH {
            return None;
        }
    }
    Some(())
}

/// A whole file with these entries; grace times are those of the old one.
fn write(entries: &Entries, kind: usize, old: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 2 * BLOCK];
    put_le32(&mut file, 0, MAGIC[kind]);
    put_le32(&mut file, 4, 1);
    let good = le32(old, 0) == MAGIC[kind];
    for at in [INFO, INFO + 4] {
        put_le32(&mut file, at, if good { le32(old, at) } else { GRACE });
    }
    let all: Vec<&Entry> = entries.values().collect();
    for chunk in all.chunks(PER_BLOCK) {
        let data = new_block(&mut file);
        put_le16(&mut file, data * BLOCK + 8, chunk.len() as u16);
        for (index, entry) in chunk.iter().enumerate() {
            let at = data * BLOCK + DATA_HEADER + index * ENTRY;
            file[at..at + ENTRY].copy_from_slice(&entry.0);
            refer(&mut file, le32(&entry.0, 0), data);
        }
    }
    // A last block with room is the first of the list of such blocks.
    let blocks = file.len() / BLOCK;
    let last = all.len() % PER_BLOCK;
    if last != 0 {
        let data = last_data_block(&file, all.len());
        put_le32(&mut file, INFO + 20, data as u32);
    }
    put_le32(&mut file, INFO + 12, blocks as u32);
    file
}

/// The block that holds the last entry.
fn last_data_block(file: &[u8], entries: usize) -> usize {
    let last = (entries % PER_BLOCK) as u16;
    let blocks = file.len() / BLOCK;
    let fits = |block: &usize| {
        let at = block * BLOCK;
        le16(file, at + 8) == last && le64(file, at) == 0 && le16(file, at + 10) == 0
    };
    (2..blocks).rev().find(fits).unwrap_or(0)
}

fn new_block(file: &mut Vec<u8>) -> usize {
    file.resize(file.len() + BLOCK, 0);
    file.len() / BLOCK - 1
}

/// Leads from the root to the block of an id's entry.
fn refer(file: &mut Vec<u8>, id: u32, data: usize) {
    let mut block = 1;
    for level in 0..DEPTH {
        let index = (id >> (8 * (DEPTH - 1 - level))) as usize & 0xff;
        let at = block * BLOCK + 4 * index;
        if level == DEPTH - 1 {
            put_le32(file, at, data as u32);
            return;
        }
        let mut child = le32(file, at) as usize;
        if child == 0 {
            child = new_block(file);
            put_le32(file, at, child as u32);
        }
        block = child;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let mut entries = Entries::new();
        for id in (0..100).chain([65536, 70000, u32::MAX - 1]) {
            let usage = Usage {
                space: u64::from(id) * 512,
                inodes: u64::from(id) + 1,
            };
            entries.insert(id, Entry([0; ENTRY]).with(id, usage));
        }
        let file = write(&entries, 1, &[]);
        assert_eq!(read(&file, 1), Some(entries.clone()));
        assert_eq!(read(&file, 0), None);
        let usage = entries
            .iter()
            .map(|(id, entry)| (*id, entry.usage()))
            .collect();
        assert!(agrees(&entries, &usage));
        let mut less = entries.clone();
        less.remove(&70000);
        assert!(!agrees(&less, &usage));
        assert_eq!(read(&file[..3000], 1), None);
    }
}

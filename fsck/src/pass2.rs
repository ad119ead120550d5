//! Pass 2: every directory, block by block, entry by entry.
//!
//! Source: the kernel's ext4 documentation, "Directory Entries"; e2fsck(8).
//! Invariants: a block is written back only when something in it changed; what an entry points to was judged by pass 1;
//! a damaged index is given up, its directory stays as a linear one.

mod dots;
mod entry;
mod index;
mod inline;
mod leaf;
mod probe;

pub use inline::{drop_value as drop_inline_value, entries as inline_entries};

use crate::dirblock;
use crate::image::Stage;
use crate::inode::Raw;
use crate::inodes::known;
use crate::map::{Map, Run};
use crate::mapedit;
use crate::problem::{At, Problem};
use crate::session::Fsck;
use crate::{Result, Stop};
use std::collections::{HashMap, HashSet};
use uext4::format::checksum::{self, BlockKind};
use uext4::format::inode::flag;
use uext4::ids::FsBlock;

/// Directories that are looked at before what they hold is counted.
const BATCH: usize = 1 << 10;

/// One directory while it is looked at.
pub struct Directory {
    pub ino: u32,
    pub seed: u32,
    pub encrypted: bool,
    pub casefold: bool,
    /// As `Policies` has it.
    pub policy: Option<u32>,
    /// Names that were seen, hashed, with the inode of each.
    pub names: HashMap<u64, Vec<(Vec<u8>, u32)>>,
    /// The index, while it is trusted.
    pub index: Option<index::Index>,
    /// Blocks that are index nodes.
    pub nodes: HashSet<u64>,
    /// A name changed, so that its hash is no longer where it belongs.
    pub renamed: bool,
    /// Entries that found no room in their block.
    pub displaced: Vec<dirblock::Entry>,
}

impl Fsck<'_, '_> {
    pub fn pass2(&mut self) -> Result<()> {
        let all = self.dirs.len() as u64;
        self.report.progress(2, 0, all)?;
        let mut suspects = Vec::new();
        let mut batch = Vec::new();
        let mut done = 0;
        for page in 0..self.dirs.page_count() {
            batch.extend(self.dirs.page(page).into_iter().map(|(ino, _)| ino as u32));
            if batch.len() < BATCH && page + 1 < self.dirs.page_count() {
                continue;
            }
            done += batch.len();
            if self.one_by_one {
                suspects.append(&mut batch);
                continue;
            }
            suspects.extend(self.look_at(&batch)?);
            batch.clear();
            self.report
                .progress(2, (done - suspects.len()) as u64, all)?;
        }
        suspects.sort_unstable();
        let first = done - suspects.len();
        for (done, ino) in suspects.iter().enumerate() {
            if done % 64 == 0 {
                self.report.progress(2, (first + done) as u64, all)?;
            }
            self.directory(*ino)?;
        }
        Ok(())
    }

    /// Gives those that are not in order.
    fn look_at(&mut self, batch: &[u32]) -> Result<Vec<u32>> {
        let found = probe::all(self, batch)?;
        for targets in &found.targets {
            targets.each(|ino| self.inodes.found(ino));
        }
        for (ino, dotdot) in found.dotdots {
            self.dirs.change(ino, |dir| dir.dotdot = dotdot);
        }
        for (ino, parent) in found.parents {
            let before = self
                .dirs
                .change(ino, |dir| std::mem::replace(&mut dir.parent, parent));
            // Of two directories that hold the same third the first has it: that is for the serial look to find.
            if before.is_some_and(|before| before != 0) {
                self.one_by_one = true;
                return Err(Stop::Restart);
            }
        }
        Ok(found.suspects)
    }

    fn directory(&mut self, ino: u32) -> Result<()> {
        let raw = self.read_inode(ino)?;
        if !raw.is_dir() {
            return Ok(());
        }
        let mut dir = self.directory_state(ino, &raw);
        if raw.has(flag::INLINE_DATA) {
            return self.inline_directory(&mut dir, raw);
        }
        let map = crate::map::read(&self.image, &self.geo, &raw)?;
        let blocks = raw.size() / u64::from(self.geo.block_size);
        if raw.has(flag::INDEX) {
            self.read_index(&mut dir, &map, blocks)?;
        }
        let mut missing = Vec::new();
        for lblk in 0..blocks {
            match map.find(lblk) {
                None => missing.push(lblk),
                Some(_) if dir.nodes.contains(&lblk) && lblk != 0 => {}
                Some(block) => self.leaf(&mut dir, lblk, block)?,
            }
        }
        self.finish_index(&mut dir, blocks)?;
        for lblk in missing {
            self.missing_block(&dir, lblk)?;
        }
        for entry in std::mem::take(&mut dir.displaced) {
            self.add_entry(ino, &entry.name, entry.ino, entry.file_type)?;
        }
        Ok(())
    }

    pub fn directory_state(&self, ino: u32, raw: &Raw) -> Directory {
        let flags = self.inodes.get(ino).flags;
        Directory {
            ino,
            seed: raw.seed(&self.geo, ino),
            encrypted: flags & known::ENCRYPTED != 0,
            casefold: flags & known::CASEFOLD != 0,
            policy: self.policies.of(ino),
            names: HashMap::new(),
            index: None,
            nodes: HashSet::new(),
            renamed: false,
            displaced: Vec::new(),
        }
    }

    /// A hole becomes an empty block.
    fn missing_block(&mut self, dir: &Directory, lblk: u64) -> Result<()> {
        if !self
            .report
            .fix(Problem::BlockMissing, At::dir(dir.ino).lblk(lblk))?
        {
            return Ok(());
        }
        let mut bytes = dirblock::empty(&self.geo);
        if lblk == 0 {
            let end = dirblock::end(&self.geo, bytes.len());
            let kind = self.directory_type();
            dirblock::put(&mut bytes, 0, 12, dir.ino, kind, b".");
            dirblock::put(&mut bytes, 12, end - 12, 2, kind, b"..");
            self.inodes.found(dir.ino);
            self.dirs.change(dir.ino, |known| known.dotdot = 2);
        }
        self.add_block(dir.ino, lblk, bytes)?;
        Ok(())
    }

    /// Gives a directory a new block at `lblk`; false without space.
    pub fn add_block(&mut self, ino: u32, lblk: u64, mut bytes: Vec<u8>) -> Result<bool> {
        let mut raw = self.read_inode(ino)?;
        let map = crate::map::read(&self.image, &self.geo, &raw)?;
        let near = map.data.first().map_or(0, |run| run.pblk);
        let Some(block) = self.block_for(&map, lblk, near) else {
            return Ok(false);
        };
        let run = Run {
            lblk,
            pblk: block,
            len: 1,
            unwritten: false,
        };
        let runs = mapedit::with(&map.data, run);
        if !self.replace_map(ino, &mut raw, &map, &runs)? {
            return Ok(false);
        }
        let size = (lblk + 1) * u64::from(self.geo.block_size);
        if raw.size() < size {
            raw.set_size(size);
        }
        let kind = BlockKind::Directory {
            seed: raw.seed(&self.geo, ino),
        };
        checksum::stamp(kind, &self.geo, FsBlock::new(block), &mut bytes);
        self.image.write(block, bytes, Stage::Fresh)?;
        self.write_inode(ino, &mut raw)?;
        Ok(true)
    }

    /// A free block; with clusters the rest of one that the file has already.
    pub fn block_for(&mut self, map: &Map, lblk: u64, near: u64) -> Option<u64> {
        let ratio = 1_u64 << self.geo.cluster_ratio_bits;
        let start = lblk & !(ratio - 1);
        for other in start..start + ratio {
            if other != lblk
                && let Some(block) = map.find(other)
            {
                return Some(block - (other - start) + (lblk - start));
            }
        }
        self.free().cluster(near).map(|base| base + (lblk - start))
    }

    /// The type of directories in entries of this file system.
    pub fn directory_type(&self) -> u8 {
        self.type_in_entries(2)
    }

    pub fn type_in_entries(&self, file_type: u8) -> u8 {
        use uext4::format::features::incompat::FILETYPE;
        if self.geo.features.has_incompat(FILETYPE) {
            file_type
        } else {
            0
        }
    }

    pub fn write_directory_block(
        &self,
        dir: &Directory,
        block: u64,
        mut bytes: Vec<u8>,
    ) -> Result<()> {
        let kind = BlockKind::Directory { seed: dir.seed };
        checksum::stamp(kind, &self.geo, FsBlock::new(block), &mut bytes);
        self.image.write(block, bytes, Stage::Body)
    }

    /// The raw inode with its index flag cleared.
    pub fn clear_index_flag(&mut self, ino: u32) -> Result<Raw> {
        let mut raw = self.read_inode(ino)?;
        raw.clear_flag(flag::INDEX);
        self.write_inode(ino, &mut raw)?;
        Ok(raw)
    }
}

//! /lost+found: finding or making it, and adding entries to a directory.
//!
//! Source: e2fsck(8).
//! Invariants: an entry is added only where the block's chain has room for it, or in a new block.

use crate::dirblock;
use crate::image::Stage;
use crate::inodes::known;
use crate::problem::{At, Problem};
use crate::session::Fsck;
use crate::{Answer, Result};
use uext4::format::checksum::{self, BlockKind};
use uext4::format::inode::flag;
use uext4::ids::FsBlock;

const NAME: &[u8] = b"lost+found";
const ROOT: u32 = 2;

impl Fsck<'_, '_> {
    pub fn find_lost_found(&mut self) -> Result<()> {
        let found = self.lookup(ROOT, NAME)?;
        if let Some(ino) = found {
            let known = self.inodes.get(ino);
            if known.file_type == 2 && known.flags & known::ENCRYPTED == 0 {
                self.lost_found = Some(ino);
                return Ok(());
            }
            let problem = if known.file_type == 2 {
                Problem::LostFoundEncrypted
            } else {
                Problem::LostFoundNotDirectory
            };
            if !self.report.fix(problem, At::ino(ino))? || !self.rename_away(ROOT, NAME)? {
                return Ok(());
            }
        }
        // Without a use for it there is no need for one, but a file system that is written to gets it.
        if self.report.answer() == Answer::No {
            return Ok(());
        }
        self.make_lost_found()
    }

    fn make_lost_found(&mut self) -> Result<()> {
        if !self.report.fix(Problem::LostFoundMissing, At::new())? {
            return Ok(());
        }
        let made = match self.free_inode() {
            Some(ino) if self.make_directory(ino, ROOT, 0o700)? => Some(ino),
            _ => None,
        };
        if let Some(ino) = made
            && self.add_entry(ROOT, NAME, ino, 2)?
        {
            self.dirs.change(ino, |dir| dir.parent = ROOT);
            self.lost_found = Some(ino);
            return Ok(());
        }
        if let Some(ino) = made {
            self.clear_inode(ino)?;
        }
        if self.report.fix(Problem::LostFoundNoSpace, At::new())? {
            self.lost_found = Some(ROOT);
        }
        Ok(())
    }

    /// Gives an inode an entry in /lost+found; the directory that it went to.
    pub fn reconnect(&mut self, ino: u32) -> Result<Option<u32>> {
        if self.lost_found.is_none() && self.report.answer() == Answer::No {
            self.make_lost_found()?;
        }
        let Some(home) = self.lost_found else {
            return Ok(None);
        };
        let file_type = self.inodes.get(ino).file_type;
        let mut name = format!("#{ino}").into_bytes();
        while self.lookup(home, &name)?.is_some() && name.len() < 200 {
            name.push(b'_');
        }
        if self.add_entry(home, &name, ino, file_type)? {
            return Ok(Some(home));
        }
        self.report.fix(Problem::ReconnectFailed, At::ino(ino))?;
        Ok(None)
    }

    pub fn directory_blocks(&self, dir: u32) -> Result<Vec<u64>> {
        let raw = self.read_inode(dir)?;
        if raw.has(flag::INLINE_DATA) || !raw.is_dir() {
            return Ok(Vec::new());
        }
        let map = crate::map::read(&self.image, &self.geo, &raw)?;
        let blocks = raw.size() / u64::from(self.geo.block_size);
        Ok((0..blocks).filter_map(|lblk| map.find(lblk)).collect())
    }

    pub fn lookup(&self, dir: u32, name: &[u8]) -> Result<Option<u32>> {
        for block in self.directory_blocks(dir)? {
            let bytes = self.image.read(block)?;
            let entries = dirblock::entries(&self.geo, &bytes);
            if let Some(entry) = entries.iter().find(|entry| entry.name == name) {
                return Ok(Some(entry.ino));
            }
        }
        Ok(None)
    }

    /// Adds an entry and counts it; false without space.
    pub fn add_entry(&mut self, dir: u32, name: &[u8], ino: u32, file_type: u8) -> Result<bool> {
        self.make_linear(dir)?;
        let file_type = self.type_in_entries(file_type);
        let seed = self.read_inode(dir)?.seed(&self.geo, dir);
        let needed = dirblock::size_of(name.len());
        let blocks = self.directory_blocks(dir)?;
        for block in &blocks {
            let mut bytes = self.image.read(*block)?.to_vec();
            if insert(
                &mut bytes,
                dirblock::end(&self.geo, self.image.block_size()),
                needed,
                ino,
                file_type,
                name,
            ) {
                let kind = BlockKind::Directory { seed };
                checksum::stamp(kind, &self.geo, FsBlock::new(*block), &mut bytes);
                self.image.write(*block, bytes, Stage::Body)?;
                self.inodes.found(ino);
                return Ok(true);
            }
        }
        let mut bytes = dirblock::empty(&self.geo);
        let end = dirblock::end(&self.geo, bytes.len());
        dirblock::put(&mut bytes, 0, end, ino, file_type, name);
        let added = self.add_block(dir, blocks.len() as u64, bytes)?;
        if added {
            self.inodes.found(ino);
        }
        Ok(added)
    }

    /// A directory that entries can be added to anywhere: no index, no inline data.
    fn make_linear(&mut self, dir: u32) -> Result<()> {
        let raw = self.read_inode(dir)?;
        if raw.has(flag::INLINE_DATA) {
            return self.expand_inline(dir, raw);
        }
        if raw.has(flag::INDEX) {
            let map = crate::map::read(&self.image, &self.geo, &raw)?;
            let mut state = self.directory_state(dir, &raw);
            let blocks = raw.size() / u64::from(self.geo.block_size);
            self.find_nodes(&mut state, &map, blocks)?;
            self.give_up_index(&mut state, &map)?;
        }
        Ok(())
    }

    /// Gives an inline directory a block.
    fn expand_inline(&mut self, dir: u32, mut raw: crate::inode::Raw) -> Result<()> {
        let entries = crate::pass2::inline_entries(&self.geo, &raw);
        let parent = raw.get32(crate::inode::I_BLOCK);
        let mut bytes = dirblock::empty(&self.geo);
        let (end, kind) = (dirblock::end(&self.geo, bytes.len()), self.directory_type());
        dirblock::put(&mut bytes, 0, 12, dir, kind, b".");
        dirblock::put(&mut bytes, 12, end - 12, parent, kind, b"..");
        for entry in entries {
            let needed = dirblock::size_of(entry.name.len());
            insert(
                &mut bytes,
                end,
                needed,
                entry.ino,
                entry.file_type,
                &entry.name,
            );
        }
        let Some(block) = self.free().cluster(0) else {
            return Ok(());
        };
        crate::pass2::drop_inline_value(&mut raw);
        raw.clear_flag(flag::INLINE_DATA);
        raw.i_block_mut().fill(0);
        if self
            .geo
            .features
            .has_incompat(uext4::format::features::incompat::EXTENTS)
        {
            raw.set_flags(raw.flags() | flag::EXTENTS);
        }
        let run = crate::map::Run {
            lblk: 0,
            pblk: block,
            len: 1,
            unwritten: false,
        };
        self.replace_map(dir, &mut raw, &crate::map::Map::default(), &[run])?;
        raw.set_size(self.geo.block_size.into());
        let sum = BlockKind::Directory {
            seed: raw.seed(&self.geo, dir),
        };
        checksum::stamp(sum, &self.geo, FsBlock::new(block), &mut bytes);
        self.image.write(block, bytes, Stage::Fresh)?;
        self.write_inode(dir, &mut raw)
    }

    fn rename_away(&mut self, dir: u32, name: &[u8]) -> Result<bool> {
        let seed = self.read_inode(dir)?.seed(&self.geo, dir);
        for block in self.directory_blocks(dir)? {
            let mut bytes = self.image.read(block)?.to_vec();
            let entries = dirblock::entries(&self.geo, &bytes);
            let Some(entry) = entries.iter().find(|entry| entry.name == name) else {
                continue;
            };
            let last = entry.at + dirblock::HEADER + name.len() - 1;
            dirblock::set_u8(&mut bytes, last, b'~');
            let kind = BlockKind::Directory { seed };
            checksum::stamp(kind, &self.geo, FsBlock::new(block), &mut bytes);
            self.image.write(block, bytes, Stage::Body)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Takes the entry of `ino` out of a directory.
    pub fn remove_entry(&mut self, dir: u32, ino: u32) -> Result<()> {
        let seed = self.read_inode(dir)?.seed(&self.geo, dir);
        for (index, block) in self.directory_blocks(dir)?.into_iter().enumerate() {
            let mut bytes = self.image.read(block)?.to_vec();
            let entries = dirblock::entries(&self.geo, &bytes);
            let skip = if index == 0 { 24 } else { 0 };
            let Some(entry) = entries.iter().find(|e| e.ino == ino && e.at >= skip) else {
                continue;
            };
            dirblock::set_ino(&mut bytes, entry.at, 0);
            let kind = BlockKind::Directory { seed };
            checksum::stamp(kind, &self.geo, FsBlock::new(block), &mut bytes);
            self.image.write(block, bytes, Stage::Body)?;
            self.inodes.lost(ino);
            return Ok(());
        }
        Ok(())
    }
}

/// Puts an entry behind the name of another, or in the place of a free one.
fn insert(
    bytes: &mut [u8],
    end: usize,
    needed: usize,
    ino: u32,
    file_type: u8,
    name: &[u8],
) -> bool {
    let mut at = 0;
    while at + dirblock::HEADER <= end {
        let length = dirblock::rec_len(bytes, at);
        if length < 12 || at + length > end {
            return false;
        }
        let live = dirblock::ino(bytes, at) != 0;
        let own = if live {
            dirblock::size_of(dirblock::name_len(bytes, at))
        } else {
            0
        };
        if length >= own + needed {
            if own > 0 {
                dirblock::set_rec_len(bytes, at, own);
            }
            dirblock::put(bytes, at + own, length - own, ino, file_type, name);
            return true;
        }
        at += length;
    }
    false
}

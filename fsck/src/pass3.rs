//! Pass 3: every directory is reachable from the root, and its ".." says from where.
//!
//! Source: e2fsck(8).
//! Invariants: a directory that is not reachable gets an entry in /lost+found before its ".." changes; a walk upwards
//! is bounded by the number of directories.

use crate::Result;
use crate::dirblock;
use crate::image::Stage;
use crate::inode::Raw;
use crate::inodes::Known;
use crate::problem::{At, Problem};
use crate::session::{Dir, Fsck};
use uext4::format::checksum::{self, BlockKind};
use uext4::format::features::incompat;
use uext4::format::inode::{flag, mode};
use uext4::format::raw::put_le32;
use uext4::ids::FsBlock;

const ROOT: u32 = 2;

impl Fsck<'_, '_> {
    pub fn pass3(&mut self) -> Result<()> {
        self.report.progress(3, 0, 1)?;
        self.check_root()?;
        self.find_lost_found()?;
        self.connect_directories()?;
        self.check_dotdots()
    }

    fn check_root(&mut self) -> Result<()> {
        let there = self.dirs.change(ROOT, |root| root.parent = ROOT);
        if there.is_some() {
            return Ok(());
        }
        if !self.report.fix(Problem::RootMissing, At::new())? {
            return Err(crate::Stop::Unusable(
                "there is no root directory".to_owned(),
            ));
        }
        self.make_directory(ROOT, ROOT, 0o755)?;
        self.dirs.change(ROOT, |root| root.parent = ROOT);
        Ok(())
    }

    /// An empty directory in a free inode; false without space.
    pub fn make_directory(&mut self, ino: u32, parent: u32, permissions: u16) -> Result<bool> {
        let Some(block) = self.free().cluster(0) else {
            return Ok(false);
        };
        let mut raw = Raw::zeroed(&self.geo);
        raw.set_mode(mode::DIR | permissions);
        raw.set_links(2);
        raw.set_size(self.geo.block_size.into());
        raw.set_sectors(
            &self.geo,
            u64::from(self.geo.block_size >> 9) << self.geo.cluster_ratio_bits,
        );
        if self.geo.features.has_incompat(incompat::EXTENTS) {
            raw.set_flags(flag::EXTENTS);
            let node = raw.i_block_mut();
            uext4::format::extent::init(node, 0);
            let extent = uext4::format::extent::Extent {
                logical: 0,
                len: 1,
                physical: FsBlock::new(block),
                unwritten: false,
            };
            uext4::format::extent::put_extent(node, 0, &extent);
            uext4::format::extent::set_entries(node, 1);
        } else {
            raw.set_pointer(0, block as u32);
        }
        let now = self.options.now as u32;
        for at in [0x08, 0x0c, 0x10] {
            raw.put32(at, now);
        }
        if self.geo.inode_size > 128 {
            raw.put16(0x80, self.geo.want_extra_isize as u16);
            raw.put32(0x90, now);
        }
        let mut bytes = dirblock::empty(&self.geo);
        let (end, kind) = (dirblock::end(&self.geo, bytes.len()), self.directory_type());
        dirblock::put(&mut bytes, 0, 12, ino, kind, b".");
        dirblock::put(&mut bytes, 12, end - 12, parent, kind, b"..");
        let sum = BlockKind::Directory {
            seed: raw.seed(&self.geo, ino),
        };
        checksum::stamp(sum, &self.geo, FsBlock::new(block), &mut bytes);
        self.image.write(block, bytes, Stage::Fresh)?;
        self.write_inode(ino, &mut raw)?;
        let known = Known {
            file_type: 2,
            links: 2,
            found: 1,
            ..Known::default()
        };
        self.inodes.set(ino, known);
        let dir = Dir {
            parent: 0,
            dotdot: parent,
            reached: false,
        };
        self.dirs.insert(ino, dir);
        Ok(true)
    }

    /// Directories that no path leads to.
    fn connect_directories(&mut self) -> Result<()> {
        self.dirs.change(ROOT, |root| root.reached = true);
        for page in 0..self.dirs.page_count() {
            for (ino, _) in self.dirs.page(page) {
                self.connect_path(ino as u32)?;
            }
        }
        Ok(())
    }

    /// From a directory upwards to one that a path leads to.
    fn connect_path(&mut self, ino: u32) -> Result<()> {
        let mut path = Vec::new();
        let mut at = ino;
        loop {
            let dir = self.dirs.get(at).unwrap_or_default();
            if dir.reached {
                break;
            }
            let looped = path.contains(&at);
            if looped || dir.parent == 0 || !self.dirs.contains(dir.parent) {
                self.connect_directory(at, looped)?;
                path.push(at);
                break;
            }
            path.push(at);
            if path.len() > 64 && path.len() > self.dirs.len() {
                break;
            }
            at = dir.parent;
        }
        for ino in path {
            self.dirs.change(ino, |dir| dir.reached = true);
        }
        Ok(())
    }

    fn connect_directory(&mut self, ino: u32, looped: bool) -> Result<()> {
        let dotdot = self.dirs.get(ino).map_or(0, |dir| dir.dotdot);
        let at = At::ino(ino);
        let at = At {
            dir: Some(dotdot),
            ..at
        };
        let problem = if looped {
            Problem::DirectoryLoop
        } else {
            Problem::DirectoryUnconnected
        };
        if !self.report.fix(problem, at)? {
            return Ok(());
        }
        if looped {
            let parent = self.dirs.get(ino).map_or(0, |dir| dir.parent);
            self.remove_entry(parent, ino)?;
        }
        if let Some(home) = self.reconnect(ino)? {
            self.dirs.change(ino, |dir| dir.parent = home);
        }
        Ok(())
    }

    /// Each ".." must say who holds the entry; then every ".." counts as a link.
    fn check_dotdots(&mut self) -> Result<()> {
        for page in 0..self.dirs.page_count() {
            for (ino, dir) in self.dirs.page(page) {
                self.check_dotdot(ino as u32, dir)?;
            }
        }
        Ok(())
    }

    fn check_dotdot(&mut self, ino: u32, dir: Dir) -> Result<()> {
        if dir.parent == 0 {
            return Ok(());
        }
        let mut counted = dir.dotdot;
        if dir.dotdot != dir.parent {
            let at = At::ino(ino)
                .found(dir.dotdot.into())
                .expected(dir.parent.into());
            if self.report.fix(Problem::DotDotWrong, at)? {
                self.set_dotdot(ino, dir.parent)?;
                counted = dir.parent;
            }
        }
        self.inodes.found(counted);
        Ok(())
    }

    pub fn set_dotdot(&mut self, ino: u32, parent: u32) -> Result<()> {
        let mut raw = self.read_inode(ino)?;
        self.dirs.change(ino, |dir| dir.dotdot = parent);
        if raw.has(flag::INLINE_DATA) {
            put_le32(raw.i_block_mut(), 0, parent);
            return self.write_inode(ino, &mut raw);
        }
        let map = crate::map::read(&self.image, &self.geo, &raw)?;
        let Some(block) = map.find(0) else {
            return Ok(());
        };
        let mut bytes = self.image.read(block)?.to_vec();
        let second = dirblock::rec_len(&bytes, 0);
        if second + 12 <= bytes.len() {
            dirblock::set_ino(&mut bytes, second, parent);
        }
        let kind = BlockKind::Directory {
            seed: raw.seed(&self.geo, ino),
        };
        checksum::stamp(kind, &self.geo, FsBlock::new(block), &mut bytes);
        self.image.write(block, bytes, Stage::Body)
    }
}

//! One inode, from its checksum to its size.
//!
//! Source: the kernel's ext4 documentation, "Index Nodes"; e2fsck(8), pass 1.
//! Invariants: without a reporter the first problem ends the look with `Suspect`; changes stay in `raw`, and in index
//! blocks that are restamped.

use super::One;
use crate::blockset::BlockSet;
use crate::groups::Groups;
use crate::image::Image;
use crate::inode::Raw;
use crate::inodes::{Known, known};
use crate::problem::{At, Problem};
use crate::report::Reporter;
use crate::{Result, Stop};
use std::collections::BTreeSet;
use uext4::format::features::{Features, compat, incompat, ro_compat};
use uext4::format::geometry::Geometry;
use uext4::format::inode::flag;
use uext4::format::superblock::Superblock;

/// What an inode is checked against.
#[derive(Clone, Copy)]
pub struct Around<'a> {
    pub image: &'a Image,
    pub geo: &'a Geometry,
    pub sb: &'a Superblock,
    pub groups: &'a Groups,
    pub zones: &'a BlockSet,
    pub orphans: &'a BTreeSet<u32>,
    /// The numbers of journal, orphan file and quota files.
    pub own: [u32; 5],
    /// Inodes in blocks that the device cannot keep.
    pub lost: &'a BTreeSet<u32>,
    pub now: u32,
}

/// `Around::own`
pub fn own_files(sb: &Superblock) -> [u32; 5] {
    let [user, group, project] = crate::quota::inums(sb);
    let (journal, orphans) = (sb.s_journal_inum(), sb.s_orphan_file_inum());
    [journal, orphans, user, group, project]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Unused,
    Used,
    /// To be emptied.
    Clear,
}

pub struct Check<'a, 'l> {
    pub ino: u32,
    pub raw: Raw,
    pub around: Around<'a>,
    judge: Option<&'a mut Reporter<'l>>,
    pub dirty: bool,
    pub one: One,
    /// Features that were found missing.
    pub features: Features,
    /// Problems of this inode.
    problems: u32,
    /// Clusters that the values of attributes in other inodes add to `i_blocks`.
    pub value_clusters: u64,
    pub has_inline_data: Option<u64>,
    pub encryption: Option<Vec<u8>>,
    /// Blocks that cannot belong to the inode.
    pub illegal: u32,
    pub too_big: bool,
}

impl<'a, 'l> Check<'a, 'l> {
    pub fn new(
        ino: u32,
        raw: Raw,
        around: Around<'a>,
        judge: Option<&'a mut Reporter<'l>>,
    ) -> Self {
        Self {
            ino,
            raw,
            features: around.geo.features,
            around,
            judge,
            dirty: false,
            one: One::default(),
            problems: 0,
            value_clusters: 0,
            has_inline_data: None,
            encryption: None,
            illegal: 0,
            too_big: false,
        }
    }

    pub fn fix(&mut self, problem: Problem, at: At) -> Result<bool> {
        self.problems += 1;
        match &mut self.judge {
            None => Err(Stop::Suspect),
            Some(report) => report.fix(problem, at),
        }
    }

    /// The same at this inode.
    pub fn fix_here(&mut self, problem: Problem) -> Result<bool> {
        self.fix(problem, At::ino(self.ino))
    }

    fn is_special_quota(&self) -> bool {
        crate::quota::inums(self.around.sb).contains(&self.ino)
    }

    /// One of the file system's own inodes.
    pub fn is_special(&self) -> bool {
        let sb = self.around.sb;
        self.ino < self.around.geo.first_ino && self.ino != 2
            || self.features.has_compat(compat::ORPHAN_FILE) && self.ino == sb.s_orphan_file_inum()
            || self.features.has_ro_compat(ro_compat::QUOTA) && self.is_special_quota()
            || self.features.has_compat(compat::HAS_JOURNAL) && self.ino == sb.s_journal_inum()
    }

    fn is_reserved_and_unused(&self) -> bool {
        let sb = self.around.sb;
        let own = match self.ino {
            1 | 2 => true,
            3 | 4 => self.features.has_ro_compat(ro_compat::QUOTA) && self.is_special_quota(),
            7 => self.features.has_compat(compat::RESIZE_INODE),
            8 => self.features.has_compat(compat::HAS_JOURNAL) && sb.s_journal_inum() == 8,
            5 => !self.raw.is_dir(),
            _ => false,
        };
        self.ino < self.around.geo.first_ino && !own && sb.s_prj_quota_inum() != self.ino
    }

    pub fn run(&mut self) -> Result<Verdict> {
        if self.ino == 1 {
            return Ok(Verdict::Unused); // bad blocks: looked at as a whole
        }
        let wrong = !self.raw.checksum_is_right(self.around.geo, self.ino);
        let verdict = self.judge_inode(wrong)?;
        if wrong && verdict != Verdict::Clear {
            if self.problems == 0 && self.fix_here(Problem::InodeChecksum)? {
                self.dirty = true;
            }
            if self.problems > 0 {
                self.dirty = true;
            }
        }
        Ok(verdict)
    }

    fn judge_inode(&mut self, wrong: bool) -> Result<Verdict> {
        let reserved = self.is_reserved_and_unused();
        if reserved || self.ino == 7 {
            self.time_of_deletion()?;
        }
        if reserved {
            return self.reserved();
        }
        if self.ino == 7 {
            return Ok(Verdict::Unused); // resize inode: looked at as a whole
        }
        if self.raw.links() == 0 && self.ino != 2 && !self.is_special() {
            return self.unused();
        }
        if self.is_special() && self.raw.is_zero() {
            return Ok(Verdict::Unused);
        }
        if wrong && self.is_garbage() && self.fix_here(Problem::InodeGarbage)? {
            return Ok(Verdict::Clear);
        }
        if self.ino == 2 {
            self.root()?;
        } else {
            self.time_of_deletion()?;
        }
        if !self.map_flags()? || !self.type_and_flags()? || !self.attributes()? {
            return Ok(Verdict::Clear);
        }
        if !self.blocks()? {
            return Ok(Verdict::Clear);
        }
        if self.raw.is_symlink()
            && !self.symlink_is_valid()?
            && self.fix_here(Problem::BadSymlink)?
        {
            return Ok(Verdict::Clear);
        }
        self.remember();
        Ok(Verdict::Used)
    }

    /// An inode in use has none; one of the file system's own, none that was a place in the list of orphans.
    fn time_of_deletion(&mut self) -> Result<()> {
        let time = self.raw.dtime();
        let place = time <= self.around.geo.inodes_count;
        if time != 0 && (place || !self.is_special()) && self.fix_here(Problem::InUseDtime)? {
            self.raw.set_dtime(0);
            self.dirty = true;
        }
        Ok(())
    }

    fn unused(&mut self) -> Result<Verdict> {
        if self.raw.dtime() == 0 && self.raw.mode() != 0 && self.fix_here(Problem::ZeroDtime)? {
            self.raw.set_dtime(self.around.now);
            self.dirty = true;
        }
        Ok(Verdict::Unused)
    }

    /// Inodes without a use must have no mode.
    fn reserved(&mut self) -> Result<Verdict> {
        let found = u64::from(self.raw.mode());
        let bad = if self.ino == 5 {
            self.raw.is_dir()
        } else {
            found != 0
        };
        if self.ino == 8 && bad {
            if self.fix(Problem::JournalInodeUnused, At::ino(8))? {
                self.raw.bytes.fill(0);
                self.dirty = true;
            }
            return Ok(Verdict::Unused);
        }
        if matches!(self.ino, 7) && self.raw.links() != 0 {
            if self.fix(Problem::ResizeInodeUnused, At::ino(7))? {
                self.raw.bytes.fill(0);
                self.dirty = true;
            }
            return Ok(Verdict::Unused);
        }
        if self.map_flags_of_reserved()? {
            return Ok(Verdict::Unused);
        }
        if bad && self.fix(Problem::ReservedMode, At::ino(self.ino).found(found))? {
            self.raw.set_mode(0);
            if matches!(self.ino, 3 | 4) {
                self.raw.bytes.fill(0);
            }
            self.dirty = true;
        }
        Ok(Verdict::Unused)
    }

    fn map_flags_of_reserved(&mut self) -> Result<bool> {
        let has = self
            .raw
            .has(flag::CASEFOLD | flag::ENCRYPT | flag::INLINE_DATA);
        if !has {
            return Ok(false);
        }
        if self.fix_here(Problem::ReservedMode)? {
            self.raw.bytes.fill(0);
            self.dirty = true;
        }
        Ok(true)
    }

    fn root(&mut self) -> Result<()> {
        if self.raw.dtime() != 0 && self.raw.links() != 0 && self.fix_here(Problem::RootDtime)? {
            self.raw.set_dtime(0);
            self.dirty = true;
        }
        if !self.raw.is_dir() && self.fix_here(Problem::RootNotDirectory)? {
            // A root is made in pass 3; what is here now may be anything.
            self.raw.bytes.fill(0);
            self.dirty = true;
        }
        Ok(())
    }

    fn is_garbage(&self) -> bool {
        let room = self.raw.bytes.len().saturating_sub(128);
        let odd_extra =
            usize::from(self.raw.extra_isize()) > room || !self.raw.extra_isize().is_multiple_of(4);
        let no_map = self.raw.has(flag::EXTENTS)
            && uext4::format::extent::Header::parse(self.raw.i_block(), None).is_err();
        self.raw.file_type() == 0 || odd_extra && no_map
    }

    fn remember(&mut self) {
        let raw = &self.raw;
        let mut flags = 0;
        if raw.has(flag::ENCRYPT) {
            flags |= known::ENCRYPTED;
        }
        if raw.has(flag::EA_INODE) {
            flags |= known::EA;
        }
        if raw.has(flag::CASEFOLD) {
            flags |= known::CASEFOLD;
        }
        let nothing = raw.size() == 0 && self.one.clusters.is_empty() && raw.file_acl() == 0;
        if raw.is_reg() && nothing && crate::xattr::inode_area(&raw.bytes).is_none() {
            flags |= known::EMPTY;
        }
        if self.is_special() {
            flags |= known::SPECIAL;
        }
        self.one.known = Known {
            file_type: raw.file_type(),
            flags,
            links: raw.links(),
            found: 0,
        };
        self.one.policy = self.encryption.take();
        self.one.large_file = raw.is_reg() && raw.size() > 0x7fff_ffff;
    }

    pub fn has_incompat(&self, bit: u32) -> bool {
        self.features.incompat & bit != 0
    }

    pub fn extents_supported(&self) -> bool {
        self.has_incompat(incompat::EXTENTS)
    }
}

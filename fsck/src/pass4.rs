//! Pass 4: link counts, and inodes that no entry leads to.
//!
//! Source: e2fsck(8).
//! Invariants: a directory with more subdirectories than a link count can hold has 1, with dir_nlink.

use crate::Result;
use crate::inodes::{Known, known};
use crate::problem::{At, Problem};
use crate::session::Fsck;
use uext4::format::features::ro_compat;
use uext4::format::inode::flag::{EA_INODE, INDEX};

const LINKS_MAX: u32 = 65000;

impl Fsck<'_, '_> {
    pub fn pass4(&mut self) -> Result<()> {
        for group in 0..self.inodes.group_count() {
            if group % 64 == 0 {
                let all = self.inodes.group_count();
                self.report.progress(4, group.into(), all.into())?;
            }
            for (ino, known) in self.inodes.unsettled_of_group(group) {
                if known.flags & known::SPECIAL == 0 {
                    self.check_links(ino, known)?;
                }
            }
        }
        Ok(())
    }

    fn check_links(&mut self, ino: u32, known: Known) -> Result<()> {
        if known.flags & known::EA != 0 {
            if self.ea_refs.contains(ino) {
                return self.check_value_inode(ino, known);
            }
            self.release_value_inode(ino, Problem::EaInodeUnattached)?;
        }
        let mut found = known.found;
        if found == 0
            || known.file_type == 2
                && found == 1
                && self.dirs.get(ino).is_some_and(|d| d.parent == 0)
        {
            if known.flags & known::EMPTY != 0 && known.file_type != 2 {
                if self.report.fix(Problem::UnattachedEmpty, At::ino(ino))? {
                    return self.clear_inode(ino);
                }
            } else if self.report.fix(Problem::Unattached, At::ino(ino))? {
                self.reconnect(ino)?;
            }
            found = self.inodes.get(ino).found;
        }
        let mut expected = found;
        if known.file_type == 2 && found > LINKS_MAX {
            if !self.geo.features.has_ro_compat(ro_compat::DIR_NLINK)
                && self.report.fix(Problem::DirNlinkFeature, At::ino(ino))?
            {
                let bits = self.sb.features().ro_compat | ro_compat::DIR_NLINK;
                self.sb.set_feature_ro_compat(bits);
                self.geo.features = self.sb.features();
            }
            expected = 1;
        }
        // A count of 1 of a directory that once had too many, and so has an index, stays.
        if known.file_type == 2
            && known.links == 1
            && self.geo.features.has_ro_compat(ro_compat::DIR_NLINK)
            && self.read_inode(ino)?.has(INDEX)
        {
            return Ok(());
        }
        if u32::from(known.links) != expected && expected != 0 {
            let at = At::ino(ino)
                .found(known.links.into())
                .expected(expected.into());
            if self.report.fix(Problem::LinkCount, at)? {
                let mut raw = self.read_inode(ino)?;
                raw.set_links(expected.min(u16::MAX.into()) as u16);
                self.write_inode(ino, &mut raw)?;
            }
        }
        Ok(())
    }

    /// A value that no attribute has becomes a file, so that its contents are not lost.
    pub fn release_value_inode(&mut self, ino: u32, problem: Problem) -> Result<()> {
        if !self.report.fix(problem, At::ino(ino))? {
            return Ok(());
        }
        let mut raw = self.read_inode(ino)?;
        raw.clear_flag(EA_INODE);
        self.write_inode(ino, &mut raw)?;
        self.inodes.change(ino, |known| known.flags &= !known::EA);
        Ok(())
    }

    /// An inode with an attribute's value: its references are counted in its time fields.
    fn check_value_inode(&mut self, ino: u32, known: Known) -> Result<()> {
        let refs = self.ea_refs.get(ino).unwrap_or(0);
        let mut raw = self.read_inode(ino)?;
        let counted = (u64::from(raw.get32(0x0c)) << 32) | u64::from(raw.get32(0x24));
        // Inodes of the first kind of this feature hold no count; their times are equal.
        let first_kind = raw.get32(0x0c) == raw.get32(0x08);
        if counted != u64::from(refs) && !first_kind {
            let at = At::ino(ino).found(counted).expected(refs.into());
            if self.report.fix(Problem::EaInodeRefcount, at)? {
                raw.put32(0x0c, 0);
                raw.put32(0x24, refs);
                self.write_inode(ino, &mut raw)?;
            }
        }
        if known.links != 1 {
            let at = At::ino(ino).found(known.links.into()).expected(1);
            if self.report.fix(Problem::LinkCount, at)? {
                raw.set_links(1);
                self.write_inode(ino, &mut raw)?;
            }
        }
        Ok(())
    }
}

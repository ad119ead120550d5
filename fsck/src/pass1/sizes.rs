//! The map as a whole against `i_size` and `i_blocks`; symbolic links.
//!
//! Source: the kernel's ext4 documentation, "Index Nodes"; e2fsck(8).
//! Invariants: a size is made larger to cover what is mapped, never smaller than that.

use super::check::Check;
use super::owner;
use crate::Result;
use crate::map::Map;
use crate::mapedit;
use crate::problem::{At, Problem};
use uext4::format::features::{compat, incompat};
use uext4::format::inode::flag;
use uext4::format::raw::le16;

/// Blocks of 1 KiB that a directory may have without large_dir: 2 GiB.
const DIR_KIB_MAX: u64 = 1 << 21;

impl Check<'_, '_> {
    /// One past the last file block that this kind of file may have.
    pub fn block_limit(&self) -> u64 {
        let geo = self.around.geo;
        if self.raw.is_symlink() {
            return 1;
        }
        if self.raw.is_dir() && !self.has_incompat(incompat::LARGEDIR) {
            return DIR_KIB_MAX >> (geo.block_bits - 10);
        }
        u64::MAX
    }

    /// False to empty the inode.
    pub fn blocks(&mut self) -> Result<bool> {
        let mut map = Map::default();
        if crate::map::has_map(&self.raw) {
            let found = if self.raw.has(flag::EXTENTS) {
                self.extent_tree()?.map(|tree| (tree.kept, tree.changed))
            } else {
                self.block_map()?.map(|map| (map, false))
            };
            let Some((kept, changed)) = found else {
                return Ok(false);
            };
            map = kept;
            if changed {
                self.one.rewrite = Some(map.data.clone());
            }
        }
        if self.around.orphans.contains(&self.ino) {
            self.truncate_orphan(&mut map)?;
        }
        self.one.clusters = owner::clusters(self.around.geo, &map);
        let misplaced = owner::misplaced(self.around.geo, &map);
        if !misplaced.is_empty() && self.fix_here(Problem::ClusterUnaligned)? {
            self.one.misplaced = misplaced;
        }
        if self.raw.is_dir()
            && !self.raw.has(flag::INLINE_DATA)
            && map.data.is_empty()
            && self.fix_here(Problem::ZeroLengthDirectory)?
        {
            return Ok(false);
        }
        self.size(&map)?;
        self.sectors()?;
        Ok(true)
    }

    /// What a crash left behind the end of a file that was being truncated goes.
    fn truncate_orphan(&mut self, map: &mut Map) -> Result<()> {
        let size = u64::from(self.around.geo.block_size);
        let end = self.raw.size().div_ceil(size);
        let left = mapedit::without(map, end, u64::MAX);
        if left != map.data && self.fix_here(Problem::OrphanInode)? {
            map.data = left;
            self.one.rewrite = Some(map.data.clone());
        }
        Ok(())
    }

    fn size(&mut self, map: &Map) -> Result<()> {
        let geo = self.around.geo;
        let size = self.raw.size();
        let block = u64::from(geo.block_size);
        let mapped = map.data.last().map_or(0, |run| run.end());
        let written = map
            .data
            .iter()
            .rev()
            .find(|run| !run.unwritten)
            .map_or(0, |run| run.end());
        let expected = if self.raw.has(flag::INLINE_DATA) {
            let Some(extra) = self.has_inline_data else {
                return Ok(());
            };
            let room = 60 + extra;
            let good = if self.raw.is_dir() {
                size == room
            } else {
                size <= room && (extra == 0 || size == room)
            };
            if good { size } else { room }
        } else if self.raw.is_dir() {
            mapped * block
        } else if self.is_journal() {
            size.min(mapped * block)
        } else if self.raw.is_reg() {
            let short = written > 0 && size < (written - 1) * block && !self.raw.has(flag::VERITY);
            let most = geo.max_file_size(self.raw.has(flag::EXTENTS));
            if short || size > most {
                written * block
            } else {
                size
            }
        } else {
            size
        };
        if expected != size && (self.raw.is_reg() || self.raw.is_dir()) {
            let at = At::ino(self.ino).found(size).expected(expected);
            let problem = if self.raw.has(flag::INLINE_DATA) {
                Problem::InlineSize
            } else {
                Problem::SizeWrong
            };
            if self.fix(problem, at)? {
                self.raw.set_size(expected);
                self.dirty = true;
            }
        }
        Ok(())
    }

    fn is_journal(&self) -> bool {
        self.features.has_compat(compat::HAS_JOURNAL) && self.ino == self.around.sb.s_journal_inum()
    }

    fn sectors(&mut self) -> Result<()> {
        let geo = self.around.geo;
        let own: u64 = self.one.clusters.iter().map(|run| run.1).sum();
        let all = own + self.value_clusters + u64::from(self.one.xattr_block.is_some());
        let expected = all << (geo.cluster_ratio_bits + geo.block_bits - 9);
        let found = self.raw.sectors(geo);
        // A map that is written anew gets its count then.
        if found == expected || self.one.rewrite.is_some() {
            return Ok(());
        }
        let at = At::ino(self.ino).found(found).expected(expected);
        if self.fix(Problem::BlocksWrong, at)? {
            self.raw.set_sectors(geo, expected);
            self.dirty = true;
        }
        Ok(())
    }

    /// Whether the target fills the size exactly.
    pub fn symlink_is_valid(&self) -> Result<bool> {
        let geo = self.around.geo;
        let size = self.raw.size();
        if size == 0 || self.raw.size_high() != 0 || self.raw.has(flag::INDEX) {
            return Ok(false);
        }
        let target = if self.raw.has(flag::INLINE_DATA) {
            return Ok(self.has_inline_data.is_some_and(|extra| size == 60 + extra));
        } else if self.raw.is_fast_symlink() {
            if self.raw.has(flag::EXTENTS) {
                return Ok(false);
            }
            self.raw.i_block().to_vec()
        } else {
            let map = crate::map::read(self.around.image, geo, &self.raw)?;
            let Some(block) = map
                .find(0)
                .filter(|_| map.data.len() == 1 && map.data[0].len == 1)
            else {
                return Ok(false);
            };
            self.around.image.read(block)?.to_vec()
        };
        let length = if self.raw.has(flag::ENCRYPT) {
            u64::from(le16(&target, 0)) + 2
        } else {
            let end = target.iter().position(|byte| *byte == 0);
            end.unwrap_or(target.len()) as u64
        };
        Ok(length < target.len() as u64 && length == size)
    }
}

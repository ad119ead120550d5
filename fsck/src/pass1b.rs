//! Blocks that more than one inode claims: copied for all but the last, or the file is given up.
//!
//! Source: e2fsck(8), passes 1B to 1D.
//! Invariants: a copy is written before the map that points to it; what the file system itself uses is never given
//! away.

use crate::alloc::{Free, cluster_of};
use crate::image::Stage;
use crate::inode::Raw;
use crate::map::{Map, Run};
use crate::problem::{At, Problem};
use crate::session::Fsck;
use crate::{Result, Stop, pass1};
use std::collections::HashMap;
use uext4::format::features::ro_compat;

/// How many still claim each cluster.
type Claims = HashMap<u64, u32>;

impl Fsck<'_, '_> {
    pub fn pass1b(&mut self) -> Result<()> {
        if self.twice.is_empty() || self.geo.features.has_ro_compat(ro_compat::SHARED_BLOCKS) {
            return Ok(());
        }
        let mut claims = Claims::new();
        let mut owners = Vec::new();
        for group in 0..self.inodes.group_count() {
            for (ino, _) in self.inodes.of_group(group) {
                if ino == 1 || ino == 7 || self.lost_inodes.contains(&ino) {
                    continue;
                }
                let raw = self.read_inode(ino)?;
                if self.count_claims(&raw, &mut claims)? {
                    owners.push(ino);
                }
            }
        }
        let shared: Vec<u64> = claims
            .keys()
            .copied()
            .filter(|c| self.zones.contains(*c))
            .collect();
        for cluster in shared {
            *claims.entry(cluster).or_default() += 1;
        }
        for page in 0..self.xattr_blocks.page_count() {
            for (block, _) in self.xattr_blocks.page(page) {
                let cluster = cluster_of(&self.geo, block);
                if self.twice.contains(cluster) {
                    *claims.entry(cluster).or_default() += 1;
                }
            }
        }
        let mut again = false;
        for ino in owners {
            again |= self.resolve(ino, &mut claims)?;
        }
        self.resolve_xattrs(&mut claims)?;
        // What misplaced blocks leave behind is counted by a new look.
        if again { Err(Stop::Restart) } else { Ok(()) }
    }

    fn count_claims(&self, raw: &Raw, claims: &mut Claims) -> Result<bool> {
        if !crate::map::has_map(raw) {
            return Ok(false);
        }
        let map = crate::map::read(&self.image, &self.geo, raw)?;
        let mut any = false;
        for cluster in pass1::misplaced(&self.geo, &map) {
            *claims.entry(cluster).or_default() += 1;
        }
        for (first, count) in pass1::clusters(&self.geo, &map) {
            if !self.twice.overlaps(first, count) {
                continue;
            }
            for cluster in first..first + count {
                if self.twice.contains(cluster) {
                    *claims.entry(cluster).or_default() += 1;
                    any = true;
                }
            }
        }
        Ok(any)
    }

    /// True when blocks moved that were misplaced.
    fn resolve(&mut self, ino: u32, claims: &mut Claims) -> Result<bool> {
        let mut raw = self.read_inode(ino)?;
        let map = crate::map::read(&self.image, &self.geo, &raw)?;
        let misplaced = !pass1::misplaced(&self.geo, &map).is_empty();
        let mut shared = 0;
        let (mut first, mut metadata) = (None, false);
        for (from, count) in pass1::clusters(&self.geo, &map) {
            for cluster in from..from + count {
                if claims.get(&cluster).is_some_and(|count| *count > 1) {
                    shared += 1;
                    metadata |= self.zones.contains(cluster);
                    first.get_or_insert(cluster);
                }
            }
        }
        let Some(first) = first else {
            return Ok(false);
        };
        let block = (first << self.geo.cluster_ratio_bits) + u64::from(self.geo.first_data_block);
        let at = At::ino(ino).block(block).found(shared);
        let problem = if metadata {
            Problem::MultiplyClaimedMetadata
        } else {
            Problem::MultiplyClaimed
        };
        // Those of a misplaced block were asked for in pass 1.
        if !misplaced && !self.report.fix(problem, at)? {
            return Ok(false);
        }
        let copied = self.copy_shared(&map, claims)?;
        if let Some(runs) = copied
            && self.replace_map(ino, &mut raw, &map, &runs)?
        {
            let new = crate::map::read(&self.image, &self.geo, &raw)?;
            for block in map.meta.iter().filter(|block| !new.meta.contains(block)) {
                self.drop_claim(cluster_of(&self.geo, *block), claims);
            }
            self.write_inode(ino, &mut raw)?;
            return Ok(misplaced);
        }
        if self
            .report
            .fix(Problem::MultiplyClaimedDelete, At::ino(ino))?
        {
            for (from, count) in pass1::clusters(&self.geo, &map) {
                for cluster in from..from + count {
                    if claims.contains_key(&cluster) {
                        self.drop_claim(cluster, claims);
                    } else {
                        self.used.remove(cluster, 1);
                    }
                }
            }
            self.release_attributes(&raw)?;
            self.clear_inode(ino)?;
        }
        Ok(misplaced)
    }

    /// One claim less; what nobody claims is free.
    fn drop_claim(&mut self, cluster: u64, claims: &mut Claims) {
        if let Some(count) = claims.get_mut(&cluster) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.used.remove(cluster, 1);
            }
        }
    }

    /// The runs with copies in place of what is shared or misplaced; `None` without space.
    fn copy_shared(&mut self, map: &Map, claims: &mut Claims) -> Result<Option<Vec<Run>>> {
        let bits = self.geo.cluster_ratio_bits;
        let mask = (1_u64 << bits) - 1;
        let mut new = Map::default();
        let mut undo: Vec<u64> = Vec::new();
        // A cluster of the file, and the first block of where it lies now.
        let mut last: Option<(u64, u64)> = None;
        let mut free = Free {
            used: &mut self.used,
            moved: &mut self.moved,
            geo: &self.geo,
            taken: Vec::new(),
        };
        for run in &map.data {
            for index in 0..run.len {
                let (lblk, pblk) = (run.lblk + index, run.pblk + index);
                let cluster = cluster_of(&self.geo, pblk);
                let start = (cluster << bits) + u64::from(self.geo.first_data_block);
                let home = last.filter(|(file, _)| *file == lblk >> bits);
                let is_shared = claims.get(&cluster).is_some_and(|count| *count > 1);
                let fits = pblk - start == lblk & mask;
                let base = match home {
                    Some((_, base)) => base,
                    None if fits && !is_shared => start,
                    None => {
                        let Some(base) = free.cluster(pblk) else {
                            give_back(&mut free, claims, undo);
                            return Ok(None);
                        };
                        undo.push(cluster);
                        claims.entry(cluster).and_modify(|count| *count -= 1);
                        base
                    }
                };
                last = Some((lblk >> bits, base));
                let place = base + (lblk & mask);
                if place != pblk {
                    let bytes = self.image.read(pblk)?.to_vec();
                    self.image.write(place, bytes, Stage::Fresh)?;
                }
                new.push(Run {
                    lblk,
                    pblk: place,
                    len: 1,
                    unwritten: run.unwritten,
                });
            }
        }
        Ok(Some(new.data))
    }

    /// Attribute blocks that files claim as data, too, get a copy; all that share them move on.
    fn resolve_xattrs(&mut self, claims: &mut Claims) -> Result<()> {
        let is_shared = |(block, _): &(u64, _)| {
            let count = claims.get(&cluster_of(&self.geo, *block));
            count.is_some_and(|count| *count > 1)
        };
        let blocks: Vec<u64> = (0..self.xattr_blocks.page_count())
            .flat_map(|page| self.xattr_blocks.page(page))
            .filter(is_shared)
            .map(|(block, _)| block)
            .collect();
        for block in blocks {
            let cluster = cluster_of(&self.geo, block);
            if claims.get(&cluster).is_none_or(|count| *count <= 1) {
                continue;
            }
            let at = At::new().block(block).found(1);
            if !self.report.fix(Problem::MultiplyClaimed, at)? {
                continue;
            }
            let Some(copy) = self.free().cluster(block) else {
                continue;
            };
            let mut bytes = self.image.read(block)?.to_vec();
            use uext4::format::checksum::{BlockKind, stamp};
            stamp(
                BlockKind::Xattr,
                &self.geo,
                uext4::ids::FsBlock::new(copy),
                &mut bytes,
            );
            self.image.write(copy, bytes, Stage::Fresh)?;
            claims.entry(cluster).and_modify(|count| *count -= 1);
            for group in 0..self.inodes.group_count() {
                for (ino, _) in self.inodes.of_group(group) {
                    let mut raw = self.read_inode(ino)?;
                    if raw.file_acl() == block {
                        raw.set_file_acl(copy);
                        self.write_inode(ino, &mut raw)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Nothing was copied after all.
fn give_back(free: &mut Free<'_>, claims: &mut Claims, undo: Vec<u64>) {
    for cluster in undo {
        *claims.entry(cluster).or_default() += 1;
    }
    for block in std::mem::take(&mut free.taken) {
        free.used.remove(cluster_of(free.geo, block), 1);
    }
}

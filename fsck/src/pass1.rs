//! Pass 1: every inode and its blocks.
//!
//! Source: the kernel's ext4 documentation, "Index Nodes"; e2fsck(8).
//! Invariants: ranges of groups are looked at in parallel and only read; an inode with anything wrong is left to the
//! second, serial look, which asks and repairs; results are merged, in any order to the same sum.

mod check;
mod extents;
mod flags;
mod indirect;
mod owner;
mod plain;
mod probe;
mod sizes;
mod special;
mod values;

use crate::alloc::clusters_of;
use crate::blockset::BlockSet;
use crate::inodes::{Inodes, Known, known};
use crate::map::Run;
use crate::problem::{At, Problem};
use crate::session::{Dir, Fsck, Policies, SharedXattr};
use crate::sparse::Sparse;
use crate::spill::Spill;
use crate::{Result, Stop};
use check::{Check, Verdict};
pub use owner::{clusters, misplaced};
use std::sync::Arc;
use uext4::format::features::ro_compat;
use uext4::format::geometry::Geometry;

/// What pass 1 learns of a range of inodes.
pub struct Facts {
    used: BlockSet,
    twice: BlockSet,
    inodes: Inodes,
    xattr_blocks: Sparse<SharedXattr>,
    ea_refs: Sparse<u32>,
    policies: Policies,
    /// Maps that must be written anew.
    rewrites: Vec<(u32, Vec<Run>)>,
    large_file: bool,
    new_value_inodes: Vec<u32>,
    /// Inodes that need a second look.
    suspects: Vec<u32>,
}

/// What one inode adds.
#[derive(Default)]
pub struct One {
    pub known: Known,
    /// First cluster and count.
    pub clusters: Vec<(u64, u64)>,
    /// Clusters that must be copied to where their blocks belong.
    pub misplaced: Vec<u64>,
    pub xattr_block: Option<(u64, u32)>,
    pub ea_refs: Vec<u32>,
    /// Inodes that got the flag of an attribute's value.
    pub new_value_inodes: Vec<u32>,
    pub policy: Option<Vec<u8>>,
    pub rewrite: Option<Vec<Run>>,
    pub large_file: bool,
}

impl Facts {
    pub fn new(geo: &Geometry, spill: &Arc<Spill>) -> Self {
        let (per_group, groups) = (geo.clusters_per_group, geo.group_count);
        Self {
            used: BlockSet::new(per_group, groups, spill),
            twice: BlockSet::new(per_group, groups, spill),
            inodes: Inodes::new(geo.inodes_per_group, groups, spill),
            xattr_blocks: Sparse::new(spill),
            ea_refs: Sparse::new(spill),
            policies: Policies::new(spill),
            rewrites: Vec::new(),
            large_file: false,
            new_value_inodes: Vec::new(),
            suspects: Vec::new(),
        }
    }

    fn add_plain(&mut self, ino: u32, plain: &plain::Plain) {
        self.inodes.set(ino, plain.known);
        let twice = &mut self.twice;
        for (first, count) in plain.runs() {
            self.used.insert(*first, *count, |a, n| twice.add(a, n));
        }
    }

    fn add(&mut self, ino: u32, one: One) {
        if one.known.file_type != 0 {
            self.inodes.set(ino, one.known);
        }
        let twice = &mut self.twice;
        for (first, count) in one.clusters {
            self.used.insert(first, count, |a, n| twice.add(a, n));
        }
        for cluster in one.misplaced {
            self.twice.add(cluster, 1);
        }
        if let Some((block, refcount)) = one.xattr_block {
            self.xattr_blocks.entry(block, |shared| {
                shared.found = shared.found.saturating_add(1);
                shared.refcount = refcount;
            });
        }
        for target in one.ea_refs {
            self.ea_refs
                .entry(target, |count| *count = count.saturating_add(1));
        }
        if let Some(policy) = one.policy {
            self.policies.insert(ino, policy);
        }
        if let Some(runs) = one.rewrite {
            self.rewrites.push((ino, runs));
        }
        self.large_file |= one.large_file;
        self.new_value_inodes.extend(one.new_value_inodes);
    }
}

impl Fsck<'_, '_> {
    pub fn pass1(&mut self) -> Result<()> {
        self.report.progress(1, 0, 1)?;
        self.check_bad_blocks()?;
        self.check_resize_inode()?;
        self.check_quota_inodes()?;
        self.make_root_if_missing()?;
        let mut facts = probe::all(self)?;
        let mut suspects = std::mem::take(&mut facts.suspects);
        suspects.sort_unstable();
        for (done, ino) in suspects.iter().enumerate() {
            self.report
                .progress(1, done as u64, suspects.len() as u64)?;
            self.second_look(*ino, &mut facts)?;
        }
        self.merge(facts)
    }

    fn second_look(&mut self, ino: u32, facts: &mut Facts) -> Result<()> {
        let raw = self.read_inode(ino)?;
        let mut check = Check::new(
            ino,
            raw,
            check::Around {
                image: &self.image,
                geo: &self.geo,
                sb: &self.sb,
                groups: &self.groups,
                zones: &self.zones,
                orphans: &self.orphans,
                own: check::own_files(&self.sb),
                lost: &self.lost_inodes,
                now: self.options.now as u32,
            },
            Some(&mut *self.report),
        );
        let verdict = check.run()?;
        let Check {
            one,
            mut raw,
            dirty,
            features,
            ..
        } = check;
        if dirty {
            self.write_inode(ino, &mut raw)?;
        }
        if features != self.sb.features() {
            self.sb.set_feature_compat(features.compat);
            self.sb.set_feature_incompat(features.incompat);
            self.sb.set_feature_ro_compat(features.ro_compat);
            self.geo.features = features;
        }
        match verdict {
            Verdict::Used => facts.add(ino, one),
            Verdict::Unused => {}
            Verdict::Clear => {
                self.clear_inode(ino)?;
                self.forget_quota_inode(ino);
            }
        }
        Ok(())
    }

    fn merge(&mut self, facts: Facts) -> Result<()> {
        let twice = &mut self.twice;
        self.used.merge(facts.used, |a, n| twice.add(a, n));
        self.twice.merge(facts.twice, |_, _| {});
        for group in 0..facts.inodes.group_count() {
            for (ino, known) in facts.inodes.directories_of_group(group) {
                if known.flags & known::SPECIAL == 0 {
                    self.dirs.insert(ino, Dir::default());
                }
            }
        }
        self.inodes.join(facts.inodes);
        for ino in facts.new_value_inodes {
            self.inodes.change(ino, |known| known.flags |= known::EA);
        }
        self.xattr_blocks = facts.xattr_blocks;
        for page in 0..self.xattr_blocks.page_count() {
            for (block, _) in self.xattr_blocks.page(page) {
                let (first, count) = clusters_of(&self.geo, block, 1);
                let twice = &mut self.twice;
                self.used.insert(first, count, |a, n| twice.add(a, n));
            }
        }
        self.ea_refs = facts.ea_refs;
        self.policies = facts.policies;
        for ino in 1..self.geo.first_ino {
            if !self.inodes.is_used(ino) {
                let known = Known {
                    file_type: 1,
                    flags: known::SPECIAL,
                    ..Known::default()
                };
                self.inodes.set(ino, known);
            }
        }
        if facts.large_file
            && !self.geo.features.has_ro_compat(ro_compat::LARGE_FILE)
            && self.report.fix(Problem::LargeFileFeature, At::new())?
        {
            let bits = self.sb.features().ro_compat | ro_compat::LARGE_FILE;
            self.sb.set_feature_ro_compat(bits);
            self.geo.features = self.sb.features();
        }
        self.check_shared_xattrs()?;
        self.place_groups()?;
        self.rewrite_maps(facts.rewrites)
    }

    /// Maps with damaged index blocks are written anew, once it is known what is free.
    fn rewrite_maps(&mut self, rewrites: Vec<(u32, Vec<Run>)>) -> Result<()> {
        for (ino, runs) in rewrites {
            let mut raw = self.read_inode(ino)?;
            let old = crate::map::read(&self.image, &self.geo, &raw)?;
            self.replace_map(ino, &mut raw, &old, &runs)?;
            self.write_inode(ino, &mut raw)?;
        }
        Ok(())
    }

    /// Gives an inode a new map; old index blocks become free. Sets `i_blocks`.
    pub fn replace_map(
        &mut self,
        ino: u32,
        raw: &mut crate::inode::Raw,
        old: &crate::map::Map,
        runs: &[Run],
    ) -> Result<bool> {
        let image = &self.image;
        let mut free = crate::alloc::Free {
            used: &mut self.used,
            moved: &mut self.moved,
            geo: &self.geo,
            taken: Vec::new(),
        };
        let mut done = crate::mapedit::rewrite(image, &self.geo, ino, raw, runs, &mut free)?;
        if done.is_none() {
            for block in std::mem::take(&mut free.taken) {
                free.used
                    .remove(crate::alloc::cluster_of(&self.geo, block), 1);
            }
            let mut again = Reuse(old.meta.clone());
            done = crate::mapedit::rewrite(image, &self.geo, ino, raw, runs, &mut again)?;
        }
        let Some(meta) = done else {
            return Ok(false);
        };
        for block in &old.meta {
            let cluster = crate::alloc::cluster_of(&self.geo, *block);
            if !meta.contains(block)
                && !self.zones.contains(cluster)
                && !self.twice.contains(cluster)
            {
                self.released.push((cluster, 1));
            }
        }
        let new = crate::map::read(&self.image, &self.geo, raw)?;
        let extra = self.attribute_clusters(raw)?;
        let clusters = owner::clusters(&self.geo, &new);
        let count: u64 = clusters.iter().map(|run| run.1).sum();
        let shift = self.geo.cluster_ratio_bits + self.geo.block_bits - 9;
        raw.set_sectors(&self.geo, (count + extra) << shift);
        Ok(true)
    }

    fn make_root_if_missing(&mut self) -> Result<()> {
        if self.inode_place(2).is_none() {
            return Err(Stop::Unusable("the root inode has no place".to_owned()));
        }
        Ok(())
    }
}

struct Reuse(Vec<u64>);

impl crate::mapedit::Space for Reuse {
    fn block(&mut self, _near: u64) -> Option<u64> {
        self.0.pop()
    }
}

//! The hash index of a directory: its shape, and the range of hashes in each leaf.
//!
//! Source: the kernel's ext4 documentation, "Hash Tree Directories".
//! Invariants: a walk visits no block twice; giving an index up touches no entry of a leaf.

use super::Directory;
use crate::Result;
use crate::dirblock;
use crate::image::Image;
use crate::map::Map;
use crate::problem::{At, Problem};
use crate::session::Fsck;
use std::collections::{BTreeMap, HashSet};
use uext4::format::checksum::{self, BlockKind};
use uext4::format::dirhash::Hasher;
use uext4::format::geometry::Geometry;
use uext4::format::htree::{self, Node};
use uext4::ids::FsBlock;

pub struct Index {
    hasher: Option<Hasher>,
    leaves: BTreeMap<u64, Leaf>,
}

/// What the index says of a leaf, and what lies in it.
#[derive(Clone, Copy, Debug)]
struct Leaf {
    from: u32,
    /// The next leaf's first hash.
    to: u32,
    lowest: u32,
    highest: u32,
}

type Wrong = (Problem, &'static str, u64);

impl Fsck<'_, '_> {
    pub fn read_index(&mut self, dir: &mut Directory, map: &Map, blocks: u64) -> Result<()> {
        match self.walk_index(dir, map, blocks)? {
            Ok(index) => dir.index = Some(index),
            Err(wrong) => {
                self.refuse(dir, map, wrong)?;
            }
        }
        Ok(())
    }

    /// Which blocks hold the index, as far as it can be walked.
    pub fn find_nodes(&mut self, dir: &mut Directory, map: &Map, blocks: u64) -> Result<()> {
        self.walk_index(dir, map, blocks).map(|_| ())
    }

    fn refuse(
        &mut self,
        dir: &mut Directory,
        map: &Map,
        (problem, label, lblk): Wrong,
    ) -> Result<()> {
        let at = At::dir(dir.ino).lblk(lblk).label(label);
        if self.report.fix(problem, at)? {
            self.give_up_index(dir, map)?;
        }
        Ok(())
    }

    /// Makes the directory a linear one; leaves stay as they are.
    pub fn give_up_index(&mut self, dir: &mut Directory, map: &Map) -> Result<()> {
        self.clear_index_flag(dir.ino)?;
        self.rehash.insert(dir.ino);
        dir.index = None;
        for lblk in std::mem::take(&mut dir.nodes) {
            let Some(block) = map.find(lblk) else {
                continue;
            };
            if lblk != 0 {
                self.write_directory_block(dir, block, dirblock::empty(&self.geo))?;
            }
        }
        if let Some(block) = map.find(0) {
            let mut bytes = self.image.read(block)?.to_vec();
            let end = dirblock::end(&self.geo, bytes.len());
            if dirblock::rec_len(&bytes, 0) == 12
                && dirblock::rec_len(&bytes, 12) + 12 == bytes.len()
            {
                dirblock::set_rec_len(&mut bytes, 12, end - 12);
                bytes[24..].fill(0);
                if self.geo.features.metadata_csum() {
                    dirblock::put_tail(&mut bytes);
                }
                self.write_directory_block(dir, block, bytes)?;
            }
        }
        Ok(())
    }

    fn walk_index(
        &mut self,
        dir: &mut Directory,
        map: &Map,
        blocks: u64,
    ) -> Result<std::result::Result<Index, Wrong>> {
        let reader = Reader {
            image: &self.image,
            geo: &self.geo,
        };
        reader.walk(dir.seed, dir.casefold, &mut dir.nodes, map, blocks)
    }

    /// Once all leaves were read: every block has its place, every name is where its hash belongs.
    pub fn finish_index(&mut self, dir: &mut Directory, blocks: u64) -> Result<()> {
        let Some(index) = dir.index.take() else {
            return Ok(());
        };
        let mut wrong = None;
        for lblk in 1..blocks {
            if !dir.nodes.contains(&lblk) && !index.leaves.contains_key(&lblk) {
                wrong = Some(("block without a place", lblk));
            }
        }
        for (lblk, leaf) in &index.leaves {
            let any = leaf.lowest <= leaf.highest;
            if any && index.hasher.is_some() {
                let past = if leaf.to & 1 == 1 {
                    leaf.highest > leaf.to
                } else {
                    leaf.highest >= leaf.to
                };
                if leaf.lowest < leaf.from & !1 || past && leaf.to != u32::MAX {
                    wrong = Some(("hash", *lblk));
                }
            }
        }
        if dir.renamed {
            wrong = wrong.or(Some(("renamed entries", 0)));
        }
        if let Some((label, lblk)) = wrong {
            let raw = self.read_inode(dir.ino)?;
            let map = crate::map::read(&self.image, &self.geo, &raw)?;
            self.refuse(dir, &map, (Problem::HtreeIndex, label, lblk))?;
        }
        Ok(())
    }
}

/// Where an index is read from.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    pub image: &'a Image,
    pub geo: &'a Geometry,
}

impl Reader<'_> {
    /// Which blocks are nodes, also where the walk ends early; and what the index says of each leaf.
    pub fn walk(
        &self,
        seed: u32,
        casefold: bool,
        nodes: &mut HashSet<u64>,
        map: &Map,
        blocks: u64,
    ) -> Result<std::result::Result<Index, Wrong>> {
        let bad = |label, lblk| Ok(Err((Problem::HtreeIndex, label, lblk)));
        let Some(root) = map.find(0) else {
            return bad("no root", 0);
        };
        let bytes = self.image.read(root)?;
        let shape =
            dirblock::rec_len(&bytes, 0) == 12 && dirblock::rec_len(&bytes, 12) + 12 == bytes.len();
        if !shape {
            return bad("root", 0);
        }
        nodes.insert(0);
        let Ok((info, node)) = htree::parse_root(&bytes, self.geo) else {
            return bad("root", 0);
        };
        if self.sum_is_wrong(seed, root, &bytes) {
            return Ok(Err((Problem::HtreeChecksum, "root", 0)));
        }
        let known = matches!(info.hash_version, 0..=2) || info.hash_version == 6 && casefold;
        if !known {
            return bad("hash version", 0);
        }
        let hasher = if casefold {
            None
        } else {
            Hasher::new(self.geo, info.hash_version)
        };
        let mut walk = Walk {
            blocks,
            index: Index {
                hasher,
                leaves: BTreeMap::new(),
            },
        };
        let range = (0, u32::MAX);
        let levels = info.indirect_levels;
        if let Err(wrong) = self.node((seed, nodes), map, &mut walk, &bytes, node, levels, range)? {
            return Ok(Err(wrong));
        }
        Ok(Ok(walk.index))
    }

    fn sum_is_wrong(&self, seed: u32, block: u64, bytes: &[u8]) -> bool {
        let kind = BlockKind::Directory { seed };
        checksum::verify(kind, self.geo, FsBlock::new(block), bytes).is_err()
    }

    #[allow(clippy::too_many_arguments)] // the state of a recursion
    fn node(
        &self,
        (seed, nodes): (u32, &mut HashSet<u64>),
        map: &Map,
        walk: &mut Walk,
        bytes: &[u8],
        node: Node,
        levels: u8,
        (low, high): (u32, u32),
    ) -> Result<std::result::Result<(), Wrong>> {
        let mut before = low;
        for entry in 0..node.count() {
            let from = if entry == 0 {
                low
            } else {
                node.hash(bytes, entry).unwrap_or(low)
            };
            let to = if entry + 1 < node.count() {
                node.hash(bytes, entry + 1).unwrap_or(high)
            } else {
                high
            };
            let lblk = u64::from(node.child(bytes, entry).get());
            if entry > 0 && (from & !1) < (before & !1) || (to & !1) < (from & !1) {
                return Ok(Err((Problem::HtreeIndex, "order", lblk)));
            }
            before = from;
            if lblk == 0 || lblk >= walk.blocks {
                return Ok(Err((Problem::HtreeIndex, "block number", lblk)));
            }
            if levels == 0 {
                let leaf = Leaf {
                    from,
                    to,
                    lowest: u32::MAX,
                    highest: 0,
                };
                if nodes.contains(&lblk) || walk.index.leaves.insert(lblk, leaf).is_some() {
                    return Ok(Err((Problem::HtreeIndex, "block twice", lblk)));
                }
                continue;
            }
            let Some(block) = map.find(lblk) else {
                return Ok(Err((Problem::HtreeIndex, "hole", lblk)));
            };
            let child = self.image.read(block)?;
            let Ok(below) = htree::parse_node(&child, self.geo) else {
                return Ok(Err((Problem::HtreeIndex, "node", lblk)));
            };
            if !nodes.insert(lblk) {
                return Ok(Err((Problem::HtreeIndex, "block twice", lblk)));
            }
            if self.sum_is_wrong(seed, block, &child) {
                return Ok(Err((Problem::HtreeChecksum, "node", lblk)));
            }
            let range = (from, to);
            if let Err(wrong) =
                self.node((seed, nodes), map, walk, &child, below, levels - 1, range)?
            {
                return Ok(Err(wrong));
            }
        }
        Ok(Ok(()))
    }
}

impl Index {
    /// Every block is a node or a leaf.
    pub fn has_all(&self, nodes: &HashSet<u64>, blocks: u64) -> bool {
        (1..blocks).all(|lblk| nodes.contains(&lblk) || self.leaves.contains_key(&lblk))
    }

    /// A leaf of the index.
    pub fn place(&self, lblk: u64) -> Option<Place<'_>> {
        let leaf = *self.leaves.get(&lblk)?;
        let hasher = self.hasher.as_ref();
        Some(Place { leaf, hasher })
    }
}

/// Where names of some hashes belong.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    leaf: Leaf,
    hasher: Option<&'a Hasher>,
}

impl Place<'_> {
    pub fn is_of(&self, name: &[u8]) -> bool {
        let Some(hasher) = self.hasher else {
            return true;
        };
        let (hash, leaf) = (hasher.hash(name).hash, self.leaf);
        let past = match leaf.to & 1 {
            1 => hash > leaf.to,
            _ => hash >= leaf.to,
        };
        hash >= leaf.from & !1 && (!past || leaf.to == u32::MAX)
    }
}

struct Walk {
    blocks: u64,
    index: Index,
}

impl Directory {
    /// Widens the range of hashes of a leaf.
    pub fn note_hash(&mut self, lblk: u64, name: &[u8]) {
        let Some(index) = &mut self.index else {
            return;
        };
        let (Some(hasher), Some(leaf)) = (&index.hasher, index.leaves.get_mut(&lblk)) else {
            return;
        };
        let hash = hasher.hash(name).hash;
        leaf.lowest = leaf.lowest.min(hash);
        leaf.highest = leaf.highest.max(hash);
    }
}

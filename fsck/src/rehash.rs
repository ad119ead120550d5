//! Directories packed and indexed anew: those whose index was given up, and with `-D` all of more than a block.
//!
//! Source: the kernel's ext4 documentation, "Hash Tree Directories"; e2fsck(8), `-D`.
//! Invariants: the new blocks are ones that nothing uses, so that the old directory stays whole until its inode is
//! written; the old blocks become free at the end of the run. Without space a directory stays as it is.

use crate::dirblock;
use crate::image::Stage;
use crate::inode::Raw;
use crate::map::{Map, Run};
use crate::session::Fsck;
use crate::{Answer, Result};
use uext4::format::checksum::{self, BlockKind};
use uext4::format::dirhash::Hasher;
use uext4::format::features::compat;
use uext4::format::htree;
use uext4::format::inode::flag;
use uext4::ids::{FileBlock, FsBlock};

/// Room that stays free in a leaf of an index: one part of so many.
const SLACK: usize = 5;
const DOTS: usize = 24;

struct Entry {
    hash: u32,
    minor: u32,
    entry: dirblock::Entry,
}

impl Entry {
    fn size(&self) -> usize {
        dirblock::size_of(self.entry.name.len())
    }
}

/// A new directory: its blocks in order.
struct Built {
    blocks: Vec<Vec<u8>>,
    indexed: bool,
}

impl Fsck<'_, '_> {
    /// Pass 3A. Only what is written is rebuilt: a directory without an index is no damage.
    pub fn rehash(&mut self) -> Result<()> {
        if self.report.answer() == Answer::No {
            return Ok(());
        }
        let all = self.dirs.len() as u64;
        let mut done = 0;
        for page in 0..self.dirs.page_count() {
            for (ino, _) in self.dirs.page(page) {
                let ino = ino as u32;
                let other = self.options.optimize && self.lost_found != Some(ino);
                if other || self.rehash.contains(&ino) {
                    self.report.progress(3, done, all)?;
                    self.rebuild(ino)?;
                }
                done += 1;
            }
        }
        Ok(())
    }

    fn rebuild(&mut self, ino: u32) -> Result<()> {
        let mut raw = self.read_inode(ino)?;
        // Hashes of casefolded names need tables that are not here.
        let linear_only = flag::INLINE_DATA | flag::CASEFOLD;
        let blocks = raw.size() / u64::from(self.geo.block_size);
        if !raw.is_dir() || raw.flags() & linear_only != 0 || blocks < 2 {
            return Ok(());
        }
        let old = crate::map::read(&self.image, &self.geo, &raw)?;
        let data = Map {
            data: old.data.clone(),
            meta: Vec::new(),
        };
        let clusters = crate::pass1::clusters(&self.geo, &data);
        let own = |&(first, count): &(u64, u64)| {
            !self.twice.overlaps(first, count) && !self.zones.overlaps(first, count)
        };
        if !clusters.iter().all(own) {
            return Ok(());
        }
        let Some(built) = self.build(ino, &raw, &old)? else {
            return Ok(());
        };
        let near = old.data.first().map_or(0, |run| run.pblk);
        let Some(runs) = self.space(built.blocks.len() as u64, near) else {
            let text = format!("there is no space to rebuild directory {ino}");
            self.report.note(&text);
            return Ok(());
        };
        self.store(&raw, ino, &built, &runs)?;
        let size = built.blocks.len() as u64 * u64::from(self.geo.block_size);
        raw.clear_flag(flag::INDEX);
        if built.indexed {
            raw.set_flags(raw.flags() | flag::INDEX);
        }
        raw.set_size(size);
        if self.replace_map(ino, &mut raw, &old, &runs)? {
            self.write_inode(ino, &mut raw)?;
            self.released.extend(clusters);
        }
        Ok(())
    }

    /// `None` where the tree would be too deep.
    fn build(&self, ino: u32, raw: &Raw, old: &Map) -> Result<Option<Built>> {
        let version = self.hash_version(raw, old)?;
        let hasher = version.and_then(|version| Hasher::new(&self.geo, version));
        let hasher = hasher.unwrap_or_else(|| Hasher::default_of(&self.geo));
        let mut parent = self.dirs.get(ino).map_or(0, |dir| dir.dotdot);
        let mut entries = Vec::new();
        for block in self.directory_blocks(ino)? {
            let bytes = self.image.read(block)?;
            for entry in dirblock::entries(&self.geo, &bytes) {
                match entry.name.as_slice() {
                    b"." => {}
                    b".." => parent = entry.ino,
                    name => {
                        let hash = hasher.hash(name);
                        let (hash, minor) = (hash.hash, hash.minor);
                        entries.push(Entry { hash, minor, entry });
                    }
                }
            }
        }
        let end = dirblock::end(&self.geo, self.image.block_size());
        let all: usize = entries.iter().map(Entry::size).sum();
        let first = self.first_block(ino, parent);
        let indexed = DOTS + all > end && self.geo.features.has_compat(compat::DIR_INDEX);
        if !indexed {
            let blocks = self.pack(&entries, first);
            return Ok(Some(Built { blocks, indexed }));
        }
        entries.sort_by(|a, b| {
            (a.hash, a.minor, &a.entry.name).cmp(&(b.hash, b.minor, &b.entry.name))
        });
        let blocks = self.tree(&entries, first, hasher.algorithm().version());
        Ok(blocks.map(|blocks| Built { blocks, indexed }))
    }

    /// The version of an index that is there.
    fn hash_version(&self, raw: &Raw, map: &Map) -> Result<Option<u8>> {
        let Some(root) = map.find(0).filter(|_| raw.has(flag::INDEX)) else {
            return Ok(None);
        };
        let bytes = self.image.read(root)?;
        let parsed = htree::parse_root(&bytes, &self.geo);
        Ok(parsed.ok().map(|(info, _)| info.hash_version))
    }

    /// "." and ".." alone.
    fn first_block(&self, ino: u32, parent: u32) -> Vec<u8> {
        let mut bytes = dirblock::empty(&self.geo);
        let (end, kind) = (dirblock::end(&self.geo, bytes.len()), self.directory_type());
        dirblock::put(&mut bytes, 0, 12, ino, kind, b".");
        dirblock::put(&mut bytes, 12, end - 12, parent, kind, b"..");
        bytes
    }

    /// Entries one behind the other, as many in a block as there is room for.
    fn pack(&self, entries: &[Entry], first: Vec<u8>) -> Vec<Vec<u8>> {
        let mut blocks = vec![first];
        let mut left = entries;
        let mut at = DOTS;
        while !left.is_empty() {
            let count = self.fitting(left, at, 0);
            let (now, later) = left.split_at(count);
            if let Some(bytes) = blocks.last_mut() {
                self.fill(bytes, at, now);
            }
            left = later;
            at = 0;
            if !left.is_empty() {
                blocks.push(dirblock::empty(&self.geo));
            }
        }
        blocks
    }

    /// How many entries fit behind `at` when `slack` bytes stay free; one at least in an empty block.
    fn fitting(&self, entries: &[Entry], at: usize, slack: usize) -> usize {
        let end = dirblock::end(&self.geo, self.image.block_size()) - slack;
        let mut next = at;
        let fits = |entry: &&Entry| {
            next += entry.size();
            next <= end
        };
        let count = entries.iter().take_while(fits).count();
        count.max(usize::from(at == 0))
    }

    fn fill(&self, bytes: &mut [u8], at: usize, entries: &[Entry]) {
        let end = dirblock::end(&self.geo, bytes.len());
        let mut at = at;
        if at == DOTS && !entries.is_empty() {
            dirblock::set_rec_len(bytes, 12, 12);
        }
        for (index, one) in entries.iter().enumerate() {
            let last = index + 1 == entries.len();
            let length = if last { end - at } else { one.size() };
            let entry = &one.entry;
            dirblock::put(bytes, at, length, entry.ino, entry.file_type, &entry.name);
            at += length;
        }
    }

    /// Root, leaves, then nodes. Entries are in the order of their hashes.
    fn tree(&self, entries: &[Entry], root: Vec<u8>, version: u8) -> Option<Vec<Vec<u8>>> {
        let size = self.image.block_size();
        let mut blocks = vec![root];
        let mut children = Vec::new();
        let mut left = entries;
        let mut before = None;
        while let Some(first) = left.first() {
            let (now, later) = left.split_at(self.fitting(left, 0, size / SLACK));
            let goes_on = u32::from(before == Some(first.hash)) * htree::CONTINUED;
            children.push((first.hash | goes_on, FileBlock::new(blocks.len() as u32)));
            let mut bytes = dirblock::empty(&self.geo);
            self.fill(&mut bytes, 0, now);
            blocks.push(bytes);
            before = now.last().map(|entry| entry.hash);
            left = later;
        }
        let mut levels = 0;
        while children.len() > usize::from(htree::root_limit(&self.geo)) {
            levels += 1;
            if levels > htree::max_indirect_levels(&self.geo) {
                return None;
            }
            let mut upper = Vec::new();
            let mut left = children.as_slice();
            while let Some((&(hash, child), rest)) = left.split_first() {
                let mut bytes = vec![0; size];
                let node = htree::init_node(&mut bytes, &self.geo, child);
                left = add_children(&mut bytes, node, rest);
                upper.push((hash, FileBlock::new(blocks.len() as u32)));
                blocks.push(bytes);
            }
            children = upper;
        }
        let (&(_, child), rest) = children.split_first()?;
        let root = blocks.first_mut()?;
        let node = htree::init_root(root, &self.geo, version, child);
        add_children(root, node, rest);
        htree::set_indirect_levels(root, levels);
        Some(blocks)
    }

    fn store(&self, raw: &Raw, ino: u32, built: &Built, runs: &[Run]) -> Result<()> {
        let kind = BlockKind::Directory {
            seed: raw.seed(&self.geo, ino),
        };
        let places = runs.iter().flat_map(|run| run.pblk..run.pblk + run.len);
        for (block, bytes) in places.zip(&built.blocks) {
            let mut bytes = bytes.clone();
            checksum::stamp(kind, &self.geo, FsBlock::new(block), &mut bytes);
            self.image.write(block, bytes, Stage::Fresh)?;
        }
        Ok(())
    }
}

/// What did not fit is given back.
fn add_children<'a>(
    bytes: &mut [u8],
    mut node: htree::Node,
    children: &'a [(u32, FileBlock)],
) -> &'a [(u32, FileBlock)] {
    let mut left = children;
    while let Some((&(hash, child), rest)) = left.split_first()
        && !node.is_full()
    {
        node.insert_after(bytes, node.count() - 1, hash, child);
        left = rest;
    }
    left
}

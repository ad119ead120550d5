//! Index blocks of a hash tree: `dx_root` and `dx_node`, which look like directory blocks to those who cannot read them.
//!
//! Source: the kernel's ext4 documentation, "Hash Tree Directories".
//! Invariants: 1 <= count <= limit, and the limit is what the block's size and checksum tail allow; hashes ascend within a
//! node; the first entry of a node has no hash of its own (count and limit stand in its place).

use crate::error::{CorruptKind, Error, Location, Result, Structure};
use crate::format::dirent;
use crate::format::features::incompat;
use crate::format::geometry::Geometry;
use crate::format::raw;
use crate::ids::FileBlock;

/// Where `dx_root_info` starts, behind the entries "." and "..".
const INFO: usize = 24;
const INFO_LENGTH: u8 = 8;
const ROOT_ENTRIES: usize = 32;
const NODE_ENTRIES: usize = 8;
/// Bytes of one index entry, and of the checksum tail behind the last.
const ENTRY: usize = 8;
/// Bits of a file block in an entry; the upper four are reserved.
const BLOCK_MASK: u32 = 0x0fff_ffff;
/// Set in an entry's hash when its leaf goes on with the last hash of the leaf before.
pub const CONTINUED: u32 = 1;

/// What the root says about the whole tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootInfo {
    pub hash_version: u8,
    /// Levels of nodes below the root.
    pub indirect_levels: u8,
}

/// The entries of one index block; the bytes are passed to each method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    at: usize,
    count: u16,
    limit: u16,
}

/// The most levels that the tree may have below its root.
pub fn max_indirect_levels(geo: &Geometry) -> u8 {
    if geo.features.has_incompat(incompat::LARGEDIR) {
        2
    } else {
        1
    }
}

/// Reads the first block of an indexed directory.
pub fn parse_root(bytes: &[u8], geo: &Geometry) -> Result<(RootInfo, Node)> {
    let info = |at: usize| raw::u8_at(bytes, INFO.saturating_add(at));
    let reserved = raw::le32(bytes, INFO);
    let [hash_version, info_length, indirect_levels, unused_flags] =
        [info(4), info(5), info(6), info(7)];
    if reserved != 0 {
        return Err(bad("reserved_zero", reserved.into(), INFO));
    }
    if unused_flags & 1 != 0 {
        return Err(bad("unused_flags", unused_flags.into(), INFO));
    }
    if info_length != INFO_LENGTH {
        return Err(bad("info_length", info_length.into(), INFO));
    }
    if indirect_levels > max_indirect_levels(geo) {
        return Err(bad("indirect_levels", indirect_levels.into(), INFO));
    }
    Ok((
        RootInfo {
            hash_version,
            indirect_levels,
        },
        Node::parse(bytes, geo, ROOT_ENTRIES)?,
    ))
}

/// Reads an index block below the root.
pub fn parse_node(bytes: &[u8], geo: &Geometry) -> Result<Node> {
    let rec_len = raw::le16(bytes, 4);
    if raw::le32(bytes, 0) != 0 || !(usize::from(rec_len) == bytes.len() || bytes.len() > 0xffff) {
        return Err(bad("rec_len", rec_len.into(), 0));
    }
    Node::parse(bytes, geo, NODE_ENTRIES)
}

/// Turns a directory's first block into a root over one leaf. "." and ".." stay, what else it held is gone.
pub fn init_root(bytes: &mut [u8], geo: &Geometry, hash_version: u8, leaf: FileBlock) -> Node {
    let size = bytes.len();
    if let Some(rest) = bytes.get_mut(INFO..) {
        rest.fill(0);
    }
    raw::put_le16(
        bytes,
        16,
        u16::try_from(size.saturating_sub(12)).unwrap_or(u16::MAX),
    );
    for (at, value) in [(4, hash_version), (5, INFO_LENGTH)] {
        if let Some(byte) = bytes.get_mut(INFO.saturating_add(at)) {
            *byte = value;
        }
    }
    Node::init(bytes, geo, ROOT_ENTRIES, leaf)
}

/// Makes an index block below the root, over one child.
pub fn init_node(bytes: &mut [u8], geo: &Geometry, child: FileBlock) -> Node {
    bytes.fill(0);
    raw::put_le16(bytes, 4, u16::try_from(bytes.len()).unwrap_or(u16::MAX));
    Node::init(bytes, geo, NODE_ENTRIES, child)
}

pub fn set_indirect_levels(root: &mut [u8], levels: u8) {
    if let Some(byte) = root.get_mut(INFO.saturating_add(6)) {
        *byte = levels;
    }
}

impl Node {
    fn parse(bytes: &[u8], geo: &Geometry, at: usize) -> Result<Self> {
        let (limit, count) = (raw::le16(bytes, at), raw::le16(bytes, at.saturating_add(2)));
        let expected = limit_of(bytes.len(), geo, at);
        if limit != expected {
            let kind = CorruptKind::Mismatch {
                what: Structure::DirectoryIndex,
                field: "limit",
                found: limit.into(),
                expected: expected.into(),
            };
            return Err(Error::corrupt(kind, at_offset(at)));
        }
        if count == 0 || count > limit {
            return Err(bad("count", count.into(), at));
        }
        Ok(Self { at, count, limit })
    }

    fn init(bytes: &mut [u8], geo: &Geometry, at: usize, child: FileBlock) -> Self {
        let mut node = Self {
            at,
            count: 1,
            limit: limit_of(bytes.len(), geo, at),
        };
        raw::put_le16(bytes, at, node.limit);
        node.set_count(bytes, 1);
        raw::put_le32(bytes, at.saturating_add(4), child.get());
        node
    }

    pub fn count(&self) -> usize {
        usize::from(self.count)
    }

    pub fn is_full(&self) -> bool {
        self.count >= self.limit
    }

    fn entry(&self, index: usize) -> usize {
        self.at.saturating_add(index.saturating_mul(ENTRY))
    }

    /// The lowest hash below entry `index`, its lowest bit the mark of continuation; `None` for the first and
    /// beyond the last.
    pub fn hash(&self, bytes: &[u8], index: usize) -> Option<u32> {
        (index > 0 && index < self.count()).then(|| raw::le32(bytes, self.entry(index)))
    }

    /// The child of entry `index`.
    pub fn child(&self, bytes: &[u8], index: usize) -> FileBlock {
        FileBlock::new(raw::le32(bytes, self.entry(index).saturating_add(4)) & BLOCK_MASK)
    }

    /// The last entry whose hash is not above `hash`.
    pub fn search(&self, bytes: &[u8], hash: u32) -> usize {
        let (mut low, mut high) = (1, self.count());
        while low < high {
            let middle = low.midpoint(high);
            if raw::le32(bytes, self.entry(middle)) > hash {
                high = middle;
            } else {
                low = middle.saturating_add(1);
            }
        }
        low.saturating_sub(1)
    }

    /// Adds an entry behind entry `index`. The node must not be full.
    pub fn insert_after(&mut self, bytes: &mut [u8], index: usize, hash: u32, child: FileBlock) {
        let at = self.entry(index.saturating_add(1));
        let end = self.entry(self.count());
        if self.is_full() || at > end || end.saturating_add(ENTRY) > bytes.len() {
            return;
        }
        bytes.copy_within(at..end, at.saturating_add(ENTRY));
        raw::put_le32(bytes, at, hash);
        raw::put_le32(bytes, at.saturating_add(4), child.get());
        self.set_count(bytes, self.count.saturating_add(1));
    }

    /// Moves the upper half of the entries into a new node's bytes. Returns the hash that separates the two, and
    /// the new node. The node must hold at least two entries.
    pub fn split(&mut self, bytes: &mut [u8], geo: &Geometry, upper: &mut [u8]) -> (u32, Node) {
        let stay = self.count().div_ceil(2);
        let hash = raw::le32(bytes, self.entry(stay));
        let mut node = init_node(upper, geo, self.child(bytes, stay));
        let moved = bytes
            .get(self.entry(stay.saturating_add(1))..self.entry(self.count()))
            .unwrap_or(&[]);
        node.append(upper, moved);
        self.set_count(bytes, u16::try_from(stay).unwrap_or(self.count));
        (hash, node)
    }

    /// Moves all entries of a root into a new node, which becomes the root's only child.
    pub fn push_down(
        &mut self,
        root: &mut [u8],
        geo: &Geometry,
        node_bytes: &mut [u8],
        node_block: FileBlock,
    ) -> Node {
        let mut node = init_node(node_bytes, geo, self.child(root, 0));
        let moved = root
            .get(self.entry(1)..self.entry(self.count()))
            .unwrap_or(&[]);
        node.append(node_bytes, moved);
        self.set_count(root, 1);
        raw::put_le32(root, self.entry(0).saturating_add(4), node_block.get());
        node
    }

    fn append(&mut self, bytes: &mut [u8], entries: &[u8]) {
        let at = self.entry(self.count());
        if let Some(place) = bytes.get_mut(at..at.saturating_add(entries.len())) {
            place.copy_from_slice(entries);
            let added = u16::try_from(entries.len().checked_div(ENTRY).unwrap_or(0)).unwrap_or(0);
            self.set_count(bytes, self.count.saturating_add(added));
        }
    }

    fn set_count(&mut self, bytes: &mut [u8], count: u16) {
        self.count = count;
        raw::put_le16(bytes, self.at.saturating_add(2), count);
    }
}

fn limit_of(size: usize, geo: &Geometry, at: usize) -> u16 {
    let tail = if geo.features.metadata_csum() {
        ENTRY
    } else {
        0
    };
    let room = size.saturating_sub(at).saturating_sub(tail);
    u16::try_from(room.checked_div(ENTRY).unwrap_or(0)).unwrap_or(u16::MAX)
}

/// Entries that the root of a tree in these blocks can hold.
pub fn root_limit(geo: &Geometry) -> u16 {
    limit_of(dirent::block_size(geo), geo, ROOT_ENTRIES)
}

fn at_offset(at: usize) -> Location {
    Location::default().with_offset(u64::try_from(at).unwrap_or(u64::MAX))
}

fn bad(field: &'static str, found: u64, at: usize) -> Error {
    Error::corrupt(
        CorruptKind::Field {
            what: Structure::DirectoryIndex,
            field,
            found,
        },
        at_offset(at),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::dirent::tests::{geometry, made_directory};
    use crate::format::dirhash::Hasher;

    #[test]
    fn every_name_of_a_made_index_is_in_its_leaf() {
        for (features, checksums) in [("metadata_csum", true), ("^metadata_csum", false)] {
            let mut geo = geometry(1024, checksums);
            let (bytes, seed) = made_directory(3000, &["-b", "1024", "-O", features]);
            geo.hash_seed = seed;
            let block = |index: usize| &bytes[index * 1024..][..1024];
            let (info, root) = parse_root(block(0), &geo).unwrap();
            assert_eq!((info.hash_version, info.indirect_levels), (1, 0));
            let hasher = Hasher::new(&geo, info.hash_version).unwrap();
            for index in 0..3000 {
                let name = format!("name-{index}");
                let at = root.search(block(0), hasher.hash(name.as_bytes()).hash);
                let leaf = usize::try_from(root.child(block(0), at).get()).unwrap();
                assert!(
                    dirent::find(block(leaf), &geo, name.as_bytes())
                        .unwrap()
                        .is_some(),
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn nodes_keep_their_entries_when_they_split_and_sink() {
        let geo = geometry(1024, true);
        let mut root = vec![0; 1024];
        dirent::init_first(&mut root, &geo, 11, 2, 2);
        let mut node = init_root(&mut root, &geo, 1, FileBlock::new(1));
        let mut next = 2;
        while !node.is_full() {
            let at = node.search(&root, next * 2);
            node.insert_after(&mut root, at, next * 2, FileBlock::new(next));
            next += 1;
        }
        assert_eq!(next - 1, u32::from(root_limit(&geo)));
        let mut below = vec![0; 1024];
        let mut child = node.push_down(&mut root, &geo, &mut below, FileBlock::new(500));
        set_indirect_levels(&mut root, 1);
        let (info, node) = parse_root(&root, &geo).unwrap();
        assert_eq!(
            (info.indirect_levels, node.count(), node.child(&root, 0)),
            (1, 1, FileBlock::new(500))
        );
        let mut upper = vec![0; 1024];
        let (hash, high) = child.split(&mut below, &geo, &mut upper);
        assert_eq!(child.count() + high.count(), usize::from(root_limit(&geo)));
        for block in 2..next {
            let (node, bytes) = if block * 2 >= hash {
                (high, &upper)
            } else {
                (child, &below)
            };
            assert_eq!(parse_node(bytes, &geo).unwrap(), node);
            assert_eq!(
                node.child(bytes, node.search(bytes, block * 2 + 1)),
                FileBlock::new(block)
            );
        }
    }

    #[test]
    fn a_wrong_limit_or_count_is_refused() {
        let geo = geometry(1024, true);
        let mut bytes = vec![0; 1024];
        init_node(&mut bytes, &geo, FileBlock::new(1));
        assert!(parse_node(&bytes, &geo).is_ok());
        for (at, value) in [(8, 127), (10, 0), (10, 127), (4, 12)] {
            let mut bytes = bytes.clone();
            raw::put_le16(&mut bytes, at, value);
            assert!(parse_node(&bytes, &geo).is_err(), "{value} at {at}");
        }
    }
}

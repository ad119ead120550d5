//! The quota files of a new file system: who owns its two directories.
//!
//! Source: the kernel's quota format vfsv1 (quota tree, revision 1).
//! Invariants: blocks of 1024 bytes; all entries fit into one leaf.

use crate::format::raw::{put_le16, put_le32, put_le64};
use std::collections::BTreeMap;

/// Blocks of the tree, whatever the file system's are.
pub const BLOCK: usize = 1024;
const MAGICS: [u32; 3] = [0xd9c0_1f11, 0xd9c0_1927, 0xd9c0_3f14];
const VERSION: u32 = 1;
/// Seconds over the soft limit that are forgiven.
const GRACE: u32 = 7 * 24 * 3600;
const ROOT: u32 = 1;
/// Levels of index blocks, a byte of the id each.
const DEPTH: u32 = 4;
const LEAF_HEADER: usize = 16;
const ENTRY: usize = 72;

/// What one id owns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub inodes: u64,
    pub bytes: u64,
}

/// The contents of a quota file; `kind` is 0 for users, 1 for groups, 2 for projects.
pub fn file(kind: usize, usage: &BTreeMap<u32, Usage>) -> Vec<u8> {
    let mut tree = Tree {
        bytes: vec![0; BLOCK * (ROOT as usize + 1)],
    };
    let mut leaf = None;
    for (index, (&id, &used)) in usage.iter().enumerate() {
        let leaf = tree.insert(id, &mut leaf);
        tree.put_entry(leaf, index, id, used);
    }
    let blocks = (tree.bytes.len() / BLOCK) as u32;
    let header = [MAGICS[kind], VERSION, GRACE, GRACE, 0, blocks, 0];
    for (index, value) in header.into_iter().enumerate() {
        put_le32(&mut tree.bytes, index * 4, value);
    }
    // The leaf has room for more.
    put_le32(&mut tree.bytes, 28, leaf.unwrap_or(0));
    tree.bytes
}

struct Tree {
    bytes: Vec<u8>,
}

impl Tree {
    /// Makes the path to the leaf of `id`, and the leaf itself when there is none yet.
    fn insert(&mut self, id: u32, leaf: &mut Option<u32>) -> u32 {
        let mut block = ROOT;
        for level in 0..DEPTH {
            let slot = (id >> (8 * (DEPTH - 1 - level)) & 0xff) as usize;
            let at = block as usize * BLOCK + slot * 4;
            let next = u32::from_le_bytes(self.bytes[at..at + 4].try_into().unwrap_or([0; 4]));
            block = if next != 0 {
                next
            } else if level + 1 == DEPTH {
                *leaf.get_or_insert_with(|| self.grow())
            } else {
                self.grow()
            };
            put_le32(&mut self.bytes, at, block);
        }
        block
    }

    fn grow(&mut self) -> u32 {
        let block = self.bytes.len() / BLOCK;
        self.bytes.resize((block + 1) * BLOCK, 0);
        block as u32
    }

    /// No limits, only what is in use.
    fn put_entry(&mut self, leaf: u32, index: usize, id: u32, used: Usage) {
        let leaf = leaf as usize * BLOCK;
        put_le16(&mut self.bytes, leaf + 8, index as u16 + 1);
        let at = leaf + LEAF_HEADER + index * ENTRY;
        put_le32(&mut self.bytes, at, id);
        put_le64(&mut self.bytes, at + 24, used.inodes);
        put_le64(&mut self.bytes, at + 48, used.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_share_their_path_and_the_leaf() {
        let used = Usage {
            inodes: 1,
            bytes: 1024,
        };
        let usage = BTreeMap::from([(0, used), (1000, used)]);
        let file = file(0, &usage);
        // Header, root, three index blocks and the leaf; a fourth index block for the third byte of 1000.
        assert_eq!(file.len(), 7 * BLOCK);
        assert_eq!(file[5 * BLOCK + 8], 2);
        let entry = 5 * BLOCK + LEAF_HEADER + ENTRY;
        assert_eq!(file[entry..entry + 4], 1000_u32.to_le_bytes());
    }
}

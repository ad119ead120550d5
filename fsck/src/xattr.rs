//! Extended attributes, entry by entry, with what is wrong with them.
//!
//! Source: the kernel's ext4 documentation, "Extended Attributes".
//! Invariants: an entry is given out only when its name and value lie inside the area and overlap nothing.

use uext4::format::raw::{le16, le32, u8_at};
use uext4::format::xattr::{entry_hash, entry_hash_signed};

pub use uext4::format::xattr::MAGIC;

pub const HEADER: usize = 32;
const ENTRY: usize = 16;

/// Index and name of the attribute with inline data.
pub const SYSTEM: u8 = 7;
/// Index of the encryption context, named "c".
pub const ENCRYPTION: u8 = 9;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub index: u8,
    pub name: Vec<u8>,
    pub value_inode: u32,
    pub size: u32,
    pub hash: u32,
    /// Empty when the value is in an inode.
    pub value: Vec<u8>,
    /// Where the entry starts in the area.
    pub at: usize,
}

impl Entry {
    pub fn is_inline_data(&self) -> bool {
        self.index == SYSTEM && self.name == b"data"
    }

    pub fn is_encryption(&self) -> bool {
        self.index == ENCRYPTION && self.name == b"c"
    }

    /// Whether the hash fits name and value (0 is "none").
    pub fn hash_is_right(&self) -> bool {
        self.hash == 0
            || self.value_inode != 0
            || self.hash == entry_hash(&self.name, &self.value)
            || self.hash == entry_hash_signed(&self.name, &self.value)
    }
}

/// What is wrong, in two words.
pub type Wrong = &'static str;

/// Entries from `start` of `area`; offsets of values count from the area's first byte plus `base`.
pub fn parse(area: &[u8], start: usize, base: usize) -> Result<Vec<Entry>, Wrong> {
    let mut entries = Vec::new();
    let mut at = start;
    let mut taken = Taken::default();
    if !taken.claim(0, start) {
        return Err("overlap");
    }
    loop {
        if at + 4 > area.len() {
            return Err("no end");
        }
        if le32(area, at) == 0 {
            return if taken.claim(at, 4) {
                Ok(entries)
            } else {
                Err("overlap")
            };
        }
        let name_len = usize::from(u8_at(area, at));
        let length = (ENTRY + name_len).next_multiple_of(4);
        if at + length > area.len() {
            return Err("name too long");
        }
        if area[at + ENTRY..at + ENTRY + name_len].contains(&0) {
            return Err("name");
        }
        if !taken.claim(at, length) {
            return Err("overlap");
        }
        let size = le32(area, at + 8);
        let offset = usize::from(le16(area, at + 2));
        let value_inode = le32(area, at + 4);
        if value_inode == 0 && !offset.is_multiple_of(4) {
            return Err("value place");
        }
        let mut value = Vec::new();
        if value_inode == 0 && size > 0 {
            let from = offset.checked_sub(base).ok_or("value outside")?;
            let len = size as usize;
            let end = from.checked_add(len).ok_or("value outside")?;
            value = area.get(from..end).ok_or("value outside")?.to_vec();
            if from % 4 != 0 || !taken.claim(from, len.next_multiple_of(4)) {
                return Err("overlap");
            }
        }
        entries.push(Entry {
            index: u8_at(area, at + 1),
            name: area[at + ENTRY..at + ENTRY + name_len].to_vec(),
            value_inode,
            size,
            hash: le32(area, at + 12),
            value,
            at,
        });
        at += length;
    }
}

/// Byte ranges that something lies in.
#[derive(Default)]
struct Taken(std::collections::BTreeMap<usize, usize>);

impl Taken {
    fn claim(&mut self, from: usize, len: usize) -> bool {
        let end = from + len;
        if len == 0 {
            return true;
        }
        let before = self.0.range(..end).next_back();
        if before.is_some_and(|(_, last)| *last > from) {
            return false;
        }
        self.0.insert(from, end);
        true
    }
}

/// The attribute area of an inode (behind the magic number), if there is one.
pub fn inode_area(bytes: &[u8]) -> Option<&[u8]> {
    if bytes.len() <= 128 {
        return None;
    }
    let extra = usize::from(le16(bytes, 0x80));
    let start = 128 + extra;
    if extra == 0 || start + 8 > bytes.len() || le32(bytes, start) != MAGIC {
        return None;
    }
    bytes.get(start + 4..)
}

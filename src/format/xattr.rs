//! Extended attributes as bytes: entries and values in an inode's extra space or in a block.
//!
//! Source: the kernel's ext4 documentation, "Extended Attributes".
//! Invariants: an `Attribute` from disk has a name without NUL and a value inside of its area, behind the
//! entries; `write_inode` and `write_block` write exactly what `parse_inode` and `parse_block` read.

use crate::error::{CorruptKind, Error, Location, Posix, Result, Structure};
use crate::format::checksum::crc32c;
use crate::format::raw::{le16, le32, put_le16, put_le32, u8_at};
use crate::ids::InodeNumber;

pub const MAGIC: u32 = 0xea02_0000;
/// Bytes of a block's header.
pub const BLOCK_HEADER: usize = 32;
/// The most inodes that share a block.
pub const REFCOUNT_MAX: u32 = 1024;
const ENTRY: usize = 16;
/// The four zero bytes behind the last entry.
const END_MARK: usize = 4;
const OLD_INODE_SIZE: usize = 128;

/// `e_name_index`.
pub mod index {
    pub const USER: u8 = 1;
    pub const ACL_ACCESS: u8 = 2;
    pub const ACL_DEFAULT: u8 = 3;
    pub const TRUSTED: u8 = 4;
    pub const SECURITY: u8 = 6;
    pub const SYSTEM: u8 = 7;
    pub const RICHACL: u8 = 8;
}

/// Where inline data beyond the 60 bytes of `i_block` lives: index `SYSTEM` and this name.
pub const INLINE_DATA_NAME: &[u8] = b"data";

const PREFIXES: [(u8, &[u8]); 3] = [
    (index::USER, b"user."),
    (index::TRUSTED, b"trusted."),
    (index::SECURITY, b"security."),
];
const WHOLE: [(u8, &[u8]); 3] = [
    (index::ACL_ACCESS, b"system.posix_acl_access"),
    (index::ACL_DEFAULT, b"system.posix_acl_default"),
    (index::RICHACL, b"system.richacl"),
];

/// A full name as index and suffix. OpNotSupp for a name space that ext4 does not have, Inval for an empty suffix,
/// Range for one over 255 bytes.
pub fn split_name(name: &[u8]) -> Result<(u8, &[u8])> {
    if let Some((index, _)) = WHOLE.iter().find(|(_, whole)| *whole == name) {
        return Ok((*index, &[]));
    }
    let found = PREFIXES
        .iter()
        .find_map(|(index, prefix)| Some((*index, name.strip_prefix(*prefix)?)));
    match found {
        None => Err(Posix::OpNotSupp.into()),
        Some((_, [])) => Err(Posix::Inval.into()),
        Some((_, suffix)) if suffix.len() > 255 => Err(Posix::Range.into()),
        Some((_, suffix)) if suffix.contains(&0) => Err(Posix::Inval.into()),
        Some(found) => Ok(found),
    }
}

/// The full name; `None` for one that users never see.
pub fn full_name(index: u8, suffix: &[u8]) -> Option<Vec<u8>> {
    if let Some((_, whole)) = WHOLE.iter().find(|(whole, _)| *whole == index) {
        return suffix.is_empty().then(|| whole.to_vec());
    }
    let (_, prefix) = PREFIXES.iter().find(|(prefix, _)| *prefix == index)?;
    Some([prefix, suffix].concat())
}

/// Where a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Bytes(Vec<u8>),
    /// In the data of an inode of its own (`ea_inode`). `hash` is the entry's.
    Inode {
        ino: InodeNumber,
        size: u32,
        hash: u32,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    pub index: u8,
    /// Without the prefix that the index stands for.
    pub name: Vec<u8>,
    pub value: Value,
}

impl Attribute {
    pub fn is(&self, index: u8, name: &[u8]) -> bool {
        self.index == index && self.name == name
    }

    pub fn is_inline_data(&self) -> bool {
        self.is(index::SYSTEM, INLINE_DATA_NAME)
    }

    fn value_bytes(&self) -> &[u8] {
        match &self.value {
            Value::Bytes(bytes) => bytes,
            Value::Inode { .. } => &[],
        }
    }

    fn entry_size(&self) -> usize {
        ENTRY.saturating_add(padded(self.name.len()))
    }

    /// A block's order.
    fn key(&self) -> (u8, usize, &[u8]) {
        (self.index, self.name.len(), &self.name)
    }
}

/// Bytes that attributes take, entries, values and end mark together.
pub fn area_size(attributes: &[Attribute]) -> usize {
    attributes.iter().fold(END_MARK, |sum, attribute| {
        sum.saturating_add(attribute.entry_size())
            .saturating_add(padded(attribute.value_bytes().len()))
    })
}

fn padded(len: usize) -> usize {
    len.saturating_add(3) & !3
}

/// `e_hash`: of the name and of the value's little-endian words (padded with zeros).
pub fn entry_hash(name: &[u8], value: &[u8]) -> u32 {
    value_hash(name_hash(name, |byte| u32::from(*byte)), value)
}

/// The variant that machines with signed characters used to write. It differs only for names with bytes above 127.
pub fn entry_hash_signed(name: &[u8], value: &[u8]) -> u32 {
    value_hash(
        name_hash(name, |byte| i32::from(byte.cast_signed()).cast_unsigned()),
        value,
    )
}

fn name_hash(name: &[u8], widen: impl Fn(&u8) -> u32) -> u32 {
    name.iter()
        .fold(0u32, |hash, byte| hash.rotate_left(5) ^ widen(byte))
}

fn value_hash(seed: u32, value: &[u8]) -> u32 {
    value.chunks(4).fold(seed, |hash, chunk| {
        let mut word = [0; 4];
        for (to, from) in word.iter_mut().zip(chunk) {
            *to = *from;
        }
        hash.rotate_left(16) ^ u32::from_le_bytes(word)
    })
}

/// The hash of a value inode's contents, which stands in its access time and, hashed again with the name, in `e_hash`.
pub fn value_inode_hash(csum_seed: u32, value: &[u8]) -> u32 {
    crc32c(csum_seed, value)
}

/// The bytes of an inode behind its used extra fields, magic number included; `None` when it has no room at all.
fn inode_area(inode: &[u8]) -> Option<std::ops::Range<usize>> {
    let extra = usize::from(le16(inode, OLD_INODE_SIZE));
    let start = OLD_INODE_SIZE.checked_add(extra)?;
    let room = inode.len().checked_sub(start)?;
    (inode.len() > OLD_INODE_SIZE && extra > 0 && extra.is_multiple_of(4) && room >= 4 + END_MARK)
        .then_some(start..inode.len())
}

/// How many bytes of attributes (`area_size`) fit into this inode.
pub fn inode_room(inode: &[u8]) -> usize {
    inode_area(inode).map_or(0, |area| area.len().saturating_sub(4))
}

/// The attributes in an inode's raw bytes.
pub fn parse_inode(inode: &[u8]) -> Result<Vec<Attribute>> {
    let Some(area) = inode_area(inode).and_then(|area| inode.get(area)) else {
        return Ok(Vec::new());
    };
    match area.split_at_checked(4) {
        Some((magic, entries)) if le32(magic, 0) == MAGIC => {
            parse_area(entries, 0, Structure::XattrInode)
        }
        _ => Ok(Vec::new()),
    }
}

/// Writes an inode's attributes; `false` when they do not fit (nothing is changed then).
#[must_use]
pub fn write_inode(inode: &mut [u8], attributes: &[Attribute]) -> bool {
    if area_size(attributes) > inode_room(inode) {
        return attributes.is_empty();
    }
    let Some(area) = inode_area(inode).and_then(|area| inode.get_mut(area)) else {
        return attributes.is_empty();
    };
    area.fill(0);
    if attributes.is_empty() {
        return true;
    }
    put_le32(area, 0, MAGIC);
    if let Some(entries) = area.get_mut(4..) {
        write_area(entries, 0, attributes.iter(), false);
    }
    true
}

/// A block of attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XattrBlock {
    /// How many inodes share it, at least 1.
    pub refcount: u32,
    pub attributes: Vec<Attribute>,
}

/// Parses a block; its checksum is the cache's matter.
pub fn parse_block(block: &[u8]) -> Result<XattrBlock> {
    let what = Structure::XattrBlock;
    let magic = le32(block, 0);
    if magic != MAGIC {
        return Err(Error::corrupt(
            CorruptKind::Magic {
                what,
                found: magic,
                expected: MAGIC,
            },
            Location::default(),
        ));
    }
    if le32(block, 8) != 1 {
        return Err(field(what, "h_blocks", u64::from(le32(block, 8)), 8));
    }
    let refcount = le32(block, 4);
    if refcount == 0 || refcount > REFCOUNT_MAX {
        return Err(field(what, "h_refcount", u64::from(refcount), 4));
    }
    Ok(XattrBlock {
        refcount,
        attributes: parse_area(block, BLOCK_HEADER, what)?,
    })
}

/// Changes only the number of inodes that share a block.
pub fn set_refcount(block: &mut [u8], refcount: u32) {
    put_le32(block, 4, refcount);
}

/// How many bytes of attributes (`area_size`) fit into a block.
pub fn block_room(block_size: usize) -> usize {
    block_size.saturating_sub(BLOCK_HEADER)
}

/// Writes a block that one inode owns; `false` when the attributes do not fit (nothing is changed then). The checksum
/// is the cache's matter.
#[must_use]
pub fn write_block(block: &mut [u8], attributes: &[Attribute]) -> bool {
    if area_size(attributes) > block_room(block.len()) {
        return false;
    }
    let mut sorted: Vec<&Attribute> = attributes.iter().collect();
    sorted.sort_by(|a, b| a.key().cmp(&b.key()));
    block.fill(0);
    put_le32(block, 0, MAGIC);
    put_le32(block, 4, 1);
    put_le32(block, 8, 1);
    let hash = write_area(block, BLOCK_HEADER, sorted.into_iter(), true);
    put_le32(block, 12, hash);
    true
}

/// Parses entries from `first` on; value offsets count from the area's start.
fn parse_area(area: &[u8], first: usize, what: Structure) -> Result<Vec<Attribute>> {
    let mut found = Vec::new();
    let mut lowest_value = area.len();
    let mut at = first;
    loop {
        if area.len().saturating_sub(at) < END_MARK {
            return Err(field(
                what,
                "entries",
                u64::try_from(found.len()).unwrap_or(0),
                at,
            ));
        }
        if le32(area, at) == 0 {
            break;
        }
        let name_at = at.saturating_add(ENTRY);
        let name_len = usize::from(u8_at(area, at));
        let Some(name) = area
            .get(name_at..name_at.saturating_add(name_len))
            .filter(|name| !name.contains(&0))
        else {
            return Err(field(what, "e_name_len", u64::from(u8_at(area, at)), at));
        };
        let (value, offset) = parse_value(area, at, what)?;
        lowest_value = lowest_value.min(offset);
        found.push(Attribute {
            index: u8_at(area, at.saturating_add(1)),
            name: name.to_vec(),
            value,
        });
        at = name_at.saturating_add(padded(name_len));
    }
    if lowest_value < at.saturating_add(END_MARK) {
        return Err(field(
            what,
            "e_value_offs",
            u64::try_from(lowest_value).unwrap_or(0),
            at,
        ));
    }
    Ok(found)
}

/// The value of the entry at `at`, and where it starts (the area's end for one that is not inside).
fn parse_value(area: &[u8], at: usize, what: Structure) -> Result<(Value, usize)> {
    let size = le32(area, at.saturating_add(8));
    let ino = le32(area, at.saturating_add(4));
    if ino != 0 {
        let hash = le32(area, at.saturating_add(12));
        return Ok((
            Value::Inode {
                ino: InodeNumber::new(ino),
                size,
                hash,
            },
            area.len(),
        ));
    }
    if size == 0 {
        return Ok((Value::Bytes(Vec::new()), area.len()));
    }
    let offset = usize::from(le16(area, at.saturating_add(2)));
    let len = usize::try_from(size).unwrap_or(usize::MAX);
    let padded_end = offset.saturating_add(padded(len));
    match area.get(offset..offset.saturating_add(len)) {
        Some(value) if padded_end <= area.len() => Ok((Value::Bytes(value.to_vec()), offset)),
        _ => Err(field(what, "e_value_size", u64::from(size), at)),
    }
}

/// Writes entries from `first` on and values from the end; both fit. Returns the block hash.
fn write_area<'a>(
    area: &mut [u8],
    first: usize,
    attributes: impl Iterator<Item = &'a Attribute>,
    hashed: bool,
) -> u32 {
    let mut at = first;
    let mut value_at = area.len();
    let mut block_hash = Some(0u32);
    for attribute in attributes {
        let value = attribute.value_bytes();
        let (size, ino, hash) = match &attribute.value {
            Value::Bytes(bytes) => {
                let hash = if hashed {
                    entry_hash(&attribute.name, bytes)
                } else {
                    0
                };
                (u32::try_from(bytes.len()).unwrap_or(0), 0, hash)
            }
            Value::Inode { ino, size, hash } => (*size, ino.get(), *hash),
        };
        value_at = value_at.saturating_sub(padded(value.len()));
        if let Some(place) = area.get_mut(value_at..value_at.saturating_add(value.len())) {
            place.copy_from_slice(value);
        }
        let name_at = at.saturating_add(ENTRY);
        let name_end = name_at.saturating_add(attribute.name.len());
        if let Some(place) = area.get_mut(name_at..name_end) {
            place.copy_from_slice(&attribute.name);
        }
        if let Some(head) = area.get_mut(at..name_at) {
            let offset = if value.is_empty() {
                0
            } else {
                u16::try_from(value_at).unwrap_or(0)
            };
            if let Some(start) = head.first_chunk_mut::<2>() {
                *start = [
                    u8::try_from(attribute.name.len()).unwrap_or(0),
                    attribute.index,
                ];
            }
            put_le16(head, 2, offset);
            put_le32(head, 4, ino);
            put_le32(head, 8, size);
            put_le32(head, 12, hash);
        }
        // An entry without a hash makes the whole block unfit for sharing.
        block_hash = block_hash
            .filter(|_| hash != 0)
            .map(|sum| sum.rotate_left(16) ^ hash);
        at = at.saturating_add(attribute.entry_size());
    }
    block_hash.unwrap_or(0)
}

fn field(what: Structure, field: &'static str, found: u64, at: usize) -> Error {
    let at = Location::default().with_offset(u64::try_from(at).unwrap_or(0));
    Error::corrupt(CorruptKind::Field { what, field, found }, at)
}

#[cfg(test)]
mod tests;

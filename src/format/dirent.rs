//! Entries of a directory block: `struct ext4_dir_entry_2`, one after another, and the checksum tail.
//!
//! Source: the kernel's ext4 documentation, "Linear (Classic) Directories".
//! Invariants: an entry is given out only after its length, name and inode number have been checked; the
//! entries cover the block without gaps, before and after every change; the tail is never given away.
//! Errors carry the offset in the block; the caller adds the block and the inode.

use crate::error::{CorruptKind, Error, Location, Result, Structure};
use crate::format::features::incompat;
use crate::format::geometry::Geometry;
use crate::format::raw;

/// Bytes before the name: inode, rec_len, name_len, file_type.
pub const HEADER: usize = 8;
/// Bytes of the tail that holds the checksum.
pub const TAIL: usize = 12;
/// The `file_type` that marks the tail.
const TAIL_TYPE: u8 = 0xde;
pub const NAME_MAX: usize = 255;

/// One entry; `ino` is 0 for free space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dirent<'a> {
    pub offset: usize,
    pub rec_len: usize,
    pub ino: u32,
    pub file_type: u8,
    pub name: &'a [u8],
}

/// A name's place in its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub offset: usize,
    /// The entry before it, which takes over its space when it is removed.
    pub before: Option<usize>,
    pub ino: u32,
    pub file_type: u8,
}

/// Space for a new entry: behind the name of `used` bytes of the entry at `offset` (0 when that entry is free).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    offset: usize,
    used: usize,
    rec_len: usize,
}

/// Bytes that an entry with this name needs.
pub fn size_of(name_len: usize) -> usize {
    HEADER.saturating_add(name_len).saturating_add(3) & !3
}

/// Bytes of a block that entries may cover.
pub fn usable(geo: &Geometry) -> usize {
    let tail = if geo.features.metadata_csum() {
        TAIL
    } else {
        0
    };
    block_size(geo).saturating_sub(tail)
}

pub(crate) fn block_size(geo: &Geometry) -> usize {
    usize::try_from(geo.block_size).unwrap_or(usize::MAX)
}

/// The entries of a block (or of a part of one: inline directories), checked one by one. Ends after the first error.
pub fn entries<'a>(bytes: &'a [u8], geo: &Geometry) -> Entries<'a> {
    Entries {
        bytes,
        at: 0,
        tail: if geo.features.metadata_csum() {
            bytes.len().checked_sub(TAIL)
        } else {
            None
        },
        large: geo.block_size >= 0x1_0000,
        file_types: geo.features.has_incompat(incompat::FILETYPE),
        inodes_count: geo.inodes_count,
    }
}

pub struct Entries<'a> {
    bytes: &'a [u8],
    at: usize,
    tail: Option<usize>,
    large: bool,
    file_types: bool,
    inodes_count: u32,
}

impl<'a> Entries<'a> {
    fn check(&self) -> Result<Dirent<'a>> {
        let offset = self.at;
        let room = self.bytes.len().saturating_sub(offset);
        let rec_len = decode_length(raw::le16(self.bytes, offset.saturating_add(4)), self.large);
        let ino = raw::le32(self.bytes, offset);
        let name_len = usize::from(raw::u8_at(self.bytes, offset.saturating_add(6)));
        let field = |field, found: usize| {
            let found = u64::try_from(found).unwrap_or(u64::MAX);
            let at = Location::default().with_offset(u64::try_from(offset).unwrap_or(u64::MAX));
            Err(Error::corrupt(
                CorruptKind::Field {
                    what: Structure::DirectoryBlock,
                    field,
                    found,
                },
                at,
            ))
        };
        if rec_len < size_of(1) || rec_len & 3 != 0 || rec_len > room {
            return field("rec_len", rec_len);
        }
        let left = room.saturating_sub(rec_len);
        if left != 0 && left < size_of(1) {
            return field("rec_len", rec_len);
        }
        if ino != 0 && (name_len == 0 || size_of(name_len) > rec_len) {
            return field("name_len", name_len);
        }
        if ino > self.inodes_count {
            return field("inode", usize::try_from(ino).unwrap_or(usize::MAX));
        }
        let start = offset.saturating_add(HEADER);
        let name = self
            .bytes
            .get(start..start.saturating_add(name_len))
            .filter(|_| ino != 0)
            .unwrap_or(&[]);
        let file_type = if self.file_types {
            raw::u8_at(self.bytes, offset.saturating_add(7))
        } else {
            0
        };
        Ok(Dirent {
            offset,
            rec_len,
            ino,
            file_type,
            name,
        })
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Dirent<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len()
            || (Some(self.at) == self.tail && is_tail(self.bytes, self.at))
        {
            return None;
        }
        let entry = self.check();
        self.at = entry.as_ref().map_or(usize::MAX, |entry| {
            entry.offset.saturating_add(entry.rec_len)
        });
        Some(entry)
    }
}

fn is_tail(bytes: &[u8], at: usize) -> bool {
    raw::le32(bytes, at) == 0
        && raw::le16(bytes, at.saturating_add(4)) == 12
        && raw::u8_at(bytes, at.saturating_add(6)) == 0
        && raw::u8_at(bytes, at.saturating_add(7)) == TAIL_TYPE
}

/// In blocks of 64 KiB a length that does not fit 16 bits is 65535 or 0.
fn decode_length(stored: u16, large: bool) -> usize {
    if large && (stored == 0 || stored == u16::MAX) {
        0x1_0000
    } else {
        usize::from(stored)
    }
}

fn encode_length(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

/// The entry at an offset that `entries` gave before, in the same bytes.
pub fn at<'a>(bytes: &'a [u8], geo: &Geometry, offset: usize) -> Result<Dirent<'a>> {
    let mut all = entries(bytes, geo);
    all.at = offset;
    all.check()
}

/// Looks a name up.
pub fn find(bytes: &[u8], geo: &Geometry, name: &[u8]) -> Result<Option<Found>> {
    let mut before = None;
    for entry in entries(bytes, geo) {
        let entry = entry?;
        if entry.ino != 0 && entry.name == name {
            let Dirent {
                offset,
                ino,
                file_type,
                ..
            } = entry;
            return Ok(Some(Found {
                offset,
                before,
                ino,
                file_type,
            }));
        }
        before = Some(entry.offset);
    }
    Ok(None)
}

/// The first place where an entry with a name of this length fits.
pub fn room(bytes: &[u8], geo: &Geometry, name_len: usize) -> Result<Option<Slot>> {
    let needed = size_of(name_len);
    let end = usable(geo).min(bytes.len());
    for entry in entries(bytes, geo) {
        let entry = entry?;
        let used = if entry.ino == 0 {
            0
        } else {
            size_of(entry.name.len())
        };
        let inside = entry.offset.saturating_add(entry.rec_len) <= end;
        if inside && entry.rec_len.saturating_sub(used) >= needed {
            return Ok(Some(Slot {
                offset: entry.offset,
                used,
                rec_len: entry.rec_len,
            }));
        }
    }
    Ok(None)
}

/// Fills a slot that `room` found in these bytes.
pub fn insert(bytes: &mut [u8], geo: &Geometry, slot: Slot, name: &[u8], ino: u32, file_type: u8) {
    let Slot {
        offset,
        used,
        rec_len,
    } = slot;
    if used != 0 {
        raw::put_le16(bytes, offset.saturating_add(4), encode_length(used));
    }
    put(
        bytes,
        geo,
        offset.saturating_add(used),
        rec_len.saturating_sub(used),
        name,
        ino,
        file_type,
    );
}

/// Writes an entry over whatever is at `offset`.
pub fn put(
    bytes: &mut [u8],
    geo: &Geometry,
    offset: usize,
    rec_len: usize,
    name: &[u8],
    ino: u32,
    file_type: u8,
) {
    let file_type = if geo.features.has_incompat(incompat::FILETYPE) {
        file_type
    } else {
        0
    };
    raw::put_le32(bytes, offset, ino);
    raw::put_le16(bytes, offset.saturating_add(4), encode_length(rec_len));
    put_u8(
        bytes,
        offset.saturating_add(6),
        u8::try_from(name.len()).unwrap_or(u8::MAX),
    );
    put_u8(bytes, offset.saturating_add(7), file_type);
    let start = offset.saturating_add(HEADER);
    if let Some(place) = bytes.get_mut(start..start.saturating_add(name.len())) {
        place.copy_from_slice(name);
    }
}

/// Takes an entry out: its space goes to the entry before it, or stays as a free entry. The name is wiped.
pub fn remove(bytes: &mut [u8], geo: &Geometry, found: Found) {
    let large = geo.block_size >= 0x1_0000;
    let length =
        |bytes: &[u8], at: usize| decode_length(raw::le16(bytes, at.saturating_add(4)), large);
    let rec_len = length(bytes, found.offset);
    let from = match found.before {
        Some(before) => {
            let joined = length(bytes, before).saturating_add(rec_len);
            raw::put_le16(bytes, before.saturating_add(4), encode_length(joined));
            found.offset
        }
        None => {
            raw::put_le32(bytes, found.offset, 0);
            found.offset.saturating_add(6)
        }
    };
    if let Some(space) = bytes.get_mut(from..found.offset.saturating_add(rec_len)) {
        space.fill(0);
    }
}

/// Points the entry at `offset` at another inode.
pub fn set_target(bytes: &mut [u8], geo: &Geometry, offset: usize, ino: u32, file_type: u8) {
    raw::put_le32(bytes, offset, ino);
    if geo.features.has_incompat(incompat::FILETYPE) {
        put_u8(bytes, offset.saturating_add(7), file_type);
    }
}

/// Makes a block of entries packed from the start. `push` gives each entry's bytes; the last one takes all that is left.
pub struct Packer<'a> {
    bytes: &'a mut [u8],
    at: usize,
    last: Option<usize>,
    end: usize,
}

impl<'a> Packer<'a> {
    /// Starts an empty block, with its tail if there are checksums.
    pub fn new(bytes: &'a mut [u8], geo: &Geometry) -> Self {
        bytes.fill(0);
        let end = usable(geo).min(bytes.len());
        put_tail(bytes, geo);
        Self {
            bytes,
            at: 0,
            last: None,
            end,
        }
    }

    /// Copies one entry; false when it does not fit.
    pub fn push(&mut self, geo: &Geometry, name: &[u8], ino: u32, file_type: u8) -> bool {
        let size = size_of(name.len());
        let next = self.at.saturating_add(size);
        if next > self.end {
            return false;
        }
        put(self.bytes, geo, self.at, size, name, ino, file_type);
        self.last = Some(self.at);
        self.at = next;
        true
    }

    /// Gives the space that is left to the last entry, or to a free one.
    pub fn finish(self) {
        let last = self.last.unwrap_or(0);
        raw::put_le16(
            self.bytes,
            last.saturating_add(4),
            encode_length(self.end.saturating_sub(last)),
        );
    }
}

/// A block without entries.
pub fn init_empty(bytes: &mut [u8], geo: &Geometry) {
    Packer::new(bytes, geo).finish();
}

/// The first block of a directory: "." and "..".
pub fn init_first(bytes: &mut [u8], geo: &Geometry, ino: u32, parent: u32, directory_type: u8) {
    let mut packer = Packer::new(bytes, geo);
    packer.push(geo, b".", ino, directory_type);
    packer.push(geo, b"..", parent, directory_type);
    packer.finish();
}

fn put_tail(bytes: &mut [u8], geo: &Geometry) {
    if !geo.features.metadata_csum() {
        return;
    }
    let at = bytes.len().saturating_sub(TAIL);
    raw::put_le16(bytes, at.saturating_add(4), 12);
    put_u8(bytes, at.saturating_add(7), TAIL_TYPE);
}

fn put_u8(bytes: &mut [u8], at: usize, value: u8) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte = value;
    }
}

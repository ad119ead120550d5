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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::format::features::{Features, compat, ro_compat};
    use std::process::Command;

    /// What the parsers of directories look at.
    pub(crate) fn geometry(block_size: u32, checksums: bool) -> Geometry {
        Geometry {
            features: Features {
                compat: compat::DIR_INDEX,
                incompat: incompat::FILETYPE,
                ro_compat: if checksums {
                    ro_compat::METADATA_CSUM
                } else {
                    0
                },
            },
            block_size,
            block_bits: block_size.trailing_zeros(),
            blocks_count: 1 << 20,
            first_data_block: u32::from(block_size == 1024),
            blocks_per_group: 8 * block_size,
            cluster_ratio_bits: 0,
            clusters_per_group: 8 * block_size,
            inodes_count: 100_000,
            inodes_per_group: 1024,
            group_count: 1,
            desc_size: 64,
            descs_per_block: block_size / 64,
            desc_blocks: 1,
            reserved_gdt_blocks: 0,
            first_meta_bg: 0,
            backup_bgs: [0; 2],
            inode_size: 256,
            inodes_per_block: block_size / 256,
            itable_blocks: 64,
            first_ino: 11,
            log_groups_per_flex: 0,
            want_extra_isize: 32,
            csum_seed: 0,
            uuid: [0; 16],
            hash_seed: [0; 4],
            def_hash_version: 1,
            hash_unsigned: false,
            journal_inum: 0,
            orphan_file_inum: 0,
            quota_inums: [0; 3],
        }
    }

    /// The blocks of a directory with these many names that mke2fs and `e2fsck -D` made, and the seed of its hashes.
    pub(crate) fn made_directory(names: u32, options: &[&str]) -> (Vec<u8>, [u32; 4]) {
        let dir = tempfile::tempdir().unwrap();
        let (tree, image, dump) = (
            dir.path().join("tree"),
            dir.path().join("image"),
            dir.path().join("dump"),
        );
        std::fs::create_dir_all(tree.join("d")).unwrap();
        for index in 0..names {
            std::fs::write(tree.join(format!("d/name-{index}")), "").unwrap();
        }
        let run = |command: &mut Command| command.output().expect("e2fsprogs runs").stdout;
        run(Command::new("mke2fs")
            .args(["-q", "-t", "ext4"])
            .args(options)
            .arg("-d")
            .arg(tree)
            .arg(&image)
            .arg("16M"));
        run(Command::new("e2fsck").arg("-fyD").arg(&image));
        run(Command::new("debugfs")
            .arg("-R")
            .arg(format!("dump /d {}", dump.display()))
            .arg(&image));
        let superblock = std::fs::read(&image).unwrap()[1024..2048].to_vec();
        let seed = std::array::from_fn(|word| raw::le32(&superblock, 0xec + 4 * word));
        (std::fs::read(dump).unwrap(), seed)
    }

    fn names(bytes: &[u8], geo: &Geometry) -> Vec<Vec<u8>> {
        let live = entries(bytes, geo)
            .map(Result::unwrap)
            .filter(|entry| entry.ino != 0);
        live.map(|entry| entry.name.to_vec()).collect()
    }

    #[test]
    fn a_made_block_is_read_and_changed_without_gaps() {
        for (options, checksums) in [
            (["-O", "metadata_csum"], true),
            (["-O", "^metadata_csum"], false),
        ] {
            let geo = geometry(4096, checksums);
            let (mut bytes, _) = made_directory(40, &["-b", "4096", options[0], options[1]]);
            bytes.truncate(4096);
            assert_eq!(names(&bytes, &geo).len(), 42);
            for index in (0..40).rev().step_by(3) {
                let name = format!("name-{index}");
                let found = find(&bytes, &geo, name.as_bytes()).unwrap().unwrap();
                remove(&mut bytes, &geo, found);
                assert_eq!(find(&bytes, &geo, name.as_bytes()).unwrap(), None);
            }
            let mut added = 0;
            while let Some(slot) = room(&bytes, &geo, 5 + added % 30).unwrap() {
                insert(&mut bytes, &geo, slot, &vec![b'x'; 5 + added % 30], 77, 1);
                added += 1;
            }
            assert_eq!(names(&bytes, &geo).len(), 42 - 14 + added);
            let covered: usize = entries(&bytes, &geo)
                .map(|entry| entry.unwrap().rec_len)
                .sum();
            assert_eq!(covered, usable(&geo));
        }
    }

    #[test]
    fn damaged_blocks_end_in_an_error_or_in_entries_that_fit() {
        let geo = geometry(4096, true);
        let (bytes, _) = made_directory(40, &["-b", "4096"]);
        let mut random = 1_u64;
        let mut errors = 0;
        for _ in 0..20_000 {
            let mut bytes = bytes[..4096].to_vec();
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let at = usize::try_from(random >> 40).unwrap() % 700;
            bytes[at] = u8::try_from(random >> 32 & 0xff).unwrap();
            for entry in entries(&bytes, &geo) {
                let Ok(entry) = entry else {
                    errors += 1;
                    break;
                };
                assert!(entry.offset + entry.rec_len <= 4096);
                assert!(size_of(entry.name.len()) <= entry.rec_len || entry.ino == 0);
            }
            let _ = find(&bytes, &geo, b"name-39");
            if let Ok(Some(slot)) = room(&bytes, &geo, 255) {
                insert(&mut bytes, &geo, slot, &[b'y'; 255], 5, 1);
            }
            assert_eq!(bytes.len(), 4096);
        }
        assert!(errors > 1000, "{errors}");
    }

    #[test]
    fn blocks_of_64_kib_hold_one_entry() {
        let geo = geometry(65536, false);
        let mut bytes = vec![1; 65536];
        init_empty(&mut bytes, &geo);
        assert_eq!(raw::le16(&bytes, 4), 65535);
        let all: Vec<_> = entries(&bytes, &geo).map(Result::unwrap).collect();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].rec_len, 65536);
        let slot = room(&bytes, &geo, 3).unwrap().unwrap();
        insert(&mut bytes, &geo, slot, b"abc", 9, 1);
        let found = find(&bytes, &geo, b"abc").unwrap().unwrap();
        remove(&mut bytes, &geo, found);
        assert_eq!(names(&bytes, &geo).len(), 0);
    }
}

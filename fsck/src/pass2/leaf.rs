//! A block of entries: its structure, its checksum, and a way through when it is damaged.
//!
//! Source: the kernel's ext4 documentation, "Linear (Classic) Directories".
//! Invariants: after `structure` the entries cover the block without a gap.

use super::Directory;
use crate::Result;
use crate::dirblock::{self, HEADER};
use crate::problem::{At, Problem};
use crate::session::Fsck;
use uext4::format::checksum::{self, BlockKind};
use uext4::ids::FsBlock;

/// The shortest entry.
const SHORTEST: usize = 12;

impl Fsck<'_, '_> {
    pub fn leaf(&mut self, dir: &mut Directory, lblk: u64, block: u64) -> Result<()> {
        let before = self.image.read(block)?;
        let mut bytes = before.to_vec();
        let kind = BlockKind::Directory { seed: dir.seed };
        let is_index_root = lblk == 0 && dir.index.is_some();
        let sums = self.geo.features.metadata_csum();
        let tail = is_index_root || !sums || dirblock::has_tail(&bytes);
        let end = if sums && !is_index_root && tail {
            bytes.len() - dirblock::TAIL
        } else {
            bytes.len()
        };
        let wrong = tail && checksum::verify(kind, &self.geo, FsBlock::new(block), &bytes).is_err();
        let at = At::dir(dir.ino).lblk(lblk);
        self.structure(&mut bytes, end, &at)?;
        if lblk == 0 {
            self.dots(dir, &mut bytes, end)?;
        }
        if !is_index_root {
            self.entries(dir, lblk, &mut bytes, end, lblk == 0)?;
        }
        if !tail && self.report.fix(Problem::TailMissing, at.clone())? {
            make_tail(dir, &mut bytes);
        }
        if *bytes != *before {
            return self.write_directory_block(dir, block, bytes);
        }
        if wrong && self.report.fix(Problem::BlockChecksum, at)? {
            return self.write_directory_block(dir, block, bytes);
        }
        Ok(())
    }

    /// Makes the entries a chain from start to end.
    pub fn structure(&mut self, bytes: &mut [u8], end: usize, at: &At) -> Result<()> {
        let mut offset = 0;
        let mut before: Option<usize> = None;
        while offset < end {
            if is_sound(bytes, offset, end) {
                before = Some(offset);
                offset += dirblock::rec_len(bytes, offset);
                continue;
            }
            let at = at.clone().offset(offset);
            if !self.report.fix(Problem::BlockCorrupt, at)? {
                return Ok(());
            }
            offset = salvage(self.geo.inodes_count, bytes, offset, end, before);
            if before == Some(offset) {
                offset += dirblock::rec_len(bytes, offset);
            }
        }
        Ok(())
    }
}

pub fn is_sound(bytes: &[u8], at: usize, end: usize) -> bool {
    let left = end - at;
    if left < SHORTEST {
        return false;
    }
    let length = dirblock::rec_len(bytes, at);
    length >= SHORTEST
        && length.is_multiple_of(4)
        && length <= left
        && HEADER + dirblock::name_len(bytes, at) <= length
}

/// Repairs the entry at `at`; gives the place to go on from. Ends, since each step joins or lengthens an entry.
fn salvage(inodes: u32, bytes: &mut [u8], at: usize, end: usize, before: Option<usize>) -> usize {
    let left = end - at;
    if left >= SHORTEST {
        let (length, name) = (dirblock::rec_len(bytes, at), dirblock::name_len(bytes, at));
        let ino = dirblock::ino(bytes, at);
        let live = ino != 0 && ino <= inodes && name > 0 && HEADER + name <= left;
        if length > left && live {
            dirblock::set_rec_len(bytes, at, left);
            return at;
        }
        if length % 4 == 0 && length >= SHORTEST && length <= left {
            // The chain is whole; only the name does not fit.
            if let Some(before) = before {
                join(bytes, before, length);
                return before;
            }
            dirblock::set_ino(bytes, at, 0);
            dirblock::set_u8(bytes, at + 6, 0);
            return at;
        }
    }
    if let Some(before) = before {
        join(bytes, before, left);
        return before;
    }
    if left < SHORTEST {
        return end;
    }
    dirblock::put(bytes, at, left, 0, 0, b"");
    at
}

fn join(bytes: &mut [u8], before: usize, length: usize) {
    let joined = dirblock::rec_len(bytes, before) + length;
    dirblock::set_rec_len(bytes, before, joined);
}

/// Makes room for the checksum at the end; entries that lie there are set aside.
fn make_tail(dir: &mut Directory, bytes: &mut [u8]) {
    let end = bytes.len() - dirblock::TAIL;
    let mut at = 0;
    let mut before = None;
    while at < bytes.len() {
        let length = dirblock::rec_len(bytes, at).max(SHORTEST);
        if at + length <= end {
            before = Some(at);
            at += length;
            continue;
        }
        let live = dirblock::ino(bytes, at) != 0;
        let needed = if live {
            dirblock::size_of(dirblock::name_len(bytes, at))
        } else {
            0
        };
        if at + needed.max(SHORTEST) <= end {
            dirblock::set_rec_len(bytes, at, end - at);
        } else {
            if live {
                dir.displaced.push(dirblock::Entry {
                    at,
                    ino: dirblock::ino(bytes, at),
                    rec_len: length,
                    file_type: dirblock::file_type(bytes, at),
                    name: dirblock::name(bytes, at),
                });
            }
            match before {
                Some(before) => dirblock::set_rec_len(bytes, before, end - before),
                None => dirblock::put(bytes, 0, end, 0, 0, b""),
            }
        }
        at += length;
    }
    dirblock::put_tail(bytes);
}

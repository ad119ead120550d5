//! What the run knows of each inode in use: its type, its link count, the references found.
//!
//! Source: the kernel's ext4 documentation, "Index Nodes".
//! Invariants: groups without inodes in use take no memory; most inodes take half a byte.

use crate::pages::{Page, Pages};
use crate::spill::Spill;
use std::collections::BTreeMap;
use std::sync::Arc;
use uext4::format::bitmap;
use uext4::format::raw::{le16, le32};

/// One inode in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// File type as in directory entries: 1 regular ... 7 symbolic link; 0 for an inode that is not in use.
    pub file_type: u8,
    pub flags: u8,
    pub links: u16,
    /// Directory entries that point here.
    pub found: u32,
}

pub mod known {
    /// `ENCRYPT_FL`
    pub const ENCRYPTED: u8 = 1;
    /// `EA_INODE_FL`
    pub const EA: u8 = 2;
    /// Size and blocks are zero and it has no attributes.
    pub const EMPTY: u8 = 4;
    /// One of the file system's own, which no directory holds.
    pub const SPECIAL: u8 = 8;
    /// In a block that the device cannot keep.
    pub const BAD_PLACE: u8 = 64;
    /// Casefolded directory.
    pub const CASEFOLD: u8 = 32;
}

pub struct Inodes {
    per_group: u32,
    count: u32,
    groups: Pages<Slots>,
}

/// The inodes of a group: four bits each, and in full those that these cannot hold.
struct Slots {
    codes: Box<[u8]>,
    rest: BTreeMap<u32, Known>,
}

/// The lower bits of a code say which of these it is; the last is that the inode is one of `rest`.
const KINDS: [(u8, u8); 7] = [
    (0, 0),
    (1, 0),
    (1, known::EMPTY),
    (3, 0),
    (4, 0),
    (5, 0),
    (7, 0),
];
const KIND: u8 = 0x07;
const IN_FULL: u8 = 0x07;
/// One entry points to it.
const FOUND: u8 = 0x08;

/// Most inodes have one link and no flags.
fn encode(known: &Known) -> Option<u8> {
    if *known == Known::default() {
        return Some(0);
    }
    if known.links != 1 || known.found > 1 || known.file_type == 0 {
        return None;
    }
    let kind = (0_u8..)
        .zip(KINDS)
        .find(|(_, kind)| *kind == (known.file_type, known.flags))?;
    let found = if known.found == 0 { 0 } else { FOUND };
    Some(kind.0 | found)
}

fn decode(code: u8) -> Known {
    match KINDS.get(usize::from(code & KIND)) {
        Some(&(file_type, flags)) if file_type != 0 => Known {
            file_type,
            flags,
            links: 1,
            found: u32::from(code & FOUND != 0),
        },
        _ => Known::default(),
    }
}

/// Bytes of an inode that a page holds in full: its index, then `Known`.
const FULL: usize = 12;

impl Page for Slots {
    fn memory(&self) -> usize {
        // An entry of the tree, with its share of the nodes.
        size_of::<Self>() + self.codes.len() + self.rest.len() * 2 * size_of::<(u32, Known)>()
    }

    fn store(&self, bytes: &mut Vec<u8>) {
        bytes.extend((self.rest.len() as u32).to_le_bytes());
        for (index, known) in &self.rest {
            bytes.extend(index.to_le_bytes());
            bytes.extend([known.file_type, known.flags]);
            bytes.extend(known.links.to_le_bytes());
            bytes.extend(known.found.to_le_bytes());
        }
        bytes.extend_from_slice(&self.codes);
    }

    fn load(bytes: &[u8]) -> Self {
        let count = le32(bytes, 0) as usize;
        let (rest, codes) = bytes
            .get(4..)
            .and_then(|bytes| bytes.split_at_checked(count * FULL))
            .unwrap_or_default();
        let one = |part: &[u8]| {
            let known = Known {
                file_type: part[4],
                flags: part[5],
                links: le16(part, 6),
                found: le32(part, 8),
            };
            (le32(part, 0), known)
        };
        Self {
            codes: codes.into(),
            rest: rest.chunks_exact(FULL).map(one).collect(),
        }
    }
}

impl Slots {
    fn new(per_group: u32) -> Self {
        Self {
            codes: vec![0; per_group.div_ceil(2) as usize].into_boxed_slice(),
            rest: BTreeMap::new(),
        }
    }

    fn code(&self, index: usize) -> u8 {
        let both = self.codes.get(index / 2).copied().unwrap_or_default();
        both >> (index % 2 * 4) & 0x0f
    }

    /// Indexes and codes of those that were ever set.
    fn all(&self) -> impl Iterator<Item = (u32, u8)> + '_ {
        let both = (0_u32..)
            .zip(self.codes.iter())
            .filter(|(_, both)| **both != 0);
        both.flat_map(|(at, both)| [(2 * at, both & 0x0f), (2 * at + 1, both >> 4)])
            .filter(|(_, code)| *code != 0)
    }

    fn get(&self, index: usize) -> Known {
        match self.code(index) {
            IN_FULL => self.rest.get(&(index as u32)).copied().unwrap_or_default(),
            code => decode(code),
        }
    }

    fn set(&mut self, index: usize, known: Known) {
        let before = self.code(index);
        let Some(both) = self.codes.get_mut(index / 2) else {
            return;
        };
        if before == IN_FULL {
            self.rest.remove(&(index as u32));
        }
        let code = encode(&known).unwrap_or(IN_FULL);
        let shift = index % 2 * 4;
        *both = *both & !(0x0f << shift) | code << shift;
        if code == IN_FULL {
            self.rest.insert(index as u32, known);
        }
    }
}

impl Inodes {
    pub fn new(per_group: u32, groups: u32, spill: &Arc<Spill>) -> Self {
        Self {
            per_group: per_group.max(1),
            count: groups,
            groups: Pages::new(spill),
        }
    }

    fn place(&self, ino: u32) -> Option<(usize, usize)> {
        let index = ino.checked_sub(1)?;
        let group = index / self.per_group;
        (group < self.count).then_some((group as usize, (index % self.per_group) as usize))
    }

    pub fn get(&self, ino: u32) -> Known {
        let known = self
            .place(ino)
            .and_then(|(group, index)| self.groups.with(group, |slots| slots.get(index)));
        known.unwrap_or_default()
    }

    pub fn is_used(&self, ino: u32) -> bool {
        self.get(ino).file_type != 0
    }

    pub fn set(&mut self, ino: u32, known: Known) {
        self.change(ino, |slot| *slot = known);
    }

    pub fn change(&mut self, ino: u32, change: impl FnOnce(&mut Known)) {
        let Some((group, index)) = self.place(ino) else {
            return;
        };
        let per_group = self.per_group;
        self.groups.change(
            group,
            || Slots::new(per_group),
            |slots| {
                let mut known = slots.get(index);
                change(&mut known);
                slots.set(index, known);
            },
        );
    }

    pub fn found(&mut self, ino: u32) {
        self.change(ino, |known| known.found = known.found.saturating_add(1));
    }

    pub fn lost(&mut self, ino: u32) {
        self.change(ino, |known| known.found = known.found.saturating_sub(1));
    }

    /// Everything of `other` joins; a group that only it has moves as it is.
    pub fn join(&mut self, mut other: Self) {
        for group in 0..other.groups.end() {
            let Some(theirs) = other.groups.take(group) else {
                continue;
            };
            let mine = self.groups.take(group);
            let joined = match mine {
                None => theirs,
                Some(mut mine) => {
                    for (index, _) in theirs.all() {
                        mine.set(index as usize, theirs.get(index as usize));
                    }
                    mine
                }
            };
            self.groups.change(group, || joined, |_| ());
        }
    }

    /// The inodes in use, ascending, of one group.
    pub fn of_group(&self, group: u32) -> Vec<(u32, Known)> {
        self.some_of_group(group, |_| true)
    }

    /// Those of a group whose references and links may differ, ascending: not the files with one of each.
    pub fn unsettled_of_group(&self, group: u32) -> Vec<(u32, Known)> {
        self.some_of_group(group, |code| code == IN_FULL || code & FOUND == 0)
    }

    pub fn directories_of_group(&self, group: u32) -> Vec<(u32, Known)> {
        let mut all = self.some_of_group(group, |code| code == IN_FULL);
        all.retain(|(_, known)| known.file_type == 2);
        all
    }

    fn some_of_group(&self, group: u32, is_wanted: impl Fn(u8) -> bool) -> Vec<(u32, Known)> {
        let first = group.saturating_mul(self.per_group).saturating_add(1);
        let all = self.groups.with(group as usize, |slots| {
            let wanted = slots.all().filter(|(_, code)| is_wanted(*code));
            wanted
                .map(|(index, _)| (first.saturating_add(index), slots.get(index as usize)))
                .filter(|(_, known)| known.file_type != 0)
                .collect()
        });
        all.unwrap_or_default()
    }

    /// Sets the bits of a group's inodes that are in use.
    pub fn fill_bitmap(&self, group: u32, bits: &mut [u8]) -> InUse {
        let mut sum = InUse::default();
        self.groups.with(group as usize, |slots| {
            for (index, _) in slots.all() {
                let file_type = slots.get(index as usize).file_type;
                if file_type != 0 {
                    bitmap::put(bits, index, true);
                    sum.inodes += 1;
                    sum.directories += u32::from(file_type == 2);
                    sum.end = index + 1;
                }
            }
        });
        sum
    }

    pub fn group_count(&self) -> u32 {
        self.count
    }
}

/// What of a group's inodes is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InUse {
    pub inodes: u32,
    pub directories: u32,
    /// One past the last, within the group.
    pub end: u32,
}

/// Inodes that entries point to: the first time a bit, further times a number.
pub struct Targets {
    per_group: u32,
    count: u32,
    groups: Pages<Pointed>,
}

struct Pointed {
    once: Box<[u8]>,
    /// Indexes.
    again: Vec<u32>,
}

impl Page for Pointed {
    fn memory(&self) -> usize {
        size_of::<Self>() + self.once.len() + self.again.capacity() * size_of::<u32>()
    }

    fn store(&self, bytes: &mut Vec<u8>) {
        bytes.extend((self.again.len() as u32).to_le_bytes());
        bytes.extend(self.again.iter().flat_map(|index| index.to_le_bytes()));
        bytes.extend_from_slice(&self.once);
    }

    fn load(bytes: &[u8]) -> Self {
        let count = le32(bytes, 0) as usize;
        let (again, once) = bytes
            .get(4..)
            .and_then(|bytes| bytes.split_at_checked(count * 4))
            .unwrap_or_default();
        Self {
            once: once.into(),
            again: again.chunks_exact(4).map(|part| le32(part, 0)).collect(),
        }
    }
}

impl Targets {
    pub fn new(per_group: u32, groups: u32, spill: &Arc<Spill>) -> Self {
        Self {
            per_group: per_group.max(1),
            count: groups,
            groups: Pages::new(spill),
        }
    }

    pub fn add(&mut self, ino: u32) {
        let index = ino.saturating_sub(1);
        let (group, bit) = (index / self.per_group, index % self.per_group);
        if group >= self.count {
            return;
        }
        let bytes = self.per_group.div_ceil(8) as usize;
        let make = || Pointed {
            once: vec![0; bytes].into_boxed_slice(),
            again: Vec::new(),
        };
        self.groups.change(group as usize, make, |pointed| {
            match pointed.once.get_mut(bit as usize / 8) {
                Some(byte) if *byte >> (bit % 8) & 1 == 0 => *byte |= 1 << (bit % 8),
                _ => pointed.again.push(bit),
            }
        });
    }

    /// Each as often as it was added.
    pub fn each(&self, mut visit: impl FnMut(u32)) {
        for group in 0..self.groups.end() as u32 {
            let base = group.saturating_mul(self.per_group).saturating_add(1);
            self.groups.with(group as usize, |pointed| {
                for (at, byte) in (0_u32..).zip(pointed.once.iter()) {
                    for bit in (0..8).filter(|bit| byte >> bit & 1 != 0) {
                        visit(base + at * 8 + bit);
                    }
                }
                pointed.again.iter().for_each(|bit| visit(base + bit));
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_bits_hold_what_most_are() {
        agree(&Spill::new(None));
        let spill = Spill::new(Some(0));
        // So much that nothing is left for the inodes.
        spill.count(0, spill.limit() + 1);
        agree(&spill);
        assert!(spill.spilled() > 0);
    }

    fn agree(spill: &Arc<Spill>) {
        let mut inodes = Inodes::new(4, 16, spill);
        let mut model = vec![Known::default(); 65];
        let mut random = 9_u32;
        for _ in 0..5000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let ino = (random >> 9) % 64 + 1;
            let slot = &mut model[ino as usize];
            match random >> 28 {
                0..6 => {
                    slot.found += 1;
                    inodes.found(ino);
                }
                6..9 => {
                    slot.found = slot.found.saturating_sub(1);
                    inodes.lost(ino);
                }
                kind => {
                    let known = Known {
                        file_type: (random >> 20 & 7) as u8,
                        flags: [0, known::EMPTY, known::EA][kind as usize % 3],
                        links: (random >> 24 & 3) as u16,
                        found: random >> 26 & 1,
                    };
                    *slot = known;
                    inodes.set(ino, known);
                }
            }
            assert_eq!(inodes.get(ino), model[ino as usize], "{ino}");
        }
        let mut other = Inodes::new(4, 16, spill);
        for (ino, known) in (1..).zip(&mut model[1..]) {
            if ino % 3 == 0 && *known == Known::default() {
                (known.file_type, known.links) = (1, 1);
                other.set(ino, *known);
            }
        }
        inodes.join(other);
        for group in 0..16 {
            let all = inodes.of_group(group);
            let expected: Vec<_> = (group * 4 + 1..group * 4 + 5)
                .map(|ino| (ino, model[ino as usize]))
                .filter(|(_, known)| known.file_type != 0)
                .collect();
            assert_eq!(all, expected);
            let mut bits = [0];
            let sum = inodes.fill_bitmap(group, &mut bits);
            assert_eq!(sum.inodes as usize, all.len());
            assert_eq!(bits[0].count_ones(), sum.inodes);
            let directories = inodes.directories_of_group(group);
            assert_eq!(directories.len(), sum.directories as usize);
            assert!(directories.iter().all(|one| one.1.file_type == 2));
            let settled = |known: &Known| known.links == 1 && known.found == 1;
            let unsettled = inodes.unsettled_of_group(group);
            let missed = all.iter().find(|one| !unsettled.contains(one));
            assert!(missed.is_none_or(|(_, known)| settled(known)), "{missed:?}");
        }
    }

    #[test]
    fn targets_are_counted() {
        let mut targets = Targets::new(10, 3, &Spill::new(None));
        let all = [1, 10, 11, 11, 30, 11];
        all.iter().for_each(|ino| targets.add(*ino));
        let mut seen = Vec::new();
        targets.each(|ino| seen.push(ino));
        seen.sort_unstable();
        assert_eq!(seen, [1, 10, 11, 11, 11, 30]);
    }
}

//! What the run knows of each inode in use: its type, its link count, the references found.
//!
//! Source: the kernel's ext4 documentation, "Index Nodes".
//! Invariants: groups without inodes in use take no memory; most inodes take a byte.

use std::collections::BTreeMap;

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
    groups: Vec<Option<Box<Slots>>>,
}

/// The inodes of a group: a byte each, and in full those that a byte cannot hold.
struct Slots {
    codes: Box<[u8]>,
    rest: BTreeMap<u32, Known>,
}

/// The inode is one of `rest`.
const IN_FULL: u8 = 0xff;
/// Bits of a code, behind the file type: `known::EMPTY`, and one entry that points to it.
const EMPTY: u8 = 0x08;
const FOUND: u8 = 0x10;

/// Most inodes have one link and no flags.
fn encode(known: &Known) -> Option<u8> {
    if *known == Known::default() {
        return Some(0);
    }
    let plain = known.links == 1 && known.flags & !known::EMPTY == 0 && known.found <= 1;
    if !plain || known.file_type == 0 || known.file_type > 7 {
        return None;
    }
    let empty = if known.flags == 0 { 0 } else { EMPTY };
    let found = if known.found == 0 { 0 } else { FOUND };
    Some(known.file_type | empty | found)
}

fn decode(code: u8) -> Known {
    if code == 0 {
        return Known::default();
    }
    Known {
        file_type: code & 7,
        flags: if code & EMPTY == 0 { 0 } else { known::EMPTY },
        links: 1,
        found: u32::from(code & FOUND != 0),
    }
}

impl Slots {
    fn new(per_group: u32) -> Self {
        Self {
            codes: vec![0; per_group as usize].into_boxed_slice(),
            rest: BTreeMap::new(),
        }
    }

    fn get(&self, index: usize) -> Known {
        match self.codes.get(index) {
            Some(&IN_FULL) => self.rest.get(&(index as u32)).copied().unwrap_or_default(),
            Some(code) => decode(*code),
            None => Known::default(),
        }
    }

    fn set(&mut self, index: usize, known: Known) {
        let Some(code) = self.codes.get_mut(index) else {
            return;
        };
        if *code == IN_FULL {
            self.rest.remove(&(index as u32));
        }
        *code = encode(&known).unwrap_or(IN_FULL);
        if *code == IN_FULL {
            self.rest.insert(index as u32, known);
        }
    }
}

impl Inodes {
    pub fn new(per_group: u32, groups: u32) -> Self {
        Self {
            per_group: per_group.max(1),
            groups: (0..groups).map(|_| None).collect(),
        }
    }

    fn place(&self, ino: u32) -> Option<(usize, usize)> {
        let index = ino.checked_sub(1)?;
        Some((
            (index / self.per_group) as usize,
            (index % self.per_group) as usize,
        ))
    }

    pub fn get(&self, ino: u32) -> Known {
        let known = self
            .place(ino)
            .and_then(|(group, index)| Some(self.groups.get(group)?.as_ref()?.get(index)));
        known.unwrap_or_default()
    }

    pub fn is_used(&self, ino: u32) -> bool {
        self.get(ino).file_type != 0
    }

    pub fn set(&mut self, ino: u32, known: Known) {
        let per_group = self.per_group;
        if let Some((group, index)) = self.place(ino)
            && let Some(slot) = self.groups.get_mut(group)
        {
            slot.get_or_insert_with(|| Box::new(Slots::new(per_group)))
                .set(index, known);
        }
    }

    pub fn change(&mut self, ino: u32, change: impl FnOnce(&mut Known)) {
        let mut known = self.get(ino);
        change(&mut known);
        self.set(ino, known);
    }

    pub fn found(&mut self, ino: u32) {
        self.change(ino, |known| known.found = known.found.saturating_add(1));
    }

    pub fn lost(&mut self, ino: u32) {
        self.change(ino, |known| known.found = known.found.saturating_sub(1));
    }

    /// Everything of `other` joins; a group that only it has moves as it is.
    pub fn join(&mut self, other: Self) {
        let per_group = self.per_group;
        for (mine, theirs) in self.groups.iter_mut().zip(other.groups) {
            match (mine.as_mut(), theirs) {
                (_, None) => {}
                (None, theirs) => *mine = theirs,
                (Some(mine), Some(theirs)) => {
                    for index in 0..per_group as usize {
                        let known = theirs.get(index);
                        if known != Known::default() {
                            mine.set(index, known);
                        }
                    }
                }
            }
        }
    }

    /// The inodes in use, ascending, of one group.
    pub fn of_group(&self, group: u32) -> impl Iterator<Item = (u32, Known)> + '_ {
        let base = group.saturating_mul(self.per_group);
        let slots = self.groups.get(group as usize).and_then(Option::as_ref);
        slots
            .into_iter()
            .flat_map(|slots| (0..slots.codes.len()).map(move |index| (index, slots.get(index))))
            .filter(|(_, known)| known.file_type != 0)
            .map(move |(index, known)| (base.saturating_add(index as u32).saturating_add(1), known))
    }

    pub fn group_count(&self) -> u32 {
        self.groups.len() as u32
    }
}

/// Inodes that entries point to: the first time a bit, further times a number.
pub struct Targets {
    per_group: u32,
    once: Vec<Option<Box<[u8]>>>,
    again: Vec<u32>,
}

impl Targets {
    pub fn new(per_group: u32, groups: u32) -> Self {
        Self {
            per_group: per_group.max(1),
            once: (0..groups).map(|_| None).collect(),
            again: Vec::new(),
        }
    }

    pub fn add(&mut self, ino: u32) {
        let index = ino.saturating_sub(1);
        let (group, bit) = (index / self.per_group, index % self.per_group);
        let bytes = self.per_group.div_ceil(8) as usize;
        let Some(slot) = self.once.get_mut(group as usize) else {
            return;
        };
        let bits = slot.get_or_insert_with(|| vec![0; bytes].into_boxed_slice());
        match bits.get_mut(bit as usize / 8) {
            Some(byte) if *byte >> (bit % 8) & 1 == 0 => *byte |= 1 << (bit % 8),
            _ => self.again.push(ino),
        }
    }

    /// Each as often as it was added.
    pub fn each(&self, mut visit: impl FnMut(u32)) {
        for (group, bits) in (0_u32..).zip(&self.once) {
            let base = group.saturating_mul(self.per_group).saturating_add(1);
            for (at, byte) in (0_u32..).zip(bits.iter().flat_map(|bits| bits.iter())) {
                for bit in (0..8).filter(|bit| byte >> bit & 1 != 0) {
                    visit(base + at * 8 + bit);
                }
            }
        }
        self.again.iter().for_each(|ino| visit(*ino));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_holds_what_most_are() {
        let mut inodes = Inodes::new(16, 4);
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
        for group in 0..4 {
            let all: Vec<_> = inodes.of_group(group).collect();
            let expected: Vec<_> = (group * 16 + 1..group * 16 + 17)
                .map(|ino| (ino, model[ino as usize]))
                .filter(|(_, known)| known.file_type != 0)
                .collect();
            assert_eq!(all, expected);
        }
    }

    #[test]
    fn targets_are_counted() {
        let mut targets = Targets::new(10, 3);
        let all = [1, 10, 11, 11, 30, 11];
        all.iter().for_each(|ino| targets.add(*ino));
        let mut seen = Vec::new();
        targets.each(|ino| seen.push(ino));
        seen.sort_unstable();
        assert_eq!(seen, [1, 10, 11, 11, 11, 30]);
    }
}

//! What the run knows of each inode in use: its type, its link count, the references found.
//!
//! Source: the kernel's ext4 documentation, "Index Nodes".
//! Invariants: groups without inodes in use take no memory.

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
    groups: Vec<Option<Box<[Known]>>>,
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
            .and_then(|(group, index)| self.groups.get(group)?.as_ref()?.get(index).copied());
        known.unwrap_or_default()
    }

    pub fn is_used(&self, ino: u32) -> bool {
        self.get(ino).file_type != 0
    }

    pub fn at(&mut self, ino: u32) -> Option<&mut Known> {
        let per_group = self.per_group as usize;
        let (group, index) = self.place(ino)?;
        let slot = self.groups.get_mut(group)?;
        slot.get_or_insert_with(|| vec![Known::default(); per_group].into_boxed_slice())
            .get_mut(index)
    }

    pub fn set(&mut self, ino: u32, known: Known) {
        if let Some(slot) = self.at(ino) {
            *slot = known;
        }
    }

    pub fn found(&mut self, ino: u32) {
        if let Some(slot) = self.at(ino) {
            slot.found = slot.found.saturating_add(1);
        }
    }

    pub fn lost(&mut self, ino: u32) {
        if let Some(slot) = self.at(ino) {
            slot.found = slot.found.saturating_sub(1);
        }
    }

    /// The inodes in use, ascending, of one group.
    pub fn of_group(&self, group: u32) -> impl Iterator<Item = (u32, Known)> + '_ {
        let base = group.saturating_mul(self.per_group);
        let known = self.groups.get(group as usize).and_then(Option::as_ref);
        known
            .into_iter()
            .flat_map(|slots| slots.iter().enumerate())
            .filter(|(_, known)| known.file_type != 0)
            .map(move |(index, known)| {
                (base.saturating_add(index as u32).saturating_add(1), *known)
            })
    }

    pub fn group_count(&self) -> u32 {
        self.groups.len() as u32
    }
}

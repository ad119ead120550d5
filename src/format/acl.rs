//! POSIX access control lists: ext4's own form, the form that user space sees, and what they mean for a mode.
//!
//! Source: the kernel's ext4 documentation, "Extended Attributes"; POSIX 1003.1e draft 17 for the semantics.
//! Invariants: an `Acl` has exactly one owner, group and other entry, a mask if it names anybody, its entries in
//! canonical order, and only rwx bits.

use crate::error::{CorruptKind, Error, Location, Posix, Result, Structure};
use crate::format::raw::{le16, le32};

const DISK_VERSION: u32 = 1;
const XATTR_VERSION: u32 = 2;
/// The id of an entry that has none, in the user's form.
const NO_ID: u32 = u32::MAX;
const RWX: u16 = 7;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tag {
    UserObj,
    User(u32),
    GroupObj,
    Group(u32),
    Mask,
    Other,
}

impl Tag {
    fn from_raw(tag: u16, id: u32) -> Option<Self> {
        Some(match tag {
            0x01 => Self::UserObj,
            0x02 if id != NO_ID => Self::User(id),
            0x04 => Self::GroupObj,
            0x08 if id != NO_ID => Self::Group(id),
            0x10 => Self::Mask,
            0x20 => Self::Other,
            _ => return None,
        })
    }

    fn raw(self) -> (u16, Option<u32>) {
        match self {
            Self::UserObj => (0x01, None),
            Self::User(id) => (0x02, Some(id)),
            Self::GroupObj => (0x04, None),
            Self::Group(id) => (0x08, Some(id)),
            Self::Mask => (0x10, None),
            Self::Other => (0x20, None),
        }
    }

    /// The place in the canonical order.
    fn rank(self) -> u8 {
        match self {
            Self::UserObj => 0,
            Self::User(_) => 1,
            Self::GroupObj => 2,
            Self::Group(_) => 3,
            Self::Mask => 4,
            Self::Other => 5,
        }
    }

    fn is_named(self) -> bool {
        matches!(self, Self::User(_) | Self::Group(_))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub tag: Tag,
    /// rwx as in a mode's lowest three bits.
    pub perm: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl {
    entries: Vec<Entry>,
}

/// What a new file gets from its parent's default ACL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inherited {
    /// The mode with the permission bits that the ACL leaves.
    pub mode: u16,
    /// The access ACL to store; `None` when the mode says it all.
    pub access: Option<Acl>,
}

impl Acl {
    /// From the user's (xattr) form. `None` for a list without entries, which stands for no ACL. Inval when it is malformed.
    pub fn from_xattr(bytes: &[u8]) -> Result<Option<Self>> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let body = bytes
            .get(4..)
            .filter(|body| body.len().is_multiple_of(8))
            .ok_or(Posix::Inval)?;
        if le32(bytes, 0) != XATTR_VERSION {
            return Err(Posix::OpNotSupp.into());
        }
        if body.is_empty() {
            return Ok(None);
        }
        let entries = body
            .chunks_exact(8)
            .map(|raw| parse_entry(raw, le32(raw, 4)));
        let entries: Option<Vec<Entry>> = entries.collect();
        let entries = entries
            .filter(|entries| is_valid(entries))
            .ok_or(Posix::Inval)?;
        Ok(Some(Self { entries }))
    }

    /// The user's (xattr) form.
    pub fn to_xattr(&self) -> Vec<u8> {
        let mut bytes = XATTR_VERSION.to_le_bytes().to_vec();
        for entry in &self.entries {
            let (tag, id) = entry.tag.raw();
            bytes.extend_from_slice(&tag.to_le_bytes());
            bytes.extend_from_slice(&entry.perm.to_le_bytes());
            bytes.extend_from_slice(&id.unwrap_or(NO_ID).to_le_bytes());
        }
        bytes
    }

    /// From the form on disk.
    pub fn from_disk(bytes: &[u8]) -> Result<Self> {
        let corrupt = |field, found: u32| {
            let kind = CorruptKind::Field {
                what: Structure::Acl,
                field,
                found: u64::from(found),
            };
            Error::corrupt(kind, Location::default())
        };
        let short = || {
            Error::corrupt(
                CorruptKind::Short {
                    what: Structure::Acl,
                },
                Location::default(),
            )
        };
        let mut rest = bytes.get(4..).ok_or_else(short)?;
        if le32(bytes, 0) != DISK_VERSION {
            return Err(corrupt("a_version", le32(bytes, 0)));
        }
        let mut entries = Vec::new();
        while !rest.is_empty() {
            let tag = le16(rest, 0);
            let size = if matches!(tag, 0x02 | 0x08) { 8 } else { 4 };
            let (raw, after) = rest.split_at_checked(size).ok_or_else(short)?;
            entries.push(
                parse_entry(raw, le32(raw, 4)).ok_or_else(|| corrupt("e_tag", u32::from(tag)))?,
            );
            rest = after;
        }
        if !is_valid(&entries) {
            return Err(corrupt(
                "entries",
                u32::try_from(entries.len()).unwrap_or(u32::MAX),
            ));
        }
        Ok(Self { entries })
    }

    /// The form on disk: entries without an id are 4 bytes long.
    pub fn to_disk(&self) -> Vec<u8> {
        let mut bytes = DISK_VERSION.to_le_bytes().to_vec();
        for entry in &self.entries {
            let (tag, id) = entry.tag.raw();
            bytes.extend_from_slice(&tag.to_le_bytes());
            bytes.extend_from_slice(&entry.perm.to_le_bytes());
            if let Some(id) = id {
                bytes.extend_from_slice(&id.to_le_bytes());
            }
        }
        bytes
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The nine permission bits that a file with this access ACL shows, and whether they say all of it (then the ACL
    /// need not be stored).
    pub fn equivalent_mode(&self) -> (u16, bool) {
        let (mut mode, mut mask, mut exact) = (0, None, true);
        for entry in &self.entries {
            match entry.tag {
                Tag::UserObj => mode |= entry.perm << 6,
                Tag::GroupObj => mode |= entry.perm << 3,
                Tag::Other => mode |= entry.perm,
                Tag::Mask => {
                    mask = Some(entry.perm);
                    exact = false;
                }
                Tag::User(_) | Tag::Group(_) => exact = false,
            }
        }
        if let Some(mask) = mask {
            mode = (mode & !0o070) | (mask << 3);
        }
        (mode, exact)
    }

    /// The access ACL after chmod to `mode`: the group bits go to the mask where there is one.
    pub fn with_mode(&self, mode: u16) -> Self {
        let group = self.group_class();
        let mut entries = self.entries.clone();
        for entry in &mut entries {
            match entry.tag {
                Tag::UserObj => entry.perm = (mode >> 6) & RWX,
                Tag::Other => entry.perm = mode & RWX,
                tag if tag == group => entry.perm = (mode >> 3) & RWX,
                _ => {}
            }
        }
        Self { entries }
    }

    /// What a file created with `mode` under a directory with this default ACL gets (the umask does not apply). A new
    /// directory gets the default ACL itself as well.
    pub fn inherit(&self, mode: u16) -> Inherited {
        let group = self.group_class();
        let mut entries = self.entries.clone();
        let mut bits = 0;
        for entry in &mut entries {
            let shift = match entry.tag {
                Tag::UserObj => 6,
                Tag::Other => 0,
                tag if tag == group => 3,
                _ => continue,
            };
            entry.perm &= (mode >> shift) & RWX;
            bits |= entry.perm << shift;
        }
        let exact = entries
            .iter()
            .all(|entry| !entry.tag.is_named() && entry.tag != Tag::Mask);
        let access = (!exact).then_some(Self { entries });
        Inherited {
            mode: (mode & !0o777) | bits,
            access,
        }
    }

    /// The entry that a mode's group bits stand for.
    fn group_class(&self) -> Tag {
        if self.entries.iter().any(|entry| entry.tag == Tag::Mask) {
            Tag::Mask
        } else {
            Tag::GroupObj
        }
    }
}

/// `Acl::equivalent_mode` of an ACL in the user's form. Inval when it is malformed or empty.
pub fn equivalent_mode(xattr: &[u8]) -> Result<(u16, bool)> {
    Ok(some(xattr)?.equivalent_mode())
}

/// `Acl::with_mode`, from and to the user's form.
pub fn chmod(xattr: &[u8], mode: u16) -> Result<Vec<u8>> {
    Ok(some(xattr)?.with_mode(mode).to_xattr())
}

/// `Acl::inherit`, from and to the user's form: the mode, and the access ACL if it must be stored.
pub fn inherit(default: &[u8], mode: u16) -> Result<(u16, Option<Vec<u8>>)> {
    let inherited = some(default)?.inherit(mode);
    Ok((inherited.mode, inherited.access.map(|acl| acl.to_xattr())))
}

fn some(xattr: &[u8]) -> Result<Acl> {
    Ok(Acl::from_xattr(xattr)?.ok_or(Posix::Inval)?)
}

fn parse_entry(raw: &[u8], id: u32) -> Option<Entry> {
    let perm = le16(raw, 2);
    let tag = Tag::from_raw(le16(raw, 0), id)?;
    (perm & !RWX == 0).then_some(Entry { tag, perm })
}

fn is_valid(entries: &[Entry]) -> bool {
    let count = |rank| {
        entries
            .iter()
            .filter(|entry| entry.tag.rank() == rank)
            .count()
    };
    let named = entries.iter().any(|entry| entry.tag.is_named());
    let ordered = entries.is_sorted_by_key(|entry| entry.tag.rank());
    ordered
        && [0, 2, 5].into_iter().all(|rank| count(rank) == 1)
        && (count(4) == 1 || (count(4) == 0 && !named))
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]
    use super::*;

    fn acl(entries: &[(Tag, u16)]) -> Acl {
        let entries: Vec<Entry> = entries
            .iter()
            .map(|&(tag, perm)| Entry { tag, perm })
            .collect();
        assert!(is_valid(&entries));
        Acl { entries }
    }

    fn named() -> Acl {
        acl(&[
            (Tag::UserObj, 7),
            (Tag::User(1000), 6),
            (Tag::GroupObj, 5),
            (Tag::Group(7), 4),
            (Tag::Mask, 6),
            (Tag::Other, 1),
        ])
    }

    #[test]
    fn both_forms_come_back() {
        let acl = named();
        assert_eq!(acl.to_disk().len(), 4 + 4 * 4 + 2 * 8);
        assert_eq!(Acl::from_disk(&acl.to_disk()).unwrap(), acl);
        assert_eq!(acl.to_xattr().len(), 4 + 6 * 8);
        assert_eq!(Acl::from_xattr(&acl.to_xattr()).unwrap(), Some(acl));
        assert_eq!(Acl::from_xattr(&2u32.to_le_bytes()).unwrap(), None);
    }

    #[test]
    fn malformed_lists_are_refused() {
        let good = named().to_xattr();
        for (at, value) in [(0, 3), (4, 0x40), (6, 8), (12, 0x01), (16, 0xff)] {
            let mut bad = good.clone();
            bad[at] = value;
            let refused = Acl::from_xattr(&bad).is_err();
            assert!(refused || at == 16, "byte {at}");
        }
        assert!(Acl::from_xattr(&good[..good.len() - 1]).is_err());
        assert!(Acl::from_xattr(&good[..good.len() - 8]).is_err());
        let disk = named().to_disk();
        for len in 0..disk.len() {
            assert!(Acl::from_disk(&disk[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn the_mask_is_the_group_class() {
        assert_eq!(named().equivalent_mode(), (0o761, false));
        let plain = acl(&[(Tag::UserObj, 6), (Tag::GroupObj, 4), (Tag::Other, 0)]);
        assert_eq!(plain.equivalent_mode(), (0o640, true));
        let changed = named().with_mode(0o100_421);
        assert_eq!(changed.equivalent_mode(), (0o421, false));
        assert_eq!(changed.entries()[2].perm, 5);
        assert_eq!(plain.with_mode(0o755).equivalent_mode(), (0o755, true));
    }

    #[test]
    fn inheritance_takes_bits_away_on_both_sides() {
        let new = named().inherit(0o100_666);
        assert_eq!(new.mode, 0o100_660);
        let access = new.access.unwrap();
        assert_eq!(access.equivalent_mode(), (0o660, false));
        assert_eq!(access.entries()[2].perm, 5);
        let plain = acl(&[(Tag::UserObj, 7), (Tag::GroupObj, 5), (Tag::Other, 5)]);
        assert_eq!(
            plain.inherit(0o666),
            Inherited {
                mode: 0o644,
                access: None
            }
        );
    }
}

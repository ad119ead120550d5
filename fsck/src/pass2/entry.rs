//! One entry: its name, and what it points to.
//!
//! Source: the kernel's ext4 documentation, "Directory Entries", "Encryption", "Casefold".
//! Invariants: an entry that is taken out keeps its length, with inode 0; a directory has one entry at most.

use super::Directory;
use crate::dirblock;
use crate::inodes::{Known, known};
use crate::problem::{At, Problem};
use crate::session::Fsck;
use crate::{Result, Stop};
use std::hash::{DefaultHasher, Hasher as _};
use uext4::format::features::incompat;
use uext4::format::group::flag;
use uext4::ids::InodeNumber;

/// Ciphertext of a name is at least this long.
const ENCRYPTED_MIN: usize = 16;

impl Fsck<'_, '_> {
    /// Every live entry from `start`.
    pub fn entries(
        &mut self,
        dir: &mut Directory,
        lblk: u64,
        bytes: &mut [u8],
        end: usize,
        skip_dots: bool,
    ) -> Result<()> {
        let mut at = 0;
        let mut index = 0;
        while at + dirblock::HEADER <= end {
            let length = dirblock::rec_len(bytes, at);
            if length < dirblock::HEADER || at + length > bytes.len() {
                break;
            }
            let is_dot = skip_dots && index < 2;
            if dirblock::ino(bytes, at) != 0 && !is_dot {
                let keep = self.entry(dir, bytes, at)?;
                if !keep {
                    dirblock::set_ino(bytes, at, 0);
                } else if dirblock::ino(bytes, at) != 0 {
                    self.inodes.found(dirblock::ino(bytes, at));
                    dir.note_hash(lblk, &dirblock::name(bytes, at));
                }
            }
            index += 1;
            at += length;
        }
        Ok(())
    }

    /// False to take it out.
    fn entry(&mut self, dir: &mut Directory, bytes: &mut [u8], at: usize) -> Result<bool> {
        let ino = dirblock::ino(bytes, at);
        let name = dirblock::name(bytes, at);
        let here = At::dir(dir.ino).target(ino).name(&name);
        let problem = self.target_problem(dir, ino, &name)?;
        if let Some(problem) = problem {
            return Ok(!self.report.fix(problem, here)?);
        }
        let known = self.inodes.get(ino);
        if dir.encrypted
            && let Some(problem) = self.encryption_problem(dir, ino, &name, known)
        {
            return Ok(!self.report.fix(problem, here)?);
        }
        let name = self.name(dir, bytes, at, name, &here)?;
        self.entry_type(bytes, at, known, &here)?;
        let Some(name) = self.duplicate(dir, bytes, at, name, ino, &here)? else {
            return Ok(false);
        };
        let _ = name;
        if known.file_type == 2 {
            let parent = self.dirs.get(ino).map_or(0, |dir| dir.parent);
            if parent != 0 {
                return Ok(!self.report.fix(Problem::EntrySecondLink, here)?);
            }
            self.dirs.change(ino, |child| child.parent = dir.ino);
        }
        Ok(true)
    }

    fn target_problem(
        &mut self,
        dir: &Directory,
        ino: u32,
        name: &[u8],
    ) -> Result<Option<Problem>> {
        if name == b"." || name == b".." {
            return Ok(Some(Problem::DotDuplicate));
        }
        if ino > self.geo.inodes_count || ino < self.geo.first_ino && ino != 2 {
            return Ok(Some(Problem::EntryBadInode));
        }
        if name.is_empty() {
            return Ok(Some(Problem::EntryNoName));
        }
        if ino == dir.ino {
            return Ok(Some(Problem::EntrySelf));
        }
        if ino == 2 {
            return Ok(Some(Problem::EntryRoot));
        }
        let known = self.inodes.get(ino);
        if known.file_type == 0 {
            self.perhaps_unread(dir, ino, name)?;
            return Ok(Some(Problem::EntryUnused));
        }
        if known.flags & known::SPECIAL != 0 {
            return Ok(Some(Problem::EntryReserved));
        }
        if known.flags & known::EA != 0 && self.geo.features.has_incompat(incompat::EA_INODE) {
            if self.ea_refs.contains(ino) {
                return Ok(Some(Problem::EntryEaInode));
            }
            // No attribute has it as its value, so that it is a file.
            self.release_value_inode(ino, Problem::EaInodeFlagSpurious)?;
        }
        Ok(None)
    }

    /// An inode that its group counts among the never used, but that is in use: the table is read whole, from the start.
    fn perhaps_unread(&mut self, dir: &Directory, ino: u32, name: &[u8]) -> Result<()> {
        let Ok((group, index)) = self.geo.inode_place(InodeNumber::new(ino)) else {
            return Ok(());
        };
        let group = group.get();
        if !self.geo.features.group_csum() || self.whole_tables.contains(&group) {
            return Ok(());
        }
        let desc = self.groups.get(group);
        let uninit = desc.has(flag::INODE_UNINIT);
        if !uninit && index < self.geo.inodes_per_group.saturating_sub(desc.itable_unused) {
            return Ok(());
        }
        let raw = self.read_inode(ino)?;
        if raw.links() == 0 || raw.file_type() == 0 {
            return Ok(());
        }
        let problem = if uninit {
            Problem::InodePastUninit
        } else {
            Problem::InodePastUnused
        };
        if self
            .report
            .fix(problem, At::dir(dir.ino).target(ino).name(name))?
        {
            self.whole_tables.insert(group);
            self.change_group(group, |desc| desc.flags &= !flag::INODE_UNINIT);
            return Err(Stop::Restart);
        }
        Ok(())
    }

    fn encryption_problem(
        &self,
        dir: &Directory,
        ino: u32,
        name: &[u8],
        known: Known,
    ) -> Option<Problem> {
        if name.len() < ENCRYPTED_MIN {
            return Some(Problem::EncryptedNameShort);
        }
        if !matches!(known.file_type, 1 | 2 | 7) {
            return None;
        }
        if known.flags & known::ENCRYPTED == 0 {
            return Some(Problem::EncryptedChild);
        }
        let other = self.policies.of(ino);
        (dir.policy.is_some() && other != dir.policy).then_some(Problem::EncryptedPolicy)
    }

    /// Bytes that a name cannot have become dots.
    fn name(
        &mut self,
        dir: &mut Directory,
        bytes: &mut [u8],
        at: usize,
        name: Vec<u8>,
        here: &At,
    ) -> Result<Vec<u8>> {
        if dir.encrypted {
            return Ok(name);
        }
        let mut new = name.clone();
        let odd = |byte: &u8| *byte == b'/' || *byte == 0;
        if name.iter().any(odd) && self.report.fix(Problem::EntrySlash, here.clone())? {
            // Dots alone would be a name that means something else.
            let only = name.iter().all(|byte| odd(byte) || *byte == b'.');
            let filler = if only { b'_' } else { b'.' };
            new.iter_mut()
                .filter(|byte| odd(byte))
                .for_each(|byte| *byte = filler);
        }
        if dir.casefold
            && std::str::from_utf8(&new).is_err()
            && self.report.fix(Problem::NameEncoding, here.clone())?
        {
            new.iter_mut()
                .filter(|byte| !byte.is_ascii())
                .for_each(|byte| *byte = b'.');
        }
        if new != name {
            bytes[at + dirblock::HEADER..][..new.len()].copy_from_slice(&new);
            dir.renamed = true;
        }
        Ok(new)
    }

    fn entry_type(&mut self, bytes: &mut [u8], at: usize, known: Known, here: &At) -> Result<()> {
        let found = dirblock::file_type(bytes, at);
        let expected = self.type_in_entries(known.file_type);
        // 0 is "unknown", which is allowed.
        if found == expected || found == 0 {
            return Ok(());
        }
        let problem = if self.geo.features.has_incompat(incompat::FILETYPE) {
            Problem::EntryFileType
        } else {
            Problem::EntryFileTypeSet
        };
        let here = here.clone().found(found.into()).expected(expected.into());
        if self.report.fix(problem, here)? {
            dirblock::set_u8(bytes, at + 7, expected);
        }
        Ok(())
    }

    /// A second entry of the same name is renamed, or goes when it is the same link. `None` to take it out.
    fn duplicate(
        &mut self,
        dir: &mut Directory,
        bytes: &mut [u8],
        at: usize,
        name: Vec<u8>,
        ino: u32,
        here: &At,
    ) -> Result<Option<Vec<u8>>> {
        let Some(same) = dir.find(&name) else {
            dir.remember(name.clone(), ino);
            return Ok(Some(name));
        };
        if !self.report.fix(Problem::DuplicateName, here.clone())? {
            return Ok(Some(name));
        }
        if same == ino {
            return Ok(None);
        }
        let room = dirblock::rec_len(bytes, at) - dirblock::HEADER;
        let Some(new) = free_name(dir, &name, room.min(255)) else {
            return Ok(None);
        };
        bytes[at + dirblock::HEADER..][..new.len()].copy_from_slice(&new);
        dirblock::set_u8(bytes, at + 6, new.len() as u8);
        dir.renamed = true;
        dir.remember(new.clone(), ino);
        Ok(Some(new))
    }
}

/// `name~0` and so on, as long as there is room; else the last characters make way.
fn free_name(dir: &Directory, name: &[u8], room: usize) -> Option<Vec<u8>> {
    (0..1000_u32).find_map(|number| {
        let ending = format!("~{number}");
        let keep = name.len().min(room.saturating_sub(ending.len()));
        let keep = if dir.encrypted {
            name.len().saturating_sub(ending.len())
        } else {
            keep
        };
        let mut new = name[..keep].to_vec();
        new.extend_from_slice(ending.as_bytes());
        (new.len() <= room && dir.find(&new).is_none()).then_some(new)
    })
}

fn hash(name: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(name);
    hasher.finish()
}

impl Directory {
    /// The inode of a name that was seen.
    fn find(&self, name: &[u8]) -> Option<u32> {
        let same = self.names.get(&hash(name))?;
        same.iter()
            .find(|(other, _)| other == name)
            .map(|(_, ino)| *ino)
    }

    fn remember(&mut self, name: Vec<u8>, ino: u32) {
        self.names.entry(hash(&name)).or_default().push((name, ino));
    }
}

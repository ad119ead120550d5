//! Feature bits and what we do with an image that has them.
//!
//! Source: the kernel's ext4 documentation, "Super Block", feature tables.
//! Invariants: every known bit stands in one table with its treatment; an unknown incompat bit refuses the
//! image, an unknown ro_compat bit makes it read-only.

use crate::error::{Incompatible, Result};

/// The three feature words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    pub compat: u32,
    pub incompat: u32,
    pub ro_compat: u32,
}

pub mod compat {
    pub const DIR_PREALLOC: u32 = 0x1;
    pub const HAS_JOURNAL: u32 = 0x4;
    pub const EXT_ATTR: u32 = 0x8;
    pub const RESIZE_INODE: u32 = 0x10;
    pub const DIR_INDEX: u32 = 0x20;
    pub const SPARSE_SUPER2: u32 = 0x200;
    pub const FAST_COMMIT: u32 = 0x400;
    pub const STABLE_INODES: u32 = 0x800;
    pub const ORPHAN_FILE: u32 = 0x1000;
}

pub mod incompat {
    pub const FILETYPE: u32 = 0x2;
    pub const RECOVER: u32 = 0x4;
    pub const JOURNAL_DEV: u32 = 0x8;
    pub const META_BG: u32 = 0x10;
    pub const EXTENTS: u32 = 0x40;
    pub const BIT64: u32 = 0x80;
    pub const MMP: u32 = 0x100;
    pub const FLEX_BG: u32 = 0x200;
    pub const EA_INODE: u32 = 0x400;
    pub const DIRDATA: u32 = 0x1000;
    pub const CSUM_SEED: u32 = 0x2000;
    pub const LARGEDIR: u32 = 0x4000;
    pub const INLINE_DATA: u32 = 0x8000;
    pub const ENCRYPT: u32 = 0x10000;
    pub const CASEFOLD: u32 = 0x20000;
}

pub mod ro_compat {
    pub const SPARSE_SUPER: u32 = 0x1;
    pub const LARGE_FILE: u32 = 0x2;
    pub const BTREE_DIR: u32 = 0x4;
    pub const HUGE_FILE: u32 = 0x8;
    pub const GDT_CSUM: u32 = 0x10;
    pub const DIR_NLINK: u32 = 0x20;
    pub const EXTRA_ISIZE: u32 = 0x40;
    pub const QUOTA: u32 = 0x100;
    pub const BIGALLOC: u32 = 0x200;
    pub const METADATA_CSUM: u32 = 0x400;
    pub const READONLY: u32 = 0x1000;
    pub const PROJECT: u32 = 0x2000;
    pub const SHARED_BLOCKS: u32 = 0x4000;
    pub const VERITY: u32 = 0x8000;
    pub const ORPHAN_PRESENT: u32 = 0x10000;
}

impl Features {
    pub fn has_compat(&self, bit: u32) -> bool {
        self.compat & bit != 0
    }
    pub fn has_incompat(&self, bit: u32) -> bool {
        self.incompat & bit != 0
    }
    pub fn has_ro_compat(&self, bit: u32) -> bool {
        self.ro_compat & bit != 0
    }
    pub fn metadata_csum(&self) -> bool {
        self.has_ro_compat(ro_compat::METADATA_CSUM)
    }
    /// Group descriptors carry a checksum (crc16 or crc32c), so UNINIT flags mean something.
    pub fn group_csum(&self) -> bool {
        self.metadata_csum() || self.has_ro_compat(ro_compat::GDT_CSUM)
    }
}

/// The three words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    Compat,
    Incompat,
    RoCompat,
}

/// What we do with an image that has a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    ReadWrite,
    /// Mounted read-only, for this reason.
    ReadOnly(&'static str),
    /// Not mounted.
    Refuse,
}

/// A known feature: its name as dumpe2fs prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    pub word: Word,
    pub bit: u32,
    pub name: &'static str,
    pub treatment: Treatment,
}

/// Every feature that is known.
pub const KNOWN: &[Feature] = {
    use Treatment::{ReadOnly, ReadWrite, Refuse};
    use Word::{Compat, Incompat, RoCompat};
    const fn f(word: Word, bit: u32, name: &'static str, treatment: Treatment) -> Feature {
        Feature {
            word,
            bit,
            name,
            treatment,
        }
    }
    const NOT_WRITTEN: Treatment = ReadOnly("it is not written yet");
    &[
        f(Compat, compat::DIR_PREALLOC, "dir_prealloc", ReadWrite),
        f(Compat, compat::HAS_JOURNAL, "has_journal", ReadWrite),
        f(Compat, compat::EXT_ATTR, "ext_attr", ReadWrite),
        f(Compat, compat::RESIZE_INODE, "resize_inode", ReadWrite),
        f(Compat, compat::DIR_INDEX, "dir_index", ReadWrite),
        f(Compat, compat::SPARSE_SUPER2, "sparse_super2", ReadWrite),
        f(Compat, compat::FAST_COMMIT, "fast_commit", ReadWrite),
        f(Compat, compat::STABLE_INODES, "stable_inodes", ReadWrite),
        f(Compat, compat::ORPHAN_FILE, "orphan_file", ReadWrite),
        f(Incompat, 0x1, "compression", Refuse),
        f(Incompat, incompat::FILETYPE, "filetype", ReadWrite),
        f(Incompat, incompat::RECOVER, "needs_recovery", ReadWrite),
        f(Incompat, incompat::JOURNAL_DEV, "journal_dev", Refuse),
        f(Incompat, incompat::META_BG, "meta_bg", ReadWrite),
        f(Incompat, incompat::EXTENTS, "extent", ReadWrite),
        f(Incompat, incompat::BIT64, "64bit", ReadWrite),
        f(Incompat, incompat::MMP, "mmp", NOT_WRITTEN),
        f(Incompat, incompat::FLEX_BG, "flex_bg", ReadWrite),
        f(Incompat, incompat::EA_INODE, "ea_inode", NOT_WRITTEN),
        f(Incompat, incompat::DIRDATA, "dirdata", Refuse),
        f(
            Incompat,
            incompat::CSUM_SEED,
            "metadata_csum_seed",
            ReadWrite,
        ),
        f(Incompat, incompat::LARGEDIR, "large_dir", NOT_WRITTEN),
        f(Incompat, incompat::INLINE_DATA, "inline_data", NOT_WRITTEN),
        f(
            Incompat,
            incompat::ENCRYPT,
            "encrypt",
            ReadOnly("names and contents are encrypted"),
        ),
        f(
            Incompat,
            incompat::CASEFOLD,
            "casefold",
            ReadOnly("names are looked up as they are"),
        ),
        f(RoCompat, ro_compat::SPARSE_SUPER, "sparse_super", ReadWrite),
        f(RoCompat, ro_compat::LARGE_FILE, "large_file", ReadWrite),
        f(RoCompat, ro_compat::BTREE_DIR, "btree_dir", ReadWrite),
        f(RoCompat, ro_compat::HUGE_FILE, "huge_file", ReadWrite),
        f(RoCompat, ro_compat::GDT_CSUM, "uninit_bg", ReadWrite),
        f(RoCompat, ro_compat::DIR_NLINK, "dir_nlink", ReadWrite),
        f(RoCompat, ro_compat::EXTRA_ISIZE, "extra_isize", ReadWrite),
        f(RoCompat, ro_compat::QUOTA, "quota", NOT_WRITTEN),
        f(RoCompat, ro_compat::BIGALLOC, "bigalloc", NOT_WRITTEN),
        f(
            RoCompat,
            ro_compat::METADATA_CSUM,
            "metadata_csum",
            ReadWrite,
        ),
        f(
            RoCompat,
            ro_compat::READONLY,
            "read-only",
            ReadOnly("the image asks for it"),
        ),
        f(RoCompat, ro_compat::PROJECT, "project", NOT_WRITTEN),
        f(
            RoCompat,
            ro_compat::SHARED_BLOCKS,
            "shared_blocks",
            ReadOnly("files share blocks"),
        ),
        f(RoCompat, ro_compat::VERITY, "verity", NOT_WRITTEN),
        f(
            RoCompat,
            ro_compat::ORPHAN_PRESENT,
            "orphan_present",
            ReadWrite,
        ),
    ]
};

/// The names of the features that are set, as far as they are known.
pub fn names(features: Features) -> Vec<&'static str> {
    let has = |feature: &&Feature| {
        let word = match feature.word {
            Word::Compat => features.compat,
            Word::Incompat => features.incompat,
            Word::RoCompat => features.ro_compat,
        };
        word & feature.bit != 0
    };
    KNOWN
        .iter()
        .filter(has)
        .map(|feature| feature.name)
        .collect()
}

/// How an image may be mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    reasons: Vec<String>,
}

impl Access {
    /// Why only reading is possible, a line each; empty when writing is, too.
    pub fn reasons(&self) -> &[String] {
        &self.reasons
    }
}

/// What the features allow; an error when the image cannot be mounted at all.
pub fn gate(features: Features) -> Result<Access> {
    let has = |feature: &Feature| {
        let word = match feature.word {
            Word::Compat => features.compat,
            Word::Incompat => features.incompat,
            Word::RoCompat => features.ro_compat,
        };
        word & feature.bit != 0
    };
    let known = |word: Word| {
        let of_word = KNOWN.iter().filter(|feature| feature.word == word);
        of_word.fold(0, |bits, feature| bits | feature.bit)
    };
    let unknown = features.incompat & !known(Word::Incompat);
    if unknown != 0 {
        return Err(Incompatible::UnknownIncompat(unknown).into());
    }
    let mut access = Access::default();
    for feature in KNOWN.iter().filter(|feature| has(feature)) {
        match feature.treatment {
            Treatment::ReadWrite => {}
            Treatment::ReadOnly(why) => {
                access
                    .reasons
                    .push(format!("feature {}: {why}", feature.name));
            }
            Treatment::Refuse => return Err(Incompatible::Feature(feature.name).into()),
        }
    }
    let unknown = features.ro_compat & !known(Word::RoCompat);
    if unknown != 0 {
        access
            .reasons
            .push(format!("unknown ro_compat features {unknown:#x}"));
    }
    Ok(access)
}

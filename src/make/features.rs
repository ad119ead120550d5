//! The features of a new file system: the sets of ext2, ext3 and ext4, and changes by name.
//!
//! Source: the kernel's ext4 documentation, feature tables; names and sets as in `mke2fs -O` and its mke2fs.conf.
//! Invariants: a name that is not in the table is refused, never ignored; what `resolve` returns can be made.

use super::MakeError;
use crate::format::features::{Features, compat, incompat, ro_compat};
use std::str::FromStr;

/// Which file system the features begin with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    Ext2,
    Ext3,
    #[default]
    Ext4,
}

impl FromStr for Kind {
    type Err = MakeError;

    fn from_str(name: &str) -> Result<Self, MakeError> {
        match name {
            "ext2" => Ok(Self::Ext2),
            "ext3" => Ok(Self::Ext3),
            "ext4" => Ok(Self::Ext4),
            _ => Err(MakeError::Unsupported(format!("file system type {name}"))),
        }
    }
}

#[derive(Clone, Copy)]
enum Word {
    Compat,
    Incompat,
    RoCompat,
}

/// A feature that can be made, and the kinds that have it by default.
struct Known {
    name: &'static str,
    word: Word,
    bit: u32,
    kinds: &'static [Kind],
}

const fn known(name: &'static str, word: Word, bit: u32, kinds: &'static [Kind]) -> Known {
    Known {
        name,
        word,
        bit,
        kinds,
    }
}

const ALL: &[Kind] = &[Kind::Ext2, Kind::Ext3, Kind::Ext4];
const EXT3: &[Kind] = &[Kind::Ext3, Kind::Ext4];
const EXT4: &[Kind] = &[Kind::Ext4];
const NONE: &[Kind] = &[];

const KNOWN: &[Known] = {
    use Word::{Compat, Incompat, RoCompat};
    &[
        known("has_journal", Compat, compat::HAS_JOURNAL, EXT3),
        known("ext_attr", Compat, compat::EXT_ATTR, ALL),
        known("resize_inode", Compat, compat::RESIZE_INODE, ALL),
        known("dir_index", Compat, compat::DIR_INDEX, ALL),
        known("sparse_super2", Compat, compat::SPARSE_SUPER2, NONE),
        known("fast_commit", Compat, compat::FAST_COMMIT, NONE),
        known("stable_inodes", Compat, compat::STABLE_INODES, NONE),
        known("orphan_file", Compat, compat::ORPHAN_FILE, EXT4),
        known("filetype", Incompat, incompat::FILETYPE, ALL),
        known("meta_bg", Incompat, incompat::META_BG, NONE),
        known("extent", Incompat, incompat::EXTENTS, EXT4),
        known("extents", Incompat, incompat::EXTENTS, EXT4),
        known("64bit", Incompat, incompat::BIT64, EXT4),
        known("mmp", Incompat, incompat::MMP, NONE),
        known("flex_bg", Incompat, incompat::FLEX_BG, EXT4),
        known("ea_inode", Incompat, incompat::EA_INODE, NONE),
        known("metadata_csum_seed", Incompat, incompat::CSUM_SEED, EXT4),
        known("large_dir", Incompat, incompat::LARGEDIR, NONE),
        known("inline_data", Incompat, incompat::INLINE_DATA, NONE),
        known("encrypt", Incompat, incompat::ENCRYPT, NONE),
        known("casefold", Incompat, incompat::CASEFOLD, NONE),
        known("sparse_super", RoCompat, ro_compat::SPARSE_SUPER, ALL),
        known("large_file", RoCompat, ro_compat::LARGE_FILE, ALL),
        known("huge_file", RoCompat, ro_compat::HUGE_FILE, EXT4),
        known("uninit_bg", RoCompat, ro_compat::GDT_CSUM, NONE),
        known("uninit_groups", RoCompat, ro_compat::GDT_CSUM, NONE),
        known("dir_nlink", RoCompat, ro_compat::DIR_NLINK, EXT4),
        known("extra_isize", RoCompat, ro_compat::EXTRA_ISIZE, EXT4),
        known("quota", RoCompat, ro_compat::QUOTA, NONE),
        known("bigalloc", RoCompat, ro_compat::BIGALLOC, NONE),
        known("metadata_csum", RoCompat, ro_compat::METADATA_CSUM, EXT4),
        known("project", RoCompat, ro_compat::PROJECT, NONE),
        known("verity", RoCompat, ro_compat::VERITY, NONE),
    ]
};

/// Feature bits, and which of them were asked for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureSet {
    bits: Features,
    asked: Features,
}

impl Default for FeatureSet {
    fn default() -> Self {
        Self::of(Kind::Ext4)
    }
}

impl FeatureSet {
    /// What a file system of that kind has by default.
    pub fn of(kind: Kind) -> Self {
        let mut bits = Features::default();
        for feature in KNOWN.iter().filter(|known| known.kinds.contains(&kind)) {
            *word(&mut bits, feature.word) |= feature.bit;
        }
        Self {
            bits,
            asked: Features::default(),
        }
    }

    /// Applies a list as `-O` takes it: `name`, `^name`, `none`, separated by commas.
    pub fn apply(&mut self, list: &str) -> Result<(), MakeError> {
        for item in list.split([',', ' ']).filter(|item| !item.is_empty()) {
            if item == "none" {
                (self.bits, self.asked) = Default::default();
                continue;
            }
            let (name, wanted) = match item.strip_prefix(['^', '-']) {
                Some(name) => (name, false),
                None => (item, true),
            };
            let feature = KNOWN
                .iter()
                .find(|known| known.name == name)
                .ok_or_else(|| {
                    MakeError::Unsupported(format!("making a file system with -O {item}"))
                })?;
            let (bits, asked) = (
                word(&mut self.bits, feature.word),
                word(&mut self.asked, feature.word),
            );
            if wanted {
                *bits |= feature.bit;
                *asked |= feature.bit;
            } else {
                *bits &= !feature.bit;
                *asked &= !feature.bit;
            }
        }
        Ok(())
    }

    /// Revision 0 has no features: none may have been asked for.
    pub fn clear_for_revision_0(&mut self) -> Result<(), MakeError> {
        if self.asked != Features::default() {
            return Err(MakeError::Invalid("revision 0 has no features".into()));
        }
        self.bits = Features::default();
        Ok(())
    }

    /// The bits as they are, whether or not they go together.
    pub fn bits(&self) -> Features {
        self.bits
    }

    /// Whether any of these incompatible features was asked for by name.
    pub fn asked_incompat(&self, bits: u32) -> bool {
        self.asked.has_incompat(bits)
    }

    /// The bits, without those that need a feature that was taken away; an error if such a one was asked for, or if
    /// two do not go together.
    pub fn resolve(&self) -> Result<Features, MakeError> {
        let mut bits = self.bits;
        if bits.metadata_csum() {
            bits.ro_compat &= !ro_compat::GDT_CSUM;
        }
        if !bits.metadata_csum() && bits.has_incompat(incompat::CSUM_SEED) {
            let asked = self.asked.has_incompat(incompat::CSUM_SEED);
            refuse_if(asked, "metadata_csum_seed", "metadata_csum")?;
            bits.incompat &= !incompat::CSUM_SEED;
        }
        if !bits.has_compat(compat::HAS_JOURNAL) && bits.has_compat(compat::ORPHAN_FILE) {
            let asked = self.asked.has_compat(compat::ORPHAN_FILE);
            refuse_if(asked, "orphan_file", "has_journal")?;
            bits.compat &= !compat::ORPHAN_FILE;
        }
        if bits.has_compat(compat::RESIZE_INODE)
            && !bits.has_ro_compat(ro_compat::SPARSE_SUPER)
            && !bits.has_compat(compat::SPARSE_SUPER2)
        {
            let asked = self.asked.has_compat(compat::RESIZE_INODE);
            refuse_if(asked, "resize_inode", "sparse_super")?;
            bits.compat &= !compat::RESIZE_INODE;
        }
        if bits.has_compat(compat::RESIZE_INODE) && bits.has_incompat(incompat::META_BG) {
            return Err(MakeError::Invalid(
                "features resize_inode and meta_bg do not go together: add ^resize_inode".into(),
            ));
        }
        let extents = bits.has_incompat(incompat::EXTENTS);
        refuse_if(
            bits.has_ro_compat(ro_compat::BIGALLOC) && !extents,
            "bigalloc",
            "extent",
        )?;
        refuse_if(
            bits.has_ro_compat(ro_compat::VERITY) && !extents,
            "verity",
            "extent",
        )?;
        let attributes = bits.has_compat(compat::EXT_ATTR);
        refuse_if(
            bits.has_incompat(incompat::INLINE_DATA) && !attributes,
            "inline_data",
            "ext_attr",
        )?;
        Ok(bits)
    }
}

fn refuse_if(asked: bool, feature: &str, needs: &str) -> Result<(), MakeError> {
    if asked {
        Err(MakeError::Invalid(format!(
            "feature {feature} needs feature {needs}"
        )))
    } else {
        Ok(())
    }
}

fn word(features: &mut Features, which: Word) -> &mut u32 {
    match which {
        Word::Compat => &mut features.compat,
        Word::Incompat => &mut features.incompat,
        Word::RoCompat => &mut features.ro_compat,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        let mut set = FeatureSet::default();
        for name in ["journal_dev", "compression", "^dirdata", "nonsense"] {
            let error = set.apply(name).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn a_dependent_feature_goes_with_what_it_needs_unless_asked_for() {
        let mut set = FeatureSet::default();
        set.apply("^metadata_csum,^has_journal").unwrap();
        let bits = set.resolve().unwrap();
        assert!(!bits.has_incompat(incompat::CSUM_SEED) && !bits.has_compat(compat::ORPHAN_FILE));
        set.apply("orphan_file").unwrap();
        assert!(
            set.resolve()
                .unwrap_err()
                .to_string()
                .contains("has_journal")
        );
    }

    #[test]
    fn kinds_differ() {
        let ext2 = FeatureSet::of(Kind::Ext2).resolve().unwrap();
        assert_eq!(ext2.compat, 0x38);
        assert_eq!((ext2.incompat, ext2.ro_compat), (0x2, 0x3));
        let ext3 = FeatureSet::of(Kind::Ext3).resolve().unwrap();
        assert_eq!(ext3.compat, ext2.compat | compat::HAS_JOURNAL);
        let mut none = FeatureSet::default();
        none.apply("none,extent").unwrap();
        assert_eq!(none.resolve().unwrap().incompat, incompat::EXTENTS);
    }
}

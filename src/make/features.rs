//! The features of a new file system: the default set and changes by name.
//!
//! Source: the kernel's ext4 documentation, feature tables; names as in `mke2fs -O`.
//! Invariants: a name that is not in the table is refused, never ignored.

use super::MakeError;
use crate::format::features::{Features, compat, incompat, ro_compat};

#[derive(Clone, Copy)]
enum Word {
    Compat,
    Incompat,
    RoCompat,
}

/// A feature that can be made; `optional` ones may also be left out.
struct Known {
    name: &'static str,
    word: Word,
    bit: u32,
    optional: bool,
}

const fn known(name: &'static str, word: Word, bit: u32, optional: bool) -> Known {
    Known {
        name,
        word,
        bit,
        optional,
    }
}

const KNOWN: &[Known] = &[
    known("has_journal", Word::Compat, compat::HAS_JOURNAL, true),
    known("ext_attr", Word::Compat, compat::EXT_ATTR, false),
    known("resize_inode", Word::Compat, compat::RESIZE_INODE, true),
    known("dir_index", Word::Compat, compat::DIR_INDEX, true),
    known("orphan_file", Word::Compat, compat::ORPHAN_FILE, true),
    known("filetype", Word::Incompat, incompat::FILETYPE, false),
    known("extent", Word::Incompat, incompat::EXTENTS, true),
    known("extents", Word::Incompat, incompat::EXTENTS, true),
    known("64bit", Word::Incompat, incompat::BIT64, true),
    known("flex_bg", Word::Incompat, incompat::FLEX_BG, true),
    known(
        "metadata_csum_seed",
        Word::Incompat,
        incompat::CSUM_SEED,
        true,
    ),
    known(
        "sparse_super",
        Word::RoCompat,
        ro_compat::SPARSE_SUPER,
        false,
    ),
    known("large_file", Word::RoCompat, ro_compat::LARGE_FILE, false),
    known("huge_file", Word::RoCompat, ro_compat::HUGE_FILE, true),
    known("dir_nlink", Word::RoCompat, ro_compat::DIR_NLINK, true),
    known("extra_isize", Word::RoCompat, ro_compat::EXTRA_ISIZE, false),
    known(
        "metadata_csum",
        Word::RoCompat,
        ro_compat::METADATA_CSUM,
        true,
    ),
];

/// Feature bits, and which of them were asked for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureSet {
    bits: Features,
    asked: Features,
}

impl Default for FeatureSet {
    /// Everything that can be made.
    fn default() -> Self {
        let mut bits = Features::default();
        for feature in KNOWN {
            *word(&mut bits, feature.word) |= feature.bit;
        }
        Self {
            bits,
            asked: Features::default(),
        }
    }
}

impl FeatureSet {
    /// Applies a list as `-O` takes it: `name`, `^name`, `none`, separated by commas.
    pub fn apply(&mut self, list: &str) -> Result<(), MakeError> {
        for item in list.split([',', ' ']).filter(|item| !item.is_empty()) {
            let (name, wanted) = match item.strip_prefix(['^', '-']) {
                Some(name) => (name, false),
                None => (item, true),
            };
            let feature = KNOWN
                .iter()
                .find(|known| known.name == name)
                .filter(|known| wanted || known.optional)
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

    /// The bits, without those that need a feature that was taken away; an error if such a one was asked for.
    pub fn resolve(&self) -> Result<Features, MakeError> {
        let mut bits = self.bits;
        if !bits.metadata_csum() && bits.has_incompat(incompat::CSUM_SEED) {
            self.refuse_if_asked(
                self.asked.has_incompat(incompat::CSUM_SEED),
                "metadata_csum_seed",
                "metadata_csum",
            )?;
            bits.incompat &= !incompat::CSUM_SEED;
        }
        if !bits.has_compat(compat::HAS_JOURNAL) && bits.has_compat(compat::ORPHAN_FILE) {
            self.refuse_if_asked(
                self.asked.has_compat(compat::ORPHAN_FILE),
                "orphan_file",
                "has_journal",
            )?;
            bits.compat &= !compat::ORPHAN_FILE;
        }
        Ok(bits)
    }

    fn refuse_if_asked(&self, asked: bool, feature: &str, needs: &str) -> Result<(), MakeError> {
        if asked {
            Err(MakeError::Invalid(format!(
                "feature {feature} needs feature {needs}"
            )))
        } else {
            Ok(())
        }
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
        for name in ["bigalloc", "^ext_attr", "quota", "^filetype", "nonsense"] {
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
}

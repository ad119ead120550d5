//! Damage that e2fsck 1.47.0 passes over: each excuse with the place that justifies it.
//!
//! Source: e2fsck's own output on such images; the kernel's behaviour where it differs.
//! Invariants: an excuse holds for one problem, in the very place that was damaged; one of another inode or another
//! group excuses nothing.

use std::path::Path;
use std::process::{Command, Stdio};

/// What was changed.
pub struct Damaged<'a> {
    pub base: &'a str,
    /// As `Place::name` has it.
    pub place: &'a str,
}

struct Excuse {
    /// The name of our problem.
    problem: &'static str,
    /// The image that can have it; empty for all.
    base: &'static str,
    /// One of these is part of the name of the place.
    places: &'static [&'static str],
    /// The inode is one of the file system's own.
    own: bool,
    /// What e2fsck says although it exits with 0; empty for nothing.
    said: &'static str,
}

const fn excuse(problem: &'static str, places: &'static [&'static str]) -> Excuse {
    Excuse {
        problem,
        base: "",
        places,
        own: false,
        said: "",
    }
}

const EXCUSES: &[Excuse] = &[
    // A quota file that it cannot read it reports, but exits 0; references for ids that nobody has it does not read.
    Excuse {
        base: "quota",
        ..excuse("QuotaFileBad", &["contents"])
    },
    // It reports this one, too, and exits 0.
    Excuse {
        said: "invalid unused inodes count",
        ..excuse("UnusedInodes", &["bg_itable_unused"])
    },
    // It asks about this one, and exits 0 where no flag of the group makes a difference.
    Excuse {
        said: "descriptor checksums are invalid",
        ..excuse("DescriptorChecksum", &["bg_checksum"])
    },
    // And about this one, which nobody reads without checksums.
    Excuse {
        base: "no checksums",
        said: "marked uninitialized without feature set",
        ..excuse("UninitWithoutFeature", &["bg_itable_unused"])
    },
    // The size of a regular file with inline data is not compared with what is there, nor is the `i_blocks` of a
    // symbolic link with it.
    Excuse {
        base: "inline_data",
        ..excuse("InlineSize", &["i_size_lo", "i_size_high"])
    },
    Excuse {
        base: "inline_data",
        ..excuse("BlocksWrong", &["i_blocks_lo", "i_blocks_high"])
    },
    // A tree without entries may have any depth; the kernel does not read the inode.
    excuse("ExtentHeader", &["i_block header"]),
    // It takes the depth from the node above; the kernel refuses the node.
    excuse("ExtentNodeDepth", &["extent node"]),
    // The kernel does not open the file.
    excuse("VerityFeature", &["i_flags"]),
    // Flag of an attribute's value on a file, without the feature: the kernel keeps no lookup of it.
    Excuse {
        base: "no checksums",
        ..excuse("EaInodeFeature", &["i_flags"])
    },
    // With the feature, too; but the kernel gives such a file to nobody who looks it up.
    Excuse {
        base: "ea_inode",
        ..excuse("EaInodeFlagSpurious", &["i_flags"])
    },
    // It corrects these and exits 0, whether it may write or not.
    excuse("OrphanListBad", &["s_last_orphan"]),
    excuse("MinExtraIsize", &["s_min_extra_isize"]),
    // The journal's size is compared with its map in 32 bits, with a sign.
    Excuse {
        own: true,
        ..excuse("JournalInodeRestored", &["i_size_high", "i_size_lo"])
    },
    // Of a journal that is not to be replayed the first block of the log is not read; the kernel does not mount it.
    Excuse {
        own: true,
        ..excuse("JournalInodeBad", &["inode 8 (mode 100600) contents"])
    },
    // An inode that is the file system's own is marked as bad, but only a directory entry would bring it up again.
    Excuse {
        own: true,
        ..excuse("FileAclBad", &["i_file_acl"])
    },
    Excuse {
        own: true,
        ..excuse("ExtraIsize", &["i_extra_isize"])
    },
    Excuse {
        own: true,
        ..excuse("SizeWrong", &["i_size"])
    },
    Excuse {
        own: true,
        ..excuse("ResizeInodeInvalid", &["inode 7 "])
    },
];
/// What our repair of a journal brings with it: the new one lies elsewhere.
const WITH_A_NEW_JOURNAL: &[&str] = &[
    "JournalInodeUnused",
    "JournalMissing",
    "GroupFreeBlocks",
    "FreeBlocks",
    "BlockBitmap",
];
/// The reserved ones, and the quota and orphan files behind /lost+found.
const OWN_MAX: u64 = 13;

impl Damaged<'_> {
    /// Whether e2fsck is known to pass over all that our checker finds.
    pub fn is_excused(&self, fsck: &Path, image: &Path) -> Result<bool, String> {
        let ours = output(fsck, &["-fn", "--json"], image)?;
        let report: serde_json::Value = serde_json::from_str(&ours).map_err(|e| e.to_string())?;
        let problems = report["problems"].as_array().ok_or("no problems")?;
        let said = output(Path::new("e2fsck"), &["-fn"], image)?;
        let name =
            |problem: &serde_json::Value| problem["name"].as_str().unwrap_or_default().to_owned();
        let new_journal = problems.iter().any(|one| name(one) == "JournalMissing");
        let excused = |problem: &serde_json::Value| {
            let name = name(problem);
            new_journal && WITH_A_NEW_JOURNAL.contains(&name.as_str())
                || EXCUSES
                    .iter()
                    .any(|excuse| excuse.problem == name && self.is_of(excuse, problem, &said))
        };
        Ok(!problems.is_empty() && problems.iter().all(excused))
    }

    fn is_of(&self, excuse: &Excuse, problem: &serde_json::Value, said: &str) -> bool {
        let of = |key: &str, word: &str| match problem[key].as_u64() {
            None => true,
            Some(number) => self.number_behind(word).is_none_or(|n| n == number),
        };
        let own = problem["ino"].as_u64().is_some_and(|ino| ino <= OWN_MAX);
        (excuse.base.is_empty() || excuse.base == self.base)
            && excuse.places.iter().any(|part| self.place.contains(part))
            && (own || !excuse.own)
            && (excuse.said.is_empty() || said.contains(excuse.said))
            && of("ino", "inode ")
            && of("group", "group ")
    }

    /// The number in the place's name.
    fn number_behind(&self, word: &str) -> Option<u64> {
        let rest = self.place.strip_prefix(word)?;
        rest.split(' ').next()?.parse().ok()
    }
}

/// Standard output and error.
fn output(program: &Path, args: &[&str], image: &Path) -> Result<String, String> {
    let json = args.contains(&"--json");
    let output = Command::new(program)
        .args(args)
        .arg(image)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| e.to_string())?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !json {
        text.push_str(&String::from_utf8_lossy(&output.stderr));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excuse_is_of_its_place_alone() {
        let problem = |name: &str, ino: u64| serde_json::json!({"name": name, "ino": ino});
        let excused = |place: &str, found: serde_json::Value| {
            let damaged = Damaged {
                base: "default",
                place,
            };
            let of = |excuse: &Excuse| {
                found["name"] == excuse.problem && damaged.is_of(excuse, &found, "")
            };
            EXCUSES.iter().any(of)
        };
        let header = "inode 44 (mode 100644) i_block header";
        assert!(excused(header, problem("ExtentHeader", 44)));
        assert!(!excused(header, problem("ExtentHeader", 45)));
        assert!(!excused(
            "inode 44 (mode 100644) i_mode",
            problem("ExtentHeader", 44)
        ));
        assert!(!excused(header, problem("BlocksWrong", 44)));
        let size = "inode 8 (mode 100600) i_size_high";
        assert!(excused(size, problem("SizeWrong", 8)));
        assert!(!excused(
            "inode 30 (mode 100600) i_size_high",
            problem("SizeWrong", 30)
        ));
    }
}

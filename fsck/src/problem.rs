//! Every problem that the checker knows: a stable number, what it says, what is done about it, whether `-p` may do
//! it, and the default answer.
//!
//! Source: the kernel's ext4 documentation for what is valid; e2fsck(8) for what `-p` may repair.
//! Invariants: numbers are never reused; thousands are the pass. Placeholders of a message are fields of `At`.

mod table;

pub use table::Problem;

/// What is done about a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Fix,
    Clear,
    Truncate,
    Relocate,
    Allocate,
    Salvage,
    Split,
    Clone,
    Delete,
    Create,
    Connect,
    Recreate,
    Rebuild,
    Rename,
    Replay,
    Shorten,
}

impl Action {
    pub fn question(self) -> &'static str {
        match self {
            Self::Fix => "Fix",
            Self::Clear => "Clear",
            Self::Truncate => "Truncate",
            Self::Relocate => "Relocate",
            Self::Allocate => "Allocate",
            Self::Salvage => "Salvage",
            Self::Split => "Split",
            Self::Clone => "Clone",
            Self::Delete => "Delete",
            Self::Create => "Create",
            Self::Connect => "Connect to /lost+found",
            Self::Recreate => "Recreate",
            Self::Rebuild => "Rebuild",
            Self::Rename => "Rename",
            Self::Replay => "Replay",
            Self::Shorten => "Shorten",
        }
    }
}

pub struct Entry {
    pub code: u32,
    pub name: &'static str,
    pub text: &'static str,
    pub action: Action,
    /// `-p` may do it.
    pub preen: bool,
    pub default: bool,
}

/// Where a problem is, and the numbers of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct At {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ino: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<u64>,
    /// A block counted in its file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lblk: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

impl At {
    pub fn new() -> Self {
        Self::default()
    }
    pub fn ino(ino: u32) -> Self {
        Self {
            ino: Some(ino),
            ..Self::default()
        }
    }
    pub fn dir(dir: u32) -> Self {
        Self {
            dir: Some(dir),
            ..Self::default()
        }
    }
    pub fn group(group: u32) -> Self {
        Self {
            group: Some(group),
            ..Self::default()
        }
    }
    pub fn target(self, ino: u32) -> Self {
        Self {
            ino: Some(ino),
            ..self
        }
    }
    pub fn block(self, block: u64) -> Self {
        Self {
            block: Some(block),
            ..self
        }
    }
    pub fn lblk(self, lblk: u64) -> Self {
        Self {
            lblk: Some(lblk),
            ..self
        }
    }
    pub fn offset(self, offset: usize) -> Self {
        Self {
            offset: Some(offset as u64),
            ..self
        }
    }
    pub fn found(self, found: u64) -> Self {
        Self {
            found: Some(found),
            ..self
        }
    }
    pub fn expected(self, expected: u64) -> Self {
        Self {
            expected: Some(expected),
            ..self
        }
    }
    pub fn label(self, label: impl Into<String>) -> Self {
        Self {
            label: Some(label.into()),
            ..self
        }
    }
    /// A name from a directory, with what is not printable escaped.
    pub fn name(self, name: &[u8]) -> Self {
        self.label(name.escape_ascii().to_string())
    }

    fn field(&self, name: &str) -> String {
        let number = |value: Option<u64>| value.map_or_else(|| "?".to_owned(), |n| n.to_string());
        match name {
            "ino" => number(self.ino.map(u64::from)),
            "dir" => number(self.dir.map(u64::from)),
            "group" => number(self.group.map(u64::from)),
            "block" => number(self.block),
            "lblk" => number(self.lblk),
            "offset" => number(self.offset),
            "found" => number(self.found),
            "expected" => number(self.expected),
            "label" => self.label.clone().unwrap_or_default(),
            _ => String::new(),
        }
    }
}

impl Entry {
    /// The text with its placeholders filled.
    pub fn message(&self, at: &At) -> String {
        let mut text = String::new();
        let mut rest = self.text;
        while let Some((before, behind)) = rest.split_once('{') {
            text.push_str(before);
            let (name, behind) = behind.split_once('}').unwrap_or((behind, ""));
            text.push_str(&at.field(name));
            rest = behind;
        }
        text.push_str(rest);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_are_unique_and_messages_whole() {
        let mut codes = HashSet::new();
        for problem in Problem::ALL {
            let entry = problem.entry();
            assert!(codes.insert(entry.code), "{} twice", entry.code);
            assert_eq!(
                entry.text.matches('{').count(),
                entry.text.matches('}').count()
            );
            for part in entry.text.split('{').skip(1) {
                let name = part.split('}').next().unwrap();
                let known = [
                    "ino", "dir", "group", "block", "lblk", "offset", "found", "expected", "label",
                ];
                assert!(known.contains(&name), "{name} in {}", entry.text);
            }
        }
        let at = At::ino(12).found(3).name(b"a\xff");
        let entry = Entry {
            text: "inode {ino} {found} {label} {block}.",
            ..Problem::ALL[0].entry()
        };
        assert_eq!(entry.message(&at), "inode 12 3 a\\xff ?.");
    }
}

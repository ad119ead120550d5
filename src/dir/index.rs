//! The way from the root of a hash tree to the leaf of a hash, and on from leaf to leaf.
//!
//! Source: the kernel's ext4 documentation, "Hash Tree Directories".
//! Invariants: a way has as many steps as the root says; no block on it comes twice, and none lies outside of the
//! directory; going on only ever moves forward.

use crate::cache::{BufferRef, Snapshot};
use crate::dir::blocks::Dir;
use crate::error::{CorruptKind, Error, Location, Result, Structure};
use crate::format::dirent::{self, Found};
use crate::format::dirhash::Hasher;
use crate::format::htree::{self, CONTINUED, Node};
use crate::ids::FileBlock;

/// The root and two levels of nodes.
pub(super) const MAX_STEPS: usize = 3;

/// One index block and the entry taken in it.
#[derive(Clone)]
pub(super) struct Step {
    pub(super) block: FileBlock,
    pub(super) buffer: BufferRef,
    pub(super) bytes: Snapshot,
    pub(super) node: Node,
    pub(super) at: usize,
}

impl Step {
    fn child(&self) -> FileBlock {
        self.node.child(&self.bytes, self.at)
    }
}

#[derive(Clone)]
pub(super) struct Path {
    /// From the root down; all `Some` up to `len`.
    steps: [Option<Step>; MAX_STEPS],
    len: usize,
    pub(super) hasher: Hasher,
}

/// An entry and the buffer that it is in.
pub(super) struct Place {
    pub(super) buffer: BufferRef,
    pub(super) found: Found,
}

/// Whether the index itself is unreadable (not: its checksum is wrong, or the device failed), so that one may still
/// look through the leaves one by one.
pub(super) fn is_bad_index(error: &Error) -> bool {
    use CorruptKind::{Depth, Field, Mismatch};
    let what = match error {
        Error::Corrupt {
            kind: Field { what, .. } | Mismatch { what, .. } | Depth { what },
            ..
        } => what,
        _ => return false,
    };
    *what == Structure::DirectoryIndex
}

/// Looks a name up through the index.
pub(super) fn find(dir: &Dir<'_>, name: &[u8]) -> Result<Option<Place>> {
    let mut path = Path::open(dir)?;
    let hash = path.hasher.hash(name).hash;
    path.descend(dir, hash)?;
    // A leaf goes on in the next one when names of one hash do not fit into it.
    for _ in 0..dir.blocks() {
        let buffer = dir.require(path.leaf())?;
        let found = dirent::find(&buffer.snapshot(), dir.geo(), name)
            .map_err(|e| dir.locate(e, &buffer))?;
        if let Some(found) = found {
            return Ok(Some(Place { buffer, found }));
        }
        if path.next_hash() != Some(hash | CONTINUED) {
            return Ok(None);
        }
        path.advance(dir)?;
    }
    Err(depth(dir))
}

impl Path {
    /// Reads the root; the way ends there, at its first entry.
    pub(super) fn open(dir: &Dir<'_>) -> Result<Self> {
        let buffer = dir.require(FileBlock::ZERO)?;
        let bytes = buffer.snapshot();
        let (info, node) =
            htree::parse_root(&bytes, dir.geo()).map_err(|e| dir.locate(e, &buffer))?;
        let hasher = Hasher::new(dir.geo(), info.hash_version).ok_or_else(|| {
            let (what, field) = (Structure::DirectoryIndex, "hash_version");
            let kind = CorruptKind::Field {
                what,
                field,
                found: info.hash_version.into(),
            };
            dir.locate(Error::corrupt(kind, Location::default()), &buffer)
        })?;
        let root = Step {
            block: FileBlock::ZERO,
            buffer,
            bytes,
            node,
            at: 0,
        };
        let len = usize::from(info.indirect_levels) + 1;
        Ok(Self {
            steps: [Some(root), None, None],
            len: len.min(MAX_STEPS),
            hasher,
        })
    }

    /// Goes from the root to the first leaf that may hold `hash`.
    pub(super) fn descend(&mut self, dir: &Dir<'_>, hash: u32) -> Result<()> {
        self.descend_from(dir, 0, Some(hash))
    }

    /// Sets the entry of step `level` and reads all steps below: towards `hash`, or leftmost (keeping the entry).
    fn descend_from(&mut self, dir: &Dir<'_>, level: usize, hash: Option<u32>) -> Result<()> {
        for level in level..self.len {
            if level > 0 && self.steps[level].is_none() {
                self.steps[level] = Some(self.read_below(dir, level - 1)?);
            }
            if let (Some(step), Some(hash)) = (&mut self.steps[level], hash) {
                step.at = step.node.search(&step.bytes, hash);
            }
            for below in &mut self.steps[level + 1..] {
                *below = None;
            }
        }
        self.check_child(dir, self.leaf())
    }

    fn read_below(&self, dir: &Dir<'_>, parent: usize) -> Result<Step> {
        let block = self.step(parent).child();
        self.check_child(dir, block)?;
        let buffer = dir.require(block)?;
        let bytes = buffer.snapshot();
        let node = htree::parse_node(&bytes, dir.geo()).map_err(|e| dir.locate(e, &buffer))?;
        Ok(Step {
            block,
            buffer,
            bytes,
            node,
            at: 0,
        })
    }

    /// A child lies in the directory and is not one of its own ancestors.
    fn check_child(&self, dir: &Dir<'_>, child: FileBlock) -> Result<()> {
        if child.get() >= dir.blocks() {
            let (what, field) = (Structure::DirectoryIndex, "block");
            let kind = CorruptKind::Field {
                what,
                field,
                found: child.get().into(),
            };
            return Err(Error::corrupt(kind, Location::inode(dir.ino)));
        }
        if self.steps.iter().flatten().any(|step| step.block == child) {
            return Err(depth(dir));
        }
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The step at a level below `len`.
    pub(super) fn step(&self, level: usize) -> &Step {
        self.steps[level]
            .as_ref()
            .expect("every level of the way has been read")
    }

    pub(super) fn step_mut(&mut self, level: usize) -> &mut Step {
        self.steps[level]
            .as_mut()
            .expect("every level of the way has been read")
    }

    /// Puts a new level below the root.
    pub(super) fn insert_below_root(&mut self, step: Step) {
        self.steps[1..].rotate_right(1);
        self.steps[1] = Some(step);
        self.len += 1;
    }

    pub(super) fn leaf(&self) -> FileBlock {
        self.step(self.len - 1).child()
    }

    /// The lowest hash of the leaf.
    pub(super) fn lowest_hash(&self) -> u32 {
        let own = |step: &Step| step.node.hash(&step.bytes, step.at);
        self.steps.iter().flatten().rev().find_map(own).unwrap_or(0) & !CONTINUED
    }

    /// The lowest hash of the next leaf, with its mark of continuation.
    pub(super) fn next_hash(&self) -> Option<u32> {
        self.steps
            .iter()
            .flatten()
            .rev()
            .find_map(|step| step.node.hash(&step.bytes, step.at + 1))
    }

    /// Moves to the next leaf; false at the end.
    pub(super) fn advance(&mut self, dir: &Dir<'_>) -> Result<bool> {
        for level in (0..self.len).rev() {
            let step = self.step_mut(level);
            if step.at + 1 < step.node.count() {
                step.at += 1;
                for below in &mut self.steps[level + 1..] {
                    *below = None;
                }
                self.descend_from(dir, level, None)?;
                return Ok(true);
            }
        }
        Ok(false)
    }
}

pub(super) fn depth(dir: &Dir<'_>) -> Error {
    Error::corrupt(
        CorruptKind::Depth {
            what: Structure::DirectoryIndex,
        },
        Location::inode(dir.ino),
    )
}

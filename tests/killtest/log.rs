//! What a writer has been promised, and whether a tree keeps it.
//!
//! Invariants: a promise is noted after the call that gave it has returned; an attempt before the call is made.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Bytes of a block of the file that is overwritten in place; each names its version.
pub const BLOCK: usize = 4096;
/// What the device may tear a block at.
const PIECE: usize = 512;
/// Blocks of that file.
pub const BLOCKS: usize = 48;

/// Never a zero, so that a hole is told from what was written.
pub fn content(key: u64, len: u64) -> Vec<u8> {
    let mut state = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len as usize + 8);
    while (bytes.len() as u64) < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend((state | 0x0101_0101_0101_0101).to_le_bytes());
    }
    bytes.truncate(len as usize);
    bytes
}

/// One file that is made, perhaps cut, perhaps removed.
#[derive(Clone, Debug)]
pub struct Made {
    pub key: u64,
    /// Its durable length; `None`: none was promised.
    pub sure: Option<u64>,
    pub attempt: Option<Attempt>,
}

#[derive(Clone, Copy, Debug)]
pub enum Attempt {
    Create(u64),
    Truncate(u64),
    Unlink,
}

/// All promises of one writer, in a directory of its own.
#[derive(Clone, Debug)]
pub struct Log {
    pub seed: u64,
    pub made: BTreeMap<u32, Made>,
    /// Bytes appended: durable, and tried.
    pub appended: (u64, u64),
    /// Versions of the file that is replaced by rename.
    pub replaced: (u32, u32),
    /// Versions of each block of the file that is overwritten in place.
    pub blocks: Vec<(u32, u32)>,
    /// Calls to fsync and fdatasync that returned.
    pub synced: u64,
}

impl Log {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            made: BTreeMap::new(),
            appended: (0, 0),
            replaced: (0, 0),
            blocks: vec![(0, 0); BLOCKS],
            synced: 0,
        }
    }

    pub fn path_of(dir: &Path, number: u32) -> PathBuf {
        dir.join(format!("d{}", number / 16))
            .join(number.to_string())
    }

    pub fn replacement(&self, version: u32) -> Vec<u8> {
        content(
            self.seed ^ (u64::from(version) << 20),
            u64::from(version) * 997 % 9000 + 1,
        )
    }

    pub fn block(&self, index: usize, version: u32) -> Vec<u8> {
        let mut bytes = content(
            self.seed ^ ((index as u64) << 40) ^ u64::from(version),
            BLOCK as u64,
        );
        for piece in bytes.chunks_mut(PIECE) {
            piece[..4].copy_from_slice(&version.to_le_bytes());
        }
        bytes
    }

    /// Compares a tree after a crash; returns how many files were as promised.
    pub fn check(&self, dir: &Path) -> Result<u64, String> {
        let mut whole = 0;
        for (number, made) in &self.made {
            made.check(&Self::path_of(dir, *number))?;
            whole += u64::from(made.sure.is_some());
        }
        self.check_appended(&dir.join("append"))?;
        self.check_replaced(&dir.join("replace"))?;
        self.check_blocks(&dir.join("blocks"))?;
        Ok(whole + 3)
    }

    fn check_appended(&self, path: &Path) -> Result<(), String> {
        let (sure, tried) = self.appended;
        let Some(found) = read(path)? else {
            return lost_unless(sure == 0, path, "an appended file");
        };
        let length = found.len() as u64;
        if length < sure || length > tried {
            return Err(format!(
                "{}: {length} bytes, {sure} are durable, {tried} were written",
                path.display()
            ));
        }
        same(path, &found, &content(self.seed, tried), sure)
    }

    fn check_replaced(&self, path: &Path) -> Result<(), String> {
        let (sure, tried) = self.replaced;
        let Some(found) = read(path)? else {
            return lost_unless(sure == 0, path, "a replaced file");
        };
        let is_one = (sure.max(1)..=tried).any(|version| found == self.replacement(version));
        lost_unless(is_one, path, &format!("none of versions {sure} to {tried}"))
    }

    fn check_blocks(&self, path: &Path) -> Result<(), String> {
        let promised = self.blocks.iter().any(|(sure, _)| *sure > 0);
        let Some(found) = read(path)? else {
            return lost_unless(!promised, path, "the file overwritten in place");
        };
        for (index, &(sure, tried)) in self.blocks.iter().enumerate() {
            for piece in 0..BLOCK / PIECE {
                let from = index * BLOCK + piece * PIECE;
                let bytes = found.get(from..from + PIECE);
                let blank = bytes.is_none_or(|bytes| bytes.iter().all(|&byte| byte == 0));
                if sure == 0 && blank {
                    continue;
                }
                let version = bytes.map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                let right = self.block(index, version);
                let is_right = bytes == Some(&right[piece * PIECE..(piece + 1) * PIECE]);
                let why = format!(
                    "block {index}, piece {piece}: version {version}, {sure} is durable, {tried} was tried"
                );
                lost_unless(is_right && (sure..=tried).contains(&version), path, &why)?;
            }
        }
        Ok(())
    }
}

impl Made {
    fn check(&self, path: &Path) -> Result<(), String> {
        let found = read(path)?;
        let length = found.as_ref().map(|bytes| bytes.len() as u64);
        let is_one = match (self.sure, self.attempt) {
            (sure, None) => length == sure,
            (None, Some(Attempt::Create(most))) => length.is_none_or(|length| length <= most),
            (sure, Some(Attempt::Truncate(to))) => length == sure || length == Some(to),
            (sure, Some(_)) => length == sure || length.is_none(),
        };
        let why = format!(
            "found {length:?} bytes, promised {:?}, then tried {:?}",
            self.sure, self.attempt
        );
        lost_unless(is_one, path, &why)?;
        let Some(mut found) = found else {
            return Ok(());
        };
        let (sure, wanted) = (
            self.sure.unwrap_or(0),
            content(self.key, found.len() as u64),
        );
        if let Some(Attempt::Truncate(to)) = self.attempt {
            forgive_the_cut(&mut found, &wanted, to as usize);
        }
        same(path, &found, &wanted, sure.min(found.len() as u64))
            .map_err(|error| format!("{error}; then tried {:?}", self.attempt))
    }
}

/// A truncation zeros the rest of its last block ahead of its transaction, as the kernel does in ordered mode: a cut between
/// the two leaves the old size and those zeros.
fn forgive_the_cut(found: &mut [u8], wanted: &[u8], to: usize) {
    let end = to.next_multiple_of(BLOCK).min(found.len());
    let Some(cut) = found.get_mut(to..end) else {
        return;
    };
    let zeros = cut.iter().take_while(|&&byte| byte == 0).count();
    cut[..zeros].copy_from_slice(&wanted[to..to + zeros]);
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, String> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

fn lost_unless(kept: bool, path: &Path, what: &str) -> Result<(), String> {
    if kept {
        Ok(())
    } else {
        Err(format!("lost: {}: {what}", path.display()))
    }
}

/// Up to `sure` all bytes; behind it those that were written or nothing: never somebody else's.
fn same(path: &Path, found: &[u8], wanted: &[u8], sure: u64) -> Result<(), String> {
    let wrong = found
        .iter()
        .zip(wanted)
        .enumerate()
        .position(|(at, (found, wanted))| found != wanted && ((at as u64) < sure || *found != 0));
    match wrong {
        Some(at) => Err(format!(
            "{}: byte {at} of {} is {:#x}, not {:#x}; {sure} are durable",
            path.display(),
            found.len(),
            found[at],
            wanted[at]
        )),
        None => Ok(()),
    }
}

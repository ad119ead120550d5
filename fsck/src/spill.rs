//! A bound on memory: what the tables of a run hold is counted, and pages of them lie in a file while there is too much.
//!
//! Source: the design's section on the checker.
//! Invariants: the file has no name and is made in TMPDIR when first needed; what cannot be written stays in memory, and
//! what cannot be read is missing, so that after either `check` fails and nothing that was found since may be believed.

use crate::Result;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use uext4::error::{Error, IoError};

/// What a run needs beside its tables: the program, stacks and buffers.
const FIXED: u64 = 4 << 20;
/// Tables have so much in any case.
const LEAST: u64 = 8 << 10;
/// Bytes of the smallest place in the file.
const PLACE_MIN: u64 = 512;

/// A page in the file.
#[derive(Debug, PartialEq, Eq)]
pub struct Away {
    at: u64,
    len: u32,
}

/// Bits of a word for the length, which stands there with one added; above them the place in units of `PLACE_MIN`.
const LENGTH_BITS: u32 = 28;

impl Away {
    /// Never 0. A place is below 32 TiB, and a page below 256 MiB.
    pub fn to_word(&self) -> u64 {
        ((self.at / PLACE_MIN) << LENGTH_BITS) | (u64::from(self.len) + 1)
    }

    pub fn from_word(word: u64) -> Option<Self> {
        let len = (word & ((1 << LENGTH_BITS) - 1)).checked_sub(1)?;
        Some(Self {
            at: (word >> LENGTH_BITS) * PLACE_MIN,
            len: len as u32,
        })
    }
}

#[derive(Default)]
struct Store {
    file: Option<File>,
    end: u64,
    /// Places that are free, by their size.
    free: BTreeMap<u64, Vec<u64>>,
    error: Option<Error>,
}

pub struct Spill {
    limit: usize,
    held: AtomicUsize,
    failed: AtomicBool,
    store: Mutex<Store>,
}

impl Spill {
    /// For a run that may use `memory` bytes, without an end if none are named.
    pub fn new(memory: Option<u64>) -> Arc<Self> {
        let limit = memory.map_or(u64::MAX, |all| all.saturating_sub(FIXED).max(LEAST));
        Arc::new(Self {
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            held: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            store: Mutex::default(),
        })
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_limited(&self) -> bool {
        self.limit != usize::MAX
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    pub fn is_over(&self) -> bool {
        self.held.load(Ordering::Relaxed) > self.limit
    }

    /// A page has grown or shrunk.
    pub fn count(&self, before: usize, after: usize) {
        if after >= before {
            self.held.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.held.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    /// `None` where the file cannot be written; the page must stay in memory then.
    pub fn write(&self, bytes: &[u8]) -> Option<Away> {
        let mut store = self.store();
        let size = size_of_place(bytes.len());
        let at = match store.free.get_mut(&size).and_then(Vec::pop) {
            Some(at) => at,
            None => {
                store.end += size;
                store.end - size
            }
        };
        let written = store.file().and_then(|file| file.write_all_at(bytes, at));
        match written {
            Ok(()) => {
                let len = bytes.len() as u32;
                Some(Away { at, len })
            }
            Err(error) => {
                store.free.entry(size).or_default().push(at);
                self.fail(
                    &mut store,
                    "write of the spill file",
                    at,
                    bytes.len(),
                    error,
                );
                None
            }
        }
    }

    /// `None` where the file cannot be read.
    pub fn read(&self, away: &Away) -> Option<Vec<u8>> {
        let mut bytes = vec![0; away.len as usize];
        let mut store = self.store();
        let read = store
            .file()
            .and_then(|file| file.read_exact_at(&mut bytes, away.at));
        match read {
            Ok(()) => Some(bytes),
            Err(error) => {
                let len = bytes.len();
                self.fail(&mut store, "read of the spill file", away.at, len, error);
                None
            }
        }
    }

    /// The place of a page that is no longer there.
    pub fn release(&self, away: &Away) {
        let size = size_of_place(away.len as usize);
        self.store().free.entry(size).or_default().push(away.at);
    }

    fn fail(
        &self,
        store: &mut Store,
        operation: &'static str,
        offset: u64,
        length: usize,
        error: std::io::Error,
    ) {
        let error = Error::Io(IoError {
            operation,
            offset,
            length: length as u64,
            source: Arc::new(error),
        });
        store.error.get_or_insert(error);
        self.failed.store(true, Ordering::Release);
    }

    /// The first failure of the file.
    pub fn check(&self) -> Result<()> {
        if !self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        match &self.store().error {
            Some(error) => Err(error.clone().into()),
            None => Ok(()),
        }
    }

    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Bytes that the file has had at most.
    #[cfg(test)]
    pub fn spilled(&self) -> u64 {
        self.store().end
    }
}

impl Store {
    fn file(&mut self) -> std::io::Result<&File> {
        if self.file.is_none() {
            self.file = Some(tempfile::tempfile()?);
        }
        self.file
            .as_ref()
            .ok_or_else(|| std::io::ErrorKind::NotFound.into())
    }
}

/// Places come in few sizes, so that one that is free again fits another page.
fn size_of_place(len: usize) -> u64 {
    (len as u64).max(PLACE_MIN).next_power_of_two()
}

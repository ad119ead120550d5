//! An undo file: what lay where something is written, in the format that e2undo(8) plays back.
//!
//! Source: e2undo(8); the format as e2fsck writes it: a header of 512 bytes, a copy of the superblock as it is in the
//! end, then blocks of keys, each followed by the data of its keys.
//! Invariants: nothing is written to the device before what it replaces is durable in the undo file; a piece is kept
//! once, as it was first.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::IoSlice;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use uext4::device::Device;
use uext4::error::{Error, IoError, Result};
use uext4::format::checksum::crc32c;
use uext4::format::raw::{put_le32, put_le64};
use uext4::format::superblock::{OFFSET, SIZE};

/// Block of the undo file, and unit of the places that it names.
const BLOCK: usize = 1024;
/// Bytes that are kept at once.
const PIECE: u64 = 32 << 10;
const MAGIC: &[u8; 8] = b"E2UNDO02";
const KEYS_MAGIC: u32 = 0xcade_cade;
const KEY: usize = 16;
const HEADER: usize = 512;
/// Block of the superblock's copy, and of the first keys.
const SUPERBLOCK_AT: u64 = 1;
const KEYS_AT: u64 = 2;
const FINISHED: u32 = 1;
/// `s_magic`
const SUPERBLOCK_MAGIC: std::ops::Range<usize> = 0x38..0x3a;

/// A device whose writes can be taken back.
pub struct Undo {
    inner: Arc<dyn Device>,
    log: Mutex<Log>,
}

struct Log {
    file: File,
    /// Numbers of pieces that were kept.
    kept: BTreeSet<u64>,
    keys: u64,
    /// The block of keys that is being filled, and where it lies.
    block: Vec<u8>,
    block_at: u64,
    /// In blocks.
    end: u64,
}

impl Undo {
    /// `path` must not exist: the way back of an earlier run is not overwritten.
    pub fn create(inner: Arc<dyn Device>, path: &Path) -> std::io::Result<Self> {
        let file = File::options().write(true).create_new(true).open(path)?;
        let log = Log {
            file,
            kept: BTreeSet::new(),
            keys: 0,
            block: vec![0; BLOCK],
            block_at: KEYS_AT,
            end: KEYS_AT + 1,
        };
        log.store_header(&[0; SIZE], 0)?;
        Ok(Self {
            inner,
            log: Mutex::new(log),
        })
    }

    /// With the last word: the superblock that the device has now, by which e2undo knows it again.
    pub fn finish(&self) -> Result<()> {
        let mut superblock = [0; SIZE];
        self.inner.read_at(OFFSET, &mut superblock)?;
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let stored = log
            .store_header(&superblock, FINISHED)
            .and_then(|()| log.file.sync_all());
        stored.map_err(|error| failed(0, error))
    }

    fn keep(&self, offset: u64, length: u64) -> Result<()> {
        if length == 0 {
            return Ok(());
        }
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let mut any = false;
        for piece in offset / PIECE..=(offset + length - 1) / PIECE {
            if log.kept.contains(&piece) {
                continue;
            }
            let at = piece * PIECE;
            let mut bytes = vec![0; PIECE.min(self.inner.len().saturating_sub(at)) as usize];
            self.inner.read_at(at, &mut bytes)?;
            log.add(at, &bytes).map_err(|error| failed(at, error))?;
            log.kept.insert(piece);
            any = true;
        }
        if any {
            let stored = log
                .store_header(&[0; SIZE], 0)
                .and_then(|()| log.file.sync_data());
            stored.map_err(|error| failed(offset, error))?;
        }
        Ok(())
    }
}

fn failed(offset: u64, error: std::io::Error) -> Error {
    Error::Io(IoError {
        operation: "write of the undo file",
        offset,
        length: 0,
        source: Arc::new(error),
    })
}

impl Log {
    fn add(&mut self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        let slot = (self.keys % (BLOCK / KEY - 1) as u64) as usize;
        if slot == 0 && self.keys > 0 {
            self.block.fill(0);
            self.block_at = self.end;
            self.end += 1;
        }
        self.file.write_all_at(bytes, self.end * BLOCK as u64)?;
        self.end += bytes.len().div_ceil(BLOCK) as u64;
        let at = KEY * (slot + 1);
        put_le64(&mut self.block, at, offset / BLOCK as u64);
        put_le32(&mut self.block, at + 8, crc32c(u32::MAX, bytes));
        put_le32(&mut self.block, at + 12, bytes.len() as u32);
        self.keys += 1;
        put_le32(&mut self.block, 0, KEYS_MAGIC);
        put_le32(&mut self.block, 4, 0);
        let sum = crc32c(u32::MAX, &self.block);
        put_le32(&mut self.block, 4, sum);
        let place = self.block_at * BLOCK as u64;
        self.file.write_all_at(&self.block, place)
    }

    fn store_header(&self, superblock: &[u8], state: u32) -> std::io::Result<()> {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(MAGIC);
        put_le64(&mut header, 8, self.keys);
        put_le64(&mut header, 16, SUPERBLOCK_AT);
        put_le64(&mut header, 24, KEYS_AT);
        put_le32(&mut header, 32, BLOCK as u32);
        put_le32(&mut header, 36, BLOCK as u32);
        put_le32(&mut header, 40, crc32c(u32::MAX, superblock));
        put_le32(&mut header, 44, state);
        let sum = crc32c(u32::MAX, &header[..HEADER - 4]);
        put_le32(&mut header, HEADER - 4, sum);
        // So that nothing takes the undo file for a file system, the copy's magic number is inverted.
        let mut copy = superblock.to_vec();
        for byte in &mut copy[SUPERBLOCK_MAGIC] {
            *byte = !*byte;
        }
        self.file
            .write_all_at(&copy, SUPERBLOCK_AT * BLOCK as u64)?;
        self.file.write_all_at(&header, 0)
    }
}

impl Device for Undo {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn sector_size(&self) -> u32 {
        self.inner.sector_size()
    }

    fn read_only(&self) -> bool {
        self.inner.read_only()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.inner.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.keep(offset, bytes.len() as u64)?;
        self.inner.write_at(offset, bytes)
    }

    fn write_vectored_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> Result<()> {
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        self.keep(offset, length as u64)?;
        self.inner.write_vectored_at(offset, slices)
    }

    fn sync(&self) -> Result<()> {
        self.inner.sync()
    }

    fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.keep(offset, length)?;
        self.inner.discard(offset, length)
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> Result<()> {
        self.keep(offset, length)?;
        self.inner.write_zeroes(offset, length)
    }
}

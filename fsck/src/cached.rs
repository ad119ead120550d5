//! Reads through the kernel's page cache, for a check that writes nothing.
//!
//! Source: open(2), O_DIRECT.
//! Invariants: nothing is written through it; the source stays claimed by the device behind it. Not for a check that
//! writes: multi-mount protection must see what another machine wrote.

use std::fs::File;
use std::io::IoSlice;
use std::os::unix::fs::FileExt;
use std::path::Path;
use uext4::device::Device;
use uext4::error::{Error, Posix, Result};

pub struct Cached<D> {
    claim: D,
    file: File,
}

impl<D: Device> Cached<D> {
    pub fn open(claim: D, path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        Ok(Self { claim, file })
    }
}

impl<D: Device> Device for Cached<D> {
    fn len(&self) -> u64 {
        self.claim.len()
    }

    fn sector_size(&self) -> u32 {
        self.claim.sector_size()
    }

    fn read_only(&self) -> bool {
        true
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        // What the cache cannot read is tried on the device, which knows how to say what is wrong.
        match self.file.read_exact_at(buffer, offset) {
            Ok(()) => Ok(()),
            Err(_) => self.claim.read_at(offset, buffer),
        }
    }

    fn write_at(&self, _offset: u64, _bytes: &[u8]) -> Result<()> {
        Err(Error::from(Posix::Perm))
    }

    fn write_vectored_at(&self, _offset: u64, _slices: &[IoSlice<'_>]) -> Result<()> {
        Err(Error::from(Posix::Perm))
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn discard(&self, _offset: u64, _length: u64) -> Result<()> {
        Err(Error::from(Posix::Perm))
    }

    fn write_zeroes(&self, _offset: u64, _length: u64) -> Result<()> {
        Err(Error::from(Posix::Perm))
    }
}

//! The real device: an image file or a block device, or a range of one, past the page cache where possible.
//!
//! Source: the design's section on devices; open(2) on O_DIRECT and O_EXCL; statx(2) on `stx_dio_*`;
//! fallocate(2); linux/fs.h for the block device ioctls.
//! Invariants: the claim on the source lasts until the device is dropped; with O_DIRECT every transfer is
//! aligned (`bounce` sees to it); a transfer outside `0..len` is refused before anything is done.

use super::bounce::Bounce;
use super::claim::{self, Claim, OpenError};
use super::ring::{Engine, Finish, Transfer};
use super::submit::{ReadRequest, WriteRequest};
use super::{Device, io_error};
use crate::error::Result;
use rustix::fs::{AtFlags, FallocateFlags, StatxFlags, fallocate, statx};
use rustix::ioctl::{Getter, Setter, ioctl, opcode};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// What is written behind and is at least so long goes past the page cache: to copy it first gains nothing.
const LARGE: usize = 1 << 20;
/// The largest page of any processor.
const PAGE: usize = 64 << 10;
/// How many slices one pwritev(2) takes.
const IOV_MAX: usize = 1024;
const SECTOR: u32 = 512;

/// How to open a source.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    pub read_only: bool,
    /// Where the file system begins, in bytes.
    pub offset: u64,
    /// Bytes from there; to the end of the source when `None`.
    pub length: Option<u64>,
    /// How long to wait for a daemon that has unmounted but still writes.
    pub wait: Duration,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            read_only: false,
            offset: 0,
            length: None,
            wait: Duration::from_secs(10),
        }
    }
}

/// An open image file or block device.
pub struct FileDevice {
    /// Started by the first submission; ends, with nothing in flight, before the file is closed.
    engine: OnceLock<Engine>,
    file: Arc<File>,
    /// The same through the page cache, opened when first needed; `None` if that failed.
    cached: OnceLock<Option<File>>,
    path: PathBuf,
    offset: u64,
    len: u64,
    sector_size: u32,
    block_device: bool,
    read_only: bool,
    direct: bool,
    bounce: Bounce,
}

impl FileDevice {
    /// Opens and claims `path`. A source that cannot be written opens read-only: see `read_only`.
    pub fn open(path: &Path, access: &Access) -> Result<Self, OpenError> {
        let fail = |error| OpenError::open(path, error);
        let metadata = std::fs::metadata(path).map_err(fail)?;
        let kind = metadata.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(OpenError::NotADevice(path.to_owned()));
        }
        let real = path.canonicalize().map_err(fail)?;
        let block_device = kind.is_block_device();
        let mut read_only = access.read_only;
        let claim = Claim {
            path: &real,
            device: block_device.then(|| metadata.rdev()),
            read_only,
            wait: access.wait,
        };
        let (file, direct) = claim.acquire(|| {
            let (file, direct) = open_source(&real, block_device, &mut read_only)?;
            if !block_device {
                claim::lock(&file, read_only)?;
            }
            Ok((file, direct))
        })?;
        if block_device && is_read_only(&file).map_err(fail)? {
            read_only = true;
        }
        Self::from_file(file, real, access, block_device, read_only, direct)
    }

    /// Opens `path` for a look at it: read-only, through the page cache, and without a claim, so that somebody else
    /// may be writing.
    pub fn peek(path: &Path, offset: u64) -> Result<Self, OpenError> {
        let fail = |error| OpenError::open(path, error);
        let file = File::open(path).map_err(fail)?;
        let kind = file.metadata().map_err(fail)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(OpenError::NotADevice(path.to_owned()));
        }
        let real = path.canonicalize().map_err(fail)?;
        let access = Access {
            read_only: true,
            offset,
            ..Access::default()
        };
        Self::from_file(file, real, &access, kind.is_block_device(), true, false)
    }

    fn from_file(
        mut file: File,
        path: PathBuf,
        access: &Access,
        block_device: bool,
        read_only: bool,
        direct: bool,
    ) -> Result<Self, OpenError> {
        let fail = |error| OpenError::open(&path, error);
        let size = file.seek(SeekFrom::End(0)).map_err(fail)?;
        if access.offset >= size && size > 0 {
            return Err(OpenError::Beyond {
                path,
                offset: access.offset,
                size,
            });
        }
        let left = size.saturating_sub(access.offset);
        let sector_size = if block_device {
            rustix::fs::ioctl_blksszget(&file).map_err(|e| fail(e.into()))?
        } else {
            SECTOR
        };
        let (memory, range) = if direct {
            alignment(&file, sector_size)
        } else {
            (1, 1)
        };
        Ok(Self {
            engine: OnceLock::new(),
            file: Arc::new(file),
            cached: OnceLock::new(),
            offset: access.offset,
            len: access.length.map_or(left, |length| length.min(left)),
            path,
            sector_size,
            block_device,
            read_only,
            direct,
            bounce: Bounce::new(memory, range),
        })
    }

    /// Absolute, without symbolic links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether transfers bypass the page cache; if not, that cache is outside the memory cap.
    pub fn direct(&self) -> bool {
        self.direct
    }

    pub fn is_block_device(&self) -> bool {
        self.block_device
    }

    /// The position in the source, when the transfer lies inside the device.
    fn place(&self, operation: &'static str, offset: u64, length: u64) -> Result<u64> {
        let end = offset.checked_add(length).filter(|&end| end <= self.len);
        match end.and_then(|_| self.offset.checked_add(offset)) {
            Some(position) => Ok(position),
            None => {
                let error = io::Error::new(io::ErrorKind::UnexpectedEof, "beyond the end");
                Err(io_error(operation, offset, length, error))
            }
        }
    }

    fn refuse_if_read_only(&self, operation: &'static str, offset: u64, length: u64) -> Result<()> {
        if self.read_only {
            let error = io::Error::from_raw_os_error(libc::EROFS);
            return Err(io_error(operation, offset, length, error));
        }
        Ok(())
    }

    /// The file, through the page cache.
    fn cached(&self) -> Option<&File> {
        if !self.direct {
            return Some(&self.file);
        }
        // Not by its name, which may mean another file by now.
        let same = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let open = || OpenOptions::new().write(true).open(same).ok();
        self.cached.get_or_init(open).as_ref()
    }

    /// Starts an aligned transfer; waits for it here when too many are under way.
    fn submit(&self, position: u64, transfer: Transfer) {
        let engine = self
            .engine
            .get_or_init(|| Engine::start(&self.file, finisher(&self.file, self.offset)));
        if let Some(transfer) = engine.submit(position, transfer) {
            finisher(&self.file, self.offset)(transfer);
        }
    }

    fn zero_range(&self, position: u64, length: u64) -> io::Result<()> {
        if !self.block_device {
            // A hole reads as zeroes and keeps the image sparse.
            return self.discard_range(position, length);
        }
        // SAFETY: BLKZEROOUT reads two u64, start and length in bytes, from its argument.
        let request =
            unsafe { Setter::<{ opcode::none(0x12, 127) }, [u64; 2]>::new([position, length]) };
        // SAFETY: the request matches its operation code; the range lies inside this device.
        Ok(unsafe { ioctl(&*self.file, request) }?)
    }

    fn discard_range(&self, position: u64, length: u64) -> io::Result<()> {
        if !self.block_device {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            return Ok(fallocate(&*self.file, flags, position, length)?);
        }
        // SAFETY: BLKDISCARD reads two u64, start and length in bytes, from its argument.
        let request =
            unsafe { Setter::<{ opcode::none(0x12, 119) }, [u64; 2]>::new([position, length]) };
        // SAFETY: the request matches its operation code; the range lies inside this device.
        Ok(unsafe { ioctl(&*self.file, request) }?)
    }

    /// Whether a block device takes `position..position + length` in an ioctl.
    fn in_sectors(&self, position: u64, length: u64) -> bool {
        let sector = u64::from(self.sector_size);
        !self.block_device || (position.is_multiple_of(sector) && length.is_multiple_of(sector))
    }

    fn write_zero_bytes(&self, mut position: u64, mut length: u64) -> io::Result<()> {
        const PIECE: u64 = 1 << 20;
        let zeroes = vec![0u8; usize::try_from(length.min(PIECE)).unwrap_or(0)];
        while length > 0 {
            let piece = &zeroes[..usize::try_from(length.min(PIECE)).unwrap_or(0)];
            self.bounce.write(&self.file, position, piece)?;
            position += piece.len() as u64;
            length -= piece.len() as u64;
        }
        Ok(())
    }
}

impl Device for FileDevice {
    fn len(&self) -> u64 {
        self.len
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let length = buffer.len() as u64;
        let position = self.place("read", offset, length)?;
        let done = if self.bounce.is_aligned(position, buffer) {
            self.file.read_exact_at(buffer, position)
        } else {
            self.bounce.read(&self.file, position, buffer)
        };
        done.map_err(|e| io_error("read", offset, length, e))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let length = bytes.len() as u64;
        self.refuse_if_read_only("write", offset, length)?;
        let position = self.place("write", offset, length)?;
        let done = if self.bounce.is_aligned(position, bytes) {
            self.file.write_all_at(bytes, position)
        } else {
            self.bounce.write(&self.file, position, bytes)
        };
        done.map_err(|e| io_error("write", offset, length, e))
    }

    fn write_behind(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let length = bytes.len() as u64;
        self.refuse_if_read_only("write", offset, length)?;
        let position = self.place("write", offset, length)?;
        let Some(cached) = self.cached() else {
            return self.write_at(offset, bytes);
        };
        // Whole pages only: what shares one with something else must not go two ways.
        let head = (position.next_multiple_of(PAGE as u64) - position) as usize;
        let middle = bytes.len().saturating_sub(head) / PAGE * PAGE;
        let (head, middle) = match bytes.get(head..head + middle) {
            Some(pages)
                if self.direct
                    && middle >= LARGE
                    && self.bounce.is_aligned(position + head as u64, pages) =>
            {
                (head, middle)
            }
            _ => (bytes.len(), 0),
        };
        let (head, rest) = bytes.split_at(head);
        let (middle, tail) = rest.split_at(middle);
        let middle_at = position + head.len() as u64;
        let tail_at = middle_at + middle.len() as u64;
        let done = cached
            .write_all_at(head, position)
            .and_then(|()| self.file.write_all_at(middle, middle_at))
            .and_then(|()| cached.write_all_at(tail, tail_at));
        done.map_err(|e| io_error("write", offset, length, e))
    }

    fn start_writeback(&self, offset: u64, length: u64) {
        let Ok(position) = self.place("writeback", offset, length) else {
            return;
        };
        let (Ok(start), Ok(length)) = (position.try_into(), length.try_into()) else {
            return;
        };
        // SAFETY: no memory is passed; the descriptor is open as long as `self` lives. A failure shows in `sync`.
        unsafe {
            libc::sync_file_range(
                self.file.as_raw_fd(),
                start,
                length,
                libc::SYNC_FILE_RANGE_WRITE,
            );
        }
    }

    fn write_vectored_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> Result<()> {
        let length = slices.iter().map(|s| s.len() as u64).sum();
        self.refuse_if_read_only("write", offset, length)?;
        let position = self.place("write", offset, length)?;
        let done = if slices.iter().all(|s| self.bounce.is_aligned(position, s)) {
            write_slices(&self.file, position, slices)
        } else {
            self.bounce.write_gathered(&self.file, position, slices)
        };
        done.map_err(|e| io_error("write", offset, length, e))
    }

    fn sync(&self) -> Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.file
            .sync_data()
            .map_err(|e| io_error("sync", 0, self.len, e))
    }

    fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.refuse_if_read_only("discard", offset, length)?;
        let position = self.place("discard", offset, length)?;
        if length == 0 || !self.in_sectors(position, length) {
            return Ok(());
        }
        match self.discard_range(position, length) {
            Err(error) if !is_unsupported(&error) => {
                Err(io_error("discard", offset, length, error))
            }
            _ => Ok(()),
        }
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> Result<()> {
        self.refuse_if_read_only("zero", offset, length)?;
        let position = self.place("zero", offset, length)?;
        if length == 0 {
            return Ok(());
        }
        let fast = self
            .in_sectors(position, length)
            .then(|| self.zero_range(position, length));
        let done = match fast {
            Some(Err(error)) if is_unsupported(&error) => self.write_zero_bytes(position, length),
            Some(done) => done,
            None => self.write_zero_bytes(position, length),
        };
        done.map_err(|e| io_error("zero", offset, length, e))
    }

    fn submit_read(&self, request: ReadRequest) {
        let bytes = &request.buffer[request.range.clone()];
        let place = self.place("read", request.offset, bytes.len() as u64);
        match place {
            Ok(position) if self.bounce.is_aligned(position, bytes) && !bytes.is_empty() => {
                self.submit(position, Transfer::Read(request));
            }
            _ => request.run(|offset, bytes| self.read_at(offset, bytes)),
        }
    }

    fn submit_write(&self, request: WriteRequest) {
        let slices = request.source.slices();
        let length = slices.iter().map(|s| s.len() as u64).sum();
        let place = self.place("write", request.offset, length);
        let aligned = |position| slices.iter().all(|s| self.bounce.is_aligned(position, s));
        match place {
            Ok(position) if !self.read_only && length > 0 && aligned(position) => {
                drop(slices);
                self.submit(position, Transfer::Write(request));
            }
            _ => {
                drop(slices);
                request.run(|offset, slices| self.write_vectored_at(offset, slices));
            }
        }
    }
}

/// Does an aligned transfer and tells; `base` is where the device begins in the file.
fn finisher(file: &Arc<File>, base: u64) -> Finish {
    let file = Arc::clone(file);
    Arc::new(move |transfer| match transfer {
        Transfer::Read(request) => request.run(|offset, bytes| {
            let read = file.read_exact_at(bytes, base + offset);
            read.map_err(|e| io_error("read", offset, bytes.len() as u64, e))
        }),
        Transfer::Write(request) => request.run(|offset, slices| {
            let length = slices.iter().map(|s| s.len() as u64).sum();
            write_slices(&file, base + offset, slices)
                .map_err(|e| io_error("write", offset, length, e))
        }),
    })
}

/// `slices` are aligned as the file wants them.
fn write_slices(file: &File, mut position: u64, slices: &[IoSlice<'_>]) -> io::Result<()> {
    for chunk in slices.chunks(IOV_MAX) {
        let mut chunk = chunk.to_vec();
        let mut rest = chunk.as_mut_slice();
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            match rustix::io::pwritev(file, rest, position) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    position += written as u64;
                    IoSlice::advance_slices(&mut rest, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Opens past the page cache if it can; read-only if the source cannot be written (`read_only` then says so).
fn open_source(path: &Path, block_device: bool, read_only: &mut bool) -> io::Result<(File, bool)> {
    match open_cached_or_direct(path, block_device, *read_only) {
        Err(error) if !*read_only && is_write_protected(&error) => {
            let opened = open_cached_or_direct(path, block_device, true)?;
            *read_only = true;
            Ok(opened)
        }
        other => other,
    }
}

fn open_cached_or_direct(
    path: &Path,
    block_device: bool,
    read_only: bool,
) -> io::Result<(File, bool)> {
    let exclusive = if block_device { libc::O_EXCL } else { 0 };
    let open = |flags| {
        OpenOptions::new()
            .read(true)
            .write(!read_only)
            .custom_flags(exclusive | flags)
            .open(path)
    };
    match open(libc::O_DIRECT) {
        Ok(file) => Ok((file, true)),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok((open(0)?, false)),
        Err(error) => Err(error),
    }
}

/// What O_DIRECT asks of addresses and of offsets and lengths, in bytes.
fn alignment(file: &File, sector_size: u32) -> (usize, usize) {
    let sector = sector_size as usize;
    match statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) {
        Ok(found) if found.stx_dio_offset_align != 0 => (
            (found.stx_dio_mem_align as usize).max(1),
            (found.stx_dio_offset_align as usize).max(sector),
        ),
        _ => (sector, sector),
    }
}

fn is_read_only(file: &File) -> io::Result<bool> {
    // SAFETY: BLKROGET writes one int to its argument.
    let request = unsafe { Getter::<{ opcode::none(0x12, 94) }, libc::c_int>::new() };
    // SAFETY: the request matches its operation code.
    Ok(unsafe { ioctl(file, request) }? != 0)
}

fn is_write_protected(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EROFS | libc::EACCES | libc::EPERM)
    )
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ENOSYS | libc::ENOTTY | libc::EPERM)
    )
}

#[cfg(test)]
mod tests;

//! Transfers that O_DIRECT would refuse, by way of an aligned buffer.
//!
//! Source: open(2) on O_DIRECT; statx(2) on `stx_dio_mem_align` and `stx_dio_offset_align`.
//! Invariants: what goes to the file is whole units at aligned positions from page-aligned memory; of the
//! read-modify-writes one runs at a time, so that two of them in one unit keep each other's bytes.

use crate::sync::{Mutex, Rank};
use memmap2::{MmapMut, MmapOptions};
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;

/// Bytes of a bounce buffer; a multiple of any unit.
const BUFFER: usize = 256 << 10;
const KEEP: usize = 8;

pub(super) struct Bounce {
    /// Alignment of addresses, in bytes; a power of two.
    memory: usize,
    /// Alignment of positions and lengths, in bytes; a power of two.
    unit: usize,
    idle: Mutex<Vec<MmapMut>>,
    modify: Mutex<()>,
}

impl Bounce {
    pub(super) fn new(memory: usize, unit: usize) -> Self {
        Self {
            memory,
            unit,
            idle: Mutex::new(Rank::Memory, Vec::new()),
            modify: Mutex::new(Rank::Leaf, ()),
        }
    }

    /// Whether a transfer needs no help. `position` may be that of a longer run of aligned slices.
    pub(super) fn is_aligned(&self, position: u64, bytes: &[u8]) -> bool {
        position.is_multiple_of(self.unit as u64)
            && bytes.len().is_multiple_of(self.unit)
            && bytes.as_ptr().addr().is_multiple_of(self.memory)
    }

    pub(super) fn read(&self, file: &File, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.with_buffer(|bounce| {
            let (mut position, mut rest) = (position, buffer);
            while !rest.is_empty() {
                let span = self.span(position, rest.len());
                let room = &mut bounce[..span.length];
                read_until(file, span.start, room, span.skip + span.count)?;
                let (now, later) = rest.split_at_mut(span.count);
                now.copy_from_slice(&room[span.skip..span.skip + span.count]);
                position += span.count as u64;
                rest = later;
            }
            Ok(())
        })
    }

    pub(super) fn write(&self, file: &File, position: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_gathered(file, position, &[IoSlice::new(bytes)])
    }

    pub(super) fn write_gathered(
        &self,
        file: &File,
        mut position: u64,
        slices: &[IoSlice<'_>],
    ) -> io::Result<()> {
        let mut left: usize = slices.iter().map(|s| s.len()).sum();
        let mut source = slices.iter().flat_map(|s| s.chunks(self.unit));
        let mut pending: &[u8] = &[];
        self.with_buffer(|bounce| {
            while left > 0 {
                let span = self.span(position, left);
                let room = &mut bounce[..span.length];
                let whole = span.skip == 0 && span.count == span.length;
                let _alone = (!whole).then(|| self.modify.lock());
                if !whole {
                    self.read_edges(file, &span, room)?;
                }
                let mut target = &mut room[span.skip..span.skip + span.count];
                while !target.is_empty() {
                    if pending.is_empty() {
                        pending = source.next().unwrap_or_default();
                        continue;
                    }
                    let count = target.len().min(pending.len());
                    let (now, later) = std::mem::take(&mut target).split_at_mut(count);
                    now.copy_from_slice(&pending[..count]);
                    pending = &pending[count..];
                    target = later;
                }
                file.write_all_at(room, span.start)?;
                position += span.count as u64;
                left -= span.count;
            }
            Ok(())
        })
    }

    /// The old contents of the first and the last unit of a span; zeroes beyond the end of the file.
    fn read_edges(&self, file: &File, span: &Span, room: &mut [u8]) -> io::Result<()> {
        let last = span.length - self.unit;
        for start in [0, last] {
            let unit = &mut room[start..start + self.unit];
            unit.fill(0);
            read_until(file, span.start + start as u64, unit, 0)?;
        }
        Ok(())
    }

    /// The aligned piece around the beginning of `position..position + left` that fits the buffer.
    fn span(&self, position: u64, left: usize) -> Span {
        let unit = self.unit as u64;
        let start = position - position % unit;
        let skip = usize::try_from(position - start).expect("less than a unit");
        let count = left.min(BUFFER - skip);
        Span {
            start,
            skip,
            count,
            length: (skip + count).next_multiple_of(self.unit),
        }
    }

    fn with_buffer<T>(&self, work: impl FnOnce(&mut [u8]) -> io::Result<T>) -> io::Result<T> {
        let idle = self.idle.lock().pop();
        let mut buffer = match idle {
            Some(buffer) => buffer,
            None => MmapOptions::new().len(BUFFER).map_anon()?,
        };
        let done = work(&mut buffer);
        let mut idle = self.idle.lock();
        if idle.len() < KEEP {
            idle.push(buffer);
        }
        done
    }
}

struct Span {
    /// Aligned position in the file.
    start: u64,
    /// Bytes before the caller's.
    skip: usize,
    /// The caller's bytes.
    count: usize,
    /// Aligned length of all.
    length: usize,
}

/// Reads into `room` until it is full or the file ends; an error if that is before `needed` bytes.
fn read_until(file: &File, position: u64, room: &mut [u8], needed: usize) -> io::Result<()> {
    let mut done = 0;
    while done < room.len() {
        match file.read_at(&mut room[done..], position + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Past a short read the position is not aligned; what is needed may be there already.
            Err(_) if done > 0 && done >= needed => break,
            Err(error) => return Err(error),
        }
    }
    if done < needed {
        Err(io::ErrorKind::UnexpectedEof.into())
    } else {
        Ok(())
    }
}

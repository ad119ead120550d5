//! Reads for whom nobody waits: the answer goes out when the device has read. And who may wait for the device all the same.
//!
//! Source: the design's FUSE facts (workers never sleep for a device).
//! Invariants: half of the workers may read or sync in place, which is quicker when little is asked for; the other half are
//! always there for what needs no device. The buffers of parked reads take an eighth of the memory cap at most.

use crate::error::{Posix, Result};
use crate::file::PlannedRead;
use crate::format::inode::flag;
use crate::fs::write::Bytes;
use crate::fs::{Fs, Options, need};
use crate::ids::InodeNumber;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub type ReadReply = Box<dyn FnOnce(Result<Bytes>) + Send>;

/// Device reads under way.
pub(crate) struct Reading {
    in_place: AtomicUsize,
    in_place_max: usize,
    parked: Arc<AtomicUsize>,
    parked_max: usize,
}

impl Reading {
    pub(crate) fn new(options: &Options) -> Self {
        let buffers = options.memory / 8 / u64::from(options.max_write).max(1);
        Self {
            in_place: AtomicUsize::new(0),
            in_place_max: options.threads / 2,
            parked: Arc::default(),
            parked_max: usize::try_from(buffers).unwrap_or(usize::MAX).max(4),
        }
    }
}

/// The right of a worker to wait for the device.
pub(super) struct InPlace<'a>(&'a AtomicUsize);

impl Drop for InPlace<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Takes one of `max` places.
fn take(count: &AtomicUsize, max: usize) -> bool {
    if count.fetch_add(1, Ordering::Relaxed) < max {
        return true;
    }
    count.fetch_sub(1, Ordering::Relaxed);
    false
}

impl Fs {
    /// `None`: enough workers wait for the device already.
    pub(super) fn in_place(&self) -> Option<InPlace<'_>> {
        let Reading {
            in_place,
            in_place_max,
            ..
        } = &self.reading;
        take(in_place, *in_place_max).then(|| InPlace(in_place))
    }

    /// As `read`; `reply` is called once, perhaps on another thread, perhaps before this returns. `direct`: the caller wants
    /// nothing read ahead.
    pub fn read_parked(
        &self,
        ino: InodeNumber,
        offset: u64,
        length: usize,
        direct: bool,
        reply: ReadReply,
    ) {
        let planned = self.plan_read(ino, offset, length, direct);
        let planned = match planned {
            Ok(Planned::Blocks(planned)) if !planned.is_complete() => planned,
            Ok(Planned::Blocks(planned)) => return reply(planned.finish().map(Bytes::Blocks)),
            Ok(Planned::Inline(bytes)) => return reply(Ok(Bytes::Inline(bytes))),
            Err(error) => return reply(Err(error)),
        };
        let reading = &self.reading;
        if let Some(place) = self.in_place() {
            let result = planned.finish().map(Bytes::Blocks);
            drop(place);
            reply(result);
            return self.files.ahead.read_on();
        }
        if !take(&reading.parked, reading.parked_max) {
            return reply(planned.finish().map(Bytes::Blocks));
        }
        let parked = Arc::clone(&reading.parked);
        planned.submit(Box::new(move |result| {
            reply(result.map(Bytes::Blocks));
            parked.fetch_sub(1, Ordering::Relaxed);
        }));
    }

    /// Finds out where the bytes are, and which are there already.
    pub(super) fn plan_read(
        &self,
        ino: InodeNumber,
        offset: u64,
        length: usize,
        direct: bool,
    ) -> Result<Planned> {
        let buffer = self
            .memory
            .io_need(length.saturating_add(self.geo.block_size as usize));
        let mut token = self.memory.request(need::READ.and(buffer))?;
        let node = self.node(ino)?;
        let planned = {
            let _shared = node.lock.read();
            let core = node.core.read();
            if core.is_dir() {
                return Err(Posix::IsDir.into());
            }
            if core.has_flag(flag::INLINE_DATA) {
                Planned::Inline(self.read_inline(ino, &core, offset, length)?)
            } else {
                drop(core);
                Planned::Blocks(self.files.plan_read(&node, offset, length, direct)?)
            }
        };
        self.touch_atime(&mut token, &node);
        Ok(planned)
    }
}

pub(super) enum Planned {
    Blocks(PlannedRead),
    Inline(Vec<u8>),
}

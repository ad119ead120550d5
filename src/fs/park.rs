//! Reads for whom nobody waits: the answer goes out when the device has read. And who may wait for the device all the same.
//!
//! Source: the design's FUSE facts (workers never sleep for a device).
//! Invariants: half of the workers may read or sync in place, metadata too, which is quicker when little is asked for; the other
//! half are there for what needs no device, as long as what would wait can begin again on another thread. The buffers of
//! parked reads take an eighth of the memory cap at most.

use crate::error::{Posix, Result};
use crate::file::PlannedRead;
use crate::format::inode::flag;
use crate::fs::write::Bytes;
use crate::fs::{Fs, Options, need};
use crate::ids::InodeNumber;
use crate::sync::patience::{self, Place, Places, Serving};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

pub type ReadReply = Box<dyn FnOnce(Result<Bytes>) + Send>;

/// Who waits for the device, and device reads under way for whom nobody does.
pub(crate) struct Reading {
    places: Arc<Places>,
    /// Requests that another thread than their worker served.
    put_aside: AtomicU64,
    parked: Arc<AtomicUsize>,
    parked_max: usize,
}

impl Reading {
    pub(crate) fn new(options: &Options) -> Self {
        let buffers = options.memory / 8 / u64::from(options.max_write).max(1);
        Self {
            places: Places::new(options.threads / 2),
            put_aside: AtomicU64::new(0),
            parked: Arc::default(),
            parked_max: usize::try_from(buffers).unwrap_or(usize::MAX).max(4),
        }
    }
}

impl Fs {
    /// A worker begins to serve a request, until the result is dropped. `can_begin_again`: where enough workers wait for the
    /// device already, the operation may end with `Again`, having changed nothing, and is to be called once more by somebody
    /// who serves nothing.
    pub fn serve(&self, can_begin_again: bool) -> Serving {
        self.reading.places.serve(can_begin_again)
    }

    /// Whether enough workers wait for the device.
    pub fn enough_wait(&self) -> bool {
        self.reading.places.are_taken()
    }

    /// A request is served by another thread than its worker.
    pub fn note_put_aside(&self) {
        self.reading.put_aside.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn put_aside(&self) -> u64 {
        self.reading.put_aside.load(Ordering::Relaxed)
    }

    /// `None`: enough workers wait for the device already.
    pub(super) fn in_place(&self) -> Option<Place> {
        self.reading.places.take()
    }

    /// As `read`; `reply` is called once, perhaps on another thread, perhaps before this returns. `direct`: the caller wants
    /// nothing read ahead. A request that is to begin again elsewhere is given to `again`.
    pub fn read_parked(
        &self,
        ino: InodeNumber,
        offset: u64,
        length: usize,
        direct: bool,
        reply: ReadReply,
        again: impl FnOnce(ReadReply),
    ) {
        let planned = self.plan_read(ino, offset, length, direct);
        let planned = match planned {
            Err(error) if error.is_posix(Posix::Again) => return again(reply),
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
        patience::insist();
        self.touch_atime(&mut token, &node);
        Ok(planned)
    }
}

pub(super) enum Planned {
    Blocks(PlannedRead),
    Inline(Vec<u8>),
}

/// Takes one of `max`.
fn take(count: &AtomicUsize, max: usize) -> bool {
    if count.fetch_add(1, Ordering::Relaxed) < max {
        return true;
    }
    count.fetch_sub(1, Ordering::Relaxed);
    false
}

//! A device that remembers every write and barrier in order, so that a test can cut the power after any of them.
//!
//! Source: the design's section on devices.
//! Invariants: an event is recorded after the inner device has accepted it; events are in the order in which they
//! were accepted.

use super::Device;
use crate::error::{Error, IoError, Result};
use crate::sync::{Mutex, Rank};
use std::io::IoSlice;
use std::sync::Arc;

/// What reached the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Write {
        offset: u64,
        bytes: Vec<u8>,
    },
    Zeroes {
        offset: u64,
        length: u64,
    },
    Discard {
        offset: u64,
        length: u64,
    },
    /// All before it is durable.
    Sync,
}

pub struct Record {
    inner: Arc<dyn Device>,
    events: Mutex<Vec<Event>>,
}

impl Record {
    pub fn new(inner: Arc<dyn Device>) -> Self {
        Self {
            inner,
            events: Mutex::new(Rank::Leaf, Vec::new()),
        }
    }

    /// The events so far; recording starts anew.
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.events.lock())
    }

    /// The lock is held over the operation, so that the order of events is the order of operations.
    fn recorded(&self, event: Event, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut events = self.events.lock();
        work()?;
        events.push(event);
        Ok(())
    }
}

/// Brings `image` to the state after `events`.
///
/// # Errors
/// An event that lies outside the image.
pub fn replay(image: &mut [u8], events: &[Event]) -> Result<()> {
    for event in events {
        let (offset, length) = match event {
            Event::Write { offset, bytes } => (*offset, bytes.len() as u64),
            Event::Zeroes { offset, length } => (*offset, *length),
            Event::Discard { .. } | Event::Sync => continue,
        };
        let target = range(image, offset, length)?;
        match event {
            Event::Write { bytes, .. } => target.copy_from_slice(bytes),
            _ => target.fill(0),
        }
    }
    Ok(())
}

fn range(image: &mut [u8], offset: u64, length: u64) -> Result<&mut [u8]> {
    let start = usize::try_from(offset).ok();
    let end = start.and_then(|s| s.checked_add(usize::try_from(length).ok()?));
    let found = start
        .zip(end)
        .and_then(|(start, end)| image.get_mut(start..end));
    found.ok_or_else(|| {
        let source = Arc::new(std::io::ErrorKind::UnexpectedEof.into());
        Error::Io(IoError {
            operation: "replay",
            offset,
            length,
            source,
        })
    })
}

impl Device for Record {
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
        let event = Event::Write {
            offset,
            bytes: bytes.to_vec(),
        };
        self.recorded(event, || self.inner.write_at(offset, bytes))
    }

    fn write_vectored_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> Result<()> {
        let bytes = slices.iter().flat_map(|s| s.iter().copied()).collect();
        self.recorded(Event::Write { offset, bytes }, || {
            self.inner.write_vectored_at(offset, slices)
        })
    }

    fn sync(&self) -> Result<()> {
        self.recorded(Event::Sync, || self.inner.sync())
    }

    fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.recorded(Event::Discard { offset, length }, || {
            self.inner.discard(offset, length)
        })
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> Result<()> {
        self.recorded(Event::Zeroes { offset, length }, || {
            self.inner.write_zeroes(offset, length)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::file::{Access, FileDevice};

    #[test]
    fn the_log_replays_to_the_same_image() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 << 10).unwrap();
        let device = FileDevice::open(file.path(), &Access::default()).unwrap();
        let record = Record::new(Arc::new(device));
        record.write_at(1024, &[7; 1024]).unwrap();
        record.sync().unwrap();
        record
            .write_vectored_at(8192, &[IoSlice::new(&[1; 512]), IoSlice::new(&[2; 512])])
            .unwrap();
        record.write_zeroes(1536, 512).unwrap();
        let events = record.take();
        assert_eq!(events[1], Event::Sync);
        let mut image = vec![0; 64 << 10];
        replay(&mut image, &events).unwrap();
        assert!(image == std::fs::read(file.path()).unwrap());
        assert!(replay(&mut image[..4096], &events).is_err());
    }
}

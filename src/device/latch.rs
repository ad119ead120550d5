//! The failure latch: after a failed write or sync the device takes no more writes.
//!
//! Source: the design's section on devices. After a failed fdatasync(2) the kernel may have dropped dirty pages,
//! so that a second success proves nothing.
//! Invariants: once latched, always latched; reads go on.

use super::Device;
use super::submit::{ReadRequest, WriteRequest};
use crate::error::{Error, Result};
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub struct Latch {
    inner: Arc<dyn Device>,
    failed: Arc<AtomicBool>,
}

impl Latch {
    pub fn new(inner: Arc<dyn Device>) -> Self {
        Self {
            inner,
            failed: Arc::new(AtomicBool::new(false)),
        }
    }

    /// Whether a write or sync has failed.
    pub fn failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    fn guarded(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        if self.failed() {
            return Err(Error::Aborted);
        }
        let done = work();
        latch(&self.failed, &done);
        done
    }
}

fn latch(failed: &AtomicBool, done: &Result<()>) {
    if let Err(error) = done
        && !failed.swap(true, Ordering::AcqRel)
    {
        log::error!("{error}; no more writes are accepted");
    }
}

impl Device for Latch {
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
        self.guarded(|| self.inner.write_at(offset, bytes))
    }

    fn write_vectored_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> Result<()> {
        self.guarded(|| self.inner.write_vectored_at(offset, slices))
    }

    fn sync(&self) -> Result<()> {
        self.guarded(|| self.inner.sync())
    }

    fn discard(&self, offset: u64, length: u64) -> Result<()> {
        if self.failed() {
            return Err(Error::Aborted);
        }
        self.inner.discard(offset, length)
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> Result<()> {
        self.guarded(|| self.inner.write_zeroes(offset, length))
    }

    fn submit_read(&self, request: ReadRequest) {
        self.inner.submit_read(request);
    }

    fn submit_write(&self, mut request: WriteRequest) {
        if self.failed() {
            return request.run(|_, _| Err(Error::Aborted));
        }
        let failed = Arc::clone(&self.failed);
        let done = request.done;
        request.done = Box::new(move |result, source| {
            latch(&failed, &result);
            done(result, source);
        });
        self.inner.submit_write(request);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::io_error;

    /// Fails its first write, would take all others.
    #[derive(Default)]
    struct FailsOnce {
        failed: AtomicBool,
    }

    impl Device for FailsOnce {
        fn len(&self) -> u64 {
            4096
        }
        fn sector_size(&self) -> u32 {
            512
        }
        fn read_only(&self) -> bool {
            false
        }
        fn read_at(&self, _: u64, _: &mut [u8]) -> Result<()> {
            Ok(())
        }
        fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
            if self.failed.swap(true, Ordering::Relaxed) {
                return Ok(());
            }
            let error = std::io::Error::from_raw_os_error(libc::EIO);
            Err(io_error("write", offset, bytes.len() as u64, error))
        }
        fn write_vectored_at(&self, _: u64, _: &[IoSlice<'_>]) -> Result<()> {
            Ok(())
        }
        fn sync(&self) -> Result<()> {
            Ok(())
        }
        fn discard(&self, _: u64, _: u64) -> Result<()> {
            Ok(())
        }
        fn write_zeroes(&self, _: u64, _: u64) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nothing_is_written_after_a_failure() {
        let latch = Latch::new(Arc::new(FailsOnce::default()));
        latch.sync().unwrap();
        assert!(matches!(latch.write_at(0, &[0; 512]), Err(Error::Io(_))));
        assert!(matches!(latch.write_at(0, &[0; 512]), Err(Error::Aborted)));
        assert!(matches!(latch.sync(), Err(Error::Aborted)));
        assert!(matches!(latch.discard(0, 512), Err(Error::Aborted)));
        latch.read_at(0, &mut [0; 512]).unwrap();
    }
}

//! Many transfers in flight at once: io_uring, or a pool of threads where io_uring is not allowed.
//!
//! Source: io_uring(7); the design's section on devices.
//! Invariants: a transfer's memory belongs to its `InFlight` from before the kernel hears of it until its completion has
//! been taken; one thread, the reaper, takes completions and calls back; the ring ends only when nothing is in flight.

use super::submit::{ReadRequest, WriteRequest};
use crate::sync::{Condvar, Mutex, Rank};
use crossbeam_channel::{Sender, TrySendError, bounded};
use io_uring::types::Fd;
use io_uring::{IoUring, opcode, squeue};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::{JoinHandle, ThreadId};

/// Transfers in flight; more are done by who asks for them. The completion queue holds twice as many.
const DEPTH: u32 = 128;
/// Threads of the pool.
const POOL: usize = 4;
/// How many slices one transfer takes.
const IOV_MAX: usize = 1024;
/// `user_data` that tells the reaper to end.
const STOP: u64 = 0;

/// A transfer whose place and alignment have been checked.
pub(super) enum Transfer {
    Read(ReadRequest),
    Write(WriteRequest),
}

/// What does a transfer the slow way: waiting for it.
pub(super) type Finish = Arc<dyn Fn(Transfer) + Send + Sync>;

/// The engine of one file.
pub(super) enum Engine {
    Ring(Ring),
    Pool(Pool),
}

impl Engine {
    /// `finish` does a whole transfer: for the pool, and where io_uring does it by half.
    pub(super) fn start(file: &Arc<File>, finish: Finish) -> Self {
        match Ring::start(Arc::clone(file), Arc::clone(&finish)) {
            Ok(ring) => Engine::Ring(ring),
            Err(error) => {
                log::debug!("no io_uring ({error}): a pool of {POOL} threads");
                Engine::Pool(Pool::start(&finish))
            }
        }
    }

    /// Starts the transfer at `position` of the file; gives it back when too many are under way.
    pub(super) fn submit(&self, position: u64, transfer: Transfer) -> Option<Transfer> {
        match self {
            Engine::Ring(ring) => ring.submit(position, transfer),
            Engine::Pool(pool) => pool.submit(transfer),
        }
    }
}

/// A transfer that the kernel works on.
struct InFlight {
    transfer: Transfer,
    /// What the kernel reads the addresses from; they point into `transfer`.
    slices: Vec<libc::iovec>,
    length: usize,
}

struct Shared {
    ring: IoUring,
    file: Arc<File>,
    finish: Finish,
    /// Guards the submission queue; the number of transfers in flight.
    in_flight: Mutex<u32>,
    idle: Condvar,
}

pub(super) struct Ring {
    shared: Arc<Shared>,
    reaper: Option<JoinHandle<()>>,
    reaper_id: ThreadId,
}

impl Ring {
    fn start(file: Arc<File>, finish: Finish) -> io::Result<Self> {
        let ring = IoUring::builder().dontfork().build(DEPTH)?;
        if !ring.params().is_feature_nodrop() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let shared = Arc::new(Shared {
            ring,
            file,
            finish,
            in_flight: Mutex::new(Rank::Leaf, 0),
            idle: Condvar::new(),
        });
        let theirs = Arc::clone(&shared);
        let builder = std::thread::Builder::new().name("ring".into());
        let reaper = builder.spawn(move || theirs.reap())?;
        Ok(Self {
            shared,
            reaper_id: reaper.thread().id(),
            reaper: Some(reaper),
        })
    }

    fn submit(&self, position: u64, transfer: Transfer) -> Option<Transfer> {
        let mut in_flight = self.shared.in_flight.lock();
        if *in_flight >= DEPTH - 1 {
            return Some(transfer);
        }
        let mut pending = match InFlight::new(transfer) {
            Ok(pending) => pending,
            Err(transfer) => return Some(transfer),
        };
        let entry = pending.entry(Fd(self.shared.file.as_raw_fd()), position);
        let address = Box::into_raw(pending);
        if let Err(error) = self.shared.push(&entry.user_data(address as u64)) {
            log::debug!("io_uring takes no transfer: {error}");
            // SAFETY: `address` is from `into_raw` just above, and the kernel has not heard of it.
            let pending = unsafe { Box::from_raw(address) };
            return Some(pending.transfer);
        }
        *in_flight += 1;
        None
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let here = std::thread::current().id() == self.reaper_id;
        let mut in_flight = self.shared.in_flight.lock();
        // On the reaper itself a callback is what drops the ring; it comes back to what is in flight.
        while *in_flight > 0 && !here {
            self.shared.idle.wait(&mut in_flight);
        }
        let stop = opcode::Nop::new().build().user_data(STOP);
        if let Err(error) = self.shared.push(&stop) {
            log::error!("the ring's thread cannot be told to end: {error}");
            return;
        }
        drop(in_flight);
        if let Some(reaper) = self.reaper.take()
            && !here
            && reaper.join().is_err()
        {
            log::error!("the ring's thread ended with a panic");
        }
    }
}

impl InFlight {
    /// Gives the transfer back when it has more slices than the kernel takes.
    fn new(mut transfer: Transfer) -> Result<Box<Self>, Transfer> {
        let slices: Vec<libc::iovec> = match &mut transfer {
            Transfer::Read(read) => {
                let bytes = &mut read.buffer[read.range.clone()];
                vec![libc::iovec {
                    iov_base: bytes.as_mut_ptr().cast(),
                    iov_len: bytes.len(),
                }]
            }
            Transfer::Write(write) => {
                let slices = write.source.slices();
                let iovec = |s: &io::IoSlice<'_>| libc::iovec {
                    iov_base: s.as_ptr().cast_mut().cast(),
                    iov_len: s.len(),
                };
                slices.iter().map(iovec).collect()
            }
        };
        let length = slices.iter().map(|s| s.iov_len).sum::<usize>();
        if slices.len() > IOV_MAX || length > i32::MAX as usize {
            return Err(transfer);
        }
        Ok(Box::new(Self {
            transfer,
            slices,
            length,
        }))
    }

    fn entry(&mut self, fd: Fd, position: u64) -> squeue::Entry {
        let (slices, count) = (self.slices.as_ptr(), self.slices.len() as u32);
        match &self.transfer {
            Transfer::Read(_) => opcode::Readv::new(fd, slices, count)
                .offset(position)
                .build(),
            Transfer::Write(_) => opcode::Writev::new(fd, slices, count)
                .offset(position)
                .build(),
        }
    }

    /// Calls back if the kernel did all of it; else what the kernel left half done is done again.
    fn complete(self, result: i32, finish: &Finish) {
        if usize::try_from(result) != Ok(self.length) {
            return finish(self.transfer);
        }
        match self.transfer {
            Transfer::Read(read) => (read.done)(Ok(()), read.buffer),
            Transfer::Write(write) => (write.done)(Ok(()), write.source),
        }
    }
}

impl Shared {
    /// Hands one entry to the kernel; the caller holds the lock `in_flight`.
    fn push(&self, entry: &squeue::Entry) -> io::Result<()> {
        {
            // SAFETY: only this function uses the submission queue, under the lock that every caller holds.
            let mut queue = unsafe { self.ring.submission_shared() };
            // SAFETY: the entry's addresses lie in an `InFlight` that stays until its completion is taken.
            let pushed = unsafe { queue.push(entry) };
            pushed.map_err(|_| io::Error::from(io::ErrorKind::WouldBlock))?;
        }
        loop {
            match self.ring.submit() {
                Ok(_) => return Ok(()),
                // The entry stays in the queue, where nobody could take it back: only what passes may be waited out.
                Err(error) if is_passing(&error) => std::thread::yield_now(),
                Err(error) => {
                    log::error!("io_uring does not work any more: {error}");
                    std::process::abort();
                }
            }
        }
    }

    fn reap(&self) {
        let mut stopping = false;
        while !stopping || *self.in_flight.lock() > 0 {
            // SAFETY: nothing is submitted and no argument passed; it only waits.
            let waited = unsafe {
                self.ring
                    .submitter()
                    .enter::<libc::sigset_t>(0, 1, ENTER_GETEVENTS, None)
            };
            if let Err(error) = waited
                && !is_passing(&error)
            {
                log::error!("io_uring does not work any more: {error}");
                std::process::abort();
            }
            loop {
                // SAFETY: the reaper alone uses the completion queue, and lets go of it before it calls back.
                let next = unsafe { self.ring.completion_shared() }.next();
                let Some(entry) = next else { break };
                if entry.user_data() == STOP {
                    stopping = true;
                    continue;
                }
                let address = entry.user_data() as *mut InFlight;
                // SAFETY: `submit` made it with `into_raw`, the kernel is done with it and tells of it once.
                let pending = unsafe { Box::from_raw(address) };
                pending.complete(entry.result(), &self.finish);
                self.one_less();
            }
        }
    }

    fn one_less(&self) {
        let mut in_flight = self.in_flight.lock();
        *in_flight -= 1;
        if *in_flight == 0 {
            self.idle.notify_all();
        }
    }
}

/// IORING_ENTER_GETEVENTS.
const ENTER_GETEVENTS: u32 = 1;

fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)
    )
}

/// Threads that do one transfer after the other.
pub(super) struct Pool {
    queue: Option<Sender<Transfer>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    fn start(finish: &Finish) -> Self {
        let (queue, transfers) = bounded::<Transfer>(DEPTH as usize);
        let spawn = |_| {
            let (transfers, finish) = (transfers.clone(), Arc::clone(finish));
            let work = move || transfers.iter().for_each(|transfer| finish(transfer));
            let builder = std::thread::Builder::new().name("io".into());
            builder.spawn(work).ok()
        };
        Self {
            threads: (0..POOL).filter_map(spawn).collect(),
            queue: Some(queue),
        }
    }

    fn submit(&self, transfer: Transfer) -> Option<Transfer> {
        if self.threads.is_empty() {
            return Some(transfer);
        }
        match self.queue.as_ref()?.try_send(transfer) {
            Ok(()) => None,
            Err(TrySendError::Full(transfer) | TrySendError::Disconnected(transfer)) => {
                Some(transfer)
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.queue = None;
        let here = std::thread::current().id();
        for thread in self.threads.drain(..) {
            if thread.thread().id() != here && thread.join().is_err() {
                log::error!("a thread of the pool ended with a panic");
            }
        }
    }
}

#[cfg(test)]
mod tests;

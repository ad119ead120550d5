//! A step of the flushers or the committer that stands still in the middle while operations go on: on a thread of its own,
//! which stops behind one of its writes. One thread runs at a time, so that a seed repeats exactly: the step goes on when it
//! is told to, or when an operation has to wait for it; the operation writes again when the step is over or waits in its turn.

use std::cell::RefCell;
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;
use uext4::canary::Canary;
use uext4::device::Device;
use uext4::error::Result;

/// How often it looks whether the operation waits, and how many looks in a row must say so.
const LOOK: Duration = Duration::from_micros(300);
const LOOKS: u32 = 12;

/// Where a step stops.
struct Stop {
    /// Behind so many more writes and barriers.
    after: u32,
    stands: Sender<()>,
    go_on: Receiver<()>,
    step: Arc<Step>,
    /// The thread of the operations.
    others: u64,
}

thread_local! {
    static STOP: RefCell<Option<Stop>> = const { RefCell::new(None) };
    /// The step that this thread has begun.
    static BEGUN: RefCell<Option<Arc<Step>>> = const { RefCell::new(None) };
}

/// A step, as the thread of the operations sees it.
#[derive(Default)]
struct Step {
    thread: AtomicU64,
    /// It stands still, or is over.
    quiet: AtomicBool,
}

impl Step {
    /// Returns when it stands still, is over, or waits for the caller.
    fn wait(&self) {
        let (mut looks, mut last) = (0, None);
        while !self.quiet.load(Ordering::Acquire) && looks < LOOKS {
            std::thread::sleep(LOOK);
            let sleeps = sleeping(self.thread.load(Ordering::Acquire));
            looks = if sleeps.is_some() && sleeps == last {
                looks + 1
            } else {
                0
            };
            last = sleeps;
        }
    }
}

/// The disk below, where steps stop.
pub struct Gate(pub Arc<dyn Device>);

/// The operations write when the step does not.
fn passing() {
    BEGUN.with_borrow(|begun| begun.iter().for_each(|step| step.wait()));
}

fn passed() {
    STOP.with_borrow_mut(|stop| {
        let Some(at) = stop else { return };
        if at.after > 0 {
            at.after -= 1;
            return;
        }
        let at = stop.take().expect("it stands");
        at.step.quiet.store(true, Ordering::Release);
        let _ = at.stands.send(());
        let (mut looks, mut last) = (0, None);
        // Nobody is left to tell it: it goes on, too.
        while at.go_on.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            let sleeps = sleeping(at.others);
            looks = if sleeps.is_some() && sleeps == last {
                looks + 1
            } else {
                0
            };
            last = sleeps;
            if looks == LOOKS {
                break;
            }
        }
        at.step.quiet.store(false, Ordering::Release);
    });
}

/// How often a thread has slept, if it sleeps now.
fn sleeping(thread: u64) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/status")).ok()?;
    let line = |name: &str| {
        let mut lines = status.lines();
        lines.find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
    };
    let sleeps = line("State:")?.starts_with('S');
    let count = line("voluntary_ctxt_switches:")?.parse().ok()?;
    sleeps.then_some(count)
}

fn this_thread() -> u64 {
    let link = std::fs::read_link("/proc/thread-self").expect("the thread's number");
    let number = link
        .file_name()
        .and_then(|name| name.to_str()?.parse().ok());
    number.expect("the thread's number")
}

/// A step under way.
pub struct Aside {
    thread: JoinHandle<Result<()>>,
    step: Arc<Step>,
    go_on: Sender<()>,
}

impl Aside {
    /// Begins `step`; when this returns it stands still behind its write number `after`, or is over.
    pub fn begin(after: u32, step: impl FnOnce() -> Result<()> + Send + 'static) -> Self {
        let (stands, stood) = channel();
        let (go_on, told) = channel();
        let others = this_thread();
        let canary = selected();
        let seen = Arc::new(Step::default());
        let its = Arc::clone(&seen);
        let thread = std::thread::spawn(move || {
            select(canary);
            let stop = Stop {
                after,
                stands,
                go_on: told,
                step: Arc::clone(&its),
                others,
            };
            its.thread.store(this_thread(), Ordering::Release);
            STOP.set(Some(stop));
            let done = step();
            its.quiet.store(true, Ordering::Release);
            // Tells that it is over.
            STOP.set(None);
            done
        });
        let _ = stood.recv();
        BEGUN.set(Some(Arc::clone(&seen)));
        Self {
            thread,
            step: seen,
            go_on,
        }
    }

    /// After an operation: if the step went on because it was waited for, it gets to its end.
    pub fn settle(&self) {
        self.step.wait();
    }

    /// It goes on to its end.
    pub fn end(self) -> Result<()> {
        BEGUN.set(None);
        let _ = self.go_on.send(());
        match self.thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Device for Gate {
    fn len(&self) -> u64 {
        self.0.len()
    }
    fn sector_size(&self) -> u32 {
        self.0.sector_size()
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.0.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        passing();
        self.0.write_at(offset, bytes).inspect(|()| passed())
    }
    fn write_vectored_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> Result<()> {
        passing();
        let done = self.0.write_vectored_at(offset, slices);
        done.inspect(|()| passed())
    }
    fn sync(&self) -> Result<()> {
        passing();
        self.0.sync().inspect(|()| passed())
    }
    fn discard(&self, offset: u64, length: u64) -> Result<()> {
        passing();
        self.0.discard(offset, length)
    }
    fn write_zeroes(&self, offset: u64, length: u64) -> Result<()> {
        passing();
        self.0.write_zeroes(offset, length).inspect(|()| passed())
    }
}

/// Which broken line is on, for a step's thread, too.
#[cfg(feature = "canaries")]
pub fn select(canary: Option<Canary>) {
    uext4::canary::select(canary);
}

#[cfg(not(feature = "canaries"))]
pub fn select(canary: Option<Canary>) {
    assert!(canary.is_none(), "built without the feature `canaries`");
}

#[cfg(feature = "canaries")]
pub fn selected() -> Option<Canary> {
    uext4::canary::selected()
}

#[cfg(not(feature = "canaries"))]
pub fn selected() -> Option<Canary> {
    None
}

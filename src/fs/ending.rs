//! The end of a mount: when nothing is left of it, no gauge may show anything.
//!
//! Source: the design's section on memory (proofs).
//! Invariants: this is the last part of `Fs` to go, so that whatever is still counted then has been lost.

use crate::fs::Fs;
use crate::memory::Memory;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Looks at the gauges when it is dropped.
pub(crate) struct Ending {
    memory: Arc<Memory>,
    /// The unmount went through: nobody is cut off in the middle of something.
    unmounted: AtomicBool,
}

impl Ending {
    pub(super) fn new(memory: &Arc<Memory>) -> Self {
        Self {
            memory: Arc::clone(memory),
            unmounted: AtomicBool::new(false),
        }
    }

    pub(super) fn set_unmounted(&self) {
        self.unmounted.store(true, Ordering::Relaxed);
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if !self.unmounted.load(Ordering::Relaxed) || std::thread::panicking() {
            return;
        }
        if let Some(text) = leaked(&self.memory) {
            log::error!(target: "uext4::memory", "{text}");
            debug_assert!(false, "{text}");
        }
    }
}

/// What is still counted. Reads ahead that the unmount found in flight give theirs back when the device answers.
fn leaked(memory: &Memory) -> Option<String> {
    let mut waited = Duration::ZERO;
    while !memory.leaks().is_empty() && waited < PATIENCE {
        std::thread::sleep(LOOK);
        waited += LOOK;
    }
    let leaks = memory.leaks();
    let list: Vec<String> = leaks
        .iter()
        .map(|(class, bytes)| format!("{class}: {bytes} bytes"))
        .collect();
    (!list.is_empty()).then(|| format!("leaked at the unmount: {}", list.join(", ")))
}

/// How long an answer of the control channel, or of the device, may still come after the unmount.
const PATIENCE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(1);

impl Fs {
    /// After `unmount`: lets go of everything, the device included. Returns what was leaked, by class; the log has it too.
    pub fn close(self: Arc<Self>) -> Option<String> {
        let memory = Arc::clone(&self.memory);
        let left = Arc::downgrade(&self);
        drop(self);
        let mut waited = Duration::ZERO;
        while left.strong_count() > 0 && waited < PATIENCE {
            std::thread::sleep(LOOK);
            waited += LOOK;
        }
        if left.strong_count() > 0 {
            log::error!(target: "uext4::memory", "leaked at the unmount: the file system itself");
        }
        leaked(&memory)
    }
}

//! What happens when the image turns out to be corrupt or its device fails: `errors=`.
//!
//! Source: the kernel's ext4 documentation, mount option `errors` and the superblock's error fields.
//! Invariants: the first and the last error are recorded in the superblock; a plain POSIX outcome is never an error here;
//! once the journal is aborted the cause is recorded one time, and nothing else is written. A place that is met again and
//! again is logged and recorded the first time, the second, the fourth, the eighth...

use crate::error::{Error, Location};
use crate::fs::{ErrorPolicy, Fs};
use crate::sync::{Mutex, Rank};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// Places that are remembered; what is met beyond that is told each time again.
const PLACES_MAX: usize = 64;

/// What has been reported already.
pub(crate) struct Reported {
    /// How often each place was met.
    met: Mutex<HashMap<String, u64>>,
    /// The end of all writing is on record.
    end: AtomicBool,
}

impl Reported {
    pub(crate) fn new() -> Self {
        Self {
            met: Mutex::new(Rank::Leaf, HashMap::new()),
            end: AtomicBool::new(false),
        }
    }

    /// How often this was met now, if that is to be told.
    fn count(&self, text: &str) -> Option<u64> {
        let mut met = self.met.lock();
        if met.len() >= PLACES_MAX && !met.contains_key(text) {
            met.clear();
        }
        let times = met.entry(text.to_owned()).or_default();
        *times += 1;
        times.is_power_of_two().then_some(*times)
    }
}

impl Fs {
    /// Logs and records what an operation met, and obeys `errors=`. Harmless outcomes pass.
    pub fn report(&self, error: &Error) {
        let at = match error {
            Error::Corrupt { at, .. } => *at,
            Error::Io(_) => Location::default(),
            Error::Posix(_) | Error::Incompatible(_) | Error::Aborted => return,
        };
        self.report_groups(Some(error));
        let text = error.to_string();
        let Some(times) = self.reported.count(&text) else {
            return;
        };
        match times {
            1 => log::error!("file system error: {text}"),
            _ => log::error!("file system error, met {times} times: {text}"),
        }
        if self.options.read_only {
            return;
        }
        if self.policy == ErrorPolicy::RemountRo || is_end_of_device(error) {
            // First of all: nothing half done is committed.
            self.read_only.store(true, Ordering::Relaxed);
            self.journal.abort(error);
        }
        let ended = self.journal.is_aborted();
        if ended && self.reported.end.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Err(failed) = self.record_error(error, at) {
            log::error!("the error could not be recorded in the superblock: {failed}");
        }
        if ended {
            self.journal.record_abort();
            log::error!("nothing is written any more: read-only until the next mount");
        }
        if self.policy == ErrorPolicy::Panic {
            log::error!("errors=panic: the daemon ends, the journal stays as it is");
            std::process::abort();
        }
    }

    /// Reports groups that the allocator gave up while it served from others; `known` is being reported already.
    pub(crate) fn report_groups(&self, known: Option<&Error>) {
        for error in self.alloc.take_errors() {
            if !known.is_some_and(|known| is_same(known, &error)) {
                self.report(&error);
            }
        }
    }
}

/// After a failed write or sync the device takes no more of them, whatever `errors=` says.
fn is_end_of_device(error: &Error) -> bool {
    matches!(error, Error::Io(io) if io.operation != "read")
}

fn is_same(a: &Error, b: &Error) -> bool {
    match (a, b) {
        (Error::Corrupt { kind: a, at }, Error::Corrupt { kind: b, at: place }) => {
            a == b && at == place
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_told_less_and_less_often() {
        let reported = Reported::new();
        let told: Vec<u64> = (0..20).filter_map(|_| reported.count("here")).collect();
        assert_eq!(told, [1, 2, 4, 8, 16]);
        assert_eq!(reported.count("there"), Some(1));
    }

    #[test]
    fn places_are_remembered_in_bounded_memory() {
        let reported = Reported::new();
        for place in 0..1000 {
            assert_eq!(reported.count(&place.to_string()), Some(1));
        }
        assert!(reported.met.lock().len() <= PLACES_MAX);
    }
}

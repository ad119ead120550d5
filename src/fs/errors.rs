//! What happens when the image turns out to be corrupt or its device fails: `errors=`.
//!
//! Source: the kernel's ext4 documentation, mount option `errors` and the superblock's error fields.
//! Invariants: the first and the last error are recorded in the superblock; a plain POSIX outcome is never an error here.

use crate::error::{Error, Location};
use crate::fs::{ErrorPolicy, Fs};
use std::sync::atomic::Ordering;

impl Fs {
    /// Logs and records what an operation met, and obeys `errors=`. Harmless outcomes pass.
    pub fn report(&self, error: &Error) {
        let at = match error {
            Error::Corrupt { at, .. } => *at,
            Error::Io(_) => Location::default(),
            Error::Posix(_) | Error::Incompatible(_) | Error::Aborted => return,
        };
        self.report_groups(Some(error));
        log::error!("file system error: {error}");
        if self.is_read_only() {
            return;
        }
        if self.policy == ErrorPolicy::RemountRo {
            // First of all: nothing half done is committed.
            self.read_only.store(true, Ordering::Relaxed);
            self.journal.abort(error);
        }
        if let Err(failed) = self.record_error(error, at) {
            log::error!("the error could not be recorded in the superblock: {failed}");
        }
        match self.policy {
            ErrorPolicy::Continue => {}
            ErrorPolicy::RemountRo => {
                self.journal.record_abort();
                log::error!("remounting read-only");
            }
            ErrorPolicy::Panic => {
                log::error!("errors=panic: the daemon ends, the journal stays as it is");
                std::process::abort();
            }
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

fn is_same(a: &Error, b: &Error) -> bool {
    match (a, b) {
        (Error::Corrupt { kind: a, at }, Error::Corrupt { kind: b, at: place }) => {
            a == b && at == place
        }
        _ => false,
    }
}

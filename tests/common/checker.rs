//! Our own checker, in process, as a judge beside e2fsck.

use std::path::Path;
use std::sync::Arc;
use uext4::device::Device;
use uext4::device::file::{Access, FileDevice};

/// How it ends, and what it finds.
pub fn check(device: Arc<dyn Device>, answer: fsck::Answer) -> (u8, Vec<String>) {
    let options = fsck::Options {
        answer,
        force: true,
        now: 1_750_000_000,
        ..fsck::Options::default()
    };
    let mut found = fsck::report::Collect::default();
    let mut report = fsck::report::Reporter::new(answer, &mut found);
    let outcome = fsck::check(device, &options, &mut report);
    let texts = found.0.into_iter().map(|finding| finding.text).collect();
    (outcome.status, texts)
}

/// It has nothing to say of a file or device that is not in use.
pub fn finds_nothing(path: &Path) -> Result<(), String> {
    let access = Access {
        read_only: true,
        ..Access::default()
    };
    let device = FileDevice::open(path, &access).map_err(|error| error.to_string())?;
    match check(Arc::new(device), fsck::Answer::No) {
        (fsck::exit::CLEAN, _) => Ok(()),
        (status, found) => Err(format!("fsck.uext4 -fn: {status}: {}", found.join("; "))),
    }
}

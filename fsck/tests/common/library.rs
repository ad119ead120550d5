//! The checker in process, on an image in memory.

use fsck::report::{Collect, Reporter};
use fsck::{Answer, Options};
use std::sync::Arc;
use uext4::device::Device;

/// As with `-f`, at a fixed time.
pub fn options(answer: Answer) -> Options {
    Options {
        answer,
        force: true,
        now: 1_750_000_000,
        ..Options::default()
    }
}

/// How it ends, and what it finds.
pub fn check(device: Arc<dyn Device>, options: &Options) -> (u8, Vec<String>) {
    let mut found = Collect::default();
    let mut report = Reporter::new(options.answer, &mut found);
    let outcome = fsck::check(device, options, &mut report);
    let texts = found.0.into_iter().map(|finding| finding.text).collect();
    (outcome.status, texts)
}

//! Making a new image file and the file system in it.
//!
//! Source: the design's section on devices.
//! Invariants: the file is new (never an existing one), sparse, and gone again when anything fails.

use super::{MakeError, Options, Plan, write};
use crate::device::Device;
use crate::device::file::{Access, FileDevice};
use crate::format::time::Timestamp;
use std::fs::OpenOptions;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

impl Options {
    /// The defaults for `size` bytes, with new random ids and the present time.
    pub fn fresh(size: u64) -> Self {
        let seconds = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |elapsed| elapsed.as_secs().cast_signed());
        let time = Timestamp {
            seconds,
            nanoseconds: 0,
        };
        let random = || *uuid::Uuid::new_v4().as_bytes();
        Self::new(size, random(), random(), time)
    }
}

/// Makes the file `path` of `size` bytes with the default file system in it.
pub fn create(path: &Path, size: u64) -> Result<(), MakeError> {
    create_with(path, &Options::fresh(size)).map(drop)
}

/// Makes the file `path` of `options.size` bytes with the file system that the options describe.
pub fn create_with(path: &Path, options: &Options) -> Result<Plan, MakeError> {
    let plan = Plan::new(options)?;
    let file_error = |source| MakeError::File {
        path: path.display().to_string(),
        source,
    };
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(file_error)?;
    let made = file
        .set_len(options.size)
        .map_err(file_error)
        .and_then(|()| fill(path, &plan));
    if made.is_err() {
        // The first error is the one that matters.
        let _ = std::fs::remove_file(path);
    }
    made.map(|()| plan)
}

fn fill(path: &Path, plan: &Plan) -> Result<(), MakeError> {
    let device = FileDevice::open(path, &Access::default())
        .map_err(|error| MakeError::Open(error.to_string()))?;
    plan.check_device(&device)?;
    write(plan, &device as &dyn Device)
}

//! What the mount tests share: scratch directories, images, mounts that always end, and judges that are not ours.
//!
//! Every external command has a time limit and every mount a watchdog, so a daemon that hangs is a failed test and not
//! a hung one. `UEXT4_TEST_ON=kernel` or `fuse2fs` runs a test on another implementation: what fails there too is a
//! fault of the test.

// Each test binary uses its own part of this.
#![allow(dead_code, unused_imports, unused_macros)]

pub mod checker;
pub mod command;
pub mod detached;
pub mod fill;
pub mod image;
pub mod judge;
pub mod loopdev;
pub mod mapping;
pub mod mount;
pub mod namespace;
pub mod scratch;
pub mod tree;

pub use command::{Outcome, sh, succeed};
pub use detached::Detached;
pub use image::Image;
pub use loopdev::LoopDevice;
pub use mount::{Kind, Mount};
pub use scratch::Scratch;

/// `run!("mke2fs", "-q", path)`: standard output of a command that must exit 0 within a minute.
macro_rules! run {
    ($program:expr $(, $arg:expr)* $(,)?) => {
        $crate::harness::succeed(std::time::Duration::from_secs(60), $program, &$crate::harness::args![$($arg),*])
    };
}
/// `attempt!("umount", dir)`: how a command ended within a minute, whatever its exit code.
macro_rules! attempt {
    ($program:expr $(, $arg:expr)* $(,)?) => {
        $crate::harness::command::attempt(std::time::Duration::from_secs(60), $program, &$crate::harness::args![$($arg),*])
    };
}
macro_rules! args {
    ($($arg:expr),*) => {{
        let args: Vec<std::ffi::OsString> = vec![$(std::ffi::OsStr::new(&$arg).to_owned()),*];
        args
    }};
}
pub(crate) use args;
pub(crate) use {attempt, run};

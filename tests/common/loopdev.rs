//! A loop device of our own: attached by losetup, detached when dropped.

use super::{attempt, run};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub struct LoopDevice {
    path: PathBuf,
}

impl LoopDevice {
    /// Attaches `image` with further losetup options, such as `-b 4096`, `-r` or `-P`.
    pub fn attach(image: &Path, options: &[&str]) -> Self {
        let mut args = super::args!["-f", "--show"];
        args.extend(options.iter().map(std::ffi::OsString::from));
        args.push(image.into());
        let name = super::succeed(Duration::from_secs(30), "losetup", &args);
        Self {
            path: PathBuf::from(name.trim()),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The node of the first partition. partx(8) reads the table, so that a kernel which knows none does, too.
    pub fn first_partition(&self) -> PathBuf {
        run!("partx", "-u", self.path);
        PathBuf::from(format!("{}p1", self.path.display()))
    }

    fn detach(&self) -> bool {
        let partition = format!("{}p1", self.path.display());
        if Path::new(&partition).exists() {
            attempt!("partx", "-d", self.path);
        }
        attempt!("losetup", "-d", self.path).ok()
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        if !self.detach() {
            eprintln!("cannot detach {}", self.path.display());
        }
    }
}

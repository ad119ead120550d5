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

    /// The node of a partition (`losetup -P`), once the kernel made it.
    pub fn partition(&self, number: u32) -> PathBuf {
        let node = PathBuf::from(format!("{}p{number}", self.path.display()));
        for _ in 0..100 {
            if node.exists() {
                return node;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.make_node(&node);
        node
    }

    /// Without udev nobody makes the node; sysfs has its numbers.
    fn make_node(&self, node: &Path) {
        let name = node
            .file_name()
            .expect("name")
            .to_string_lossy()
            .into_owned();
        let parent = self
            .path
            .file_name()
            .expect("name")
            .to_string_lossy()
            .into_owned();
        let numbers = std::fs::read_to_string(format!("/sys/block/{parent}/{name}/dev"))
            .expect("a partition in sysfs");
        let (major, minor) = numbers.trim().split_once(':').expect("MAJOR:MINOR");
        run!("mknod", node, "b", major, minor);
    }

    fn detach(&self) -> bool {
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

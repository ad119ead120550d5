//! A scratch directory with room for images and mount points; it goes when the test ends.

use std::path::{Path, PathBuf};

pub struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    pub fn new() -> Self {
        Self::under(&std::env::temp_dir())
    }

    /// On a file system in memory, where there is one: a sync costs nothing there, for tests that sync all the time and
    /// are about something else.
    pub fn in_memory() -> Self {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() {
            Self::under(memory)
        } else {
            Self::new()
        }
    }

    fn under(parent: &Path) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "the mount tests run as root: they judge by mounting with the kernel"
        );
        let dir = tempfile::Builder::new()
            .prefix("uext4-test-")
            .tempdir_in(parent)
            .expect("scratch directory");
        Self { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A new empty directory.
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.file(name);
        std::fs::create_dir_all(&path).expect("directory");
        path
    }
}

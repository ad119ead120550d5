//! A mount whose daemon is in the background, as users make it: it is ended when this is dropped.

use super::mount::{UEXT4, is_mounted, mountinfo};
use super::{args, attempt, command};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub struct Detached {
    dir: PathBuf,
}

impl Detached {
    /// Takes care of what is or will be mounted on `dir`.
    pub fn on(dir: &Path) -> Self {
        Self {
            dir: dir.canonicalize().expect("mount point"),
        }
    }

    /// Unmounts, and waits for the daemon's end.
    pub fn unmount(self) {
        self.unmount_within(Duration::from_secs(60));
    }

    /// The same for a daemon that has much to do before its end.
    pub fn unmount_within(self, limit: Duration) {
        let outcome = command::attempt(limit, UEXT4, &args!["umount", self.dir]);
        assert!(outcome.ok(), "{}", outcome.describe());
        assert!(!is_mounted(&self.dir));
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        let Some(line) = mountinfo(&self.dir) else {
            return;
        };
        if !attempt!(UEXT4, "umount", self.dir).ok() {
            // The connection's end is the daemon's.
            let minor = line
                .split(' ')
                .nth(2)
                .and_then(|device| device.split(':').nth(1));
            if let Some(minor) = minor {
                let _ = std::fs::write(format!("/sys/fs/fuse/connections/{minor}/abort"), "1");
            }
            attempt!("umount", "-i", "-l", self.dir);
        }
    }
}

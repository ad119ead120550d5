//! Who else uses an image or a block device, and how to claim it for this process.
//!
//! Source: the design's section on devices; flock(2); open(2) on O_EXCL; proc_pid_mountinfo(5); the kernel's
//! documentation of `/sys/block/loop*/loop`.
//! Invariants: nothing here stats or opens a path below a mount of ours; a wait ends after `Claim::wait`.

use super::mountinfo::{self, Mount};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const RETRY: Duration = Duration::from_millis(50);

/// Why a source cannot be opened; `Display` is one line for the user.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{}: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("{} is neither a regular file nor a block device", .0.display())]
    NotADevice(PathBuf),
    #[error("{} is in use: {by}", path.display())]
    Busy { path: PathBuf, by: String },
    #[error("{}: offset {offset} lies beyond its end at {size}", path.display())]
    Beyond {
        path: PathBuf,
        offset: u64,
        size: u64,
    },
}

impl OpenError {
    pub(super) fn open(path: &Path, source: io::Error) -> Self {
        Self::Open {
            path: path.to_owned(),
            source,
        }
    }

    fn busy(path: &Path, by: String) -> Self {
        Self::Busy {
            path: path.to_owned(),
            by,
        }
    }
}

/// What is to be claimed.
pub(super) struct Claim<'a> {
    /// Absolute, without symbolic links.
    pub(super) path: &'a Path,
    /// The device number, of a block device.
    pub(super) device: Option<u64>,
    pub(super) read_only: bool,
    /// How long to wait for a daemon that has unmounted but still writes.
    pub(super) wait: Duration,
}

impl Claim<'_> {
    /// Calls `attempt` until it has the lock: at once refused while the source is mounted, has holders in the
    /// kernel, or is locked by another program; waits for one of ours that is ending.
    pub(super) fn acquire<T>(
        &self,
        mut attempt: impl FnMut() -> io::Result<T>,
    ) -> Result<T, OpenError> {
        let end = Instant::now() + self.wait;
        loop {
            self.refuse_users()?;
            let error = match attempt() {
                Ok(held) => return Ok(held),
                Err(error) => error,
            };
            if !is_busy(&error) {
                return Err(OpenError::open(self.path, error));
            }
            let holders = holders(self.path);
            let foreign = holders.iter().find(|h| !h.is_ours());
            if let Some(holder) = foreign.filter(|_| !holders.iter().any(Holder::is_ours)) {
                return Err(OpenError::busy(self.path, holder.to_string()));
            }
            if Instant::now() >= end {
                let by = holders
                    .first()
                    .map_or_else(|| "another program holds it".to_owned(), Holder::to_string);
                return Err(OpenError::busy(self.path, by));
            }
            std::thread::sleep(RETRY);
        }
    }

    fn refuse_users(&self) -> Result<(), OpenError> {
        let mounts = mountinfo::read().map_err(|e| OpenError::open(self.path, e))?;
        if let Some(mount) = mounts.iter().find(|m| self.is_mounted_as(m)) {
            let by = format!("mounted on {}", mount.point.display());
            return Err(OpenError::busy(self.path, by));
        }
        let user = match self.device {
            Some(device) => kernel_holder(device),
            None => loop_device_of(self.path, self.read_only),
        };
        user.map_or(Ok(()), |by| Err(OpenError::busy(self.path, by)))
    }

    fn is_mounted_as(&self, mount: &Mount) -> bool {
        self.device.is_some_and(|d| d == mount.device)
            || (mount.fs_type == "fuse.uext4" && Path::new(&mount.source) == self.path)
    }
}

/// Takes the lock of an image file, exclusive for writers; it lasts as long as the file is open.
pub(super) fn lock(file: &File, read_only: bool) -> io::Result<()> {
    let operation = if read_only {
        FlockOperation::NonBlockingLockShared
    } else {
        FlockOperation::NonBlockingLockExclusive
    };
    Ok(flock(file, operation)?)
}

fn is_busy(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EWOULDBLOCK))
}

/// Device mapper, md and the like that stand on a block device.
fn kernel_holder(device: u64) -> Option<String> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let entries = std::fs::read_dir(format!("/sys/dev/block/{major}:{minor}/holders")).ok()?;
    let name = entries.flatten().next()?.file_name();
    Some(format!("device {} stands on it", name.to_string_lossy()))
}

/// The loop device that has the image as its backing file. Two readers do not disturb each other.
fn loop_device_of(path: &Path, read_only: bool) -> Option<String> {
    for entry in std::fs::read_dir("/sys/block").ok()?.flatten() {
        let name = entry.file_name();
        if !name.as_encoded_bytes().starts_with(b"loop") {
            continue;
        }
        let directory = entry.path();
        let Ok(backing) = std::fs::read(directory.join("loop/backing_file")) else {
            continue;
        };
        let is_ours = backing.trim_ascii_end() == path.as_os_str().as_encoded_bytes();
        let also_reads =
            read_only && std::fs::read(directory.join("ro")).is_ok_and(|ro| ro.starts_with(b"1"));
        if is_ours && !also_reads {
            return Some(format!(
                "it is the backing file of /dev/{}",
                name.to_string_lossy()
            ));
        }
    }
    None
}

/// A process that has the source open.
struct Holder {
    pid: u32,
    name: String,
}

impl Holder {
    /// Whether it is one of our programs, which may be about to end.
    fn is_ours(&self) -> bool {
        self.name.contains("uext4")
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} ({}) has it open", self.pid, self.name)
    }
}

/// Processes that have `path` open, as far as they can be seen. Reads links only.
fn holders(path: &Path) -> Vec<Holder> {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = processes
        .flatten()
        .filter_map(|p| p.file_name().to_str()?.parse::<u32>().ok());
    let has_open = |pid: &u32| {
        let Ok(fds) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
            return false;
        };
        fds.flatten()
            .any(|fd| std::fs::read_link(fd.path()).is_ok_and(|link| link == path))
    };
    pids.filter(|&pid| pid != std::process::id())
        .filter(has_open)
        .map(|pid| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            Holder {
                pid,
                name: name.trim_end().to_owned(),
            }
        })
        .collect()
}

//! Who keeps a mount busy: processes with a file, a directory or a mapping below the mount point.
//!
//! Source: proc_pid_fd(5), proc_pid_cwd(5), proc_pid_root(5), proc_pid_maps(5).
//! Invariants: links are read, never followed, so the mount is not touched.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A process that uses the mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub pid: u32,
    pub name: String,
    /// The first thing found.
    pub path: PathBuf,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "process {} ({}) uses {}",
            self.pid,
            self.name,
            self.path.display()
        )
    }
}

/// As far as this process may see.
pub fn of(point: &Path) -> Vec<Holder> {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = processes
        .flatten()
        .filter_map(|p| p.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let path = used_below(pid, point)?;
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Some(Holder {
            pid,
            name: name.trim_end().to_owned(),
            path,
        })
    })
    .collect()
}

fn used_below(pid: u32, point: &Path) -> Option<PathBuf> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let fds = std::fs::read_dir(process.join("fd")).ok();
    let fds = fds
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    ["cwd", "root", "exe"]
        .iter()
        .map(|name| process.join(name))
        .chain(fds)
        .filter_map(|link| std::fs::read_link(link).ok())
        .find(|path| path.starts_with(point))
        .or_else(|| mapped_below(&process, point))
}

fn mapped_below(process: &Path, point: &Path) -> Option<PathBuf> {
    let maps = std::fs::read(process.join("maps")).ok()?;
    // Five fields, then blanks, then the path.
    let path_of = |line: &[u8]| {
        let at = line.iter().position(|&b| b == b'/')?;
        Some(PathBuf::from(std::ffi::OsStr::from_bytes(&line[at..])))
    };
    maps.split(|&b| b == b'\n')
        .filter_map(path_of)
        .find(|path| path.starts_with(point))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_file_names_its_process() {
        let directory = tempfile::tempdir().unwrap();
        let point = directory.path().canonicalize().unwrap();
        let me = std::process::id();
        assert!(!of(&point).iter().any(|h| h.pid == me));
        let _file = std::fs::File::create(point.join("open")).unwrap();
        let found = of(&point);
        let holder = found.iter().find(|h| h.pid == me).expect("this process");
        assert_eq!(holder.path, point.join("open"));
    }
}

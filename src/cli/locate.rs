//! Finding a mount of ours by the directory or the source that the user names, without touching it.
//!
//! Source: proc_pid_mountinfo(5).
//! Invariants: a path is looked up in mountinfo as text first; the file system on it may hang.

use super::failure::{Failure, Outcome};
use crate::device::mountinfo::{self, Mount};
use std::path::{Path, PathBuf};

/// The topmost mount that `path` names.
pub(super) fn mount_of(path: &Path) -> Outcome<Mount> {
    let mounts = mountinfo::read().map_err(Failure::system)?;
    let find = |path: &Path| mounts.iter().rev().find(|m| m.point == path);
    let found = lexical(path).and_then(|path| find(&path).cloned());
    let found = found.or_else(|| {
        let real = path.canonicalize().ok()?;
        let by_source = |m: &&Mount| is_ours(m) && Path::new(&m.source) == real;
        find(&real)
            .or_else(|| mounts.iter().rev().find(by_source))
            .cloned()
    });
    match found {
        Some(mount) if is_ours(&mount) => Ok(mount),
        Some(mount) => Err(Failure::mount(format!(
            "{} is a mount of type {}, not of uext4",
            path.display(),
            mount.fs_type
        ))),
        None => Err(Failure::mount(format!("{} is not mounted", path.display()))),
    }
}

fn is_ours(mount: &Mount) -> bool {
    mount.fs_type == "fuse.uext4"
}

/// Absolute, with the directory above it resolved and the last part left alone.
fn lexical(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?;
    let parent = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    Some(parent.canonicalize().ok()?.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_mounts_are_not_ours() {
        assert!(
            mount_of(Path::new("/proc"))
                .unwrap_err()
                .message
                .contains("type proc")
        );
        let directory = tempfile::tempdir().unwrap();
        let failure = mount_of(directory.path()).unwrap_err();
        assert!(failure.message.ends_with("is not mounted"), "{failure:?}");
    }
}

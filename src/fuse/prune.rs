//! Asks the kernel to forget inodes before what it knows takes too much memory.
//!
//! Source: FUSE_NOTIFY_PRUNE (protocol 7.45, Linux 6.18): a notification of code 9 that names inodes; fuser has no call for
//! it, so it is written to the session's descriptor as it is.
//! Invariants: the thread holds nothing while it writes, and nobody waits for it; it has ended when `serve` returns.

use crate::fs::Fs;
use crate::fuse::ino;
use crate::ids::InodeNumber;
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

const NOTIFY_PRUNE: u32 = 9;
const HEADER: usize = 16;
const PRUNE: usize = 16;

/// Sends until it is dropped.
pub(super) struct Pruner {
    fs: Arc<Fs>,
    thread: Option<JoinHandle<()>>,
}

impl Pruner {
    /// On a thread of its own; `fd` is the session's.
    pub(super) fn start(fs: &Arc<Fs>, fd: &OwnedFd) -> std::io::Result<Self> {
        let (ours, shared) = (fd.try_clone()?, Arc::clone(fs));
        let thread = std::thread::Builder::new()
            .name("prune".into())
            .spawn(move || run(&shared, &ours))?;
        Ok(Self {
            fs: Arc::clone(fs),
            thread: Some(thread),
        })
    }
}

impl Drop for Pruner {
    fn drop(&mut self) {
        self.fs.stop_pruning();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread that prunes ended with a panic");
        }
    }
}

fn run(fs: &Fs, fd: &OwnedFd) {
    while let Some(inodes) = fs.next_to_prune() {
        match rustix::io::write(fd.as_fd(), &notification(&inodes)) {
            Ok(_) => {
                log::debug!("the kernel was asked to forget {} inodes", inodes.len());
                fs.pruned(inodes.len());
            }
            // An older kernel: what it knows stays until it forgets by itself.
            Err(Errno::INVAL) => {
                log::info!("this kernel has no FUSE_NOTIFY_PRUNE: lookups are limited alone");
                return;
            }
            // The connection has ended, or is about to begin.
            Err(error) => log::debug!("FUSE_NOTIFY_PRUNE: {error}"),
        }
    }
}

/// `fuse_out_header` (length, code, no request), `fuse_notify_prune_out` (count, padding, spare), the node ids.
fn notification(inodes: &[InodeNumber]) -> Vec<u8> {
    let length = HEADER + PRUNE + 8 * inodes.len();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend((length as u32).to_ne_bytes());
    bytes.extend(NOTIFY_PRUNE.to_ne_bytes());
    bytes.extend(0u64.to_ne_bytes());
    bytes.extend((inodes.len() as u32).to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend(0u64.to_ne_bytes());
    for &inode in inodes {
        bytes.extend(ino::to_fuse(inode).0.to_ne_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_has_the_kernels_form() {
        let bytes = notification(&[InodeNumber::new(12), InodeNumber::ROOT]);
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!(bytes.len(), 48);
        assert_eq!((word(0), word(4), long(8)), (48, 9, 0));
        assert_eq!((word(16), word(20), long(24)), (2, 0, 0));
        // FUSE's root is 1.
        assert_eq!((long(32), long(40)), (12, 1));
    }
}

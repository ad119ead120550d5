//! Durability: fsync, sync, and mounts or files that are always synchronous.
//!
//! Source: POSIX fsync, fdatasync; the design's section on the journal.
//! Invariants: fsync commits the transaction that last changed the inode, and nothing else; an overwrite needs only a sync of
//! the device. Who waits does not hold a worker where it can be told later.

use crate::error::{Error, Result};
use crate::format::inode::flag;
use crate::fs::flush::SyncRequest;
use crate::fs::{Fs, need};
use crate::ids::InodeNumber;
use crate::inode::NodeRef;
use std::sync::mpsc;

impl Fs {
    /// Calls `done` once everything about the file that was written before is durable. With `data_only`, changes that no
    /// reader of the data needs (times) may be left out. `asker`: the process id; a commit waits a moment for others that sync.
    pub fn fsync(
        &self,
        asker: u32,
        ino: InodeNumber,
        data_only: bool,
        done: Box<dyn FnOnce(Result<()>) + Send>,
    ) {
        let token = match self.memory.request(need::FSYNC) {
            Ok(token) => token,
            Err(error) => return done(Err(error)),
        };
        if self.journal.is_aborted() {
            return done(Err(Error::Aborted));
        }
        if self.options.read_only {
            // Nothing was ever changed, and nobody runs a committer.
            return done(Ok(()));
        }
        let node = match self.node(ino) {
            Ok(node) => node,
            Err(error) => return done(Err(error)),
        };
        let sync = SyncRequest {
            asker,
            data_only,
            done,
        };
        self.flush_and_sync(token, node, sync);
    }

    /// The same, waiting for it.
    pub fn sync_node(&self, node: &NodeRef) -> Result<()> {
        if !node.delayed.lock().is_clean() {
            self.flush_node(&mut self.files.spare.lock(), node)?;
        }
        let tid = node.last_change();
        let covered = tid.is_some_and(|tid| self.journal.is_running(tid));
        if let Some(tid) = tid {
            self.journal.commit(tid)?;
        }
        if covered {
            Ok(())
        } else {
            self.journal.flush()
        }
    }

    /// fsync that waits; for callers without FUSE.
    pub fn fsync_wait(&self, ino: InodeNumber) -> Result<()> {
        self.sync_and_wait(ino, false)
    }

    /// fdatasync that waits.
    pub fn fdatasync_wait(&self, ino: InodeNumber) -> Result<()> {
        self.sync_and_wait(ino, true)
    }

    fn sync_and_wait(&self, ino: InodeNumber, data_only: bool) -> Result<()> {
        let (sender, receiver) = mpsc::channel();
        self.fsync(
            std::process::id(),
            ino,
            data_only,
            Box::new(move |result| {
                let _ = sender.send(result);
            }),
        );
        loop {
            match receiver.try_recv() {
                Ok(result) => return result,
                Err(mpsc::TryRecvError::Disconnected) => return Err(Error::Aborted),
                Err(mpsc::TryRecvError::Empty) => self.journal.step()?,
            }
        }
    }

    /// What the mount or the inode asks for after a change: `sync`, `dirsync`, chattr +S and +D.
    pub(crate) fn sync_if_asked(&self, node: &NodeRef, names: bool) -> Result<()> {
        let flags = node.core.read().flags;
        let by_mount = self.options.sync || (names && self.options.dirsync);
        let by_inode = flags & flag::SYNC != 0 || (names && flags & flag::DIRSYNC != 0);
        if by_mount || by_inode {
            self.sync_node(node)
        } else {
            Ok(())
        }
    }

    /// Free blocks of the journal's log, and those from its head to its end; `None` without a journal.
    pub fn log_room(&self) -> Option<(u32, u32)> {
        self.journal.log_room()
    }

    /// Everything that was changed so far is durable when it returns.
    pub fn sync_all(&self) -> Result<()> {
        if self.is_read_only() {
            return if self.journal.is_aborted() {
                Err(Error::Aborted)
            } else {
                Ok(())
            };
        }
        self.flush_all()?;
        self.journal.commit_running()?;
        self.journal.flush()
    }
}

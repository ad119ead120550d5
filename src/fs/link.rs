//! More and fewer names: link, unlink, rmdir.
//!
//! Source: POSIX link, unlink, rmdir; the design's lock order.
//! Invariants: an inode that loses its last name goes onto the orphan list in the same transaction.

use crate::canary::{Canary, canary};
use crate::dir::{Directories, Entry, FileType};
use crate::error::{Error, Posix, Result};
use crate::format::inode::{Inode, flag};
use crate::fs::create::{LINK_MAX, drop_subdirectory_link};
use crate::fs::{Attr, Fs, check_name, need};
use crate::ids::InodeNumber;
use crate::inode::NodeRef;
use crate::journal::Handle;
use crate::memory::Token;

/// Handle credits for taking a name away: entry, two inodes, orphan record, and superblock or orphan block.
const REMOVE_CREDITS: u32 = Directories::CHANGE_CREDITS + 8;

impl Fs {
    /// One more name for a file; counts a lookup of it.
    pub fn link(&self, ino: InodeNumber, parent: InodeNumber, name: &[u8]) -> Result<Attr> {
        check_name(name)?;
        self.check_writable()?;
        let mut token = self.memory.request(need::LINK)?;
        let dir = self.directory(parent)?;
        let node = self.node(ino)?;
        let _dir_lock = dir.lock.write();
        let _node_lock = node.lock.write();
        self.check_may_link(&dir, &node, name)?;
        self.files
            .retry_for_space(|| self.link_once(&mut token, &dir, &node, name))?;
        self.sync_if_asked(&dir, true)?;
        self.known.looked_up(ino);
        self.attr_of(ino)
    }

    fn check_may_link(&self, dir: &NodeRef, node: &NodeRef, name: &[u8]) -> Result<()> {
        let (links, flags, is_dir) = {
            let core = node.core.read();
            (core.links_count, core.flags, core.is_dir())
        };
        if is_dir || flags & (flag::IMMUTABLE | flag::APPEND) != 0 {
            return Err(Posix::Perm.into());
        }
        if links >= LINK_MAX {
            return Err(Posix::MLink.into());
        }
        let core = dir.core.read();
        if core.has_flag(flag::IMMUTABLE) {
            return Err(Posix::Perm.into());
        }
        if links == 0 || core.links_count == 0 {
            return Err(Posix::NoEnt.into());
        }
        if self.dirs.lookup(dir.ino, &core, name)?.is_some() {
            return Err(Posix::Exist.into());
        }
        Ok(())
    }

    fn link_once(
        &self,
        token: &mut Token,
        dir: &NodeRef,
        node: &NodeRef,
        name: &[u8],
    ) -> Result<()> {
        let credits = self.dirs.insert_credits(&dir.core.read()) + 4;
        let handle = self.journal.start(token, credits)?;
        let linked = self.link_in(&handle, dir, node, name);
        handle.settle(linked)
    }

    fn link_in(
        &self,
        handle: &Handle<'_>,
        dir: &NodeRef,
        node: &NodeRef,
        name: &[u8],
    ) -> Result<()> {
        let now = self.now();
        let file_type = FileType::of_mode(node.core.read().mode);
        {
            let mut core = dir.core.write();
            self.dirs.insert(
                handle,
                dir.ino,
                &mut core,
                name,
                Entry {
                    ino: node.ino,
                    file_type,
                },
            )?;
            (core.mtime, core.ctime) = (now, now);
            self.save(handle, dir, &core)?;
        }
        let mut core = node.core.write();
        core.links_count += 1;
        core.ctime = now;
        self.save(handle, node, &core)
    }

    /// Takes a name of a file away.
    pub fn unlink(&self, parent: InodeNumber, name: &[u8]) -> Result<()> {
        self.remove_name(parent, name, false)
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, parent: InodeNumber, name: &[u8]) -> Result<()> {
        self.remove_name(parent, name, true)
    }

    fn remove_name(&self, parent: InodeNumber, name: &[u8], want_dir: bool) -> Result<()> {
        check_name(name)?;
        self.check_writable()?;
        let mut token = self.memory.request(need::UNLINK)?;
        let dir = self.directory(parent)?;
        let _dir_lock = dir.lock.write();
        let entry = self
            .dirs
            .lookup(parent, &dir.core.read(), name)?
            .ok_or(Error::Posix(Posix::NoEnt))?;
        let node = self.node(entry.ino)?;
        let _node_lock = node.lock.write();
        self.check_may_remove(&dir, &node, want_dir)?;
        {
            let handle = self.journal.start(&mut token, REMOVE_CREDITS)?;
            let removed = self.remove_in(&handle, &dir, &node, name);
            handle.settle(removed)?;
        }
        self.reap_if_unused(&node);
        self.sync_if_asked(&dir, true)
    }

    fn remove_in(
        &self,
        handle: &Handle<'_>,
        dir: &NodeRef,
        node: &NodeRef,
        name: &[u8],
    ) -> Result<()> {
        let now = self.now();
        let is_dir = node.core.read().is_dir();
        {
            let mut core = dir.core.write();
            self.dirs.remove(handle, dir.ino, &mut core, name)?;
            (core.mtime, core.ctime) = (now, now);
            if is_dir {
                drop_subdirectory_link(&mut core);
            }
            self.save(handle, dir, &core)?;
        }
        let mut core = node.core.write();
        core.ctime = now;
        self.drop_link(handle, node, &mut core)?;
        self.save(handle, node, &core)
    }

    pub(crate) fn check_may_remove(
        &self,
        dir: &NodeRef,
        node: &NodeRef,
        want_dir: bool,
    ) -> Result<()> {
        if dir.core.read().flags & (flag::IMMUTABLE | flag::APPEND) != 0 {
            return Err(Posix::Perm.into());
        }
        let core = node.core.read();
        if core.flags & (flag::IMMUTABLE | flag::APPEND) != 0 {
            return Err(Posix::Perm.into());
        }
        match (core.is_dir(), want_dir) {
            (true, false) => Err(Posix::IsDir.into()),
            (false, true) => Err(Posix::NotDir.into()),
            (true, true) if !self.dirs.is_empty(node.ino, &core)? => Err(Posix::NotEmpty.into()),
            _ => Ok(()),
        }
    }

    /// One link less (all of them for a directory); the last one puts the inode onto the orphan list. The caller saves it.
    pub(crate) fn drop_link(
        &self,
        handle: &Handle<'_>,
        node: &NodeRef,
        core: &mut Inode,
    ) -> Result<()> {
        core.links_count = if core.is_dir() {
            0
        } else {
            core.links_count.saturating_sub(1)
        };
        if core.links_count == 0 {
            self.reaper.add_nameless(node.ino);
            if !canary(Canary::NoOrphan) {
                self.orphans.add(handle, node.ino, core)?;
            }
        }
        Ok(())
    }

    /// Queues a nameless inode at once if nobody has it open or knows it. No handle may be open.
    pub(crate) fn reap_if_unused(&self, node: &NodeRef) {
        let is_used = self.known.is_used(node.ino) && !canary(Canary::ReapedInUse);
        if self.reaper.is_nameless(node.ino) && !is_used {
            self.reaper.queue(node.ino);
        }
    }
}

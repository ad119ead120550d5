//! rename(2) with its flags.
//!
//! Source: POSIX rename; Linux renameat2(2).
//! Invariants: one transaction each; directories are moved one at a time and never below themselves; a replaced inode that
//! loses its last name goes onto the orphan list in the same transaction.

use crate::canary::{Canary, canary};
use crate::dir::{Entry, FileType};
use crate::error::{Error, Posix, Result};
use crate::format::inode::{Inode, flag, mode};
use crate::fs::create::{add_subdirectory_link, drop_subdirectory_link};
use crate::fs::{Caller, Fs, NewNode, check_name, need};
use crate::ids::InodeNumber;
use crate::inode::NodeRef;
use crate::journal::Handle;
use crate::memory::Token;
use crate::sync::WriteGuard;
use crate::xattr::Xattrs;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// An existing target is replaced.
    Replace,
    NoReplace,
    Exchange,
    /// Leaves a whiteout (character device 0:0) under the old name; with `no_replace` as well.
    Whiteout {
        no_replace: bool,
    },
}

impl RenameMode {
    fn forbids_replacing(self) -> bool {
        matches!(
            self,
            RenameMode::NoReplace | RenameMode::Whiteout { no_replace: true }
        )
    }
}

/// One end of a rename: a directory and a name in it.
struct End<'a> {
    dir: NodeRef,
    name: &'a [u8],
}

/// All that a rename changes, locked.
struct Move<'a> {
    from: End<'a>,
    to: End<'a>,
    source: NodeRef,
    target: Option<NodeRef>,
}

impl Fs {
    pub fn rename(
        &self,
        caller: Caller,
        (parent, name): (InodeNumber, &[u8]),
        (new_parent, new_name): (InodeNumber, &[u8]),
        mode: RenameMode,
    ) -> Result<()> {
        check_name(name)?;
        check_name(new_name)?;
        self.check_writable()?;
        let early = !canary(Canary::NoEarlyFlush);
        if mode != RenameMode::NoReplace && early {
            self.flush_source((parent, name), (new_parent, new_name))?;
        }
        let mut token = self.memory.request(need::RENAME)?;
        let _rename = self.rename_lock.lock();
        let (from_dir, to_dir) = (self.directory(parent)?, self.directory(new_parent)?);
        let _parents = self.lock_parents(&from_dir, &to_dir)?;
        let from = End {
            dir: NodeRef::clone(&from_dir),
            name,
        };
        let to = End {
            dir: NodeRef::clone(&to_dir),
            name: new_name,
        };
        let source = self.find(&from)?.ok_or(Error::Posix(Posix::NoEnt))?;
        let target = self.find(&to)?;
        if let Some(target) = &target
            && target.ino == source.ino
            && mode != RenameMode::NoReplace
        {
            return Ok(());
        }
        let moved = Move {
            from,
            to,
            source,
            target,
        };
        let _children = lock_children(&moved);
        self.check_rename(&moved, mode)?;
        if early && moved.target.is_some() && !moved.source.delayed.lock().is_clean() {
            // Written again since it was flushed: a flush needs none of our locks.
            self.flush_node(&mut token, &moved.source)?;
        }
        self.files
            .retry_for_space(|| self.rename_once(&mut token, caller, &moved, mode))?;
        if let Some(target) = &moved.target {
            self.reap_if_unused(target);
        }
        self.sync_if_asked(&moved.from.dir, true)?;
        self.sync_if_asked(&moved.to.dir, true)
    }

    /// Flushes what is about to replace another file, before any lock is taken.
    fn flush_source(
        &self,
        (parent, name): (InodeNumber, &[u8]),
        (new_parent, new_name): (InodeNumber, &[u8]),
    ) -> Result<()> {
        let entry = |dir: InodeNumber, name: &[u8]| {
            let dir = self.directory(dir)?;
            let _shared = dir.lock.read();
            self.dirs.lookup(dir.ino, &dir.core.read(), name)
        };
        match (entry(parent, name)?, entry(new_parent, new_name)?) {
            (Some(source), Some(target)) if source.ino != target.ino => {
                self.flush_before_replacing(source.ino)
            }
            _ => Ok(()),
        }
    }

    fn find(&self, end: &End<'_>) -> Result<Option<NodeRef>> {
        let entry = self
            .dirs
            .lookup(end.dir.ino, &end.dir.core.read(), end.name)?;
        entry.map(|entry| self.node(entry.ino)).transpose()
    }

    /// Locks one or two directories: an ancestor first, else by number.
    fn lock_parents<'a>(&self, a: &'a NodeRef, b: &'a NodeRef) -> Result<Vec<WriteGuard<'a, ()>>> {
        if a.ino == b.ino {
            return Ok(vec![a.lock.write()]);
        }
        let a_first = if self.is_ancestor(a.ino, b)? {
            true
        } else if self.is_ancestor(b.ino, a)? {
            false
        } else {
            a.ino < b.ino
        };
        let (first, second) = if a_first { (a, b) } else { (b, a) };
        Ok(vec![first.lock.write(), second.lock.write()])
    }

    /// Whether `ancestor` lies on the way from `dir` to the root. The rename lock is held, so no directory moves.
    fn is_ancestor(&self, ancestor: InodeNumber, dir: &NodeRef) -> Result<bool> {
        let mut at = NodeRef::clone(dir);
        // A path cannot be longer than there are directories; a loop on disk ends here.
        for _ in 0..65_536 {
            if at.ino == InodeNumber::ROOT {
                return Ok(false);
            }
            let parent = self.dirs.lookup(at.ino, &at.core.read(), b"..")?;
            let Some(parent) = parent else {
                return Ok(false);
            };
            if parent.ino == ancestor {
                return Ok(true);
            }
            at = self.directory(parent.ino)?;
        }
        Ok(false)
    }

    fn check_rename(&self, moved: &Move<'_>, mode: RenameMode) -> Result<()> {
        let Move {
            from,
            to,
            source,
            target,
        } = moved;
        for end in [from, to] {
            let core = end.dir.core.read();
            if core.has_flag(flag::IMMUTABLE) {
                return Err(Posix::Perm.into());
            }
        }
        let source_is_dir = {
            let core = source.core.read();
            if core.flags & (flag::IMMUTABLE | flag::APPEND) != 0
                || from.dir.core.read().has_flag(flag::APPEND)
            {
                return Err(Posix::Perm.into());
            }
            core.is_dir()
        };
        if to.dir.core.read().links_count == 0 {
            return Err(Posix::NoEnt.into());
        }
        if source_is_dir && (to.dir.ino == source.ino || self.is_ancestor(source.ino, &to.dir)?) {
            return Err(Posix::Inval.into());
        }
        let Some(target) = target else {
            if mode == RenameMode::Exchange {
                return Err(Posix::NoEnt.into());
            }
            let moves_dir = source_is_dir && from.dir.ino != to.dir.ino;
            if moves_dir && self.is_full_of_links(&to.dir.core.read()) {
                return Err(Posix::MLink.into());
            }
            return Ok(());
        };
        if mode.forbids_replacing() {
            return Err(Posix::Exist.into());
        }
        if mode == RenameMode::Exchange {
            let core = target.core.read();
            if core.flags & (flag::IMMUTABLE | flag::APPEND) != 0
                || to.dir.core.read().has_flag(flag::APPEND)
            {
                return Err(Posix::Perm.into());
            }
            let target_is_dir = core.is_dir();
            drop(core);
            if target_is_dir
                && (from.dir.ino == target.ino || self.is_ancestor(target.ino, &from.dir)?)
            {
                return Err(Posix::Inval.into());
            }
            return Ok(());
        }
        self.check_may_remove(&to.dir, target, source_is_dir)
    }

    fn rename_once(
        &self,
        token: &mut Token,
        caller: Caller,
        moved: &Move<'_>,
        mode: RenameMode,
    ) -> Result<()> {
        let inserts = self.dirs.insert_credits(&moved.to.dir.core.read());
        let whiteout = if matches!(mode, RenameMode::Whiteout { .. }) {
            Xattrs::CREDITS
        } else {
            0
        };
        // Beside the new name: the whiteout, both directories, both inodes, the old name, "..", the orphan record.
        let credits = inserts + 16 + whiteout;
        let handle = self.journal.start(token, credits)?;
        handle.settle(match mode {
            RenameMode::Exchange => self.exchange(&handle, moved),
            _ => self.move_name(&handle, caller, moved, mode),
        })
    }

    /// Moves the name, replacing what was there.
    fn move_name(
        &self,
        handle: &Handle<'_>,
        caller: Caller,
        moved: &Move<'_>,
        mode: RenameMode,
    ) -> Result<()> {
        let Move {
            from,
            to,
            source,
            target,
        } = moved;
        let now = self.now();
        let (source_entry, source_is_dir) = entry_of(source);
        let whiteout = match mode {
            RenameMode::Whiteout { .. } => Some(self.make_whiteout(handle, caller, &from.dir)?),
            _ => None,
        };
        let crosses = from.dir.ino != to.dir.ino;
        {
            let mut core = to.dir.core.write();
            if target.is_some() {
                self.dirs
                    .replace(handle, to.dir.ino, &mut core, to.name, source_entry)?;
                if source_is_dir && !crosses {
                    drop_subdirectory_link(&mut core);
                }
            } else {
                let inserted =
                    self.dirs
                        .insert(handle, to.dir.ino, &mut core, to.name, source_entry);
                if let Err(error) = inserted {
                    if let Some((ino, inode)) = whiteout {
                        self.undo_create(handle, ino, inode, false)?;
                    }
                    return Err(error);
                }
                if source_is_dir && crosses {
                    add_subdirectory_link(&mut core);
                }
            }
            (core.mtime, core.ctime) = (now, now);
            self.save(handle, &to.dir, &core)?;
        }
        {
            let mut core = from.dir.core.write();
            match whiteout {
                Some((ino, _)) => {
                    let entry = Entry {
                        ino,
                        file_type: FileType::CharDevice,
                    };
                    self.dirs
                        .replace(handle, from.dir.ino, &mut core, from.name, entry)?;
                }
                None => {
                    self.dirs
                        .remove(handle, from.dir.ino, &mut core, from.name)?;
                }
            }
            if source_is_dir && crosses {
                drop_subdirectory_link(&mut core);
            }
            (core.mtime, core.ctime) = (now, now);
            self.save(handle, &from.dir, &core)?;
        }
        self.settle(handle, source, crosses.then_some(to.dir.ino))?;
        if let Some(target) = target {
            let mut core = target.core.write();
            core.ctime = now;
            self.drop_link(handle, target, &mut core)?;
            self.save(handle, target, &core)?;
        }
        Ok(())
    }

    /// The moved inode: its ctime, and for a directory with a new parent its "..".
    fn settle(
        &self,
        handle: &Handle<'_>,
        node: &NodeRef,
        new_parent: Option<InodeNumber>,
    ) -> Result<()> {
        let mut core = node.core.write();
        core.ctime = self.now();
        if let Some(parent) = new_parent
            && core.is_dir()
        {
            let entry = Entry {
                ino: parent,
                file_type: FileType::Directory,
            };
            self.dirs
                .replace(handle, node.ino, &mut core, b"..", entry)?;
        }
        self.save(handle, node, &core)
    }

    fn exchange(&self, handle: &Handle<'_>, moved: &Move<'_>) -> Result<()> {
        let Move {
            from,
            to,
            source,
            target: Some(target),
        } = moved
        else {
            return Err(Posix::NoEnt.into());
        };
        let now = self.now();
        let crosses = from.dir.ino != to.dir.ino;
        let (source_entry, source_is_dir) = entry_of(source);
        let (target_entry, target_is_dir) = entry_of(target);
        let change = |dir: &NodeRef, name: &[u8], entry: Entry, links: i8| -> Result<()> {
            let mut core = dir.core.write();
            self.dirs.replace(handle, dir.ino, &mut core, name, entry)?;
            if crosses {
                match links {
                    1 => add_subdirectory_link(&mut core),
                    -1 => drop_subdirectory_link(&mut core),
                    _ => {}
                }
            }
            (core.mtime, core.ctime) = (now, now);
            self.save(handle, dir, &core)
        };
        let gained = i8::from(source_is_dir) - i8::from(target_is_dir);
        change(&to.dir, to.name, source_entry, gained)?;
        change(&from.dir, from.name, target_entry, -gained)?;
        self.settle(handle, source, crosses.then_some(to.dir.ino))?;
        self.settle(handle, target, crosses.then_some(from.dir.ino))
    }

    /// A whiteout inode without a name yet; it inherits from the directory as any other.
    fn make_whiteout(
        &self,
        handle: &Handle<'_>,
        caller: Caller,
        dir: &NodeRef,
    ) -> Result<(InodeNumber, Inode)> {
        let new = NewNode::Special {
            mode: mode::CHR,
            rdev: (0, 0),
        };
        let core = dir.core.read();
        let inherited = self.inherit(dir.ino, &core, new.mode(), 0)?;
        let ino = self.alloc.new_inode(handle, dir.ino, false)?;
        let mut inode = self.new_inode(caller, &core, new, &inherited);
        inode.generation = self.next_generation();
        if let Err(error) = self.store_new(handle, ino, &mut inode, &inherited) {
            self.undo_create(handle, ino, inode, false)?;
            return Err(error);
        }
        Ok((ino, inode))
    }
}

/// The directory entry that leads to a node, and whether it is a directory.
fn entry_of(node: &NodeRef) -> (Entry, bool) {
    let core = node.core.read();
    let entry = Entry {
        ino: node.ino,
        file_type: FileType::of_mode(core.mode),
    };
    (entry, core.is_dir())
}

/// Locks what is moved and what is replaced, by number; a parent that is one of them is locked already.
fn lock_children<'a>(moved: &'a Move<'_>) -> Vec<WriteGuard<'a, ()>> {
    let parents = [moved.from.dir.ino, moved.to.dir.ino];
    let mut nodes: Vec<&NodeRef> = std::iter::once(&moved.source)
        .chain(moved.target.as_ref())
        .filter(|node| !parents.contains(&node.ino))
        .collect();
    nodes.sort_by_key(|node| node.ino);
    nodes.dedup_by_key(|node| node.ino);
    nodes.into_iter().map(|node| node.lock.write()).collect()
}

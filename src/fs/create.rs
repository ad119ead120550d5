//! New inodes with a name: files, directories, links, device nodes.
//!
//! Source: POSIX open (O_CREAT), mkdir, mknod, symlink; acl(5) for inheritance; the kernel's ext4 documentation, "Index Nodes".
//! Invariants: inode, name and attributes appear in one transaction; what was taken for a name that could not be made is
//! given back in the same one.

use crate::dir::{Entry, FileType};
use crate::error::{Posix, Result};
use crate::format::checksum::BlockKind;
use crate::format::features::{incompat, ro_compat};
use crate::format::inode::{Inode, flag, mode};
use crate::fs::acl::Inherited;
use crate::fs::{Attr, Caller, Fs, check_name, need};
use crate::ids::{FileBlock, InodeNumber};
use crate::inode::NodeRef;
use crate::journal::Handle;
use crate::memory::Token;
use crate::xattr::{SetMode, Xattrs};

/// What is to be made. Modes without the file type.
#[derive(Clone, Copy, Debug)]
pub enum NewNode<'a> {
    File {
        mode: u16,
    },
    Directory {
        mode: u16,
    },
    Symlink {
        target: &'a [u8],
    },
    /// Type and permissions; the device number counts for device nodes.
    Special {
        mode: u16,
        rdev: (u32, u32),
    },
}

impl NewNode<'_> {
    pub(crate) fn mode(self) -> u16 {
        match self {
            NewNode::File { mode } => mode::REG | (mode & mode::PERM),
            NewNode::Directory { mode } => mode::DIR | (mode & mode::PERM),
            NewNode::Symlink { .. } => mode::LNK | 0o777,
            NewNode::Special { mode, .. } => mode,
        }
    }

    fn is_dir(self) -> bool {
        matches!(self, NewNode::Directory { .. })
    }
}

/// Flags that children inherit, as the kernel's ext4 has it.
const INHERITED: u32 = flag::SECRM
    | flag::UNRM
    | flag::COMPR
    | flag::SYNC
    | flag::NODUMP
    | flag::NOATIME
    | flag::JOURNAL_DATA
    | flag::NOTAIL
    | flag::DIRSYNC
    | flag::PROJINHERIT
    | flag::CASEFOLD;
/// Of these, what makes sense on a regular file, and on anything else that is no directory.
const REG_INHERITED: u32 = INHERITED & !(flag::DIRSYNC | flag::PROJINHERIT | flag::CASEFOLD);
const OTHER_INHERITED: u32 = flag::NODUMP | flag::NOATIME;

/// More links than this a directory counts as 1 ("many").
pub(crate) const LINK_MAX: u16 = 65_000;

impl Fs {
    /// Makes an inode with a name; counts a lookup of it.
    pub fn create(
        &self,
        caller: Caller,
        parent: InodeNumber,
        name: &[u8],
        new: NewNode<'_>,
        umask: u16,
    ) -> Result<Attr> {
        check_name(name)?;
        self.check_writable()?;
        let mut token = self.memory.request(need::CREATE)?;
        let dir = self.directory(parent)?;
        let _exclusive = dir.lock.write();
        self.check_may_add(&dir, name, new)?;
        // Once made, it cannot be kept from the kernel.
        let _room = self.known.promise()?;
        let inherited = self.inherit(parent, &dir.core.read(), new.mode(), umask)?;
        let attr = self.files.retry_for_space(|| {
            self.create_once(&mut token, caller, &dir, name, new, &inherited)
        })?;
        self.sync_if_asked(&dir, true)?;
        Ok(attr)
    }

    fn check_may_add(&self, dir: &NodeRef, name: &[u8], new: NewNode<'_>) -> Result<()> {
        let core = dir.core.read();
        if core.links_count == 0 {
            return Err(Posix::NoEnt.into());
        }
        if core.has_flag(flag::IMMUTABLE) {
            return Err(Posix::Perm.into());
        }
        if self.dirs.lookup(dir.ino, &core, name)?.is_some() {
            return Err(Posix::Exist.into());
        }
        if new.is_dir() && self.is_full_of_links(&core) {
            return Err(Posix::MLink.into());
        }
        if let NewNode::Symlink { target } = new {
            if target.len() >= self.geo.block_size as usize {
                return Err(Posix::NameTooLong.into());
            }
            if target.is_empty() {
                return Err(Posix::NoEnt.into());
            }
        }
        Ok(())
    }

    /// Without dir_nlink a directory cannot have more subdirectories than links can be counted.
    pub(crate) fn is_full_of_links(&self, dir: &Inode) -> bool {
        dir.links_count >= LINK_MAX && !self.geo.features.has_ro_compat(ro_compat::DIR_NLINK)
    }

    fn create_once(
        &self,
        token: &mut Token,
        caller: Caller,
        dir: &NodeRef,
        name: &[u8],
        new: NewNode<'_>,
        inherited: &Inherited,
    ) -> Result<Attr> {
        let mut credits = self.dirs.insert_credits(&dir.core.read()) + 8;
        if new.is_dir() || matches!(new, NewNode::Symlink { .. }) {
            credits += 6;
        }
        if inherited.has_acls() {
            credits += 2 * Xattrs::CREDITS;
        }
        let handle = self.journal.start(token, credits)?;
        let made = self.create_in(&handle, caller, dir, name, new, inherited);
        handle.settle(made)
    }

    fn create_in(
        &self,
        handle: &Handle<'_>,
        caller: Caller,
        dir: &NodeRef,
        name: &[u8],
        new: NewNode<'_>,
        inherited: &Inherited,
    ) -> Result<Attr> {
        let ino = self.alloc.new_inode(handle, dir.ino, new.is_dir())?;
        let mut inode = self.new_inode(caller, &dir.core.read(), new, inherited);
        inode.generation = self.next_generation();
        let made = self.fill(handle, dir, name, ino, &mut inode, new, inherited);
        if let Err(error) = made {
            self.undo_create(handle, ino, inode, new.is_dir())?;
            return Err(error);
        }
        let node = self.table.insert(ino, inode);
        node.changed_in(handle.tid());
        self.known.looked_up(ino);
        let core = node.core.read();
        Ok(Attr::new(ino, &core, self.geo.block_size))
    }

    pub(crate) fn new_inode(
        &self,
        caller: Caller,
        dir: &Inode,
        new: NewNode<'_>,
        inherited: &Inherited,
    ) -> Inode {
        let now = self.now();
        let mut inode = Inode::new(&self.geo, inherited.mode(new.mode()));
        inode.uid = caller.uid;
        inode.gid = caller.gid;
        if dir.mode & mode::SGID != 0 {
            inode.gid = dir.gid;
            if new.is_dir() {
                inode.mode |= mode::SGID;
            }
        }
        (inode.atime, inode.mtime, inode.ctime) = (now, now, now);
        inode.crtime = inode.crtime.map(|_| now);
        inode.links_count = if new.is_dir() { 2 } else { 1 };
        inode.flags = dir.flags
            & match inode.mode & mode::FMT {
                mode::DIR => INHERITED,
                mode::REG => REG_INHERITED,
                _ => OTHER_INHERITED,
            };
        let mapped = matches!(inode.mode & mode::FMT, mode::REG | mode::DIR | mode::LNK);
        if mapped && self.geo.features.has_incompat(incompat::EXTENTS) {
            self.files.map.init_root(&mut inode);
        }
        if let NewNode::Special {
            rdev: (major, minor),
            ..
        } = new
            && matches!(inode.mode & mode::FMT, mode::CHR | mode::BLK)
        {
            inode.set_device_number(major, minor);
        }
        inode
    }

    /// Everything after the inode number: contents, attributes, name, the parent's times and links.
    #[allow(clippy::too_many_arguments)]
    fn fill(
        &self,
        handle: &Handle<'_>,
        dir: &NodeRef,
        name: &[u8],
        ino: InodeNumber,
        inode: &mut Inode,
        new: NewNode<'_>,
        inherited: &Inherited,
    ) -> Result<()> {
        if let NewNode::Symlink { target } = new {
            self.set_link_target(handle, ino, inode, target)?;
        }
        if new.is_dir() {
            self.dirs.create(handle, ino, inode, dir.ino)?;
        }
        self.store_new(handle, ino, inode, inherited)?;
        let mut core = dir.core.write();
        let entry = Entry {
            ino,
            file_type: FileType::of_mode(inode.mode),
        };
        self.dirs.insert(handle, dir.ino, &mut core, name, entry)?;
        if new.is_dir() {
            add_subdirectory_link(&mut core);
        }
        (core.mtime, core.ctime) = (inode.ctime, inode.ctime);
        self.save(handle, dir, &core)
    }

    /// The inode itself and its inherited ACLs.
    pub(crate) fn store_new(
        &self,
        handle: &Handle<'_>,
        ino: InodeNumber,
        inode: &mut Inode,
        inherited: &Inherited,
    ) -> Result<()> {
        self.store.create(handle, ino, inode)?;
        for (acl_name, value) in inherited.acls() {
            self.xattrs
                .set(handle, ino, inode, acl_name, Some(value), SetMode::Any)?;
        }
        if inherited.has_acls() {
            self.store.write(handle, ino, inode)
        } else {
            Ok(())
        }
    }

    fn set_link_target(
        &self,
        handle: &Handle<'_>,
        ino: InodeNumber,
        inode: &mut Inode,
        target: &[u8],
    ) -> Result<()> {
        inode.size = target.len() as u64;
        if target.len() < inode.block.len() {
            inode.flags &= !flag::EXTENTS;
            inode.block = [0; 60];
            inode.block[..target.len()].copy_from_slice(target);
            return Ok(());
        }
        let goal = self.alloc.inode_goal(ino);
        let privileged = self.files.is_privileged(inode);
        let block = self.alloc.new_meta_block(handle, ino, goal, privileged)?;
        self.files
            .map
            .insert(handle, ino, inode, FileBlock::ZERO, block, 1, false)?;
        let buffer = self.cache.fresh(block, BlockKind::Plain);
        let mut bytes = handle.write(&buffer)?;
        bytes[..target.len()].copy_from_slice(target);
        Ok(())
    }

    /// Gives back what a failed creation took, within its handle.
    pub(crate) fn undo_create(
        &self,
        handle: &Handle<'_>,
        ino: InodeNumber,
        mut inode: Inode,
        is_dir: bool,
    ) -> Result<()> {
        let mapped = matches!(inode.mode & mode::FMT, mode::DIR | mode::LNK)
            && !inode.is_fast_symlink(&self.geo);
        if mapped {
            let all = FileBlock::ZERO..FileBlock::MAX;
            self.files
                .map
                .undo_insert(handle, ino, &mut inode, all, true)?;
        }
        if inode.file_acl != 0 {
            self.xattrs.free_all(handle, ino, &mut inode)?;
        }
        inode.links_count = 0;
        inode.size = 0;
        self.store.create(handle, ino, &inode)?;
        self.store.set_dtime(
            handle,
            ino,
            u32::try_from(self.now().seconds).unwrap_or(u32::MAX),
        )?;
        self.alloc.free_inode(handle, ino, is_dir)
    }
}

/// One more subdirectory; a count beyond what fits becomes 1, "many".
pub(crate) fn add_subdirectory_link(dir: &mut Inode) {
    if dir.links_count == 1 {
        return;
    }
    dir.links_count += 1;
    if dir.links_count >= LINK_MAX {
        dir.links_count = 1;
    }
}

/// One subdirectory less; "many" stays.
pub(crate) fn drop_subdirectory_link(dir: &mut Inode) {
    if dir.links_count > 2 {
        dir.links_count -= 1;
    }
}

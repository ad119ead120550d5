//! Reading and writing files, and their space.
//!
//! Source: POSIX read, write; Linux fallocate(2), lseek(2); the design's FUSE facts on cached writes.
//! Invariants: where the kernel keeps a file's times (its writeback cache: of every write and fallocate, direct ones too), it
//! sends them itself, and a time of ours would differ from the one it has shown.

use crate::error::{Posix, Result};
use crate::file::{Fallocate, ReadData, Whence};
use crate::format::inode::{Inode, flag, mode};
use crate::fs::park::Planned;
use crate::fs::setattr::clear_privileges;
use crate::fs::{Caller, Fs, need};
use crate::ids::InodeNumber;
use crate::inode::NodeRef;
use crate::memory::Token;
use crate::sync::patience;
use crate::xattr::{SetMode, Xattrs};

const CAPABILITY: &[u8] = b"security.capability";
/// How old an access time may grow before reading renews it (relatime).
const RELATIME_SECONDS: i64 = 24 * 3600;

/// Where the bytes of a write come from. (O_SYNC is the kernel's: it sends an FSYNC.)
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteMode {
    /// Neither mtime nor ctime changes.
    pub keep_times: bool,
    /// O_DIRECT: straight to the device.
    pub direct: bool,
    /// The kernel asks to clear suid and sgid, since this caller writes.
    pub kill_privileges: Option<Caller>,
}

/// A read's result: file data, or bytes that lie in the inode.
pub enum Bytes {
    Blocks(ReadData),
    Inline(Vec<u8>),
}

impl Bytes {
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Blocks(data) => data.bytes(),
            Bytes::Inline(bytes) => bytes,
        }
    }
}

impl Fs {
    /// Up to `length` bytes at `offset`.
    pub fn read(&self, ino: InodeNumber, offset: u64, length: usize) -> Result<Bytes> {
        match self.plan_read(ino, offset, length, false)? {
            Planned::Blocks(planned) => {
                let data = planned.finish()?;
                self.files.ahead.read_on();
                Ok(Bytes::Blocks(data))
            }
            Planned::Inline(bytes) => Ok(Bytes::Inline(bytes)),
        }
    }

    pub(super) fn read_inline(
        &self,
        ino: InodeNumber,
        core: &Inode,
        offset: u64,
        length: usize,
    ) -> Result<Vec<u8>> {
        let mut bytes = self.xattrs.inline_data(ino, core)?.unwrap_or_default();
        bytes.resize(
            usize::try_from(core.size)
                .unwrap_or(0)
                .min(self.geo.inode_size as usize),
            0,
        );
        let from = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        let to = from.saturating_add(length).min(bytes.len());
        Ok(bytes[from..to].to_vec())
    }

    /// relatime: reading renews an access time that is not after the last change, or a day old. Never fails the read.
    pub(crate) fn touch_atime(&self, token: &mut Token, node: &NodeRef) {
        if !self.options.atime || self.is_read_only() {
            return;
        }
        let now = self.now();
        let is_due = |core: &Inode| {
            !core.has_flag(flag::NOATIME)
                && (core.atime <= core.mtime
                    || core.atime <= core.ctime
                    || now.seconds - core.atime.seconds >= RELATIME_SECONDS)
        };
        if !is_due(&node.core.read()) {
            return;
        }
        let touched = self.journal.start(token, 1).and_then(|handle| {
            let mut core = node.core.write();
            if !is_due(&core) {
                return Ok(());
            }
            core.atime = now;
            self.store.write(&handle, node.ino, &core)
        });
        if let Err(error) = touched {
            self.report(&error);
        }
    }

    /// Writes all of `data` at `offset`. Without space for all of it, nothing of a delayed write is accepted.
    pub fn write(&self, ino: InodeNumber, offset: u64, data: &[u8], how: WriteMode) -> Result<()> {
        match self.write_up_to(ino, offset, data, how, true)? {
            written if written == data.len() => Ok(()),
            _ => Err(Posix::NoSpc.into()),
        }
    }

    /// As write(2) does it: on a file system that becomes full, as much of `data` as fits; its length.
    pub fn write_some(
        &self,
        ino: InodeNumber,
        offset: u64,
        data: &[u8],
        how: WriteMode,
    ) -> Result<usize> {
        self.write_up_to(ino, offset, data, how, false)
    }

    fn write_up_to(
        &self,
        ino: InodeNumber,
        offset: u64,
        data: &[u8],
        how: WriteMode,
        whole: bool,
    ) -> Result<usize> {
        self.check_writable()?;
        let blocks = (data.len() >> self.geo.block_bits) as u32 + 2;
        if !how.direct {
            self.throttle()?;
        }
        let need = need::write(if how.direct { 0 } else { blocks });
        let edges = 2 * self.geo.block_size as usize;
        let length = if how.direct { data.len() } else { 0 };
        let buffer = self.memory.io_need(length.saturating_add(edges));
        let mut token = self.memory.request(need.and(buffer))?;
        let node = self.node(ino)?;
        patience::insist();
        let beside = self.write_beside_others(&mut token, &node, offset, data, how)?;
        let written = if let Some(written) = beside {
            written
        } else {
            let _exclusive = node.lock.write();
            if !node.core.read().is_reg() {
                return Err(Posix::Inval.into());
            }
            if let Some(caller) = how.kill_privileges {
                self.kill_privileges(&mut token, caller, &node)?;
            }
            let now = (!how.keep_times).then(|| self.now());
            let files = &self.files;
            if how.direct {
                files.write(&mut token, &node, offset, data, now)?
            } else if whole {
                files.write_delayed(&mut token, &node, offset, data, now)?;
                data.len()
            } else {
                files.write_delayed_some(&mut token, &node, offset, data, now)?
            }
        };
        self.press();
        self.sync_if_asked(&node, false)?;
        Ok(written)
    }

    /// A direct write under the shared inode lock, where it allows that; `None`: nothing was done.
    fn write_beside_others(
        &self,
        token: &mut Token,
        node: &NodeRef,
        offset: u64,
        data: &[u8],
        how: WriteMode,
    ) -> Result<Option<usize>> {
        if !how.direct || how.kill_privileges.is_some() || !how.keep_times {
            return Ok(None);
        }
        let _shared = node.lock.read();
        if !self.files.may_share(node, offset, data.len()) {
            return Ok(None);
        }
        self.files.write_shared(token, node, offset, data).map(Some)
    }

    fn kill_privileges(&self, token: &mut Token, caller: Caller, node: &NodeRef) -> Result<()> {
        let (has_bits, has_capability) = {
            let core = node.core.read();
            let capability = self.acl_of(node.ino, &core, CAPABILITY)?.is_some();
            (core.mode & (mode::SUID | mode::SGID) != 0, capability)
        };
        if !has_bits && !has_capability {
            return Ok(());
        }
        let handle = self.journal.start(token, Xattrs::CREDITS + 2)?;
        let mut core = node.core.write();
        let mut changed = core.clone();
        clear_privileges(caller, &mut changed);
        let removed = if has_capability {
            let xattrs = &self.xattrs;
            xattrs.set(
                &handle,
                node.ino,
                &mut changed,
                CAPABILITY,
                None,
                SetMode::Any,
            )
        } else {
            Ok(())
        };
        handle.settle(removed.and_then(|()| {
            *core = changed;
            self.save(&handle, node, &core)
        }))
    }

    /// Changes no times.
    pub fn fallocate(
        &self,
        caller: Caller,
        ino: InodeNumber,
        mode: Fallocate,
        offset: u64,
        length: u64,
        keep_size: bool,
    ) -> Result<()> {
        self.check_writable()?;
        let end = offset.checked_add(length).ok_or(Posix::FBig)?;
        let mut token = self.memory.request(need::FALLOCATE)?;
        let node = self.node(ino)?;
        {
            let _exclusive = node.lock.write();
            let core = node.core.read();
            if core.is_dir() {
                return Err(Posix::IsDir.into());
            }
            if !core.is_reg() {
                return Err(Posix::OpNotSupp.into());
            }
            let forbidden = core.has_flag(flag::IMMUTABLE)
                || (core.has_flag(flag::APPEND) && mode != Fallocate::Allocate);
            drop(core);
            if forbidden {
                return Err(Posix::Perm.into());
            }
            if caller.uid != 0 {
                self.kill_privileges(&mut token, caller, &node)?;
            }
            self.files
                .fallocate(&mut token, &node, mode, offset..end, keep_size)?;
        }
        self.sync_if_asked(&node, false)
    }

    /// The next data or hole; see `Files::seek`.
    pub fn seek(&self, ino: InodeNumber, offset: u64, whence: Whence) -> Result<u64> {
        let _token = self.memory.request(need::READ)?;
        let node = self.node(ino)?;
        let _shared = node.lock.read();
        {
            let core = node.core.read();
            if core.has_flag(flag::INLINE_DATA) || core.is_dir() {
                return match whence {
                    _ if offset >= core.size => Err(Posix::Nxio.into()),
                    Whence::Data => Ok(offset),
                    Whence::Hole => Ok(core.size),
                };
            }
        }
        self.files
            .seek(&node, offset, whence, self.files.users.has_writer(ino))
    }
}

//! Making files shorter or longer.
//!
//! Source: POSIX ftruncate; the kernel's ext4 documentation, "Orphan file", for what a crash leaves to finish.
//! Invariants: the new size is recorded in the first handle; if blocks remain to be freed after it, the inode is on the
//! orphan list until they are.

use crate::error::{Posix, Result};
use crate::file::Files;
use crate::file::delay::size_to_record;
use crate::format::inode::Inode;
use crate::ids::FileBlock;
use crate::inode::NodeRef;
use crate::inode::delayed::Delayed;
use crate::journal::{Handle, STEP_CREDITS};
use crate::memory::Token;

impl Files {
    /// Sets the size; `edit` makes the other changes of the same call (times, mode) in the first handle.
    pub fn truncate(
        &self,
        token: &mut Token,
        node: &NodeRef,
        size: u64,
        edit: &mut dyn FnMut(&mut Inode),
    ) -> Result<()> {
        let old_size = {
            let core = node.core.read();
            if size > self.max_size(&core) {
                return Err(Posix::FBig.into());
            }
            node.size(&core)
        };
        self.alloc.discard_preallocations(&node.prealloc);
        if size > old_size {
            self.zero_tail(node, old_size)?;
            let handle = self.journal.start(token, 1)?;
            let mut core = node.core.write();
            let set = |delayed: &mut Delayed| {
                let is_clean = delayed.is_empty();
                delayed.set_size((!is_clean).then_some(size));
                is_clean
            };
            if set(&mut node.delayed.lock()) {
                core.size = size;
            }
            edit(&mut core);
            return self.save(&handle, node, &core);
        }
        node.drain();
        if size == 0 && old_size > 0 {
            node.delayed.lock().set_replaced(true);
        }
        self.discard_delayed(node, self.block_from(size)?.get(), Some(size));
        self.zero_tail(node, size)?;
        let mut first = |core: &mut Inode| {
            core.size = size_to_record(&node.delayed.lock(), core.size, size);
            edit(core);
        };
        self.remove_blocks(
            token,
            node,
            self.block_from(size)?,
            FileBlock::MAX,
            &mut first,
        )
    }

    /// Frees the blocks `from..to` in as many handles as it takes, the orphan list covering the gaps where blocks lie
    /// behind the size. `first` runs in the first handle.
    pub(super) fn remove_blocks(
        &self,
        token: &mut Token,
        node: &NodeRef,
        from: FileBlock,
        to: FileBlock,
        first: &mut dyn FnMut(&mut Inode),
    ) -> Result<()> {
        let mut to = Some(to);
        let mut begun = false;
        let mut orphan = false;
        while let Some(end) = to {
            let handle = self.journal.start(token, STEP_CREDITS)?;
            to = self.change(&handle, node, |core| {
                if !begun {
                    first(core);
                    begun = true;
                }
                let to = self.map.remove(&handle, node.ino, core, from, end, false)?;
                let covers_tail = end == FileBlock::MAX && to.is_some();
                if covers_tail && !orphan && core.links_count > 0 {
                    self.orphans.add(&handle, node.ino, core)?;
                    orphan = true;
                }
                if to.is_none() && orphan {
                    self.orphans.remove(&handle, node.ino, core)?;
                }
                Ok(to)
            })?;
        }
        Ok(())
    }

    /// Changes an inode within a handle and saves it. Where damage cuts that off, the inode in memory is as before, and
    /// `Handle::settle` sees to the blocks.
    pub(super) fn change<T>(
        &self,
        handle: &Handle<'_>,
        node: &NodeRef,
        work: impl FnOnce(&mut Inode) -> Result<T>,
    ) -> Result<T> {
        let mut core = node.core.write();
        let before = core.clone();
        let done = work(&mut core).and_then(|done| {
            self.save(handle, node, &core)?;
            Ok(done)
        });
        if done.is_err() {
            *core = before;
        }
        handle.settle(done)
    }

    /// Frees every block of a file that no name leads to any more, in steps. The caller holds the inode lock.
    pub fn free_blocks(&self, token: &mut Token, node: &NodeRef) -> Result<()> {
        self.alloc.discard_preallocations(&node.prealloc);
        node.drain();
        self.discard_delayed(node, 0, None);
        let metadata = !node.core.read().is_reg();
        let mut to = Some(FileBlock::MAX);
        while let Some(end) = to {
            let handle = self.journal.start(token, STEP_CREDITS)?;
            to = self.change(&handle, node, |core| {
                core.size = if metadata { core.size } else { 0 };
                self.map
                    .remove(&handle, node.ino, core, FileBlock::ZERO, end, metadata)
            })?;
        }
        Ok(())
    }
}

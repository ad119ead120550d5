//! The attribute block: read, rewritten in place, copied when shared, freed by its last owner.
//!
//! Source: the kernel's ext4 documentation, "Extended Attributes".
//! Invariants: whether a block is shared is decided under write access to it; a new block is allocated before
//! anything changes.

use super::Xattrs;
use crate::error::{Error, Location, Posix, Result, Structure};
use crate::format::checksum::BlockKind;
use crate::format::inode::Inode;
use crate::format::xattr::{self as format, Attribute, Value};
use crate::ids::{FsBlock, InodeNumber};
use crate::journal::Handle;

impl Xattrs {
    pub(super) fn in_block(&self, ino: InodeNumber, inode: &Inode) -> Result<Vec<Attribute>> {
        match self.block_of(inode)? {
            Some(block) => Ok(self.parse(ino, block)?.attributes),
            None => Ok(Vec::new()),
        }
    }

    /// Makes `attributes` what the inode has in its block: none frees it.
    pub(super) fn write_block(
        &self,
        handle: &Handle<'_>,
        ino: InodeNumber,
        inode: &mut Inode,
        attributes: &[Attribute],
    ) -> Result<()> {
        let old = self.block_of(inode)?;
        let parsed = old.map(|block| self.parse(ino, block)).transpose()?;
        let was = parsed.as_ref().map_or(&[][..], |parsed| &parsed.attributes);
        let shared = parsed.as_ref().is_some_and(|parsed| parsed.refcount > 1);
        // Another owner, or none, of values in inodes of their own: their counts are not kept here.
        let dropped = was
            .iter()
            .any(|attribute| !attributes.contains(attribute) && in_inode(attribute));
        if dropped || (shared && was.iter().any(in_inode)) {
            return Err(Posix::OpNotSupp.into());
        }
        let unit = self.unit();
        match old {
            None if attributes.is_empty() => {}
            None => {
                inode.file_acl = self.write_new(handle, ino, inode, attributes)?.get();
                inode.blocks = inode.blocks.saturating_add(unit);
            }
            Some(block) if attributes.is_empty() => {
                self.release(handle, ino, block)?;
                inode.file_acl = 0;
                inode.blocks = inode.blocks.saturating_sub(unit);
            }
            Some(block) if shared => {
                inode.file_acl = self.write_new(handle, ino, inode, attributes)?.get();
                self.release(handle, ino, block)?;
            }
            Some(block) => {
                let buffer = self.cache.read(block, BlockKind::Xattr)?;
                if !format::write_block(&mut handle.write(&buffer)?, attributes) {
                    return Err(Posix::NoSpc.into());
                }
            }
        }
        Ok(())
    }

    fn write_new(
        &self,
        handle: &Handle<'_>,
        ino: InodeNumber,
        inode: &Inode,
        attributes: &[Attribute],
    ) -> Result<FsBlock> {
        let goal = self.alloc.inode_goal(ino);
        let block = self
            .alloc
            .new_meta_block(handle, ino, goal, inode.uid == 0)?;
        let buffer = self.cache.fresh(block, BlockKind::Xattr);
        if !format::write_block(&mut handle.write(&buffer)?, attributes) {
            return Err(Posix::NoSpc.into());
        }
        Ok(block)
    }

    /// One owner less; the last one frees the block.
    fn release(&self, handle: &Handle<'_>, ino: InodeNumber, block: FsBlock) -> Result<()> {
        let buffer = self.cache.read(block, BlockKind::Xattr)?;
        {
            let mut bytes = handle.write(&buffer)?;
            let refcount = format::parse_block(&bytes)
                .map_err(|error| located(error, ino, block))?
                .refcount;
            if refcount > 1 {
                format::set_refcount(&mut bytes, refcount - 1);
                return Ok(());
            }
        }
        self.alloc.free(handle, block, 1)?;
        handle.forget(block);
        Ok(())
    }

    fn block_of(&self, inode: &Inode) -> Result<Option<FsBlock>> {
        match inode.file_acl {
            0 => Ok(None),
            raw => self
                .cache
                .geometry()
                .fs_block(raw, Structure::Inode)
                .map(Some),
        }
    }

    fn parse(&self, ino: InodeNumber, block: FsBlock) -> Result<format::XattrBlock> {
        let buffer = self
            .cache
            .read(block, BlockKind::Xattr)
            .map_err(|error| located(error, ino, block))?;
        format::parse_block(&buffer.snapshot()).map_err(|error| located(error, ino, block))
    }

    /// What a block (with bigalloc: a cluster) adds to `i_blocks`.
    fn unit(&self) -> u64 {
        let geo = self.cache.geometry();
        u64::from(geo.block_size / 512) << geo.cluster_ratio_bits
    }
}

fn in_inode(attribute: &Attribute) -> bool {
    matches!(attribute.value, Value::Inode { .. })
}

fn located(error: Error, ino: InodeNumber, block: FsBlock) -> Error {
    error.located(Location::inode(ino).with_block(block))
}

//! Extended attributes: in the inode's extra space, then in a block, shared copies counted.
//!
//! Source: the kernel's ext4 documentation, "Extended Attributes".
//! Invariants: names are checked before anything changes; a failed `set` leaves the old value; a name is in the
//! inode or in the block, never in both.

mod block;
mod ea_inode;

use crate::alloc::Allocator;
use crate::cache::BlockCache;
use crate::error::{CorruptKind, Error, Location, Posix, Result, Structure};
use crate::format::acl::Acl;
use crate::format::inode::{Inode, flag};
use crate::format::xattr::{self as format, Attribute, Value, index};
use crate::ids::InodeNumber;
use crate::inode::InodeStore;
use crate::journal::Handle;
use crate::map::Map;
use std::sync::Arc;

/// The largest value, as in Linux.
const VALUE_MAX: usize = 65536;

/// How `set` treats an existing or missing name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetMode {
    Any,
    Create,
    Replace,
}

/// All extended attributes. Names are full ("user.x", "system.posix_acl_access"); ACL values are in the *user's* (xattr) form
/// here, converted to and from ext4's own form inside. Methods may change `file_acl`, `blocks` of the inode; the caller
/// writes it in the same handle (before `set` it must already be in the table) and holds the inode's map lock.
pub struct Xattrs {
    cache: Arc<BlockCache>,
    alloc: Arc<Allocator>,
    store: Arc<InodeStore>,
    map: Arc<Map>,
}

/// What an inode has, and where.
struct Held {
    in_inode: Vec<Attribute>,
    in_block: Vec<Attribute>,
    /// `area_size` that the inode can hold.
    inode_room: usize,
}

impl Xattrs {
    pub fn new(
        cache: Arc<BlockCache>,
        alloc: Arc<Allocator>,
        store: Arc<InodeStore>,
        map: Arc<Map>,
    ) -> Self {
        Self {
            cache,
            alloc,
            store,
            map,
        }
    }

    /// The value, or NoData. OpNotSupp for a name space that ext4 does not have.
    pub fn get(&self, ino: InodeNumber, inode: &Inode, name: &[u8]) -> Result<Vec<u8>> {
        let (index, suffix) = format::split_name(name)?;
        let (mut attributes, _) = self.in_inode(ino)?;
        if !attributes
            .iter()
            .any(|attribute| attribute.is(index, suffix))
        {
            attributes = self.in_block(ino, inode)?;
        }
        let found = attributes
            .into_iter()
            .find(|attribute| attribute.is(index, suffix))
            .ok_or(Posix::NoData)?;
        let bytes = self.value(ino, found)?;
        match index {
            index::ACL_ACCESS | index::ACL_DEFAULT => {
                let acl =
                    Acl::from_disk(&bytes).map_err(|error| error.located(Location::inode(ino)))?;
                Ok(acl.to_xattr())
            }
            _ => Ok(bytes),
        }
    }

    /// All names, each ended by NUL. A name space that users do not see is left out.
    pub fn list(&self, ino: InodeNumber, inode: &Inode) -> Result<Vec<u8>> {
        let held = self.held(ino, inode)?;
        let mut names = Vec::new();
        for attribute in held.in_inode.iter().chain(&held.in_block) {
            if let Some(name) = format::full_name(attribute.index, &attribute.name) {
                names.extend_from_slice(&name);
                names.push(0);
            }
        }
        Ok(names)
    }

    /// The whole contents of an inode that keeps its data inline: `i_block`, then what `system.data` holds (maybe longer
    /// than the inode's size). `None` for other inodes.
    pub fn inline_data(&self, ino: InodeNumber, inode: &Inode) -> Result<Option<Vec<u8>>> {
        if !inode.has_flag(flag::INLINE_DATA) {
            return Ok(None);
        }
        let mut data = inode.block.to_vec();
        let (attributes, _) = self.in_inode(ino)?;
        if let Some(rest) = attributes.into_iter().find(Attribute::is_inline_data) {
            data.extend_from_slice(&self.value(ino, rest)?);
        }
        Ok(Some(data))
    }

    /// Sets (`Some`) or removes (`None`) a value. NoSpc when it does not fit; Exist, NoData as `mode` demands, and NoData
    /// for a removal of what is not there.
    pub fn set(
        &self,
        handle: &Handle<'_>,
        ino: InodeNumber,
        inode: &mut Inode,
        name: &[u8],
        value: Option<&[u8]>,
        mode: SetMode,
    ) -> Result<()> {
        let new = new_attribute(name, value)?;
        let (index, suffix) = format::split_name(name)?;
        let held = self.held(ino, inode)?;
        let all = || held.in_inode.iter().chain(&held.in_block);
        match all().find(|attribute| attribute.is(index, suffix)) {
            Some(_) if mode == SetMode::Create => return Err(Posix::Exist.into()),
            // Its value's inode would have to be freed.
            Some(Attribute {
                value: Value::Inode { .. },
                ..
            }) => return Err(Posix::OpNotSupp.into()),
            None if mode == SetMode::Replace || new.is_none() => return Err(Posix::NoData.into()),
            _ => {}
        }
        let (in_inode, in_block) = self.placed(&held, index, suffix, new)?;
        // The block first: it may find no space, and nothing has changed then.
        if in_block != held.in_block {
            self.write_block(handle, ino, inode, &in_block)?;
        }
        if in_inode != held.in_inode {
            self.write_inode(handle, ino, &in_inode)?;
        }
        Ok(())
    }

    /// Where everything goes once the named attribute is `new`: into the inode if it fits, else into the block.
    fn placed(
        &self,
        held: &Held,
        index: u8,
        suffix: &[u8],
        new: Option<Attribute>,
    ) -> Result<(Vec<Attribute>, Vec<Attribute>)> {
        let others = |from: &[Attribute]| -> Vec<Attribute> {
            from.iter()
                .filter(|attribute| !attribute.is(index, suffix))
                .cloned()
                .collect()
        };
        let (mut in_inode, mut in_block) = (others(&held.in_inode), others(&held.in_block));
        let Some(new) = new else {
            return Ok((in_inode, in_block));
        };
        in_inode.push(new);
        if format::area_size(&in_inode) <= held.inode_room {
            return Ok((in_inode, in_block));
        }
        in_block.extend(in_inode.pop());
        let room = format::block_room(self.cache.geometry().block_size as usize);
        if format::area_size(&in_block) > room {
            return Err(Posix::NoSpc.into());
        }
        // A block's order, so that an unchanged list compares equal to what was read.
        in_block.sort_by(|a, b| {
            (a.index, a.name.len(), &a.name).cmp(&(b.index, b.name.len(), &b.name))
        });
        Ok((in_inode, in_block))
    }

    /// Frees what a deleted inode's attributes hold outside of it.
    pub fn free_all(&self, handle: &Handle<'_>, ino: InodeNumber, inode: &mut Inode) -> Result<()> {
        if inode.file_acl == 0 {
            return Ok(());
        }
        self.write_block(handle, ino, inode, &[])
    }

    /// Credits for `set` and `free_all`, without the inode.
    pub const CREDITS: u32 = 12;

    fn held(&self, ino: InodeNumber, inode: &Inode) -> Result<Held> {
        let (in_inode, inode_room) = self.in_inode(ino)?;
        Ok(Held {
            in_inode,
            inode_room,
            in_block: self.in_block(ino, inode)?,
        })
    }

    fn in_inode(&self, ino: InodeNumber) -> Result<(Vec<Attribute>, usize)> {
        let (buffer, offset) = self.store.locate(ino)?;
        let bytes = buffer.snapshot();
        let size = self.cache.geometry().inode_size as usize;
        let Some(raw) = bytes.get(offset..offset.saturating_add(size)) else {
            let kind = CorruptKind::Short {
                what: Structure::Inode,
            };
            return Err(Error::corrupt(kind, Location::inode(ino)));
        };
        let attributes =
            format::parse_inode(raw).map_err(|error| error.located(Location::inode(ino)))?;
        Ok((attributes, format::inode_room(raw)))
    }

    fn write_inode(
        &self,
        handle: &Handle<'_>,
        ino: InodeNumber,
        attributes: &[Attribute],
    ) -> Result<()> {
        let mut fits = true;
        self.store.edit(handle, ino, &mut |raw| {
            fits = format::write_inode(raw, attributes)
        })?;
        if fits {
            Ok(())
        } else {
            Err(Posix::NoSpc.into())
        }
    }

    fn value(&self, ino: InodeNumber, attribute: Attribute) -> Result<Vec<u8>> {
        match attribute.value {
            Value::Bytes(bytes) => Ok(bytes),
            Value::Inode {
                ino: holder,
                size,
                hash,
            } => self
                .value_inode(holder, size, &attribute.name, hash)
                .map_err(|error| error.located(Location::inode(ino))),
        }
    }
}

/// What is to be stored: `None` for a removal. ACLs change their form, and an empty one is a removal.
fn new_attribute(name: &[u8], value: Option<&[u8]>) -> Result<Option<Attribute>> {
    let (index, suffix) = format::split_name(name)?;
    let Some(value) = value else { return Ok(None) };
    if value.len() > VALUE_MAX {
        return Err(Posix::TooBig.into());
    }
    let bytes = match index {
        index::ACL_ACCESS | index::ACL_DEFAULT => match Acl::from_xattr(value)? {
            Some(acl) => acl.to_disk(),
            None => return Ok(None),
        },
        index::RICHACL => return Err(Posix::OpNotSupp.into()),
        _ => value.to_vec(),
    };
    Ok(Some(Attribute {
        index,
        name: suffix.to_vec(),
        value: Value::Bytes(bytes),
    }))
}

#[cfg(test)]
mod tests;

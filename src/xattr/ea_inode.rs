//! Values in inodes of their own (`ea_inode`): read, never written.
//!
//! Source: the kernel's ext4 documentation, "Extended Attributes", the `e_value_inum` field.
//! Invariants: a value is handed out only if the inode is marked as one, has the entry's size and its contents
//! give the entry's hash.

use super::{VALUE_MAX, Xattrs};
use crate::error::{CorruptKind, Error, Location, Result, Structure};
use crate::format::inode::flag;
use crate::format::xattr as format;
use crate::ids::{FileBlock, InodeNumber};
use crate::map::Mapping;

const WHAT: Structure = Structure::XattrInode;

impl Xattrs {
    pub(super) fn value_inode(
        &self,
        ino: InodeNumber,
        size: u32,
        name: &[u8],
        hash: u32,
    ) -> Result<Vec<u8>> {
        let geo = self.cache.geometry();
        let inode = self.store.read(ino)?;
        let wrong = |field, found| {
            Error::corrupt(
                CorruptKind::Field {
                    what: WHAT,
                    field,
                    found,
                },
                Location::inode(ino),
            )
        };
        if !inode.has_flag(flag::EA_INODE) {
            return Err(wrong("i_flags", u64::from(inode.flags)));
        }
        if inode.size != u64::from(size) || size as usize > VALUE_MAX {
            return Err(wrong("e_value_size", u64::from(size)));
        }
        let block_size = geo.block_size as usize;
        let mut value = Vec::with_capacity(size as usize);
        let blocks = size.div_ceil(geo.block_size);
        let mut block = vec![0; block_size];
        for at in 0..blocks {
            let segment = self.map.lookup(ino, &inode, FileBlock::new(at), 1)?;
            let Mapping::Written(place) = segment.mapping else {
                return Err(wrong("i_block", u64::from(at)));
            };
            let offset = place.get().saturating_mul(u64::from(geo.block_size));
            self.cache.device().read_at(offset, &mut block)?;
            value.extend_from_slice(&block);
        }
        value.truncate(size as usize);
        let contents = format::value_inode_hash(geo.csum_seed, &value).to_le_bytes();
        let hashes = [
            format::entry_hash(name, &contents),
            format::entry_hash_signed(name, &contents),
        ];
        if !hashes.contains(&hash) {
            let kind = CorruptKind::Checksum {
                what: WHAT,
                found: hash,
                expected: hashes[0],
            };
            return Err(Error::corrupt(kind, Location::inode(ino)));
        }
        Ok(value)
    }
}

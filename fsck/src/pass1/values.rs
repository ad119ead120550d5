//! Extended attributes of an inode: in the inode, in a block, in other inodes; and what some of them mean.
//!
//! Source: the kernel's ext4 documentation, "Extended Attributes", "Inline Data", "Encryption".
//! Invariants: damaged attributes are given up as a whole, as nothing tells which of them are sound.

use super::check::Check;
use crate::Result;
use crate::inode::Raw;
use crate::problem::{At, Problem};
use crate::session::{Fsck, read_inode};
use crate::xattr::{self, Entry, inode_area};
use uext4::format::checksum::{self, BlockKind};
use uext4::format::features::{compat, incompat};
use uext4::format::inode::flag;
use uext4::format::raw::{le32, u8_at};
use uext4::ids::FsBlock;

impl Check<'_, '_> {
    /// False to empty the inode.
    pub fn attributes(&mut self) -> Result<bool> {
        self.attributes_in_inode()?;
        self.attribute_block()?;
        if self.raw.has(flag::INLINE_DATA)
            && self.has_inline_data.is_none()
            && self.fix_here(Problem::InlineNoAttribute)?
        {
            self.raw.clear_flag(flag::INLINE_DATA);
            self.raw.i_block_mut().fill(0);
            self.raw.set_size(0);
            if self.extents_supported() {
                self.raw.set_flags(self.raw.flags() | flag::EXTENTS);
                uext4::format::extent::init(self.raw.i_block_mut(), 0);
            }
            self.dirty = true;
        }
        self.encryption_context()
    }

    pub fn has_inline_attribute(&self) -> bool {
        let area = inode_area(&self.raw.bytes);
        let entries = area.map(|area| xattr::parse(area, 0, 0));
        entries.is_some_and(|found| found.is_ok_and(|all| all.iter().any(Entry::is_inline_data)))
    }

    fn attributes_in_inode(&mut self) -> Result<()> {
        let Some(area) = inode_area(&self.raw.bytes) else {
            return Ok(());
        };
        let at = At::ino(self.ino);
        let problem = match xattr::parse(area, 0, 0) {
            Err(wrong) => Some((Problem::XattrInodeBad, at.label(wrong))),
            Ok(entries) => self.values(&entries, false)?,
        };
        if let Some((problem, at)) = problem
            && self.fix(problem, at)?
        {
            self.has_inline_data = None;
            let start = 128 + usize::from(self.raw.extra_isize());
            self.raw.bytes[start..].fill(0);
            self.dirty = true;
        }
        Ok(())
    }

    /// Looks at each entry; a problem that costs all of them is returned.
    fn values(&mut self, entries: &[Entry], in_block: bool) -> Result<Option<(Problem, At)>> {
        let at = At::ino(self.ino);
        let mut clusters = 0;
        let mut refs = Vec::new();
        let (mut inline, mut context) = (None, None);
        for entry in entries {
            if !entry.hash_is_right() {
                return Ok(Some((Problem::XattrHash, at.found(entry.hash.into()))));
            }
            if entry.value_inode != 0 {
                match self.value_inode(entry)? {
                    Ok(counted) => clusters += counted,
                    Err(problem) => return Ok(Some(problem)),
                }
                refs.push(entry.value_inode);
            }
            if entry.is_inline_data() && !in_block {
                inline = Some(u64::from(entry.size));
            }
            if entry.is_encryption() {
                context = Some(entry.value.clone());
            }
        }
        self.value_clusters += clusters;
        self.one.ea_refs.extend(refs);
        self.has_inline_data = self.has_inline_data.or(inline);
        self.encryption = self.encryption.take().or(context);
        Ok(None)
    }

    /// Clusters that the value adds to the quota of its owner.
    fn value_inode(&mut self, entry: &Entry) -> Result<std::result::Result<u64, (Problem, At)>> {
        let ino = entry.value_inode;
        let at = At::ino(self.ino).found(ino.into());
        let bad = Ok(Err((Problem::XattrValueInode, at.clone())));
        let geo = self.around.geo;
        if !self.has_incompat(incompat::EA_INODE) || ino < geo.first_ino || ino > geo.inodes_count {
            return bad;
        }
        let mut target = read_inode(self.around.image, geo, self.around.groups, ino)?;
        if target.links() == 0 || !target.is_reg() || ino == self.ino {
            return bad;
        }
        if target.size() != u64::from(entry.size) {
            return bad;
        }
        let map = crate::map::read(self.around.image, geo, &target)?;
        let mut value = Vec::new();
        let blocks = u64::from(entry.size).div_ceil(geo.block_size.into());
        for lblk in 0..blocks {
            match map.find(lblk) {
                Some(block) => value.extend_from_slice(&self.around.image.read(block)?),
                None => return bad,
            }
        }
        value.truncate(entry.size as usize);
        let value_hash = checksum::crc32c(geo.csum_seed, &value);
        // An inode of the first kind of this feature names its owner instead of holding a hash.
        let first_kind =
            target.get32(0x10) == self.ino && target.generation() == self.raw.generation();
        let name_hash = value_entry_hash(entry, value_hash);
        let right = target.get32(0x08) == value_hash && name_hash.contains(&entry.hash);
        if !first_kind && !right {
            let at = At::ino(self.ino).found(entry.hash.into());
            let problem = if target.has(flag::EA_INODE) {
                Problem::XattrHash
            } else {
                Problem::XattrValueInode
            };
            return Ok(Err((problem, at)));
        }
        if !target.has(flag::EA_INODE) {
            if !self.fix(Problem::EaInodeFlagMissing, at)? {
                return bad;
            }
            target.set_flags(target.flags() | flag::EA_INODE);
            let around = self.around;
            crate::session::write_inode(around.image, geo, around.groups, ino, &mut target)?;
            self.one.new_value_inodes.push(ino);
        }
        if first_kind {
            return Ok(Ok(0));
        }
        let cluster = u64::from(geo.block_size) << geo.cluster_ratio_bits;
        Ok(Ok(u64::from(entry.size).div_ceil(cluster)))
    }

    fn attribute_block(&mut self) -> Result<()> {
        let block = self.raw.file_acl();
        if block == 0 {
            return Ok(());
        }
        let geo = self.around.geo;
        let at = At::ino(self.ino).block(block);
        if !self.features.has_compat(compat::EXT_ATTR) {
            return self.drop_block(Problem::FileAclNotZero, at);
        }
        let cluster = crate::alloc::cluster_of(geo, block);
        if !crate::map::in_volume(geo, block, 1) || self.around.zones.contains(cluster) {
            return self.drop_block(Problem::FileAclBad, at);
        }
        let bytes = self.around.image.read(block)?;
        let header_is_good = le32(&bytes, 0) == xattr::MAGIC && le32(&bytes, 8) == 1;
        if !header_is_good {
            return self.drop_block(Problem::XattrBlockBad, at.label("header"));
        }
        let problem = match xattr::parse(&bytes, xattr::HEADER, 0) {
            Err(wrong) => Some((Problem::XattrBlockBad, at.clone().label(wrong))),
            Ok(entries) => self.values(&entries, true)?,
        };
        if let Some((problem, at)) = problem {
            return self.drop_block(problem, at);
        }
        let place = FsBlock::new(block);
        if checksum::verify(BlockKind::Xattr, geo, place, &bytes).is_err()
            && self.fix(Problem::XattrBlockChecksum, at)?
        {
            let mut bytes = bytes.to_vec();
            checksum::stamp(BlockKind::Xattr, geo, place, &mut bytes);
            self.around
                .image
                .write(block, bytes, crate::image::Stage::Body)?;
        }
        self.one.xattr_block = Some((block, le32(&bytes, 4)));
        Ok(())
    }

    fn drop_block(&mut self, problem: Problem, at: At) -> Result<()> {
        if self.fix(problem, at)? {
            self.raw.set_file_acl(0);
            self.dirty = true;
        }
        Ok(())
    }

    fn encryption_context(&mut self) -> Result<bool> {
        if !self.raw.has(flag::ENCRYPT) {
            self.encryption = None;
            return Ok(true);
        }
        match &self.encryption {
            None => {
                if self.fix_here(Problem::EncryptFlag)? {
                    self.raw.clear_flag(flag::ENCRYPT);
                    self.dirty = true;
                }
                Ok(true)
            }
            Some(context) => match policy(context) {
                Some(policy) => {
                    self.encryption = Some(policy);
                    Ok(true)
                }
                None => {
                    let clear = self.fix_here(Problem::EncryptContext)?;
                    self.encryption = None;
                    Ok(!clear)
                }
            },
        }
    }
}

/// What two files must share: the context without its nonce.
fn policy(context: &[u8]) -> Option<Vec<u8>> {
    let (length, nonce) = match u8_at(context, 0) {
        1 => (28, 16),
        2 => (40, 16),
        0 => return None,
        _ => return Some(context.to_vec()),
    };
    (context.len() == length).then(|| context[..length - nonce].to_vec())
}

/// The hashes that an entry with its value in an inode may have.
fn value_entry_hash(entry: &Entry, value_hash: u32) -> [u32; 2] {
    let value = value_hash.to_le_bytes();
    [
        uext4::format::xattr::entry_hash(&entry.name, &value),
        uext4::format::xattr::entry_hash_signed(&entry.name, &value),
    ]
}

impl Fsck<'_, '_> {
    /// Clusters beside the map that count in `i_blocks`: the attribute block's, and of values in inodes.
    pub fn attribute_clusters(&self, raw: &Raw) -> Result<u64> {
        let mut count = u64::from(raw.file_acl() != 0);
        let all = self.attributes_of(raw)?;
        let cluster = u64::from(self.geo.block_size) << self.geo.cluster_ratio_bits;
        for entry in all.iter().filter(|entry| entry.value_inode != 0) {
            count += u64::from(entry.size).div_ceil(cluster);
        }
        Ok(count)
    }

    /// How many of an inode's attributes have their values in inodes.
    pub fn values_in_inodes(&self, raw: &Raw) -> Result<u64> {
        let all = self.attributes_of(raw)?;
        Ok(all.iter().filter(|entry| entry.value_inode != 0).count() as u64)
    }

    fn attributes_of(&self, raw: &Raw) -> Result<Vec<Entry>> {
        let mut all = Vec::new();
        if let Some(area) = inode_area(&raw.bytes) {
            all.extend(xattr::parse(area, 0, 0).unwrap_or_default());
        }
        let block = raw.file_acl();
        if block != 0 && crate::map::in_volume(&self.geo, block, 1) {
            let bytes = self.image.read(block)?;
            all.extend(xattr::parse(&bytes, xattr::HEADER, 0).unwrap_or_default());
        }
        Ok(all)
    }

    /// Reference counts of attribute blocks.
    pub fn check_shared_xattrs(&mut self) -> Result<()> {
        for page in 0..self.xattr_blocks.page_count() {
            for (block, shared) in self.xattr_blocks.page(page) {
                if shared.found == shared.refcount {
                    continue;
                }
                let at = At::new()
                    .block(block)
                    .found(shared.refcount.into())
                    .expected(shared.found.into());
                if self.report.fix(Problem::XattrRefcount, at)? {
                    self.store_refcount(block, shared.found)?;
                }
            }
        }
        Ok(())
    }

    pub fn store_refcount(&self, block: u64, count: u32) -> Result<()> {
        let mut bytes = self.image.read(block)?.to_vec();
        uext4::format::raw::put_le32(&mut bytes, 4, count);
        checksum::stamp(BlockKind::Xattr, &self.geo, FsBlock::new(block), &mut bytes);
        self.image.write(block, bytes, crate::image::Stage::Body)
    }
}

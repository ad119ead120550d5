//! Inodes that a crash left deleted or half truncated: the orphan list, and the orphan file.
//!
//! Source: the kernel's ext4 documentation, "Orphan file", `s_last_orphan`.
//! Invariants: the list is followed at most once through each inode; afterwards both are empty.

use crate::Result;
use crate::image::Stage;
use crate::inode::Raw;
use crate::inodes::{Known, known};
use crate::problem::{At, Problem};
use crate::session::Fsck;
use uext4::format::bitmap;
use uext4::format::checksum::{self, BlockKind};
use uext4::format::features::{compat, ro_compat};
use uext4::format::inode::{flag, mode};
use uext4::format::orphan;
use uext4::format::raw::le32;
use uext4::format::superblock::state;
use uext4::ids::FsBlock;

impl Fsck<'_, '_> {
    /// Takes both apart; pass 1 looks at each of the inodes again.
    pub fn collect_orphans(&mut self) -> Result<()> {
        self.orphan_list()?;
        self.orphan_file()
    }

    fn orphan_list(&mut self) -> Result<()> {
        let mut ino = self.sb.s_last_orphan();
        if ino == 0 {
            return Ok(());
        }
        // After an error the kernel clears the list, too.
        let trusted = self.sb.s_state() & state::ERROR_FS == 0;
        let mut seen = std::collections::BTreeSet::new();
        while ino != 0 && trusted {
            let raw = self.read_inode(ino)?;
            let possible =
                ino >= self.geo.first_ino && ino <= self.geo.inodes_count && raw.file_type() != 0;
            if !possible || !seen.insert(ino) {
                self.report.fix(Problem::OrphanListBad, At::ino(ino))?;
                break;
            }
            let next = raw.dtime();
            self.orphan(ino)?;
            ino = next;
        }
        if !trusted {
            self.report.fix(Problem::OrphanListBad, At::ino(ino))?;
        }
        self.sb.set_s_last_orphan(0);
        Ok(())
    }

    /// A deleted file is freed as the kernel would have done, which is no problem worth a question.
    fn orphan(&mut self, ino: u32) -> Result<()> {
        let mut raw = self.read_inode(ino)?;
        if raw.links() == 0 && raw.file_type() != 0 {
            self.report
                .note(&format!("inode {ino} was deleted while it was open: freed"));
            self.free_on_disk(ino, &raw)?;
            raw.set_dtime(self.options.now.max(1) as u32);
        } else {
            raw.set_dtime(0);
            self.orphans.insert(ino);
        }
        self.write_inode(ino, &mut raw)
    }

    /// Clears the bits of an inode and of its clusters, and counts them as free.
    fn free_on_disk(&mut self, ino: u32, raw: &Raw) -> Result<()> {
        let mut clusters = Vec::new();
        if crate::map::has_map(raw) {
            let map = crate::map::read(&self.image, &self.geo, raw)?;
            clusters = crate::pass1::clusters(&self.geo, &map);
        }
        let acl = raw.file_acl();
        if acl != 0 && crate::map::in_volume(&self.geo, acl, 1) {
            let count = le32(&self.image.read(acl)?, 4);
            if count > 1 {
                self.store_refcount(acl, count - 1)?;
            } else {
                clusters.push(crate::alloc::clusters_of(&self.geo, acl, 1));
            }
        }
        let per_group = u64::from(self.geo.clusters_per_group);
        for (first, count) in clusters {
            for cluster in first..first + count {
                let (group, bit) = (cluster / per_group, (cluster % per_group) as u32);
                self.clear_bit(group as u32, bit, true)?;
            }
        }
        let Ok((group, bit)) = self.geo.inode_place(uext4::ids::InodeNumber::new(ino)) else {
            return Ok(());
        };
        if self.clear_bit(group.get(), bit, false)? && raw.is_dir() {
            self.change_group(group.get(), |group| {
                group.used_dirs = group.used_dirs.saturating_sub(1);
            });
        }
        Ok(())
    }

    /// Clears a bit of a group's block or inode bitmap; false when it was clear.
    fn clear_bit(&mut self, index: u32, bit: u32, blocks: bool) -> Result<bool> {
        let group = self.groups.get(index);
        let place = if blocks {
            group.block_bitmap
        } else {
            group.inode_bitmap
        };
        if !crate::map::in_volume(&self.geo, place, 1) {
            return Ok(false);
        }
        let mut bytes = self.image.read(place)?.to_vec();
        if !bitmap::get(&bytes, bit) {
            return Ok(false);
        }
        let sum = |bytes: &[u8]| match blocks {
            true => checksum::block_bitmap(&self.geo, bytes),
            false => checksum::inode_bitmap(&self.geo, bytes),
        };
        let before = sum(&bytes);
        bitmap::put(&mut bytes, bit, false);
        let after = sum(&bytes);
        self.change_group(index, |group| {
            let (stored, free) = if blocks {
                (&mut group.block_bitmap_csum, &mut group.free_blocks)
            } else {
                (&mut group.inode_bitmap_csum, &mut group.free_inodes)
            };
            if *stored == before {
                *stored = after;
            }
            *free = free.saturating_add(1);
        });
        if blocks {
            let free = self.sb.s_free_blocks_count() + (1 << self.geo.cluster_ratio_bits);
            self.sb.set_s_free_blocks_count(free);
        } else {
            let free = self.sb.s_free_inodes_count().saturating_add(1);
            self.sb.set_s_free_inodes_count(free);
        }
        self.image.write(place, bytes, Stage::Bitmap)?;
        Ok(true)
    }

    fn orphan_file(&mut self) -> Result<()> {
        let ino = self.sb.s_orphan_file_inum();
        if !self.geo.features.has_compat(compat::ORPHAN_FILE) {
            if ino != 0
                && self
                    .report
                    .fix(Problem::OrphanFileWithoutFeature, At::ino(ino))?
            {
                self.sb.set_s_orphan_file_inum(0);
            }
            return Ok(());
        }
        let present = self.geo.features.has_ro_compat(ro_compat::ORPHAN_PRESENT);
        let raw = self.read_inode(ino)?;
        let map = crate::map::read(&self.image, &self.geo, &raw)?;
        if !self.is_orphan_file(ino, &raw, &map) {
            if self.report.fix(Problem::OrphanFileInode, At::ino(ino))? {
                self.give_up_orphan_file(ino, raw)?;
            }
            return Ok(());
        }
        let kind = BlockKind::OrphanFile {
            seed: raw.seed(&self.geo, ino),
        };
        let blocks = raw.size() / u64::from(self.geo.block_size);
        for lblk in 0..blocks.min(1 << 16) {
            let Some(block) = map.find(lblk) else {
                continue;
            };
            let mut bytes = self.image.read(block)?.to_vec();
            let place = FsBlock::new(block);
            let good = orphan::check(&bytes, place).is_ok()
                && checksum::verify(kind, &self.geo, place, &bytes).is_ok();
            if !good {
                if self
                    .report
                    .fix(Problem::OrphanFileBlock, At::ino(ino).lblk(lblk))?
                {
                    bytes.fill(0);
                    let at = bytes.len() - 8;
                    uext4::format::raw::put_le32(&mut bytes, at, orphan::MAGIC);
                }
            } else {
                let any =
                    (0..orphan::slots(&bytes)).any(|slot| orphan::get(&bytes, slot).is_some());
                let at = At::ino(ino);
                if any && (present || self.report.fix(Problem::OrphanPresentMissing, at)?) {
                    self.orphan_block(&mut bytes)?;
                }
            }
            checksum::stamp(kind, &self.geo, place, &mut bytes);
            self.image.write(block, bytes, Stage::Body)?;
        }
        // Every mount that writes sets the flag; that nothing is in the file is usual.
        if present {
            self.drop_present();
        }
        Ok(())
    }

    fn orphan_block(&mut self, bytes: &mut [u8]) -> Result<()> {
        for slot in 0..orphan::slots(bytes) {
            let Some(ino) = orphan::get(bytes, slot) else {
                continue;
            };
            let possible = ino.get() >= self.geo.first_ino && ino.get() <= self.geo.inodes_count;
            if possible {
                self.orphan(ino.get())?;
            } else {
                let at = At::new().found(ino.get().into());
                self.report.fix(Problem::OrphanFileEntry, at)?;
            }
            orphan::put(bytes, slot, None);
        }
        Ok(())
    }

    /// Whole blocks, all of them there.
    fn is_orphan_file(&self, ino: u32, raw: &Raw, map: &crate::map::Map) -> bool {
        let size = u64::from(self.geo.block_size);
        let blocks = raw.size() / size;
        ino >= self.geo.first_ino
            && raw.is_reg()
            && raw.links() != 0
            && blocks > 0
            && raw.size().is_multiple_of(size)
            && map.data.iter().map(|run| run.len).sum::<u64>() == blocks
            && map.data.last().is_some_and(|run| run.end() == blocks)
            && map.data.iter().all(|run| !run.unwritten)
    }

    /// A new one is made behind the check. What the superblock named may be somebody's file, which stays.
    fn give_up_orphan_file(&mut self, ino: u32, mut raw: Raw) -> Result<()> {
        self.sb.set_s_orphan_file_inum(0);
        self.geo.orphan_file_inum = 0;
        self.drop_present();
        self.new_orphan_file = true;
        if ino < self.geo.first_ino || ino > self.geo.inodes_count {
            return Ok(());
        }
        let mut as_file = raw.clone();
        as_file.set_mode(mode::REG);
        as_file.clear_flag(flag::INLINE_DATA);
        let map = crate::map::read(&self.image, &self.geo, &as_file)?;
        let Some(run) = map.data.first() else {
            return Ok(());
        };
        let bytes = self.image.read(run.pblk)?;
        if orphan::check(&bytes, FsBlock::new(run.pblk)).is_ok() {
            raw.bytes.fill(0);
            self.write_inode(ino, &mut raw)?;
        }
        Ok(())
    }

    /// An empty orphan file in a free inode; without space the file system goes without.
    pub fn make_orphan_file(&mut self) -> Result<()> {
        if !self.new_orphan_file {
            return Ok(());
        }
        let blocks = match self.geo.blocks_count {
            0..0x2_0000 => 32,
            0x2_0000..0x20_0000 => 128,
            _ => 512_u64,
        };
        let blocks = blocks.next_multiple_of(1 << self.geo.cluster_ratio_bits);
        let made = match self.free_inode() {
            Some(ino) => self.fill_orphan_file(ino, blocks)?,
            None => false,
        };
        if !made {
            self.report
                .note("there is no space for an orphan file: the file system has none now");
            let bits = self.sb.features().compat & !compat::ORPHAN_FILE;
            self.sb.set_feature_compat(bits);
            self.geo.features = self.sb.features();
        }
        Ok(())
    }

    fn fill_orphan_file(&mut self, ino: u32, blocks: u64) -> Result<bool> {
        let mut raw = self.new_file(blocks);
        let Some(runs) = self.space(blocks, self.geo.blocks_count / 2) else {
            return Ok(false);
        };
        if !self.replace_map(ino, &mut raw, &crate::map::Map::default(), &runs)? {
            return Ok(false);
        }
        let kind = BlockKind::OrphanFile {
            seed: raw.seed(&self.geo, ino),
        };
        for block in runs.iter().flat_map(|run| run.pblk..run.pblk + run.len) {
            let mut bytes = vec![0; self.image.block_size()];
            let tail = bytes.len() - 8;
            uext4::format::raw::put_le32(&mut bytes, tail, orphan::MAGIC);
            checksum::stamp(kind, &self.geo, FsBlock::new(block), &mut bytes);
            self.image.write(block, bytes, Stage::Fresh)?;
        }
        self.write_inode(ino, &mut raw)?;
        let known = Known {
            file_type: 1,
            flags: known::SPECIAL,
            links: 1,
            found: 0,
        };
        self.inodes.set(ino, known);
        self.sb.set_s_orphan_file_inum(ino);
        self.geo.orphan_file_inum = ino;
        Ok(true)
    }

    fn drop_present(&mut self) {
        let bits = self.sb.features().ro_compat & !ro_compat::ORPHAN_PRESENT;
        self.sb.set_feature_ro_compat(bits);
        self.geo.features = self.sb.features();
    }
}

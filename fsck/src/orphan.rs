//! Inodes that a crash left deleted or half truncated: the orphan list, and the orphan file.
//!
//! Source: the kernel's ext4 documentation, "Orphan file", `s_last_orphan`.
//! Invariants: the list is followed at most once through each inode; afterwards both are empty.

use crate::Result;
use crate::image::Stage;
use crate::problem::{At, Problem};
use crate::session::Fsck;
use uext4::format::checksum::{self, BlockKind};
use uext4::format::features::{compat, ro_compat};
use uext4::format::orphan;
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

    fn orphan(&mut self, ino: u32) -> Result<()> {
        let mut raw = self.read_inode(ino)?;
        if !self.report.fix(Problem::OrphanInode, At::ino(ino))? {
            return Ok(());
        }
        if raw.links() == 0 {
            raw.set_dtime(self.options.now.max(1) as u32);
        } else {
            raw.set_dtime(0);
            self.orphans.insert(ino);
        }
        self.write_inode(ino, &mut raw)
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
        if ino < self.geo.first_ino || !raw.is_reg() || raw.links() == 0 {
            if self.report.fix(Problem::OrphanFileInode, At::ino(ino))? {
                self.sb.set_s_orphan_file_inum(0);
                let bits = self.sb.features().compat & !compat::ORPHAN_FILE;
                self.sb.set_feature_compat(bits);
                self.drop_present();
            }
            return Ok(());
        }
        let map = crate::map::read(&self.image, &self.geo, &raw)?;
        let kind = BlockKind::OrphanFile {
            seed: raw.seed(&self.geo, ino),
        };
        let mut any = false;
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
            } else if present {
                any |= self.orphan_block(&mut bytes)?;
            } else if (0..orphan::slots(&bytes)).any(|slot| orphan::get(&bytes, slot).is_some())
                && self
                    .report
                    .fix(Problem::OrphanPresentMissing, At::ino(ino))?
            {
                self.orphan_block(&mut bytes)?;
            }
            checksum::stamp(kind, &self.geo, place, &mut bytes);
            self.image.write(block, bytes, Stage::Body)?;
        }
        if present {
            if !any {
                self.report
                    .fix(Problem::OrphanPresentWithoutNeed, At::ino(ino))?;
            }
            self.drop_present();
        }
        Ok(())
    }

    fn orphan_block(&mut self, bytes: &mut [u8]) -> Result<bool> {
        let mut any = false;
        for slot in 0..orphan::slots(bytes) {
            let Some(ino) = orphan::get(bytes, slot) else {
                continue;
            };
            any = true;
            let possible = ino.get() >= self.geo.first_ino && ino.get() <= self.geo.inodes_count;
            if possible {
                self.orphan(ino.get())?;
            } else {
                let at = At::new().found(ino.get().into());
                self.report.fix(Problem::OrphanFileEntry, at)?;
            }
            orphan::put(bytes, slot, None);
        }
        Ok(any)
    }

    fn drop_present(&mut self) {
        let bits = self.sb.features().ro_compat & !ro_compat::ORPHAN_PRESENT;
        self.sb.set_feature_ro_compat(bits);
        self.geo.features = self.sb.features();
    }
}

//! Finding a superblock that can be used, and what is wrong with its fields.
//!
//! Source: the kernel's ext4 documentation, "Super Block"; e2fsck(8), `-b` and `-B`.
//! Invariants: a copy is used only when its numbers pass `Superblock::geometry`; nothing is written here.

use crate::problem::{At, Problem};
use crate::report::Reporter;
use crate::{Options, Result, Stop};
use std::sync::Arc;
use uext4::device::Device;
use uext4::error::{Error, Incompatible};
use uext4::format::features::KNOWN;
use uext4::format::features::{Word, compat, incompat};
use uext4::format::geometry::Geometry;
use uext4::format::superblock::{MAGIC, OFFSET, SIZE, Superblock};

pub struct Opened {
    pub sb: Superblock,
    pub geo: Geometry,
    /// It came from a copy (its block number).
    pub copy: Option<u64>,
    /// The journal's inode as it is to be written.
    pub restore_journal: Option<crate::inode::Raw>,
}

/// Features that never meant anything on disk: imagic_inodes, lazy_bg, exclude_bitmap.
const COMPAT_OLD: u32 = 0x2 | 0x40 | 0x100;
/// snapshot, replica
const RO_COMPAT_OLD: u32 = 0x80 | 0x800;

pub fn open(
    device: &Arc<dyn Device>,
    options: &Options,
    report: &mut Reporter<'_>,
) -> Result<Opened> {
    if let Some(block) = options.superblock {
        let sizes: Vec<u32> = options
            .block_size
            .map_or((10..17).map(|b| 1 << b).collect(), |b| vec![b]);
        for size in sizes {
            if let Ok((sb, geo)) = read_copy(device, block, size) {
                return finish(sb, geo, Some(block));
            }
        }
        return Err(Stop::Unusable(format!(
            "there is no superblock in block {block}"
        )));
    }
    let primary = read_at(device, OFFSET);
    let reason = match primary {
        Ok((sb, geo)) => {
            let (sb, geo) = revision(sb, geo, report)?;
            return finish(sb, geo, None);
        }
        Err(Error::Io(error)) => return Err(Error::Io(error).into()),
        Err(error) => error,
    };
    for (block, size) in guesses() {
        let Ok((sb, geo)) = read_copy(device, block, size) else {
            continue;
        };
        let at = At::new().block(block).label(reason.to_string());
        if report.fix(Problem::SuperblockBad, at)? {
            return finish(sb, geo, Some(block));
        }
        break;
    }
    // Fields that are only a little wrong are no reason to give up.
    if let Some(opened) = lenient(device, report, &reason)? {
        return Ok(opened);
    }
    Err(Stop::Unusable(reason.to_string()))
}

fn finish(sb: Superblock, geo: Geometry, copy: Option<u64>) -> Result<Opened> {
    let features = sb.features();
    let known = KNOWN
        .iter()
        .filter(|feature| feature.word == Word::Incompat)
        .fold(0, |bits, feature| bits | feature.bit);
    let unknown = features.incompat & !known;
    if unknown != 0 {
        return Err(Stop::Unusable(
            Error::from(Incompatible::UnknownIncompat(unknown)).to_string(),
        ));
    }
    let unknown_to = |word: Word, bits: u32| {
        let of_word = KNOWN.iter().filter(|feature| feature.word == word);
        bits & !of_word.fold(0, |known, feature| known | feature.bit)
    };
    let compat = unknown_to(Word::Compat, features.compat) & !COMPAT_OLD;
    let ro_compat = unknown_to(Word::RoCompat, features.ro_compat) & !RO_COMPAT_OLD;
    if compat != 0 || ro_compat != 0 {
        return Err(Stop::Unusable(format!(
            "unknown features: compat {compat:#x}, ro_compat {ro_compat:#x}; a newer checker may know them"
        )));
    }
    if features.has_incompat(incompat::JOURNAL_DEV) {
        return Err(Stop::Unusable(
            "this is a journal, not a file system".to_owned(),
        ));
    }
    if features.has_incompat(0x1) {
        return Err(Stop::Unusable(
            "compressed files are not supported".to_owned(),
        ));
    }
    Ok(Opened {
        sb,
        geo,
        copy,
        restore_journal: None,
    })
}

/// Revision 0 has no features, and no size of inodes: with features it is a number that changed.
fn revision(
    sb: Superblock,
    geo: Geometry,
    report: &mut Reporter<'_>,
) -> Result<(Superblock, Geometry)> {
    let features = sb.features();
    if sb.s_rev_level() != 0 || features.compat | features.incompat | features.ro_compat == 0 {
        return Ok((sb, geo));
    }
    let mut newer = sb.clone();
    newer.set_s_rev_level(1);
    let at = At::new().label("s_rev_level").found(0);
    match newer.geometry(u64::MAX) {
        Ok(with) if report.fix(Problem::SuperblockField, at)? => Ok((newer, with)),
        _ => Ok((sb, geo)),
    }
}

/// Where copies lie by default: at the start of group 1, then of 3 and 5, for each block size.
fn guesses() -> impl Iterator<Item = (u64, u32)> {
    (10..17_u32).flat_map(|bits| {
        let size = 1_u32 << bits;
        let per_group = u64::from(size) * 8;
        let first = u64::from(size == 1024);
        [1, 3, 5, 7, 9].map(|group| (group * per_group + first, size))
    })
}

fn read_copy(
    device: &Arc<dyn Device>,
    block: u64,
    size: u32,
) -> Result<(Superblock, Geometry), Error> {
    let offset = block
        .checked_mul(u64::from(size))
        .ok_or(Incompatible::NotExt4)?;
    if offset.saturating_add(SIZE as u64) > device.len() {
        return Err(Incompatible::NotExt4.into());
    }
    let (sb, geo) = read_at(device, if block == 0 { OFFSET } else { offset })?;
    if geo.block_size != size {
        return Err(Incompatible::NotExt4.into());
    }
    Ok((sb, geo))
}

fn read_at(device: &Arc<dyn Device>, offset: u64) -> Result<(Superblock, Geometry), Error> {
    let mut bytes = [0; SIZE];
    if offset.saturating_add(SIZE as u64) > device.len() {
        return Err(Incompatible::NotExt4.into());
    }
    device.read_at(offset, &mut bytes)?;
    let sb = Superblock::parse(&bytes)?;
    let geo = sb.geometry(u64::MAX)?;
    Ok((sb, geo))
}

/// The primary superblock with a wrong checksum alone, or with impossible fields that have an obvious repair.
fn lenient(
    device: &Arc<dyn Device>,
    report: &mut Reporter<'_>,
    reason: &Error,
) -> Result<Option<Opened>> {
    let mut bytes = [0; SIZE];
    if device.len() < OFFSET + SIZE as u64 {
        return Ok(None);
    }
    device.read_at(OFFSET, &mut bytes)?;
    let mut sb = Superblock::new();
    sb.put(0, &bytes);
    if matches!(reason, Error::Incompatible(Incompatible::NotExt4)) {
        // Only a checksum can tell that everything but the magic number is there.
        let found = sb.s_magic();
        sb.set_s_magic(MAGIC);
        let whole = sb.features().metadata_csum() && sb.to_bytes()[SIZE - 4..] == bytes[SIZE - 4..];
        let at = At::new().label("s_magic").found(found.into());
        if let (true, Ok(geo)) = (whole, sb.geometry(device.len()))
            && report.fix(Problem::SuperblockField, at)?
        {
            return finish(sb, geo, None).map(Some);
        }
        return Ok(None);
    }
    if let Ok(geo) = sb.geometry(device.len())
        && report.fix(Problem::SuperblockChecksum, At::new())?
    {
        return finish(sb, geo, None).map(Some);
    }
    for (label, found, repair) in repairs() {
        let mut tried = sb.clone();
        repair(&mut tried);
        let Ok(geo) = tried.geometry(device.len()) else {
            continue;
        };
        let at = At::new().label(label).found(found(&sb));
        if report.fix(Problem::SuperblockField, at)? {
            return finish(tried, geo, None).map(Some);
        }
    }
    Ok(None)
}

/// log2 of the blocks of a cluster, by the sizes of a group.
fn ratio_bits(sb: &Superblock) -> u32 {
    let ratio = sb
        .s_blocks_per_group()
        .checked_div(sb.s_clusters_per_group());
    ratio.and_then(u32::checked_ilog2).unwrap_or(0)
}

type Repair = (&'static str, fn(&Superblock) -> u64, fn(&mut Superblock));

fn repairs() -> [Repair; 9] {
    [
        (
            "s_log_block_size",
            |sb| sb.s_log_block_size().into(),
            |sb| {
                let log = sb.s_log_cluster_size().saturating_sub(ratio_bits(sb));
                sb.set_s_log_block_size(log);
            },
        ),
        (
            "s_log_cluster_size",
            |sb| sb.s_log_cluster_size().into(),
            |sb| {
                let log = sb.s_log_block_size().saturating_add(ratio_bits(sb));
                sb.set_s_log_cluster_size(log);
            },
        ),
        (
            "s_blocks_per_group",
            |sb| sb.s_blocks_per_group().into(),
            |sb| {
                let ratio = sb.s_log_cluster_size().wrapping_sub(sb.s_log_block_size());
                let blocks = sb.s_clusters_per_group().checked_shl(ratio);
                sb.set_s_blocks_per_group(blocks.unwrap_or(0));
            },
        ),
        (
            "s_first_data_block",
            |sb| sb.s_first_data_block().into(),
            |sb| sb.set_s_first_data_block(u32::from(sb.s_log_block_size() == 0)),
        ),
        (
            "s_inodes_per_group",
            |sb| sb.s_inodes_per_group().into(),
            |sb| {
                let per = u64::from(sb.s_blocks_per_group().max(1));
                let blocks = sb
                    .s_blocks_count()
                    .saturating_sub(sb.s_first_data_block().into());
                let groups = blocks.div_ceil(per).max(1);
                let inodes = u64::from(sb.s_inodes_count()) / groups;
                sb.set_s_inodes_per_group(u32::try_from(inodes).unwrap_or(0));
            },
        ),
        (
            "s_reserved_gdt_blocks",
            |sb| sb.s_reserved_gdt_blocks().into(),
            |sb| {
                sb.set_s_reserved_gdt_blocks(0);
                sb.set_feature_compat(sb.features().compat & !compat::RESIZE_INODE);
            },
        ),
        (
            "s_first_ino",
            |sb| sb.s_first_ino().into(),
            |sb| sb.set_s_first_ino(11),
        ),
        (
            "s_first_meta_bg",
            |sb| sb.s_first_meta_bg().into(),
            |sb| {
                sb.set_s_first_meta_bg(0);
            },
        ),
        (
            "s_inodes_count",
            |sb| sb.s_inodes_count().into(),
            |sb| {
                let per = u64::from(sb.s_blocks_per_group().max(1));
                let blocks = sb
                    .s_blocks_count()
                    .saturating_sub(sb.s_first_data_block().into());
                let groups = blocks.div_ceil(per);
                let inodes = groups.saturating_mul(sb.s_inodes_per_group().into());
                sb.set_s_inodes_count(u32::try_from(inodes).unwrap_or(0));
            },
        ),
    ]
}

/// Refuses an image that is cut short.
pub fn check_size(
    device: &Arc<dyn Device>,
    opened: Opened,
    report: &mut Reporter<'_>,
) -> Result<Opened> {
    let blocks = opened.geo.blocks_count;
    let there = device.len() / u64::from(opened.geo.block_size);
    if there < blocks {
        let at = At::new().found(blocks).expected(there);
        report.fix(Problem::TooSmallDevice, at)?;
        return Err(Stop::Unusable(
            "the image is cut short, or its superblock is wrong".to_owned(),
        ));
    }
    Ok(opened)
}

impl crate::session::Fsck<'_, '_> {
    /// Fields that other programs compare with others.
    fn check_numbers(&mut self) -> Result<()> {
        let field = |label, found: u64| At::new().label(label).found(found);
        let bigalloc = uext4::format::features::ro_compat::BIGALLOC;
        if !self.geo.features.has_ro_compat(bigalloc) {
            let (found, expected) = (self.sb.s_log_cluster_size(), self.sb.s_log_block_size());
            let at = field("s_log_cluster_size", found.into());
            if found != expected && self.report.fix(Problem::SuperblockField, at)? {
                self.sb.set_s_log_cluster_size(expected);
            }
            let (found, expected) = (self.sb.s_clusters_per_group(), self.geo.blocks_per_group);
            let at = field("s_clusters_per_group", found.into());
            if found != expected && self.report.fix(Problem::SuperblockField, at)? {
                self.sb.set_s_clusters_per_group(expected);
            }
        }
        let found = self.sb.s_rev_level();
        let at = field("s_rev_level", found.into());
        if found > 1 && self.report.fix(Problem::SuperblockField, at)? {
            self.sb.set_s_rev_level(1);
        }
        let found = self.sb.s_r_blocks_count();
        let most = self.geo.blocks_count / 2;
        let at = field("s_r_blocks_count", found);
        if found > most && self.report.fix(Problem::SuperblockField, at)? {
            self.sb.set_s_r_blocks_count(self.geo.blocks_count / 20);
        }
        Ok(())
    }

    /// Fields that nothing else depends on.
    pub fn check_superblock(&mut self) -> Result<()> {
        let room = self.geo.inode_size.saturating_sub(128);
        let good = |bytes: u16| {
            bytes == 0 || bytes >= 4 && bytes.is_multiple_of(4) && u32::from(bytes) <= room
        };
        let want = u16::try_from(room.min(32)).unwrap_or(0);
        let found = self.sb.s_min_extra_isize();
        if room > 0 && !good(found) {
            let at = At::new().found(found.into());
            if self.report.fix(Problem::MinExtraIsize, at)? {
                self.sb.set_s_min_extra_isize(want);
            }
        }
        let found = self.sb.s_want_extra_isize();
        if room > 0 && !good(found) {
            let at = At::new().found(found.into());
            if self.report.fix(Problem::WantExtraIsize, at)? {
                self.sb.set_s_want_extra_isize(want);
            }
        }
        self.check_numbers()?;
        if self.sb.s_state() & uext4::format::superblock::state::ERROR_FS != 0 {
            self.report.hint(Problem::ErrorRecorded, At::new())?;
        }
        Ok(())
    }
}

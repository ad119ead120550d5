//! Where the journal's blocks lie: its inode's map, read straight from the device.
//!
//! Source: the kernel's ext4 documentation, "Journal (jbd2)" and "The Contents of inode.i_block".
//! Invariants: the runs cover the journal from block 0 without a hole and without overlap in the file; every
//! block is inside the volume; the walk is bounded by the tree's depth and by the volume's size.

use super::{block_buffer, byte_offset};
use crate::device::Device;
use crate::error::{CorruptKind, Error, Incompatible, Location, Result, Structure};
use crate::format::checksum::{self, BlockKind};
use crate::format::geometry::Geometry;
use crate::format::group::GroupDesc;
use crate::format::inode::{Inode, flag};
use crate::format::raw::{join, le16, le32};
use crate::ids::{FsBlock, InodeNumber};

const WHAT: Structure = Structure::JournalInode;

/// A contiguous piece of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRun {
    /// The first block, counted in the journal.
    pub at: u32,
    pub start: FsBlock,
    pub len: u32,
}

/// The journal's blocks, as runs in ascending order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogMap {
    runs: Vec<LogRun>,
    len: u32,
    /// The runs on the volume (first block, one past the last), ascending.
    places: Vec<(u64, u64)>,
}

impl LogMap {
    /// Reads the map of the journal inode (`geo.journal_inum`).
    pub fn read(device: &dyn Device, geo: &Geometry) -> Result<Self> {
        if geo.journal_inum == 0 {
            return Err(Incompatible::ExternalJournal.into());
        }
        let ino = InodeNumber::new(geo.journal_inum);
        Self::read_inode(device, geo, ino).map_err(|error| error.located(Location::inode(ino)))
    }

    fn read_inode(device: &dyn Device, geo: &Geometry, ino: InodeNumber) -> Result<Self> {
        let inode = load_inode(device, geo, ino)?;
        let blocks = inode.size / u64::from(geo.block_size);
        let blocks = u32::try_from(blocks)
            .ok()
            .filter(|count| *count >= 2 && inode.is_reg());
        let Some(blocks) = blocks.filter(|count| u64::from(*count) <= geo.blocks_count) else {
            return Err(field("i_size", inode.size));
        };
        let mut walk = Walk {
            device,
            geo,
            seed: inode.csum_seed(geo, ino),
            blocks,
            runs: Vec::new(),
            next: 0,
        };
        if inode.has_flag(flag::EXTENTS) {
            walk.extent_node(&inode.block, None)?;
        } else {
            walk.indirect_map(&inode.block)?;
        }
        if walk.next < blocks {
            return Err(field("i_block", u64::from(walk.next)));
        }
        Self::from_runs(walk.runs)
    }

    /// From runs that are known already; they must start at 0, leave no hole and not overlap.
    pub fn from_runs(runs: Vec<LogRun>) -> Result<Self> {
        let mut next = 0u32;
        for run in &runs {
            next = match next.checked_add(run.len) {
                Some(end) if run.at == next && run.len > 0 => end,
                _ => return Err(field("i_block", u64::from(run.at))),
            };
        }
        let place = |run: &LogRun| {
            (
                run.start.get(),
                run.start.get().saturating_add(u64::from(run.len)),
            )
        };
        let mut places: Vec<(u64, u64)> = runs.iter().map(place).collect();
        places.sort_unstable();
        if places.windows(2).any(|pair| pair[0].1 > pair[1].0) {
            return Err(field("i_block", 0));
        }
        Ok(Self {
            runs,
            len: next,
            places,
        })
    }

    pub fn runs(&self) -> &[LogRun] {
        &self.runs
    }

    /// Blocks of the journal, with its superblock. At least 1 if there is any run.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Where the journal's block `at` lies; an error beyond its end.
    pub fn block(&self, at: u32) -> Result<FsBlock> {
        let (run, offset) = self.locate(at)?;
        Ok(FsBlock::new(run.start.get() + u64::from(offset)))
    }

    /// The same, with the number of blocks that follow contiguously (at least 1, with this one).
    pub fn run(&self, at: u32) -> Result<(FsBlock, u32)> {
        let (run, offset) = self.locate(at)?;
        Ok((
            FsBlock::new(run.start.get() + u64::from(offset)),
            run.len - offset,
        ))
    }

    fn locate(&self, at: u32) -> Result<(&LogRun, u32)> {
        let index = self.runs.partition_point(|run| run.at <= at);
        let run = index.checked_sub(1).and_then(|index| self.runs.get(index));
        match run {
            Some(run) if at - run.at < run.len => Ok((run, at - run.at)),
            _ => Err(field("block", u64::from(at))),
        }
    }

    /// Whether a block of the volume belongs to the journal.
    pub fn contains(&self, block: FsBlock) -> bool {
        let block = block.get();
        let index = self.places.partition_point(|place| place.0 <= block);
        index
            .checked_sub(1)
            .and_then(|index| self.places.get(index))
            .is_some_and(|place| block < place.1)
    }
}

fn load_inode(device: &dyn Device, geo: &Geometry, ino: InodeNumber) -> Result<Inode> {
    let (group, index) = geo.inode_place(ino)?;
    let (block, offset) = geo.desc_location(group);
    let mut bytes = vec![0; geo.desc_size as usize];
    device.read_at(
        byte_offset(geo.block_size, block) + offset as u64,
        &mut bytes,
    )?;
    let desc = GroupDesc::parse(&bytes, geo, group)?;
    let table = byte_offset(geo.block_size, desc.inode_table);
    let mut bytes = vec![0; geo.inode_size as usize];
    device.read_at(
        table + u64::from(index) * u64::from(geo.inode_size),
        &mut bytes,
    )?;
    Inode::parse(&bytes, geo, ino)
}

fn field(field: &'static str, found: u64) -> Error {
    Error::corrupt(
        CorruptKind::Field {
            what: WHAT,
            field,
            found,
        },
        Location::default(),
    )
}

/// A walk over the inode's map, in file order.
struct Walk<'a> {
    device: &'a dyn Device,
    geo: &'a Geometry,
    seed: u32,
    /// Blocks of the journal: what lies behind them is not of interest.
    blocks: u32,
    runs: Vec<LogRun>,
    /// The next block of the journal that needs a place.
    next: u32,
}

const EXTENT_MAGIC: u16 = 0xf30a;
const MAX_DEPTH: u16 = 5;
/// Lengths above this mark unwritten extents, which a journal cannot have.
const MAX_WRITTEN: u16 = 0x8000;

impl Walk<'_> {
    /// `depth`: what the parent demands; `None` for the root.
    fn extent_node(&mut self, node: &[u8], depth: Option<u16>) -> Result<()> {
        let (magic, entries, found) = (le16(node, 0), le16(node, 2), le16(node, 6));
        if magic != EXTENT_MAGIC {
            return Err(field("eh_magic", u64::from(magic)));
        }
        if usize::from(entries) > node.len().saturating_sub(12) / 12 {
            return Err(field("eh_entries", u64::from(entries)));
        }
        if found > MAX_DEPTH || depth.is_some_and(|depth| depth != found) {
            return Err(Error::corrupt(
                CorruptKind::Depth { what: WHAT },
                Location::default(),
            ));
        }
        for entry in node.chunks_exact(12).skip(1).take(usize::from(entries)) {
            if self.next >= self.blocks {
                break;
            }
            match found.checked_sub(1) {
                None => self.extent(entry)?,
                Some(below) => {
                    let raw = join(le32(entry, 4), u32::from(le16(entry, 8)));
                    let block = self.geo.fs_block(raw, WHAT)?;
                    let bytes = self.read(block)?;
                    checksum::verify(
                        BlockKind::ExtentNode { seed: self.seed },
                        self.geo,
                        block,
                        &bytes,
                    )?;
                    let before = self.next;
                    self.extent_node(&bytes, Some(below))?;
                    // A node must advance, or a self-made tree of empty nodes could be walked for ever.
                    if self.next == before {
                        return Err(field("eh_entries", 0));
                    }
                }
            }
        }
        Ok(())
    }

    fn extent(&mut self, entry: &[u8]) -> Result<()> {
        let len = le16(entry, 4);
        if len == 0 || len > MAX_WRITTEN || le32(entry, 0) != self.next {
            return Err(field("ee_len", u64::from(len)));
        }
        let raw = join(le32(entry, 8), u32::from(le16(entry, 6)));
        self.push(raw, u32::from(len))
    }

    fn push(&mut self, raw: u64, len: u32) -> Result<()> {
        let len = len.min(self.blocks - self.next);
        let start = self.geo.fs_run(raw, u64::from(len), WHAT)?;
        match self.runs.last_mut() {
            Some(run) if run.start.get() + u64::from(run.len) == raw => run.len += len,
            _ => self.runs.push(LogRun {
                at: self.next,
                start,
                len,
            }),
        }
        self.next += len;
        Ok(())
    }

    fn read(&self, block: FsBlock) -> Result<Vec<u8>> {
        let mut bytes = block_buffer(self.geo);
        self.device
            .read_at(byte_offset(self.geo.block_size, block), &mut bytes)?;
        Ok(bytes)
    }

    fn indirect_map(&mut self, map: &[u8; 60]) -> Result<()> {
        for (slot, entry) in map.chunks_exact(4).enumerate() {
            let levels = (slot + 1).saturating_sub(12);
            self.indirect(le32(entry, 0), levels)?;
        }
        Ok(())
    }

    fn indirect(&mut self, raw: u32, levels: usize) -> Result<()> {
        if self.next >= self.blocks {
            return Ok(());
        }
        if levels == 0 {
            return self.push(u64::from(raw), 1);
        }
        let bytes = self.read(self.geo.fs_block(u64::from(raw), WHAT)?)?;
        for entry in bytes.chunks_exact(4) {
            self.indirect(le32(entry, 0), levels - 1)?;
        }
        Ok(())
    }
}

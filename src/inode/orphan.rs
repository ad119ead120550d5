//! Inodes whose truncation or freeing is not finished: the orphan file if the image has one, else the list through `i_dtime`.
//!
//! Source: the kernel's ext4 documentation, "Orphan file", "Super Block" (`s_last_orphan`).
//! Invariants: memory and disk name the same inodes; an inode is on record at most once; both forms of record are read, since
//! a full orphan file falls back to the list.

use crate::cache::{BlockCache, BufferRef};
use crate::error::{CorruptKind, Error, Location, Result, Structure};
use crate::format::checksum::BlockKind;
use crate::format::features::compat;
use crate::format::inode::Inode;
use crate::format::orphan;
use crate::format::superblock::{self, Superblock};
use crate::ids::{FileBlock, FsBlock, InodeNumber};
use crate::inode::InodeStore;
use crate::journal::Handle;
use crate::map::{Map, Mapping};
use crate::memory::{Charge, Class};
use crate::sync::{Mutex, Rank};
use std::collections::HashMap;
use std::sync::Arc;

/// More blocks than any tool gives an orphan file.
const FILE_BLOCKS_MAX: u64 = 4096;

pub struct Orphans {
    cache: Arc<BlockCache>,
    store: Arc<InodeStore>,
    /// The orphan file's blocks and the seed of their checksums.
    blocks: Vec<FsBlock>,
    seed: u32,
    state: Mutex<State>,
    /// For what is kept about each inode on record. Changed under the lock of `state`.
    charge: Mutex<Charge>,
}

/// What a place in the table of records costs: key, record, control byte, the load factor of 7/8, and the table before while it
/// grows.
const PLACE_BYTES: usize = (size_of::<(InodeNumber, Record)>() + 1) * 8 / 7 * 3 / 2;

/// Where an inode is on record.
#[derive(Clone, Copy)]
enum Record {
    /// Block of the orphan file and slot in it.
    File(u32, u32),
    /// Between these two of the list.
    List {
        before: Option<InodeNumber>,
        next: Option<InodeNumber>,
    },
}

#[derive(Default)]
struct State {
    records: HashMap<InodeNumber, Record>,
    /// Free slots of each block of the file.
    free: Vec<usize>,
    /// `s_last_orphan`.
    head: Option<InodeNumber>,
}

impl Orphans {
    /// Reads the orphan file and the list.
    pub fn new(
        cache: Arc<BlockCache>,
        store: Arc<InodeStore>,
        map: Arc<Map>,
        sb: &Superblock,
    ) -> Result<Self> {
        let mut orphans = Self::none(cache, store);
        let geo = Arc::clone(orphans.cache.geometry());
        if geo.features.has_compat(compat::ORPHAN_FILE) && geo.orphan_file_inum != 0 {
            orphans.open_file(&map, InodeNumber::new(geo.orphan_file_inum))?;
        }
        orphans.read_list(sb.s_last_orphan())?;
        orphans.settle(&mut orphans.state.lock());
        Ok(orphans)
    }

    /// For a mount that writes nothing: no orphan is known.
    pub fn none(cache: Arc<BlockCache>, store: Arc<InodeStore>) -> Self {
        let charge = cache.memory().charge(Class::Handle, 0);
        Self {
            cache,
            store,
            blocks: Vec::new(),
            seed: 0,
            state: Mutex::new(Rank::Orphan, State::default()),
            charge: Mutex::new(Rank::Leaf, charge),
        }
    }

    /// Puts an inode on record: 2 credits (list: superblock and inode; file: its block). Idempotent.
    pub fn add(&self, handle: &Handle<'_>, ino: InodeNumber, _inode: &mut Inode) -> Result<()> {
        let mut state = self.state.lock();
        if state.records.contains_key(&ino) {
            return Ok(());
        }
        if let Some(index) = state.free.iter().position(|&free| free > 0) {
            let buffer = self.file_block(index)?;
            let mut bytes = handle.write(&buffer)?;
            let free = (0..orphan::slots(&bytes)).find(|&slot| orphan::get(&bytes, slot).is_none());
            if let Some(slot) = free {
                orphan::put(&mut bytes, slot, Some(ino));
                state.free[index] -= 1;
                state
                    .records
                    .insert(ino, Record::File(index as u32, slot as u32));
                self.settle(&mut state);
                return Ok(());
            }
            state.free[index] = 0;
        }
        let next = state.head;
        self.store
            .set_dtime(handle, ino, next.map_or(0, InodeNumber::get))?;
        self.set_head(handle, Some(ino))?;
        if let Some(next) = next
            && let Some(Record::List { before, .. }) = state.records.get_mut(&next)
        {
            *before = Some(ino);
        }
        state
            .records
            .insert(ino, Record::List { before: None, next });
        state.head = Some(ino);
        self.settle(&mut state);
        Ok(())
    }

    /// Takes it off again: 3 credits. Idempotent.
    pub fn remove(&self, handle: &Handle<'_>, ino: InodeNumber, _inode: &mut Inode) -> Result<()> {
        self.forget(handle, ino)
    }

    /// The same for an inode that turned out not to exist.
    pub fn drop_stale(&self, handle: &Handle<'_>, ino: InodeNumber) -> Result<()> {
        self.forget(handle, ino)
    }

    fn forget(&self, handle: &Handle<'_>, ino: InodeNumber) -> Result<()> {
        let mut state = self.state.lock();
        let Some(record) = state.records.get(&ino).copied() else {
            return Ok(());
        };
        match record {
            Record::File(index, slot) => {
                let (index, slot) = (index as usize, slot as usize);
                let buffer = self.file_block(index)?;
                orphan::put(&mut handle.write(&buffer)?, slot, None);
                state.free[index] += 1;
            }
            Record::List { before, next } => {
                match before {
                    Some(before) => {
                        let next = next.map_or(0, InodeNumber::get);
                        self.store.set_dtime(handle, before, next)?;
                    }
                    None => {
                        self.set_head(handle, next)?;
                        state.head = next;
                    }
                }
                self.store.set_dtime(handle, ino, 0)?;
                if let Some(before) = before
                    && let Some(Record::List { next: link, .. }) = state.records.get_mut(&before)
                {
                    *link = next;
                }
                if let Some(next) = next
                    && let Some(Record::List { before: link, .. }) = state.records.get_mut(&next)
                {
                    *link = before;
                }
            }
        }
        state.records.remove(&ino);
        if state.records.len() < state.records.capacity() / 8 {
            let twice = state.records.len() * 2;
            state.records.shrink_to(twice);
        }
        self.settle(&mut state);
        Ok(())
    }

    /// Charges what the records take now.
    fn settle(&self, state: &mut State) {
        let bytes = state.records.capacity() * PLACE_BYTES;
        let mut charge = self.charge.lock();
        if charge.bytes() != bytes as u64 {
            charge.resize(bytes);
        }
    }

    /// All that are on record now: after `new`, what a crash left.
    pub fn on_disk(&self) -> Result<Vec<InodeNumber>> {
        let mut all: Vec<_> = self.state.lock().records.keys().copied().collect();
        all.sort_unstable();
        Ok(all)
    }

    pub fn is_empty(&self) -> bool {
        self.state.lock().records.is_empty()
    }

    fn open_file(&mut self, map: &Map, ino: InodeNumber) -> Result<()> {
        let geo = Arc::clone(self.cache.geometry());
        let inode = self.store.read(ino)?;
        self.seed = inode.csum_seed(&geo, ino);
        let count = (inode.size >> geo.block_bits).min(FILE_BLOCKS_MAX);
        let hole = || {
            let kind = CorruptKind::Short {
                what: Structure::OrphanFile,
            };
            Error::corrupt(kind, Location::inode(ino))
        };
        for at in 0..count {
            let at = FileBlock::new(u32::try_from(at).map_err(|_| hole())?);
            let Mapping::Written(block) = map.lookup(ino, &inode, at, 1)?.mapping else {
                return Err(hole());
            };
            self.blocks.push(block);
        }
        let mut state = State::default();
        for index in 0..self.blocks.len() {
            let buffer = self.file_block(index)?;
            let bytes = buffer.snapshot();
            orphan::check(&bytes, buffer.block())?;
            let mut free = 0;
            for slot in 0..orphan::slots(&bytes) {
                match orphan::get(&bytes, slot) {
                    Some(ino) => {
                        let valid = (geo.first_ino..=geo.inodes_count).contains(&ino.get());
                        let record = Record::File(index as u32, slot as u32);
                        let before = state.records.insert(ino, record);
                        if !valid || before.is_some() {
                            return Err(bad_record(ino).located(Location::block(buffer.block())));
                        }
                    }
                    None => free += 1,
                }
            }
            state.free.push(free);
        }
        *self.state.get_mut() = state;
        Ok(())
    }

    fn read_list(&mut self, head: u32) -> Result<()> {
        let geo = Arc::clone(self.cache.geometry());
        let state = self.state.get_mut();
        let as_ino = |raw: u32| (raw != 0).then(|| InodeNumber::new(raw));
        state.head = as_ino(head);
        let mut before = None;
        let mut at = state.head;
        while let Some(ino) = at {
            let bad = ino.get() > geo.inodes_count || state.records.contains_key(&ino);
            if bad || ino.get() < geo.first_ino {
                let kind = CorruptKind::Field {
                    what: Structure::OrphanList,
                    field: "i_dtime",
                    found: u64::from(ino.get()),
                };
                return Err(Error::corrupt(kind, Location::inode(before.unwrap_or(ino))));
            }
            let next = as_ino(self.store.read(ino)?.dtime);
            state.records.insert(ino, Record::List { before, next });
            before = Some(ino);
            at = next;
        }
        Ok(())
    }

    fn file_block(&self, index: usize) -> Result<BufferRef> {
        self.cache.read(
            self.blocks[index],
            BlockKind::OrphanFile { seed: self.seed },
        )
    }

    fn set_head(&self, handle: &Handle<'_>, head: Option<InodeNumber>) -> Result<()> {
        let geo = self.cache.geometry();
        let block = superblock::OFFSET >> geo.block_bits;
        let at = (superblock::OFFSET - (block << geo.block_bits)) as usize;
        let buffer = self.cache.read(FsBlock::new(block), BlockKind::Plain)?;
        let mut bytes = handle.write(&buffer)?;
        let mut sb = Superblock::parse(&bytes[at..at + superblock::SIZE])?;
        sb.set_s_last_orphan(head.map_or(0, InodeNumber::get));
        bytes[at..at + superblock::SIZE].copy_from_slice(&sb.to_bytes());
        Ok(())
    }
}

/// A reserved inode, one that cannot be, or one that is on record twice.
fn bad_record(ino: InodeNumber) -> Error {
    let kind = CorruptKind::Field {
        what: Structure::OrphanFile,
        field: "inode number",
        found: u64::from(ino.get()),
    };
    Error::corrupt(kind, Location::default())
}

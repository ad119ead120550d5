//! Reading a directory from a cookie on, in an order that inserting, removing and splitting do not change.
//!
//! Source: the design's section on the FUSE boundary (cookies); the kernel's ext4 documentation, "Hash Tree Directories".
//! Invariants: "." has cookie 1 and ".." 2; every other cookie is larger and below 2^63. In hash order it says
//! (hash, upper minor bits, ordinal among names that are equal in both); names are hashed alike before and after
//! the directory gets its index. Without dir_index a cookie is a position, since entries of linear directories never move.
//! What one call holds in memory does not depend on the directory's size.

use crate::dir::blocks::{Dir, Page};
use crate::dir::index::{self, Path};
use crate::dir::{Entry, FileType};
use crate::error::Result;
use crate::format::dirent::{self, Dirent};
use crate::format::dirhash::Hasher;
use crate::format::features::compat;
use crate::format::htree::CONTINUED;
use crate::ids::{FileBlock, InodeNumber};

const DOT: u64 = 1;
const DOT_DOT: u64 = 2;
/// The cookie of key 0, ordinal 0, or of position 0.
const FIRST: u64 = 3;
/// Entries that one pass over a range of leaves gives out at most.
const BATCH: usize = 512;
const ORDINAL_BITS: u32 = 8;
const ORDINAL_MAX: u64 = (1 << ORDINAL_BITS) - 1;
/// Bits of the minor hash in a key, below 31 bits of the hash.
const MINOR_BITS: u32 = 24;

pub(super) type Sink<'a> = dyn FnMut(u64, Entry, &[u8]) -> bool + 'a;

/// Gives out everything after `cookie`.
pub(super) fn read(dir: &Dir<'_>, cookie: u64, sink: &mut Sink<'_>) -> Result<()> {
    if !dots(dir, cookie, sink)? {
        return Ok(());
    }
    if !dir.geo().features.has_compat(compat::DIR_INDEX) {
        return by_position(dir, cookie, sink);
    }
    let Some(resume) = Resume::after(cookie) else {
        return Ok(());
    };
    if crate::dir::is_indexed(dir.geo(), dir.inode) && !dir.is_inline() {
        match indexed(dir, resume, sink) {
            Err(error) if index::is_bad_index(&error) => {
                log::warn!("reading directory {} block by block: {error}", dir.ino)
            }
            done => return done,
        }
    }
    linear(dir, resume, sink)
}

/// "." and "..", which come first in every order. False when the sink is full.
fn dots(dir: &Dir<'_>, cookie: u64, sink: &mut Sink<'_>) -> Result<bool> {
    let entry = |ino| Entry {
        ino,
        file_type: FileType::Directory,
    };
    if cookie < DOT && !sink(DOT, entry(dir.ino), b".") {
        return Ok(false);
    }
    if cookie < DOT_DOT
        && let Some(parent) = dir.parent()?
    {
        return Ok(sink(DOT_DOT, entry(parent), b".."));
    }
    Ok(true)
}

/// Names that can be shown: not "." and "..", and without what cannot be in a name (encrypted ones have it).
fn is_shown(entry: &Dirent<'_>) -> bool {
    let forbidden = |byte: &u8| matches!(byte, b'/' | 0);
    entry.ino != 0 && entry.name != b"." && entry.name != b".." && !entry.name.iter().any(forbidden)
}

fn target(entry: &Dirent<'_>) -> Entry {
    Entry {
        ino: InodeNumber::new(entry.ino),
        file_type: FileType::from_raw(entry.file_type),
    }
}

/// In the order of the blocks.
fn by_position(dir: &Dir<'_>, cookie: u64, sink: &mut Sink<'_>) -> Result<()> {
    let bits = dir.geo().block_bits;
    let from = cookie.saturating_add(1).saturating_sub(FIRST);
    let first = u32::try_from(from >> bits).unwrap_or(u32::MAX);
    for at in first..dir.blocks() {
        let Some(page) = dir.page(FileBlock::new(at))? else {
            log::warn!("directory {} has a hole at block {at}", dir.ino);
            continue;
        };
        for entry in dirent::entries(&page, dir.geo()) {
            let entry = entry.map_err(|error| dir.locate_at(error, FileBlock::new(at)))?;
            let position = (u64::from(at) << bits) + entry.offset as u64;
            if position >= from
                && is_shown(&entry)
                && !sink(position + FIRST, target(&entry), entry.name)
            {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Where to go on: at `key`, after this many names of exactly that key.
#[derive(Clone, Copy)]
struct Resume {
    key: u64,
    skip: u64,
}

impl Resume {
    /// `None` at the end.
    fn after(cookie: u64) -> Option<Self> {
        let Some(value) = cookie.checked_sub(FIRST) else {
            return Some(Self { key: 0, skip: 0 });
        };
        let key = value >> ORDINAL_BITS;
        let ordinal = value & ORDINAL_MAX;
        // Names beyond the last ordinal all have that one.
        let skip = if ordinal == ORDINAL_MAX {
            u64::MAX
        } else {
            ordinal + 1
        };
        (key >> MINOR_BITS <= u64::from(u32::MAX >> 1)).then_some(Self { key, skip })
    }

    fn hash(&self) -> u32 {
        u32::try_from(self.key >> MINOR_BITS << 1).unwrap_or(u32::MAX) & !CONTINUED
    }
}

/// An entry that waits for its turn.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Item {
    key: u64,
    /// An order among equal keys that does not depend on where the entries lie.
    tie: u32,
    block: u32,
    offset: usize,
}

/// The smallest entries from a key on, of all that are offered.
struct Selection {
    from: u64,
    items: Vec<Item>,
    overflowed: bool,
}

impl Selection {
    fn offer(&mut self, item: Item) {
        if item.key < self.from {
            return;
        }
        self.items.push(item);
        if self.items.len() >= 2 * BATCH {
            self.keep_smallest();
        }
    }

    fn keep_smallest(&mut self) {
        if self.items.len() > BATCH {
            self.items.select_nth_unstable(BATCH);
            self.items.truncate(BATCH);
            self.overflowed = true;
        }
    }
}

/// Goes through the pages of one range of hashes as often as it takes; `pages` offers all of their entries.
/// False when the sink is full.
fn drain(
    dir: &Dir<'_>,
    resume: &mut Resume,
    sink: &mut Sink<'_>,
    pages: &mut dyn FnMut(&mut Selection) -> Result<()>,
) -> Result<bool> {
    let mut selection = Selection {
        from: 0,
        items: Vec::new(),
        overflowed: false,
    };
    loop {
        selection.from = resume.key;
        selection.overflowed = false;
        selection.items.clear();
        pages(&mut selection)?;
        selection.keep_smallest();
        selection.items.sort_unstable();
        if !give_out(dir, &selection.items, resume, sink)? {
            return Ok(false);
        }
        if !selection.overflowed {
            return Ok(true);
        }
    }
}

/// Gives sorted entries to the sink and moves `resume` behind each.
fn give_out(
    dir: &Dir<'_>,
    items: &[Item],
    resume: &mut Resume,
    sink: &mut Sink<'_>,
) -> Result<bool> {
    let mut page: Option<(u32, Page)> = None;
    let (mut key, mut ordinal) = (resume.key, 0);
    let (resumed_key, skip) = (resume.key, resume.skip);
    for item in items {
        if item.key != key {
            (key, ordinal) = (item.key, 0);
        }
        let rank: u64 = ordinal;
        ordinal += 1;
        if key == resumed_key && rank < skip {
            continue;
        }
        if page.as_ref().is_none_or(|(block, _)| *block != item.block) {
            page = dir
                .page(FileBlock::new(item.block))?
                .map(|page| (item.block, page));
        }
        let Some((_, bytes)) = &page else { continue };
        let entry = dirent::at(bytes, dir.geo(), item.offset)
            .map_err(|error| dir.locate_at(error, FileBlock::new(item.block)))?;
        let cookie = FIRST + (key << ORDINAL_BITS | rank.min(ORDINAL_MAX));
        if !sink(cookie, target(&entry), entry.name) {
            return Ok(false);
        }
        let skip = if rank >= ORDINAL_MAX {
            u64::MAX
        } else {
            rank + 1
        };
        *resume = Resume { key, skip };
    }
    // A whole batch of one key has used up its ordinals: it must not come again.
    if let [first, .., last] = items
        && first.key == last.key
        && items.len() >= BATCH
    {
        *resume = Resume {
            key: first.key + 1,
            skip: 0,
        };
    }
    Ok(true)
}

/// Offers the entries of one page, their hashes kept within `range`: an entry in the wrong leaf still has its turn.
fn offer(
    dir: &Dir<'_>,
    hasher: Hasher,
    (block, bytes): (u32, &[u8]),
    (low, high): (u32, u32),
    selection: &mut Selection,
) -> Result<()> {
    for entry in dirent::entries(bytes, dir.geo()) {
        let entry = entry.map_err(|error| dir.locate_at(error, FileBlock::new(block)))?;
        if !is_shown(&entry) {
            continue;
        }
        let hash = hasher.hash(entry.name);
        let minor = hasher.tie_break(entry.name, hash.minor) >> (32 - MINOR_BITS);
        let major = hash.hash.max(low).min(high) >> 1;
        let key = u64::from(major) << MINOR_BITS | u64::from(minor);
        let tie = crate::format::checksum::crc32c(u32::MAX, entry.name);
        selection.offer(Item {
            key,
            tie,
            block,
            offset: entry.offset,
        });
    }
    Ok(())
}

/// All blocks as one range.
fn linear(dir: &Dir<'_>, mut resume: Resume, sink: &mut Sink<'_>) -> Result<()> {
    let hasher = Hasher::default_of(dir.geo());
    let mut pages = |selection: &mut Selection| {
        for at in 0..dir.blocks() {
            match dir.page(FileBlock::new(at))? {
                Some(page) => offer(dir, hasher, (at, &page), (0, u32::MAX), selection)?,
                None => log::warn!("directory {} has a hole at block {at}", dir.ino),
            }
        }
        Ok(())
    };
    drain(dir, &mut resume, sink, &mut pages).map(drop)
}

/// Range by range: a leaf and those that continue it.
fn indexed(dir: &Dir<'_>, mut resume: Resume, sink: &mut Sink<'_>) -> Result<()> {
    let mut path = Path::open(dir)?;
    path.descend(dir, resume.hash())?;
    // An index that refers to more leaves than there are blocks goes round.
    for _ in 0..dir.blocks() {
        let start = path.clone();
        let mut pages = |selection: &mut Selection| {
            path = start.clone();
            one_range(dir, &mut path, selection)
        };
        if !drain(dir, &mut resume, sink, &mut pages)? || !path.advance(dir)? {
            return Ok(());
        }
    }
    Err(index::depth(dir))
}

/// Offers all entries of the range that starts at `path`, and moves to its last leaf.
fn one_range(dir: &Dir<'_>, path: &mut Path, selection: &mut Selection) -> Result<()> {
    for _ in 0..dir.blocks() {
        let next = path.next_hash();
        let goes_on = next.is_some_and(|hash| hash & CONTINUED != 0);
        let high = match next {
            None => u32::MAX,
            Some(hash) if goes_on => hash & !CONTINUED,
            Some(hash) => hash.saturating_sub(2),
        };
        let leaf = path.leaf();
        match dir.page(leaf)? {
            Some(page) => offer(
                dir,
                path.hasher,
                (leaf.get(), &page),
                (path.lowest_hash(), high),
                selection,
            )?,
            None => log::warn!("directory {} has a hole at block {leaf}", dir.ino),
        }
        if !goes_on {
            return Ok(());
        }
        path.advance(dir)?;
    }
    Err(index::depth(dir))
}

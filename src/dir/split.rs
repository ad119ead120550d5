//! Adding to an indexed directory: splitting leaves and index nodes, and growing the tree.
//!
//! Source: the kernel's ext4 documentation, "Hash Tree Directories".
//! Invariants: all blocks that an insert needs are there before anything is changed; a leaf is divided at about half of its
//! bytes, and either half has room for one more name of any length; a leaf whose lowest hash is also the highest
//! of the leaf before it is marked as its continuation.

use crate::cache::{BufferRef, Snapshot};
use crate::dir::blocks::{self, Dir, NewBlock};
use crate::dir::index::{MAX_STEPS, Path, Step, depth};
use crate::dir::{Directories, Entry};
use crate::error::{Posix, Result};
use crate::format::dirent::{self, Packer};
use crate::format::dirhash::Hasher;
use crate::format::geometry::Geometry;
use crate::format::htree::{self, CONTINUED};
use crate::format::inode::{Inode, flag};
use crate::ids::{FileBlock, InodeNumber};
use crate::journal::Handle;

/// A live entry of a leaf that is being divided.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Item {
    hash: u32,
    offset: usize,
    size: usize,
}

/// A new name with its hash.
struct Addition<'a> {
    name: &'a [u8],
    entry: Entry,
    hash: u32,
}

/// Adds a name through the index.
pub(super) fn insert(
    dirs: &Directories,
    handle: &Handle<'_>,
    ino: InodeNumber,
    inode: &mut Inode,
    name: &[u8],
    entry: Entry,
) -> Result<()> {
    let geo = dirs.geo();
    let dir = Dir::new(dirs, ino, inode);
    let mut path = Path::open(&dir)?;
    let hash = path.hasher.hash(name).hash;
    path.descend(&dir, hash)?;
    let leaf = dir.require(path.leaf())?;
    let bytes = leaf.snapshot();
    if let Some(slot) = dirent::room(&bytes, geo, name.len()).map_err(|e| dir.locate(e, &leaf))? {
        let mut bytes = handle.write(&leaf)?;
        dirent::insert(
            &mut bytes,
            geo,
            slot,
            name,
            entry.ino.get(),
            entry.file_type as u8,
        );
        return Ok(());
    }
    let items = sorted(&bytes, geo, path.hasher).map_err(|e| dir.locate(e, &leaf))?;
    let new = Addition { name, entry, hash };
    let live: usize = items.iter().map(|item| item.size).sum();
    if live + dirent::size_of(name.len()) <= dirent::usable(geo) / 4 * 3 {
        return pack(handle, geo, &leaf, &bytes, &items, Some(&new));
    }
    let full = full_levels(&path);
    check_room(&dir, &path, full)?;
    let mut blocks = blocks::append(dirs, handle, ino, inode, full + 1)?;
    if full == path.len() {
        grow(handle, geo, &mut path, blocks.take()?)?;
    }
    let first = path.len() - full_levels(&path);
    for level in first..path.len() {
        split_node(handle, geo, &mut path, level, blocks.take()?)?;
    }
    let upper = blocks.take()?;
    let (middle, separator) = divide(&items, geo);
    let (low, high) = items.split_at(middle);
    let goes_up = hash >= separator & !CONTINUED;
    pack(
        handle,
        geo,
        &upper.buffer,
        &bytes,
        high,
        goes_up.then_some(&new),
    )?;
    pack(handle, geo, &leaf, &bytes, low, (!goes_up).then_some(&new))?;
    let last = path.len() - 1;
    add_child(handle, path.step_mut(last), separator, upper.at)
}

/// How many nodes at the end of the way are full.
fn full_levels(path: &Path) -> usize {
    (0..path.len())
        .rev()
        .take_while(|&level| path.step(level).node.is_full())
        .count()
}

/// Refuses what the tree cannot take in, before anything is allocated.
fn check_room(dir: &Dir<'_>, path: &Path, full: usize) -> Result<()> {
    let geo = dir.geo();
    if full == path.len() && path.len() > usize::from(htree::max_indirect_levels(geo)) {
        log::warn!("the index of directory {} is full", dir.ino);
        return Err(Posix::NoSpc.into());
    }
    // The credits were reckoned on this.
    if full > 0 && !may_split_nodes(geo, dir.inode) {
        return Err(depth(dir));
    }
    Ok(())
}

/// Whether the directory has enough blocks for any of its index nodes to be full.
fn may_split_nodes(geo: &Geometry, inode: &Inode) -> bool {
    blocks::block_count(geo, inode) > u32::from(htree::root_limit(geo))
}

/// Moves what the root holds one level down.
fn grow(handle: &Handle<'_>, geo: &Geometry, path: &mut Path, new: NewBlock) -> Result<()> {
    let levels = u8::try_from(path.len()).unwrap_or(u8::MAX);
    let root = path.step_mut(0);
    let at = std::mem::take(&mut root.at);
    let node = {
        let mut root_bytes = handle.write(&root.buffer)?;
        let mut node_bytes = handle.write(&new.buffer)?;
        htree::set_indirect_levels(&mut root_bytes, levels);
        root.node
            .push_down(&mut root_bytes, geo, &mut node_bytes, new.at)
    };
    root.bytes = root.buffer.snapshot();
    let bytes = new.buffer.snapshot();
    path.insert_below_root(Step {
        block: new.at,
        buffer: new.buffer,
        bytes,
        node,
        at,
    });
    Ok(())
}

/// Moves the upper half of a node into a new one, and the way with it if it went through there. The node above has room.
fn split_node(
    handle: &Handle<'_>,
    geo: &Geometry,
    path: &mut Path,
    level: usize,
    new: NewBlock,
) -> Result<()> {
    let step = path.step_mut(level);
    let (hash, upper) = {
        let mut lower_bytes = handle.write(&step.buffer)?;
        let mut upper_bytes = handle.write(&new.buffer)?;
        step.node.split(&mut lower_bytes, geo, &mut upper_bytes)
    };
    let stay = step.node.count();
    let goes_up = step.at >= stay;
    if goes_up {
        step.at -= stay;
        (step.block, step.buffer, step.node) = (new.at, new.buffer, upper);
    }
    step.bytes = step.buffer.snapshot();
    let above = path.step_mut(level - 1);
    add_child(handle, above, hash, new.at)?;
    above.at += usize::from(goes_up);
    Ok(())
}

/// Adds a child behind the one that the way goes through.
fn add_child(handle: &Handle<'_>, step: &mut Step, hash: u32, child: FileBlock) -> Result<()> {
    {
        let mut bytes = handle.write(&step.buffer)?;
        step.node.insert_after(&mut bytes, step.at, hash, child);
    }
    step.bytes = step.buffer.snapshot();
    Ok(())
}

/// The live entries of a leaf in hash order.
fn sorted(bytes: &[u8], geo: &Geometry, hasher: Hasher) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    for entry in dirent::entries(bytes, geo) {
        let entry = entry?;
        if entry.ino != 0 {
            let (hash, size) = (
                hasher.hash(entry.name).hash,
                dirent::size_of(entry.name.len()),
            );
            items.push(Item {
                hash,
                offset: entry.offset,
                size,
            });
        }
    }
    items.sort_unstable();
    Ok(items)
}

/// How many items (at least 1 of at least 2) stay in the lower leaf, and the index entry's hash of the upper one.
fn divide(items: &[Item], geo: &Geometry) -> (usize, u32) {
    let half = dirent::usable(geo) / 2;
    let mut moved = 0;
    let mut middle = items.len();
    while middle > 1 && moved + items[middle - 1].size / 2 <= half {
        middle -= 1;
        moved += items[middle].size;
    }
    if middle <= 1 {
        middle = items.len() / 2;
    }
    let hash = items.get(middle).map_or(0, |item| item.hash);
    let continued = middle > 0 && items.get(middle - 1).is_some_and(|item| item.hash == hash);
    (middle, if continued { hash | CONTINUED } else { hash })
}

/// Writes a leaf anew from entries of `old`, and one more.
fn pack(
    handle: &Handle<'_>,
    geo: &Geometry,
    leaf: &BufferRef,
    old: &Snapshot,
    items: &[Item],
    new: Option<&Addition<'_>>,
) -> Result<()> {
    let mut bytes = handle.write(leaf)?;
    let mut packer = Packer::new(&mut bytes, geo);
    let mut fits = true;
    for item in items {
        let entry = dirent::at(old, geo, item.offset)?;
        fits &= packer.push(geo, entry.name, entry.ino, entry.file_type);
    }
    if let Some(Addition { name, entry, .. }) = new {
        fits &= packer.push(geo, name, entry.ino.get(), entry.file_type as u8);
    }
    debug_assert!(
        fits,
        "half of a leaf holds half of its entries and one more"
    );
    packer.finish();
    Ok(())
}

/// Whether the first block starts with "." and ".." in the places that a root keeps them in.
pub(super) fn can_index(dir: &Dir<'_>) -> Result<bool> {
    let first = dir.require(FileBlock::ZERO)?;
    let bytes = first.snapshot();
    let mut entries = dirent::entries(&bytes, dir.geo());
    for (offset, name) in [(0, b".".as_slice()), (12, b"..")] {
        let entry = entries
            .next()
            .transpose()
            .map_err(|e| dir.locate(e, &first))?;
        if !entry
            .is_some_and(|entry| entry.offset == offset && entry.ino != 0 && entry.name == name)
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Turns a directory of one full block into a root over two leaves, and adds a name.
pub(super) fn make_index(
    dirs: &Directories,
    handle: &Handle<'_>,
    ino: InodeNumber,
    inode: &mut Inode,
    name: &[u8],
    entry: Entry,
) -> Result<()> {
    let geo = dirs.geo();
    let dir = Dir::new(dirs, ino, inode);
    let root = dir.require(FileBlock::ZERO)?;
    let bytes = root.snapshot();
    let hasher = Hasher::default_of(geo);
    let mut items = sorted(&bytes, geo, hasher).map_err(|e| dir.locate(e, &root))?;
    items.retain(|item| item.offset > 12);
    let new = Addition {
        name,
        entry,
        hash: hasher.hash(name).hash,
    };
    let live: usize = items.iter().map(|item| item.size).sum();
    let one_leaf = live + dirent::size_of(name.len()) <= dirent::usable(geo) / 4 * 3;
    let mut blocks = blocks::append(dirs, handle, ino, inode, if one_leaf { 1 } else { 2 })?;
    let lower = blocks.take()?;
    if one_leaf {
        pack(handle, geo, &lower.buffer, &bytes, &items, Some(&new))?;
        htree::init_root(
            &mut handle.write(&root)?,
            geo,
            hasher.algorithm().version(),
            lower.at,
        );
    } else {
        let upper = blocks.take()?;
        let (middle, separator) = divide(&items, geo);
        let (low, high) = items.split_at(middle);
        let goes_up = new.hash >= separator & !CONTINUED;
        pack(
            handle,
            geo,
            &lower.buffer,
            &bytes,
            low,
            (!goes_up).then_some(&new),
        )?;
        pack(
            handle,
            geo,
            &upper.buffer,
            &bytes,
            high,
            goes_up.then_some(&new),
        )?;
        let mut bytes = handle.write(&root)?;
        let mut node = htree::init_root(&mut bytes, geo, hasher.algorithm().version(), lower.at);
        node.insert_after(&mut bytes, 0, separator, upper.at);
    }
    inode.flags |= flag::INDEX;
    Ok(())
}

/// Credits for one insert in the worst case.
pub(super) fn insert_credits(dirs: &Directories, inode: &Inode) -> u32 {
    let geo = dirs.geo();
    let new = match inode.has_flag(flag::INDEX) {
        true if may_split_nodes(geo, inode) => blocks::MAX_NEW as u32,
        true => 1,
        false => 2,
    };
    // New blocks, the leaf and the way to it; and what allocating takes.
    new + 1 + MAX_STEPS as u32 + blocks::append_credits(dirs, inode, new)
}

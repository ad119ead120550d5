//! Where each group's bitmaps and inode table go.
//!
//! Source: the kernel's ext4 documentation, "Flexible Block Groups"; the order and the gaps are mke2fs's.
//! Invariants: no two structures share a block.

use super::MakeError;
use super::numbers::Numbers;
use super::space::{Run, Space};

/// The metadata of one group, in blocks of the volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupPlace {
    pub block_bitmap: u64,
    pub inode_bitmap: u64,
    pub inode_table: u64,
}

/// Places the metadata of all groups and marks it in `space`.
pub fn place_groups(numbers: &Numbers, space: &mut Space) -> Result<Vec<GroupPlace>, MakeError> {
    for group in 0..numbers.group_count {
        let len = numbers.base_meta_blocks(group);
        if len > 0 {
            space.mark(Run {
                start: numbers.group_first_block(group),
                len,
            });
        }
    }
    let mut places = Vec::with_capacity(numbers.group_count as usize);
    let flex_size = 1 << numbers.log_groups_per_flex;
    for first in (0..numbers.group_count).step_by(flex_size as usize) {
        let count = flex_size.min(numbers.group_count - first);
        place_flex_group(numbers, space, first, count, &mut places)?;
    }
    Ok(places)
}

/// Block bitmaps together, then inode bitmaps, then inode tables.
fn place_flex_group(
    numbers: &Numbers,
    space: &mut Space,
    first: u32,
    count: u32,
    places: &mut Vec<GroupPlace>,
) -> Result<(), MakeError> {
    let start = numbers.group_first_block(first);
    let last = first + count - 1;
    let end = numbers.group_first_block(last) + numbers.group_blocks(last);
    // A single group in a flex group leaves the room that a full one takes.
    let stride = if count == 1 {
        1 << numbers.log_groups_per_flex
    } else {
        u64::from(count)
    };
    let bytes = numbers.blocks_count * u64::from(numbers.block_size);
    let mut take = |from: u64, len: u64| {
        let at = space
            .first_fit(from, len, end)
            .or_else(|| space.first_fit(start, len, end))
            .or_else(|| space.first_fit(numbers.first_data_block.into(), len, numbers.blocks_count))
            .ok_or(MakeError::TooSmall(bytes))?;
        space.mark(Run { start: at, len });
        Ok::<u64, MakeError>(at)
    };

    let mut group_places = vec![GroupPlace::default(); count as usize];
    let mut from = start;
    let mut base = None;
    for place in &mut group_places {
        place.block_bitmap = take(from, 1)?;
        from = place.block_bitmap + 1;
        base.get_or_insert(place.block_bitmap);
    }
    let mut from = base.unwrap_or(start) + stride;
    let mut base = None;
    for place in &mut group_places {
        place.inode_bitmap = take(from, 1)?;
        from = place.inode_bitmap + 1;
        base.get_or_insert(place.inode_bitmap);
    }
    let mut from = base.unwrap_or(start) + stride;
    for place in &mut group_places {
        place.inode_table = take(from, numbers.itable_blocks.into())?;
        from = place.inode_table + u64::from(numbers.itable_blocks);
    }
    places.extend(group_places);
    Ok(())
}

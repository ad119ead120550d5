//! The clusters of one inode, each counted once although several of its blocks lie in it.
//!
//! Source: the kernel's ext4 documentation, "Bigalloc".
//! Invariants: neighbours in the file that share a cluster count it once; anything else that shares one counts twice,
//! and so shows as claimed more than once.

use crate::alloc::clusters_of;
use crate::map::Map;
use uext4::format::geometry::Geometry;

/// First cluster and count of each run, index blocks included.
pub fn clusters(geo: &Geometry, map: &Map) -> Vec<(u64, u64)> {
    let bits = geo.cluster_ratio_bits;
    let mut all: Vec<(u64, u64)> = Vec::with_capacity(map.data.len() + map.meta.len());
    // The cluster of the file and of the volume that the last run ended in.
    let mut last = None;
    for run in &map.data {
        let (mut first, mut count) = clusters_of(geo, run.pblk, run.len);
        let end = first + count - 1;
        if bits > 0 && last == Some((run.lblk >> bits, first)) {
            first += 1;
            count -= 1;
        }
        last = Some(((run.end() - 1) >> bits, end));
        if count > 0 {
            all.push((first, count));
        }
    }
    for block in &map.meta {
        all.push(clusters_of(geo, *block, 1));
    }
    all
}

/// Clusters that hold blocks at another place than their number in the file asks for, or that part a cluster of the
/// file between two.
pub fn misplaced(geo: &Geometry, map: &Map) -> Vec<u64> {
    let bits = geo.cluster_ratio_bits;
    let mut all = Vec::new();
    if bits == 0 {
        return all;
    }
    let mask = (1_u64 << bits) - 1;
    let mut last = None;
    for run in &map.data {
        let (first, count) = clusters_of(geo, run.pblk, run.len);
        let within = (run.pblk - u64::from(geo.first_data_block)) & mask;
        if within != run.lblk & mask {
            all.extend(first..first + count);
        } else if last.is_some_and(|(file, at)| file == run.lblk >> bits && at != first) {
            all.push(first);
        }
        last = Some(((run.end() - 1) >> bits, first + count - 1));
    }
    all
}

//! How much to allocate beyond what was asked for, so that a growing file stays in one piece.
//!
//! Source: the design's section on the allocator (mballoc's normalisation of requests).
//! Invariants: a plan never covers less than the request, never reaches into the next preallocation of the
//! file and never exceeds a group.

use super::locality::SMALL_FILE_BLOCKS;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Blocks to look for when `len` blocks at `logical` are needed of a file that will have `file_blocks`.
/// `next` is where the file's next preallocation begins.
pub(super) fn length(
    logical: u32,
    len: u32,
    file_blocks: u64,
    block_bits: u32,
    group_blocks: u32,
    next: Option<u32>,
) -> u32 {
    let request_end = u64::from(logical) + u64::from(len);
    let size = file_blocks.max(request_end);
    if size <= SMALL_FILE_BLOCKS {
        return len;
    }
    let end = window_end(u64::from(logical), u64::from(len), size, block_bits);
    let end = end.max(request_end).min(u64::from(u32::MAX));
    let end = next
        .map_or(end, |next| end.min(u64::from(next)))
        .max(request_end);
    let wanted = (end - u64::from(logical)).min(u64::from(group_blocks));
    u32::try_from(wanted).unwrap_or(len).max(len)
}

/// The end, in blocks, of the window around `logical` that a file of `size` blocks is predicted to fill.
fn window_end(logical: u64, len: u64, size: u64, block_bits: u32) -> u64 {
    let bytes = size << block_bits;
    let aligned = |unit: u64| {
        let unit = (unit >> block_bits).max(1);
        (logical / unit + 1) * unit
    };
    if bytes <= MIB {
        return bytes.next_power_of_two().max(16 * KIB) >> block_bits;
    }
    if bytes <= 4 * MIB {
        aligned(2 * MIB)
    } else if bytes <= 8 * MIB {
        aligned(4 * MIB)
    } else if len << block_bits <= 8 * MIB {
        aligned(8 * MIB)
    } else {
        logical + len
    }
}

#[cfg(test)]
mod tests {
    use super::length;

    #[test]
    fn small_files_get_what_they_ask_for() {
        assert_eq!(length(0, 3, 3, 12, 32768, None), 3);
        assert_eq!(length(12, 4, 16, 12, 32768, None), 4);
    }

    #[test]
    fn growing_files_get_windows_of_growing_size() {
        assert_eq!(length(16, 1, 17, 12, 32768, None), 16);
        assert_eq!(length(200, 8, 208, 12, 32768, None), 56);
        assert_eq!(length(300, 8, 308, 12, 32768, None), 212);
        assert_eq!(length(1100, 8, 1108, 12, 32768, None), 948);
        assert_eq!(length(4096, 256, 4352, 12, 32768, None), 2048);
        assert_eq!(length(0, 4096, 4096, 12, 32768, None), 4096);
    }

    #[test]
    fn a_plan_ends_at_the_next_preallocation_and_at_the_group() {
        assert_eq!(length(4096, 16, 9000, 12, 32768, Some(4100)), 16);
        assert_eq!(length(4096, 16, 9000, 12, 32768, Some(4130)), 34);
        assert_eq!(length(0, 16, 1 << 30, 10, 1000, None), 1000);
        assert_eq!(length(u32::MAX - 3, 3, 1 << 32, 12, 32768, None), 3);
    }
}

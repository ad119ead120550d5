//! Runs in bitmaps, a 64-bit word at a time.
//!
//! Source: ext4's bitmaps: bit n is bit n % 8 of byte n / 8.
//! Invariants: what lies beyond the slice counts as clear and is never written.

pub(super) fn get(bytes: &[u8], bit: u32) -> bool {
    bytes
        .get(bit as usize / 8)
        .is_some_and(|byte| byte & (1 << (bit % 8)) != 0)
}

pub(super) fn put(bytes: &mut [u8], bit: u32, value: bool) {
    if let Some(byte) = bytes.get_mut(bit as usize / 8) {
        let mask = 1 << (bit % 8);
        if value {
            *byte |= mask;
        } else {
            *byte &= !mask;
        }
    }
}

/// Writes bits `start..start + len`.
pub(super) fn fill(bytes: &mut [u8], start: u32, len: u32, value: bool) {
    let end = start.saturating_add(len);
    let mut bit = start;
    while bit < end && !bit.is_multiple_of(8) {
        put(bytes, bit, value);
        bit += 1;
    }
    let whole = bit as usize / 8..(end as usize / 8).min(bytes.len());
    if whole.start < whole.end {
        bytes[whole.clone()].fill(if value { 0xff } else { 0 });
        bit = whole.end as u32 * 8;
    }
    while bit < end {
        put(bytes, bit, value);
        bit += 1;
    }
}

/// The first bit in `from..end` that is `value`.
pub(super) fn next(bytes: &[u8], from: u32, end: u32, value: bool) -> Option<u32> {
    let flip = if value { 0 } else { u64::MAX };
    let mut bit = from;
    while bit < end {
        let word = (word(bytes, bit / 64) ^ flip) & (u64::MAX << (bit % 64));
        let base = bit / 64 * 64;
        if word != 0 {
            let found = base + word.trailing_zeros();
            return (found < end).then_some(found);
        }
        bit = base.saturating_add(64);
    }
    None
}

/// Whether all of `start..start + len` are `value`.
pub(super) fn all(bytes: &[u8], start: u32, len: u32, value: bool) -> bool {
    next(bytes, start, start.saturating_add(len), !value).is_none()
}

/// How many of the first `size` bits are set.
pub(super) fn count(bytes: &[u8], size: u32) -> u32 {
    (0..size.div_ceil(64))
        .map(|index| {
            let left = size - index * 64;
            let mask = if left < 64 { (1 << left) - 1 } else { u64::MAX };
            (word(bytes, index) & mask).count_ones()
        })
        .sum()
}

pub(super) fn word(bytes: &[u8], index: u32) -> u64 {
    let at = index as usize * 8;
    match bytes.get(at..at + 8).and_then(|w| w.first_chunk::<8>()) {
        Some(chunk) => u64::from_le_bytes(*chunk),
        None => {
            let mut chunk = [0; 8];
            let rest = bytes.get(at..).unwrap_or(&[]);
            chunk[..rest.len()].copy_from_slice(rest);
            u64::from_le_bytes(chunk)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_and_counts_across_words_and_the_end() {
        let mut bytes = vec![0u8; 27];
        fill(&mut bytes, 5, 150, true);
        assert_eq!(count(&bytes, 216), 150);
        assert_eq!(count(&bytes, 100), 95);
        assert_eq!(next(&bytes, 0, 216, true), Some(5));
        assert_eq!(next(&bytes, 5, 216, false), Some(155));
        assert_eq!(next(&bytes, 5, 155, false), None);
        assert_eq!(next(&bytes, 155, 216, true), None);
        assert!(all(&bytes, 5, 150, true) && !all(&bytes, 4, 150, true));
        fill(&mut bytes, 64, 64, false);
        assert_eq!(next(&bytes, 64, 216, true), Some(128));
        fill(&mut bytes, 0, 216, true);
        assert!(bytes.iter().all(|&b| b == 0xff));
    }
}

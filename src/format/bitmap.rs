//! Runs in bitmaps, a 64-bit word at a time: bit n is bit n % 8 of byte n / 8, in the file system's own bitmaps set for
//! "in use".
//!
//! Source: the kernel's ext4 documentation, "Block and inode Bitmaps".
//! Invariants: searches and counts never look at bits at or behind their end; what lies behind the bytes counts as set and is
//! never written.

/// Whether bit `index` is set; bits behind the bytes are.
pub fn get(bytes: &[u8], index: u32) -> bool {
    let (byte, mask) = place(index);
    bytes.get(byte).is_none_or(|byte| byte & mask != 0)
}

pub fn put(bytes: &mut [u8], index: u32, value: bool) {
    let (byte, mask) = place(index);
    if let Some(byte) = bytes.get_mut(byte) {
        if value {
            *byte |= mask;
        } else {
            *byte &= !mask;
        }
    }
}

/// Writes bits `start..start + len`.
pub fn fill(bytes: &mut [u8], start: u32, len: u32, value: bool) {
    let end = start.saturating_add(len);
    let mut bit = start;
    while bit < end && !bit.is_multiple_of(8) {
        put(bytes, bit, value);
        bit = bit.saturating_add(1);
    }
    let (first, last) = (place(bit).0, place(end).0.min(bytes.len()));
    if let Some(whole) = bytes.get_mut(first..last).filter(|whole| !whole.is_empty()) {
        whole.fill(if value { 0xff } else { 0 });
        bit = u32::try_from(last.saturating_mul(8)).unwrap_or(u32::MAX);
    }
    while bit < end {
        put(bytes, bit, value);
        bit = bit.saturating_add(1);
        if place(bit).0 > bytes.len() {
            break;
        }
    }
}

/// The first bit in `from..end` that is `value`.
pub fn next(bytes: &[u8], from: u32, end: u32, value: bool) -> Option<u32> {
    let flip = if value { 0 } else { u64::MAX };
    let mut base = from & !63;
    // The first word without the bits before `from`.
    let mut keep = !low_bits(from & 63);
    while base < end {
        let hits = (word(bytes, base) ^ flip) & keep;
        if hits != 0 {
            let found = base.saturating_add(hits.trailing_zeros());
            return (found < end).then_some(found);
        }
        keep = u64::MAX;
        base = base.checked_add(64)?;
    }
    None
}

/// Whether all of `start..start + len` are `value`.
pub fn all(bytes: &[u8], start: u32, len: u32, value: bool) -> bool {
    next(bytes, start, start.saturating_add(len), !value).is_none()
}

/// How many of the first `end` bits are set.
pub fn count(bytes: &[u8], end: u32) -> u32 {
    let mut ones = 0_u32;
    let mut from = 0;
    while from < end {
        let left = end.saturating_sub(from).min(64);
        ones = ones.saturating_add((word(bytes, from) & low_bits(left)).count_ones());
        from = from.saturating_add(64);
    }
    ones
}

/// The 64 bits from `at` (a multiple of 64); bits behind the bytes are set.
fn word(bytes: &[u8], at: u32) -> u64 {
    let rest = bytes.get(place(at).0..).unwrap_or_default();
    if let Some(chunk) = rest.first_chunk::<8>() {
        return u64::from_le_bytes(*chunk);
    }
    let mut chunk = [0xff; 8];
    for (to, from) in chunk.iter_mut().zip(rest) {
        *to = *from;
    }
    u64::from_le_bytes(chunk)
}

/// The lowest `count` bits.
fn low_bits(count: u32) -> u64 {
    1_u64
        .checked_shl(count)
        .map_or(u64::MAX, |bit| bit.wrapping_sub(1))
}

fn place(index: u32) -> (usize, u8) {
    let byte = usize::try_from(index / 8).unwrap_or(usize::MAX);
    (byte, 1 << (index % 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_a_bit_by_bit_model() {
        let bits = 333_u32;
        let mut bytes = vec![0_u8; 42];
        let mut model = vec![false; 336];
        let mut random = 12345_u32;
        for _ in 0..500 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let start = (random >> 8) % bits;
            let len = (random >> 20) % 90;
            let on = random & 64 != 0;
            let end = (start + len).min(336);
            fill(&mut bytes, start, len, on);
            model[start as usize..end as usize].fill(on);
            put(&mut bytes, len, !on);
            model[len as usize] = !on;
            for (index, expected) in model.iter().enumerate() {
                assert_eq!(get(&bytes, index as u32), *expected);
            }
            let ones = model[..bits as usize].iter().filter(|bit| **bit).count();
            assert_eq!(count(&bytes, bits), ones as u32);
            for value in [false, true] {
                let found = (start..bits).find(|&bit| model[bit as usize] == value);
                assert_eq!(next(&bytes, start, bits, value), found);
                let same = model[start as usize..end as usize]
                    .iter()
                    .all(|&bit| bit == value);
                assert_eq!(all(&bytes, start, end - start, value), same);
            }
        }
    }

    #[test]
    fn what_lies_behind_the_bytes_is_set_and_never_written() {
        let mut bytes = [0_u8; 4];
        fill(&mut bytes, 13, u32::MAX, true);
        assert_eq!(bytes, [0, 0xe0, 0xff, 0xff]);
        fill(&mut bytes, 20, 1000, false);
        assert_eq!(bytes, [0, 0xe0, 0x0f, 0]);
        put(&mut bytes, 32, true);
        assert!(get(&bytes, 32) && all(&bytes, 32, 100, true));
        assert_eq!(next(&bytes, 20, 1000, true), Some(32));
        assert_eq!(count(&bytes, 64), 7 + 32);
    }
}

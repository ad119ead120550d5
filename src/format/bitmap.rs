//! Bitmaps of blocks and inodes: bit n is bit n % 8 of byte n / 8, set for "in use".
//!
//! Source: the kernel's ext4 documentation, "Block and inode Bitmaps".
//! Invariants: searches and counts never look at bits at or behind `end`; what lies behind the bytes counts as
//! in use. Searches go by 64-bit words.

/// Whether bit `index` is set; bits behind the bytes are.
pub fn get(bytes: &[u8], index: u32) -> bool {
    let (byte, mask) = place(index);
    bytes.get(byte).is_none_or(|byte| byte & mask != 0)
}

pub fn set(bytes: &mut [u8], index: u32) {
    set_run(bytes, index, 1);
}

pub fn clear(bytes: &mut [u8], index: u32) {
    clear_run(bytes, index, 1);
}

/// Sets `len` bits from `start` on.
pub fn set_run(bytes: &mut [u8], start: u32, len: u32) {
    change_run(bytes, start, len, |byte, mask| *byte |= mask);
}

/// Clears `len` bits from `start` on.
pub fn clear_run(bytes: &mut [u8], start: u32, len: u32) {
    change_run(bytes, start, len, |byte, mask| *byte &= !mask);
}

/// The first clear bit in `from..end`.
pub fn next_zero(bytes: &[u8], from: u32, end: u32) -> Option<u32> {
    search(bytes, from, end, u64::MAX)
}

/// The first set bit in `from..end`.
pub fn next_one(bytes: &[u8], from: u32, end: u32) -> Option<u32> {
    search(bytes, from, end, 0)
}

/// Whether all bits of a run are clear.
pub fn is_run_clear(bytes: &[u8], start: u32, len: u32) -> bool {
    next_one(bytes, start, start.saturating_add(len)).is_none()
}

/// Whether all bits of a run are set.
pub fn is_run_set(bytes: &[u8], start: u32, len: u32) -> bool {
    next_zero(bytes, start, start.saturating_add(len)).is_none()
}

/// How many of the first `end` bits are clear.
pub fn count_zeros(bytes: &[u8], end: u32) -> u32 {
    let mut ones = 0_u32;
    let mut from = 0;
    while from < end {
        let left = end.saturating_sub(from).min(64);
        ones = ones.saturating_add((word(bytes, from) & low_bits(left)).count_ones());
        from = from.saturating_add(64);
    }
    end.saturating_sub(ones)
}

/// Sets every bit from `end` to the end of the bytes: bits that stand for nothing are in use.
pub fn set_padding(bytes: &mut [u8], end: u32) {
    let total = u32::try_from(bytes.len().saturating_mul(8)).unwrap_or(u32::MAX);
    set_run(bytes, end, total.saturating_sub(end));
}

/// Runs of clear bits in `from..end`, as (start, length).
pub fn zero_runs(bytes: &[u8], from: u32, end: u32) -> impl Iterator<Item = (u32, u32)> {
    let mut at = from;
    std::iter::from_fn(move || {
        let start = next_zero(bytes, at, end)?;
        at = next_one(bytes, start, end).unwrap_or(end);
        Some((start, at.saturating_sub(start)))
    })
}

fn search(bytes: &[u8], from: u32, end: u32, flip: u64) -> Option<u32> {
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

fn change_run(bytes: &mut [u8], start: u32, len: u32, change: impl Fn(&mut u8, u8)) {
    let end = start.saturating_add(len);
    let mut at = start;
    while at < end {
        let (byte, _) = place(at);
        let Some(byte) = bytes.get_mut(byte) else {
            return;
        };
        let in_byte = end.saturating_sub(at & !7).min(8);
        let upto = u8::MAX
            .checked_shr(8_u32.saturating_sub(in_byte))
            .unwrap_or(0);
        change(byte, upto & (u8::MAX << (at % 8)));
        at = (at & !7).saturating_add(8);
    }
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
            if on {
                set_run(&mut bytes, start, len)
            } else {
                clear_run(&mut bytes, start, len)
            }
            model[start as usize..end as usize].fill(on);
            for (index, expected) in model.iter().enumerate() {
                assert_eq!(get(&bytes, index as u32), *expected);
            }
            let zeros = model[..bits as usize].iter().filter(|bit| !**bit).count();
            assert_eq!(count_zeros(&bytes, bits), zeros as u32);
            let next = |wanted: bool| (start..bits).find(|&bit| model[bit as usize] == wanted);
            assert_eq!(next_zero(&bytes, start, bits), next(false));
            assert_eq!(next_one(&bytes, start, bits), next(true));
            let total: u32 = zero_runs(&bytes, 0, bits).map(|(_, len)| len).sum();
            assert_eq!(total, zeros as u32);
        }
    }

    #[test]
    fn padding_ends_with_the_bytes() {
        let mut bytes = [0_u8; 4];
        set_padding(&mut bytes, 13);
        assert_eq!(bytes, [0, 0xe0, 0xff, 0xff]);
        assert!(get(&bytes, 32));
        assert_eq!(next_zero(&bytes, 13, 1000), None);
    }
}

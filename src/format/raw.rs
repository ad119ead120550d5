//! Fixed-width integers at fixed offsets of a byte slice.
//!
//! Source: ext4 is little-endian, jbd2 big-endian.
//! Invariants: a read beyond the slice gives zero and a write beyond it does nothing, so that no caller
//! can panic; every parser checks the length of what it is given first.

pub fn u8_at(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

macro_rules! accessors {
    ($get:ident, $put:ident, $int:ty, $size:literal, $from:ident, $to:ident) => {
        #[inline]
        pub fn $get(bytes: &[u8], at: usize) -> $int {
            bytes
                .get(at..)
                .and_then(|rest| rest.first_chunk::<$size>())
                .map_or(0, |chunk| <$int>::$from(*chunk))
        }

        #[inline]
        pub fn $put(bytes: &mut [u8], at: usize, value: $int) {
            if let Some(chunk) = bytes
                .get_mut(at..)
                .and_then(|rest| rest.first_chunk_mut::<$size>())
            {
                *chunk = value.$to();
            }
        }
    };
}

accessors!(le16, put_le16, u16, 2, from_le_bytes, to_le_bytes);
accessors!(le32, put_le32, u32, 4, from_le_bytes, to_le_bytes);
accessors!(le64, put_le64, u64, 8, from_le_bytes, to_le_bytes);
accessors!(be16, put_be16, u16, 2, from_be_bytes, to_be_bytes);
accessors!(be32, put_be32, u32, 4, from_be_bytes, to_be_bytes);
accessors!(be64, put_be64, u64, 8, from_be_bytes, to_be_bytes);

/// A 64-bit value stored as two separate 32-bit halves.
pub fn join(lo: u32, hi: u32) -> u64 {
    u64::from(lo) | (u64::from(hi) << 32)
}

/// The lower and upper halves of a 64-bit value.
pub fn split(value: u64) -> (u32, u32) {
    let bytes = value.to_le_bytes();
    (le32(&bytes, 0), le32(&bytes, 4))
}

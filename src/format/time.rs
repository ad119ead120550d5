//! Inode times: 34-bit seconds and nanoseconds.
//!
//! Source: the kernel's ext4 documentation, "Inode Timestamps".
//! Invariants: encoding what was decoded gives the same bits; what does not fit is clamped to the nearest time.

/// Seconds since 1970 (may be negative) and nanoseconds below 10^9.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    pub seconds: i64,
    pub nanoseconds: u32,
}

const NANOSECONDS: u32 = 1_000_000_000;
const FIRST: i64 = -(1 << 31);
/// The last second that 34 bits hold: in the year 2446.
const LAST: i64 = 0x3_7fff_ffff;

impl Timestamp {
    /// From the 32-bit seconds and, where the inode has room, the extra word: 2 epoch bits, 30 bits of nanoseconds.
    pub fn decode(seconds: u32, extra: Option<u32>) -> Self {
        let base = i64::from(seconds.cast_signed());
        match extra {
            None => Self {
                seconds: base,
                nanoseconds: 0,
            },
            Some(extra) => Self {
                seconds: base.saturating_add(i64::from(extra & 3) << 32),
                nanoseconds: (extra >> 2).min(NANOSECONDS.saturating_sub(1)),
            },
        }
    }

    /// The 32-bit seconds and the extra word. Without room for the latter, `clamp` to 32 bits first.
    pub fn encode(self) -> (u32, u32) {
        let seconds = self.seconds.clamp(FIRST, LAST);
        let [a, b, c, d, ..] = seconds.to_le_bytes();
        let low = u32::from_le_bytes([a, b, c, d]);
        let epoch = seconds.saturating_sub(i64::from(low.cast_signed())) >> 32;
        let epoch = u32::try_from(epoch & 3).unwrap_or(0);
        (low, epoch | (self.nanoseconds << 2))
    }

    /// The nearest time that an inode with extra words can hold; as in the kernel, nothing finer than a second at the ends.
    pub fn clamp_to_34_bits(self) -> Self {
        let inside = self.seconds > FIRST && self.seconds < LAST;
        let nanoseconds = if inside { self.nanoseconds } else { 0 };
        Self {
            seconds: self.seconds.clamp(FIRST, LAST),
            nanoseconds,
        }
    }

    /// The nearest time that an inode without extra words can hold.
    pub fn clamp_to_32_bits(self) -> Self {
        Self {
            seconds: self.seconds.clamp(FIRST, i64::from(i32::MAX)),
            nanoseconds: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_survives() {
        for seconds in [
            FIRST,
            -1,
            0,
            1,
            i64::from(i32::MAX),
            1 << 31,
            1 << 32,
            3 << 32,
            LAST,
        ] {
            let time = Timestamp {
                seconds,
                nanoseconds: 123_456_789,
            };
            let (low, extra) = time.encode();
            assert_eq!(Timestamp::decode(low, Some(extra)), time);
        }
    }

    #[test]
    fn times_out_of_range_are_clamped() {
        let (low, extra) = Timestamp {
            seconds: i64::MAX,
            nanoseconds: 0,
        }
        .encode();
        assert_eq!(Timestamp::decode(low, Some(extra)).seconds, LAST);
        let edge = |seconds| {
            Timestamp {
                seconds,
                nanoseconds: 5,
            }
            .clamp_to_34_bits()
        };
        assert_eq!(
            edge(i64::MIN),
            Timestamp {
                seconds: FIRST,
                nanoseconds: 0
            }
        );
        assert_eq!(
            edge(LAST),
            Timestamp {
                seconds: LAST,
                nanoseconds: 0
            }
        );
        assert_eq!(edge(LAST - 1).nanoseconds, 5);
    }
}

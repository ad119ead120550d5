//! The hash of a name in an indexed directory: legacy, half-MD4 and TEA, with signed or unsigned characters.
//!
//! Source: the kernel's ext4 documentation, "Hash Tree Directories" (`dx_hash` versions 0 to 5); MD4 is RFC 1320, TEA is
//! Wheeler and Needham's cipher.
//! Invariants: the lowest bit of a hash is clear (an index entry uses it for "continued from the leaf before"), and no
//! hash is 0xfffffffe, which stands for the end of a directory.

use crate::format::geometry::Geometry;
use crate::format::raw;
use crate::ids::DirHash;

/// `dx_root_info.hash_version` with the signedness of characters folded in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Algorithm {
    Legacy,
    HalfMd4,
    Tea,
}

/// Everything that a hash depends on besides the name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hasher {
    algorithm: Algorithm,
    unsigned: bool,
    seed: [u32; 4],
}

/// MD4's initial state: the seed of a file system that has none.
const DEFAULT_SEED: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

/// The end of a directory in hash order.
const END: u32 = 0xffff_fffe;

impl Algorithm {
    /// From `hash_version` in a directory's root or in the superblock; `None` for one that we do not know (SipHash).
    pub fn from_version(version: u8) -> Option<Self> {
        match version {
            0 => Some(Self::Legacy),
            1 => Some(Self::HalfMd4),
            2 => Some(Self::Tea),
            _ => None,
        }
    }

    pub fn version(self) -> u8 {
        match self {
            Self::Legacy => 0,
            Self::HalfMd4 => 1,
            Self::Tea => 2,
        }
    }
}

impl Hasher {
    /// The hash of directories with `version` in their root.
    pub fn new(geo: &Geometry, version: u8) -> Option<Self> {
        Some(Self::with(
            Algorithm::from_version(version)?,
            geo.hash_unsigned,
            geo.hash_seed,
        ))
    }

    /// The hash that new indexes get. An unknown default counts as half-MD4.
    pub fn default_of(geo: &Geometry) -> Self {
        let algorithm = Algorithm::from_version(geo.def_hash_version).unwrap_or(Algorithm::HalfMd4);
        Self::with(algorithm, geo.hash_unsigned, geo.hash_seed)
    }

    pub fn with(algorithm: Algorithm, unsigned: bool, seed: [u32; 4]) -> Self {
        let seed = if seed == [0; 4] { DEFAULT_SEED } else { seed };
        Self {
            algorithm,
            unsigned,
            seed,
        }
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Hash and minor hash of a name.
    pub fn hash(&self, name: &[u8]) -> DirHash {
        let (hash, minor) = match self.algorithm {
            Algorithm::Legacy => (self.legacy(name), 0),
            Algorithm::HalfMd4 => self.half_md4(name),
            Algorithm::Tea => self.tea(name),
        };
        let even = hash & !1;
        DirHash {
            hash: if even == END {
                END.wrapping_sub(2)
            } else {
                even
            },
            minor,
        }
    }

    /// A second, independent order among names of equal hash, for hashes without a minor part.
    pub fn tie_break(&self, name: &[u8], minor: u32) -> u32 {
        match self.algorithm {
            Algorithm::Legacy => self.half_md4(name).0,
            Algorithm::HalfMd4 | Algorithm::Tea => minor,
        }
    }

    fn character(&self, byte: u8) -> u32 {
        if self.unsigned {
            u32::from(byte)
        } else {
            i32::from(byte.cast_signed()).cast_unsigned()
        }
    }

    fn legacy(&self, name: &[u8]) -> u32 {
        let mut last = 0x12a3_fe2d_u32;
        let mut before = 0x37ab_e8f9_u32;
        for &byte in name {
            let mixed = before.wrapping_add(last ^ self.character(byte).wrapping_mul(7_152_373));
            let folded = if mixed & 0x8000_0000 == 0 {
                mixed
            } else {
                mixed.wrapping_sub(0x7fff_ffff)
            };
            before = last;
            last = folded;
        }
        last.wrapping_shl(1)
    }

    fn half_md4(&self, name: &[u8]) -> (u32, u32) {
        let mut state = self.seed;
        let mut rest = name;
        while !rest.is_empty() {
            half_md4_block(&mut state, &self.words::<8>(rest));
            rest = rest.get(32..).unwrap_or(&[]);
        }
        let [_, hash, minor, _] = state;
        (hash, minor)
    }

    fn tea(&self, name: &[u8]) -> (u32, u32) {
        let [mut hash, mut minor, _, _] = self.seed;
        let mut rest = name;
        while !rest.is_empty() {
            let (left, right) = tea_block(hash, minor, &self.words::<4>(rest));
            hash = hash.wrapping_add(left);
            minor = minor.wrapping_add(right);
            rest = rest.get(16..).unwrap_or(&[]);
        }
        (hash, minor)
    }

    /// The first N words of what is left of a name, characters shifted in from the right; a word that is not full
    /// starts with copies of the length, and so are all words beyond the name.
    fn words<const N: usize>(&self, rest: &[u8]) -> [u32; N] {
        let length = u32::try_from(rest.len()).unwrap_or(u32::MAX);
        let twice = length | length.wrapping_shl(8);
        let pad = twice | twice.wrapping_shl(16);
        let mut words = [pad; N];
        for (word, chunk) in words.iter_mut().zip(rest.chunks(4)) {
            for &byte in chunk {
                *word = word.wrapping_shl(8).wrapping_add(self.character(byte));
            }
        }
        words
    }
}

/// Seeds are stored as the bytes of a UUID, four little-endian words.
pub fn seed_from_bytes(bytes: &[u8; 16]) -> [u32; 4] {
    [
        raw::le32(bytes, 0),
        raw::le32(bytes, 4),
        raw::le32(bytes, 8),
        raw::le32(bytes, 12),
    ]
}

/// MD4's compression with half of its steps: eight in each round.
fn half_md4_block(state: &mut [u32; 4], input: &[u32; 8]) {
    let [i0, i1, i2, i3, i4, i5, i6, i7] = *input;
    let choose = |x: u32, y: u32, z: u32| z ^ (x & (y ^ z));
    let majority = |x: u32, y: u32, z: u32| (x & y).wrapping_add((x ^ y) & z);
    let parity = |x: u32, y: u32, z: u32| x ^ y ^ z;
    let mixed = md4_round(
        *state,
        choose,
        0,
        [i0, i1, i2, i3, i4, i5, i6, i7],
        [3, 7, 11, 19],
    );
    let mixed = md4_round(
        mixed,
        majority,
        0x5a82_7999,
        [i1, i3, i5, i7, i0, i2, i4, i6],
        [3, 5, 9, 13],
    );
    let mixed = md4_round(
        mixed,
        parity,
        0x6ed9_eba1,
        [i3, i7, i2, i6, i1, i5, i0, i4],
        [3, 9, 11, 15],
    );
    for (word, add) in state.iter_mut().zip(mixed) {
        *word = word.wrapping_add(add);
    }
}

fn md4_round(
    state: [u32; 4],
    function: impl Fn(u32, u32, u32) -> u32,
    constant: u32,
    input: [u32; 8],
    shifts: [u32; 4],
) -> [u32; 4] {
    let [mut a, mut b, mut c, mut d] = state;
    for (word, shift) in input.into_iter().zip(shifts.into_iter().cycle()) {
        let mixed = a
            .wrapping_add(function(b, c, d))
            .wrapping_add(word)
            .wrapping_add(constant)
            .rotate_left(shift);
        (a, b, c, d) = (d, mixed, b, c);
    }
    [a, b, c, d]
}

/// 16 cycles of TEA over (left, right) with the input as the key.
fn tea_block(left: u32, right: u32, key: &[u32; 4]) -> (u32, u32) {
    let [k0, k1, k2, k3] = *key;
    let half = |value: u32, first: u32, second: u32, sum: u32| {
        value.wrapping_shl(4).wrapping_add(first)
            ^ value.wrapping_add(sum)
            ^ value.wrapping_shr(5).wrapping_add(second)
    };
    let (mut left, mut right, mut sum) = (left, right, 0_u32);
    for _ in 0..16 {
        sum = sum.wrapping_add(0x9e37_79b9);
        left = left.wrapping_add(half(right, k0, k1, sum));
        right = right.wrapping_add(half(left, k2, k3, sum));
    }
    (left, right)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::ffi::OsStrExt;
    use std::process::Command;

    const UUID: &str = "12345678-9abc-4def-8123-456789abcdef";
    const UUID_BYTES: [u8; 16] = [
        0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0x4d, 0xef, 0x81, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd,
        0xef,
    ];

    /// Names without anything that debugfs' command line would take apart, of every length.
    fn names() -> Vec<Vec<u8>> {
        let mut random = 1_u32;
        let mut byte = |any: bool| {
            random = random.wrapping_mul(1_103_515_245).wrapping_add(12345);
            let value = u8::try_from(random >> 24).unwrap();
            if any && value >= 0x80 {
                value
            } else {
                b'a' + value % 26
            }
        };
        let mut names = Vec::new();
        for length in 1..=255 {
            names.push((0..length).map(|_| byte(false)).collect());
            names.push((0..length).map(|_| byte(true)).collect());
        }
        names
    }

    #[test]
    fn hashes_agree_with_debugfs() {
        let names = names();
        for seeded in [false, true] {
            let mut commands = tempfile::NamedTempFile::new().unwrap();
            for version in 0..6 {
                for name in &names {
                    let seed = if seeded {
                        format!("-s {UUID} ")
                    } else {
                        String::new()
                    };
                    write!(commands, "dx_hash -h {version} {seed}").unwrap();
                    commands.write_all(name).unwrap();
                    commands.write_all(b"\n").unwrap();
                }
            }
            let output = Command::new("debugfs")
                .arg("-f")
                .arg(std::ffi::OsStr::from_bytes(
                    commands.path().as_os_str().as_bytes(),
                ))
                .output()
                .expect("debugfs runs");
            let mut checked = 0;
            let mut lines = output
                .stdout
                .split(|&byte| byte == b'\n')
                .filter(|line| line.starts_with(b"Hash of "));
            for version in 0..6_u8 {
                let seed = if seeded {
                    seed_from_bytes(&UUID_BYTES)
                } else {
                    [0; 4]
                };
                let hasher = Hasher::with(
                    Algorithm::from_version(version % 3).unwrap(),
                    version >= 3,
                    seed,
                );
                for name in &names {
                    let found = hasher.hash(name);
                    let expected = format!(" is {:#x} (minor {:#x})", found.hash, found.minor);
                    let line = lines.next().expect("a line for each name");
                    assert!(
                        line.ends_with(expected.as_bytes()),
                        "{} {expected}",
                        String::from_utf8_lossy(line)
                    );
                    checked += 1;
                }
            }
            assert_eq!(checked, 6 * 510);
        }
    }

    #[test]
    fn unknown_versions_have_no_hash() {
        assert_eq!(Algorithm::from_version(6), None);
    }
}

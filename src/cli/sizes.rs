//! How much memory and how many workers a mount gets.
//!
//! Source: the design's section on memory (floor, defaults, fixed overhead).
//! Invariants: the cap is never below the floor.

use super::failure::{Failure, Outcome};
use super::options::MountOptions;
use crate::memory::sizes::{SMALL_CAP, SMALL_WRITE, floor};

const MIB: u64 = 1 << 20;
const LARGE_WRITE: u32 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// The cap, in bytes.
    pub(super) memory: u64,
    pub(super) threads: usize,
    /// Bytes of the largest request.
    pub(super) max_write: u32,
}

/// `block_size` is the image's, `ram` the machine's, both in bytes.
pub(super) fn choose(
    options: &MountOptions,
    block_size: u64,
    ram: u64,
    cores: usize,
) -> Outcome<Sizes> {
    let least = floor(options.threads.unwrap_or(4), block_size, SMALL_WRITE);
    let memory = options
        .memory
        .unwrap_or_else(|| (ram / 16).min(1 << 30).max(2 * least));
    let usual = if memory < 64 * MIB {
        4
    } else {
        cores.clamp(4, 16)
    };
    let threads = options.threads.unwrap_or(usual);
    let floor = floor(threads, block_size, SMALL_WRITE);
    if memory < floor {
        let floor = floor.div_ceil(MIB);
        return Err(Failure::usage(format!(
            "{memory} bytes of memory are too few: {threads} threads and blocks of {block_size} bytes need {floor}M"
        )));
    }
    let max_write = if memory < SMALL_CAP {
        SMALL_WRITE
    } else {
        LARGE_WRITE
    };
    Ok(Sizes {
        memory,
        threads,
        max_write,
    })
}

/// The machine's memory in bytes.
pub(super) fn ram() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram as u64).saturating_mul(u64::from(info.mem_unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_follow_the_machine() {
        let options = MountOptions::default();
        let sizes = choose(&options, 4096, 24 << 30, 2).unwrap();
        assert_eq!(
            sizes,
            Sizes {
                memory: 1 << 30,
                threads: 4,
                max_write: LARGE_WRITE
            }
        );
        let small = choose(&options, 4096, 64 * MIB, 8).unwrap();
        assert_eq!((small.threads, small.max_write), (4, SMALL_WRITE));
        assert!(small.memory >= 2 * floor(4, 4096, SMALL_WRITE));
    }

    #[test]
    fn too_little_memory_names_the_floor() {
        let options = MountOptions {
            memory: Some(MIB),
            ..MountOptions::default()
        };
        let failure = choose(&options, 4096, 24 << 30, 2).unwrap_err();
        assert!(failure.message.ends_with("need 9M"), "{failure:?}");
        let enough = MountOptions {
            memory: Some(9 * MIB),
            ..MountOptions::default()
        };
        choose(&enough, 4096, 24 << 30, 2).unwrap();
    }
}

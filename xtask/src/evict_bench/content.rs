//! What is written, so that it can be known again: every block says whose it is, which life of the file's, and where.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

pub const BLOCK: usize = 4096;

/// The next number of a seeded sequence (splitmix64).
pub fn mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Fills `bytes`, which begin at block `first` of the file, for its life `life`.
pub fn write(bytes: &mut [u8], file: u64, life: u64, first: u64) {
    for (number, block) in bytes.chunks_mut(BLOCK).enumerate() {
        let mut seed = file << 40 ^ life << 24 ^ (first + number as u64);
        let mut word = mix(&mut seed);
        for part in block.chunks_mut(8) {
            word = word.rotate_left(7).wrapping_add(0x1234_5677);
            part.copy_from_slice(&word.to_le_bytes()[..part.len()]);
        }
    }
}

/// Whether the file is exactly what was written: `length` bytes of that life.
pub fn check(path: &Path, file: u64, life: u64, length: u64) -> Result<(), String> {
    let fail = |what: &dyn std::fmt::Display| Err(format!("{}: {what}", path.display()));
    let open = || -> std::io::Result<_> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        Ok((file, size))
    };
    let (open, size) = match open() {
        Ok(opened) => opened,
        Err(e) => return fail(&e),
    };
    if size != length {
        return fail(&format_args!("{size} bytes, {length} were written"));
    }
    let (mut found, mut expected) = (vec![0; 256 << 10], vec![0; 256 << 10]);
    let mut at = 0;
    while at < length {
        let count = usize::try_from(length - at)
            .unwrap_or(usize::MAX)
            .min(found.len());
        if let Err(e) = open.read_exact_at(&mut found[..count], at) {
            return fail(&e);
        }
        write(&mut expected[..count], file, life, at / BLOCK as u64);
        if let Some(wrong) = (0..count).find(|&index| found[index] != expected[index]) {
            return fail(&format_args!(
                "byte {} is not what was written",
                at + wrong as u64
            ));
        }
        at += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_what_was_written_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut bytes = vec![0; 10_000];
        write(&mut bytes, 7, 2, 0);
        std::fs::write(&path, &bytes).unwrap();
        check(&path, 7, 2, 10_000).unwrap();
        assert!(check(&path, 7, 2, 9_999).is_err());
        assert!(check(&path, 7, 3, 10_000).is_err());
        assert!(check(&path, 8, 2, 10_000).is_err());
        bytes[9_999] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(
            check(&path, 7, 2, 10_000)
                .unwrap_err()
                .contains("byte 9999")
        );
        // A part that is written later fits.
        let mut part = vec![0; BLOCK];
        write(&mut part, 7, 2, 1);
        assert_eq!(part, bytes[BLOCK..2 * BLOCK]);
    }
}

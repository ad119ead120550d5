//! Faults at every place of other sequences than those that the tests beside always have.

use crate::{BLOCK_MAP, CHECKSUMS, LIST, every_change, every_read};
use uext4::fs::ErrorPolicy;

/// Every Nth read, write and sync fails, on every form and under every policy; how many reads, and writes and syncs, did.
fn sequences(seeds: std::ops::Range<u64>, steps: usize) -> (u64, u64) {
    let (mut reads, mut changes) = (0, 0);
    for seed in seeds {
        for form in [CHECKSUMS, LIST, BLOCK_MAP] {
            for policy in [ErrorPolicy::Continue, ErrorPolicy::RemountRo] {
                reads += every_read(form, "eio-read", seed, steps, policy).positions;
            }
            for (word, code) in [
                ("eio-write", libc::EIO),
                ("enospc-write", libc::ENOSPC),
                ("short-write", libc::EIO),
                ("eio-sync", libc::EIO),
            ] {
                changes += every_change(form, word, seed, steps, code).positions;
            }
        }
        println!("seed {seed}: {reads} reads, {changes} writes and syncs have failed so far");
    }
    (reads, changes)
}

#[test]
fn a_sequence_on_every_form_with_faults() {
    let (reads, changes) = sequences(2000..2001, 10);
    assert!(reads > 10 && changes > 20, "{reads} {changes}");
}

/// Other sequences than the tests above always have: UEXT4_FAULT_SEEDS of them from UEXT4_FAULT_SEED on.
#[test]
#[ignore = "minutes; cargo xtask crash --faults N"]
fn many_sequences_with_faults() {
    let number = |name: &str, default| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
    };
    let first = number("UEXT4_FAULT_SEED", 1000);
    sequences(first..first + number("UEXT4_FAULT_SEEDS", 10), 40);
}

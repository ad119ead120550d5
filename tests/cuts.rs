//! Power cuts: seeded runs of operations on the core, every write and barrier of them recorded; the images that a cut may
//! leave at any place are mounted, compared with what was promised, and judged by e2fsck and the kernel. The lines that are
//! broken on purpose must be noticed. `cargo xtask crash` runs as much of it as one likes.
//!
//! Source: the design's judges; the issue on crashes.

#[path = "cuts/aside.rs"]
mod aside;
#[path = "cuts/beside.rs"]
mod beside;
#[path = "common/checker.rs"]
#[allow(dead_code)]
mod checker;
#[path = "cuts/drain.rs"]
mod drain;
#[path = "cuts/fleet.rs"]
mod fleet;
#[path = "cuts/form.rs"]
mod form;
#[path = "cuts/generate.rs"]
mod generate;
#[path = "cuts/judge.rs"]
mod judge;
#[path = "cuts/kernel.rs"]
mod kernel;
#[path = "cuts/met.rs"]
mod met;
#[path = "cuts/model.rs"]
mod model;
#[path = "cuts/names.rs"]
mod names;
#[path = "cuts/no_journal.rs"]
mod no_journal;
#[path = "cuts/op.rs"]
mod op;
#[path = "cuts/seed.rs"]
mod seed;
#[path = "cuts/shrink.rs"]
mod shrink;
#[path = "cuts/tree.rs"]
mod tree;

use fleet::Request;
use form::Setup;
use seed::{SAMPLES, record};

/// Every form and profile of a few seeds; debug builds check the order of locks along the way.
#[test]
fn some_seeds_survive() {
    let request = Request {
        seeds: 6,
        seed: 1_000_000,
        ..Request::default()
    };
    let (counts, failures) = fleet::seeds(&request, &SAMPLES);
    assert!(failures.is_empty(), "{} seeds", failures.len());
    assert!(counts.distinct > 1500, "{counts:?}");
    assert!(counts.wraps > 0 && counts.tail_moves > 0, "{counts:?}");
    assert!(
        counts.kernel > 0 && counts.torn_superblocks > 0,
        "{counts:?}"
    );
}

/// Nothing of a run depends on anything but its seed.
#[test]
fn a_seed_repeats_exactly() {
    for seed in 0..10 {
        let setup = Setup::of_seed(seed);
        let one = record(&setup, None, None).expect("it runs");
        let two = record(&setup, None, None).expect("it runs");
        assert!(one.ops == two.ops, "seed {seed}: operations");
        assert_eq!(
            one.base.fingerprint(),
            two.base.fingerprint(),
            "seed {seed}"
        );
        let differs = one.events.iter().zip(&two.events).position(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed}: event");
        assert_eq!(one.events.len(), two.events.len(), "seed {seed}");
        // From a file of its operations, too.
        let text = shrink::to_file(&setup, &one.ops);
        let (setup, ops) = shrink::from_file(&text).expect("it is one");
        let three = record(&setup, Some(&ops), None).expect("it runs");
        assert!(one.events == three.events, "seed {seed}: from a file");
    }
}

/// Sequences that once lost something, each named after what it was.
#[test]
fn what_was_lost_once_survives() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cuts/cases");
    let mut count = 0;
    for entry in std::fs::read_dir(dir).expect("the cases") {
        let path = entry.expect("a case").path();
        let request = Request {
            ops: Some(path.clone()),
            ..Request::default()
        };
        let done = fleet::run(&request);
        assert!(done.is_ok(), "{}: {done:?}", path.display());
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn images_without_a_journal_keep_what_was_synced() {
    let synced: usize = (1..=3).map(no_journal::cut_without_a_journal).sum();
    assert!(synced > 100, "{synced} files");
}

#[test]
fn a_truncation_waits_for_reads_in_flight() {
    assert!(drain::a_read_keeps_its_blocks(None));
}

/// What `cargo xtask crash` runs.
#[test]
#[ignore = "minutes; cargo xtask crash"]
fn command() {
    let text = std::env::var("UEXT4_CRASH").expect("UEXT4_CRASH: the request of cargo xtask crash");
    let request: Request = serde_json::from_str(&text).expect("a request");
    if let Err(error) = fleet::run(&request) {
        panic!("{error}");
    }
}

//! Makes a failing sequence of operations short, and a file of it.

use crate::form::Setup;
use crate::op::Op;
use crate::seed::{Counts, Failure, STATES, Samples, record};
use std::time::{Duration, Instant};
use uext4::canary::Canary;

/// While shrinking, e2fsck judges more often, and the kernel never.
const SAMPLES: Samples = Samples {
    e2fsck: 10,
    again: 10,
    e2fsck_replay: 0,
    preened: 10,
    kernel: 0,
};

/// How a sequence fails, if it does.
pub fn fails(setup: &Setup, ops: &[Op], canary: Option<Canary>) -> Option<Failure> {
    match record(setup, Some(ops), canary) {
        Ok(recorded) => {
            let mut counts = Counts::default();
            recorded.examine(2 * STATES, &SAMPLES, &mut |_| true, &mut counts)
        }
        Err(what) => Some(Failure {
            event: 0,
            op: ops.len(),
            how: "while it ran".into(),
            what,
            image: None,
        }),
    }
}

/// The shortest sequence found within `limit` that still fails, and how it does.
pub fn shrink(
    setup: &Setup,
    ops: &[Op],
    failure: Failure,
    canary: Option<Canary>,
    limit: Duration,
) -> (Vec<Op>, Failure) {
    let begun = Instant::now();
    let (mut best, mut how) = (ops.to_vec(), failure);
    let after = &best[..(how.op + 2).min(best.len())];
    if let Some(found) = fails(setup, after, canary) {
        (best, how) = (after.to_vec(), found);
    }
    let mut size = best.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < best.len() && begun.elapsed() < limit {
            let mut fewer = best.clone();
            fewer.drain(at..(at + size).min(best.len()));
            match fails(setup, &fewer, canary) {
                Some(found) => (best, how) = (fewer, found),
                None => at += size,
            }
        }
        size = if size == 1 { 0 } else { size.div_ceil(2) };
    }
    (best, how)
}

/// A setup and its operations, one a line.
pub fn to_file(setup: &Setup, ops: &[Op]) -> String {
    let mut lines = vec![serde_json::to_string(setup).expect("plain data")];
    lines.extend(
        ops.iter()
            .map(|op| serde_json::to_string(op).expect("plain data")),
    );
    lines.join("\n") + "\n"
}

pub fn from_file(text: &str) -> Result<(Setup, Vec<Op>), String> {
    let mut lines = text.lines().filter(|line| !line.is_empty());
    let first = lines.next().ok_or("empty")?;
    let setup = serde_json::from_str(first).map_err(|e| format!("setup: {e}"))?;
    let ops = lines.map(|line| serde_json::from_str(line).map_err(|e| format!("{line}: {e}")));
    Ok((setup, ops.collect::<Result<_, _>>()?))
}

//! Many seeds side by side, and the canaries.

use crate::form::Setup;
use crate::seed::{Counts, Failure, SAMPLES, STATES, Samples, record};
use crate::shrink::{from_file, shrink, to_file};
use serde::Deserialize;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use uext4::canary::Canary;
use uext4::evict::PolicyName;

/// What `cargo xtask crash` asks for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Request {
    pub seeds: u64,
    /// The first of them.
    pub seed: u64,
    /// A file of operations instead.
    pub ops: Option<PathBuf>,
    pub canaries: bool,
    /// Eviction at the floor of the memory, by this policy or by "all", one after the other.
    pub evict_policy: Option<String>,
    /// So many different images there must be.
    pub at_least: u64,
    pub jobs: Option<usize>,
    /// Where failing images and sequences go.
    pub keep: Option<PathBuf>,
}

/// How long a failing sequence is shrunk.
const SHRINKING: Duration = Duration::from_secs(120);
/// So many seeds come across everything.
const MEETS_ALL: u64 = 40;
/// From so many images on, a run of eviction alone must have met a thousand of each policy, a hundred with a preallocation.
const ALL_POLICIES: u64 = 200_000;
/// Seeds that a canary may take to be caught.
const CANARY_SEEDS: u64 = 300;

pub fn run(request: &Request) -> Result<(), String> {
    if let Some(path) = &request.ops {
        return replay(path);
    }
    if request.canaries {
        return canaries(request);
    }
    let (counts, failures) = seeds(request, &SAMPLES);
    if counts.seeds > 0 && counts.wraps == 0 {
        return Err("the log never went round".into());
    }
    let missing = match request.evict_policy {
        None => counts.met.missing(),
        Some(_) => counts.met.missing_of_eviction(),
    };
    if failures.is_empty() && counts.seeds >= MEETS_ALL && !missing.is_empty() {
        return Err(format!("never met: {}", missing.join(", ")));
    }
    let few = |(evicted, with): &(u64, u64)| *evicted < 1000 || *with < 100;
    let many = request.evict_policy.is_some() && counts.distinct >= ALL_POLICIES;
    if failures.is_empty() && many && counts.evictions.values().any(few) {
        return Err(format!("too few evictions: {:?}", counts.evictions));
    }
    if failures.is_empty() && counts.distinct < request.at_least {
        return Err(format!("only {} different images", counts.distinct));
    }
    match failures.len() {
        0 => Ok(()),
        count => Err(format!("{count} seeds lost something")),
    }
}

/// Runs the seeds of a request; counts and the seeds that failed.
pub fn seeds(request: &Request, samples: &Samples) -> (Counts, Vec<(u64, Failure)>) {
    let next = AtomicU64::new(request.seed);
    let end = request.seed + request.seeds;
    let fleet = Fleet::default();
    let jobs = request
        .jobs
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(2, std::num::NonZero::get));
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    fleet.one(seed, samples, request);
                }
            });
        }
    });
    fleet.report(true);
    let failures = fleet.failures.into_inner().expect("no panic");
    (fleet.state.into_inner().expect("no panic").0, failures)
}

struct Fleet {
    begun: Instant,
    /// Counts, and when they were last shown.
    state: Mutex<(Counts, Instant)>,
    seen: Mutex<HashSet<u128>>,
    failures: Mutex<Vec<(u64, Failure)>>,
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            state: Mutex::new((Counts::default(), Instant::now())),
            seen: Mutex::default(),
            failures: Mutex::default(),
        }
    }
}

impl Fleet {
    fn one(&self, seed: u64, samples: &Samples, request: &Request) {
        let setup = match request.evict_policy.as_deref() {
            None => Setup::of_seed(seed),
            Some("all") => {
                let all = PolicyName::ALL;
                Setup::of_eviction(seed, all[seed as usize % all.len()])
            }
            Some(name) => Setup::of_eviction(seed, PolicyName::parse(name).expect("a policy")),
        };
        // So that each seed has its share of what is done seldom.
        let mut counts = Counts {
            states: seed * 97,
            ..Counts::default()
        };
        let start = counts.states;
        let mut known = |image| self.seen.lock().expect("no panic").insert(image);
        match record(&setup, None, None) {
            Ok(recorded) => {
                let failed = recorded.examine(STATES, samples, &mut known, &mut counts);
                if let Some(failure) = failed {
                    self.failed(&setup, &recorded.ops, failure, request);
                }
            }
            Err(what) => {
                println!("seed {seed} ({}): {what}", setup.form);
                let failure = Failure {
                    event: 0,
                    op: 0,
                    how: "while it ran".into(),
                    what,
                    image: None,
                };
                self.failures
                    .lock()
                    .expect("no panic")
                    .push((seed, failure));
            }
        }
        counts.states -= start;
        self.state.lock().expect("no panic").0.add(&counts);
        self.report(false);
    }

    fn failed(&self, setup: &Setup, ops: &[crate::op::Op], failure: Failure, request: &Request) {
        println!("seed {}: {}", setup.seed, shown(&failure));
        let (ops, failure) = shrink(setup, ops, failure, None, SHRINKING);
        let file = to_file(setup, &ops);
        println!(
            "seed {}, {} operations: {}\n{file}",
            setup.seed,
            ops.len(),
            shown(&failure)
        );
        if let Some(dir) = &request.keep {
            keep(dir, setup, &file, &failure);
        }
        self.failures
            .lock()
            .expect("no panic")
            .push((setup.seed, failure));
    }

    fn report(&self, last: bool) {
        let mut state = self.state.lock().expect("no panic");
        if !last && state.1.elapsed() < Duration::from_secs(20) {
            return;
        }
        state.1 = Instant::now();
        let elapsed = self.begun.elapsed().as_secs_f64();
        println!(
            "{} in {elapsed:.0} s, {:.0} states a second, {} seeds failed",
            serde_json::to_string(&state.0).expect("plain data"),
            state.0.states as f64 / elapsed,
            self.failures.lock().expect("no panic").len(),
        );
    }
}

fn shown(failure: &Failure) -> String {
    let Failure {
        event,
        op,
        how,
        what,
        ..
    } = failure;
    format!("cut at event {event} in operation {op} ({how}): {what}")
}

fn keep(dir: &Path, setup: &Setup, file: &str, failure: &Failure) {
    let at = |ending: &str| dir.join(format!("seed-{}.{ending}", setup.seed));
    let ops = std::fs::write(at("ops"), file);
    let image = failure
        .image
        .as_ref()
        .map_or(Ok(()), |image| std::fs::write(at("img"), image));
    if let Err(error) = ops.and(image) {
        println!("{}: {error}", dir.display());
    }
}

impl Counts {
    fn add(&mut self, other: &Counts) {
        self.seeds += other.seeds;
        self.events += other.events;
        self.states += other.states;
        self.distinct += other.distinct;
        self.fsck += other.fsck;
        self.e2fsck += other.e2fsck;
        self.cut_again += other.cut_again;
        self.e2fsck_replay += other.e2fsck_replay;
        self.preened += other.preened;
        self.kernel += other.kernel;
        self.torn_superblocks += other.torn_superblocks;
        self.wraps += other.wraps;
        self.tail_moves += other.tail_moves;
        self.met.add(&other.met);
        for (policy, (evicted, with)) in &other.evictions {
            let sum = self.evictions.entry(policy.clone()).or_default();
            *sum = (sum.0 + evicted, sum.1 + with);
        }
    }
}

fn replay(path: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let (setup, ops) = from_file(&text)?;
    let recorded = record(&setup, Some(&ops), None)?;
    let mut counts = Counts::default();
    let failed = recorded.examine(4 * STATES, &SAMPLES, &mut |_| true, &mut counts);
    println!("{}", serde_json::to_string(&counts).expect("plain data"));
    failed.map_or(Ok(()), |failure| Err(shown(&failure)))
}

/// Breaks one line after the other; each must be noticed.
fn canaries(request: &Request) -> Result<(), String> {
    let mut missed = Vec::new();
    for canary in Canary::ALL {
        match catch(canary, request.seed, CANARY_SEEDS) {
            Ok(found) => println!("{canary:?}: {found}"),
            Err(counts) => {
                println!(
                    "{canary:?}: NOT caught in {} seeds, {} states",
                    counts.seeds, counts.states
                );
                missed.push(format!("{canary:?}"));
            }
        }
    }
    if crate::drain::a_read_keeps_its_blocks(Some(Canary::NoDrain)) {
        missed.push("NoDrain".into());
    } else {
        println!("NoDrain: caught after 1 read in flight");
    }
    if missed.is_empty() {
        Ok(())
    } else {
        Err(format!("not caught: {}", missed.join(", ")))
    }
}

/// After how many states a canary is caught, and by what.
pub fn catch(canary: Canary, first: u64, seeds: u64) -> Result<String, Box<Counts>> {
    let samples = Samples {
        kernel: 0,
        ..SAMPLES
    };
    let mut counts = Counts::default();
    for seed in first..first + seeds {
        let setup = Setup::of_seed(seed);
        let found = match record(&setup, None, Some(canary)) {
            Ok(recorded) => recorded
                .examine(STATES, &samples, &mut |_| true, &mut counts)
                .map(|failure| shown(&failure)),
            Err(what) => Some(what),
        };
        if let Some(found) = found {
            let (states, short) = (counts.states, found.lines().next().unwrap_or(""));
            let tries = seed - first + 1;
            return Ok(format!(
                "caught after {states} states (seed {tries}): {short}"
            ));
        }
    }
    Err(Box::new(counts))
}

//! `cargo xtask evict-bench`: the same seeded workloads under every policy of eviction, whoever evicts, and small caps.
//!
//! Each run has a daemon and an image of its own; whatever is mounted or attached ends with the run. After each, e2fsck has
//! nothing to say and the daemon has ended with no error; the contents are compared once under each policy, as the kernel's
//! ext4 reads them. The prepared images
//! are made once and stay in the target directory.

mod content;
mod files;
mod growing;
mod image;
mod meter;
mod mounted;
mod plan;
mod report;

use crate::bench::sides;
use clap::Args;
use image::{Kernel, Shape};
use mounted::Mounted;
use plan::{Run, Workload};
use report::{Counts, Row};
use std::collections::HashSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use xshell::{Shell, cmd};

#[derive(Args)]
pub struct Options {
    /// Only these: workloads (a to e), policies, direct or evictor, caps in MiB.
    #[arg(long, value_name = "WORD", num_args = 1..)]
    only: Vec<String>,
    /// How long (c) and (d) run under each policy.
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Write all figures here.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw (c) and (d) here.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// (c) alone, for 5 s, on a smaller image of as many groups.
    #[arg(long)]
    quick: bool,
    /// Where images and mounts go: on a disk file system with O_DIRECT. The target directory unless given.
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// This daemon instead of the release build (a debug build checks more).
    #[arg(long, value_name = "FILE")]
    daemon: Option<PathBuf>,
}

/// Buddies that (c) must load inside of reclaim, else it measures something else.
const LOADS: u64 = 1000;
/// Slower than this part of its speed with memory for all, `derive` at 16 MiB has failed.
const KEPT: f64 = 0.7;
/// Longest that a request which needs nothing of the device may take on (d) under `derive`.
const LONGEST_US: u32 = 100_000;

struct Bench {
    program: PathBuf,
    scratch: PathBuf,
    shape: Shape,
    time: Duration,
    rows: Vec<Row>,
    notes: Vec<String>,
    failures: Vec<String>,
    /// Workloads and policies whose file contents have been compared.
    compared: HashSet<(&'static str, &'static str)>,
    phases: Phases,
}

/// How long the parts of a run took, in seconds.
struct Phases {
    since: Instant,
    text: String,
}

impl Phases {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            text: String::new(),
        }
    }

    fn end(&mut self, name: &str) {
        let took = self.since.elapsed().as_secs_f64();
        let _ = write!(self.text, " {name} {took:.1}");
        self.since = Instant::now();
    }
}

pub fn run(root: &Path, options: &Options) -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("evict-bench mounts and drops caches: run it as root".into());
    }
    let shape = if options.quick {
        Shape::Small
    } else {
        Shape::Large
    };
    let runs = plan::runs(shape, &options.only)?;
    if cfg!(debug_assertions) {
        return crate::bench::again_optimised(root);
    }
    let target = crate::bench::target(root);
    let scratch = options
        .scratch
        .clone()
        .unwrap_or_else(|| target.join("evict-bench"));
    std::fs::create_dir_all(&scratch).map_err(|e| format!("{}: {e}", scratch.display()))?;
    raise_open_files()?;
    let default = if options.quick { 5 } else { 30 };
    let mut bench = Bench {
        program: match &options.daemon {
            Some(program) => program.canonicalize().map_err(|e| e.to_string())?,
            None => build(root, runs.iter().any(|run| run.workload == Workload::Slow))?,
        },
        scratch: scratch.canonicalize().map_err(|e| e.to_string())?,
        shape,
        time: Duration::from_secs(options.seconds.unwrap_or(default)),
        rows: Vec::new(),
        notes: Vec::new(),
        failures: Vec::new(),
        compared: HashSet::new(),
        phases: Phases::new(),
    };
    sides::end_on_signals_but_keep(&bench.scratch, || {})?;
    let begun = Instant::now();
    for (index, run) in runs.iter().enumerate() {
        bench.one(run, index + 1, runs.len());
    }
    let spent = format!(
        "{} s in all for {} runs",
        begun.elapsed().as_secs(),
        runs.len()
    );
    bench.notes.push(spent);
    bench.judge_all();
    bench.finish(options)
}

/// The daemon as users run it, with simulated faults of the device where they are needed.
fn build(root: &Path, faults: bool) -> Result<PathBuf, String> {
    let shell = Shell::new().map_err(|e| e.to_string())?;
    shell.change_dir(root);
    let features: &[&str] = if faults {
        &["--features", "uext4/faults"]
    } else {
        &[]
    };
    cmd!(
        shell,
        "cargo build --quiet --release --package uext4 {features...}"
    )
    .run()
    .map_err(|e| e.to_string())?;
    let program = crate::bench::target(root).join("release/uext4");
    program
        .canonicalize()
        .map_err(|e| format!("{}: {e}", program.display()))
}

/// Thousands of files are open at once.
fn raise_open_files() -> Result<(), String> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).map_err(|e| format!("open files: {e}"))
}

impl Bench {
    fn one(&mut self, run: &Run, number: usize, all: usize) {
        let begun = Instant::now();
        self.phases = Phases::new();
        let measured = match run.workload {
            Workload::Files => self.files(run),
            Workload::Growing | Workload::Slow => self.growing(run),
        };
        let took = begun.elapsed().as_secs();
        let phases = &self.phases.text;
        eprintln!(
            "evict-bench: {number} of {all}, {}: {took} s:{phases}",
            run.name()
        );
        if let Err(error) = measured {
            self.fail(&format!("{}: {error}", run.name()));
        }
    }

    fn fail(&mut self, failure: &str) {
        eprintln!("evict-bench: {failure}");
        self.failures.push(failure.to_owned());
    }

    fn growing(&mut self, run: &Run) -> Result<(), String> {
        let prepared = image::prepared(&self.scratch, self.shape)?;
        let copy = self.scratch.join("run.img");
        image::copy(&prepared, &copy)?;
        sides::drop_caches()?;
        self.phases.end("image");
        let mounted = Mounted::start(&self.program, &copy, run)?;
        let measured = growing::run(&mounted, self.shape, self.time)?;
        self.phases.end("load");
        let high_water = mounted.high_water();
        let stuck = measured.stuck;
        let counts = Counts::between(&measured.before, &measured.after, measured.seconds);
        let letter = run.workload.letters()[0];
        let mut row = Row::new(letter, *run, counts, measured.after);
        let per_second = |count: f64| count / measured.seconds;
        row.rates.push((
            "MiB/s",
            per_second(measured.appends.bytes as f64 / f64::from(1 << 20)),
        ));
        row.rates
            .push(("stat/s", per_second(measured.looks.count() as f64)));
        row.high_water = high_water;
        row.add("append", measured.appends);
        row.add("stat", measured.looks);
        row.add("overwrite", measured.probes);
        self.rows.push(row);
        if stuck {
            return Err("no request was served for 5 s".into());
        }
        let dir = mounted.dir.clone();
        mounted.end()?;
        self.phases.end("unmount");
        sides::judge(&copy)?;
        self.phases.end("e2fsck");
        if self.compared.insert((letter, run.policy)) {
            let kernel = Kernel::mount(&copy, "ro")?;
            let compared = growing::verify(&kernel.dir, &dir, &measured.files)?;
            kernel.end()?;
            self.phases.end("contents");
            if compared == 0 {
                return Err("nothing was written".into());
            }
        }
        std::fs::remove_file(&copy).map_err(|e| format!("{}: {e}", copy.display()))
    }

    fn files(&mut self, run: &Run) -> Result<(), String> {
        let image = self.scratch.join("files.img");
        files::make_image(&image)?;
        let mounted = Mounted::start(&self.program, &image, run)?;
        for (letter, rate, work) in [
            ("a", "create/s", files::create as fn(&Mounted) -> _),
            ("b", "stat/s", files::walk as fn(&Mounted) -> _),
        ] {
            self.files_row(letter, rate, run, work, &mounted)?;
        }
        mounted.end()?;
        self.phases.end("a, b");
        sides::judge(&image)?;
        self.phases.end("e2fsck");
        if self.compared.insert(("a", run.policy)) {
            let kernel = Kernel::mount(&image, "ro")?;
            files::verify(&kernel.dir)?;
            kernel.end()?;
            self.phases.end("contents");
        }
        let mounted = Mounted::start(&self.program, &image, run)?;
        self.files_row("e", "unlink/s", run, files::delete, &mounted)?;
        mounted.end()?;
        self.phases.end("e");
        sides::judge(&image)?;
        let kernel = Kernel::mount(&image, "ro")?;
        files::verify_empty(&kernel.dir)?;
        kernel.end()?;
        self.phases.end("e2fsck");
        Ok(())
    }

    fn files_row(
        &mut self,
        letter: &'static str,
        rate: &'static str,
        run: &Run,
        work: fn(&Mounted) -> Result<files::Measured, String>,
        mounted: &Mounted,
    ) -> Result<(), String> {
        let measured = work(mounted)?;
        let counts = Counts::between(&measured.before, &measured.after, measured.seconds);
        let mut row = Row::new(letter, *run, counts, measured.after);
        row.rates
            .push((rate, measured.files as f64 / measured.seconds));
        if letter == "a" {
            let mebibytes = measured.meter.bytes as f64 / f64::from(1 << 20);
            row.rates.push(("MiB/s", mebibytes / measured.seconds));
        }
        row.high_water = mounted.high_water();
        row.add("request", measured.meter);
        let failed = row.first_failure.clone();
        self.rows.push(row);
        match (measured.stuck, failed) {
            (true, _) => Err("no request was served for 5 s".into()),
            (_, Some(failure)) => Err(failure),
            _ => Ok(()),
        }
    }

    fn row(&self, letter: &str, policy: &str, from: &str, mebibytes: u64) -> Option<&Row> {
        self.rows.iter().find(|row| {
            let run = &row.run;
            row.letter == letter
                && (run.policy, run.from, run.mebibytes) == (policy, from, mebibytes)
        })
    }

    /// What must hold of the figures, as far as they were measured.
    fn judge_all(&mut self) {
        let least = if self.shape == Shape::Large { LOADS } else { 1 };
        let mut failures = Vec::new();
        if let Some(row) = self.rows.iter().find(|row| row.run.is_yardstick())
            && row.counts.buddy_builds < least
        {
            failures.push(format!(
                "invalid: {} loaded {} buddies inside of reclaim, at least {least} are needed",
                row.run.name(),
                row.counts.buddy_builds
            ));
        }
        for row in &self.rows {
            let counts = &row.counts;
            if row.run.policy == "derive" && counts.buddy_loads + counts.bitmap_reads > 0 {
                failures.push(format!(
                    "{}: loads buddies inside of reclaim",
                    row.run.name()
                ));
            }
            if counts.refused + counts.overdrafts + row.failures > 0 {
                failures.push(format!(
                    "({}) {}: {} requests failed ({}), {} were refused memory, {} overdrafts",
                    row.letter,
                    row.run.name(),
                    row.failures,
                    row.first_failure.as_deref().unwrap_or("-"),
                    counts.refused,
                    counts.overdrafts
                ));
            }
        }
        if self.shape == Shape::Large {
            self.judge_derive(&mut failures);
        }
        failures.iter().for_each(|failure| self.fail(failure));
    }

    /// What is claimed of the default.
    fn judge_derive(&mut self, failures: &mut Vec<String>) {
        let rate = |mebibytes| {
            let row = self.row("c", "derive", "evictor", mebibytes)?;
            row.rates.first().map(|(_, rate)| *rate)
        };
        let mut notes = Vec::new();
        if let (Some(small), Some(large)) = (rate(16), rate(1024)) {
            let kept = small / large;
            notes.push(format!(
                "(c) derive at 16 MiB: {kept:.2} of its speed at 1024 MiB"
            ));
            if kept < KEPT {
                failures.push(format!("(c) derive at 16 MiB keeps {kept:.2} of its speed"));
            }
        }
        if let Some(row) = self.row("d", "derive", "evictor", 16) {
            let probe = row.latencies.iter().find(|(name, _)| *name == "overwrite");
            let longest = probe.map_or(0, |(_, latency)| latency.max_us);
            notes.push(format!(
                "(d) derive at 16 MiB: longest overwrite {longest} us"
            ));
            if longest > LONGEST_US {
                failures.push(format!(
                    "(d) derive at 16 MiB: an overwrite took {longest} us"
                ));
            }
        }
        self.notes.extend(notes);
    }

    fn finish(&self, options: &Options) -> Result<(), String> {
        println!("{}", report::tables(&self.rows));
        for note in &self.notes {
            println!("- {note}");
        }
        if let Some(path) = &options.json {
            let text = serde_json::to_string_pretty(&report::json(&self.rows, &self.notes))
                .map_err(|e| e.to_string())?;
            std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        if let Some(path) = &options.svg {
            report::chart(&self.rows, path)?;
        }
        if self.failures.is_empty() {
            Ok(())
        } else {
            Err(self.failures.join("; "))
        }
    }
}

//! `cargo xtask bench`: uext4 beside the kernel's ext4, fuse2fs, a FUSE server that stores nothing, and the raw file.
//!
//! Absolute times of a machine say little, so every row is measured on all sides in one run, in turn, and shown as
//! ratios. Whatever is mounted or attached ends with the run, and a watchdog ends a daemon that hangs. After each group
//! of rows e2fsck must have nothing to say about our image.

mod beneath;
mod null;
mod readme;
mod report;
mod rows;
mod scale;
pub(crate) mod sides;
mod work;

use clap::Args;
use report::Results;
use rows::{Figures, GROUPS, Group, ROWS};
use sides::{Mounted, Place, SIDES, Side};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use work::Fio;
use xshell::{Shell, cmd};

#[derive(Args)]
pub struct Options {
    /// Small sizes, one round: whether every row runs, not how fast.
    #[arg(long)]
    quick: bool,
    /// Only these rows (and what they need).
    #[arg(long, value_name = "NAME", num_args = 1..)]
    only: Vec<String>,
    /// Rounds of uext4, kernel and raw; the figures are medians.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Where images and mounts go: a disk file system with O_DIRECT.
    #[arg(long, default_value = "/var/tmp")]
    scratch: PathBuf,
    /// Write all figures here.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the ratios here.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Put the table into this document, between its two marks.
    #[arg(long, value_name = "FILE", conflicts_with = "quick")]
    readme: Option<PathBuf>,
}

pub use null::serve as null_server;

/// How large everything is.
#[derive(Clone, Copy)]
struct Sizes {
    image_mib: u64,
    /// The file of the data rows.
    data_mib: u64,
    /// What random writes are spread over.
    random_mib: u64,
    time: Duration,
    names: usize,
    tree_files: usize,
    tree_average: usize,
    interleave_mib: usize,
    allocations: usize,
    /// For mke2fs.
    volumes: &'static [&'static str],
}

const FULL: Sizes = Sizes {
    image_mib: 3072,
    data_mib: 1024,
    random_mib: 256,
    time: Duration::from_secs(8),
    names: 20_000,
    tree_files: 7500,
    tree_average: 19_000,
    interleave_mib: 16,
    allocations: 5000,
    volumes: &["8G", "1T", "15T"],
};

const QUICK: Sizes = Sizes {
    image_mib: 192,
    data_mib: 32,
    random_mib: 8,
    time: Duration::from_millis(300),
    names: 500,
    tree_files: 200,
    tree_average: 6000,
    interleave_mib: 2,
    allocations: 500,
    volumes: &["8G", "256G"],
};

/// A failed side fails the run, after everything else has been measured.
struct Bench<'p> {
    place: &'p Place,
    sizes: Sizes,
    rounds: usize,
    /// Rows asked for.
    wanted: Vec<&'static str>,
    tarball: PathBuf,
    results: Results,
    failures: Vec<String>,
    notes: Vec<String>,
}

pub fn run(root: &Path, options: &Options) -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("the bench mounts and drops caches: run it as root".into());
    }
    let wanted = wanted(&options.only)?;
    options.readme.as_deref().map_or(Ok(()), readme::check)?;
    if cfg!(debug_assertions) {
        return again_optimised(root);
    }
    let sizes = if options.quick { QUICK } else { FULL };
    let scratch = tempfile::Builder::new()
        .prefix("uext4-bench-")
        .tempdir_in(&options.scratch)
        .map_err(|e| format!("{}: {e}", options.scratch.display()))?;
    let place = Place {
        uext4: build(root)?,
        scratch: scratch.path().canonicalize().map_err(|e| e.to_string())?,
        patience: Duration::from_secs(if options.quick { 60 } else { 600 }),
    };
    sides::end_on_signals(&place.scratch)?;
    let begun = Instant::now();
    let mut bench = Bench {
        place: &place,
        sizes,
        rounds: if options.quick {
            1
        } else {
            options.rounds.max(1)
        },
        wanted,
        tarball: PathBuf::new(),
        results: Results::new(),
        failures: Vec::new(),
        notes: Vec::new(),
    };
    bench.prepare()?;
    for group in GROUPS {
        bench.group(group);
    }
    bench
        .notes
        .push(format!("{} s in all", begun.elapsed().as_secs()));
    bench.finish(options)
}

/// The null server and the loops are measured, too.
pub(crate) fn again_optimised(root: &Path) -> Result<(), String> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let status = std::process::Command::new("cargo")
        .args(["run", "--quiet", "--release", "--package", "xtask", "--"])
        .args(arguments)
        .current_dir(root)
        .status()
        .map_err(|e| format!("cargo: {e}"))?;
    if status.success() {
        Ok(())
    } else {
        Err("the bench failed".into())
    }
}

fn wanted(only: &[String]) -> Result<Vec<&'static str>, String> {
    if let Some(name) = only
        .iter()
        .find(|name| ROWS.iter().all(|row| row.name != *name))
    {
        let names: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
        return Err(format!("no row {name}; there are {}", names.join(" ")));
    }
    let is_wanted = |name: &str| only.is_empty() || only.iter().any(|other| other == name);
    Ok(ROWS
        .iter()
        .map(|row| row.name)
        .filter(|name| is_wanted(name))
        .collect())
}

/// The daemon as users run it.
fn build(root: &Path) -> Result<PathBuf, String> {
    let shell = Shell::new().map_err(|e| e.to_string())?;
    shell.change_dir(root);
    cmd!(shell, "cargo build --quiet --release --package uext4")
        .run()
        .map_err(|e| e.to_string())?;
    let program = target(root).join("release/uext4");
    program
        .canonicalize()
        .map_err(|e| format!("{}: {e}", program.display()))
}

/// Where cargo puts what it builds.
pub(crate) fn target(root: &Path) -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    root.join(target)
}

impl Bench<'_> {
    fn wants(&self, name: &str) -> bool {
        self.wanted.contains(&name)
    }

    fn wants_group(&self, group: Group) -> bool {
        ROWS.iter()
            .any(|row| row.group == group && self.wants(row.name))
    }

    /// Images, the raw file and what is unpacked.
    fn prepare(&mut self) -> Result<(), String> {
        let on_images = [
            Group::Data,
            Group::Append,
            Group::Names,
            Group::Tree,
            Group::Interleave,
        ];
        if !on_images.iter().any(|&group| self.wants_group(group)) {
            return Ok(());
        }
        eprintln!("bench: writing images of {} MiB", self.sizes.image_mib);
        for side in [Side::Uext4, Side::Kernel, Side::Fuse2fs] {
            sides::make_image(&self.place.image(side), self.sizes.image_mib << 20)?;
        }
        sides::fill(
            &self.place.image(Side::Raw),
            self.sizes.data_mib.max(64) << 20,
        )?;
        if self.wants_group(Group::Tree) {
            let (files, average) = (self.sizes.tree_files, self.sizes.tree_average);
            self.tarball = work::make_tarball(&self.place.scratch, files, average)?;
        }
        Ok(())
    }

    /// All rounds of a group; once more when the kernel's figures of a row lie too far apart.
    fn group(&mut self, group: Group) {
        if !self.wants_group(group) {
            return;
        }
        if group == Group::Alloc {
            return self.alloc_scale();
        }
        self.rounds_of(group);
        let restless: Vec<&str> = ROWS
            .iter()
            .filter(|row| row.group == group && self.wants(row.name))
            .filter(|row| self.results.get(row.name).is_some_and(Figures::is_restless))
            .map(|row| row.name)
            .collect();
        if restless.is_empty() {
            return;
        }
        let note = format!(
            "repeated, since the kernel's figures moved by more than 25 %: {}",
            restless.join(" ")
        );
        eprintln!("bench: {note}");
        self.notes.push(note);
        for row in ROWS.iter().filter(|row| row.group == group) {
            if restless.contains(&row.name) {
                self.results.remove(row.name);
            }
        }
        let others: Vec<_> = std::mem::take(&mut self.results).into_iter().collect();
        self.rounds_of(group);
        // What had been quiet keeps its first figures.
        self.results.extend(others);
    }

    fn rounds_of(&mut self, group: Group) {
        for round in 0..self.rounds {
            for side in SIDES {
                if round > 0 && !side.is_repeated() {
                    continue;
                }
                eprintln!(
                    "bench: {group:?}, round {} of {}: {}",
                    round + 1,
                    self.rounds,
                    side.name()
                );
                if let Err(error) = self.measure(group, side) {
                    let failure = format!("{group:?} on {}: {error}", side.name());
                    eprintln!("bench: {failure}");
                    self.failures.push(failure);
                }
            }
        }
    }

    fn add(&mut self, name: &'static str, side: Side, figure: f64) {
        if self.wants(name) {
            self.results.entry(name).or_default().add(side, figure);
        }
    }

    fn measure(&mut self, group: Group, side: Side) -> Result<(), String> {
        if side == Side::Raw {
            return self.raw(group);
        }
        if side == Side::NullOnRaw && !matches!(group, Group::Data | Group::Append) {
            return Ok(());
        }
        if group == Group::Huge {
            return self.huge(side);
        }
        let place = self.place;
        let mut mounted = Mounted::new(place, side)?;
        let dir = mounted.dir.join("bench");
        std::fs::create_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        match group {
            Group::Data => self.data(&mut mounted, &dir)?,
            Group::Append => self.append(side, &dir)?,
            Group::Names => self.names(&mut mounted, &dir)?,
            Group::Tree => self.tree(&mut mounted, &dir)?,
            Group::Interleave => mounted = self.interleave(mounted, &dir)?,
            Group::Huge | Group::Alloc => {}
        }
        std::fs::remove_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        mounted.end()?;
        if side == Side::Uext4 {
            sides::judge(&place.image(side))?;
        }
        Ok(())
    }

    fn data(&mut self, mounted: &mut Mounted<'_>, dir: &Path) -> Result<(), String> {
        let (side, sizes) = (mounted.side, self.sizes);
        let file = dir.join("data");
        let written = work::write_new(&file, sizes.data_mib)?;
        self.add("seqwrite-1m", side, written);
        mounted.cool()?;
        let read = work::read_whole(&file, sizes.data_mib, false)?;
        self.add("seqread-1m", side, read);
        for row in self.fio_rows() {
            let rate = row.1.run(&file)?;
            self.add(row.0, side, rate);
        }
        if self.wants("randwrite-4k-fsync") {
            let rate = work::write_random(&file, sizes.random_mib)?;
            self.add("randwrite-4k-fsync", side, rate);
        }
        Ok(())
    }

    fn fio_rows(&self) -> Vec<(&'static str, Fio)> {
        let (mebibytes, time) = (self.sizes.data_mib, self.sizes.time);
        let fio = |kind, depth| Fio {
            kind,
            depth,
            mebibytes,
            time,
            sync: false,
        };
        let rows = [
            ("randread-4k-dio-qd1", fio("randread", 1)),
            ("randread-4k-dio-qd16", fio("randread", 16)),
            ("randwrite-4k-dio-qd1", fio("randwrite", 1)),
        ];
        rows.into_iter()
            .filter(|(name, _)| self.wants(name))
            .collect()
    }

    fn append(&mut self, side: Side, dir: &Path) -> Result<(), String> {
        for (name, jobs) in [("append-4k-fsync", 1), ("append-4k-fsync-8jobs", 8)] {
            let rate = work::append(dir, jobs, self.sizes.time)?;
            self.add(name, side, rate);
        }
        Ok(())
    }

    fn names(&mut self, mounted: &mut Mounted<'_>, dir: &Path) -> Result<(), String> {
        let (side, count, dir) = (mounted.side, self.sizes.names, dir.join("names"));
        let created = work::create(&dir, count)?;
        self.add("create-20k", side, created);
        mounted.cool()?;
        let looked = work::stat(&dir, count)?;
        self.add("stat-20k-cold", side, looked);
        let deleted = work::delete(&dir, count)?;
        self.add("delete-20k", side, deleted);
        Ok(())
    }

    fn tree(&mut self, mounted: &mut Mounted<'_>, dir: &Path) -> Result<(), String> {
        let side = mounted.side;
        let (tarball, tree) = (self.tarball.to_string_lossy(), dir.join("tree"));
        let (into, tree) = (dir.to_string_lossy(), tree.to_string_lossy());
        let begun = Instant::now();
        work::seconds("tar", &["-C", &into, "--no-same-owner", "-xf", &tarball])?;
        mounted.sync()?;
        let unpacked = begun.elapsed().as_secs_f64();
        mounted.cool()?;
        let found = work::seconds("find", &[&*tree])?;
        mounted.cool()?;
        let read = work::seconds("tar", &["-C", &into, "-cf", "-", "tree"])?;
        let removed = work::seconds("rm", &["-rf", &tree])?;
        self.add("untar-sync", side, unpacked);
        self.add("find-cold", side, found);
        self.add("tarread-cold", side, read);
        self.add("rm-rf", side, removed);
        Ok(())
    }

    fn interleave<'m>(&mut self, mounted: Mounted<'m>, dir: &Path) -> Result<Mounted<'m>, String>
    where
        Self: 'm,
    {
        let side = mounted.side;
        work::interleave(dir, self.sizes.interleave_mib)?;
        if side == Side::Null {
            return Ok(mounted);
        }
        let place = mounted.place;
        mounted.end()?;
        let extents = work::extents(&place.image(side))?;
        self.add("interleave-8-append", side, extents);
        Mounted::new(place, side)
    }

    fn raw(&mut self, group: Group) -> Result<(), String> {
        let (file, sizes, side) = (self.place.image(Side::Raw), self.sizes, Side::Raw);
        match group {
            Group::Data => {
                let written = work::write_raw(&file, sizes.data_mib)?;
                self.add("seqwrite-1m", side, written);
                sides::drop_caches()?;
                let read = work::read_whole(&file, sizes.data_mib, true)?;
                self.add("seqread-1m", side, read);
                for row in self.fio_rows() {
                    let rate = row.1.run(&file)?;
                    self.add(row.0, side, rate);
                }
                if self.wants("randwrite-4k-fsync") {
                    let deep = Fio {
                        kind: "randwrite",
                        depth: 16,
                        mebibytes: sizes.random_mib,
                        time: sizes.time,
                        sync: true,
                    };
                    self.add("randwrite-4k-fsync", side, deep.run(&file)?);
                }
            }
            Group::Append => {
                for (name, jobs) in [("append-4k-fsync", 1), ("append-4k-fsync-8jobs", 8)] {
                    let rate = work::append_raw(&file, jobs, sizes.time)?;
                    self.add(name, side, rate);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Mounting a sparse image of 15 TiB.
    fn huge(&mut self, side: Side) -> Result<(), String> {
        if side == Side::Null {
            return Ok(());
        }
        let image = scale::huge_image(&self.place.scratch)?;
        sides::drop_caches()?;
        let mounted = Mounted::of(self.place, side, &image)?;
        let took = mounted.took.as_secs_f64();
        mounted.end()?;
        self.add("mount-15t", side, took);
        Ok(())
    }

    fn alloc_scale(&mut self) {
        eprintln!("bench: alloc-scale");
        match scale::measure(
            &self.place.scratch,
            self.sizes.allocations,
            self.sizes.volumes,
        ) {
            Ok(measured) => {
                self.notes.extend(measured.lines);
                self.results
                    .entry("alloc-scale")
                    .or_default()
                    .add(Side::Uext4, measured.times);
            }
            Err(error) => self.failures.push(format!("alloc-scale: {error}")),
        }
    }

    /// Only of a run without failures.
    fn write_readme(&self, options: &Options) -> Result<(), String> {
        match &options.readme {
            Some(path) if self.failures.is_empty() => {
                readme::write(path, &self.results, self.rounds, &self.notes)
            }
            _ => Ok(()),
        }
    }

    fn finish(&self, options: &Options) -> Result<(), String> {
        println!("{}", report::table(&self.results));
        for note in &self.notes {
            println!("- {note}");
        }
        if let Some(path) = &options.json {
            let text = serde_json::to_string_pretty(&report::json(&self.results, &self.notes))
                .map_err(|e| e.to_string())?;
            std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        if let Some(path) = &options.svg {
            report::chart(&self.results, path)?;
        }
        self.write_readme(options)?;
        for name in &self.wanted {
            let measured = self.results.get(name).and_then(|f| f.median(Side::Uext4));
            if measured.is_none() {
                return Err(format!(
                    "{name} could not be measured: {}",
                    self.failures.join("; ")
                ));
            }
        }
        if self.failures.is_empty() {
            Ok(())
        } else {
            Err(self.failures.join("; "))
        }
    }
}

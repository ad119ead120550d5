//! `kill -9` of the daemon under load, and cuts of its power: the next mount replays the journal (ours, and on a copy the
//! kernel's), and what was fsynced is whole.
//!
//! `cargo xtask killtest` runs many rounds (UEXT4_KILL_ROUNDS, UEXT4_KILL_SEED). A kill alone loses nothing that was given to
//! the kernel below; with the feature `faults` every second round's device has a write cache, which is lost.

#[path = "common/harness.rs"]
mod harness;
#[path = "killtest/loads.rs"]
mod loads;
#[path = "killtest/log.rs"]
mod log;
#[path = "killtest/rng.rs"]
mod rng;
#[path = "killtest/writer.rs"]
mod writer;

use harness::{Image, Kind, Mount, Scratch, judge, run};
use loads::{Finished, Noise};
use log::Log;
use rng::Rng;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use writer::Writer;

const WRITERS: u64 = 3;

/// What mke2fs is told, small.
const FORMS: [&str; 5] = [
    "-t ext4",
    "-t ext4 -b 1024 -J size=4",
    "-t ext4 -O ^metadata_csum,^orphan_file",
    "-t ext3 -b 4096",
    "-t ext4 -b 2048 -J size=4 -O ^64bit",
];

/// How a round ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Kill,
    /// All that was not synced is lost.
    Lose,
    /// Some of it.
    LoseSome,
}

#[derive(Default, Debug)]
struct Totals {
    rounds: u64,
    power_cuts: u64,
    syncs: u64,
    files: u64,
    fio: u64,
}

/// An image through several rounds.
struct Stage {
    scratch: Scratch,
    image: Image,
    form: &'static str,
    seed: u64,
    round: u64,
    /// The directory of the round before, which nobody touches in this one.
    before: Vec<(PathBuf, Vec<u8>)>,
    totals: Totals,
}

/// What was promised in one round.
struct Promises {
    end: End,
    logs: Vec<Log>,
    fio: Vec<Finished>,
}

impl Stage {
    fn new(form: &'static str, seed: u64) -> Self {
        let scratch = Scratch::in_memory();
        let image = Image::mke2fs(&scratch, "disk.img", "192M", form);
        Self {
            scratch,
            image,
            form,
            seed,
            round: 0,
            before: Vec::new(),
            totals: Totals::default(),
        }
    }

    fn dir(&self, root: &Path, round: u64) -> PathBuf {
        root.join(format!("round{round}"))
    }

    fn round(&mut self, round: u64) {
        self.round = round;
        let mut rng = Rng(self.seed ^ (round << 32));
        let promises = self.load_and_kill(&mut rng);
        let crashed = self.scratch.file("crashed.img");
        run!("cp", "--sparse=always", self.image.path(), crashed);
        let found = self.judge(&crashed, &promises);
        match found {
            Ok(files) => {
                self.totals.rounds += 1;
                self.totals.power_cuts += u64::from(promises.end != End::Kill);
                self.totals.syncs += promises.logs.iter().map(|log| log.synced).sum::<u64>();
                self.totals.files += files;
                self.totals.fio += promises.fio.len() as u64;
            }
            Err(why) => {
                let kept = std::env::temp_dir().join(format!("uext4-killtest-{round}.img"));
                run!("cp", "--sparse=always", crashed, kept);
                panic!(
                    "seed {} round {round} ({}, {:?}): {why}; the image as it was left: {}",
                    self.seed,
                    self.form,
                    promises.end,
                    kept.display()
                );
            }
        }
    }

    fn load_and_kill(&self, rng: &mut Rng) -> Promises {
        let (end, options) = ending(rng, self.round);
        let point = self.scratch.dir("mnt");
        let mut mount = Mount::new(Kind::Uext4, self.image.path(), &point, &options);
        let root = mount.path().to_path_buf();
        let here = self.dir(&root, self.round);
        std::fs::create_dir(&here).expect("a directory for this round");
        let noise = Noise::start(&root.join(format!("noise{}", self.round)), rng);
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| {
                let writer = Writer::new(&here.join(format!("w{number}")), rng.draw());
                std::thread::spawn(move || writer.run())
            })
            .collect();
        let (dir, seed) = (here.join("fio"), rng.draw());
        let fio = std::thread::spawn(move || loads::run_fio(&dir, seed));
        let old = self
            .round
            .checked_sub(2)
            .map(|round| self.dir(&root, round));
        let remover = std::thread::spawn(move || old.map(std::fs::remove_dir_all));
        wait(&mount, Duration::from_millis(200 + rng.below(2000)));
        mount.kill_daemon();
        let logs = writers
            .into_iter()
            .map(|writer| writer.join().expect("a writer"))
            .collect();
        let fio = fio.join().expect("fio");
        let _ = remover.join().expect("the remover");
        drop(noise);
        mount.detach();
        Promises { end, logs, fio }
    }

    /// By the kernel on a copy, then by us.
    fn judge(&mut self, crashed: &Path, promises: &Promises) -> Result<u64, String> {
        let copy = self.scratch.file("kernel.img");
        run!("cp", "--sparse=always", crashed, copy);
        let mount = Mount::new(Kind::Kernel, &copy, &self.scratch.dir("kernel"), "");
        let found = self.compare(mount.path(), promises);
        mount.unmount();
        found.map_err(|why| format!("by the kernel: {why}"))?;
        judge::verdict(&copy).map_err(|why| format!("after the kernel: {why}"))?;

        let mount = Mount::new(
            Kind::Uext4,
            self.image.path(),
            &self.scratch.dir("again"),
            "",
        );
        let found = self.compare(mount.path(), promises);
        let now = loads::snapshot(&self.dir(mount.path(), self.round));
        mount.unmount();
        let files = found?;
        self.before = now.unwrap_or_default();
        judge::verdict(self.image.path())?;
        Ok(files)
    }

    fn compare(&self, root: &Path, promises: &Promises) -> Result<u64, String> {
        let here = self.dir(root, self.round);
        let mut files = 0;
        for (number, log) in promises.logs.iter().enumerate() {
            files += log.check(&here.join(format!("w{number}")))?;
        }
        for run in &promises.fio {
            loads::verify_fio(&here.join("fio"), *run)?;
        }
        if !self.before.is_empty()
            && loads::snapshot(&self.dir(root, self.round - 1))? != self.before
        {
            return Err("the files of the round before have changed".into());
        }
        Ok(files)
    }
}

/// How the round ends, and the options that make it so.
fn ending(rng: &mut Rng, round: u64) -> (End, String) {
    let base = if rng.below(2) == 0 {
        "rw,commit=1"
    } else {
        "rw"
    };
    let (at, seed) = (30 + rng.below(6000), 1 + rng.below(1 << 40));
    if !cfg!(feature = "faults") || round.is_multiple_of(2) {
        return (End::Kill, base.into());
    }
    let lose = format!("{base},fault=drop-cache-at={at}");
    if rng.below(2) == 0 {
        (End::Lose, lose)
    } else {
        (End::LoseSome, format!("{lose},fault=keep-some={seed}"))
    }
}

/// Until the daemon ends by itself, at most `limit`.
fn wait(mount: &Mount, limit: Duration) {
    let end = Instant::now() + limit;
    while Instant::now() < end && !mount.has_ended() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text}")),
        Err(_) => default,
    }
}

#[test]
fn what_was_fsynced_survives_a_kill() {
    let (rounds, seed) = (number("UEXT4_KILL_ROUNDS", 5), number("UEXT4_KILL_SEED", 1));
    // Few images, many rounds on each: they age.
    let each = if rounds >= 50 { 10 } else { 2 };
    let mut totals = Totals::default();
    let mut done = 0;
    while done < rounds {
        let form = FORMS[(done / each) as usize % FORMS.len()];
        let mut stage = Stage::new(form, seed);
        for round in done..rounds.min(done + each) {
            let start = Instant::now();
            stage.round(round);
            println!(
                "round {round}: {form}, {:.1} s",
                start.elapsed().as_secs_f32()
            );
        }
        done += each;
        totals.rounds += stage.totals.rounds;
        totals.power_cuts += stage.totals.power_cuts;
        totals.syncs += stage.totals.syncs;
        totals.files += stage.totals.files;
        totals.fio += stage.totals.fio;
    }
    println!(
        "seed {seed}: {} rounds ({} with a lost write cache), {} syncs acknowledged, {} files and {} fio runs as promised, \
         nothing lost",
        totals.rounds, totals.power_cuts, totals.syncs, totals.files, totals.fio
    );
    assert!(totals.syncs > 5 * rounds, "the load synced: {totals:?}");
}

#[test]
fn e2fsck_replays_what_a_killed_daemon_left() {
    let scratch = Scratch::new();
    let image = Image::default(&scratch);
    let mount = Mount::new(Kind::Uext4, image.path(), &scratch.dir("mnt"), "");
    std::fs::write(mount.at("kept"), "kept").expect("write");
    File::open(mount.at("kept"))
        .and_then(|file| file.sync_all())
        .expect("fsync");
    mount.kill();
    let outcome = harness::attempt!("e2fsck", "-fp", image.path());
    assert!(
        matches!(outcome.code, Some(0 | 1)),
        "{}",
        outcome.describe()
    );
    judge::clean(&image);
    let kept = harness::mount::with_kernel(&image, &scratch.dir("kernel"), "ro", |root| {
        std::fs::read(root.join("kept"))
    });
    assert_eq!(kept.expect("kept"), b"kept");
}

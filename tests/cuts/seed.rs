//! One seed: a run of operations, and the images that a cut may leave at any place of it.

pub use crate::aside::select;
use crate::form::Setup;
use crate::generate::Generator;
use crate::judge::{Judge, caught, census, clean, replay_by_e2fsck};
use crate::met::Met;
use crate::model::Model;
use crate::op::{Op, Run};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use uext4::canary::Canary;
use uext4::device::record::Event;
use uext4::device::sim::{Disk, Image, Kept, Power, Rng, SECTOR};

/// Operations of a seed.
pub const STEPS: usize = 60;
/// Cuts of a seed; what they leave has been seen before in some of them.
pub const STATES: usize = 1000;
/// What was seen before does not count, and is drawn again at most this often.
const DRAWS: u32 = 4;

/// Every how many images what is done.
#[derive(Clone, Copy)]
pub struct Samples {
    pub e2fsck: u64,
    /// Cut once more while the next mount recovers or unmounts.
    pub again: u64,
    pub e2fsck_replay: u64,
    /// Made whole by our own checker first.
    pub preened: u64,
    /// 0: never.
    pub kernel: u64,
}

pub const SAMPLES: Samples = Samples {
    e2fsck: 20,
    again: 10,
    e2fsck_replay: 250,
    preened: 30,
    kernel: 900,
};

/// What was recorded.
pub struct Recorded {
    pub setup: Setup,
    pub ops: Vec<Op>,
    pub base: Image,
    pub events: Vec<(usize, Event)>,
    pub model: Model,
    pub met: Met,
    /// The first operation of the model that belongs to each of `ops`.
    pub starts: Vec<usize>,
}

/// Where something went wrong, and what.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    pub event: usize,
    /// Index in the sequence of operations.
    pub op: usize,
    pub how: String,
    pub what: String,
    #[serde(skip)]
    pub image: Option<Vec<u8>>,
}

/// What has been done so far.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Counts {
    pub seeds: u64,
    pub events: u64,
    pub states: u64,
    pub distinct: u64,
    /// Judged by our own checker after they were mounted and unmounted.
    pub fsck: u64,
    pub e2fsck: u64,
    pub cut_again: u64,
    pub e2fsck_replay: u64,
    pub preened: u64,
    pub kernel: u64,
    pub torn_superblocks: u64,
    /// How often the log went round.
    pub wraps: u64,
    /// How often its tail moved.
    pub tail_moves: u64,
    pub met: Met,
    /// Evictions by policy, and those of them with a preallocation.
    pub evictions: BTreeMap<String, (u64, u64)>,
}

/// Runs the operations; those of the seed if none are given.
pub fn record(
    setup: &Setup,
    given: Option<&[Op]>,
    canary: Option<Canary>,
) -> Result<Recorded, String> {
    select(canary);
    let recorded = caught(|| record_now(setup, given));
    select(None);
    recorded
}

fn record_now(setup: &Setup, given: Option<&[Op]>) -> Result<Recorded, String> {
    let disk = Disk::new(setup.form().image());
    let text = |error: uext4::error::Error| error.to_string();
    let mut run = Run::begin(std::sync::Arc::clone(&disk) as _, setup).map_err(text)?;
    let base = disk.image();
    let mut generator = Generator::new(setup.seed, setup.profile, setup.form().extents);
    let (mut ops, mut starts) = (Vec::new(), Vec::new());
    for step in 0..given.map_or(STEPS, <[Op]>::len) {
        let op = match given {
            Some(given) => given[step].clone(),
            None => generator.next(&run.model),
        };
        starts.push(run.model.now());
        ops.push(op);
        let op = &ops[step];
        run.run(op)
            .map_err(|error| format!("operation {step}, {op:?}: {error}"))?;
    }
    run.end().map_err(text)?;
    Ok(Recorded {
        setup: setup.clone(),
        met: run.met,
        ops,
        base,
        events: run.events,
        model: run.model,
        starts,
    })
}

/// The magic number of the journal's blocks and of a descriptor or revoke block, or of its superblock.
fn journal_block(bytes: &[u8]) -> Option<u32> {
    let word = |at: usize| {
        bytes
            .get(at..at + 4)?
            .try_into()
            .ok()
            .map(u32::from_be_bytes)
    };
    (word(0)? == 0xc03b_3998).then(|| word(4))?
}

impl Recorded {
    /// Index in `ops` of an operation of the model.
    fn op_of(&self, now: usize) -> usize {
        self.starts
            .partition_point(|&start| start <= now)
            .saturating_sub(1)
    }

    /// Counts how often the log went round and its tail moved.
    fn count_log(&self, counts: &mut Counts) {
        let mut last = 0;
        for (_, event) in &self.events {
            let Event::Write { offset, bytes } = event else {
                continue;
            };
            match journal_block(bytes) {
                Some(1 | 5) => {
                    counts.wraps += u64::from(*offset < last);
                    last = *offset;
                }
                Some(3 | 4) => counts.tail_moves += 1,
                _ => {}
            }
        }
    }

    /// Judges about `states` images; the first that does not survive ends it. `known`: images seen before.
    pub fn examine(
        &self,
        states: usize,
        samples: &Samples,
        known: &mut dyn FnMut(u128) -> bool,
        counts: &mut Counts,
    ) -> Option<Failure> {
        let whole = caught(|| census(self.base.clone()).map_err(|e| e.to_string()));
        let census = match whole {
            Ok(census) => census,
            Err(what) => return Some(self.failure(0, 0, "before the run", what, &self.base)),
        };
        let judge = Judge {
            form: self.setup.form(),
            model: &self.model,
            census,
        };
        counts.seeds += 1;
        counts.events += self.events.len() as u64;
        self.count_log(counts);
        counts.met.add(&self.met);
        let evicted = (self.met.evicted, self.met.evicted_with_preallocations);
        counts.evictions.insert(self.setup.evict.clone(), evicted);
        let mut examination = Examination {
            recorded: self,
            judge,
            samples,
            rng: Rng(self.setup.seed ^ 0x5eed),
            seen: HashSet::new(),
            known,
            counts,
        };
        examination.all(states).err().map(|failure| *failure)
    }

    fn failure(&self, event: usize, now: usize, how: &str, what: String, image: &Image) -> Failure {
        Failure {
            event,
            op: self.op_of(now),
            how: how.into(),
            what,
            image: Some(image.bytes()),
        }
    }
}

struct Examination<'a> {
    recorded: &'a Recorded,
    judge: Judge<'a>,
    samples: &'a Samples,
    rng: Rng,
    /// Images and the operation that they were judged for.
    seen: HashSet<(u128, usize)>,
    known: &'a mut dyn FnMut(u128) -> bool,
    counts: &'a mut Counts,
}

/// A place in the run.
#[derive(Clone, Copy)]
struct Place {
    event: usize,
    /// The operation of the model that is under way.
    now: usize,
}

const SAMPLED: [Kept; 8] = [
    Kept::Writes,
    Kept::AllButOne,
    Kept::Pieces(4096),
    Kept::Newest,
    Kept::Pieces(SECTOR),
    Kept::Writes,
    Kept::Pieces(4096),
    Kept::Pieces(SECTOR),
];

impl Examination<'_> {
    fn all(&mut self, states: usize) -> Result<(), Box<Failure>> {
        let recorded = self.recorded;
        let mut power = Power::new(recorded.base.clone());
        let events = &recorded.events;
        // The places where something can be missing share what is left of the number.
        let open = events.iter().filter(|(_, e)| *e != Event::Sync).count();
        let each = states.saturating_sub(events.len()) as f64 / open.max(1) as f64 * 1.3;
        let mut owed = 0.0;
        for event in 0..=events.len() {
            let now = events
                .get(event)
                .map_or(recorded.model.now(), |(now, _)| *now);
            let place = Place { event, now };
            self.one(&power, Kept::All, place)?;
            if power.pending() > 0 {
                owed += each;
                while owed >= 1.0 {
                    owed -= 1.0;
                    let kept = SAMPLED[self.rng.below(SAMPLED.len() as u64) as usize];
                    // What was seen before is no new image.
                    let judged = self.counts.states;
                    for _ in 0..DRAWS {
                        if self.counts.states == judged {
                            self.one(&power, kept, place)?;
                        }
                    }
                }
            }
            self.torn(&power, place)?;
            if let Some((_, event)) = events.get(event) {
                power.apply(event).expect("inside of the image");
            }
        }
        Ok(())
    }

    fn fail(&self, place: Place, how: &str, what: String, image: &Image) -> Box<Failure> {
        Box::new(
            self.recorded
                .failure(place.event, place.now, how, what, image),
        )
    }

    fn one(&mut self, power: &Power, kept: Kept, place: Place) -> Result<(), Box<Failure>> {
        let image = power.cut(kept, &mut self.rng).expect("inside of the image");
        if !self.seen.insert((image.fingerprint(), place.now)) {
            return Ok(());
        }
        self.counts.states += 1;
        self.counts.distinct += u64::from((self.known)(image.fingerprint()));
        let how = format!("{kept:?}");
        let done = caught(|| self.judge.survives(image.clone(), place.now));
        let (written, after) = match done {
            Ok(done) => done,
            Err(mut what) => {
                if let Err(theirs) = replay_by_e2fsck(&image) {
                    what = format!("{what}; {theirs}");
                }
                return Err(self.fail(place, &how, what, &image));
            }
        };
        self.counts.fsck += 1;
        let number = self.counts.states;
        let due = |every: u64| every > 0 && number.is_multiple_of(every);
        if due(self.samples.e2fsck) {
            // Ours has found nothing.
            clean(&after).map_err(|what| self.fail(place, &how, what, &image))?;
            self.counts.e2fsck += 1;
        }
        if due(self.samples.e2fsck_replay) {
            let done = caught(|| self.judge.survives_replay_by_e2fsck(&image, place.now));
            done.map_err(|what| self.fail(place, &how, what, &image))?;
            self.counts.e2fsck_replay += 1;
        }
        if due(self.samples.preened) {
            let done = caught(|| self.judge.survives_preening(&image, place.now));
            done.map_err(|what| self.fail(place, &how, what, &image))?;
            self.counts.preened += 1;
        }
        if due(self.samples.kernel) {
            let done = self.judge.survives_in_the_kernel(&image, place.now);
            done.map_err(|what| self.fail(place, &how, what, &image))?;
            self.counts.kernel += 1;
        }
        if due(self.samples.again) {
            self.again(&image, &written, place)?;
        }
        Ok(())
    }

    /// The power is cut once more, while the next mount recovers or unmounts.
    fn again(
        &mut self,
        image: &Image,
        written: &[Event],
        place: Place,
    ) -> Result<(), Box<Failure>> {
        let at = self.rng.below(written.len() as u64 + 1) as usize;
        let mut power = Power::new(image.clone());
        for event in &written[..at] {
            power.apply(event).expect("inside of the image");
        }
        let image = power
            .cut(Kept::Pieces(4096), &mut self.rng)
            .expect("inside of the image");
        self.counts.states += 1;
        self.counts.distinct += u64::from((self.known)(image.fingerprint()));
        self.counts.cut_again += 1;
        let done = caught(|| self.judge.survives(image.clone(), place.now));
        let after = done.map_err(|what| self.fail(place, "cut again", what, &image))?;
        self.counts.fsck += 1;
        if self.counts.cut_again.is_multiple_of(self.samples.e2fsck) {
            clean(&after.1).map_err(|what| self.fail(place, "cut again", what, &image))?;
        }
        Ok(())
    }

    fn torn(&mut self, power: &Power, place: Place) -> Result<(), Box<Failure>> {
        if !self.judge.form.backup || power.pending() == 0 {
            return Ok(());
        }
        let image = power
            .cut(Kept::TornSuperblock, &mut self.rng)
            .expect("inside of the image");
        if !self.seen.insert((image.fingerprint(), place.now)) {
            return Ok(());
        }
        self.counts.states += 1;
        self.counts.distinct += u64::from((self.known)(image.fingerprint()));
        self.counts.torn_superblocks += 1;
        let done = caught(|| self.judge.survives_torn(image.clone(), place.now));
        done.map_err(|what| self.fail(place, "torn superblock", what, &image))
    }
}

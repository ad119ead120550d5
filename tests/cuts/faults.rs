//! Without a journal, what was synced; and with one, a device that fails once.

use crate::form::{Profile, Setup, mount_image};
use crate::judge::{Judge, census, clean, e2fsck};
use crate::model::Kind;
use crate::op::{Op, Run};
use crate::seed::{record, steps};
use crate::tree::dump;
use std::sync::Arc;
use uext4::device::Device;
use uext4::device::fault::{Faults, Faulty};
use uext4::device::sim::{Disk, Kept, Power, Rng};
use uext4::error::{Error, Posix};
use uext4::fs::WriteMode;
use uext4::ids::InodeNumber;

pub fn setup(form: &str, seed: u64) -> Setup {
    Setup {
        form: form.into(),
        seed,
        profile: Profile::General,
        spare: None,
        room: None,
        clean_after: 0,
    }
}

/// Without a journal e2fsck has to put things right; files that were synced and not changed since are whole.
/// Returns how many of these it looked at.
pub fn cut_without_a_journal(seed: u64) -> usize {
    let setup = setup("^has_journal", seed);
    let recorded = record(&setup, None, None).expect("it runs");
    let (model, events) = (&recorded.model, &recorded.events);
    let mut power = Power::new(recorded.base.clone());
    let mut rng = Rng(seed);
    let mut synced = 0;
    for at in 0..=events.len() {
        let op = events.get(at).map_or(model.now(), |(op, _)| *op);
        let image = power.cut(Kept::Pieces(1024), &mut rng).expect("inside");
        let (code, text, repaired) = e2fsck(&["-fy"], &image);
        assert!(code.is_some_and(|code| code <= 1), "event {at}: {text}");
        let (fs, disk) = mount_image(repaired).expect("it mounts");
        let (_, contents, _) = dump(&fs).expect("all of it is readable");
        match model.judge_synced(op, &contents) {
            Ok(files) => synced += files,
            Err(wrong) => panic!("event {at} in operation {op}: {wrong}"),
        }
        fs.unmount().expect("unmount");
        clean(&disk.image()).unwrap_or_else(|text| panic!("event {at}: {text}"));
        if let Some((_, event)) = events.get(at) {
            power.apply(event).expect("inside");
        }
    }
    synced
}

/// One write or sync fails: nothing is acknowledged any more, and what was is there. Every `stride`th of them.
pub fn fail_everywhere(form: &str, seed: u64, stride: usize, fault: impl Fn(u64) -> Faults) {
    let setup = setup(form, seed);
    let ops = record(&setup, None, None).expect("it runs").ops;
    let census = census(setup.form().image()).expect("the image");
    for number in (1..).step_by(stride) {
        let disk = Disk::new(setup.form().image());
        let inner = Arc::clone(&disk) as Arc<dyn Device>;
        let faulty = Arc::new(Faulty::new(inner, fault(number), || {}));
        let at = format!("{form} seed {seed}, {:?}", fault(number));
        let mut run = match Run::begin(Arc::clone(&faulty) as Arc<_>, &setup) {
            Ok(run) => run,
            Err(error) => {
                assert!(is_end(&error), "{at}: {error}");
                continue;
            }
        };
        let Some(error) = first_error(&mut run, &ops) else {
            assert!(number > 10, "{at}: nobody heard of it");
            return;
        };
        assert!(is_end(&error), "{at}: {error}");
        refuses_changes(&run, &at);
        let judge = Judge {
            form: setup.form(),
            model: &run.model,
            census,
        };
        let survived = judge.survives(disk.image(), run.model.now() - 1);
        let (_, after) = survived.unwrap_or_else(|wrong| panic!("{at}: {wrong}"));
        if number % 5 == 1 {
            clean(&after).unwrap_or_else(|text| panic!("{at}: {text}"));
        }
    }
}

fn first_error(run: &mut Run, ops: &[Op]) -> Option<Error> {
    steps(ops).find_map(|op| run.run(op).err())
}

/// What everything answers once writing has ended.
fn is_end(error: &Error) -> bool {
    matches!(
        error,
        Error::Io(_) | Error::Aborted | Error::Posix(Posix::RoFs)
    )
}

fn refuses_changes(run: &Run, at: &str) {
    for (number, node) in &run.model.tree.nodes {
        let ino = InodeNumber::new(*number);
        let synced = run
            .fs
            .fsync_wait(ino)
            .expect_err("fsync succeeds after a failure");
        assert!(is_end(&synced), "{at}");
        let written = run.fs.write(ino, 0, b"later", WriteMode::default());
        assert!(
            node.kind != Kind::File || written.is_err_and(|error| is_end(&error)),
            "{at}: a later write"
        );
    }
    run.fs
        .sync_all()
        .expect_err("sync succeeds after a failure");
    run.fs
        .unmount()
        .expect_err("unmount succeeds after a failure");
}

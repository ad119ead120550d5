//! Power cuts of images without a journal.

use crate::form::{NO_JOURNAL, Profile, Setup, mount_image};
use crate::judge::{clean, e2fsck_repairs};
use crate::seed::record;
use crate::tree::dump;
use uext4::device::sim::{Kept, Power, Rng};

/// Without a journal e2fsck has to put things right; files that were synced and not changed since are whole.
/// Returns how many of these it looked at.
pub fn cut_without_a_journal(seed: u64) -> usize {
    let setup = Setup {
        form: NO_JOURNAL.name.into(),
        seed,
        profile: Profile::General,
        spare: None,
        room: None,
        clean_after: 0,
        ..Setup::full(seed, "^has_journal", 0)
    };
    let recorded = record(&setup, None, None).expect("it runs");
    let (model, events) = (&recorded.model, &recorded.events);
    let mut power = Power::new(recorded.base.clone());
    let mut rng = Rng(seed);
    let mut synced = 0;
    for at in 0..=events.len() {
        let op = events.get(at).map_or(model.now(), |(op, _)| *op);
        let image = power.cut(Kept::Pieces(1024), &mut rng).expect("inside");
        let (code, text, repaired) = e2fsck_repairs(&["-fy"], &image);
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

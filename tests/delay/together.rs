//! Small files that are flushed together.

use super::*;

/// Small files go to the device in few pieces, each whole, and by the age of their data, too.
#[test]
fn small_files_are_flushed_together() {
    let disk = Disk::new(Image::new(&image("32M", &[])));
    let record = Arc::new(Record::new(Arc::clone(&disk) as Arc<_>));
    let clock = Arc::new(Ticks::default());
    let (device, ticks) = (Arc::clone(&record), Arc::clone(&clock));
    let fs = Fs::mount_at(device, options(), ticks).expect("it mounts");
    for by_age in [false, true] {
        let files: Vec<_> = (0..200_u64)
            .map(|i| create(&fs, &format!("{by_age}{i}")))
            .collect();
        fs.sync_all().expect("sync");
        let byte = |i: u64| 1 + (i % 250) as u8;
        for (i, ino) in (0..).zip(&files) {
            // A few that are not small, and holes.
            let length = if i % 60 == 59 {
                300_000
            } else {
                1 + 57 * i as usize
            };
            write(&fs, *ino, (i % 7 / 6) << 14, &vec![byte(i); length]);
        }
        record.take();
        if by_age {
            clock.advance(Duration::from_secs(60));
            while fs.flush_step().expect("a step") {}
        } else {
            fs.sync_all().expect("sync");
        }
        let writes = record.take().into_iter().filter(|event| {
            matches!(event, Event::Write { bytes, .. } if bytes[0] > 0 && bytes[0] == bytes[64.min(bytes.len() - 1)])
        });
        let writes = writes.count();
        assert!((3..60).contains(&writes), "{writes} writes of data");
        fs.sync_all().expect("sync");
        for (i, ino) in (0..).zip(&files) {
            let (from, size) = ((i % 7 / 6) << 14, fs.getattr(*ino).expect("it").size);
            let bytes = read(&fs, *ino, from, 400_000);
            assert_eq!(from + bytes.len() as u64, size);
            assert!(bytes.iter().all(|&b| b == byte(i)), "file {i}");
        }
    }
    fs.unmount().expect("unmount");
    check(&disk.image().bytes());
}

/// A piece that holds data of many files fails: each of them is told, and still read.
#[test]
fn a_failed_write_is_told_to_all_whose_data_it_was() {
    let disk = Disk::new(Image::new(&image("32M", &[])));
    let fs = mount(Arc::clone(&disk) as Arc<_>);
    let files: Vec<_> = (0..20).map(|i| create(&fs, &format!("f{i}"))).collect();
    fs.unmount().expect("unmount");
    let faults = Faults {
        eio_write: Some(1),
        ..Faults::default()
    };
    let fs = mount(Arc::new(Faulty::new(disk, faults, || {})));
    for (i, ino) in (1..).zip(&files) {
        write(&fs, *ino, 0, &[i; 5000]);
    }
    assert!(fs.sync_all().is_err());
    for (i, ino) in (1..).zip(&files) {
        assert!(fs.fsync_wait(*ino).is_err());
        assert!(read(&fs, *ino, 0, 9000) == [i; 5000]);
    }
    assert!(fs.unmount().is_err());
}

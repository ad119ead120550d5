//! Writes on a file system that becomes full.

use super::*;

/// write(2) on a file system that becomes full: what fits is written, to the last block, and counted.
#[test]
fn a_write_that_does_not_fit_is_done_in_part() {
    const LENGTH: usize = 100_000;
    for how in [KEEP, DIRECT] {
        for form in [&["-b", "1024"][..], &[]] {
            let disk = Disk::new(Image::new(&image("16M", form)));
            let fs = mount(Arc::clone(&disk) as Arc<_>);
            let ino = create(&fs, "f");
            let block = u64::from(fs.geometry().block_size);
            let (mut size, mut short) = (0, 0);
            let error = loop {
                // Not from the beginning of a block.
                let data = vec![7; if size == 0 { 1500 } else { LENGTH }];
                match fs.write_some(ino, size, &data, how) {
                    Ok(0) => panic!("nothing is no answer"),
                    Ok(written) => {
                        short += u32::from(written < data.len());
                        size += written as u64;
                    }
                    Err(error) => break error,
                }
            };
            assert!(error.is_posix(Posix::NoSpc), "{error}");
            assert_eq!(fs.getattr(ino).expect("it").size, size);
            assert!(short > 0 && size % block == 0, "{short} short, {size}");
            // The whole or nothing where it is asked for.
            let whole = fs.write(ino, size, &[1; LENGTH], KEEP);
            assert!(whole.is_err(), "a part is not all");
            assert_eq!(fs.getattr(ino).expect("it").size, size);
            // An overwrite needs no space.
            let over = fs.write_some(ino, 0, &[7; LENGTH], how);
            assert_eq!(over.expect("it has blocks"), LENGTH);
            fs.unmount().expect("unmount");
            drop(fs);
            check(&disk.image().bytes());
            let fs = mount(Arc::clone(&disk) as Arc<_>);
            assert!(fs.statfs().free < 8, "{:?}", fs.statfs());
            let mut at = 0;
            while at < size {
                let bytes = read(&fs, ino, at, 1 << 17);
                assert!(bytes.iter().all(|&b| b == 7));
                at += bytes.len() as u64;
            }
            fs.unmount().expect("unmount");
        }
    }
}

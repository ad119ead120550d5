//! Bitmaps and orphan records that are wrong: the allocator goes round them, the mount says so.
//!
//! Source: the kernel's ext4 documentation, "Block and inode Bitmaps", "Orphan file".

use super::without_fuse::{CoreImage, ROOT, Walk, create, file, run};
use super::{CSUM, error_lines, field, find, listen, options, populated};
use uext4::error::{Error, Posix};
use uext4::fs::{ErrorPolicy, Fs, NewNode, Options, WriteMode};

/// Where a group's bitmaps lie, as dumpe2fs says.
fn bitmap_of(image: &CoreImage, group: u32, which: &str) -> u64 {
    let text = run("dumpe2fs", &[image.text()]);
    let section = text
        .split(&format!("\nGroup {group}:"))
        .nth(1)
        .expect("a group");
    let rest = section
        .split(&format!("{which} bitmap at "))
        .nth(1)
        .expect("a bitmap");
    rest.split(|c: char| !c.is_ascii_digit())
        .next()
        .and_then(|n| n.parse().ok())
        .expect("a block")
}

#[test]
fn a_block_bitmap() {
    let image = populated(CSUM);
    image.flip(bitmap_of(&image, 0, "Block") * 4096 + 300);
    let free = |fs: &Fs| {
        fs.unlink(ROOT, b"slow")
            .and_then(|()| fs.unlink(ROOT, b"holes"))
    };
    listen();
    let fs = image
        .mount(options(ErrorPolicy::Continue))
        .expect("it mounts");
    // Without a user they are freed at once.
    for name in [b"holes".as_slice(), b"slow"] {
        let attr = fs.lookup(ROOT, name).expect("it is there");
        fs.forget(attr.ino, 1);
    }
    free(&fs).expect("names go");
    while fs.reap_step() {}
    let lines = error_lines();
    assert!(
        lines
            .iter()
            .any(|line| line.contains("block bitmap: checksum is")),
        "{lines:?}"
    );
    // The group is given up, so there is no space left in it; nothing is ever written over.
    let new = file(&fs, ROOT, "new");
    let written = fs.write(new, 0, &[1; 10_000], WriteMode::default());
    if let Err(error) = &written {
        assert!(
            error.is_posix(Posix::NoSpc) || matches!(error, Error::Corrupt { .. }),
            "{error}"
        );
    }
    assert_eq!(
        fs.read(find(&fs, "witness"), 0, 100)
            .expect("the witness")
            .as_slice(),
        b"still here"
    );
    // Data that was accepted has no place to go: then the unmount says so.
    if let Err(error) = fs.unmount() {
        assert!(written.is_ok(), "{error}");
        assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    }
    drop(fs);
    assert!(image.header("FS Error count").is_some());
}

#[test]
fn one_bad_block_bitmap_among_many() {
    let image = CoreImage::mke2fs("40M", "-t ext4 -b 1024 -O metadata_csum_seed,^flex_bg");
    image.flip(bitmap_of(&image, 0, "Block") * 1024 + 300);
    listen();
    let fs = image
        .mount(options(ErrorPolicy::Continue))
        .expect("it mounts");
    let new = file(&fs, ROOT, "new");
    // Whoever meets it first may fail; the rest of the volume serves the others.
    let first = fs.write(new, 0, &[1; 100_000], WriteMode::default());
    if let Err(error) = &first {
        fs.report(error);
    }
    fs.write(new, 0, &[2; 100_000], WriteMode::default())
        .expect("other groups have space");
    assert_eq!(fs.read(new, 50_000, 3).expect("read").as_slice(), [2; 3]);
    fs.unmount().expect("unmount");
    drop(fs);
    assert!(
        image.header("FS Error count").is_some(),
        "it was met and recorded"
    );
}

#[test]
fn an_inode_bitmap() {
    let image = CoreImage::mke2fs("40M", "-t ext4 -b 1024 -O metadata_csum_seed,^flex_bg");
    image.flip(bitmap_of(&image, 0, "Inode") * 1024 + 20);
    listen();
    let fs = image
        .mount(options(ErrorPolicy::Continue))
        .expect("it mounts");
    let first = create(&fs, ROOT, "new", NewNode::File { mode: 0o600 });
    if let Err(error) = &first {
        fs.report(error);
    }
    let second = create(&fs, ROOT, "another", NewNode::File { mode: 0o600 });
    assert!(second.is_ok(), "{:?}", second.err());
    fs.unmount().expect("unmount");
    drop(fs);
    assert!(
        image.header("FS Error count").is_some(),
        "it was met and recorded"
    );
}

#[test]
fn an_orphan_that_is_damaged() {
    let image = populated("-t ext4 -b 1024 -O ^orphan_file,^metadata_csum");
    let number: u32 = field(&image.debugfs("stat /holes"), "Inode: ");
    image.patch(image.inode_at("/holes") + 40, &[0; 2]);
    image.debugfs_write("set_inode_field /holes links_count 0");
    image.debugfs_write(&format!("set_super_value last_orphan {number}"));
    listen();
    let fs = image
        .mount(options(ErrorPolicy::Continue))
        .expect("it mounts");
    let notices = fs.notices();
    let word = format!("orphaned inode {number}: extent tree node: magic");
    assert!(
        notices.iter().any(|line| line.contains(&word)),
        "{notices:?}"
    );
    assert_eq!(
        fs.read(find(&fs, "witness"), 0, 100)
            .expect("the witness")
            .as_slice(),
        b"still here"
    );
    fs.unmount().expect("unmount");
    drop(fs);
    assert!(image.header("FS Error count").is_some());
    assert_eq!(image.header("First orphan inode"), Some(number.to_string()));
}

#[test]
fn an_orphan_list_with_a_loop() {
    let image = populated("-t ext4 -b 4096 -O ^orphan_file");
    image.debugfs_write("set_inode_field /witness dtime 0");
    let number = |path: &str| field(&image.debugfs(&format!("stat {path}")), "Inode: ");
    let (a, b) = (number("/holes"), number("/attributes"));
    image.debugfs_write(&format!("set_super_value last_orphan {a}"));
    image.debugfs_write(&format!("set_inode_field /holes dtime {b}"));
    image.debugfs_write(&format!("set_inode_field /attributes dtime {a}"));
    let fs = image.mount(Options::default()).expect("it mounts");
    assert!(fs.is_read_only());
    let notices = fs.notices();
    assert!(
        notices.iter().any(|line| line.contains("orphan list")),
        "{notices:?}"
    );
    assert_eq!(
        fs.read(find(&fs, "witness"), 0, 100)
            .expect("the witness")
            .as_slice(),
        b"still here"
    );
    assert!(Walk::everything(&fs).errors.is_empty());
    fs.unmount().expect("unmount");
}

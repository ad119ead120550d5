//! The sticky cases of POSIX calls, as the kernel's ext4 answers them; and a file system whose device has failed.
//!
//! Source: POSIX; Linux chattr(1), xattr(7), symlink(7), rename(2); the design's section on errors.

#[path = "common/without_fuse.rs"]
mod without_fuse;

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use uext4::device::Device;
use uext4::device::file::{Access, FileDevice};
use uext4::error::{Error, IoError, Posix, Result};
use uext4::fs::{Caller, Fs, NewNode, Options, RenameMode, SetAttr, WriteMode};
use uext4::ids::InodeNumber;
use uext4::xattr::SetMode;
use without_fuse::{CoreImage, ROOT, create, directory, file, list, write};

const CALLER: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 0,
};
const IMMUTABLE: u32 = 0x10;
const APPEND: u32 = 0x20;

#[track_caller]
fn refused<T>(result: Result<T>, expected: Posix) {
    let error = result.err().expect("it is refused");
    assert!(error.is_posix(expected), "{error}, expected {expected}");
}

fn set_flags(fs: &Fs, ino: InodeNumber, flag: u32) {
    let flags = fs.flags(ino).expect("flags") & !(IMMUTABLE | APPEND);
    fs.set_flags(CALLER, ino, flags | flag).expect("flags");
}

#[test]
fn immutable_and_append_only_parents() {
    let image = CoreImage::mke2fs("16M", "-t ext4");
    let fs = image.mount_rw();
    let (dir, other) = (directory(&fs, ROOT, "dir"), directory(&fs, ROOT, "other"));
    let (a, b) = (file(&fs, dir, "a"), file(&fs, other, "b"));
    directory(&fs, dir, "sub");
    let rename = |from, to, mode| fs.rename(CALLER, from, to, mode);
    for flag in [IMMUTABLE, APPEND] {
        set_flags(&fs, dir, flag);
        refused(fs.unlink(dir, b"a"), Posix::Perm);
        refused(fs.rmdir(dir, b"sub"), Posix::Perm);
        let replace = RenameMode::Replace;
        refused(
            rename((dir, b"a".as_slice()), (other, b"x".as_slice()), replace),
            Posix::Perm,
        );
        refused(
            rename((other, b"b".as_slice()), (dir, b"a".as_slice()), replace),
            Posix::Perm,
        );
        for ends in [((dir, b"a"), (other, b"b")), ((other, b"b"), (dir, b"a"))] {
            let ((from, old), (to, new)) = ends;
            let done = rename(
                (from, old.as_slice()),
                (to, new.as_slice()),
                RenameMode::Exchange,
            );
            refused(done, Posix::Perm);
        }
    }
    // What is added to an append-only directory stays.
    file(&fs, dir, "added");
    fs.link(b, dir, b"linked").expect("a link");
    rename(
        (other, b"b".as_slice()),
        (dir, b"moved".as_slice()),
        RenameMode::Replace,
    )
    .expect("a rename");
    set_flags(&fs, dir, IMMUTABLE);
    refused(
        create(&fs, dir, "c", NewNode::File { mode: 0o600 }),
        Posix::Perm,
    );
    refused(fs.link(b, dir, b"again"), Posix::Perm);
    set_flags(&fs, dir, 0);
    for flag in [IMMUTABLE, APPEND] {
        set_flags(&fs, a, flag);
        refused(fs.unlink(dir, b"a"), Posix::Perm);
        refused(fs.link(a, other, b"hard"), Posix::Perm);
        refused(
            rename(
                (dir, b"a".as_slice()),
                (other, b"x".as_slice()),
                RenameMode::Replace,
            ),
            Posix::Perm,
        );
        refused(fs.open(a, true, false, false), Posix::Perm);
        let size = SetAttr {
            size: Some(1),
            ..SetAttr::default()
        };
        refused(fs.setattr(CALLER, a, &size), Posix::Perm);
        refused(
            fs.setxattr(CALLER, a, b"user.a", Some(b"v"), SetMode::Any),
            Posix::Perm,
        );
    }
    set_flags(&fs, a, 0);
    fs.unmount().expect("unmount");
    drop(fs);
    image.fsck();
}

#[test]
fn a_removed_directory() {
    let image = CoreImage::mke2fs("16M", "-t ext4");
    let fs = image.mount_rw();
    let dir = directory(&fs, ROOT, "dir");
    let f = file(&fs, ROOT, "f");
    fs.rmdir(ROOT, b"dir").expect("rmdir");
    let (entries, error) = list(&fs, dir);
    assert!(entries.is_empty() && error.is_none(), "{entries:?}");
    refused(
        create(&fs, dir, "x", NewNode::File { mode: 0o600 }),
        Posix::NoEnt,
    );
    refused(
        create(&fs, dir, "x", NewNode::Directory { mode: 0o700 }),
        Posix::NoEnt,
    );
    refused(fs.link(f, dir, b"x"), Posix::NoEnt);
    refused(
        fs.rename(CALLER, (ROOT, b"f"), (dir, b"x"), RenameMode::Replace),
        Posix::NoEnt,
    );
    refused(fs.lookup(dir, b"x"), Posix::NoEnt);
    assert_eq!(fs.getattr(dir).expect("attributes").nlink, 0);
    fs.forget(dir, u64::MAX);
    while fs.reap_step() {}
    refused(fs.getattr(dir), Posix::Stale);
    fs.unmount().expect("unmount");
    drop(fs);
    image.fsck();
}

#[test]
fn symbolic_links_of_all_lengths() {
    for (options, block) in [
        ("-t ext4 -b 4096", 4096),
        ("-t ext4 -b 1024 -I 128", 1024),
        ("-t ext2 -b 4096", 4096),
    ] {
        let image = CoreImage::mke2fs("16M", options);
        let fs = image.mount_rw();
        for length in [1, 59, 60, 255, 1000, block - 1] {
            let target = vec![b't'; length];
            let made = create(
                &fs,
                ROOT,
                &format!("l{length}"),
                NewNode::Symlink { target: &target },
            );
            let made = made.expect("a link");
            assert_eq!(fs.readlink(made.ino).expect("the target"), target);
            let blocks = fs.getattr(made.ino).expect("attributes").blocks;
            assert_eq!(
                blocks,
                if length < 60 { 0 } else { block as u64 / 512 },
                "{length}"
            );
            assert_eq!(made.size, length as u64);
        }
        let long = vec![b't'; block];
        refused(
            create(&fs, ROOT, "long", NewNode::Symlink { target: &long }),
            Posix::NameTooLong,
        );
        refused(
            create(&fs, ROOT, "empty", NewNode::Symlink { target: b"" }),
            Posix::NoEnt,
        );
        let link = fs.lookup(ROOT, b"l59").expect("a link").ino;
        let size = SetAttr {
            size: Some(3),
            ..SetAttr::default()
        };
        refused(fs.setattr(CALLER, link, &size), Posix::Inval);
        let owner = SetAttr {
            uid: Some(7),
            gid: Some(8),
            ..SetAttr::default()
        };
        assert_eq!(fs.setattr(CALLER, link, &owner).expect("chown").uid, 7);
        refused(
            fs.setxattr(CALLER, link, b"user.a", Some(b"v"), SetMode::Any),
            Posix::Perm,
        );
        fs.setxattr(CALLER, link, b"trusted.a", Some(b"v"), SetMode::Any)
            .expect("an attribute");
        assert_eq!(fs.readlink(link).expect("the target").len(), 59);
        for name in ["l1", "l255"] {
            fs.unlink(ROOT, name.as_bytes()).expect("unlink");
        }
        fs.unmount().expect("unmount");
        drop(fs);
        image.fsck();
    }
}

#[test]
fn as_many_links_as_can_be_counted() {
    let image = CoreImage::mke2fs("16M", "-t ext4");
    let fs = image.mount_rw();
    let f = file(&fs, ROOT, "f");
    fs.unmount().expect("unmount");
    drop(fs);
    image.debugfs_write("set_inode_field /f links_count 64999");
    let fs = image.mount_rw();
    fs.link(f, ROOT, b"last").expect("the last link");
    refused(fs.link(f, ROOT, b"more"), Posix::MLink);
    fs.unlink(ROOT, b"last").expect("unlink");
    fs.link(f, ROOT, b"more").expect("there is room again");
    fs.unmount().expect("unmount");
}

#[test]
fn names_and_sizes_of_attributes() {
    let image = CoreImage::mke2fs("16M", "-t ext4 -b 4096");
    let fs = image.mount_rw();
    let f = file(&fs, ROOT, "f");
    let set = |name: &[u8], value: &[u8], mode| fs.setxattr(CALLER, f, name, Some(value), mode);
    let longest = [b"user.".as_slice(), &[b'n'; 250]].concat();
    set(&longest, b"value", SetMode::Create).expect("255 bytes");
    assert_eq!(fs.getxattr(f, &longest).expect("a value"), b"value");
    let longer = [longest.as_slice(), b"n"].concat();
    refused(set(&longer, b"value", SetMode::Any), Posix::Range);
    refused(set(b"user.", b"value", SetMode::Any), Posix::Inval);
    refused(set(b"other.name", b"value", SetMode::Any), Posix::OpNotSupp);
    refused(set(&longest, b"v", SetMode::Create), Posix::Exist);
    refused(set(b"user.none", b"v", SetMode::Replace), Posix::NoData);
    refused(fs.getxattr(f, b"user.none"), Posix::NoData);
    refused(
        fs.setxattr(CALLER, f, b"user.none", None, SetMode::Replace),
        Posix::NoData,
    );
    refused(
        set(b"user.big", &vec![0; 65_536], SetMode::Any),
        Posix::NoSpc,
    );
    refused(
        set(b"user.big", &vec![0; 65_537], SetMode::Any),
        Posix::TooBig,
    );
    set(b"user.most", &[1; 3400], SetMode::Any).expect("what a block holds");
    refused(set(b"user.rest", &[2; 600], SetMode::Any), Posix::NoSpc);
    set(b"user.empty", b"", SetMode::Any).expect("an empty value");
    assert_eq!(fs.getxattr(f, b"user.empty").expect("a value"), b"");
    let names = fs.listxattr(CALLER, f).expect("names");
    assert_eq!(
        names
            .split(|&b| b == 0)
            .filter(|name| !name.is_empty())
            .count(),
        3
    );
    // A hidden name space is hidden from others alone.
    set(b"trusted.t", b"1", SetMode::Any).expect("an attribute");
    let other = Caller {
        uid: 1000,
        gid: 1000,
        pid: 1,
    };
    let shown = |caller| {
        fs.listxattr(caller, f)
            .expect("names")
            .windows(9)
            .any(|w| w == b"trusted.t")
    };
    assert!(shown(CALLER) && !shown(other));
    fs.unmount().expect("unmount");
    drop(fs);
    image.fsck();
}

#[test]
fn what_an_unlinked_inode_leaves_on_disk() {
    for options in [
        "-t ext4 -b 4096",
        "-t ext4 -O ^orphan_file,^metadata_csum",
        "-t ext2",
    ] {
        let image = CoreImage::mke2fs("16M", options);
        let fs = image.mount_rw();
        let f = file(&fs, ROOT, "f");
        write(&fs, f, 0, &[1; 50_000]);
        fs.setxattr(CALLER, f, b"user.v", Some(&[3; 600]), SetMode::Any)
            .expect("an attribute");
        let dir = directory(&fs, ROOT, "dir");
        let target = [b't'; 100];
        let link = create(&fs, ROOT, "link", NewNode::Symlink { target: &target })
            .expect("a link")
            .ino;
        let fifo = NewNode::Special {
            mode: 0o010_600,
            rdev: (0, 0),
        };
        let fifo = create(&fs, ROOT, "fifo", fifo).expect("a fifo").ino;
        let free = fs.statfs().free_files;
        fs.unlink(ROOT, b"f").expect("unlink");
        fs.rmdir(ROOT, b"dir").expect("rmdir");
        fs.unlink(ROOT, b"link").expect("unlink");
        fs.unlink(ROOT, b"fifo").expect("unlink");
        let all = [f, dir, link, fifo];
        all.iter().for_each(|&ino| fs.forget(ino, u64::MAX));
        while fs.reap_step() {}
        assert_eq!(fs.statfs().free_files, free + 4);
        fs.unmount().expect("unmount");
        drop(fs);
        for ino in all {
            let text = image.debugfs(&format!("stat <{ino}>"));
            assert!(
                text.contains("Links: 0") && text.contains("dtime: 0x"),
                "{text}"
            );
            assert!(text.contains("Blockcount: 0"), "{text}");
        }
        image.fsck();
    }
}

/// A device that refuses to write from some moment on.
struct Failing {
    inner: FileDevice,
    broken: AtomicBool,
}

impl Failing {
    fn check(&self, offset: u64, length: u64) -> Result<()> {
        if !self.broken.load(Ordering::Relaxed) {
            return Ok(());
        }
        let source = Arc::new(std::io::Error::from_raw_os_error(5));
        Err(Error::Io(IoError {
            operation: "write",
            offset,
            length,
            source,
        }))
    }
}

impl Device for Failing {
    fn len(&self) -> u64 {
        self.inner.len()
    }
    fn sector_size(&self) -> u32 {
        self.inner.sector_size()
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.inner.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.check(offset, bytes.len() as u64)?;
        self.inner.write_at(offset, bytes)
    }
    fn write_vectored_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> Result<()> {
        self.check(offset, 0)?;
        self.inner.write_vectored_at(offset, slices)
    }
    fn sync(&self) -> Result<()> {
        self.check(0, 0)?;
        self.inner.sync()
    }
    fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.inner.discard(offset, length)
    }
    fn write_zeroes(&self, offset: u64, length: u64) -> Result<()> {
        self.check(offset, length)?;
        self.inner.write_zeroes(offset, length)
    }
}

#[test]
fn a_device_that_fails_ends_all_writing_but_no_reading() {
    for with_threads in [false, true] {
        let image = CoreImage::mke2fs("16M", "-t ext4 -O orphan_file");
        let inner = FileDevice::open(&image.path, &Access::default()).expect("the image opens");
        let device = Arc::new(Failing {
            inner,
            broken: AtomicBool::new(false),
        });
        let fs =
            Fs::mount(Arc::clone(&device) as Arc<dyn Device>, Options::default()).expect("mount");
        if with_threads {
            fs.start_threads().expect("threads");
        }
        let kept = file(&fs, ROOT, "kept");
        write(&fs, kept, 0, b"durable");
        fs.fsync_wait(kept).expect("fsync");
        let lost = file(&fs, ROOT, "lost");
        device.broken.store(true, Ordering::Relaxed);
        assert!(fs.fsync_wait(lost).is_err());
        assert!(fs.is_read_only());
        assert!(matches!(
            fs.fsync_wait(kept),
            Err(Error::Aborted | Error::Io(_))
        ));
        let refused = fs.write(kept, 0, b"x", WriteMode::default());
        assert!(matches!(
            refused,
            Err(Error::Posix(Posix::RoFs) | Error::Aborted)
        ));
        assert!(create(&fs, ROOT, "more", NewNode::File { mode: 0o600 }).is_err());
        assert!(fs.sync_all().is_err());
        assert_eq!(fs.read(kept, 0, 100).expect("read").as_slice(), b"durable");
        assert!(list(&fs, ROOT).0.iter().any(|(name, _)| name == b"kept"));
        // The device is well again, but what was said to be lost must not come back.
        device.broken.store(false, Ordering::Relaxed);
        assert!(fs.fsync_wait(kept).is_err());
        assert!(fs.unmount().is_err());
        drop(fs);
        drop(device);
        let features = image.header("Filesystem features").expect("features");
        assert!(features.contains("needs_recovery"), "{features}");
        let fs = image.mount_rw();
        assert!(
            fs.notices()
                .iter()
                .any(|line| line.starts_with("journal replayed"))
        );
        let kept = fs.lookup(ROOT, b"kept").expect("it was synced").ino;
        assert_eq!(fs.read(kept, 0, 100).expect("read").as_slice(), b"durable");
        fs.unmount().expect("unmount");
        drop(fs);
        image.fsck();
    }
}

#[test]
fn fsync_on_a_read_only_mount_returns() {
    let image = CoreImage::mke2fs("16M", "-t ext4");
    let fs = image
        .mount(Options {
            read_only: true,
            ..Options::default()
        })
        .expect("it mounts");
    fs.start_threads().expect("threads");
    let (sender, receiver) = std::sync::mpsc::channel();
    fs.fsync(
        0,
        ROOT,
        false,
        Box::new(move |result| drop(sender.send(result))),
    );
    let answer = receiver
        .recv_timeout(std::time::Duration::from_secs(5))
        .expect("an answer");
    assert!(answer.is_ok());
    fs.unmount().expect("unmount");
}

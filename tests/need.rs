//! Every operation in its worst cases stays within the memory it was admitted with, and no handle runs out of credits.
//!
//! Source: the design's section on memory: each operation has a bound, and a test counts real use.

#[path = "common/without_fuse.rs"]
mod without_fuse;

use uext4::error::{Posix, Result};
use uext4::file::Fallocate;
use uext4::fs::{Caller, Fs, NewNode, Options, RenameMode, SetAttr, WriteMode};
use uext4::ids::InodeNumber;
use uext4::memory::Class;
use uext4::xattr::SetMode;
use without_fuse::{CoreImage, ROOT, create, directory, file, write};

/// The smallest journal that there is, and the kinds of images whose metadata is most scattered.
const KINDS: [&str; 4] = [
    "-t ext4 -b 1024 -J size=1 -O metadata_csum_seed,orphan_file,^flex_bg -g 1024",
    "-t ext4 -b 1024 -J size=1 -O ^extent,^64bit,^metadata_csum,^flex_bg -g 1024",
    "-t ext4 -b 1024 -J size=1 -O ^orphan_file,^flex_bg -I 128 -g 2048",
    "-t ext4 -b 4096 -J size=4 -O metadata_csum_seed,orphan_file",
];

struct Counted {
    image: CoreImage,
    fs: std::sync::Arc<Fs>,
}

impl Counted {
    fn new(options: &str, size: &str) -> Self {
        Self::on(CoreImage::mke2fs(size, options))
    }

    fn on(image: CoreImage) -> Self {
        let fs = image
            .mount(Options {
                memory: 16 << 20,
                ..Options::default()
            })
            .expect("it mounts");
        assert!(!fs.is_read_only(), "{:?}", fs.notices());
        Self { image, fs }
    }

    /// Runs an operation and looks what it took.
    #[track_caller]
    fn run<T>(&self, what: &str, operation: impl FnOnce(&Fs) -> Result<T>) -> T {
        let result = operation(&self.fs).unwrap_or_else(|error| panic!("{what}: {error}"));
        self.within(what);
        result
    }

    #[track_caller]
    fn within(&self, what: &str) {
        let beyond = self.fs.memory().snapshot().overdrawn_frames;
        assert_eq!(beyond, 0, "{what}: frames beyond its bound");
    }

    fn reap(&self) {
        while self.fs.reap_step() {}
        self.within("freeing");
    }

    fn end(self) {
        self.reap();
        self.fs.unmount().expect("unmount");
        self.within("unmount");
        drop(self.fs);
        self.image.fsck();
    }
}

fn long_name(number: u32) -> String {
    format!("{number:06}{}", "n".repeat(190))
}

fn truncate(fs: &Fs, ino: InodeNumber, size: u64) -> Result<()> {
    let set = SetAttr {
        size: Some(size),
        ..SetAttr::default()
    };
    fs.setattr(Caller::default(), ino, &set).map(drop)
}

fn unlink(fs: &Fs, parent: InodeNumber, name: &str) -> Result<()> {
    let ino = fs.lookup(parent, name.as_bytes())?.ino;
    fs.forget(ino, u64::MAX);
    fs.unlink(parent, name.as_bytes())
}

/// Names of all kinds in a directory whose blocks and index are split again and again, and lie in pieces.
#[test]
fn names_in_large_directories() {
    for kind in KINDS {
        let counted = Counted::new(kind, "60M");
        let fs = &counted.fs;
        let root = Caller::default();
        let dir = directory(fs, ROOT, "dir");
        // Children of all kinds inherit two attributes that do not fit their inode together.
        let acl = acl_of_many();
        let default: &[u8] = b"system.posix_acl_default";
        counted.run("setxattr", |fs| {
            fs.setxattr(root, dir, default, Some(&acl), SetMode::Any)
        });
        let between = file(fs, ROOT, "between");
        for i in 0..2600 {
            let name = long_name(i);
            let long = [b't'; 100];
            let new = match i % 64 {
                7 => NewNode::Directory { mode: 0o755 },
                9 => NewNode::Symlink { target: &long },
                11 => NewNode::Special {
                    mode: 0o010_644,
                    rdev: (0, 0),
                },
                _ => NewNode::File { mode: 0o644 },
            };
            let made = counted.run("create", |fs| create(fs, dir, &name, new));
            if i % 8 == 0 {
                // What lies between keeps the directory in pieces.
                counted.run("write", |fs| {
                    fs.write(between, u64::from(i) * 4096, b"x", WriteMode::default())
                });
                let other = long_name(100_000 + i);
                counted.run("link", |fs| match i % 64 {
                    0 => fs.link(made.ino, dir, other.as_bytes()).map(drop),
                    _ => Ok(()),
                });
            }
        }
        for i in (0..2600).step_by(3) {
            counted.run("unlink", |fs| match i % 64 {
                7 => {
                    let ino = fs.lookup(dir, long_name(i).as_bytes())?.ino;
                    fs.forget(ino, u64::MAX);
                    fs.rmdir(dir, long_name(i).as_bytes())
                }
                _ => unlink(fs, dir, &long_name(i)),
            });
        }
        counted.end();
    }
}

/// An ACL of the size that leaves no room in the inode.
fn acl_of_many() -> Vec<u8> {
    let mut acl = 2_u32.to_le_bytes().to_vec();
    let mut entry = |tag: u16, permissions: u16, id: u32| {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(id.to_le_bytes());
    };
    entry(1, 7, u32::MAX);
    (1..20).for_each(|id| entry(2, 5, id));
    entry(4, 5, u32::MAX);
    entry(0x10, 7, u32::MAX);
    entry(0x20, 5, u32::MAX);
    acl
}

#[test]
fn renames() {
    for kind in KINDS {
        let counted = Counted::new(kind, "40M");
        let fs = &counted.fs;
        let root = Caller::default();
        let (a, b) = (directory(fs, ROOT, "a"), directory(fs, ROOT, "b"));
        for i in 0..700 {
            file(fs, if i % 2 == 0 { a } else { b }, &long_name(i));
        }
        for i in 0..100 {
            let (from, to) = (long_name(2 * i), long_name(2 * i + 1));
            let mode = match i % 4 {
                0 => RenameMode::Replace,
                1 => RenameMode::Exchange,
                2 => RenameMode::Whiteout { no_replace: false },
                _ => RenameMode::Replace,
            };
            if let Ok(target) = fs.lookup(b, to.as_bytes()) {
                fs.forget(target.ino, u64::MAX);
            }
            counted.run("rename", |fs| {
                fs.rename(root, (a, from.as_bytes()), (b, to.as_bytes()), mode)
            });
        }
        for i in 0..200 {
            let name = format!("moved-{i}-{}", "d".repeat(180));
            directory(fs, a, &name);
            let mode = match i % 2 {
                0 => RenameMode::NoReplace,
                _ => RenameMode::Whiteout { no_replace: true },
            };
            let (from, to) = ((a, name.as_bytes()), (b, name.as_bytes()));
            counted.run("rename", |fs| fs.rename(root, from, to, mode));
            let x = directory(fs, a, &format!("x{i}"));
            file(fs, x, "inside");
            let other = format!("x{i}");
            let ends = ((a, other.as_bytes()), (b, name.as_bytes()));
            counted.run("exchange", |fs| {
                fs.rename(root, ends.0, ends.1, RenameMode::Exchange)
            });
        }
        counted.end();
    }
}

#[test]
fn block_maps_of_three_levels() {
    let counted = Counted::new(KINDS[1], "60M");
    let fs = &counted.fs;
    let ino = file(fs, ROOT, "file");
    let pointers = 256_u64;
    let places = [0, 12, 12 + pointers, 12 + pointers + pointers * pointers];
    for place in places.into_iter().rev() {
        for step in [
            0,
            1,
            pointers - 1,
            pointers,
            pointers * pointers - 1,
            pointers * pointers,
        ] {
            let at = (place + step) * 1024;
            counted.run("write", |fs| {
                fs.write(ino, at, &[1; 2000], WriteMode::default())
            });
        }
    }
    // One call that is longer than the indirect blocks of one handle.
    let data = vec![3; 5 << 20];
    counted.run("write", |fs| {
        fs.write(ino, 200 * 1024, &data, WriteMode::default())
    });
    for from in [100, 1000, 4000] {
        let length = 700 * 1024;
        counted.run("punch", |fs| {
            fs.fallocate(
                Caller::default(),
                ino,
                Fallocate::PunchHole,
                from * 1024,
                length,
                true,
            )
        });
    }
    for size in [1 << 26, 20_000_000, 300_000, 12 * 1024, 5] {
        counted.run("truncate", |fs| truncate(fs, ino, size));
    }
    counted.end();
}

/// More extents than two levels of nodes hold.
#[test]
fn extent_trees_of_three_levels() {
    let counted = Counted::new(KINDS[0], "64M");
    let fs = &counted.fs;
    let ino = file(fs, ROOT, "file");
    let count = 29_000_u64;
    for i in 0..count {
        counted.run("write", |fs| {
            fs.write(ino, i * 2048, b"x", WriteMode::default())
        });
    }
    fs.unmount().expect("unmount");
    drop(counted.fs);
    let depth = counted
        .image
        .read(counted.image.inode_at("/file") + 40 + 6, 1);
    assert_eq!(depth, [3]);
    let counted = Counted::on(counted.image);
    for i in 1..60 {
        // Unwritten extents in the middle of full nodes, then pieces of them written.
        let at = i * 900_000;
        counted.run("fallocate", |fs| {
            fs.fallocate(Caller::default(), ino, Fallocate::Allocate, at, 9000, true)
        });
        counted.run("write", |fs| {
            fs.write(ino, at + 3000, &[7; 1500], WriteMode::default())
        });
        counted.run("zero", |fs| {
            fs.fallocate(
                Caller::default(),
                ino,
                Fallocate::ZeroRange,
                at + 5000,
                9000,
                true,
            )
        });
    }
    for i in 0..20 {
        let at = 10_000_000 + i * 2_000_000;
        counted.run("punch", |fs| {
            fs.fallocate(
                Caller::default(),
                ino,
                Fallocate::PunchHole,
                at,
                700_000,
                true,
            )
        });
        counted.run("write", |fs| {
            fs.write(ino, at + 100_000, &[8; 4096], WriteMode::default())
        });
    }
    counted.run("truncate", |fs| truncate(fs, ino, 31_000_001));
    counted.run("unlink", |fs| unlink(fs, ROOT, "file"));
    counted.end();
}

#[test]
fn attributes() {
    for kind in KINDS {
        let counted = Counted::new(kind, "40M");
        let fs = &counted.fs;
        let root = Caller::default();
        for i in 0..40 {
            let ino = file(fs, ROOT, &format!("f{i}"));
            for (name, length) in [
                ("user.a", 40),
                ("user.b", 300),
                ("user.a", 500),
                ("user.b", 3),
            ] {
                let value = vec![b'v'; length + i % 7];
                counted.run("setxattr", |fs| {
                    fs.setxattr(root, ino, name.as_bytes(), Some(&value), SetMode::Any)
                });
            }
            let acl = acl_of_many();
            let access: &[u8] = b"system.posix_acl_access";
            let set = |fs: &Fs| fs.setxattr(root, ino, access, Some(&acl), SetMode::Any);
            match set(fs) {
                Ok(()) => {}
                Err(error) => assert!(error.is_posix(Posix::NoSpc), "{error}"),
            }
            counted.within("setxattr");
            let mode = SetAttr {
                mode: Some(0o750),
                uid: Some(7),
                ..SetAttr::default()
            };
            counted.run("setattr", |fs| fs.setattr(root, ino, &mode));
            counted.run("removexattr", |fs| {
                fs.setxattr(root, ino, b"user.a", None, SetMode::Replace)
            });
            counted.run("unlink", |fs| unlink(fs, ROOT, &format!("f{i}")));
        }
        counted.end();
    }
}

/// A full file system: what was taken for what could not be made is given back within the same handle.
#[test]
fn a_full_file_system() {
    for kind in KINDS {
        let counted = Counted::new(kind, "12M");
        let fs = &counted.fs;
        let dir = directory(fs, ROOT, "dir");
        let filler = file(fs, ROOT, "filler");
        let mut at = 0;
        for size in [1 << 20, 1 << 14, 1 << 10] {
            while fs
                .write(filler, at, &vec![1; size], WriteMode::default())
                .is_ok()
            {
                at += size as u64;
            }
        }
        counted.within("write");
        let mut kinds = 0;
        for i in 0..3000_u32 {
            let long = [b't'; 100];
            let new = match i % 3 {
                0 => NewNode::Directory { mode: 0o755 },
                1 => NewNode::Symlink { target: &long },
                _ => NewNode::File { mode: 0o644 },
            };
            match create(fs, dir, &long_name(i), new) {
                Ok(_) => {}
                Err(error) => {
                    assert!(error.is_posix(Posix::NoSpc), "{error}");
                    kinds += 1;
                    // A little space again, so that the next one gets further.
                    at -= 512.min(at);
                    truncate(fs, filler, at).expect("truncate");
                    if kinds == 40 {
                        break;
                    }
                }
            }
            counted.within("create");
        }
        assert!(kinds > 0, "it was never full");
        write(fs, filler, 0, b"end");
        counted.end();
    }
}

#[test]
fn inodes_in_memory_follow_the_cap() {
    let image = CoreImage::mke2fs("64M", "-t ext4 -b 1024 -N 20000");
    let cap = 8 << 20;
    let fs = image
        .mount(Options {
            memory: cap,
            ..Options::default()
        })
        .expect("it mounts");
    let inodes = || fs.memory().snapshot().class(Class::Inode);
    let all: Vec<_> = (0..12_000)
        .map(|i| {
            let ino = file(&fs, ROOT, &format!("f{i}"));
            fs.forget(ino, u64::MAX);
            ino
        })
        .collect();
    assert!(
        inodes().peak <= cap / 8 + (64 << 10),
        "{} bytes",
        inodes().peak
    );
    // Everything can still be had.
    for ino in all {
        assert!(fs.getattr(ino).is_ok());
    }
    assert!(
        inodes().peak <= cap / 8 + (64 << 10),
        "{} bytes",
        inodes().peak
    );
    // Under pressure nodes go as well: the cap holds although nothing asks for inodes.
    let filler = file(&fs, ROOT, "filler");
    for i in 0..20_000_u64 {
        fs.write(filler, i * 2048, b"x", WriteMode::default())
            .expect("write");
    }
    let used = fs.memory().snapshot().used;
    assert!(used <= cap + cap / 4, "{used} bytes");
    fs.unmount().expect("unmount");
}

//! Attributes set through the journal: read back, judged by e2fsck, listed by debugfs.
//!
//! Source: the kernel's ext4 documentation, "Extended Attributes"; e2fsck, debugfs and the kernel are the judges.
//! Invariants: every test works on its own image in a directory that goes away.

use super::*;
use crate::alloc::Settings;
use crate::clock::SystemClock;
use crate::device::Device;
use crate::device::file::{Access, FileDevice};
use crate::format::checksum::BlockKind;
use crate::format::geometry::Geometry;
use crate::format::superblock::{self, Superblock};
use crate::ids::FsBlock;
use crate::journal::Journal;
use crate::journal::log::Log;
use crate::journal::recover::{self, LogMap};
use crate::memory::{Memory, Need};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

fn run(command: &mut Command) -> String {
    let output = command.stderr(Stdio::piped()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}\n{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

fn debugfs(path: &Path, request: &str) -> String {
    run(Command::new("debugfs")
        .args(["-w", "-R", request])
        .arg(path))
}

/// An image with the files `/f` and `/g`, before it is mounted.
struct Image {
    dir: TempDir,
    path: PathBuf,
}

impl Image {
    fn new(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        run(Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4"])
            .args(options)
            .arg(&path)
            .arg("32M"));
        let content = dir.path().join("content");
        std::fs::write(&content, CONTENT).unwrap();
        for name in ["f", "g"] {
            debugfs(&path, &format!("write {} {name}", content.display()));
        }
        Self { dir, path }
    }

    fn inode_number(&self, name: &str) -> InodeNumber {
        let text = debugfs(&self.path, &format!("stat {name}"));
        let number = text
            .split_once("Inode: ")
            .unwrap()
            .1
            .split_whitespace()
            .next()
            .unwrap();
        InodeNumber::new(number.parse().unwrap())
    }

    fn with_the_kernel(&self, work: impl FnOnce(&Path)) {
        let point = self.dir.path().join("mnt");
        std::fs::create_dir_all(&point).unwrap();
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(&self.path)
            .arg(&point));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&point)));
        run(Command::new("sh")
            .args([
                "-c",
                "for i in 1 2 3 4 5 6 7 8 9; do umount \"$0\" && exit; sleep 0.3; done; exit 1",
            ])
            .arg(&point));
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    }

    fn judge(&self) {
        run(Command::new("e2fsck").arg("-fn").arg(&self.path));
    }
}

const CONTENT: &[u8] = &[b'c'; 130];

/// The layers up to attributes over an image.
struct Mounted {
    geo: Arc<Geometry>,
    memory: Arc<Memory>,
    cache: Arc<BlockCache>,
    journal: Arc<Journal>,
    alloc: Arc<Allocator>,
    store: Arc<InodeStore>,
    xattrs: Xattrs,
}

impl Mounted {
    fn new(image: &Image) -> Self {
        let device: Arc<dyn Device> =
            Arc::new(FileDevice::open(&image.path, &Access::default()).unwrap());
        let mut bytes = [0; superblock::SIZE];
        device.read_at(superblock::OFFSET, &mut bytes).unwrap();
        let geo = Arc::new(
            Superblock::parse(&bytes)
                .unwrap()
                .geometry(device.len())
                .unwrap(),
        );
        let map = LogMap::read(&*device, &geo).unwrap();
        let recovery = recover::recover(&*device, &geo, &map).unwrap();
        let memory = Memory::new(64 << 20, geo.block_size, 1 << 18);
        let cache = BlockCache::new(Arc::clone(&device), Arc::clone(&geo), Arc::clone(&memory));
        let log = Log::open(Arc::clone(&geo), map, &recovery);
        let journal = Journal::new(
            Arc::clone(&cache),
            Arc::new(SystemClock::new()),
            Some(log),
            Duration::from_secs(5),
        );
        let alloc =
            Allocator::new(Arc::clone(&cache), Arc::clone(&memory), Settings::default()).unwrap();
        journal.listen(alloc.clone());
        let store = Arc::new(InodeStore::new(Arc::clone(&cache), Arc::clone(&alloc)));
        let map = Arc::new(Map::new(Arc::clone(&cache), Arc::clone(&alloc)));
        let xattrs = Xattrs::new(
            Arc::clone(&cache),
            Arc::clone(&alloc),
            Arc::clone(&store),
            map,
        );
        Self {
            geo,
            memory,
            cache,
            journal,
            alloc,
            store,
            xattrs,
        }
    }

    /// One handle; the inode is written at its end. What attributes may use of it is counted.
    fn change<T>(
        &self,
        ino: InodeNumber,
        work: impl FnOnce(&Handle<'_>, &mut Inode) -> Result<T>,
    ) -> Result<T> {
        let mut inode = self.store.read(ino)?;
        let mut token = self.memory.admit(Need {
            frames: 32,
            bytes: 0,
        });
        let handle = self.journal.start(&mut token, Xattrs::CREDITS + 1)?;
        let result = work(&handle, &mut inode);
        assert!(
            handle.credits_left() >= 1,
            "more credits used than {}",
            Xattrs::CREDITS
        );
        if result.is_ok() {
            self.store.write(&handle, ino, &inode)?;
        }
        result
    }

    fn set(&self, ino: InodeNumber, name: &str, value: Option<&[u8]>) -> Result<()> {
        self.change(ino, |handle, inode| {
            self.xattrs
                .set(handle, ino, inode, name.as_bytes(), value, SetMode::Any)
        })
    }

    fn get(&self, ino: InodeNumber, name: &str) -> Result<Vec<u8>> {
        self.xattrs
            .get(ino, &self.store.read(ino)?, name.as_bytes())
    }

    fn list(&self, ino: InodeNumber) -> Vec<String> {
        let list = self
            .xattrs
            .list(ino, &self.store.read(ino).unwrap())
            .unwrap();
        String::from_utf8(list)
            .unwrap()
            .split_terminator('\0')
            .map(str::to_owned)
            .collect()
    }

    fn finish(self) {
        self.journal.quiesce(&mut || Ok(())).unwrap();
    }
}

const VARIANTS: [&[&str]; 4] = [
    &["-b", "4096"],
    &["-b", "1024", "-O", "^64bit"],
    &["-b", "4096", "-O", "^metadata_csum"],
    &["-b", "4096", "-I", "128"],
];

#[test]
fn values_move_between_inode_and_block() {
    for options in VARIANTS {
        let image = Image::new(options);
        let ino = image.inode_number("f");
        let mounted = Mounted::new(&image);
        let blocks = mounted.store.read(ino).unwrap().blocks;
        assert!(
            mounted
                .get(ino, "user.a")
                .unwrap_err()
                .is_posix(Posix::NoData)
        );
        mounted.set(ino, "user.a", Some(b"small")).unwrap();
        mounted.set(ino, "security.b", Some(b"other")).unwrap();
        assert_eq!(mounted.get(ino, "user.a").unwrap(), b"small");
        let in_inode = mounted.geo.inode_size > 128;
        assert_eq!(
            mounted.store.read(ino).unwrap().file_acl == 0,
            in_inode,
            "{options:?}"
        );
        mounted.set(ino, "user.a", Some(&[5; 700])).unwrap();
        let inode = mounted.store.read(ino).unwrap();
        assert_ne!(inode.file_acl, 0);
        assert_eq!(
            inode.blocks,
            blocks + u64::from(mounted.geo.block_size / 512)
        );
        assert_eq!(mounted.get(ino, "user.a").unwrap(), [5; 700]);
        assert_eq!(mounted.list(ino).len(), 2);
        mounted.set(ino, "user.a", Some(b"")).unwrap();
        assert_eq!(mounted.get(ino, "user.a").unwrap(), b"");
        assert_eq!(mounted.store.read(ino).unwrap().file_acl == 0, in_inode);
        mounted.set(ino, "user.c", Some(&[6; 800])).unwrap();
        mounted.finish();
        image.judge();
        let list = debugfs(&image.path, "ea_list f");
        for name in ["user.a (0)", "security.b (5)", "user.c (800)"] {
            assert!(list.contains(name), "{options:?}: {list}");
        }

        let mounted = Mounted::new(&image);
        assert_eq!(mounted.get(ino, "user.c").unwrap(), [6; 800]);
        for name in ["user.a", "security.b", "user.c"] {
            mounted.set(ino, name, None).unwrap();
        }
        assert!(
            mounted
                .set(ino, "user.a", None)
                .unwrap_err()
                .is_posix(Posix::NoData)
        );
        let inode = mounted.store.read(ino).unwrap();
        assert_eq!((inode.file_acl, inode.blocks), (0, blocks));
        mounted.finish();
        image.judge();
    }
}

#[test]
fn a_full_block_refuses_and_keeps_what_it_has() {
    for options in VARIANTS {
        let image = Image::new(options);
        let ino = image.inode_number("f");
        let mounted = Mounted::new(&image);
        mounted.set(ino, "user.first", Some(&[1; 400])).unwrap();
        let mut last = 0;
        for number in 0..100u8 {
            match mounted.set(ino, &format!("user.n{number}"), Some(&[number; 90])) {
                Ok(()) => last = number,
                Err(error) => {
                    assert!(error.is_posix(Posix::NoSpc), "{error}");
                    break;
                }
            }
        }
        assert!((3..99).contains(&last));
        let before = mounted.list(ino);
        let too_long = vec![2; mounted.geo.block_size as usize];
        assert!(
            mounted
                .set(ino, "user.first", Some(&too_long))
                .unwrap_err()
                .is_posix(Posix::NoSpc)
        );
        assert_eq!(mounted.get(ino, "user.first").unwrap(), [1; 400]);
        assert_eq!(mounted.list(ino), before);
        for number in 0..=last {
            assert_eq!(
                mounted.get(ino, &format!("user.n{number}")).unwrap(),
                [number; 90]
            );
        }
        mounted.finish();
        image.judge();
    }
}

#[test]
fn modes_names_and_acls_are_checked() {
    let image = Image::new(VARIANTS[0]);
    let ino = image.inode_number("f");
    let mounted = Mounted::new(&image);
    let set = |name: &str, value: &[u8], mode| {
        mounted.change(ino, |handle, inode| {
            mounted
                .xattrs
                .set(handle, ino, inode, name.as_bytes(), Some(value), mode)
        })
    };
    assert!(
        set("user.x", b"1", SetMode::Replace)
            .unwrap_err()
            .is_posix(Posix::NoData)
    );
    set("user.x", b"1", SetMode::Create).unwrap();
    assert!(
        set("user.x", b"2", SetMode::Create)
            .unwrap_err()
            .is_posix(Posix::Exist)
    );
    set("user.x", b"3", SetMode::Replace).unwrap();
    assert_eq!(mounted.get(ino, "user.x").unwrap(), b"3");
    assert!(
        set("system.data", b"", SetMode::Any)
            .unwrap_err()
            .is_posix(Posix::OpNotSupp)
    );
    assert!(
        set("other.x", b"", SetMode::Any)
            .unwrap_err()
            .is_posix(Posix::OpNotSupp)
    );
    assert!(
        set("system.posix_acl_access", b"12345", SetMode::Any)
            .unwrap_err()
            .is_posix(Posix::Inval)
    );

    let mut acl = vec![2, 0, 0, 0];
    for (tag, perm, id) in [
        (1u16, 6u16, u32::MAX),
        (2, 7, 1000),
        (4, 4, u32::MAX),
        (16, 4, u32::MAX),
        (32, 4, u32::MAX),
    ] {
        acl.extend(tag.to_le_bytes());
        acl.extend(perm.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    set("system.posix_acl_access", &acl, SetMode::Any).unwrap();
    assert_eq!(mounted.get(ino, "system.posix_acl_access").unwrap(), acl);
    assert_eq!(mounted.list(ino), ["user.x", "system.posix_acl_access"]);
    mounted.finish();
    image.judge();
}

#[test]
fn a_shared_block_is_copied_before_it_changes() {
    for options in [VARIANTS[0], VARIANTS[1]] {
        let image = Image::new(options);
        let (f, g) = (image.inode_number("f"), image.inode_number("g"));
        let mounted = Mounted::new(&image);
        let free = mounted.alloc.counts().free_blocks;
        mounted.set(f, "user.both", Some(&[9; 500])).unwrap();
        let shared = mounted.store.read(f).unwrap();
        mounted
            .change(g, |handle, inode| {
                let buffer = mounted
                    .cache
                    .read(FsBlock::new(shared.file_acl), BlockKind::Xattr)?;
                format::set_refcount(&mut handle.write(&buffer)?, 2);
                inode.file_acl = shared.file_acl;
                inode.blocks = shared.blocks;
                Ok(())
            })
            .unwrap();
        mounted.set(g, "user.both", Some(&[8; 510])).unwrap();
        assert_ne!(mounted.store.read(g).unwrap().file_acl, shared.file_acl);
        assert_eq!(mounted.get(f, "user.both").unwrap(), [9; 500]);
        assert_eq!(mounted.get(g, "user.both").unwrap(), [8; 510]);
        assert_eq!(mounted.alloc.counts().free_blocks, free - 2);
        for ino in [f, g] {
            mounted
                .change(ino, |handle, inode| {
                    mounted.xattrs.free_all(handle, ino, inode)
                })
                .unwrap();
            assert!(mounted.list(ino).is_empty());
        }
        assert_eq!(mounted.alloc.counts().free_blocks, free);
        mounted.finish();
        image.judge();
    }
}

#[test]
fn inline_data_is_hidden_and_readable() {
    let image = Image::new(&["-b", "4096", "-I", "512", "-O", "inline_data"]);
    let ino = image.inode_number("f");
    let mounted = Mounted::new(&image);
    let inode = mounted.store.read(ino).unwrap();
    assert!(inode.has_flag(flag::INLINE_DATA));
    let data = mounted.xattrs.inline_data(ino, &inode).unwrap().unwrap();
    assert_eq!(data[..CONTENT.len()], *CONTENT);
    assert!(mounted.list(ino).is_empty());
    mounted.set(ino, "user.x", Some(b"beside")).unwrap();
    let again = mounted.xattrs.inline_data(ino, &inode).unwrap().unwrap();
    assert_eq!(again, data);
    assert_eq!(mounted.list(ino), ["user.x"]);
    mounted.finish();
    image.judge();
    assert!(debugfs(&image.path, "cat f").as_bytes() == CONTENT);
}

#[test]
fn the_kernel_and_we_read_the_same() {
    for options in VARIANTS {
        let image = Image::new(options);
        let (f, g) = (image.inode_number("f"), image.inode_number("g"));
        image.with_the_kernel(|point| {
            for name in ["f", "g"] {
                let file = point.join(name);
                run(Command::new("setfattr")
                    .args(["-n", "user.same", "-v", &"s".repeat(500)])
                    .arg(&file));
            }
            run(Command::new("setfacl")
                .args(["-m", "u:1000:rw"])
                .arg(point.join("f")));
        });
        let mounted = Mounted::new(&image);
        for ino in [f, g] {
            assert_eq!(
                mounted.get(ino, "user.same").unwrap(),
                "s".repeat(500).as_bytes()
            );
        }
        let acl = mounted.get(f, "system.posix_acl_access").unwrap();
        assert_eq!(acl.len(), 4 + 5 * 8);
        mounted.set(g, "user.ours", Some(b"value")).unwrap();
        mounted.set(g, "user.same", Some(b"now another")).unwrap();
        mounted
            .set(g, "system.posix_acl_access", Some(&acl))
            .unwrap();
        mounted.finish();
        image.judge();
        image.with_the_kernel(|point| {
            let ours = run(Command::new("getfattr")
                .args(["-d", "-m-", "--absolute-names"])
                .arg(point.join("g")));
            for line in [
                "user.ours=\"value\"",
                "user.same=\"now another\"",
                "system.posix_acl_access=",
            ] {
                assert!(ours.contains(line), "{ours}");
            }
            let acls = ["f", "g"].map(|name| {
                run(Command::new("getfacl")
                    .args(["-cpEn"])
                    .arg(point.join(name)))
            });
            assert_eq!(acls[0].lines().nth(1), Some("user:1000:rw-"));
            assert_eq!(acls[1].lines().nth(1), Some("user:1000:rw-"));
        });
    }
}

#[test]
fn values_in_inodes_of_their_own_are_read() {
    let image = Image::new(&["-b", "4096", "-O", "ea_inode"]);
    let ino = image.inode_number("f");
    let long = "long ".repeat(10_000);
    image.with_the_kernel(|point| {
        run(Command::new("setfattr")
            .args(["-n", "user.long", "-v", &long])
            .arg(point.join("f")));
        run(Command::new("setfattr")
            .args(["-n", "user.short", "-v", "s"])
            .arg(point.join("f")));
    });
    let mounted = Mounted::new(&image);
    assert_eq!(mounted.get(ino, "user.long").unwrap(), long.as_bytes());
    assert_eq!(mounted.get(ino, "user.short").unwrap(), b"s");
    assert!(
        mounted
            .set(ino, "user.long", None)
            .unwrap_err()
            .is_posix(Posix::OpNotSupp)
    );
    mounted.finish();
    image.judge();
}

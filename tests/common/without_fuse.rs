//! The core without FUSE on image files: making, mounting, walking, and what debugfs, e2fsck and our checker say of them.
//!
//! Source: the design's judges.

// Each test binary uses its own part of this.
#![allow(dead_code)]

#[path = "checker.rs"]
mod checker;

use std::collections::HashSet;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use uext4::device::Device;
use uext4::device::file::{Access, FileDevice};
use uext4::error::{Error, Result};
use uext4::fs::{Attr, Caller, Fs, NewNode, Options, WriteMode};
use uext4::ids::InodeNumber;

pub const ROOT: InodeNumber = InodeNumber::ROOT;

/// An image file that ends with its directory.
pub struct CoreImage {
    _dir: tempfile::TempDir,
    pub path: PathBuf,
}

impl CoreImage {
    /// `options` as for mke2fs, separated by blanks.
    pub fn mke2fs(size: &str, options: &str) -> Self {
        let image = Self::empty();
        let mut args = vec!["-q", "-F"];
        args.extend(options.split_whitespace());
        args.extend([image.text(), size]);
        run("mke2fs", &args);
        image
    }

    /// A copy of what a compressed file holds.
    pub fn unpacked(from: &Path) -> Self {
        let image = Self::empty();
        let program = if from.extension().is_some_and(|e| e == "bz2") {
            "bzip2"
        } else {
            "gzip"
        };
        let file = std::fs::File::create(&image.path).expect("an image file");
        let status = Command::new(program)
            .arg("-dc")
            .arg(from)
            .stdout(file)
            .status();
        assert!(
            status.expect(program).success(),
            "{program} {}",
            from.display()
        );
        image
    }

    fn empty() -> Self {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let path = dir.path().join("image");
        Self { _dir: dir, path }
    }

    pub fn text(&self) -> &str {
        self.path.to_str().expect("an ASCII path")
    }

    pub fn mount(&self, options: Options) -> Result<Arc<Fs>> {
        let access = Access {
            read_only: options.read_only,
            ..Access::default()
        };
        let mut device = FileDevice::open(&self.path, &access);
        // Between fork and exec a command of another test has all our files open.
        for _ in 0..100 {
            if device.is_err() {
                std::thread::sleep(Duration::from_millis(20));
                device = FileDevice::open(&self.path, &access);
            }
        }
        let device = device.expect("the image opens");
        Fs::mount(Arc::new(device) as Arc<dyn Device>, options)
    }

    pub fn mount_rw(&self) -> Arc<Fs> {
        let fs = self.mount(Options::default()).expect("it mounts");
        assert!(!fs.is_read_only(), "{:?}", fs.notices());
        fs
    }

    pub fn fsck(&self) {
        run("e2fsck", &["-fn", self.text()]);
        checker::finds_nothing(&self.path).unwrap_or_else(|said| panic!("{said}"));
    }

    /// What debugfs says to a command; `-w` when it writes.
    pub fn debugfs(&self, request: &str) -> String {
        run("debugfs", &["-R", request, self.text()])
    }

    pub fn debugfs_write(&self, request: &str) {
        run("debugfs", &["-w", "-R", request, self.text()]);
    }

    /// A line of `dumpe2fs -h`, without its name.
    pub fn header(&self, name: &str) -> Option<String> {
        let text = run("dumpe2fs", &["-h", self.text()]);
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(|v| v.trim().to_string())
    }

    pub fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let file = std::fs::File::open(&self.path).expect("the image");
        file.read_exact_at(&mut bytes, offset).expect("its bytes");
        bytes
    }

    pub fn patch(&self, offset: u64, bytes: &[u8]) {
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(&self.path)
            .expect("the image");
        file.write_all_at(bytes, offset).expect("a patch");
    }

    /// Other bits at one place.
    pub fn flip(&self, offset: u64) {
        let old = self.read(offset, 1)[0];
        self.patch(offset, &[old ^ 0x55]);
    }

    /// The first data block of a file.
    pub fn block_of(&self, path: &str, index: u32) -> u64 {
        let text = self.debugfs(&format!("bmap {path} {index}"));
        text.trim()
            .parse()
            .unwrap_or_else(|_| panic!("bmap {path} {index}: {text}"))
    }

    /// Byte offset of an inode in its table.
    pub fn inode_at(&self, path: &str) -> u64 {
        // "Inode 12 is part of block group 0 \n located at block 38, offset 0x0b00"
        let text = self.debugfs(&format!("imap {path}"));
        let rest = text.split("located at block ").nth(1).expect("a place");
        let (block, rest) = rest.split_once(", offset 0x").expect("an offset");
        let block: u64 = block.parse().expect("a block");
        let offset = u64::from_str_radix(rest.trim(), 16).expect("hex");
        block * self.block_size() + offset
    }

    pub fn block_size(&self) -> u64 {
        let log = self.read(1024 + 0x18, 4);
        1024 << u32::from_le_bytes([log[0], log[1], log[2], log[3]])
    }
}

pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().expect(program);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {args:?}: {text}{errors}"
    );
    text
}

/// An operation as the adapter runs it: its failure is reported.
pub fn reported<T>(fs: &Fs, result: Result<T>) -> Result<T> {
    if let Err(error) = &result {
        fs.report(error);
    }
    result
}

/// What must fail, reported.
#[track_caller]
pub fn failure<T>(fs: &Fs, result: Result<T>) -> Error {
    reported(fs, result).err().expect("it fails")
}

pub fn create(fs: &Fs, parent: InodeNumber, name: &str, new: NewNode<'_>) -> Result<Attr> {
    fs.create(Caller::default(), parent, name.as_bytes(), new, 0o022)
}

pub fn file(fs: &Fs, parent: InodeNumber, name: &str) -> InodeNumber {
    create(fs, parent, name, NewNode::File { mode: 0o644 })
        .expect(name)
        .ino
}

pub fn directory(fs: &Fs, parent: InodeNumber, name: &str) -> InodeNumber {
    create(fs, parent, name, NewNode::Directory { mode: 0o755 })
        .expect(name)
        .ino
}

pub fn write(fs: &Fs, ino: InodeNumber, offset: u64, data: &[u8]) {
    fs.write(ino, offset, data, WriteMode::default())
        .expect("a write");
}

/// Name and inode of every entry, or what stopped the listing.
pub fn list(fs: &Fs, ino: InodeNumber) -> (Vec<(Vec<u8>, InodeNumber)>, Option<Error>) {
    let mut all = Vec::new();
    let mut cookie = 0;
    loop {
        let before = all.len();
        let result = fs.readdir(ino, cookie, false, &mut |item| {
            if all.len() - before == 200 {
                return false;
            }
            cookie = item.cookie;
            all.push((item.name.to_vec(), item.ino));
            true
        });
        if result.is_err() || all.len() == before || all.len() > 200_000 {
            return (all, result.err());
        }
    }
}

/// What a walk over everything found.
#[derive(Default, Debug)]
pub struct Walk {
    pub directories: usize,
    pub files: usize,
    pub errors: Vec<Error>,
}

impl Walk {
    /// Reads all that can be reached from the root; failures are collected, and reported as the adapter does.
    pub fn everything(fs: &Fs) -> Self {
        let mut walk = Self::default();
        let mut seen = HashSet::from([ROOT]);
        let mut queue = vec![ROOT];
        while let Some(dir) = queue.pop() {
            walk.directories += 1;
            walk.attributes(fs, dir);
            let (entries, error) = list(fs, dir);
            walk.note(fs, error);
            for (name, ino) in entries {
                if name == b"." || name == b".." {
                    continue;
                }
                let Some(attr) = walk.check(fs, fs.lookup(dir, &name)) else {
                    continue;
                };
                if !seen.insert(ino) {
                    continue;
                }
                match attr.mode & 0o17_0000 {
                    0o04_0000 => queue.push(ino),
                    kind => walk.file(fs, &attr, kind),
                }
            }
        }
        walk
    }

    fn file(&mut self, fs: &Fs, attr: &Attr, kind: u16) {
        self.files += 1;
        self.attributes(fs, attr.ino);
        match kind {
            0o12_0000 => {
                self.check(fs, fs.readlink(attr.ino));
            }
            0o10_0000 => {
                // Head and tail: a size may be anything.
                for offset in [0, 1 << 20, attr.size / 2, attr.size.saturating_sub(1 << 16)] {
                    self.check(
                        fs,
                        fs.read(attr.ino, offset, 1 << 18)
                            .map(|b| b.as_slice().len()),
                    );
                }
                self.check(fs, fs.seek(attr.ino, 0, uext4::file::Whence::Data));
                self.check(fs, fs.seek(attr.ino, 0, uext4::file::Whence::Hole));
            }
            _ => {}
        }
    }

    fn attributes(&mut self, fs: &Fs, ino: InodeNumber) {
        self.check(fs, fs.getattr(ino));
        let names = self
            .check(fs, fs.listxattr(Caller::default(), ino))
            .unwrap_or_default();
        for name in names
            .split(|&byte| byte == 0)
            .filter(|name| !name.is_empty())
        {
            self.check(fs, fs.getxattr(ino, name));
        }
    }

    fn check<T>(&mut self, fs: &Fs, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.note(fs, Some(error));
                None
            }
        }
    }

    fn note(&mut self, fs: &Fs, error: Option<Error>) {
        if let Some(error) = error.filter(|error| !matches!(error, Error::Posix(_))) {
            fs.report(&error);
            self.errors.push(error);
        }
    }
}

//! Image files made by mke2fs, and their bytes.

use super::{Scratch, run};
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Byte offset of the superblock.
pub const SUPERBLOCK: u64 = 1024;

pub struct Image {
    path: PathBuf,
}

impl Image {
    /// A sparse file of `size` (as truncate(1) reads it) with mke2fs run on it: `options` are separated by blanks.
    pub fn mke2fs(scratch: &Scratch, name: &str, size: &str, options: &str) -> Self {
        let image = Self::blank(scratch, name, size);
        let mut args = super::args!["-q", "-F"];
        args.extend(options.split_whitespace().map(OsString::from));
        args.push(image.path.clone().into());
        super::succeed(Duration::from_secs(120), "mke2fs", &args);
        image
    }

    /// What nearly every test wants: 512 MiB with mke2fs's defaults for ext4.
    pub fn default(scratch: &Scratch) -> Self {
        Self::mke2fs(scratch, "disk.img", "512M", "-t ext4")
    }

    pub fn blank(scratch: &Scratch, name: &str, size: &str) -> Self {
        let path = scratch.file(name);
        run!("truncate", "-s", size, path);
        Self { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn sha256(&self) -> String {
        sha256(&self.path)
    }

    /// What a debugfs request prints; `write` lets it change the image.
    pub fn debugfs(&self, write: bool, request: &str) -> String {
        if write {
            run!("debugfs", "-w", "-R", request, self.path)
        } else {
            run!("debugfs", "-R", request, self.path)
        }
    }

    pub fn read(&self, offset: u64, bytes: &mut [u8]) {
        let file = OpenOptions::new()
            .read(true)
            .open(&self.path)
            .expect("image");
        file.read_exact_at(bytes, offset).expect("image bytes");
    }

    pub fn write(&self, offset: u64, bytes: &[u8]) {
        let file = OpenOptions::new()
            .write(true)
            .open(&self.path)
            .expect("image");
        file.write_all_at(bytes, offset).expect("image bytes");
    }

    /// `count` sectors of 512 bytes from sector `first`.
    pub fn sectors(&self, first: u64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count * 512];
        self.read(first * 512, &mut bytes);
        bytes
    }

    /// Changes one byte for another.
    pub fn damage(&self, offset: u64) {
        let mut byte = [0];
        self.read(offset, &mut byte);
        self.write(offset, &[byte[0] ^ 0x5a]);
    }
}

/// Of a whole file or device.
pub fn sha256(path: &Path) -> String {
    run!("sha256sum", "-b", path)
        .split_whitespace()
        .next()
        .expect("a hash")
        .to_string()
}

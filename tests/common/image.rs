//! Image files made by mke2fs, and their bytes.

use super::{Scratch, run};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
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

/// Of a whole file or device; blocks of zeros count by their absence, so that a sparse image takes no longer than its data.
pub fn sha256(path: &Path) -> String {
    let mut hasher = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sha256sum");
    let mut into = hasher.stdin.take().expect("stdin");
    feed(path, &mut into).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    drop(into);
    let output = hasher.wait_with_output().expect("sha256sum");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The length, and every chunk that is not all zeros with its place.
fn feed(path: &Path, into: &mut impl Write) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    let end = file.seek(SeekFrom::End(0))?;
    into.write_all(&end.to_le_bytes())?;
    let mut chunk = vec![0; 1 << 16];
    let mut at = 0;
    while at < end {
        at = match rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
            Ok(data) => data - data % chunk.len() as u64,
            Err(rustix::io::Errno::NXIO) => break,
            // A device has no holes.
            Err(_) => at,
        };
        let length = chunk.len().min((end - at) as usize);
        let bytes = &mut chunk[..length];
        file.read_exact_at(bytes, at)?;
        if bytes.iter().any(|byte| *byte != 0) {
            into.write_all(&at.to_le_bytes())?;
            into.write_all(bytes)?;
        }
        at += length as u64;
    }
    Ok(())
}

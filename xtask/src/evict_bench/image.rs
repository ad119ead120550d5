//! The prepared images, made once by the kernel's ext4: every file of the workload, and free space in pieces, so that
//! preallocations lie in as many groups as there are.

use crate::bench::sides::output;
use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Which image (c) and (d) get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// 256 GiB, 2048 groups, a million cold files.
    Large,
    /// As many groups, small ones.
    Small,
}

impl Shape {
    fn name(self) -> &'static str {
        match self {
            Self::Large => "large",
            Self::Small => "small",
        }
    }

    fn bytes(self) -> u64 {
        match self {
            Self::Large => 256 << 30,
            Self::Small => 16 << 30,
        }
    }

    fn mke2fs(self) -> &'static str {
        match self {
            Self::Large => "-t ext4 -m 0 -J size=64 -E lazy_itable_init=1",
            Self::Small => "-t ext4 -m 0 -J size=64 -g 2048 -N 131072 -E lazy_itable_init=1",
        }
    }

    pub fn directories(self) -> usize {
        match self {
            Self::Large => 2000,
            Self::Small => 500,
        }
    }

    /// Cold files in a directory.
    pub fn cold(self) -> usize {
        match self {
            Self::Large => 500,
            Self::Small => 40,
        }
    }

    /// From one hole in the fill to the next.
    fn stride(self) -> u64 {
        match self {
            Self::Large => 120 << 20,
            Self::Small => 7 << 20,
        }
    }
}

/// Files in a directory that grow.
pub const GROWING: usize = 2;
const HOLE: u64 = 3 << 19;
/// Free space that is not in holes.
const REST: u64 = 64 << 20;

pub fn directory(index: usize) -> String {
    format!("d{index:04}")
}

pub fn cold_file(index: usize) -> String {
    format!("f{index:03}")
}

pub fn growing_file(index: usize) -> String {
    format!("g{index}")
}

/// The prepared image of that shape below `dir`: made if there is none.
pub fn prepared(dir: &Path, shape: Shape) -> Result<PathBuf, String> {
    let image = dir.join(format!("{}-{}.img", shape.name(), shape.directories()));
    if image.exists() {
        return Ok(image);
    }
    eprintln!("evict-bench: preparing {}", image.display());
    let unfinished = image.with_extension("new");
    let _ = std::fs::remove_file(&unfinished);
    make(&unfinished, shape.bytes(), shape.mke2fs())?;
    let kernel = Kernel::mount(&unfinished, "noinit_itable")?;
    populate(&kernel.dir, shape)?;
    fill(&kernel.dir, shape)?;
    kernel.end()?;
    crate::bench::sides::judge(&unfinished)?;
    std::fs::rename(&unfinished, &image).map_err(|e| format!("{}: {e}", image.display()))?;
    Ok(image)
}

/// A new file system in a sparse file.
pub fn make(image: &Path, bytes: u64, options: &str) -> Result<(), String> {
    let fail = |e: std::io::Error| format!("{}: {e}", image.display());
    File::create(image)
        .and_then(|file| file.set_len(bytes))
        .map_err(fail)?;
    let name = image.to_string_lossy();
    let mut words = vec!["-q", "-F"];
    words.extend(options.split(' '));
    words.push(&name);
    output("mke2fs", &words).map(drop)
}

/// The kernel's mount of an image on a directory beside it.
pub struct Kernel {
    pub dir: PathBuf,
    node: String,
}

impl Kernel {
    pub fn mount(image: &Path, options: &str) -> Result<Self, String> {
        let dir = image.with_extension("kernel");
        std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let name = image.to_string_lossy();
        let node = output("losetup", &["--direct-io=on", "--find", "--show", &name])?;
        let kernel = Self {
            dir,
            node: node.trim().to_owned(),
        };
        let point = kernel.dir.to_string_lossy();
        output(
            "mount",
            &["-i", "-t", "ext4", "-o", options, &kernel.node, &point],
        )?;
        Ok(kernel)
    }

    pub fn end(self) -> Result<(), String> {
        output("umount", &["-i", &self.dir.to_string_lossy()]).map(drop)
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // After `end` there is only the loop device left.
        let point = self.dir.to_string_lossy().into_owned();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        if mounts
            .lines()
            .any(|line| line.split(' ').nth(4) == Some(&point))
        {
            let _ = output("umount", &["-i", "-l", &point]);
        }
        let _ = output("losetup", &["-d", &self.node]);
    }
}

fn populate(root: &Path, shape: Shape) -> Result<(), String> {
    const THREADS: usize = 8;
    let part = |first: usize| -> std::io::Result<()> {
        for number in (first..shape.directories()).step_by(THREADS) {
            let dir = root.join(directory(number));
            std::fs::create_dir(&dir)?;
            for index in 0..GROWING {
                File::create(dir.join(growing_file(index)))?;
            }
            for index in 0..shape.cold() {
                File::create(dir.join(cold_file(index)))?;
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let parts: Vec<_> = (0..THREADS)
            .map(|first| scope.spawn(move || part(first)))
            .collect();
        parts.into_iter().try_for_each(|part| {
            let done = part.join().map_err(|_| "a thread panicked".to_owned())?;
            done.map_err(|e| format!("{}: {e}", root.display()))
        })
    })
}

/// One file over all free space but a rest, then holes in it.
fn fill(root: &Path, shape: Shape) -> Result<(), String> {
    use rustix::fs::{FallocateFlags, fallocate};
    let path = root.join("fill");
    let fail = |e: rustix::io::Errno| format!("{}: {e}", path.display());
    let file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .open(&path)
        .map_err(|e| format!("{}: {e}", path.display()))?;
    let space = rustix::fs::statvfs(root).map_err(fail)?;
    let length = (space.f_bavail * space.f_frsize).saturating_sub(REST);
    fallocate(file.as_fd(), FallocateFlags::empty(), 0, length).map_err(fail)?;
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let mut at = shape.stride() / 2;
    while at + HOLE < length {
        fallocate(file.as_fd(), punch, at, HOLE).map_err(fail)?;
        at += shape.stride();
    }
    Ok(())
}

/// A copy that a run may write to.
pub fn copy(prepared: &Path, to: &Path) -> Result<(), String> {
    let (from, to) = (prepared.to_string_lossy(), to.to_string_lossy());
    output("cp", &["--sparse=always", "--reflink=auto", &from, &to]).map(drop)
}

//! The images that are damaged: one for each set of modern features, with files of all kinds.
//!
//! Source: mke2fs(8), debugfs(8).
//! Invariants: e2fsck finds nothing in them.

use super::places::{self, Place};
use std::path::Path;
use uext4::format::geometry::Geometry;
use uext4::format::superblock::Superblock;
use xshell::{Shell, cmd};

pub struct Base {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    pub geo: Geometry,
    pub places: Vec<Place>,
}

const COMMON: &str = "64bit,metadata_csum_seed,orphan_file";
/// Name, features, whether the kernel adds files (it knows the features).
const SETS: &[(&str, &str, bool)] = &[
    ("default", "", true),
    ("inline_data", ",inline_data", true),
    ("ea_inode", ",ea_inode", true),
    ("bigalloc", ",bigalloc", true),
    ("quota", ",quota,project", false),
    ("no checksums", ",^metadata_csum,^metadata_csum_seed", true),
];

pub fn make(dir: &Path) -> Result<Vec<Base>, String> {
    let shell = Shell::new().map_err(|e| e.to_string())?;
    shell.change_dir(dir);
    let script = "set -e; mkdir -p tree/a/b tree/many; echo short > tree/short; : > tree/empty; \
        head -c 200000 /dev/urandom > tree/a/large; head -c 100 /dev/urandom > tree/a/b/hundred; \
        for i in $(seq 150); do echo $i > tree/many/a-name-of-some-length-$i; done; \
        ln tree/short tree/a/hard; ln -s ../short tree/a/soft; ln -s $(printf 'l%.0s' $(seq 100)) tree/long; \
        mknod tree/node c 1 3; mkfifo tree/fifo; \
        truncate -s 3M tree/holes; for i in 1 3 5 7 9 11 13; do printf x | dd of=tree/holes bs=1 seek=${i}00000 conv=notrunc status=none; done; \
        setfattr -n user.small -v value tree/short; setfattr -n user.more -v $(printf 'v%.0s' $(seq 300)) tree/a/large";
    cmd!(shell, "bash -c {script}")
        .quiet()
        .run()
        .map_err(|e| e.to_string())?;
    SETS.iter()
        .map(|&(name, features, kernel)| base(&shell, dir, name, features, kernel))
        .collect()
}

fn base(
    shell: &Shell,
    dir: &Path,
    name: &'static str,
    features: &str,
    kernel: bool,
) -> Result<Base, String> {
    let features = match features.contains("^metadata_csum") {
        true => "^metadata_csum".to_owned(),
        false => format!("{COMMON}{features}"),
    };
    let script = "set -e; rm -f base; truncate -s 24M base; mke2fs -q -F -t ext4 -b 1024 -N 512 -J size=1 -O $0 -d tree base; \
        if [ $1 = true ]; then mkdir -p mount; mount -o loop base mount; \
          { mkdir mount/indexed; for i in $(seq 300); do : > mount/indexed/a-name-that-fills-blocks-$i; done; rm mount/indexed/*-77; \
            case $2 in ea_inode) setfattr -n user.big -v $(printf 'v%.0s' $(seq 5000)) mount/a/large;; esac; } && done=0 || done=1; \
          for i in 1 2 3 4 5 6 7 8 9; do umount mount && break; sleep 0.3; done; [ $done = 0 ]; fi; \
        e2fsck -fy base >/dev/null || [ $? = 1 ]; e2fsck -fn base >/dev/null";
    let kernel = kernel.to_string();
    cmd!(shell, "bash -c {script} {features} {kernel} {name}")
        .quiet()
        .run()
        .map_err(|e| format!("{name}: {e}"))?;
    let bytes = std::fs::read(dir.join("base")).map_err(|e| e.to_string())?;
    let geo = Superblock::parse(&bytes[1024..2048])
        .and_then(|sb| sb.geometry(bytes.len() as u64))
        .map_err(|e| format!("{name}: {e}"))?;
    let places = places::find(&bytes, &geo).map_err(|e| format!("{name}: {e}"))?;
    Ok(Base {
        name,
        bytes,
        geo,
        places,
    })
}

//! One random sequence of system calls, made on a uext4 mount and on the kernel's ext4 with an identical image: the same
//! result and errno after every call, and the same trees at the end.
//!
//! `UEXT4_SEED` and `UEXT4_CALLS` choose another or a longer sequence; `UEXT4_TRACE` prints it.

#[path = "common/harness.rs"]
mod harness;
#[path = "common/random.rs"]
mod random;
#[path = "common/syscalls.rs"]
mod syscalls;

use harness::{Image, Kind, Mount, Scratch, judge, run, tree};
use random::{Random, UTIME_OMIT};
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use syscalls::{As, Call, Side};

/// The umask belongs to the process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Where a FUSE mount cannot answer as the kernel's ext4 does: which call, both answers, and why.
type Forbidden = (fn(&Call, &str, &str) -> bool, &'static str);
const FORBIDDEN: &[Forbidden] = &[
    (
        |call, found, expected| {
            matches!(call, Call::Seek { .. })
                && (expected.ends_with("(os error 6)") || found.ends_with("true"))
        },
        "LSEEK comes without the size of cached writes, so a writer's file may have data anywhere",
    ),
    (
        |call, found, expected| {
            let atime = |text: &str| text.split(" mtime").next().map(str::to_string);
            matches!(call, Call::Utimens { mtime, .. } if i32::try_from(mtime.0).is_err())
                && atime(found) == atime(expected)
        },
        "the kernel keeps a regular file's mtime itself, and does not know the last one that ext4 can store",
    ),
    (
        |call, found, expected| {
            let first = [
                "(os error 20)",
                "(os error 21)",
                "(os error 95)",
                "(os error 13)",
            ];
            let flag = matches!(call, Call::Access { .. })
                || matches!(call, Call::Utimens { atime, .. } if atime.1 == UTIME_OMIT);
            let acl = matches!(call, Call::Removexattr { name, .. } if name == "system.posix_acl_default");
            expected.ends_with("(os error 1)")
                && (acl || flag || first.iter().any(|error| found.ends_with(error)))
        },
        "the kernel does not know which inodes are immutable, so its other checks come first",
    ),
];

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

fn compare(options: &str, seed: u64, calls: u64) {
    let _alone = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(|poison| poison.into_inner());
    let seed = number("UEXT4_SEED", seed);
    let calls = number("UEXT4_CALLS", calls);
    let trace = std::env::var_os("UEXT4_TRACE").is_some();
    let scratch = Scratch::new();
    run!("chmod", "755", scratch.path());
    let ours = Image::mke2fs(&scratch, "ours.img", "128M", options);
    let theirs = Image::blank(&scratch, "theirs.img", "128M");
    run!("cp", "--sparse=always", ours.path(), theirs.path());
    let mount = Mount::new(
        Kind::Uext4,
        ours.path(),
        &scratch.dir("ours"),
        "dev,suid,allow_other",
    );
    let kernel = Mount::new(Kind::Kernel, theirs.path(), &scratch.dir("theirs"), "");
    let (mut left, mut right) = (Side::new(mount.path()), Side::new(kernel.path()));
    let mut random = Random::new(seed);
    let mut differences = Vec::new();
    for at in 0..calls {
        let (who, call) = random.call();
        let (found, expected) = (left.make(who, &call), right.make(who, &call));
        if trace {
            let text: String = format!("{call:?}").chars().take(200).collect();
            println!("{at} {}: {text} = {found}", who.uid);
        }
        let allowed = FORBIDDEN
            .iter()
            .any(|(applies, _)| applies(&call, &found, &expected));
        if found != expected && !allowed {
            let call: String = format!("{call:?}").chars().take(500).collect();
            differences.push(format!(
                "call {at} of seed {seed} as {}: {call}\n  uext4  {found}\n  kernel {expected}",
                who.uid
            ));
            // Later ones mostly follow from these.
            if differences.len() == 5 {
                break;
            }
        }
    }
    left.close_all();
    right.close_all();
    assert!(
        differences.is_empty(),
        "{options}: {}",
        differences.join("\n")
    );
    let expected = snapshot(kernel.path());
    same(&expected, &snapshot(mount.path()), "through uext4");
    mount.unmount();
    kernel.unmount();
    judge::clean(&ours);
    let read = harness::mount::with_kernel(&ours, &scratch.dir("ours"), "ro", snapshot);
    same(&expected, &read, "read by the kernel");
}

/// Every name, what stat, readlink and listxattr say, and the content.
fn snapshot(root: &Path) -> BTreeMap<String, Vec<String>> {
    let mut side = Side::new(root);
    let root_user = As {
        uid: 0,
        gid: 0,
        umask: 0,
    };
    let mut seen = BTreeMap::new();
    let mut left = vec![String::from(".")];
    while let Some(path) = left.pop() {
        let meta = std::fs::symlink_metadata(root.join(&path)).expect("stat");
        let mut facts = vec![side.make(root_user, &Call::Stat { path: path.clone() })];
        if meta.is_symlink() {
            facts.push(side.make(root_user, &Call::Readlink { path: path.clone() }));
        }
        for (name, value) in tree::xattrs(&root.join(&path)) {
            facts.push(format!("{name} {value:x?}"));
        }
        if meta.is_file() {
            facts.push(content(&root.join(&path), meta.len()));
        }
        if meta.is_dir() {
            for name in tree::list(&root.join(&path)) {
                left.push(format!("{path}/{}", name.to_string_lossy()));
            }
        }
        seen.insert(path, facts);
    }
    seen
}

/// Where the calls write, and the end; the rest of a large file is a hole.
fn content(path: &Path, size: u64) -> String {
    let file = std::fs::File::open(path).expect("open");
    let mut hashes = Vec::new();
    for start in [0, 1 << 24, 1 << 30, size.saturating_sub(4096)] {
        let mut bytes = vec![0; 1 << 18];
        let len = file.read_at(&mut bytes, start).expect("read");
        hashes.push(format!("{:016x}", syscalls::hash(&bytes[..len])));
    }
    hashes.join(" ")
}

fn same(
    expected: &BTreeMap<String, Vec<String>>,
    found: &BTreeMap<String, Vec<String>>,
    what: &str,
) {
    for (name, facts) in expected {
        assert_eq!(found.get(name), Some(facts), "{what}: {name}");
    }
    assert_eq!(
        found.len(),
        expected.len(),
        "{what}: names that the kernel does not have"
    );
}

#[test]
fn the_kernel_agrees_on_a_default_image() {
    compare("-t ext4", 1, 12_000);
}

#[test]
fn the_kernel_agrees_on_small_blocks() {
    compare("-t ext4 -b 1024", 2, 8_000);
}

#[test]
fn the_kernel_agrees_on_block_maps() {
    compare("-t ext3 -I 256", 3, 8_000);
}

#[test]
fn the_kernel_agrees_on_small_inodes() {
    compare("-t ext4 -I 128", 4, 6_000);
}

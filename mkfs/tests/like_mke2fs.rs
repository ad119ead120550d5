//! Images of ours and of mke2fs, made with the same arguments and compared by dumpe2fs, line by line.
//!
//! Source: none; the judges are dumpe2fs, e2fsck and the kernel.
//! Invariants: only checksums, times, what was written so far, and the lazy zeroing of inode tables may differ.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};

/// Upstream's defaults; distributions leave some out.
const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../images/mke2fs.conf");
const ID: &str = "11111111-2222-3333-4444-555555555555";
const TIME: &str = "1700000000";

/// Size and arguments. `k`: the kernel mounts it read-write, too. `+`: so large that the descriptors are compared as they
/// lie there, since dumpe2fs takes a quarter of a minute to print them; `!`: without e2fsck, which takes as long.
const MATRIX: &[(&str, &str, &str)] = &[
    ("k", "1M", ""),
    ("", "1536K", ""),
    ("k", "2M", ""),
    ("", "2304K", ""),
    ("", "3M", ""),
    ("", "8M", ""),
    ("", "10M", ""),
    ("", "50M", ""),
    ("", "100M", ""),
    ("", "300M", ""),
    ("", "511M", ""),
    ("k", "512M", ""),
    ("", "700M", ""),
    ("", "1G", ""),
    ("", "3G", ""),
    ("", "10G", ""),
    ("", "33G", ""),
    ("", "130G", ""),
    ("+", "2T", ""),
    ("+!", "5T", ""),
    ("+", "15T", ""),
    ("", "300M", "-b 1024"),
    ("", "300M", "-b 2048"),
    ("", "300M", "-b 4096"),
    ("", "300M", "-b 16384"),
    ("", "300M", "-b 65536"),
    ("", "17G", "-b 1024"),
    ("", "17G", "-b 2048"),
    ("", "17G", "-b 65536"),
    ("k", "300M", "-t ext2"),
    ("k", "300M", "-t ext3"),
    ("", "3G", "-t ext2"),
    ("", "3G", "-t ext3 -J size=64"),
    ("", "300M", "-t ext2 -j"),
    ("k", "64M", "-r 0 -O none"),
    ("", "300M", "-O none"),
    ("", "1234567K", "-I 512"),
    ("", "1234567K", "-I 128"),
    ("", "1234567K", "-N 12345"),
    ("", "1234567K", "-i 65536"),
    ("", "1234567K", "-m 1.5"),
    ("", "1234567K", "-J size=64"),
    ("", "5G", "-J size=64,location=100000"),
    ("", "5G", "-T news"),
    ("", "5G", "-T largefile"),
    ("", "5G", "-T largefile4"),
    ("", "5G", "-T small"),
    ("", "300M", "-T big"),
    ("", "5G", "-T huge,news"),
    ("", "5G", "-G 1"),
    ("", "5G", "-G 4"),
    ("", "5G", "-G 64"),
    ("", "300M", "-g 4096 -b 1024"),
    ("", "5G", "-g 16384"),
    ("k", "300M", "-O ^metadata_csum,^metadata_csum_seed"),
    ("k", "5G", "-O uninit_bg,^metadata_csum,^metadata_csum_seed"),
    ("", "5G", "-O ^64bit"),
    ("", "5G", "-O ^flex_bg"),
    ("", "5G", "-O ^flex_bg -E stride=16,stripe_width=64"),
    ("", "5G", "-E stride=16,stripe_width=64"),
    ("", "5G", "-O ^resize_inode"),
    ("", "5G", "-O ^resize_inode,^sparse_super"),
    ("", "5G", "-O ^has_journal,^orphan_file"),
    ("", "5G", "-O ^orphan_file"),
    ("", "300M", "-O ^extent,^64bit"),
    ("k", "5G", "-O sparse_super2"),
    ("", "5G", "-O sparse_super2,^resize_inode"),
    ("", "5G", "-O sparse_super2 -E num_backup_sb=1"),
    ("", "5G", "-O sparse_super2 -E num_backup_sb=0"),
    ("", "100M", "-O sparse_super2 -b 4096"),
    ("k", "5G", "-O meta_bg,^resize_inode"),
    ("", "33G", "-O meta_bg,^resize_inode -b 1024"),
    ("", "33G", "-O meta_bg,^resize_inode,^flex_bg"),
    ("k", "2G", "-O bigalloc"),
    ("", "2G", "-O bigalloc -C 32768"),
    ("", "100G", "-O bigalloc"),
    ("", "300M", "-O bigalloc -b 1024"),
    ("", "300M", "-O bigalloc,inline_data,quota -C 131072"),
    ("k", "300M", "-O inline_data"),
    ("", "5G", "-O inline_data"),
    ("", "300M", "-O quota"),
    ("", "5G", "-O quota,project"),
    ("", "300M", "-O quota -E quotatype=usrquota"),
    ("", "300M", "-O quota -E root_owner=1000:1001"),
    ("k", "300M", "-O ea_inode,large_dir,stable_inodes"),
    ("", "300M", "-O project,verity"),
    ("", "300M", "-O casefold,encrypt"),
    ("", "300M", "-O casefold -E encoding_flags=strict"),
    ("", "300M", "-O fast_commit"),
    ("", "5G", "-O fast_commit -J size=50"),
    ("", "1M", "-O fast_commit"),
    ("", "64M", "-O fast_commit,^has_journal,^orphan_file"),
    ("", "300M", "-O mmp"),
    ("", "300M", "-O mmp,quota -E mmp_update_interval=7"),
    ("", "5G", "-E resize=100G"),
    ("", "5G", "-E resize=20000000 -O ^64bit"),
    ("", "5G", "-E orphan_file_size=128K"),
    ("", "300M", "-e remount-ro -L label -M /mnt"),
    ("", "300M", "-e panic"),
    (
        "",
        "300M",
        "-O ^dir_index,^ext_attr,^large_file,^huge_file,^dir_nlink,^extra_isize",
    ),
    ("", "300M", "-O ^filetype"),
    ("+!", "400G", "-b 1024"),
    ("+!", "15T", "-O bigalloc"),
    ("", "1T", "-O meta_bg,^resize_inode"),
    ("+!", "15T", "-O sparse_super2 -G 256"),
    ("+!", "15T", "-O ^flex_bg"),
];

fn run(program: &str, arguments: &str, image: &Path) -> Output {
    // Only the last -E of mke2fs counts.
    let extended = format!("-E hash_seed={ID}");
    let arguments = match arguments.contains("-E ") {
        true => arguments.replace("-E ", &format!("{extended},")),
        false => format!("{arguments} {extended}"),
    };
    Command::new(program)
        .args(["-q", "-F", "-U", ID])
        .args(arguments.split_whitespace())
        .arg(image)
        .env("MKE2FS_CONFIG", CONFIG)
        .env("E2FSPROGS_FAKE_TIME", TIME)
        .env("SOURCE_DATE_EPOCH", TIME)
        .output()
        .unwrap()
}

/// A new sparse file.
fn sparse(path: &Path, size: &str) {
    let (number, unit) = size.split_at(size.len() - 1);
    let shift = match unit {
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => 40,
    };
    let _ = std::fs::remove_file(path);
    let file = std::fs::File::create(path).unwrap();
    file.set_len(number.parse::<u64>().unwrap() << shift)
        .unwrap();
}

/// What dumpe2fs says, without what may differ.
fn dump(options: &[&str], image: &Path) -> Vec<String> {
    let output = Command::new("dumpe2fs")
        .args(options)
        .arg(image)
        .env("E2FSPROGS_FAKE_TIME", TIME)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let skipped = ["Lifetime writes", "Checksum:", "    mmp_", "  Free blocks:"];
    let is_kept = |line: &&str| !skipped.iter().any(|start| line.starts_with(start));
    text.lines()
        .filter(is_kept)
        .map(|line| {
            let line = line
                .replace(", ITABLE_ZEROED", "")
                .replace(" [ITABLE_ZEROED]", "");
            match line.split_once("csum 0x") {
                Some((before, rest)) => {
                    let rest = rest.trim_start_matches(|c: char| c.is_ascii_hexdigit());
                    format!("{before}{rest}").trim_end().to_owned()
                }
                None => line.trim_end().to_owned(),
            }
        })
        .collect()
}

/// The first difference, if any.
fn compare(dir: &Path, size: &str, arguments: &str, large: bool) -> Result<(), String> {
    let (ours, theirs) = (dir.join("image"), dir.join("theirs"));
    for (program, image) in [
        (env!("CARGO_BIN_EXE_mkfs-uext4"), &ours),
        ("mke2fs", &theirs),
    ] {
        sparse(image, size);
        // Ours makes ext4 unless told otherwise.
        let arguments = match arguments.contains("-t ") {
            true => arguments.to_owned(),
            false => format!("-t ext4 {arguments}"),
        };
        let output = run(program, &arguments, image);
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("{program}: {text}"));
        }
    }
    if large {
        return compare_bytes(&ours, &theirs);
    }
    let (ours, theirs) = (dump(&[], &ours), dump(&[], &theirs));
    first_difference(&ours, &theirs)
}

fn first_difference(ours: &[String], theirs: &[String]) -> Result<(), String> {
    for index in 0..ours.len().max(theirs.len()) {
        let (ours, theirs) = (ours.get(index), theirs.get(index));
        if ours != theirs {
            return Err(format!("ours {ours:?}, theirs {theirs:?}"));
        }
    }
    Ok(())
}

/// Superblocks as dumpe2fs says them; then the descriptors, without their checksums and ITABLE_ZEROED.
fn compare_bytes(ours: &Path, theirs: &Path) -> Result<(), String> {
    let header = dump(&["-h"], ours);
    first_difference(&header, &dump(&["-h"], theirs))?;
    // With meta_bg they do not lie in one place.
    let features = header.iter().find(|line| line.contains("features:"));
    assert!(!features.unwrap().contains("meta_bg"));
    let number = |name: &str| -> u64 {
        let line = header.iter().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let (block_size, desc_size) = (number("Block size:"), number("Group descriptor size:"));
    let groups =
        (number("Block count:") - number("First block:")).div_ceil(number("Blocks per group:"));
    let start = (number("First block:") + 1) * block_size;
    let read = |image: &Path| {
        let mut table = vec![0; (groups * desc_size) as usize];
        let file = std::fs::File::open(image).unwrap();
        file.read_exact_at(&mut table, start).unwrap();
        for desc in table.chunks_exact_mut(desc_size as usize) {
            desc[0x12] &= !4;
            desc[0x1e..0x20].fill(0);
        }
        table
    };
    let (ours, theirs) = (read(ours), read(theirs));
    assert!(ours.iter().any(|&byte| byte != 0));
    match ours.iter().zip(&theirs).position(|(a, b)| a != b) {
        Some(at) => Err(format!(
            "group {} differs at byte {}",
            at as u64 / desc_size,
            at as u64 % desc_size
        )),
        None => Ok(()),
    }
}

fn e2fsck(image: &Path) -> Result<(), String> {
    let output = Command::new("e2fsck")
        .arg("-fn")
        .arg(image)
        .output()
        .unwrap();
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Err(format!("e2fsck: {text}"))
}

/// The kernel mounts it, writes, and unmounts.
fn kernel(dir: &Path, image: &Path) -> Result<(), String> {
    let mount = dir.join("mount");
    std::fs::create_dir_all(&mount).unwrap();
    let script = "set -e; mount -o loop \"$0\" \"$1\"; \
        { mkdir \"$1/a\"; for i in 1 2 3 4 5 6 7 8 9; do echo $i > \"$1/a/$i\"; done; rm \"$1/a/3\"; } && done=0 || done=1; \
        for i in 1 2 3 4 5 6 7 8 9; do umount \"$1\" && exit $done; sleep 0.3; done; exit 1";
    let output = Command::new("sh")
        .args(["-c", script])
        .args([image, &mount])
        .output()
        .unwrap();
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("kernel: {text}"))
}

fn check(is_wanted: impl Fn(&str) -> bool) {
    let dir = tempfile::tempdir().unwrap();
    let mut failures = Vec::new();
    for &(marks, size, arguments) in MATRIX {
        if !is_wanted(marks) {
            continue;
        }
        let image = dir.path().join("image");
        let large = marks.contains('+');
        let mut judged = compare(dir.path(), size, arguments, large);
        if !marks.contains('!') {
            judged = judged.and_then(|()| e2fsck(&image));
        }
        if marks.contains('k') {
            judged = judged
                .and_then(|()| kernel(dir.path(), &image))
                .and_then(|()| e2fsck(&image));
        }
        if let Err(text) = judged {
            failures.push(format!("{size} {arguments}: {text}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn layouts_are_mke2fs_layouts() {
    assert!(MATRIX.len() >= 60);
    check(|marks| !marks.contains('+'));
}

#[test]
fn layouts_of_large_volumes() {
    check(|marks| marks == "+");
}

#[test]
fn layouts_of_large_volumes_with_options() {
    check(|marks| marks == "+!");
}

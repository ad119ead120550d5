//! One field changed in a sound image: found, repaired, and every file kept.
//!
//! Source: debugfs(8), which changes the field and makes its checksum right; e2fsck(8) for exit codes.

mod common;

use common::{fsck, run};
use std::path::Path;
use std::process::{Command, Stdio};

use uext4::format::checksum::crc32c;
use uext4::format::superblock::Superblock;
use uext4::ids::GroupIndex;

const MODERN: &str = "64bit,metadata_csum_seed,orphan_file";

fn code(program: &str, args: &[&str], image: &Path) -> i32 {
    run(program, args, image).status.code().unwrap()
}

/// What the last command, of one a line, says.
fn debugfs(commands: &str, image: &Path) -> String {
    let mut said = String::new();
    for command in commands.lines() {
        let output = run("debugfs", &["-w", "-R", command], image);
        said = String::from_utf8_lossy(&output.stdout).into_owned();
    }
    said
}

/// An image of 24 MiB with a few files.
fn make(dir: &Path, features: &str) -> std::path::PathBuf {
    let image = dir.join("image");
    let script = "set -e; cd $0; mkdir -p tree/sub; echo short > tree/short; : > tree/empty; mkfifo tree/fifo; \
        seq 20000 > tree/sub/long; truncate -s 24M image; \
        mke2fs -q -F -t ext4 -b 1024 -N 512 -J size=1 -O $1 -d tree image";
    let status = Command::new("bash")
        .args(["-c", script])
        .arg(dir)
        .arg(features)
        .status();
    assert!(status.unwrap().success());
    image
}

struct Case {
    features: &'static str,
    /// Of debugfs, one a line.
    command: String,
    /// What must be among the problems.
    problem: &'static str,
    /// The contents of /short stay.
    contents: bool,
}

fn judge(case: &Case) {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path(), &format!("{MODERN}{}", case.features));
    let in_use = |image: &Path| {
        let output = run("dumpe2fs", &["-h"], image).stdout;
        let text = String::from_utf8_lossy(&output).into_owned();
        let number = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace()
                .last()
                .unwrap()
                .parse::<u32>()
                .unwrap()
        };
        number("Inode count:") - number("Free inodes:")
    };
    let before = in_use(&image);
    let stat = debugfs("stat /short", &image);
    let number = stat.split_whitespace().nth(1).unwrap();
    debugfs(&case.command, &image);
    let what = &case.command;
    let (found, text) = fsck(&["-fn"], &image);
    assert_eq!(found & 4, 4, "{what}: {text}");
    let (_, json) = fsck(&["-fn", "--json"], &image);
    assert!(
        json.contains(&format!("\"{}\"", case.problem)),
        "{what}: {json}"
    );
    let (repaired, text) = fsck(&["-fy"], &image);
    assert_eq!(repaired, 1, "{what}: {text}");
    let (again, text) = fsck(&["-fn"], &image);
    assert_eq!(again, 0, "{what}: {text}");
    assert_eq!(code("e2fsck", &["-fn"], &image), 0, "{what}");
    if case.contents {
        let contents = debugfs(&format!("cat <{number}>"), &image);
        assert!(contents.starts_with("short\n"), "{what}: {contents:?}");
    }
    assert!(in_use(&image) >= before, "{what}: fewer inodes in use");
}

fn case(features: &'static str, command: &str, problem: &'static str) -> Case {
    Case {
        features,
        command: command.to_owned(),
        problem,
        contents: true,
    }
}

/// A group that counts as never used with the bitmap of another one: the kernel would take only the group's own for granted.
#[test]
fn a_bitmap_in_a_group_that_was_never_used() {
    judge(&case(
        "",
        "set_bg 0 block_bitmap 8386\nset_bg 0 checksum calc",
        "UninitInUse",
    ));
}

/// The map in the superblock is right: the inode gets it back without what its own flags made of it.
#[test]
fn flags_of_the_journal() {
    for features in ["", ",inline_data"] {
        judge(&case(
            features,
            "sif <8> flags 0x5541235c",
            "JournalInodeRestored",
        ));
    }
}

#[test]
fn with_clusters() {
    judge(&case(
        ",bigalloc",
        "sif <7> blocks 2432",
        "ResizeInodeInvalid",
    ));
    judge(&case(
        ",bigalloc",
        "sif /sub/long block[3] 1",
        "ClusterUnaligned",
    ));
    // There is no copy: only what other fields of the superblock say.
    judge(&case(
        ",bigalloc",
        "ssv log_block_size 9",
        "SuperblockField",
    ));
    judge(&case(
        ",bigalloc",
        "set_bg 0 inode_table 134217774",
        "InodeTablePlace",
    ));
}

#[test]
fn with_the_superblock() {
    judge(&case("", "ssv rev_level 0", "SuperblockField"));
    judge(&case("", "set_bg 0 inode_table 4000", "InodeTablePlace"));
    judge(&case("", "ssv journal_inum 14", "SuperblockField"));
}

/// It lies on that of the next group, by a block.
#[test]
fn an_inode_table_on_another() {
    use uext4::format::raw::le32;
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path(), MODERN);
    let bytes = std::fs::read(&image).unwrap();
    let geo = Superblock::parse(&bytes[1024..2048]).unwrap();
    let geo = geo.geometry(bytes.len() as u64).unwrap();
    let (block, at) = geo.desc_location(GroupIndex::new(1));
    let table = le32(&bytes, block.get() as usize * 1024 + at + 8);
    let command = format!("set_bg 1 inode_table {}", table + 1);
    judge(&case("", &command, "DescriptorsBad"));
}

/// The last number of a block stands for none.
#[test]
fn an_extent_behind_the_last_block() {
    let mut last = case("", "sif /short block[3] 4294967295", "ExtentPastEnd");
    last.contents = false;
    judge(&last);
}

#[test]
fn with_own_inodes() {
    judge(&case("", "sif <8> size 1048577", "SizeWrong"));
    judge(&case("", "sif <7> size 0", "ResizeInodeInvalid"));
    judge(&case("", "sif <12> size 1000", "OrphanFileInode"));
    judge(&case("", "sif <12> mode 0140600", "OrphanFileInode"));
}

/// e2fsck says nothing of a file that was not there before: its contents are of no use as entries.
#[test]
fn files_that_became_directories() {
    let mut linear = case("", "sif /short mode 0047447", "LinkCount");
    linear.contents = false;
    judge(&linear);
    let mut inline = case(",inline_data", "sif /short mode 0047235", "LinkCount");
    inline.contents = false;
    judge(&inline);
}

#[test]
fn an_extent_root_of_wrong_depth_costs_nothing() {
    for depth in ["0x02000004", "0x00030004", "0x00010004"] {
        let command = format!("sif /short block[1] {depth}");
        judge(&case("", &command, "ExtentDepth"));
    }
    judge(&case(
        ",bigalloc",
        "sif /short block[1] 0x02000004",
        "ExtentDepth",
    ));
}

/// With its checksum made right or not.
#[test]
fn a_leaf_of_wrong_depth_costs_nothing() {
    use uext4::format::raw::{le32, put_le16, put_le32};
    const TAIL: usize = 1020;
    for (depth, stamped) in [(8, true), (1, true), (3, false)] {
        let dir = tempfile::tempdir().unwrap();
        let script = "cd $0; for n in 0 2 4 6 8 10 12; do printf %01000d $n | dd of=holes bs=1k seek=$n; done";
        let made = Command::new("bash")
            .args(["-c", script])
            .arg(dir.path())
            .stderr(Stdio::null())
            .status();
        assert!(made.unwrap().success());
        let image = make(dir.path(), MODERN);
        let source = dir.path().join("holes");
        debugfs(&format!("write {} holes", source.display()), &image);
        let stat = debugfs("stat /holes", &image);
        let after = |mark: &str| {
            let rest = &stat[stat.find(mark).unwrap() + mark.len()..];
            let rest = rest.trim_start();
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap();
            rest[..end].parse::<u32>().unwrap()
        };
        let (ino, generation) = (after("Inode:"), after("Generation:"));
        let leaf = after("(ETB0):") as usize * 1024;
        let mut bytes = std::fs::read(&image).unwrap();
        let geo = Superblock::parse(&bytes[1024..2048]).unwrap();
        let geo = geo.geometry(bytes.len() as u64).unwrap();
        let seed = crc32c(geo.csum_seed, &ino.to_le_bytes());
        let seed = crc32c(seed, &generation.to_le_bytes());
        let node = &mut bytes[leaf..leaf + 1024];
        assert_eq!(crc32c(seed, &node[..TAIL]), le32(node, TAIL), "not a leaf");
        put_le16(node, 6, depth);
        if stamped {
            let sum = crc32c(seed, &node[..TAIL]);
            put_le32(node, TAIL, sum);
        }
        std::fs::write(&image, bytes).unwrap();
        let (found, json) = fsck(&["-fn", "--json"], &image);
        assert!(
            found == 4 && json.contains("\"ExtentNodeDepth\""),
            "{depth}: {json}"
        );
        assert_eq!(fsck(&["-fy"], &image).0, 1);
        assert_eq!(fsck(&["-fn"], &image).0, 0);
        assert_eq!(code("e2fsck", &["-fn"], &image), 0);
        let copy = dir.path().join("copy");
        debugfs(&format!("dump /holes {}", copy.display()), &image);
        assert!(std::fs::read(copy).unwrap() == std::fs::read(&source).unwrap());
    }
}

#[test]
fn quota_inodes_that_are_no_files() {
    let quota = ",quota,project";
    judge(&case(quota, "sif <12> mode 0177777", "QuotaInode"));
    judge(&case(quota, "sif <4> links_count 0", "QuotaInode"));
    judge(&case(quota, "sif <3> mode 0040600", "QuotaInode"));
    judge(&case(quota, "ssv prj_quota_inum 2", "QuotaInode"));
    // Longer than e2fsck and the kernel read.
    judge(&case(quota, "sif <4> size 4294967295", "QuotaFileBad"));
    judge(&case(quota, "sif <12> size 4294973440", "QuotaFileBad"));
    // Emptied, since its map cannot be read.
    judge(&case(quota, "sif <3> block[0] 0", "ExtentHeader"));
    judge(&case(quota, "sif <12> block[0] 0", "ExtentHeader"));
}

/// Such a time was a place in the list of orphans.
#[test]
fn own_inodes_with_a_time_of_deletion() {
    for ino in [1, 5, 6, 7, 9, 10, 11] {
        judge(&case("", &format!("sif <{ino}> dtime 1"), "InUseDtime"));
    }
}

/// e2fsck reports it, and exits with 0.
#[test]
fn more_unused_inodes_than_there_are() {
    use uext4::format::raw::put_le16;
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path(), MODERN);
    let mut bytes = std::fs::read(&image).unwrap();
    let geo = Superblock::parse(&bytes[1024..2048]).unwrap();
    let geo = geo.geometry(bytes.len() as u64).unwrap();
    let (block, at) = geo.desc_location(GroupIndex::new(2));
    let at = block.get() as usize * 1024 + at;
    let desc = &mut bytes[at..at + geo.desc_size as usize];
    put_le16(desc, 0x1c, u16::MAX);
    put_le16(desc, 0x1e, 0);
    let sum = crc32c(crc32c(geo.csum_seed, &2_u32.to_le_bytes()), desc);
    put_le16(desc, 0x1e, sum as u16);
    std::fs::write(&image, bytes).unwrap();
    let theirs = run("e2fsck", &["-fn"], &image);
    let text = String::from_utf8_lossy(&theirs.stdout);
    assert!(text.contains("invalid unused inodes count"), "{text}");
    assert_eq!(theirs.status.code(), Some(0));
    let (found, json) = fsck(&["-fn", "--json"], &image);
    assert!(
        found == 4 && json.contains("\"UnusedInodes\""),
        "{found} {json}"
    );
    assert_eq!(fsck(&["-fy"], &image).0, 1);
    assert_eq!(fsck(&["-fn"], &image).0, 0);
    let theirs = run("e2fsck", &["-fn"], &image);
    let text = String::from_utf8_lossy(&theirs.stdout);
    assert!(!text.contains("invalid unused inodes count"), "{text}");
}

/// e2fsck compares the low half of the size with the map, and so misses the high one.
#[test]
fn a_journal_larger_than_its_map() {
    let high = case("", "sif <8> size 4296015872", "JournalInodeRestored");
    judge(&high);
    judge(&case("", "sif <8> size 2097152", "JournalInodeRestored"));
}

/// The kernel does not mount it; e2fsck reads this field of a journal that is to be replayed alone.
#[test]
fn a_journal_that_begins_behind_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path(), MODERN);
    let start = debugfs("bmap <8> 0", &image)
        .trim()
        .parse::<usize>()
        .unwrap();
    let mut bytes = std::fs::read(&image).unwrap();
    bytes[start * 1024 + 0x14] = 0x10;
    std::fs::write(&image, bytes).unwrap();
    assert_eq!(code("e2fsck", &["-fn"], &image), 0);
    assert!(!mounts(&image, dir.path()));
    assert_eq!(fsck(&["-fn"], &image).0, 4);
    assert_eq!(fsck(&["-fy"], &image).0, 1);
    assert_eq!(fsck(&["-fn"], &image).0, 0);
    assert_eq!(code("e2fsck", &["-fn"], &image), 0);
    assert!(mounts(&image, dir.path()));
}

fn mounts(image: &Path, dir: &Path) -> bool {
    let mount = dir.join("mount");
    std::fs::create_dir_all(&mount).unwrap();
    let program = |name: &str, args: &[&Path]| {
        let mut command = Command::new(name);
        command.args(args).stderr(Stdio::null());
        command.status().unwrap().success()
    };
    let options = [Path::new("-o"), Path::new("loop"), image, &mount];
    let mounted = program("mount", &options);
    assert!(!mounted || (0..20).any(|_| program("umount", &[&mount])));
    mounted
}

/// What is put right in passing, or what nobody minds: no damage with `-n`, for e2fsck and for us.
#[test]
fn what_is_no_damage() {
    let lost_found = "link /lost+found /most+found\nunlink /lost+found";
    for command in ["ssv state 0", lost_found] {
        let repaired = 1;
        let dir = tempfile::tempdir().unwrap();
        let image = make(dir.path(), MODERN);
        debugfs(command, &image);
        let before = std::fs::read(&image).unwrap();
        assert_eq!(code("e2fsck", &["-fn"], &image), 0, "{command}");
        assert_eq!(fsck(&["-fn"], &image).0, 0, "{command}");
        assert!(std::fs::read(&image).unwrap() == before, "{command}");
        assert!(mounts(&image, dir.path()), "{command}");
        std::fs::write(&image, &before).unwrap();
        assert_eq!(fsck(&["-fy"], &image).0, repaired, "{command}");
        std::fs::write(dir.path().join("theirs"), before).unwrap();
        let theirs = code("e2fsck", &["-fy"], &dir.path().join("theirs"));
        assert_eq!(theirs, repaired, "{command}");
        assert_eq!(fsck(&["-fn"], &image).0, 0, "{command}");
        assert_eq!(code("e2fsck", &["-fn"], &image), 0, "{command}");
    }
}

/// With `-n` nothing is made until something must go there.
#[test]
fn a_lost_found_that_is_needed() {
    let mut lost = case(
        "",
        "link /lost+found /most+found\nunlink /lost+found\nunlink /short",
        "LostFoundMissing",
    );
    lost.contents = false;
    judge(&lost);
}

#[test]
fn with_files() {
    judge(&case("", "sif /short extra_isize 1056", "ExtraIsize"));
    judge(&case(
        ",ea_inode",
        "sif /short flags 0x280000",
        "EaInodeFlagSpurious",
    ));
    judge(&case("", "sif /fifo flags 0x1000", "HtreeNotDir"));
    judge(&case("", "sif <2> mode 0177777", "RootNotDirectory"));
}

#[test]
fn what_was_overwritten_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path(), MODERN);
    // Many pieces: every inode of a table, a directory, counts.
    debugfs("sif <2> mode 0177777", &image);
    debugfs("ssv free_blocks_count 77", &image);
    debugfs("set_bg 1 free_blocks_count 5", &image);
    debugfs("sif /sub/long block[3] 9", &image);
    let before = std::fs::read(&image).unwrap();
    let file = dir.path().join("undo");
    let (repaired, text) = fsck(&["-fy", "-z", file.to_str().unwrap()], &image);
    assert_eq!(repaired, 1, "{text}");
    assert!(std::fs::read(&image).unwrap() != before);
    let undone = run("e2undo", &[file.to_str().unwrap()], &image);
    assert!(undone.status.success(), "{undone:?}");
    assert!(std::fs::read(&image).unwrap() == before);
    // The way back of a run is not overwritten by the next.
    assert_eq!(fsck(&["-fy", "-z", file.to_str().unwrap()], &image).0, 8);
    assert!(std::fs::read(&image).unwrap() == before);
}

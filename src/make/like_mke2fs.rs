//! Plans compared with what mke2fs lays out, field by field.
//!
//! Source: dumpe2fs of images that mke2fs makes.
//! Invariants: only ids, times and the lazy zeroing of inode tables may differ.

use super::{FeatureSet, Options, Plan};
use crate::format::time::Timestamp;
use std::process::Command;

const DEFAULTS: &str = "metadata_csum_seed,orphan_file";

/// What `dumpe2fs` says about an image of `size` bytes made by mke2fs.
fn dumpe2fs(size: u64, args: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    std::fs::File::create(&image)
        .unwrap()
        .set_len(size)
        .unwrap();
    let made = Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4"])
        .args(args)
        .arg(&image)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let dump = Command::new("dumpe2fs").arg(&image).output().unwrap();
    String::from_utf8(dump.stdout).unwrap()
}

fn field<'a>(dump: &'a str, name: &str) -> Option<&'a str> {
    dump.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

fn options(size: u64) -> Options {
    Options::new(size, [1; 16], [2; 16], Timestamp::default())
}

/// Compares every count, and the place and free count of every group.
fn compare(options: &Options, args: &[&str]) {
    let plan = Plan::new(options).unwrap();
    let dump = dumpe2fs(options.size, args);
    let numbers = &plan.numbers;
    let counts = [
        ("Inode count", u64::from(numbers.inodes_count)),
        ("Block count", numbers.blocks_count),
        ("Reserved block count", numbers.reserved_blocks),
        ("Overhead clusters", plan.overhead()),
        ("Free blocks", plan.free_blocks()),
        ("Free inodes", plan.free_inodes().into()),
        ("First block", numbers.first_data_block.into()),
        ("Block size", numbers.block_size.into()),
        ("Blocks per group", numbers.blocks_per_group.into()),
        ("Inodes per group", numbers.inodes_per_group.into()),
        ("Inode blocks per group", numbers.itable_blocks.into()),
        ("Inode size", numbers.inode_size.into()),
        ("Reserved GDT blocks", numbers.reserved_gdt_blocks.into()),
        ("Total journal blocks", numbers.journal_blocks.into()),
        (
            "Flex block group size",
            if numbers.log_groups_per_flex == 0 {
                0
            } else {
                16
            },
        ),
    ];
    for (name, ours) in counts {
        let theirs: u64 = field(&dump, name).unwrap_or("0").parse().unwrap();
        assert_eq!(ours, theirs, "{name} of {} bytes, {args:?}", options.size);
    }
    compare_groups(&plan, &dump, args);
}

fn compare_groups(plan: &Plan, dump: &str, args: &[&str]) {
    let groups: Vec<&str> = dump
        .split("\nGroup ")
        .filter(|text| text.starts_with(|c: char| c.is_ascii_digit()))
        .collect();
    assert_eq!(groups.len(), plan.groups.len());
    for (index, (text, place)) in groups.iter().zip(&plan.groups).enumerate() {
        let number = |before: &str| -> u64 {
            let (_, rest) = text
                .split_once(before)
                .unwrap_or_else(|| panic!("{before} in {text}"));
            rest.split(|c: char| !c.is_ascii_digit())
                .next()
                .unwrap()
                .parse()
                .unwrap()
        };
        let theirs = (
            number("Block bitmap at "),
            number("Inode bitmap at "),
            number("Inode table at "),
        );
        let ours = (place.block_bitmap, place.inode_bitmap, place.inode_table);
        assert_eq!(
            ours,
            theirs,
            "group {index} of {} bytes, {args:?}",
            plan.len()
        );
        let free: u64 = text
            .lines()
            .find_map(|line| line.split_once(" free blocks, ")?.0.trim().parse().ok())
            .unwrap_or_else(|| panic!("{text}"));
        assert_eq!(
            plan.group_free_blocks(index as u32),
            free,
            "group {index} of {} bytes, {args:?}",
            plan.len()
        );
        if plan.numbers.features.group_csum() {
            let uninit = text.lines().next().unwrap().contains("BLOCK_UNINIT");
            assert_eq!(
                plan.block_bitmap_implied(index as u32),
                uninit,
                "group {index}, {args:?}"
            );
        }
    }
}

#[test]
fn default_layouts_of_many_sizes() {
    for size in [
        "1536K", "2M", "2304K", "3M", "8M", "10M", "20M", "50M", "64M", "100M", "300M", "511M",
    ]
    .into_iter()
    .chain([
        "512M", "700M", "1G", "3G", "10G", "33G", "100G", "130G", "2T",
    ]) {
        compare(&options(parse(size)), &["-O", DEFAULTS]);
    }
}

#[test]
fn layouts_with_options() {
    for size in ["300M", "2G", "17G"] {
        for block_size in [1024, 2048, 4096, 16384, 65536] {
            let text = block_size.to_string();
            compare(
                &Options {
                    block_size: Some(block_size),
                    ..options(parse(size))
                },
                &["-O", DEFAULTS, "-b", &text],
            );
        }
    }
    for list in [
        "^64bit",
        "^flex_bg",
        "^resize_inode",
        "^has_journal,^orphan_file",
        "^metadata_csum,^metadata_csum_seed",
    ] {
        let mut features = FeatureSet::default();
        features.apply(list).unwrap();
        let both = format!("{DEFAULTS},{list}");
        compare(
            &Options {
                features,
                ..options(parse("5G"))
            },
            &["-O", &both],
        );
    }
    let base = || options(parse("1234567K"));
    compare(&base(), &["-O", DEFAULTS]);
    compare(
        &Options {
            inode_size: 512,
            ..base()
        },
        &["-O", DEFAULTS, "-I", "512"],
    );
    compare(
        &Options {
            inodes: Some(12345),
            ..base()
        },
        &["-O", DEFAULTS, "-N", "12345"],
    );
    compare(
        &Options {
            bytes_per_inode: Some(65536),
            ..base()
        },
        &["-O", DEFAULTS, "-i", "65536"],
    );
    compare(
        &Options {
            reserved: 150,
            ..base()
        },
        &["-O", DEFAULTS, "-m", "1.5"],
    );
    compare(
        &Options {
            journal_size: Some(64 << 20),
            ..base()
        },
        &["-O", DEFAULTS, "-J", "size=64"],
    );
}

fn parse(size: &str) -> u64 {
    let (number, unit) = size.split_at(size.len() - 1);
    number.parse::<u64>().unwrap()
        << [("K", 10), ("M", 20), ("G", 30), ("T", 40)]
            .iter()
            .find(|u| u.0 == unit)
            .unwrap()
            .1
}

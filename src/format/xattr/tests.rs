//! Attributes come back as they were written; debugfs and e2fsck read ours, and we theirs.
//!
//! Source: the kernel's ext4 documentation, "Extended Attributes"; debugfs and e2fsck are the reference.
//! Invariants: images here have no metadata checksums, so that bytes can be put into them directly.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]
use super::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn attribute(index: u8, name: &str, value: &[u8]) -> Attribute {
    Attribute {
        index,
        name: name.into(),
        value: Value::Bytes(value.to_vec()),
    }
}

fn some() -> Vec<Attribute> {
    vec![
        attribute(index::SECURITY, "selinux", b"a:b:c\0"),
        attribute(index::USER, "longer", b""),
        attribute(index::USER, "b", b"12345"),
        attribute(index::ACL_ACCESS, "", &[1, 0, 0, 0]),
    ]
}

#[test]
fn names_have_an_index() {
    assert_eq!(split_name(b"user.a.b").unwrap(), (index::USER, &b"a.b"[..]));
    assert_eq!(
        split_name(b"system.posix_acl_default").unwrap(),
        (index::ACL_DEFAULT, &b""[..])
    );
    for (name, posix) in [
        (&b"user."[..], Posix::Inval),
        (b"system.data", Posix::OpNotSupp),
        (b"x", Posix::OpNotSupp),
    ] {
        assert!(split_name(name).unwrap_err().is_posix(posix));
    }
    let long = [&b"user."[..], &[b'x'; 256]].concat();
    assert!(split_name(&long).unwrap_err().is_posix(Posix::Range));
    assert!(split_name(&long[..260]).is_ok());
    assert_eq!(full_name(index::SECURITY, b"x").unwrap(), b"security.x");
    assert_eq!(full_name(index::SYSTEM, b"data"), None);
}

#[test]
fn an_inode_keeps_its_order() {
    let mut inode = vec![0u8; 256];
    inode[128] = 32;
    assert_eq!(parse_inode(&inode).unwrap(), []);
    assert!(write_inode(&mut inode, &some()[2..]));
    assert_eq!(parse_inode(&inode).unwrap(), &some()[2..]);
    let before = inode.clone();
    assert!(!write_inode(&mut inode, &[attribute(1, "x", &[0; 90])]));
    assert_eq!(inode, before);
    assert!(write_inode(&mut inode, &[attribute(1, "x", &[7; 68])]));
    assert!(write_inode(&mut inode, &[]));
    assert!(inode[160..].iter().all(|byte| *byte == 0));
    assert_eq!(inode_room(&[0; 128]), 0);
    assert!(write_inode(&mut [0; 128], &[]));
}

#[test]
fn a_block_is_sorted_and_filled_to_the_last_byte() {
    let mut block = vec![0xee; 1024];
    assert!(write_block(&mut block, &some()));
    let back = parse_block(&block).unwrap();
    let order: Vec<_> = back
        .attributes
        .iter()
        .map(|a| (a.index, a.name.len()))
        .collect();
    assert_eq!(order, [(1, 1), (1, 6), (2, 0), (6, 7)]);
    assert_eq!(back.refcount, 1);
    let room = block_room(1024) - END_MARK - ENTRY - 4;
    assert!(write_block(
        &mut block,
        &[attribute(1, "full", &vec![9; room])]
    ));
    assert_eq!(
        parse_block(&block).unwrap().attributes[0]
            .value_bytes()
            .len(),
        room
    );
    assert!(!write_block(
        &mut block,
        &[attribute(1, "full", &vec![9; room + 1])]
    ));
}

#[test]
fn hashes_differ_by_the_sign_of_high_bytes_only() {
    assert_eq!(
        entry_hash(b"ab", b"1234"),
        entry_hash_signed(b"ab", b"1234")
    );
    assert_ne!(entry_hash(b"\xe4", b""), entry_hash_signed(b"\xe4", b""));
    assert_eq!(entry_hash(b"a", b""), 0x61);
    assert_eq!(entry_hash(b"", &[1, 0, 0, 0, 2]), 0x0001_0000 ^ 2);
}

#[test]
fn hostile_areas_are_refused() {
    let mut block = vec![0; 1024];
    assert!(write_block(&mut block, &some()));
    let mut state = 1u32;
    for _ in 0..5000 {
        let mut bad = block.clone();
        for _ in 0..3 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let place = (state >> 8) as usize % 160;
            bad[place] = (state >> 24) as u8;
        }
        if let Ok(parsed) = parse_block(&bad) {
            assert!(area_size(&parsed.attributes) <= 160 * 1024);
        }
    }
    // A value that lies over the entries.
    put_le16(&mut block, BLOCK_HEADER + 2, 40);
    assert!(parse_block(&block).is_err());
}

/// An image with one file, `/f`, whose attributes debugfs has set: some in the inode, some in a block.
struct Image {
    dir: tempfile::TempDir,
    bytes: Vec<u8>,
    inode_at: usize,
    block_at: usize,
}

fn debugfs(path: &Path, request: &str) -> String {
    let output = Command::new("debugfs")
        .arg("-w")
        .arg("-R")
        .arg(request)
        .arg(path)
        .output()
        .unwrap();
    assert!(output.status.success());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Image {
    fn new() -> Self {
        Self::with(|_| {})
    }

    /// `change` may do more to the image's file before it is read.
    fn with(change: impl Fn(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let made = Command::new("mke2fs")
            .args([
                "-q",
                "-F",
                "-t",
                "ext4",
                "-b",
                "4096",
                "-O",
                "^metadata_csum,^has_journal",
            ])
            .arg(&path)
            .arg("8M")
            .status()
            .unwrap();
        assert!(made.success());
        let value = dir.path().join("value");
        fs::write(&value, [7; 300]).unwrap();
        debugfs(&path, &format!("write {} f", value.display()));
        debugfs(&path, "ea_set f user.small 12345");
        debugfs(
            &path,
            &format!("ea_set -f {} f user.large", value.display()),
        );
        debugfs(
            &path,
            &format!("ea_set -f {} f trusted.other", value.display()),
        );
        change(&path);
        let stat = debugfs(&path, "stat f");
        let block: usize = stat
            .split_once("File ACL: ")
            .unwrap()
            .1
            .split_whitespace()
            .next()
            .unwrap()
            .parse()
            .unwrap();
        let imap = debugfs(&path, "imap f");
        let (_, place) = imap.split_once("located at block ").unwrap();
        let (table, offset) = place.split_once(", offset 0x").unwrap();
        let table: usize = table.parse().unwrap();
        let inode_at = table * 4096 + usize::from_str_radix(offset.trim(), 16).unwrap();
        let bytes = fs::read(&path).unwrap();
        Self {
            dir,
            bytes,
            inode_at,
            block_at: block * 4096,
        }
    }

    fn inode(&mut self) -> &mut [u8] {
        &mut self.bytes[self.inode_at..self.inode_at + 256]
    }

    fn block(&mut self) -> &mut [u8] {
        &mut self.bytes[self.block_at..self.block_at + 4096]
    }

    /// Writes the bytes out; e2fsck finds nothing to say.
    fn judge(&self) -> PathBuf {
        let path = self.dir.path().join("judged");
        fs::write(&path, &self.bytes).unwrap();
        let output = Command::new("e2fsck")
            .arg("-fn")
            .arg(&path)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
        path
    }
}

#[test]
fn attributes_of_debugfs_are_read() {
    let mut image = Image::new();
    assert_eq!(
        parse_inode(image.inode()).unwrap(),
        [attribute(index::USER, "small", b"12345")]
    );
    let block = parse_block(image.block()).unwrap();
    let expected = [
        attribute(index::USER, "large", &[7; 300]),
        attribute(index::TRUSTED, "other", &[7; 300]),
    ];
    assert_eq!(block.attributes, expected);
    let theirs: Vec<u8> = image.block()[..112].to_vec();
    assert!(write_block(image.block(), &expected));
    // Same entries and hashes, wherever the values lie. debugfs leaves the block's own hash out.
    for at in (0..112).filter(|at| ![12, 13, 14, 15, 34, 35, 58, 59].contains(at)) {
        assert_eq!(image.block()[at], theirs[at], "byte {at}");
    }
}

#[test]
fn attributes_of_ours_pass_e2fsck() {
    let mut image = Image::new();
    let in_inode = [
        attribute(index::USER, "empty", b""),
        attribute(index::SECURITY, "label", b"x:y\0"),
    ];
    assert!(write_inode(image.inode(), &in_inode));
    let acl = acl_with_a_name();
    let mut in_block = vec![
        attribute(index::USER, "z", &[1; 1000]),
        Attribute {
            index: index::USER,
            name: b"caf\xc3\xa9".to_vec(),
            value: Value::Bytes(b"odd".to_vec()),
        },
        Attribute {
            index: index::ACL_ACCESS,
            name: Vec::new(),
            value: Value::Bytes(acl),
        },
        attribute(index::TRUSTED, "a-name", &[]),
    ];
    for number in 0..20 {
        in_block.push(attribute(
            index::USER,
            &format!("n{number}"),
            &vec![number; usize::from(number)],
        ));
    }
    assert!(write_block(image.block(), &in_block));
    // The group bits are the ACL's mask.
    let mode = le16(image.inode(), 0);
    put_le16(image.inode(), 0, (mode & !0o777) | 0o761);
    let path = image.judge();
    let list = debugfs(&path, "ea_list f");
    for name in [
        "user.empty",
        "security.label",
        "user.z (1000)",
        "trusted.a-name",
        "user.n19 (19)",
    ] {
        assert!(list.contains(name), "{name} in {list}");
    }
    put_le32(image.block(), BLOCK_HEADER + 12, 1);
    let path = image.dir.path().join("judged");
    fs::write(&path, &image.bytes).unwrap();
    let output = Command::new("e2fsck")
        .arg("-fn")
        .arg(&path)
        .output()
        .unwrap();
    assert!(!output.status.success(), "a wrong hash must not pass");
}

#[test]
fn attributes_of_the_kernel_are_read() {
    let mut image = Image::with(|path| {
        let point = path.parent().unwrap().join("mnt");
        fs::create_dir(&point).unwrap();
        let file = point.join("f");
        let run =
            |command: &mut Command| assert!(command.status().unwrap().success(), "{command:?}");
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(path)
            .arg(&point));
        run(Command::new("setfacl")
            .args(["-m", "u:1000:rw,g:7:r"])
            .arg(&file));
        run(Command::new("setfattr")
            .args(["-n", "user.caf\u{e9}", "-v", "odd"])
            .arg(&file));
        run(Command::new("setfattr")
            .args(["-n", "user.more", "-v", &"x".repeat(1001)])
            .arg(&file));
        run(Command::new("setfattr")
            .args(["-n", "user.empty"])
            .arg(&file));
        run(Command::new("sh")
            .args([
                "-c",
                "for i in 1 2 3 4 5 6 7 8 9; do umount \"$0\" && exit; sleep 0.3; done; exit 1",
            ])
            .arg(&point));
    });
    let block = parse_block(image.block()).unwrap();
    let mut all = parse_inode(image.inode()).unwrap();
    all.extend(block.attributes.iter().cloned());
    let value = |index, name: &str| {
        let found = all
            .iter()
            .find(|attribute| attribute.is(index, name.as_bytes()))
            .unwrap();
        found.value_bytes().to_vec()
    };
    assert_eq!(value(index::USER, "caf\u{e9}"), b"odd");
    assert_eq!(value(index::USER, "more"), "x".repeat(1001).as_bytes());
    assert_eq!(value(index::USER, "empty"), b"");
    assert_eq!(value(index::USER, "large"), [7; 300]);
    let acl = crate::format::acl::Acl::from_disk(&value(index::ACL_ACCESS, "")).unwrap();
    assert_eq!(acl.entries().len(), 6);
    let (mode, exact) = acl.equivalent_mode();
    assert_eq!((mode, exact), (le16(image.inode(), 0) & 0o777, false));
    assert_eq!(acl.to_disk(), value(index::ACL_ACCESS, ""));
    let theirs = image.block().to_vec();
    let mut ours = vec![0; 4096];
    assert!(write_block(&mut ours, &block.attributes));
    assert_eq!(ours[..32], theirs[..32]);
    let area = 32..32
        + block
            .attributes
            .iter()
            .map(Attribute::entry_size)
            .sum::<usize>();
    let block_attributes = block.attributes;
    let without_offsets = |block: &[u8]| {
        let mut block = block[area.clone()].to_vec();
        let mut at = 0;
        for attribute in &block_attributes {
            block[at + 2..at + 4].fill(0);
            at += attribute.entry_size();
        }
        block
    };
    assert_eq!(without_offsets(&ours), without_offsets(&theirs));
}

fn acl_with_a_name() -> Vec<u8> {
    let mut bytes = vec![1, 0, 0, 0];
    for (tag, perm, id) in [
        (1u16, 7u16, None),
        (2, 6, Some(1000u32)),
        (4, 5, None),
        (16, 6, None),
        (32, 1, None),
    ] {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(perm.to_le_bytes());
        bytes.extend(id.iter().flat_map(|id| id.to_le_bytes()));
    }
    bytes
}

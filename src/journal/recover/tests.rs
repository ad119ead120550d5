//! Real dirty journals, replayed by us and by e2fsck, must give the same bytes.
//!
//! Source: debugfs writes the journals (`journal_write`), e2fsck is the reference.
//! Invariants: every test works on its own image in a directory that goes away.

use super::*;
use crate::error::Error;
use crate::format::features::Features;
use crate::format::jbd2::{Commit, RevokeWriter, TagWriter, TransactionCrc};
use crate::format::superblock::{self, Superblock};
use crate::format::time::Timestamp;
use std::fs::File;
use std::io::{IoSlice, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

const MAGIC: [u8; 4] = jbd2::MAGIC.to_be_bytes();

/// A plain file; refuses to write when told so.
struct FileDevice(File, bool);

impl FileDevice {
    fn open(path: &Path, read_only: bool) -> Self {
        Self(
            File::options().read(true).write(true).open(path).unwrap(),
            read_only,
        )
    }
}

impl Device for FileDevice {
    fn len(&self) -> u64 {
        self.0.metadata().unwrap().len()
    }
    fn sector_size(&self) -> u32 {
        512
    }
    fn read_only(&self) -> bool {
        self.1
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.0.read_exact_at(buffer, offset).unwrap();
        Ok(())
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        assert!(!self.1, "a write at {offset} to a read-only device");
        self.0.write_all_at(bytes, offset).unwrap();
        Ok(())
    }
    fn write_vectored_at(&self, _offset: u64, _slices: &[IoSlice<'_>]) -> Result<()> {
        unreachable!()
    }
    fn sync(&self) -> Result<()> {
        Ok(())
    }
    fn discard(&self, _offset: u64, _length: u64) -> Result<()> {
        unreachable!()
    }
    fn write_zeroes(&self, _offset: u64, _length: u64) -> Result<()> {
        unreachable!()
    }
}

fn run(command: &mut Command, allowed: &[i32]) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let code = output.status.code().unwrap();
    assert!(
        allowed.contains(&code),
        "{command:?}: {code}\n{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// An image, its geometry and its journal's place, all told by the reference tools.
struct Image {
    dir: TempDir,
    path: PathBuf,
    geo: Geometry,
    log: LogMap,
}

impl Image {
    fn new(block_size: u32, options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let size = block_size.to_string();
        run(
            Command::new("mke2fs")
                .args(["-q", "-F", "-t", "ext4", "-J", "size=4", "-b", &size])
                .args(options)
                .arg(&path)
                .arg("32M"),
            &[0],
        );
        let geo = geometry(block_size, (32 << 20) / u64::from(block_size));
        let log = reference_log(&path);
        Self {
            dir,
            path,
            geo,
            log,
        }
    }

    fn device(&self) -> FileDevice {
        FileDevice::open(&self.path, false)
    }

    fn debugfs(&self, script: &str) {
        let mut child = Command::new("debugfs")
            .arg("-w")
            .arg(&self.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(script.as_bytes())
            .unwrap();
        assert!(child.wait().unwrap().success());
    }

    /// A file of `count` blocks, each filled with its number and `seed`; `magic` blocks start with jbd2's magic.
    fn data(&self, name: &str, count: u32, seed: u8, magic: bool) -> String {
        let path = self.dir.path().join(name);
        let mut bytes = Vec::new();
        for i in 0..count {
            let start = bytes.len();
            bytes.resize(
                start + self.geo.block_size as usize,
                seed.wrapping_add(i as u8),
            );
            if magic && i % 2 == 0 {
                bytes[start..start + 4].copy_from_slice(&MAGIC);
            }
        }
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn copy(&self, name: &str) -> PathBuf {
        let to = self.dir.path().join(name);
        std::fs::copy(&self.path, &to).unwrap();
        to
    }

    /// What e2fsck makes of a copy, without journal and superblock, and what it says.
    fn replayed_by_e2fsck(&self) -> (Vec<u8>, String) {
        let copy = self.copy("reference");
        let said = run(
            Command::new("e2fsck")
                .args(["-y", "-E", "journal_only"])
                .arg(&copy),
            &[0, 1],
        );
        (self.comparable(&std::fs::read(copy).unwrap()), said)
    }

    fn comparable(&self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        bytes[1024..2048].fill(0);
        for run in self.log.runs() {
            let at = byte_offset(self.geo.block_size, run.start) as usize;
            bytes[at..at + run.len as usize * self.geo.block_size as usize].fill(0);
        }
        bytes
    }

    fn differing(&self, ours: &[u8], theirs: &[u8]) -> Vec<usize> {
        let size = self.geo.block_size as usize;
        let pairs = ours.chunks(size).zip(theirs.chunks(size));
        let differing = pairs.enumerate().filter(|(_, (a, b))| a != b);
        differing.map(|(block, _)| block).collect()
    }

    fn flip_in_log(&self, at: u32, offset: u64) {
        let place = byte_offset(self.geo.block_size, self.log.block(at).unwrap()) + offset;
        let device = self.device();
        let mut byte = [0];
        device.read_at(place, &mut byte).unwrap();
        device.write_at(place, &[byte[0] ^ 0x10]).unwrap();
    }

    /// Replays both ways and compares with e2fsck.
    fn check_against_e2fsck(&self) -> Recovery {
        let (reference, said) = self.replayed_by_e2fsck();
        let before = std::fs::read(&self.path).unwrap();
        let device = Arc::new(FileDevice::open(&self.path, true));
        let (seen, overlay) = recover_read_only(device, &self.geo, &self.log).unwrap();
        let mut view = vec![0; before.len()];
        for (i, piece) in view.chunks_mut(7777).enumerate() {
            overlay.read_at(i as u64 * 7777, piece).unwrap();
        }
        let differ = self.differing(&self.comparable(&view), &reference);
        assert!(
            differ.is_empty(),
            "the overlay differs in blocks {differ:?}: {seen:?}; e2fsck: {said}"
        );
        assert!(std::fs::read(&self.path).unwrap() == before);

        let done = recover(&self.device(), &self.geo, &self.log).unwrap();
        let differ = self.differing(
            &self.comparable(&std::fs::read(&self.path).unwrap()),
            &reference,
        );
        assert!(
            differ.is_empty(),
            "the replay differs in blocks {differ:?}; e2fsck: {said}"
        );
        assert_eq!(
            (seen.blocks, seen.next_tid, seen.superblock),
            (done.blocks, done.next_tid, done.superblock.clone())
        );
        let again = recover(&self.device(), &self.geo, &self.log).unwrap();
        assert!(!again.replayed);
        assert_eq!(again.next_tid, done.next_tid);
        done
    }
}

/// Only the numbers that recovery uses.
fn geometry(block_size: u32, blocks_count: u64) -> Geometry {
    Geometry {
        features: Features::default(),
        block_size,
        block_bits: block_size.trailing_zeros(),
        blocks_count,
        first_data_block: u32::from(block_size == 1024),
        blocks_per_group: block_size * 8,
        cluster_ratio_bits: 0,
        clusters_per_group: block_size * 8,
        inodes_count: 0,
        inodes_per_group: 0,
        group_count: 1,
        desc_size: 64,
        descs_per_block: block_size / 64,
        desc_blocks: 1,
        reserved_gdt_blocks: 0,
        first_meta_bg: 0,
        backup_bgs: [0; 2],
        inode_size: 256,
        inodes_per_block: block_size / 256,
        itable_blocks: 0,
        first_ino: 11,
        log_groups_per_flex: 0,
        want_extra_isize: 32,
        csum_seed: 0,
        uuid: [0; 16],
        hash_seed: [0; 4],
        def_hash_version: 1,
        hash_unsigned: false,
        journal_inum: 8,
        orphan_file_inum: 0,
        quota_inums: [0; 3],
    }
}

/// The journal's data blocks as debugfs lists them.
fn reference_log(path: &Path) -> LogMap {
    let text = run(
        Command::new("debugfs").args(["-R", "stat <8>"]).arg(path),
        &[0],
    );
    let mut runs = Vec::new();
    let body = text
        .split_once("BLOCKS:")
        .or_else(|| text.split_once("EXTENTS:"))
        .unwrap()
        .1;
    let body = body.split("TOTAL").next().unwrap();
    for part in body
        .split([',', '\n'])
        .filter_map(|part| part.trim().strip_prefix('('))
    {
        let (logical, physical) = part.split_once("):").unwrap();
        let Some(at) = logical.split('-').next().and_then(|at| at.parse().ok()) else {
            continue;
        };
        let (start, end) = physical.split_once('-').unwrap_or((physical, physical));
        let (start, end): (u64, u64) = (start.parse().unwrap(), end.parse().unwrap());
        runs.push(LogRun {
            at,
            start: FsBlock::new(start),
            len: (end - start + 1) as u32,
        });
    }
    LogMap::from_runs(runs).unwrap()
}

/// Images of each block number width, checksum version and block size, with the matching `journal_open`.
fn variants() -> Vec<(Image, &'static str)> {
    vec![
        (Image::new(1024, &["-O", "^64bit,^metadata_csum"]), "jo"),
        (
            Image::new(4096, &["-O", "^64bit,^metadata_csum,^extents"]),
            "jo",
        ),
        (
            Image::new(1024, &["-O", "64bit,metadata_csum"]),
            "jo -c -v 3",
        ),
        (
            Image::new(4096, &["-O", "64bit,metadata_csum"]),
            "jo -c -v 3",
        ),
        (
            Image::new(4096, &["-O", "64bit,metadata_csum"]),
            "jo -c -v 2",
        ),
        (
            Image::new(1024, &["-O", "^64bit,metadata_csum"]),
            "jo -c -v 2",
        ),
        (Image::new(4096, &["-O", "64bit,^metadata_csum"]), "jo"),
    ]
}

#[test]
fn transactions_escapes_and_revokes_are_replayed_as_by_e2fsck() {
    for (image, open) in variants() {
        let many = image.data("many", 280, 1, true);
        let few = image.data("few", 3, 99, true);
        let range: Vec<String> = (5000..5280).map(|block| block.to_string()).collect();
        image.debugfs(&format!(
            "{open}\njw -b {} {many}\njw -r 5001,5002,5004\njw -b 5003,5004,5005 {few}\njw -r 5003\njw -b 5002,7777,7778 {few}\njc\n",
            range.join(",")
        ));
        let done = image.check_against_e2fsck();
        assert!(done.replayed);
        assert_eq!(
            (done.transactions, done.revokes, done.errno),
            (5, 4, 0),
            "{open}"
        );
        assert_eq!(done.blocks, 280, "{open}");
        assert_eq!(done.revoked, 2, "{open}");
        let mut block = block_buffer(&image.geo);
        image
            .device()
            .read_at(
                byte_offset(image.geo.block_size, FsBlock::new(7778)),
                &mut block,
            )
            .unwrap();
        assert_eq!(
            block[..5],
            [MAGIC[0], MAGIC[1], MAGIC[2], MAGIC[3], 101],
            "{open}"
        );
    }
}

#[test]
fn an_uncommitted_tail_is_left_out() {
    for (image, open) in variants() {
        let few = image.data("few", 3, 5, false);
        image.debugfs(&format!(
            "{open}\njw -b 5001,5002,5003 {few}\njw -c -b 5001,6002,6003 {few}\njc\n"
        ));
        let done = image.check_against_e2fsck();
        assert_eq!((done.transactions, done.blocks), (1, 3), "{open}");
    }
}

#[test]
fn a_clean_journal_is_left_alone() {
    let image = Image::new(4096, &[]);
    let before = std::fs::read(&image.path).unwrap();
    let done = recover(&FileDevice::open(&image.path, true), &image.geo, &image.log).unwrap();
    assert!(!done.replayed);
    assert!(std::fs::read(&image.path).unwrap() == before);
}

/// One committed transaction of three blocks: descriptor, data, data, data, commit from block `start`.
fn committed(open: &str) -> (Image, u32) {
    let image = Image::new(4096, &["-O", "64bit,metadata_csum"]);
    let few = image.data("few", 3, 5, false);
    image.debugfs(&format!(
        "{open}\njw -b 5001,5002,5003 {few}\njw -b 5004,5005,5006 {few}\njc\n"
    ));
    let start = read_superblock(&image.device(), &image.geo, &image.log)
        .unwrap()
        .start();
    (image, start)
}

#[test]
fn damage_in_a_committed_transaction_is_an_error_and_nothing_is_written() {
    for open in ["jo -c -v 3", "jo -c -v 2"] {
        // Descriptor, data, commit of the first transaction; data of the second.
        for at in [0, 2, 4, 7] {
            let (image, start) = committed(open);
            image.flip_in_log(start + at, 20);
            let before = std::fs::read(&image.path).unwrap();
            let error =
                recover(&FileDevice::open(&image.path, true), &image.geo, &image.log).unwrap_err();
            let place = Location::block(image.log.block(start + at).unwrap());
            assert!(
                matches!(error, Error::Corrupt { at, .. } if at == place),
                "{open} {at}: {error}"
            );
            assert!(std::fs::read(&image.path).unwrap() == before);
        }
    }
}

#[test]
fn a_torn_descriptor_without_a_commit_block_is_the_end() {
    let (image, start) = committed("jo -c -v 3");
    image.flip_in_log(start + 5, 20);
    image.flip_in_log(start + 9, 0);
    let done = image.check_against_e2fsck();
    assert_eq!((done.transactions, done.blocks), (1, 3));
}

#[test]
fn random_damage_never_panics() {
    let (image, _) = committed("jo");
    let log_at = byte_offset(4096, image.log.block(0).unwrap());
    let mut log = vec![0; 12 * 4096];
    image.device().read_at(log_at, &mut log).unwrap();
    let mut state = 7u64;
    for _ in 0..300 {
        let device = image.device();
        device.write_at(log_at, &log).unwrap();
        for _ in 0..4 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let block = (state >> 33) % 12;
            let offset = log_at + block * 4096 + (state >> 40) % 96;
            device.write_at(offset, &[(state >> 24) as u8]).unwrap();
        }
        if let Ok(done) = recover(&device, &image.geo, &image.log) {
            assert!(done.next_tid.get() > 0 || !done.replayed);
        }
    }
}

#[test]
fn the_journals_place_is_read_from_its_inode() {
    for options in [
        &["-b", "1024"][..],
        &["-b", "1024", "-O", "^extents,^64bit"],
        &[
            "-b",
            "4096",
            "-O",
            "^metadata_csum,^extents,^64bit",
            "-I",
            "128",
        ],
        &["-b", "4096"],
    ] {
        let image = Image::new(options[1].parse().unwrap(), &options[2..]);
        let device = image.device();
        let mut bytes = [0; superblock::SIZE];
        device.read_at(superblock::OFFSET, &mut bytes).unwrap();
        let geo = Superblock::parse(&bytes)
            .unwrap()
            .geometry(device.len())
            .unwrap();
        assert_eq!(
            LogMap::read(&device, &geo).unwrap(),
            image.log,
            "{options:?}"
        );
    }
}

#[test]
fn a_fast_commit_is_refused() {
    let image = Image::new(1024, &["-O", "fast_commit"]);
    let few = image.data("few", 2, 5, false);
    let mut superblock = read_superblock(&image.device(), &image.geo, &image.log).unwrap();
    superblock.set_feature_incompat(superblock.feature_incompat() | jbd2::incompat::FAST_COMMIT);
    write_superblock(&image.device(), &image.geo, &image.log, &superblock).unwrap();
    image.debugfs(&format!("jo\njw -b 5001,5002 {few}\njc\n"));
    let superblock = read_superblock(&image.device(), &image.geo, &image.log).unwrap();
    assert!(superblock.num_fc_blocks() > 0);
    let tid = superblock.sequence().get() + 1;
    let mut head = [0; 16];
    head[0] = 9;
    head[2] = 8;
    head[8..12].copy_from_slice(&tid.to_le_bytes());
    let at = byte_offset(1024, image.log.block(superblock.log_end()).unwrap());
    image.device().write_at(at, &head).unwrap();
    let error = recover(&FileDevice::open(&image.path, true), &image.geo, &image.log).unwrap_err();
    assert!(matches!(
        error,
        Error::Incompatible(Incompatible::FastCommit)
    ));
    head[8] = head[8].wrapping_add(1);
    image.device().write_at(at, &head).unwrap();
    assert_eq!(
        recover(&image.device(), &image.geo, &image.log)
            .unwrap()
            .blocks,
        2
    );
}

#[test]
fn a_recorded_error_is_reported() {
    let image = Image::new(4096, &[]);
    let mut superblock = read_superblock(&image.device(), &image.geo, &image.log).unwrap();
    superblock.set_errno(-5);
    write_superblock(&image.device(), &image.geo, &image.log, &superblock).unwrap();
    assert_eq!(
        recover(&image.device(), &image.geo, &image.log)
            .unwrap()
            .errno,
        -5
    );
}

/// Writes a transaction of revokes and blocks into the log from `at` on; returns the block behind it.
fn write_transaction(
    image: &Image,
    layout: &Layout,
    tid: Tid,
    mut at: u32,
    blocks: &[u64],
    revokes: &[u64],
) -> u32 {
    let device = image.device();
    let mut put = |bytes: &[u8]| {
        device
            .write_at(
                byte_offset(image.geo.block_size, image.log.block(at).unwrap()),
                bytes,
            )
            .unwrap();
        at += 1;
    };
    let mut block = block_buffer(&image.geo);
    let mut crc = TransactionCrc::default();
    if !revokes.is_empty() {
        let mut writer = RevokeWriter::new(&mut block, layout, tid);
        assert!(
            revokes
                .iter()
                .all(|revoke| writer.push(FsBlock::new(*revoke)))
        );
        writer.finish();
        put(&block);
    }
    for chunk in blocks.chunks(TagWriter::capacity(layout) as usize) {
        let logged: Vec<(Vec<u8>, bool)> = chunk
            .iter()
            .map(|home| {
                let mut data =
                    vec![(home + u64::from(tid.get())) as u8; image.geo.block_size as usize];
                if home % 3 == 0 {
                    data[..4].copy_from_slice(&MAGIC);
                }
                let escaped = jbd2::needs_escape(&data);
                if escaped {
                    jbd2::escape(&mut data);
                }
                (data, escaped)
            })
            .collect();
        let mut writer = TagWriter::new(&mut block, layout, tid);
        for (home, (data, escaped)) in chunk.iter().zip(&logged) {
            assert!(writer.push(
                FsBlock::new(*home),
                *escaped,
                layout.data_checksum(tid, data)
            ));
        }
        writer.finish();
        crc.update(&block);
        put(&block);
        for (data, _) in &logged {
            crc.update(data);
            put(data);
        }
    }
    let time = Timestamp {
        seconds: 1_700_000_000 + i64::from(tid.get()),
        nanoseconds: 1,
    };
    Commit {
        tid,
        time,
        crc: Some(crc.get()),
    }
    .write_to(&mut block, layout);
    put(&block);
    at
}

/// Block size, features of the file system, `feature_compat` and `feature_incompat` of the journal.
const WRITTEN: [(u32, &str, u32, u32); 7] = {
    use jbd2::{compat, incompat};
    [
        (1024, "^64bit,^metadata_csum", 0, incompat::REVOKE),
        (
            4096,
            "^64bit,^metadata_csum",
            compat::CHECKSUM,
            incompat::REVOKE,
        ),
        (
            4096,
            "64bit,^metadata_csum",
            0,
            incompat::REVOKE | incompat::BIT64,
        ),
        (
            4096,
            "64bit,metadata_csum",
            0,
            incompat::REVOKE | incompat::BIT64 | incompat::CSUM_V3,
        ),
        (
            1024,
            "^64bit,metadata_csum",
            0,
            incompat::REVOKE | incompat::CSUM_V3,
        ),
        (
            1024,
            "64bit,metadata_csum",
            0,
            incompat::REVOKE | incompat::BIT64 | incompat::CSUM_V2,
        ),
        (
            4096,
            "^64bit,metadata_csum",
            0,
            incompat::REVOKE | incompat::CSUM_V2,
        ),
    ]
};

#[test]
fn e2fsck_replays_what_the_writers_wrote() {
    for (block_size, features, checksums, bits) in WRITTEN {
        let image = Image::new(block_size, &["-O", features]);
        image.debugfs("feature needs_recovery\n");
        let mut superblock = read_superblock(&image.device(), &image.geo, &image.log).unwrap();
        superblock.set_feature_compat(checksums);
        superblock.set_feature_incompat(bits);
        let layout = superblock.layout();
        let first = Tid::new(u32::MAX - 1);
        superblock.set_sequence(first);
        superblock.set_start(7);
        let blocks: Vec<u64> = (5000..5300).collect();
        let at = write_transaction(&image, &layout, first, 7, &blocks, &[]);
        let at = write_transaction(
            &image,
            &layout,
            first.next(),
            at,
            &[5003, 7777],
            &[5001, 5002, 5003],
        );
        write_transaction(&image, &layout, first.next().next(), at, &[5002], &[7777]);
        write_superblock(&image.device(), &image.geo, &image.log, &superblock).unwrap();
        let done = image.check_against_e2fsck();
        assert_eq!(
            (done.transactions, done.revokes, done.revoked),
            (3, 4, 3),
            "{features} {bits:#x}"
        );
        assert_eq!(done.blocks, 298);
        let mut block = block_buffer(&image.geo);
        image
            .device()
            .read_at(5000 * u64::from(block_size), &mut block)
            .unwrap();
        assert!(
            block
                .iter()
                .all(|byte| *byte == (5000 + u64::from(first.get())) as u8)
        );
    }
}

/// An image that the kernel has mounted, changed and not yet unmounted, copied with its log full.
fn written_by_the_kernel(options: &[&str], mount: &str) -> Image {
    let mut image = Image::new(options.first().unwrap().parse().unwrap(), &options[1..]);
    let point = image.dir.path().join("mnt");
    std::fs::create_dir(&point).unwrap();
    run(
        Command::new("mount")
            .args(["-o", &format!("loop,{mount}")])
            .arg(&image.path)
            .arg(&point),
        &[0],
    );
    for round in 0..40u8 {
        let dir = point.join(format!("d{}", round % 7));
        if round % 7 == round % 5 {
            let _ = std::fs::remove_dir_all(&dir);
        }
        std::fs::create_dir_all(&dir).unwrap();
        for file in 0..30 {
            let mut bytes = vec![round; 5000];
            bytes[..4].copy_from_slice(&MAGIC);
            std::fs::write(
                dir.join(format!("a rather long name of a file {round} {file}")),
                bytes,
            )
            .unwrap();
        }
        File::open(&dir).unwrap().sync_all().unwrap();
    }
    // Of one moment: the kernel may be writing.
    let copy = std::iter::repeat_with(|| image.copy("dirty"))
        .take(20)
        .find(|copy| std::fs::read(copy).unwrap() == std::fs::read(&image.path).unwrap())
        .expect("the kernel comes to rest");
    run(
        Command::new("sh")
            .args([
                "-c",
                "for i in 1 2 3 4 5 6 7 8 9; do umount \"$0\" && exit; sleep 0.3; done; exit 1",
            ])
            .arg(&point),
        &[0],
    );
    image.path = copy;
    image
}

#[test]
fn the_kernels_journals_are_replayed_as_by_e2fsck() {
    for (options, mount) in [
        (&["4096"][..], "rw"),
        (&["1024", "-O", "^64bit"], "rw"),
        (&["1024"], "data=journal"),
        (&["4096"], "data=journal"),
        (&["4096", "-O", "^metadata_csum"], "rw"),
        (
            &["4096", "-O", "^metadata_csum,^64bit"],
            "journal_checksum,data=journal",
        ),
        (
            &["1024", "-O", "^metadata_csum,^64bit,^extents"],
            "journal_async_commit,data=writeback",
        ),
        (&["4096"], "journal_async_commit,data=writeback"),
    ] {
        let image = written_by_the_kernel(options, mount);
        eprintln!("{options:?} {mount}");
        let superblock = read_superblock(&image.device(), &image.geo, &image.log).unwrap();
        let done = image.check_against_e2fsck();
        assert!(done.replayed, "{options:?} {mount}");
        eprintln!(
            "{options:?} {mount}: {:?} start {} of {}, {} transactions, {} blocks, {} revokes, {} revoked",
            superblock.layout().checksums,
            superblock.start(),
            superblock.maxlen(),
            done.transactions,
            done.blocks,
            done.revokes,
            done.revoked
        );
        run(Command::new("e2fsck").arg("-fy").arg(&image.path), &[0, 1]);
    }
}

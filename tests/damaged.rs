//! Images damaged in chosen places: what is met while mounted fails that operation alone, is said once with its place, is
//! recorded in the superblock, and `errors=` is obeyed. Backups stand in for superblock and descriptors.
//!
//! Source: the kernel's ext4 documentation; the kernel's practice for corruption met while mounted.

#[path = "damaged/backups.rs"]
mod backups;
#[path = "damaged/bitmaps.rs"]
mod bitmaps;
#[path = "common/without_fuse.rs"]
mod without_fuse;

use std::cell::RefCell;
use std::sync::Arc;
use uext4::error::{Error, Posix};
use uext4::fs::{Caller, ErrorPolicy, Fs, NewNode, Options, SetAttr, WriteMode};
use uext4::ids::InodeNumber;
use uext4::xattr::SetMode;
use without_fuse::{CoreImage, ROOT, Walk, create, directory, failure, file, list, write};

const CSUM: &str = "-t ext4 -b 4096 -O metadata_csum_seed,orphan_file";
const PLAIN: &str = "-t ext4 -b 1024 -O ^metadata_csum,^uninit_bg,^64bit";

thread_local! {
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Keeps the error lines of each thread.
struct Lines;

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        if record.level() == log::Level::Error {
            LINES.with_borrow_mut(|lines| lines.push(record.args().to_string()));
        }
    }
    fn flush(&self) {}
}

fn error_lines() -> Vec<String> {
    LINES.take()
}

fn listen() {
    static LOGGER: Lines = Lines;
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(log::LevelFilter::Error);
    error_lines();
}

fn options(errors: ErrorPolicy) -> Options {
    Options {
        errors: Some(errors),
        ..Options::default()
    }
}

/// What an image holds before it is damaged: `witness` stays readable.
fn populated(options: &str) -> CoreImage {
    let image = CoreImage::mke2fs("64M", options);
    let fs = image.mount_rw();
    let witness = file(&fs, ROOT, "witness");
    write(&fs, witness, 0, b"still here");
    let dir = directory(&fs, ROOT, "dir");
    file(&fs, dir, "inside");
    let many = directory(&fs, ROOT, "many");
    for i in 0..400 {
        file(&fs, many, &format!("a-name-that-is-long-enough-{i:04}"));
    }
    let holes = file(&fs, ROOT, "holes");
    for i in 0..20 {
        write(&fs, holes, i * 200_000, b"piece");
    }
    let attributes = file(&fs, ROOT, "attributes");
    let value = [b'v'; 600];
    let set = |value| {
        fs.setxattr(
            Caller::default(),
            attributes,
            b"user.v",
            Some(value),
            SetMode::Any,
        )
    };
    set(&value).expect("an attribute");
    let target = [b'x'; 200];
    create(&fs, ROOT, "slow", NewNode::Symlink { target: &target }).expect("a link");
    create(&fs, ROOT, "fast", NewNode::Symlink { target: b"target" }).expect("a link");
    fs.unmount().expect("unmount");
    drop(fs);
    image.fsck();
    image
}

fn find(fs: &Fs, name: &str) -> InodeNumber {
    fs.lookup(ROOT, name.as_bytes()).expect(name).ino
}

fn list_dir(name: &str) -> impl Fn(&Fs) -> Result<(), Error> {
    move |fs| list(fs, find(fs, name)).1.map_or(Ok(()), Err)
}

fn read_holes(fs: &Fs) -> Result<(), Error> {
    fs.read(find(fs, "holes"), 3_000_000, 100_000).map(drop)
}

/// Mounts the damaged image and checks all that is promised of `operation`.
#[track_caller]
fn check(
    image: &CoreImage,
    is_checksum: bool,
    words: &[&str],
    operation: impl Fn(&Fs) -> Result<(), Error>,
) {
    listen();
    let fs = image
        .mount(options(ErrorPolicy::Continue))
        .expect("it mounts");
    assert!(!fs.is_read_only(), "{:?}", fs.notices());
    let error = failure(&fs, operation(&fs));
    let Error::Corrupt { kind, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(kind.is_checksum(), is_checksum, "{error}");
    let lines = error_lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    for word in words {
        assert!(lines[0].contains(word), "{word} is not in {lines:?}");
    }
    assert!(!fs.is_read_only(), "errors=continue");
    assert_eq!(
        fs.read(find(&fs, "witness"), 0, 100)
            .expect("the witness")
            .as_slice(),
        b"still here"
    );
    // Everything else is still there, and can be changed.
    let walk = Walk::everything(&fs);
    assert!(walk.files >= 5 && walk.directories >= 3, "{walk:?}");
    write(&fs, find(&fs, "witness"), 0, b"still");
    fs.unmount().expect("unmount");
    drop(fs);
    let errors = image.header("FS Error count").expect("an error count");
    assert!(errors.parse::<u32>().expect("a number") >= 1);
    assert!(
        image
            .header("Filesystem state")
            .expect("a state")
            .contains("with errors")
    );
    assert!(
        image.header("First error function").is_some() && image.header("Last error time").is_some()
    );

    listen();
    let fs = image
        .mount(options(ErrorPolicy::RemountRo))
        .expect("it mounts");
    failure(&fs, operation(&fs));
    assert!(fs.is_read_only(), "errors=remount-ro");
    let refused = create(&fs, ROOT, "new", NewNode::File { mode: 0o600 });
    assert!(
        refused
            .err()
            .is_some_and(|error| error.is_posix(Posix::RoFs))
    );
    assert_eq!(
        fs.read(find(&fs, "witness"), 0, 5)
            .expect("the witness")
            .as_slice(),
        b"still"
    );
    assert!(fs.unmount().is_err());
}

#[test]
fn a_directory_block() {
    let image = populated(CSUM);
    image.flip(image.block_of("/dir", 0) * 4096 + 28);
    check(
        &image,
        true,
        &[
            "directory block",
            "checksum is",
            "expected",
            "inode",
            "block",
        ],
        list_dir("dir"),
    );
    let image = populated(PLAIN);
    image.patch(image.block_of("/dir", 0) * 1024 + 24 + 4, &[7, 0]);
    check(
        &image,
        false,
        &["directory block", "rec_len is 7", "inode", "block"],
        list_dir("dir"),
    );
    let at = image.inode_at("/dir");
    let links = image.read(at, 128);
    let lookup = |fs: &Fs| fs.lookup(find(fs, "dir"), b"missing").map(drop);
    check(
        &image,
        false,
        &["directory block", "inode", "block"],
        lookup,
    );
    let remove = |fs: &Fs| fs.rmdir(ROOT, b"dir");
    check(
        &image,
        false,
        &["directory block", "inode", "block"],
        remove,
    );
    assert_eq!(links[..4], image.read(at, 4)[..]);
}

#[test]
fn a_directory_index() {
    let image = populated(CSUM);
    image.flip(image.block_of("/many", 0) * 4096 + 40);
    let lookup = |fs: &Fs| {
        fs.lookup(find(fs, "many"), b"a-name-that-is-long-enough-0007")
            .map(drop)
    };
    check(
        &image,
        true,
        &["directory index", "checksum is", "inode", "block"],
        lookup,
    );
    check(
        &image,
        true,
        &["directory index", "inode", "block"],
        list_dir("many"),
    );
    // Without checksums a broken index is passed by: the leaves hold all names.
    let image = populated(PLAIN);
    image.patch(image.block_of("/many", 0) * 1024 + 34, &[0xff, 0xff]);
    let fs = image
        .mount(options(ErrorPolicy::Continue))
        .expect("it mounts");
    lookup(&fs).expect("found without the index");
    assert_eq!(list(&fs, find(&fs, "many")).0.len(), 402);
}

#[test]
fn an_extent_node() {
    let image = populated(CSUM);
    let inode = image.read(image.inode_at("/holes"), 128);
    assert_eq!(inode[40 + 6], 1, "the tree has a depth");
    let leaf = u64::from(u32::from_le_bytes([
        inode[56], inode[57], inode[58], inode[59],
    ]));
    image.flip(leaf * 4096 + 20);
    check(
        &image,
        true,
        &["extent tree node", "checksum is", "inode", "block"],
        read_holes,
    );
    let write = |fs: &Fs| fs.write(find(fs, "holes"), 100_000, b"x", WriteMode::default());
    check(&image, true, &["extent tree node", "inode", "block"], write);

    let image = populated(PLAIN);
    let at = image.inode_at("/holes");
    let inode = image.read(at, 128);
    let leaf = u64::from(u32::from_le_bytes([
        inode[56], inode[57], inode[58], inode[59],
    ]));
    image.patch(leaf * 1024, &[0, 0]);
    check(
        &image,
        false,
        &["extent tree node", "magic number is 0x0", "expected 0xf30a"],
        read_holes,
    );
}

#[test]
fn an_extent_tree_with_a_loop() {
    let image = populated(PLAIN);
    let at = image.inode_at("/holes");
    let inode = image.read(at, 128);
    let leaf = u64::from(u32::from_le_bytes([
        inode[56], inode[57], inode[58], inode[59],
    ]));
    // The node leads to itself, for every depth that it may claim.
    let mut node = image.read(leaf * 1024, 1024);
    node[..12].copy_from_slice(&[0x0a, 0xf3, 1, 0, 84, 0, 1, 0, 0, 0, 0, 0]);
    node[12..24].copy_from_slice(&[0; 12]);
    node[16..20].copy_from_slice(&(leaf as u32).to_le_bytes());
    image.patch(leaf * 1024, &node);
    check(
        &image,
        false,
        &["extent tree node", "inode", "block"],
        read_holes,
    );
    image.patch(at + 40 + 6, &[2]);
    check(
        &image,
        false,
        &["extent tree node", "inode", "block"],
        read_holes,
    );
    let truncate = |fs: &Fs| {
        let set = SetAttr {
            size: Some(10),
            ..SetAttr::default()
        };
        fs.setattr(Caller::default(), find(fs, "holes"), &set)
            .map(drop)
    };
    check(
        &image,
        false,
        &["extent tree node", "inode", "block"],
        truncate,
    );
    image.patch(at + 40 + 6, &[9]);
    check(&image, false, &["extent tree node", "inode"], read_holes);
}

#[test]
fn an_inode() {
    let image = populated(CSUM);
    image.flip(image.inode_at("/dir/inside"));
    let lookup = |fs: &Fs| fs.lookup(find(fs, "dir"), b"inside").map(drop);
    check(
        &image,
        true,
        &["inode: checksum is", "expected", "block"],
        lookup,
    );
    let unlink = |fs: &Fs| fs.unlink(find(fs, "dir"), b"inside");
    check(
        &image,
        true,
        &["inode: checksum is", "expected", "block"],
        unlink,
    );
}

#[test]
fn an_attribute_block() {
    for (options, is_checksum, word) in [
        (CSUM, true, "checksum is"),
        (PLAIN, false, "magic number is"),
    ] {
        let image = populated(options);
        let text = image.debugfs("stat /attributes");
        let block = u64::from(field(&text, "File ACL: "));
        assert_ne!(block, 0);
        image.flip(block * image.block_size());
        let get = |fs: &Fs| fs.getxattr(find(fs, "attributes"), b"user.v").map(drop);
        check(
            &image,
            is_checksum,
            &["extended attribute block", word, "inode", "block"],
            get,
        );
        let set = |fs: &Fs| {
            let ino = find(fs, "attributes");
            fs.setxattr(
                Caller::default(),
                ino,
                b"user.w",
                Some(&[1; 700]),
                SetMode::Any,
            )
        };
        check(
            &image,
            is_checksum,
            &["extended attribute block", word, "inode", "block"],
            set,
        );
    }
}

#[test]
fn a_pointer_out_of_range() {
    for pointer in [u32::MAX, 1] {
        let image = populated("-t ext4 -b 1024 -O ^extent,^metadata_csum,^64bit");
        let map = image.inode_at("/holes") + 40 + 4 * 12;
        let old = image.read(map, 4);
        image.patch(map, &pointer.to_le_bytes());
        let word = format!("points to block {pointer}");
        let read = |fs: &Fs| fs.read(find(fs, "holes"), 200_000, 100).map(drop);
        check(&image, false, &["indirect block", &word, "inode"], read);
        // In the indirect block, too.
        image.patch(map, &old);
        let block = u64::from(u32::from_le_bytes([old[0], old[1], old[2], old[3]]));
        let index = 200_000 / 1024 - 12;
        image.patch(block * 1024 + index * 4, &pointer.to_le_bytes());
        check(&image, false, &["indirect block", &word, "inode"], read);
        let write = |fs: &Fs| fs.write(find(fs, "holes"), 200_001, b"x", WriteMode::default());
        check(&image, false, &["indirect block", &word, "inode"], write);
        let truncate = |fs: &Fs| {
            let set = SetAttr {
                size: Some(10),
                ..SetAttr::default()
            };
            fs.setattr(Caller::default(), find(fs, "holes"), &set)
                .map(drop)
        };
        check(&image, false, &["indirect block", &word, "inode"], truncate);
    }
}

#[test]
fn an_extent_to_the_file_systems_own_blocks() {
    let image = populated(PLAIN);
    image.patch(image.inode_at("/witness") + 40 + 20, &[0; 0]);
    let at = image.inode_at("/dir") + 40;
    // ee_start_lo of the only extent: the block of the descriptors.
    image.patch(at + 12 + 8, &2_u32.to_le_bytes());
    check(
        &image,
        false,
        &["extent tree node", "block 2", "inode"],
        list_dir("dir"),
    );
}

#[test]
fn a_symbolic_links_length() {
    for (name, size) in [("fast", 0_u32), ("fast", 3000), ("slow", 1 << 20)] {
        let image = populated(PLAIN);
        image.patch(image.inode_at(&format!("/{name}")) + 4, &size.to_le_bytes());
        let word = format!("i_size is {size}");
        check(&image, false, &["symbolic link", &word, "inode"], |fs| {
            fs.readlink(find(fs, name)).map(drop)
        });
    }
}

/// The number behind a word in debugfs's or dumpe2fs's text.
fn field(text: &str, word: &str) -> u32 {
    let rest = text.split(word).nth(1).expect(word);
    rest.split_whitespace()
        .next()
        .and_then(|n| n.parse().ok())
        .expect(word)
}

/// A file that keeps the record of errors when the journal holds an older superblock.
#[test]
fn the_record_of_errors_survives_a_replay() {
    let image = populated("-t ext4 -b 4096 -O ^orphan_file");
    image.flip(image.block_of("/dir", 0) * 4096 + 28);
    let fs = image
        .mount(options(ErrorPolicy::RemountRo))
        .expect("it mounts");
    // An orphan puts the superblock into the journal.
    let open = file(&fs, ROOT, "open");
    fs.open(open, true, false, false).expect("open");
    fs.unlink(ROOT, b"open").expect("unlink");
    fs.fsync_wait(open).expect("fsync");
    failure(&fs, list(&fs, find(&fs, "dir")).1.map_or(Ok(()), Err));
    assert!(fs.is_read_only());
    assert!(fs.fsync_wait(open).is_err());
    assert!(fs.unmount().is_err());
    drop(fs);
    assert_eq!(image.header("FS Error count").as_deref(), Some("1"));
    assert!(
        image
            .header("Filesystem features")
            .expect("features")
            .contains("needs_recovery")
    );
    let fs = image
        .mount(options(ErrorPolicy::RemountRo))
        .expect("it mounts again");
    let notices = fs.notices();
    assert!(
        notices
            .iter()
            .any(|line| line.starts_with("journal replayed")),
        "{notices:?}"
    );
    assert!(
        notices.iter().any(|line| line.contains("recorded errors")),
        "{notices:?}"
    );
    fs.unmount().expect("unmount");
    drop(fs);
    assert_eq!(image.header("FS Error count").as_deref(), Some("1"));
    assert!(
        image
            .header("Filesystem state")
            .expect("a state")
            .contains("with errors")
    );
}

/// What a journal was aborted with goes over to the superblock.
#[test]
fn a_journal_that_was_aborted() {
    let image = populated(PLAIN);
    let errno = image.block_of("<8>", 0) * 1024 + 0x20;
    image.patch(errno, &(-5_i32).to_be_bytes());
    let fs = image.mount_rw();
    let notices = fs.notices();
    assert!(
        notices.iter().any(|line| line.contains("recorded errors")),
        "{notices:?}"
    );
    write(&fs, find(&fs, "witness"), 0, b"still");
    fs.unmount().expect("unmount");
    drop(fs);
    assert_eq!(image.read(errno, 4), [0; 4]);
    let state = image.header("Filesystem state").expect("a state");
    assert!(state.contains("with errors"), "{state}");
}

/// `errors=panic` ends the process, so it runs in one of its own: this test binary once more.
#[test]
fn errors_panic() {
    const CHILD: &str = "UEXT4_TEST_PANICS_ON";
    if let Some(path) = std::env::var_os(CHILD) {
        let device =
            uext4::device::file::FileDevice::open(std::path::Path::new(&path), &Default::default());
        let device = Arc::new(device.expect("the image opens"));
        let fs = Fs::mount(device, options(ErrorPolicy::Panic)).expect("it mounts");
        failure(&fs, list(&fs, find(&fs, "dir")).1.map_or(Ok(()), Err));
        unreachable!("errors=panic");
    }
    let image = populated(CSUM);
    image.flip(image.block_of("/dir", 0) * 4096 + 28);
    let program = std::env::current_exe().expect("this program");
    let output = std::process::Command::new(program)
        .args(["--exact", "errors_panic", "--nocapture"])
        .env(CHILD, &image.path)
        .output()
        .expect("it runs");
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(
        output.status.signal(),
        Some(6),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(image.header("FS Error count").as_deref(), Some("1"));
}

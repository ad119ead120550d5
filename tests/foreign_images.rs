//! Corrupt images that others made: everything in them is tried, and nothing panics, hangs or eats memory.
//!
//! Source: the design's judges; the images are e2fsprogs' own and stay outside of this repository.

#[path = "common/without_fuse.rs"]
mod without_fuse;

use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use uext4::error::Error;
use uext4::fs::{Caller, ErrorPolicy, Fs, NewNode, Options, SetAttr, WriteMode};
use uext4::ids::InodeNumber;
use uext4::xattr::SetMode;
use without_fuse::{CoreImage, ROOT, Walk, create, list};

/// The longest that one image may take.
const LIMIT: Duration = Duration::from_secs(180);
const CAP: u64 = 32 << 20;

/// The images, beside the repository or where `UEXT4_CORPUS` says.
fn corpus() -> Option<PathBuf> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus");
    let path = std::env::var_os("UEXT4_CORPUS")
        .map_or(beside, PathBuf::from)
        .join("fsck");
    let expected = path
        .parent()
        .and_then(|p| p.parent())
        .is_some_and(|shared| shared.exists());
    let needed = expected || std::env::var_os("CI").is_some();
    assert!(path.is_dir() || !needed, "{} is missing", path.display());
    path.is_dir().then_some(path)
}

fn options(read_only: bool) -> Options {
    Options {
        read_only,
        errors: Some(ErrorPolicy::Continue),
        memory: CAP,
        max_write: 1 << 18,
        ..Options::default()
    }
}

/// Tries all kinds of changes in and below a directory.
fn change(fs: &Fs, dir: InodeNumber) {
    let root = Caller::default();
    let failed = |result: Result<(), Error>| {
        if let Err(error) = result {
            fs.report(&error);
        }
    };
    let made = create(fs, dir, "made-by-the-test", NewNode::File { mode: 0o600 });
    if let Ok(attr) = &made {
        failed(fs.write(attr.ino, 0, &[7; 9000], WriteMode::default()));
        failed(fs.setxattr(root, attr.ino, b"user.a", Some(&[1; 300]), SetMode::Any));
        failed(fs.link(attr.ino, dir, b"linked-by-the-test").map(drop));
        let modes = uext4::fs::RenameMode::Replace;
        failed(fs.rename(
            root,
            (dir, b"linked-by-the-test"),
            (dir, b"moved-by-the-test"),
            modes,
        ));
    }
    failed(made.map(drop));
    failed(
        create(
            fs,
            dir,
            "dir-by-the-test",
            NewNode::Directory { mode: 0o700 },
        )
        .map(drop),
    );
    let long = [b'x'; 200];
    let link = NewNode::Symlink { target: &long };
    failed(create(fs, dir, "link-by-the-test", link).map(drop));
    failed(fs.unlink(dir, b"made-by-the-test"));
    failed(fs.unlink(dir, b"moved-by-the-test"));
    failed(fs.rmdir(dir, b"dir-by-the-test"));
    failed(fs.unlink(dir, b"link-by-the-test"));
}

/// Changes and removes what is there already.
fn ruin(fs: &Fs) {
    let root = Caller::default();
    let mut queue = vec![(ROOT, 0)];
    while let Some((dir, depth)) = queue.pop() {
        for (name, ino) in list(fs, dir).0.into_iter().take(2000) {
            if name == b"." || name == b".." {
                continue;
            }
            let failed = |result: Result<(), Error>| {
                if let Err(error) = result {
                    fs.report(&error);
                }
            };
            let Ok(attr) = fs.getattr(ino) else { continue };
            match attr.mode & 0o17_0000 {
                0o04_0000 if depth < 4 => {
                    change(fs, ino);
                    queue.push((ino, depth + 1));
                }
                0o10_0000 => {
                    failed(fs.write(ino, attr.size / 2, &[9; 5000], WriteMode::default()));
                    failed(fs.setxattr(root, ino, b"user.b", Some(&[2; 100]), SetMode::Any));
                    let set = SetAttr {
                        size: Some(attr.size / 3),
                        ..SetAttr::default()
                    };
                    failed(fs.setattr(root, ino, &set).map(drop));
                }
                _ => {}
            }
            failed(match attr.mode & 0o17_0000 {
                0o04_0000 => fs.rmdir(dir, &name),
                _ => fs.unlink(dir, &name),
            });
        }
    }
    while fs.reap_step() {}
}

fn within_the_limit(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let (done, finished) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        work();
        let _ = done.send(());
    });
    match finished.recv_timeout(LIMIT) {
        Err(mpsc::RecvTimeoutError::Timeout) => Err(format!("{name}: hangs")),
        _ => thread.join().map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()));
            format!("{name}: panics: {}", text.unwrap_or_default())
        }),
    }
}

fn try_image(path: PathBuf, read_only: bool) {
    let image = CoreImage::unpacked(&path);
    let before = read_only.then(|| std::fs::read(&image.path).expect("the image"));
    let started = Instant::now();
    let fs = match image.mount(options(read_only)) {
        Ok(fs) => fs,
        Err(error) => return println!("{}: does not mount: {error}", path.display()),
    };
    let walk = Walk::everything(&fs);
    let writable = !fs.is_read_only();
    if writable {
        change(&fs, ROOT);
        ruin(&fs);
    }
    let result = fs.unmount();
    let peak = fs.memory().snapshot().peak;
    assert!(peak <= 2 * CAP, "{peak} bytes of memory");
    let errors = walk.errors.len();
    println!(
        "{}: writable: {writable}, {} directories, {} files, {errors} errors ({:?}), unmount {result:?}, {:?}",
        path.file_name().unwrap_or_default().display(),
        walk.directories,
        walk.files,
        walk.errors.first().map(ToString::to_string),
        started.elapsed()
    );
    drop(fs);
    if let Some(before) = before {
        assert!(
            before == std::fs::read(&image.path).expect("the image"),
            "it was written to"
        );
    }
}

fn all(read_only: bool) {
    let Some(corpus) = corpus() else {
        return println!("no images beside the repository");
    };
    let mut paths: Vec<_> = std::fs::read_dir(corpus)
        .expect("the images")
        .map(|entry| entry.expect("an image").path())
        .filter(|path| path.extension().is_some_and(|e| e == "gz" || e == "bz2"))
        .collect();
    paths.sort();
    assert!(paths.len() > 50, "{} images", paths.len());
    let mut bad = Vec::new();
    for path in paths {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        bad.extend(within_the_limit(&name, move || try_image(path, read_only)).err());
    }
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn read_only() {
    all(true);
}

#[test]
fn read_write() {
    all(false);
}

//! Foreign damaged images: found, repaired, found in order, by us and by e2fsck; and nothing that e2fsck keeps is lost.
//!
//! Source: e2fsprogs' own test images, which stay outside of this repository; e2fsck(8) for exit codes.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// e2fsck 1.47.0 leaves these damaged or crashes on them; later ones judge them clean. Our own second run counts.
const NOT_JUDGED: &[&str] = &[
    "f_ea_inode_dir_ref",
    "f_ea_inode_disconnected",
    "f_ea_inode_no_feature",
    "f_ea_inode_self_ref",
    "f_ea_inode_spurious_flag_dir",
    "f_inlinedir_bad_symlink",
    "f_quota_deallocate_inode",
    "f_quota_shrinkdir",
];
/// What e2fsck 1.47.0 says of what we repaired, and nothing else.
const SAID: &[(&str, &str)] = &[
    // It does not count references of symbolic links with inline data to their attribute block, and so wants a count
    // of 1 where two inodes share one: the kernel would free it under the second.
    (
        "f_inlinedata_repair",
        "Extended attribute block 7 has reference count 2, should be 1.  Fix? no",
    ),
];
/// Trees that cannot be compared, and why.
const NOT_COMPARED: &[(&str, &str)] = &[
    ("f_8192_block", "this kernel does not mount blocks of 8 KiB"),
    ("f_bad_fname", "this kernel is built without casefolding"),
    ("f_many_subdirs", "65000 directories take a minute to walk"),
    (
        "f_dup_de_crypt",
        "both rename the second entry, each in its own way",
    ),
];
const LIMIT: Duration = Duration::from_secs(120);

fn corpus() -> Option<PathBuf> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    let path = std::env::var_os("UEXT4_CORPUS")
        .map_or(beside, PathBuf::from)
        .join("fsck");
    let shared = path.parent().and_then(Path::parent);
    let needed = shared.is_some_and(Path::exists) || std::env::var_os("CI").is_some();
    assert!(path.is_dir() || !needed, "{} is missing", path.display());
    path.is_dir().then_some(path)
}

/// The exit code; `None` for a signal or the time limit.
fn run(program: &str, args: &[&str], image: &Path) -> (Option<i32>, String) {
    let log = tempfile::tempfile().unwrap();
    let mut child = Command::new(program)
        .args(args)
        .arg(image)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log.try_clone().unwrap())
        .spawn()
        .unwrap();
    let started = Instant::now();
    let code = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status.code();
        }
        let length = log.metadata().unwrap().len();
        if started.elapsed() > LIMIT || length > 64 << 20 {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    use std::os::unix::fs::FileExt;
    let mut text = vec![0; 4000];
    let length = log.read_at(&mut text, 0).unwrap();
    (code, String::from_utf8_lossy(&text[..length]).into_owned())
}

fn fsck(args: &[&str], image: &Path) -> (Option<i32>, String) {
    run(env!("CARGO_BIN_EXE_fsck-uext4"), args, image)
}

fn unpack(from: &Path, to: &Path) {
    let program = if from.extension().is_some_and(|e| e == "bz2") {
        "bzcat"
    } else {
        "zcat"
    };
    let out = std::fs::File::create(to).unwrap();
    let status = Command::new(program)
        .arg(from)
        .stdout(out)
        .status()
        .unwrap();
    assert!(status.success(), "{program} {}", from.display());
}

/// What a path is: mode, size, target or checksum of the contents.
type Tree = BTreeMap<PathBuf, (u32, u64, String)>;

/// The tree as the kernel shows it; `None` when it does not mount the image.
fn tree(image: &Path, mount: &Path) -> Option<Tree> {
    std::fs::create_dir_all(mount).unwrap();
    let mounted = Command::new("mount")
        .args(["-o", "ro,loop"])
        .args([image, mount])
        .stderr(Stdio::null())
        .status()
        .unwrap();
    if !mounted.success() {
        return None;
    }
    let mut all = Tree::new();
    walk(mount, mount, &mut all);
    // A program that another thread starts may hold it for a moment.
    let unmount = || Command::new("umount").arg(mount).status().unwrap();
    let unmounted = (0..50).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        unmount().success()
    });
    assert!(unmounted, "umount {}", mount.display());
    Some(all)
}

fn walk(top: &Path, dir: &Path, all: &mut Tree) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(meta) = path.symlink_metadata() else {
            continue;
        };
        let kind = meta.file_type();
        let contents = if kind.is_symlink() {
            std::fs::read_link(&path).map(|to| to.display().to_string())
        } else if kind.is_file() && meta.len() < 16 << 20 {
            std::fs::read(&path).map(|bytes| format!("{:?}", crc(&bytes)))
        } else {
            Ok(String::new())
        };
        let size = if kind.is_dir() { 0 } else { meta.len() };
        let value = (
            meta.mode(),
            size,
            contents.unwrap_or_else(|e| e.kind().to_string()),
        );
        all.insert(path.strip_prefix(top).unwrap().to_owned(), value);
        if kind.is_dir() {
            walk(top, &path, all);
        }
    }
}

fn crc(bytes: &[u8]) -> (usize, u32) {
    (bytes.len(), uext4::format::checksum::crc32c(0, bytes))
}

struct Case {
    name: String,
    class: String,
    source: PathBuf,
}

fn cases() -> Option<Vec<Case>> {
    let corpus = corpus()?;
    let table = std::fs::read_to_string(corpus.join("table.json")).unwrap();
    let table: serde_json::Value = serde_json::from_str(&table).unwrap();
    let all = table.as_object().unwrap().iter().map(|(name, case)| Case {
        name: name.clone(),
        class: case["cls"].as_str().unwrap().to_owned(),
        source: corpus.join(case["file"].as_str().unwrap()),
    });
    Some(all.collect())
}

/// What is wrong with how we treat an image.
fn judge(case: &Case, dir: &Path) -> Vec<String> {
    let image = dir.join("ours");
    unpack(&case.source, &image);
    let before = std::fs::read(&image).unwrap();
    let mut wrong = Vec::new();
    let (found, text) = fsck(&["-fn"], &image);
    if std::fs::read(&image).unwrap() != before {
        wrong.push("-fn wrote".to_owned());
    }
    let (repaired, repairs) = fsck(&["-fy"], &image);
    let (again, second) = fsck(&["-fn"], &image);
    let judged = !NOT_JUDGED.contains(&case.name.as_str());
    let (e2fsck, judgement) = run("e2fsck", &["-fn"], &image);
    let good = match case.class.as_str() {
        "corrupt" => found == Some(4) && repaired == Some(1),
        "clean" => found == Some(0) && repaired == Some(0),
        "repairs-quietly" => matches!(repaired, Some(0 | 1)),
        _ => matches!(repaired, Some(0 | 1 | 4 | 5)),
    };
    if !good {
        wrong.push(format!(
            "-fn {found:?}: {text}\n-fy {repaired:?}: {repairs}"
        ));
    }
    if case.class == "clean" && std::fs::read(&image).unwrap() != before {
        wrong.push("a sound image was changed".to_owned());
    }
    if case.class != "other" && again != Some(0) {
        wrong.push(format!("second -fn {again:?}: {second}"));
    }
    let questions: Vec<&str> = judgement.lines().filter(|l| l.contains("? ")).collect();
    let known = SAID.iter().find(|(name, _)| *name == case.name);
    let as_known = known.is_some_and(|(_, said)| questions == [*said]);
    if known.is_some() && !as_known {
        wrong.push(format!("e2fsck says something else now: {judgement}"));
    } else if case.class != "other" && judged && e2fsck != Some(0) && !as_known {
        wrong.push(format!("e2fsck {e2fsck:?}: {judgement}"));
    }
    if case.class == "corrupt" && judged {
        wrong.extend(lost(case, dir, &image));
    }
    wrong
}

/// What e2fsck's repair keeps and ours does not.
fn lost(case: &Case, dir: &Path, ours: &Path) -> Vec<String> {
    if NOT_COMPARED.iter().any(|(name, _)| *name == case.name) {
        return Vec::new();
    }
    let theirs = dir.join("theirs");
    unpack(&case.source, &theirs);
    for _ in 0..2 {
        run("e2fsck", &["-fy"], &theirs);
    }
    let (Some(kept), Some(mine)) = (
        tree(&theirs, &dir.join("mount")),
        tree(ours, &dir.join("mount")),
    ) else {
        return vec!["the kernel does not mount it".to_owned()];
    };
    kept.iter()
        .filter(|(path, value)| mine.get(*path) != Some(value))
        .filter(|(_, value)| !mine.values().any(|other| other == *value && value.1 > 0))
        .map(|(path, value)| format!("{}: {value:?}, ours {:?}", path.display(), mine.get(path)))
        .collect()
}

#[test]
fn every_image_is_found_and_repaired() {
    let Some(cases) = cases() else {
        return println!("no images beside the repository");
    };
    assert!(cases.len() > 50, "{} images", cases.len());
    let queue = Mutex::new(cases);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(case) = { queue.lock().unwrap().pop() } {
                    let dir = tempfile::tempdir().unwrap();
                    let wrong = judge(&case, dir.path());
                    if !wrong.is_empty() {
                        let text = format!("{}: {}", case.name, wrong.join("\n"));
                        failed.lock().unwrap().push(text);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(
        failed.is_empty(),
        "{} images:\n{}",
        failed.len(),
        failed.join("\n\n")
    );
}

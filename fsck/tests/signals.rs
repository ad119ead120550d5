//! Signals: SIGUSR1 and SIGUSR2 begin and end the report of progress, SIGINT and SIGTERM end the run.
//!
//! Source: e2fsck(8), "SIGNALS", `-C`. A pipe that is full holds the program where it writes to it.

mod common;

use common::run;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// O_NONBLOCK
const NONBLOCK: i32 = 0o4000;
/// Only a hanging program takes so long.
const LIMIT: Duration = Duration::from_secs(60);

/// A pipe that is full of dots.
struct Full {
    path: PathBuf,
    file: File,
}

impl Full {
    fn new(path: PathBuf) -> Self {
        assert!(
            Command::new("mkfifo")
                .arg(&path)
                .status()
                .unwrap()
                .success()
        );
        let mut file = File::options()
            .read(true)
            .write(true)
            .custom_flags(NONBLOCK)
            .open(&path)
            .unwrap();
        loop {
            match file.write(b".\n") {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        Self { path, file }
    }

    /// What was written besides the dots, once the program has ended; its exit code.
    fn drain(&mut self, mut child: Child) -> (String, Option<i32>) {
        let mut all = Vec::new();
        let started = Instant::now();
        loop {
            let ended = child.try_wait().unwrap();
            let mut bytes = [0; 4096];
            match self.file.read(&mut bytes) {
                Ok(count) => all.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if let Some(status) = ended {
                        let text = String::from_utf8(all).unwrap();
                        let lines: Vec<&str> = text.lines().filter(|line| *line != ".").collect();
                        return (lines.join("\n"), status.code());
                    }
                    assert!(started.elapsed() < LIMIT, "it hangs");
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// A program that waits for room in a pipe; file descriptor 7 and standard output go where these paths lead.
fn start(args: &str, image: &Path, seven: &Path, out: &Path) -> Child {
    let script = "exec 7>\"$0\"; exec \"$1\" \"$2\" \"$3\" >\"$4\"";
    let child = Command::new("bash")
        .args(["-c", script])
        .args([seven, Path::new(env!("CARGO_BIN_EXE_fsck-uext4"))])
        .arg(args)
        .args([image, out])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let place = format!("/proc/{}/wchan", child.id());
    let started = Instant::now();
    while !std::fs::read_to_string(&place)
        .unwrap()
        .contains("pipe_write")
    {
        assert!(started.elapsed() < LIMIT, "it does not wait for the pipe");
        std::thread::sleep(Duration::from_millis(1));
    }
    child
}

fn signal(name: &str, child: &Child) {
    let status = Command::new("kill")
        .args(["-s", name, &child.id().to_string()])
        .status();
    assert!(status.unwrap().success());
}

fn make(dir: &Path) -> PathBuf {
    let image = dir.join("image");
    let mut mke2fs = Command::new("mke2fs");
    mke2fs
        .args(["-q", "-F", "-t", "ext4"])
        .arg(&image)
        .arg("16M");
    assert!(mke2fs.status().unwrap().success());
    image
}

#[test]
fn progress_ends() {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path());
    let mut full = Full::new(dir.path().join("pipe"));
    let null = Path::new("/dev/null");
    let child = start("-fnC7", &image, &full.path, null);
    let (lines, code) = full.drain(child);
    assert!(code == Some(0) && lines.lines().count() > 5, "{lines}");

    let mut full = Full::new(dir.path().join("pipe 2"));
    let child = start("-fnC7", &image, &full.path, null);
    signal("USR2", &child);
    let (lines, code) = full.drain(child);
    // The one line that it was about to write.
    assert_eq!((lines.lines().count(), code), (1, Some(0)), "{lines}");
}

#[test]
fn progress_begins() {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path());
    let lines = dir.path().join("lines");
    for (name, wanted) in [(None, false), (Some("USR1"), true)] {
        let mut full = Full::new(dir.path().join(format!("pipe {wanted}")));
        let child = start("-fnC-7", &image, &lines, &full.path);
        if let Some(name) = name {
            signal(name, &child);
        }
        let (text, code) = full.drain(child);
        assert!(code == Some(0) && text.contains("Pass 5"), "{text}");
        let lines = std::fs::read_to_string(&lines).unwrap();
        assert_eq!(lines.contains("\n5 0 2 "), wanted, "{lines:?}");
    }
}

/// A bar is drawn where the person who sent the signal sees it.
#[test]
fn a_bar_begins() {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path());
    let mut full = Full::new(dir.path().join("pipe"));
    let child = start("-fn", &image, Path::new("/dev/null"), &full.path);
    signal("USR1", &child);
    let (text, code) = full.drain(child);
    assert!(code == Some(0) && text.contains("image: |="), "{text:?}");
}

#[test]
fn the_run_ends_where_nothing_is_half_done() {
    let dir = tempfile::tempdir().unwrap();
    let image = make(dir.path());
    for command in ["set_bg 0 free_blocks_count 7", "sif <11> links_count 9"] {
        run("debugfs", &["-w", "-R", command], &image);
    }
    let before = std::fs::read(&image).unwrap();
    for (index, name) in ["INT", "TERM"].into_iter().enumerate() {
        let mut full = Full::new(dir.path().join(format!("pipe {index}")));
        let child = start("-fy", &image, Path::new("/dev/null"), &full.path);
        signal(name, &child);
        let (text, code) = full.drain(child);
        assert_eq!(code, Some(32), "{text}");
        assert!(text.contains("cancelled, nothing was changed"), "{text}");
        assert!(std::fs::read(&image).unwrap() == before);
    }
    // Whoever asks twice does not wait.
    let full = Full::new(dir.path().join("pipe"));
    let mut child = start("-fy", &image, Path::new("/dev/null"), &full.path);
    signal("INT", &child);
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        signal("INT", &child);
        assert!(started.elapsed() < LIMIT, "it hangs");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(child.wait().unwrap().code(), Some(32));
    assert!(std::fs::read(&image).unwrap() == before);
}

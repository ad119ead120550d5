//! Processes that keep files open: more than one process may have.
//!
//! Each is this test binary again, running one test; it is told over its standard input what to do next.

use super::{EACH, content, directory};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const PROCESSES: usize = 6;
/// How long all of a step may take.
const PATIENCE: Duration = Duration::from_secs(1200);
const OPEN: &str = "all are open";
const READ: &str = "all are read";

const ROOT: &str = "UEXT4_TEST_HOLD_ROOT";
const DIRECTORIES: &str = "UEXT4_TEST_HOLD_DIRECTORIES";
const FIRST: &str = "UEXT4_TEST_HOLD_FIRST";
const UNLINK: &str = "UEXT4_TEST_HOLD_UNLINK";

pub struct Holders(Vec<Holder>);

struct Holder {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Holders {
    /// The processes make so many directories of files together, and keep all files open, with their names or without.
    pub fn start(root: &Path, directories: usize, unlink: bool) -> Self {
        let start = |first| Holder::start(root, directories, first, unlink);
        let holders = Self((0..PROCESSES).map(start).collect());
        holders.await_all(OPEN);
        holders
    }

    /// Each reads some of what it has open.
    pub fn look(&mut self) {
        for holder in &mut self.0 {
            let input = holder.input.as_mut().expect("an input");
            input.write_all(b"look\n").expect("it listens");
        }
        self.await_all(READ);
    }

    /// All is closed.
    pub fn end(mut self) {
        for holder in &mut self.0 {
            holder.input = None;
            let status = holder.child.wait().expect("wait");
            assert!(status.success(), "{status}");
        }
    }

    fn await_all(&self, line: &str) {
        for holder in &self.0 {
            loop {
                let said = holder.lines.recv_timeout(PATIENCE);
                if said.expect("no process ends or hangs") == line {
                    break;
                }
            }
        }
    }
}

impl Holder {
    fn start(root: &Path, directories: usize, first: usize, unlink: bool) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--ignored", "--exact", "--nocapture"])
            .arg("part_of_the_open_files")
            .env(ROOT, root)
            .env(DIRECTORIES, directories.to_string())
            .env(FIRST, first.to_string())
            .env(UNLINK, unlink.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self {
            input: child.stdin.take(),
            child,
            lines,
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What one of the processes does.
pub fn hold() {
    let told = |name| std::env::var(name).expect("it is started by the forms with open files");
    let number = |name| told(name).parse::<usize>().expect("a number");
    let root = PathBuf::from(told(ROOT));
    let unlink = told(UNLINK) == "true";
    raise_open_files();
    let mut open = Vec::new();
    for number in (number(FIRST)..number(DIRECTORIES)).step_by(PROCESSES) {
        fill(&directory(&root, number), number, unlink, &mut open);
    }
    say(OPEN);
    // Until the end of the input.
    for line in std::io::stdin().lines() {
        line.expect("what to do");
        for (file, expected) in open.iter().step_by(17) {
            let mut read = vec![0; expected.len() + 1];
            let length = file.read_at(&mut read, 0).expect("read");
            assert!(read[..length] == expected[..], "{file:?}");
        }
        say(READ);
    }
}

fn fill(dir: &Path, number: usize, unlink: bool, open: &mut Vec<(File, Vec<u8>)>) {
    std::fs::create_dir(dir).expect("mkdir");
    for index in 0..EACH {
        let path = dir.join(index.to_string());
        let mut options = OpenOptions::new();
        let file = options.create_new(true).read(true).write(true).open(&path);
        let (mut file, body) = (file.expect("open"), content(number, index));
        file.write_all(&body).expect("write");
        if unlink {
            std::fs::remove_file(&path).expect("unlink");
        }
        open.push((file, body));
    }
}

/// The harness has begun a line of its own.
fn say(line: &str) {
    println!("\n{line}");
}

/// As far as it goes without being asked for more.
fn raise_open_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, limit).expect("as many open files as are allowed");
}

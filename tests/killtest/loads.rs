//! Load by programs that are not ours: fio, whose finished files must verify later, and stress-ng, which only makes noise.

use crate::harness::command::{Outcome, attempt_with};
use crate::rng::Rng;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Stressors of names, data, attributes and space. Each ends with its own files removed, if it can.
const STRESSORS: [&str; 8] = [
    "dir",
    "rename",
    "link",
    "hdd",
    "fallocate",
    "dentry",
    "xattr",
    "seek",
];

/// One finished run of fio: number and whether it was direct.
pub type Finished = (u64, bool);

fn fio(dir: &Path, (number, direct): Finished) -> Command {
    let mut command = Command::new("fio");
    command
        .args(["--name=verify", "--rw=randwrite", "--bs=4k", "--size=1m"])
        .args([
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_state_save=0",
        ])
        .args(["--ioengine=psync", "--end_fsync=1", "--output-format=terse"])
        // The whole path here: a directory that fio cannot look at it leaves out, and writes where it stands.
        .arg(format!("--filename={}/f{number}", dir.display()))
        .arg(format!("--randseed={}", number + 1))
        .arg(format!("--direct={}", u8::from(direct)));
    command
}

/// Runs fio again and again until it fails; returns the runs that ended well, each of which ends with an fsync.
pub fn run_fio(dir: &Path, seed: u64) -> Vec<Finished> {
    let mut rng = Rng(seed);
    let mut finished = Vec::new();
    if std::fs::create_dir(dir).is_err() {
        return finished;
    }
    loop {
        let run = (finished.len() as u64, rng.below(2) == 0);
        let mut command = fio(dir, run);
        let outcome = attempt_with(Duration::from_secs(60), command.arg("--do_verify=0"));
        if !outcome.ok() {
            return finished;
        }
        finished.push(run);
    }
}

/// Whether a finished run's file holds what was written.
pub fn verify_fio(dir: &Path, run: Finished) -> Result<(), String> {
    let outcome: Outcome =
        attempt_with(Duration::from_secs(60), fio(dir, run).arg("--verify_only"));
    if outcome.ok() {
        Ok(())
    } else {
        Err(format!("fio run {run:?}: {}", outcome.describe()))
    }
}

/// stress-ng in a process group of its own.
pub struct Noise {
    child: Child,
}

impl Noise {
    pub fn start(dir: &Path, rng: &mut Rng) -> Self {
        let name = STRESSORS[rng.below(STRESSORS.len() as u64) as usize];
        let _ = std::fs::create_dir(dir);
        let mut command = Command::new("stress-ng");
        command
            .args([&format!("--{name}"), "1", "--timeout", "60", "--temp-path"])
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        Self {
            child: command.spawn().expect("stress-ng"),
        }
    }
}

impl Drop for Noise {
    fn drop(&mut self) {
        let group = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        if let Some(group) = group {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// Path, length and bytes of every file below, to be compared later.
pub fn snapshot(dir: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>, String> {
    let mut all = Vec::new();
    let mut queue = vec![dir.to_path_buf()];
    while let Some(next) = queue.pop() {
        let fail = |error: std::io::Error| format!("{}: {error}", next.display());
        for entry in std::fs::read_dir(&next).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let path = entry.path();
            if entry.file_type().map_err(fail)?.is_dir() {
                queue.push(path);
            } else {
                let bytes = std::fs::read(&path).map_err(fail)?;
                let name = path.strip_prefix(dir).unwrap_or(&path).to_path_buf();
                all.push((name, bytes));
            }
        }
    }
    all.sort_unstable();
    Ok(all)
}

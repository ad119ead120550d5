//! External commands with a time limit: output goes to files, so that no pipe can fill up and block.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How a command ended.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code; `None` when a signal or the time limit ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub timed_out: bool,
}

impl Outcome {
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// The outcome, or a panic with everything that was printed.
    pub fn expect_ok(self, what: &str) -> Self {
        assert!(self.ok(), "{what}: {}", self.describe());
        self
    }

    pub fn describe(&self) -> String {
        let end = match (self.timed_out, self.code) {
            (true, _) => "took longer than its time limit".to_string(),
            (false, Some(code)) => format!("exit code {code}"),
            (false, None) => "ended by a signal".to_string(),
        };
        format!(
            "{end}\n--- stdout\n{}\n--- stderr\n{}",
            tail(&self.stdout),
            tail(&self.stderr)
        )
    }
}

/// The last 4000 bytes or so: what a report needs.
fn tail(text: &str) -> &str {
    let mut from = text.len().saturating_sub(4000);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}

/// Runs a command in its own process group and kills that group when `limit` is over.
pub fn attempt(limit: Duration, program: impl AsRef<OsStr>, args: &[OsString]) -> Outcome {
    attempt_with(limit, Command::new(program.as_ref()).args(args))
}

/// As `attempt`, for a command with an environment or a directory of its own.
pub fn attempt_with(limit: Duration, command: &mut Command) -> Outcome {
    let mut stdout = tempfile::tempfile().expect("a file for stdout");
    let mut stderr = tempfile::tempfile().expect("a file for stderr");
    command.stdin(Stdio::null()).process_group(0);
    command
        .stdout(stdout.try_clone().expect("stdout"))
        .stderr(stderr.try_clone().expect("stderr"));
    let mut child = command
        .spawn()
        .unwrap_or_else(|e| panic!("{:?}: {e}", command.get_program()));
    let end = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait") {
            break Some(status);
        }
        if Instant::now() >= end {
            break None;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    };
    if status.is_none() {
        kill_group(child.id());
        let _ = child.try_wait();
    }
    Outcome {
        code: status.and_then(|status| status.code()),
        stdout: text(&mut stdout),
        stderr: text(&mut stderr),
        timed_out: status.is_none(),
    }
}

/// Standard output of a command that must exit 0.
pub fn succeed(limit: Duration, program: impl AsRef<OsStr>, args: &[OsString]) -> String {
    let program = program.as_ref();
    attempt(limit, program, args)
        .expect_ok(&format!("{program:?} {args:?}"))
        .stdout
}

/// Standard output of a bash script, stopped by its first failing command, which is named.
pub fn sh(limit: Duration, script: &str) -> String {
    let script = format!("trap 'echo \"failed: $BASH_COMMAND\" >&2' ERR\n{script}");
    let args = ["-eEuo", "pipefail", "-c", script.as_str()].map(OsString::from);
    attempt(limit, "bash", &args).expect_ok("script").stdout
}

fn kill_group(leader: u32) {
    let pid = i32::try_from(leader)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
}

fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().expect("rewind");
    file.read_to_end(&mut bytes).expect("output");
    String::from_utf8_lossy(&bytes).into_owned()
}

//! How a daemon tells whoever started it how the mount went.
//!
//! Source: the design's section on FUSE facts; daemon(7).
//! Invariants: a daemon in the background says exactly one of `ready` and `fail` on the pipe that is its standard
//! output, after any notices; once it has said `ready` it holds none of the standard streams it was given.

use super::failure::{Failure, Outcome};
use crate::text::complain;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};

const READY: &str = "ready";
const NOTICE: &str = "notice ";
const FAIL: &str = "fail ";

/// Where the news goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// In the foreground: stderr.
    Terminal,
    /// The pipe to the parent, which is standard output.
    Parent,
}

impl Report {
    /// Something the user should know although the mount goes on; the log has it, too, where that is another place.
    pub(super) fn notice(self, text: &str) {
        match self {
            Self::Terminal => {
                complain!("uext4: {text}");
            }
            Self::Parent => {
                log::info!("{text}");
                say(&format!("{NOTICE}{text}"));
            }
        }
    }

    /// The mount is in place.
    pub(super) fn ready(self) -> io::Result<()> {
        if self == Self::Terminal {
            return Ok(());
        }
        let null = File::options().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stderr(&null)?;
        say(READY);
        Ok(rustix::stdio::dup2_stdout(&null)?)
    }

    /// There is no mount.
    pub(super) fn fail(self, failure: &Failure) {
        if self == Self::Parent {
            say(&format!("{FAIL}{} {}", failure.code, failure.message));
        }
    }
}

fn say(line: &str) {
    // Nobody to tell it to when the parent is gone.
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// The parent's side: passes notices on, and returns what became of the mount; `None`: the daemon died.
pub(super) fn listen(pipe: impl Read) -> Option<Outcome> {
    for line in BufReader::new(pipe).lines().map_while(Result::ok) {
        if line == READY {
            return Some(Ok(()));
        }
        if let Some(text) = line.strip_prefix(NOTICE) {
            complain!("uext4: {text}");
        }
        if let Some(text) = line.strip_prefix(FAIL) {
            let (code, message) = text.split_once(' ').unwrap_or(("", text));
            let code = code.parse().unwrap_or(Failure::MOUNT);
            return Some(Err(Failure::new(code, message)));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_understands_its_daemon() {
        assert_eq!(
            listen(&b"notice journal replayed\nready\n"[..]),
            Some(Ok(()))
        );
        let failure = Failure::new(32, "a.img is in use: mounted on /mnt");
        let line = format!("fail 32 {}\n", failure.message);
        assert_eq!(listen(line.as_bytes()), Some(Err(failure)));
        assert_eq!(listen(&b"notice x\n"[..]), None);
    }
}

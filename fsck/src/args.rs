//! The command line of `fsck.uext4`.
//!
//! Source: e2fsck(8).
//! Invariants: options that contradict each other are refused; without an answer and without a terminal nothing is
//! asked; every option letter of e2fsck's is served, or refused by its name.

use clap::Parser;
use clap::error::ErrorKind;
use fsck::{Answer, Options, exit};
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use uext4::text::{complain, show};

/// Check an ext4 file system.
#[derive(Parser, Debug)]
#[command(
    name = "fsck.uext4",
    version,
    disable_version_flag = true,
    args_override_self = true
)]
pub struct Args {
    /// Change nothing, answer no to all questions
    #[arg(short = 'n', conflicts_with_all = ["yes", "preen"])]
    no: bool,
    /// Answer yes to all questions
    #[arg(short = 'y', conflicts_with = "preen")]
    yes: bool,
    /// Repair what is safe to repair, ask nothing
    #[arg(short = 'p', short_alias = 'a')]
    preen: bool,
    /// Check even if the file system is marked as clean
    #[arg(short = 'f')]
    force: bool,
    /// Pack and index every directory anew
    #[arg(short = 'D', conflicts_with = "no")]
    optimize: bool,
    /// Use the superblock in this block
    #[arg(short = 'b', value_name = "BLOCK")]
    superblock: Option<u64>,
    /// Look for the superblock with this block size
    #[arg(short = 'B', value_name = "BYTES")]
    block_size: Option<u32>,
    /// Extended options: journal_only
    #[arg(short = 'E', value_name = "OPTIONS", value_delimiter = ',')]
    extended: Vec<String>,
    /// Keep what is overwritten in this new file, for e2undo(8)
    #[arg(short = 'z', value_name = "FILE", conflicts_with = "extended")]
    pub undo: Option<PathBuf>,
    /// Write progress to this file descriptor, 0 for a bar; a negative one waits for SIGUSR1
    #[arg(short = 'C', value_name = "FD", allow_hyphen_values = true)]
    pub progress: Option<i32>,
    /// Use so much memory at most, and a file in TMPDIR beyond it; with a suffix k, m, g or t
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub memory: Option<u64>,
    /// Say more
    #[arg(short = 'v')]
    pub verbose: bool,
    /// Say how long it took, and how much memory
    #[arg(short = 't', action = clap::ArgAction::Count)]
    pub timing: u8,
    /// Read past the caches of the system
    #[arg(short = 'F')]
    pub flush: bool,
    /// As without -n, -p and -y; for scripts that name it
    #[arg(short = 'r', hide = true)]
    interactive: bool,
    /// Report as JSON
    #[arg(long)]
    pub json: bool,
    /// Print the version
    #[arg(short = 'V', action = clap::ArgAction::Version)]
    version: Option<bool>,
    #[command(flatten)]
    refused: Refused,
    /// Block device or image file
    pub device: PathBuf,
}

/// What e2fsck takes and this program does not.
#[derive(clap::Args, Debug)]
struct Refused {
    #[arg(short = 'c', hide = true, action = clap::ArgAction::Count)]
    scan: u8,
    #[arg(short = 'd', hide = true)]
    debug: bool,
    #[arg(short = 'k', hide = true)]
    keep: bool,
    #[arg(short = 's', hide = true)]
    native: bool,
    #[arg(short = 'S', hide = true)]
    swapped: bool,
    #[arg(short = 'j', hide = true)]
    journal: Option<OsString>,
    #[arg(short = 'l', hide = true)]
    more_bad: Option<OsString>,
    #[arg(short = 'L', hide = true)]
    all_bad: Option<OsString>,
    #[arg(short = 'I', hide = true)]
    buffer: Option<OsString>,
    #[arg(short = 'M', hide = true)]
    mount: Option<OsString>,
    #[arg(short = 'N', hide = true)]
    name: Option<OsString>,
    #[arg(short = 'P', hide = true)]
    process: Option<OsString>,
}

impl Refused {
    /// The first of them that was given, in words.
    fn reason(&self) -> Option<String> {
        let no_search = "bad blocks are neither searched for nor added";
        let internal = "known to e2fsck alone";
        let all = [
            (
                'j',
                self.journal.is_some(),
                "external journals are not supported",
            ),
            ('c', self.scan > 0, no_search),
            ('k', self.keep, no_search),
            ('l', self.more_bad.is_some(), no_search),
            ('L', self.all_bad.is_some(), no_search),
            ('d', self.debug, "there is no such output: -v says more"),
            (
                's',
                self.native,
                "file systems in the other byte order are not supported",
            ),
            (
                'S',
                self.swapped,
                "file systems in the other byte order are not supported",
            ),
            ('I', self.buffer.is_some(), internal),
            ('M', self.mount.is_some(), internal),
            ('N', self.name.is_some(), internal),
            ('P', self.process.is_some(), internal),
        ];
        let given = all.into_iter().find(|(_, is_given, _)| *is_given);
        given.map(|(letter, _, why)| format!("option -{letter}: {why}"))
    }
}

pub enum Parsed {
    Run(Box<Args>),
    Done(u8),
}

pub fn parse() -> Parsed {
    match Args::try_parse() {
        Ok(args) => checked(Box::new(args)),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            ) =>
        {
            show(&error.to_string());
            Parsed::Done(exit::CLEAN)
        }
        Err(error) => {
            let message = error.to_string();
            let line = message.lines().next().unwrap_or("wrong arguments");
            refuse(line.trim_start_matches("error: "))
        }
    }
}

/// A number of bytes, with or without a suffix.
fn size(text: &str) -> Result<u64, String> {
    uext4::text::size::in_bytes(text).ok_or_else(|| "not a size".to_owned())
}

fn refuse(message: &str) -> Parsed {
    complain!("fsck.uext4: {message}");
    Parsed::Done(exit::USAGE)
}

fn checked(args: Box<Args>) -> Parsed {
    if let Some(reason) = args.refused.reason() {
        return refuse(&reason);
    }
    if let Some(other) = args
        .extended
        .iter()
        .find(|option| *option != "journal_only")
    {
        return refuse(&format!("option -E {other} is not supported"));
    }
    if args.journal_only() && args.no {
        return refuse("-E journal_only writes and cannot go with -n");
    }
    if args.answer() == Answer::Ask && !std::io::stdin().is_terminal() {
        return refuse("nobody can be asked: use -n, -p or -y");
    }
    Parsed::Run(args)
}

impl Args {
    pub fn journal_only(&self) -> bool {
        !self.extended.is_empty()
    }

    pub fn answer(&self) -> Answer {
        match (self.no, self.yes, self.preen || self.journal_only()) {
            (true, _, _) => Answer::No,
            (_, true, _) => Answer::Yes,
            (_, _, true) => Answer::Preen,
            _ => Answer::Ask,
        }
    }

    pub fn options(&self, now: u64) -> Options {
        Options {
            answer: self.answer(),
            force: self.force || self.superblock.is_some(),
            optimize: self.optimize,
            superblock: self.superblock,
            block_size: self.block_size,
            memory: self.memory,
            now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// e2fsck(8), and what its usage leaves out.
    #[test]
    fn every_letter_of_e2fsck_has_an_answer() {
        let served = "pnyaftvrDFVC:B:b:E:z:";
        let refused = "cdksSj:l:L:I:M:N:P:";
        for (letters, is_served) in [(served, true), (refused, false)] {
            let mut rest = letters.chars().peekable();
            while let Some(letter) = rest.next() {
                let mut line = vec!["fsck".to_owned(), format!("-{letter}")];
                if rest.next_if_eq(&':').is_some() {
                    line.push("1".into());
                }
                line.push("image".into());
                match Args::try_parse_from(line) {
                    Err(error) => assert_eq!(error.kind(), ErrorKind::DisplayVersion, "{letter}"),
                    Ok(args) => {
                        let reason = args.refused.reason();
                        let named =
                            reason.map(|text| text.starts_with(&format!("option -{letter}: ")));
                        assert_eq!(named, (!is_served).then_some(true), "{letter}");
                    }
                }
            }
        }
    }

    #[test]
    fn an_option_may_stand_there_twice() {
        let args = Args::try_parse_from(["fsck", "-f", "-fy", "-y", "-b", "1", "-b", "2", "image"]);
        assert_eq!(args.unwrap().superblock, Some(2));
    }

    #[test]
    fn sizes_have_suffixes() {
        assert_eq!(size("5000"), Ok(5000));
        assert_eq!(size("64k"), Ok(65536));
        assert_eq!(size("3G"), Ok(3 << 30));
        for text in ["", "m", "many", "1x", "-1", "99999999999g"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}

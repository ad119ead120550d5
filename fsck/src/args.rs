//! The command line of `fsck.uext4`.
//!
//! Source: e2fsck(8).
//! Invariants: options that contradict each other are refused; without an answer and without a terminal nothing is
//! asked.

use clap::Parser;
use clap::error::ErrorKind;
use fsck::{Answer, Options, exit};
use std::io::IsTerminal;
use std::path::PathBuf;

/// Check an ext4 file system.
#[derive(Parser, Debug)]
#[command(name = "fsck.uext4", version, disable_version_flag = true)]
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
    /// Use so much memory at most, and a file in TMPDIR beyond it; with a suffix k, m or g
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub memory: Option<u64>,
    /// Say more
    #[arg(short = 'v')]
    pub verbose: bool,
    /// Say how long it took
    #[arg(short = 't', action = clap::ArgAction::Count)]
    pub timing: u8,
    /// Report as JSON
    #[arg(long)]
    pub json: bool,
    /// Print the version
    #[arg(short = 'V', action = clap::ArgAction::Version)]
    version: Option<bool>,
    /// Block device or image file
    pub device: PathBuf,
}

pub enum Parsed {
    Run(Args),
    Done(u8),
}

pub fn parse() -> Parsed {
    match Args::try_parse() {
        Ok(args) => checked(args),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            ) =>
        {
            print!("{error}");
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
    let (number, shift) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 10),
        Some((at, 'm' | 'M')) => (&text[..at], 20),
        Some((at, 'g' | 'G')) => (&text[..at], 30),
        _ => (text, 0),
    };
    let number = number.parse::<u64>().ok();
    let bytes = number.and_then(|number| number.checked_mul(1 << shift));
    bytes.ok_or_else(|| "not a size".to_owned())
}

fn refuse(message: &str) -> Parsed {
    eprintln!("fsck.uext4: {message}");
    Parsed::Done(exit::USAGE)
}

fn checked(args: Args) -> Parsed {
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

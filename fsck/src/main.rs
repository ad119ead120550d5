//! `fsck.uext4`: replays the journal of an ext4 file system.
//!
//! Source: e2fsck(8) for the meaning of `-E journal_only` and of the exit codes.
//! Invariants: a check that is not built is refused with exit 16, never passed over; a device that is in use is
//! not touched.

mod replay;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use replay::Outcome;

/// Exit codes of fsck(8).
mod exit {
    pub const CORRECTED: u8 = 1;
    pub const OPERATIONAL: u8 = 8;
    pub const USAGE: u8 = 16;
}

/// Replay the journal of an ext4 file system.
#[derive(Parser, Debug)]
#[command(name = "fsck.uext4", version, disable_version_flag = true)]
struct Args {
    /// Extended options: journal_only
    #[arg(short = 'E', value_name = "OPTIONS", value_delimiter = ',')]
    extended: Vec<String>,
    /// Accepted for fsck(8): replaying asks nothing
    #[arg(short = 'p', short_alias = 'a')]
    preen: bool,
    /// Accepted for fsck(8): replaying asks nothing
    #[arg(short = 'y')]
    yes: bool,
    /// Print the version
    #[arg(short = 'V', action = clap::ArgAction::Version)]
    version: Option<bool>,
    /// Block device or image file
    device: PathBuf,
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            ) =>
        {
            print!("{error}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            let message = error.to_string();
            let line = message.lines().next().unwrap_or("wrong arguments");
            eprintln!(
                "fsck.uext4: {}; for other checks run e2fsck",
                line.trim_start_matches("error: ")
            );
            return exit::USAGE.into();
        }
    };
    let device = args.device.display();
    if let Some(other) = args
        .extended
        .iter()
        .find(|option| *option != "journal_only")
    {
        eprintln!("fsck.uext4: option -E {other} is not supported: run e2fsck");
        return exit::USAGE.into();
    }
    if args.extended.is_empty() {
        eprintln!(
            "fsck.uext4: only the journal can be replayed (-E journal_only): for a full check run e2fsck {device}"
        );
        return exit::USAGE.into();
    }
    match replay::replay(&args.device) {
        Ok(Outcome::Clean) => {
            println!("{device}: the journal is empty");
            ExitCode::SUCCESS
        }
        Ok(Outcome::Replayed {
            transactions,
            blocks,
        }) => {
            println!("{device}: replayed {transactions} transactions, {blocks} blocks");
            exit::CORRECTED.into()
        }
        Err(error) => {
            eprintln!("fsck.uext4: {error}");
            exit::OPERATIONAL.into()
        }
    }
}

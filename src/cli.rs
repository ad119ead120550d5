//! The `uext4` program: what its command line asks for, done.
//!
//! Source: the manual pages of mount(8), umount(8) and mount.fuse3(8).
//! Invariants: a failure is one line on stderr and one of mount(8)'s exit codes; exit code 0 of a mount means that
//! the mount is in place and answers.

pub mod args;
mod ask;
mod daemon;
pub mod failure;
mod info;
mod launch;
mod locate;
pub mod logging;
pub mod options;
mod panics;
mod report;
mod sizes;
mod umount;

use args::{Command, Refusal};
use std::ffi::OsString;
use std::process::ExitCode;

pub fn main() -> ExitCode {
    if cfg!(feature = "canaries") {
        crate::text::complain!(
            "uext4: built with lines that are broken on purpose, for tests alone"
        );
        return ExitCode::FAILURE;
    }
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let command = match args::parse(&arguments) {
        Ok(command) => command,
        Err(Refusal::Shown(text)) => {
            crate::text::show(&text);
            return ExitCode::SUCCESS;
        }
        Err(Refusal::Failed(failure)) => return failure.report(),
    };
    let outcome = match command {
        Command::Mount(request) => launch::run(&request, &arguments),
        Command::Umount(request) => umount::umount(&request),
        Command::Sync { directory } => ask::sync(&directory),
        Command::Stats {
            directory,
            json,
            watch,
        } => ask::stats(&directory, json, watch),
        Command::Evict { directory } => ask::evict(&directory),
        Command::Info {
            source,
            offset,
            json,
        } => info::run(&source, offset, json),
    };
    outcome.map_or_else(|failure| failure.report(), |()| ExitCode::SUCCESS)
}

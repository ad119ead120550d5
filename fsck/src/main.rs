//! `fsck.uext4`: checks and repairs ext4 file systems.
//!
//! Source: e2fsck(8) for options and exit codes.
//! Invariants: a device that is in use is not touched; an option that is not built is refused with exit 16, never
//! passed over; memory that cannot be had is exit 8.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))] // `say` and `complain` do not panic

mod args;
mod cached;
mod progress;
mod screen;

use args::{Args, Parsed};
use cached::Cached;
use fsck::report::Reporter;
use fsck::undo::Undo;
use fsck::{Answer, exit, replay};
use signal_hook::consts::SIGABRT;
use signal_hook::flag;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{SystemTime, UNIX_EPOCH};
use uext4::device::Device;
use uext4::device::file::{Access, FileDevice};
use uext4::text::{complain, say};

fn main() -> ExitCode {
    exit_instead_of_abort();
    let work = || match args::parse() {
        Parsed::Done(code) => code,
        Parsed::Run(args) if args.journal_only() => replay_only(&args),
        Parsed::Run(args) => run(&args),
    };
    // A panic has said what it is.
    let code = std::panic::catch_unwind(work).unwrap_or(exit::OPERATIONAL);
    code.into()
}

/// Without memory the runtime says so and aborts. For fsck(8) a signal says nothing.
fn exit_instead_of_abort() {
    let always = Arc::new(AtomicBool::new(true));
    // Without the handler the signal ends the program, too.
    let _ = flag::register_conditional_shutdown(SIGABRT, exit::OPERATIONAL.into(), always);
}

fn run(args: &Args) -> u8 {
    let device = args.device.display();
    let access = Access {
        read_only: args.answer() == Answer::No,
        ..Access::default()
    };
    let opened = match FileDevice::open(&args.device, &access) {
        Ok(opened) => opened,
        Err(error) => {
            complain!("fsck.uext4: {error}");
            return exit::OPERATIONAL;
        }
    };
    if args.answer() != Answer::No && uext4::device::Device::read_only(&opened) {
        complain!("fsck.uext4: {device}: the device is read-only");
        return exit::OPERATIONAL;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let options = args.options(now.map_or(0, |passed| passed.as_secs()));
    let mut screen = screen::Screen::new(args);
    let mut reporter = Reporter::new(options.answer, &mut screen);
    let device: Arc<dyn Device> = match options.answer {
        Answer::No if !args.flush => match Cached::open(opened, &args.device) {
            Ok(cached) => Arc::new(cached),
            Err(error) => {
                complain!("fsck.uext4: {device}: {error}");
                return exit::OPERATIONAL;
            }
        },
        _ => Arc::new(opened),
    };
    let Some(path) = args.undo.as_ref().filter(|_| options.answer != Answer::No) else {
        let outcome = fsck::check(device, &options, &mut reporter);
        screen.end(&args.device, &outcome);
        return outcome.status;
    };
    let undo = match Undo::create(device, path) {
        Ok(undo) => Arc::new(undo),
        Err(error) => {
            complain!("fsck.uext4: {}: {error}", path.display());
            return exit::OPERATIONAL;
        }
    };
    let device: Arc<dyn Device> = undo.clone();
    let mut outcome = fsck::check(device, &options, &mut reporter);
    if let Err(error) = undo.finish() {
        complain!("fsck.uext4: {error}");
        outcome.status |= exit::OPERATIONAL;
    }
    screen.end(&args.device, &outcome);
    outcome.status
}

fn replay_only(args: &Args) -> u8 {
    let device = args.device.display();
    match replay::replay(&args.device) {
        Ok(replay::Outcome::Clean) => {
            say!("{device}: the journal is empty");
            exit::CLEAN
        }
        Ok(replay::Outcome::Replayed {
            transactions,
            blocks,
        }) => {
            say!("{device}: replayed {transactions} transactions, {blocks} blocks");
            exit::CORRECTED
        }
        Err(error) => {
            complain!("fsck.uext4: {error}");
            exit::OPERATIONAL
        }
    }
}

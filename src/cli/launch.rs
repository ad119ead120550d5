//! The mount command as its caller sees it: makes the image if asked to, starts the daemon, waits for its word.
//!
//! Source: mount(8), "EXTERNAL HELPERS"; daemon(7).
//! Invariants: no fork without exec; the daemon keeps the program's path and the caller's arguments as its command
//! line; success is reported only after the daemon's `ready`.

use super::args::MountRequest;
use super::daemon;
use super::failure::{Failure, Outcome};
use super::report::{self, Report};
use crate::make;
use crate::memory::process;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Tells a process that it is the daemon.
const DAEMON: &str = "UEXT4_DAEMON";

/// # Errors
/// Nothing is mounted then.
pub(super) fn run(request: &MountRequest, arguments: &[OsString]) -> Outcome {
    if std::env::var_os(DAEMON).is_some() {
        return daemon::run(request, Report::Parent)
            .inspect_err(|failure| Report::Parent.fail(failure))
            .map_err(quiet);
    }
    if request.options.remount {
        return remount(request);
    }
    if request.fake {
        return Ok(());
    }
    if let Some(size) = request.create {
        create(request, size)?;
    }
    if request.foreground {
        return daemon::run(request, Report::Terminal);
    }
    start_daemon(arguments)?;
    if request.create.is_some() {
        let (source, directory) = (request.source.display(), request.directory.display());
        crate::text::say!(
            "{source} is mounted on {directory}; unmount it with: uext4 umount {directory}"
        );
    }
    Ok(())
}

/// The parent has printed the message already.
fn quiet(failure: Failure) -> Failure {
    // stderr is still the caller's: keep the line from appearing twice.
    if let Ok(null) = std::fs::File::options().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stderr(&null);
    }
    failure
}

/// The options of a FUSE mount that can change are the kernel's; the daemon goes on.
fn remount(request: &MountRequest) -> Outcome {
    let mut words = vec!["remount"];
    words.extend(request.options.flags.words());
    let mut command = Command::new("mount");
    command
        .args(["-i", "-o"])
        .arg(words.join(","))
        .arg(&request.directory);
    let error = command.exec();
    Err(Failure::system(format!("cannot run mount: {error}")))
}

fn create(request: &MountRequest, size: u64) -> Outcome {
    let source = &request.source;
    if !source.exists() {
        make::create(source, size)
            .map_err(|e| Failure::mount(format!("cannot make {}: {e}", source.display())))?;
    }
    let directory = &request.directory;
    std::fs::create_dir_all(directory)
        .map_err(|e| Failure::mount(format!("cannot make {}: {e}", directory.display())))
}

fn start_daemon(arguments: &[OsString]) -> Outcome {
    process::keep_descriptors_from_children();
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe"));
    let name = arguments.first().cloned().unwrap_or_else(|| "uext4".into());
    let mut daemon = Command::new(&program)
        .arg0(name)
        .args(arguments.get(1..).unwrap_or_default())
        .env(DAEMON, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| Failure::system(format!("cannot start {}: {e}", program.display())))?;
    let said = daemon.stdout.take().and_then(report::listen);
    if let Some(outcome) = said {
        return outcome;
    }
    let status = daemon
        .wait()
        .map_or_else(|e| e.to_string(), |status| status.to_string());
    Err(Failure::mount(format!(
        "the daemon ended before the mount was in place: {status}"
    )))
}

/// The mount point: a directory, absolute, without symbolic links.
pub(super) fn mount_point(directory: &Path) -> Outcome<PathBuf> {
    let fail = |what: &dyn std::fmt::Display| {
        Failure::mount(format!("mount point {}: {what}", directory.display()))
    };
    let real = directory.canonicalize().map_err(|e| fail(&e))?;
    if !real.is_dir() {
        return Err(fail(&"not a directory"));
    }
    if !rustix::process::geteuid().is_root() {
        rustix::fs::access(&real, rustix::fs::Access::WRITE_OK).map_err(|e| fail(&e))?;
    }
    Ok(real)
}

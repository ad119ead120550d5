//! `uext4 umount`: what umount(2) cannot do for a FUSE mount, waiting for the daemon.
//!
//! Source: the design's section on FUSE facts (unmount, sync); umount(8), "EXTERNAL HELPERS"; fusermount3(1).
//! Invariants: the daemon is connected to before the unmount, so that its end is not missed.

use super::args::UmountRequest;
use super::failure::{Failure, Outcome};
use super::locate::mount_of;
use crate::control::Request;
use crate::control::client::Client;
use crate::device::mountinfo::{self, Mount};
use crate::fuse::mount::unmount_by_helper;
use std::io;
use std::path::Path;
use std::process::Command;

pub(super) fn umount(request: &UmountRequest) -> Outcome {
    if request.namespace.is_some() {
        return call_umount(request, &request.directory);
    }
    let mount = mount_of(&request.directory)?;
    let mut daemon = connect(&mount)?;
    if let Some(client) = &mut daemon {
        client
            .ask(Request::Umount)
            .map_err(|e| Failure::system(format!("the daemon: {e}")))?;
    }
    if rustix::process::geteuid().is_root() {
        call_umount(request, &mount.point)?;
    } else {
        unmount_by_helper(&mount.point, request.lazy || request.force)
            .map_err(|e| Failure::mount(format!("{}: {e}", mount.point.display())))?;
    }
    match daemon {
        Some(client) if !request.lazy && !is_still_there(&mount) => wait(client, &mount),
        _ => Ok(()),
    }
}

/// `None`: no daemon serves the mount any more.
fn connect(mount: &Mount) -> Outcome<Option<Client>> {
    match Client::connect(mount.major_minor()) {
        Ok(client) => Ok(Some(client)),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(None),
        Err(error) => Err(Failure::system(error)),
    }
}

fn call_umount(request: &UmountRequest, point: &Path) -> Outcome {
    let mut command = Command::new("umount");
    command.arg("-i");
    let flags = [
        (request.force, "-f"),
        (request.lazy, "-l"),
        (request.no_mtab, "-n"),
        (request.read_only, "-r"),
        (request.verbose, "-v"),
    ];
    command.args(
        flags
            .iter()
            .filter(|(wanted, _)| *wanted)
            .map(|(_, flag)| flag),
    );
    if let Some(namespace) = &request.namespace {
        command.arg("-N").arg(namespace);
    }
    let output = command.arg("--").arg(point).output();
    let output = output.map_err(|e| Failure::system(format!("cannot run umount: {e}")))?;
    if request.verbose {
        crate::text::show(&String::from_utf8_lossy(&output.stdout));
    }
    if output.status.success() {
        return Ok(());
    }
    let code = output
        .status
        .code()
        .and_then(|code| u8::try_from(code).ok());
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Failure::new(
        code.unwrap_or(Failure::MOUNT),
        message.trim().trim_start_matches("umount: "),
    ))
}

/// `umount -r` may have made it read-only instead.
fn is_still_there(mount: &Mount) -> bool {
    mountinfo::read().is_ok_and(|mounts| mounts.iter().any(|m| m.id == mount.id))
}

fn wait(mut client: Client, mount: &Mount) -> Outcome {
    client.wait_for_end().map_err(|error| {
        let source = mount.source.to_string_lossy();
        Failure::mount(format!(
            "{source} is unmounted, but not everything was written: {error}"
        ))
    })
}

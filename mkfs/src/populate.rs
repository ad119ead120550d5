//! Filling a new file system with a directory or a tar archive, without mounting it.
//!
//! Source: mke2fs(8), `-d`.
//! Invariants: one thread reads the source, in an order that depends on its contents alone; one writes. With a fixed
//! time (SOURCE_DATE_EPOCH), UUID and hash seed the same input gives the same bytes.

mod archive;
mod directory;
mod node;
mod owners;
mod target;

use crate::args::Args;
use crate::progress::Progress;
use node::Event;
use owners::Owners;
use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use target::Target;
use uext4::device::Device;
use uext4::make::{MakeError, Plan};

/// Events read ahead; each has at most a chunk of data.
const READ_AHEAD: usize = 64;

/// Copies everything that `source` names.
pub fn populate(
    args: &Args,
    plan: &Plan,
    device: &Arc<dyn Device>,
    source: &Path,
    progress: &Progress,
) -> Result<(), MakeError> {
    let owners = Owners::read(args, plan)?;
    let mut target = Target::open(plan, Arc::clone(device), owners)?;
    let xattrs = !args.extended()?.no_copy_xattrs;
    let (sender, events) = sync_channel::<Result<Event, MakeError>>(READ_AHEAD);
    let is_directory = source.is_dir();
    if source == Path::new("-") && std::io::stdin().is_terminal() {
        return Err(MakeError::Invalid(
            "-d -: standard input is a terminal".into(),
        ));
    }
    let path = source.to_owned();
    let reader = std::thread::spawn(move || {
        // A writer that has stopped listening has its own error.
        let send = |event| sender.send(Ok(event)).is_ok();
        let read = if is_directory {
            directory::read(&path, xattrs, &send)
        } else {
            archive::read(&path, xattrs, &send)
        };
        if let Err(error) = read {
            let _ = sender.send(Err(error));
        }
    });
    let mut count = 0;
    let copied = events.iter().try_for_each(|event| {
        count += 1;
        progress.show("files", count, 0);
        target.apply(event?)
    });
    drop(events);
    let panicked = reader.join().is_err();
    copied?;
    if panicked {
        return Err(MakeError::Invalid("reading the source failed".into()));
    }
    target.finish()
}

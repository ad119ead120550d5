//! `mkfs.uext4`: makes an ext4 file system on a device or in an image file.
//!
//! Source: the options are mke2fs's; what is not built is refused by name.
//! Invariants: asks nothing; nothing is written unless everything has been checked; an error is one line and exit 1.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))] // `say` and `complain` do not panic

mod args;
mod extended;
mod percent;
mod populate;
mod progress;
mod report;
mod workers;

use args::Args;
use progress::Progress;
use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use uext4::device::Device;
use uext4::device::file::{Access, FileDevice};
use uext4::make::{self, MakeError, Options, Plan};
use uext4::text::complain;

/// There when the kernel zeroes inode tables in the background.
const KERNEL_ZEROES_TABLES: &str = "/sys/fs/ext4/features/lazy_itable_init";

fn main() -> ExitCode {
    let args = match Args::read() {
        Ok(args) => args,
        Err(code) => return code,
    };
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let program = args::program();
            match error {
                MakeError::Open(_) | MakeError::File { .. } => complain!("{program}: {error}"),
                _ => complain!("{program}: {}: {error}", args.device.display()),
            };
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), MakeError> {
    let size = args.size_in_bytes()?;
    let path = args.device.display();
    match (std::fs::metadata(&args.device), size) {
        (Err(error), Some(size)) if error.kind() == ErrorKind::NotFound => create(args, size),
        (Err(error), None) if error.kind() == ErrorKind::NotFound => Err(MakeError::Open(
            "no such file: give a size to create it".into(),
        )),
        (Err(error), _) => Err(MakeError::Open(format!("{path}: {error}"))),
        (Ok(_), size) => overwrite(args, size),
    }
}

/// Makes the file, and the file system in it; without the latter the file goes again.
fn create(args: &Args, size: u64) -> Result<(), MakeError> {
    let options = args.options(size)?;
    let mut plan = plan(args, &options)?;
    if args.dry_run {
        report::made(args, &plan);
        return Ok(());
    }
    let offset = args.extended()?.offset;
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&args.device)
        .and_then(|file| file.set_len(offset + size))
        .map_err(|source| file_error(&args.device, source))?;
    // A new file is one hole.
    plan.options.zeroed = true;
    let made = open(args).and_then(|device| fill(args, &plan, device));
    if made.is_err() {
        // The first error is the one that matters.
        let _ = std::fs::remove_file(&args.device);
    }
    made
}

/// Makes the file system on what is there; a file that is too short is made longer first.
fn overwrite(args: &Args, size: Option<u64>) -> Result<(), MakeError> {
    let mut device = open(args)?;
    if !args.force()
        && let Some(what) = make::find_signature(&device)?
    {
        return Err(MakeError::Invalid(format!(
            "holds {what}: use -F to overwrite it"
        )));
    }
    // A page is the unit in which the kernel reads the end of a device.
    let mut options = args.options(size.unwrap_or(device.len() & !4095))?;
    if options.block_size.is_none() && options.block_size() < device.sector_size() {
        options.block_size = Some(device.sector_size());
    }
    let extended = args.extended()?;
    if extended.lazy_itable_init.is_none() && device.is_block_device() {
        options.lazy_itable_init = Path::new(KERNEL_ZEROES_TABLES).exists();
    }
    let mut plan = plan(args, &options)?;
    if args.dry_run {
        report::made(args, &plan);
        return Ok(());
    }
    if device.len() < options.size && !device.is_block_device() {
        drop(device);
        lengthen(&args.device, extended.offset + options.size)?;
        device = open(args)?;
    }
    if extended.discard.unwrap_or(true) {
        plan.check_device(&device)?;
        device.discard(0, plan.len())?;
    }
    plan.options.zeroed |= !device.is_block_device() && is_one_hole(&args.device);
    fill(args, &plan, device)
}

fn plan(args: &Args, options: &Options) -> Result<Plan, MakeError> {
    let mut plan = Plan::new(options)?;
    if args.populate.is_some() {
        plan.hide_features()?;
    }
    Ok(plan)
}

/// Writes the file system and what -d names.
fn fill(args: &Args, plan: &Plan, device: FileDevice) -> Result<(), MakeError> {
    plan.check_device(&device)?;
    let progress = Progress::new(args.quiet);
    let device: Arc<dyn Device> = Arc::new(device);
    workers::write(plan, device.as_ref(), &progress)?;
    if let Some(source) = &args.populate {
        populate::populate(args, plan, &device, source, &progress)?;
        make::reveal_features(plan, device.as_ref())?;
    }
    progress.finish();
    report::made(args, plan);
    Ok(())
}

fn open(args: &Args) -> Result<FileDevice, MakeError> {
    let access = Access {
        read_only: args.dry_run,
        offset: args.extended()?.offset,
        ..Access::default()
    };
    FileDevice::open(&args.device, &access).map_err(|error| MakeError::Open(error.to_string()))
}

/// Whether a file has no data at all, so that every byte of it is zero.
fn is_one_hole(path: &Path) -> bool {
    let found =
        std::fs::File::open(path).map(|file| rustix::fs::seek(file, rustix::fs::SeekFrom::Data(0)));
    matches!(found, Ok(Err(rustix::io::Errno::NXIO)))
}

fn lengthen(path: &Path, size: u64) -> Result<(), MakeError> {
    std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|file| file.set_len(size))
        .map_err(|source| file_error(path, source))
}

fn file_error(path: &Path, source: std::io::Error) -> MakeError {
    MakeError::File {
        path: path.display().to_string(),
        source,
    }
}

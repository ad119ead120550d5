//! `mkfs.uext4`: makes an ext4 file system on a device or in an image file.
//!
//! Source: the options are mke2fs's; what is not built is refused by name.
//! Invariants: asks nothing; nothing is written unless everything has been checked; an error is one line and exit 1.

mod args;
mod size;

use args::Args;
use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;
use uext4::device::Device;
use uext4::device::file::{Access, FileDevice};
use uext4::make::{self, MakeError, Plan};

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
                MakeError::Open(_) | MakeError::File { .. } => eprintln!("{program}: {error}"),
                _ => eprintln!("{program}: {}: {error}", args.device.display()),
            }
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
        (Ok(metadata), Some(size)) if metadata.is_file() && metadata.len() < size => {
            overwrite(args, Some(size), true)
        }
        (Ok(_), size) => overwrite(args, size, false),
    }
}

fn create(args: &Args, size: u64) -> Result<(), MakeError> {
    let options = args.options(size)?;
    let plan = if args.dry_run {
        Plan::new(&options)?
    } else {
        make::create_with(&args.device, &options)?
    };
    report(args, &plan);
    Ok(())
}

/// Makes the file system on what is there, which is made longer first when `grow` is set.
fn overwrite(args: &Args, size: Option<u64>, grow: bool) -> Result<(), MakeError> {
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
    let plan = Plan::new(&options)?;
    if !args.dry_run {
        if grow {
            drop(device);
            lengthen(&args.device, options.size)?;
            device = open(args)?;
        }
        plan.check_device(&device)?;
        make::write(&plan, &device)?;
    }
    report(args, &plan);
    Ok(())
}

fn open(args: &Args) -> Result<FileDevice, MakeError> {
    let access = Access {
        read_only: args.dry_run,
        ..Access::default()
    };
    FileDevice::open(&args.device, &access).map_err(|error| MakeError::Open(error.to_string()))
}

fn lengthen(path: &Path, size: u64) -> Result<(), MakeError> {
    std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|file| file.set_len(size))
        .map_err(|source| MakeError::File {
            path: path.display().to_string(),
            source,
        })
}

fn report(args: &Args, plan: &Plan) {
    if args.quiet {
        return;
    }
    let numbers = &plan.numbers;
    let verb = if args.dry_run { "would make" } else { "made" };
    println!(
        "{verb} an ext4 file system of {} blocks of {} bytes, {} inodes, in {} groups",
        numbers.blocks_count, numbers.block_size, numbers.inodes_count, numbers.group_count
    );
    match numbers.journal_blocks {
        0 => println!("no journal"),
        blocks => println!("journal of {blocks} blocks"),
    }
    println!("UUID {}", make::format_uuid(plan.uuid));
    let backups: Vec<String> = plan
        .backup_superblocks()
        .map(|block| block.to_string())
        .collect();
    if !backups.is_empty() {
        println!("superblock backups in blocks {}", backups.join(" "));
    }
}

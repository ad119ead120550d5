//! Command lines: the subcommands, and the forms in which mount(8) and umount(8) call their helpers.
//!
//! Source: mount(8), "EXTERNAL HELPERS"; umount(8); mount.fuse3(8).
//! Invariants: a wrong command line is one line and exit code 1.

use super::failure::{Failure, Outcome};
use super::options::{self, MountOptions};
use crate::evict;
use crate::text::size;
use clap::{Args, Parser, Subcommand};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Mount(MountRequest),
    Umount(UmountRequest),
    Sync {
        directory: PathBuf,
    },
    Info {
        source: PathBuf,
        offset: u64,
        json: bool,
    },
    Stats {
        directory: PathBuf,
        json: bool,
        watch: bool,
    },
    Evict {
        directory: PathBuf,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountRequest {
    pub source: PathBuf,
    pub directory: PathBuf,
    pub options: MountOptions,
    /// Bytes of the image to make if there is none.
    pub create: Option<u64>,
    pub foreground: bool,
    /// Do everything but mount.
    pub fake: bool,
}

/// ext4 images and block devices, mounted read-write from userspace.
#[derive(Parser)]
#[command(name = "uext4", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Subcommand)]
enum Sub {
    /// Mount an image file or block device.
    Mount(MountArgs),
    /// Unmount and wait until everything is written.
    Umount(UmountRequest),
    /// Make everything durable (sync(2) does not reach a FUSE daemon).
    Sync { directory: PathBuf },
    /// Show what a daemon's memory is used for, and what eviction did.
    Stats {
        directory: PathBuf,
        /// For programs.
        #[arg(long)]
        json: bool,
        /// Again every second.
        #[arg(long)]
        watch: bool,
    },
    /// Drop every inode and clean block from a daemon's memory that can be.
    Evict { directory: PathBuf },
    /// Show superblock, features and journal of an image.
    Info {
        source: PathBuf,
        /// Where the file system begins in the source, in bytes.
        #[arg(long, value_name = "BYTES", value_parser = parse_size, default_value = "0")]
        offset: u64,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
struct MountArgs {
    /// An image file or block device.
    source: PathBuf,
    /// Where to mount it.
    directory: PathBuf,
    /// Mount options, separated by commas.
    #[arg(short = 'o', value_name = "OPTS")]
    options: Vec<String>,
    /// Make the image, this large, if there is none.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    create: Option<u64>,
    /// The cap on memory, e.g. 64M.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory: Option<u64>,
    /// Worker threads.
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    threads: Option<usize>,
    /// Where the file system begins in the source, in bytes.
    #[arg(long, value_name = "BYTES", value_parser = parse_size)]
    offset: Option<u64>,
    /// How to evict inodes with preallocations: nofail, retry, eagain, skip, pin, reserve or derive.
    #[arg(long, value_name = "NAME", value_parser = |t: &str| options::policy(t).map_err(|f| f.message))]
    evict_policy: Option<evict::PolicyName>,
    /// Who evicts them: direct (whoever wants memory) or evictor (a thread of its own).
    #[arg(long, value_name = "WHO", value_parser = |t: &str| options::evict_from(t).map_err(|f| f.message))]
    evict_from: Option<evict::From>,
    /// What to do when reclaim has to allocate: off, log or panic.
    #[arg(long, value_name = "HOW", value_parser = |t: &str| options::reclaim_warn(t).map_err(|f| f.message))]
    reclaim_warn: Option<evict::Warn>,
    /// Loads of buddies in the pool of --evict-policy reserve.
    #[arg(long, value_name = "N")]
    evict_reserve: Option<u32>,
    /// Stay in the foreground, log to stderr.
    #[arg(long)]
    foreground: bool,
}

/// umount(8)'s flags, for the helper too.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct UmountRequest {
    pub directory: PathBuf,
    /// Force the unmount.
    #[arg(short = 'f', long)]
    pub force: bool,
    /// Detach now, end when the last user is gone.
    #[arg(short = 'l', long)]
    pub lazy: bool,
    /// Write nothing to mtab.
    #[arg(short = 'n', hide = true)]
    pub no_mtab: bool,
    /// When busy, remount read-only.
    #[arg(short = 'r', long = "read-only")]
    pub read_only: bool,
    #[arg(short = 'v', long)]
    pub verbose: bool,
    /// The mount namespace to act in.
    #[arg(short = 'N', long, value_name = "NS")]
    pub namespace: Option<OsString>,
    /// The type that umount(8) found.
    #[arg(short = 't', hide = true)]
    pub fs_type: Option<String>,
}

fn parse_size(text: &str) -> Result<u64, String> {
    size::in_bytes(text).ok_or_else(|| format!("{text:?} is not a size such as 512M"))
}

fn parse_threads(text: &str) -> Result<usize, String> {
    options::threads(text).map_err(|failure| failure.message)
}

/// Why there is no command: help and version are not failures.
pub enum Refusal {
    Shown(String),
    Failed(Failure),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<clap::Error> for Refusal {
    fn from(error: clap::Error) -> Self {
        let text = error.render().to_string();
        if !error.use_stderr() {
            return Self::Shown(text);
        }
        let first = text.lines().take_while(|line| !line.is_empty());
        let line = first.map(str::trim).collect::<Vec<_>>().join(" ");
        Self::Failed(Failure::usage(line.trim_start_matches("error: ")))
    }
}

/// Finds out by which name and in which form we were called.
pub fn parse(arguments: &[OsString]) -> Result<Command, Refusal> {
    let program = arguments.first().map(Path::new).and_then(Path::file_name);
    let rest = arguments.get(1..).unwrap_or_default();
    match program.and_then(OsStr::to_str) {
        Some("mount.uext4" | "mount.fuse.uext4") => Ok(mount_helper(rest)?),
        Some("umount.uext4" | "umount.fuse.uext4") => umount_helper(rest),
        _ if is_helper_form(rest) => Ok(mount_helper(rest)?),
        _ => subcommand(arguments),
    }
}

/// `uext4 SOURCE DIR ...`: two operands, the first of which is no subcommand.
fn is_helper_form(arguments: &[OsString]) -> bool {
    let first = arguments
        .first()
        .map(|a| a.as_encoded_bytes())
        .unwrap_or_default();
    let known: [&[u8]; 7] = [
        b"mount", b"umount", b"sync", b"info", b"stats", b"evict", b"help",
    ];
    arguments.len() >= 2 && !first.starts_with(b"-") && !known.contains(&first)
}

fn subcommand(arguments: &[OsString]) -> Result<Command, Refusal> {
    match Cli::try_parse_from(arguments)?.command {
        Sub::Mount(args) => Ok(Command::Mount(mount_request(args)?)),
        Sub::Umount(request) => Ok(Command::Umount(request)),
        Sub::Sync { directory } => Ok(Command::Sync { directory }),
        Sub::Stats {
            directory,
            json,
            watch,
        } => Ok(Command::Stats {
            directory,
            json,
            watch,
        }),
        Sub::Evict { directory } => Ok(Command::Evict { directory }),
        Sub::Info {
            source,
            offset,
            json,
        } => Ok(Command::Info {
            source,
            offset,
            json,
        }),
    }
}

fn mount_request(args: MountArgs) -> Outcome<MountRequest> {
    let mut options = MountOptions::default();
    for list in &args.options {
        options.add(list, false)?;
    }
    options.memory = args.memory.or(options.memory);
    options.threads = args.threads.or(options.threads);
    options.offset = args.offset.unwrap_or(options.offset);
    let evict = &mut options.evict;
    evict.policy = args.evict_policy.unwrap_or(evict.policy);
    evict.from = args.evict_from.unwrap_or(evict.from);
    evict.warn = args.reclaim_warn.unwrap_or(evict.warn);
    evict.reserve = args.evict_reserve.unwrap_or(evict.reserve);
    Ok(MountRequest {
        source: args.source,
        directory: args.directory,
        options,
        create: args.create,
        foreground: args.foreground,
        fake: false,
    })
}

/// `SOURCE DIR [-sfnv] [-N NS] [-o OPTS] [-t TYPE]`.
fn mount_helper(arguments: &[OsString]) -> Outcome<Command> {
    let mut request = MountRequest::default();
    let mut lists = Vec::new();
    let mut operands = Vec::new();
    let mut sloppy = false;
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy();
        let Some(letters) = text.strip_prefix('-').filter(|l| !l.is_empty()) else {
            operands.push(PathBuf::from(argument));
            continue;
        };
        for (at, letter) in letters.char_indices() {
            match letter {
                's' => sloppy = true,
                'f' => request.fake = true,
                'n' | 'v' => {}
                'o' | 't' | 'N' => {
                    let inline = letters.get(at + 1..).filter(|rest| !rest.is_empty());
                    let value = match inline {
                        Some(rest) => Some(rest.to_owned()),
                        None => arguments.next().map(|v| v.to_string_lossy().into_owned()),
                    };
                    let missing = || Failure::usage(format!("-{letter} needs a value"));
                    let value = value.ok_or_else(missing)?;
                    if letter == 'o' {
                        lists.push(value);
                    }
                    break;
                }
                other => return Err(Failure::usage(format!("unknown flag -{other}"))),
            }
        }
    }
    for list in &lists {
        request.options.add(list, sloppy)?;
    }
    let [source, directory] = <[PathBuf; 2]>::try_from(operands)
        .map_err(|_| Failure::usage("expected SOURCE and DIR"))?;
    (request.source, request.directory) = (source, directory);
    Ok(Command::Mount(request))
}

/// `DIR [-flnrv] [-N NS] [-t TYPE]`.
fn umount_helper(arguments: &[OsString]) -> Result<Command, Refusal> {
    #[derive(Parser)]
    #[command(name = "umount.fuse.uext4")]
    struct Helper {
        #[command(flatten)]
        request: UmountRequest,
    }
    let name = OsString::from("umount.fuse.uext4");
    let helper = Helper::try_parse_from(std::iter::once(&name).chain(arguments))?;
    Ok(Command::Umount(helper.request))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Command, Refusal> {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        parse(&words)
    }

    fn parsed(line: &str) -> Command {
        match parse_line(line) {
            Ok(command) => command,
            Err(Refusal::Failed(failure)) => panic!("{failure:?}"),
            Err(Refusal::Shown(text)) => panic!("{text}"),
        }
    }

    #[test]
    fn all_ways_to_mount_mean_the_same() {
        let lines = [
            "/usr/bin/uext4 mount a.img /mnt -o ro,dev",
            "uext4 a.img /mnt -v -o ro,dev",
            "/sbin/mount.uext4 a.img /mnt -o ro,dev",
            "/sbin/mount.fuse.uext4 a.img /mnt -nvoro,dev -t uext4",
        ];
        for line in lines {
            let Command::Mount(request) = parsed(line) else {
                panic!("{line}")
            };
            assert_eq!(request.source, Path::new("a.img"), "{line}");
            assert_eq!(request.directory, Path::new("/mnt"), "{line}");
            assert!(request.options.read_only(), "{line}");
        }
    }

    #[test]
    fn flags_of_the_helpers_are_known() {
        let Command::Mount(request) = parsed("mount.uext4 a /m -s -f -n -v -o strange,noexec")
        else {
            panic!()
        };
        assert!(request.fake);
        let Command::Umount(request) =
            parsed("/sbin/umount.fuse.uext4 /m -flnrv -N /proc/1/ns/mnt -t fuse.uext4")
        else {
            panic!()
        };
        assert!(request.force && request.lazy && request.no_mtab && request.read_only);
        assert!(request.verbose && request.namespace.is_some());
    }

    #[test]
    fn options_come_in_two_forms() {
        let line =
            "uext4 mount --create 1G --memory 64M --threads 2 --offset 1M d.img m --foreground";
        let Command::Mount(request) = parsed(line) else {
            panic!()
        };
        assert_eq!(request.create, Some(1 << 30));
        assert_eq!(request.options.memory, Some(64 << 20));
        assert_eq!(
            (request.options.threads, request.options.offset),
            (Some(2), 1 << 20)
        );
        assert!(request.foreground);
        let info = Command::Info {
            source: "x".into(),
            offset: 0,
            json: true,
        };
        assert_eq!(parsed("uext4 info x --json"), info);
    }

    #[test]
    fn mistakes_are_one_line_and_code_1() {
        for line in [
            "uext4 mount a.img",
            "uext4 a.img /mnt -q",
            "uext4 a.img /mnt extra",
            "uext4 mount a.img /mnt -o nodelalloc",
            "uext4 mount --create big a.img /mnt",
            "uext4 frobnicate",
            "umount.fuse.uext4 -x /mnt",
        ] {
            let Err(Refusal::Failed(failure)) = parse_line(line) else {
                panic!("{line}")
            };
            assert_eq!(failure.code, Failure::USAGE, "{line}");
            assert!(
                !failure.message.contains('\n') && !failure.message.is_empty(),
                "{line}"
            );
        }
    }
}

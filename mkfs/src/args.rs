//! The command line of `mkfs.uext4`, also called as `mkfs.fuse.uext4`.
//!
//! Source: mke2fs(8).
//! Invariants: an option that is not known, or a value that is not, is an error of one line.

use crate::extended::Extended;
use crate::percent;
use clap::Parser;
use clap::error::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;
use uext4::format::time::Timestamp;
use uext4::make::{self, FeatureSet, Kind, MakeError, Options};
use uext4::text::{complain, show, size};

/// Make an ext4 file system.
#[derive(Parser, Debug)]
#[command(name = "mkfs.uext4", version, disable_version_flag = true)]
pub struct Args {
    /// Block size in bytes, 1024 to 65536
    #[arg(short = 'b', value_name = "BYTES")]
    block_size: Option<String>,
    /// Cluster size in bytes, with feature bigalloc
    #[arg(short = 'C', value_name = "BYTES")]
    cluster_size: Option<String>,
    /// Blocks in a group
    #[arg(short = 'g', value_name = "BLOCKS")]
    blocks_per_group: Option<u32>,
    /// Groups in a flex group
    #[arg(short = 'G', value_name = "GROUPS")]
    groups_per_flex: Option<u32>,
    /// Bytes of the volume per inode
    #[arg(short = 'i', value_name = "BYTES")]
    bytes_per_inode: Option<String>,
    /// Inode size in bytes
    #[arg(short = 'I', value_name = "BYTES")]
    inode_size: Option<u32>,
    /// Make a journal (also with -t ext2)
    #[arg(short = 'j')]
    wants_journal: bool,
    /// Journal options: size=MEBIBYTES, location=BLOCK
    #[arg(short = 'J', value_name = "OPTION", value_delimiter = ',')]
    journal: Vec<String>,
    /// Volume label, at most 16 bytes
    #[arg(short = 'L', value_name = "LABEL")]
    label: Option<String>,
    /// Percentage of blocks that only the super-user may use
    #[arg(short = 'm', value_name = "PERCENT")]
    reserved: Option<String>,
    /// The directory that it was last mounted on
    #[arg(short = 'M', value_name = "DIR")]
    last_mounted: Option<String>,
    /// Number of inodes
    #[arg(short = 'N', value_name = "COUNT")]
    inodes: Option<u32>,
    /// Features: NAME or ^NAME, separated by commas
    #[arg(short = 'O', value_name = "FEATURES")]
    features: Vec<String>,
    /// Revision of the format: 0 or 1
    #[arg(short = 'r', value_name = "REVISION", default_value_t = 1)]
    revision: u32,
    /// Type: ext2, ext3 or ext4 [default: by the program's name, else ext4]
    #[arg(short = 't', value_name = "TYPE")]
    kind: Option<String>,
    /// What it is for: default, floppy, small, big, huge, news, largefile, largefile4, hurd
    #[arg(short = 'T', value_name = "USAGE", value_delimiter = ',')]
    usage: Vec<String>,
    /// UUID, or `clear` or `random`
    #[arg(short = 'U', value_name = "UUID")]
    uuid: Option<String>,
    /// Extended options: stride=, stripe_width=, resize=, lazy_itable_init=, lazy_journal_init=, root_owner=,
    /// offset=, discard, nodiscard, quotatype=, hash_seed=, num_backup_sb=, encoding=, encoding_flags=,
    /// mmp_update_interval=, orphan_file_size=, assume_storage_prezeroed=
    #[arg(short = 'E', value_name = "OPTION", value_delimiter = ',')]
    extended: Vec<String>,
    /// What the kernel does about errors: continue, remount-ro or panic
    #[arg(short = 'e', value_name = "BEHAVIOUR")]
    errors: Option<String>,
    /// Fill it with a directory or a tar archive (`-`: standard input)
    #[arg(short = 'd', value_name = "DIR|TAR")]
    pub populate: Option<PathBuf>,
    /// Owners of what -d copies: FROM:TO lines for users (u) and groups (g), as in `u 1000 0`
    #[arg(long, value_name = "FILE")]
    pub owner_map: Option<PathBuf>,
    /// Overwrite whatever the device holds
    #[arg(short = 'F', action = clap::ArgAction::Count)]
    force_count: u8,
    /// Only say what would be made
    #[arg(short = 'n')]
    pub dry_run: bool,
    /// Say nothing
    #[arg(short = 'q')]
    pub quiet: bool,
    /// Say more
    #[arg(short = 'v')]
    pub verbose: bool,
    /// Print the version
    #[arg(short = 'V', action = clap::ArgAction::Version)]
    #[allow(dead_code)]
    version: Option<bool>,
    /// Block device or image file; a missing file is created when SIZE is given
    pub device: PathBuf,
    /// Size: blocks (kibibytes without -b), or with a suffix k, m, g, t, or s for sectors
    size: Option<String>,
}

/// The name this program was called by.
pub fn program() -> String {
    std::env::args_os()
        .next()
        .and_then(|path| {
            Some(
                PathBuf::from(path)
                    .file_name()?
                    .to_string_lossy()
                    .into_owned(),
            )
        })
        .unwrap_or_else(|| "mkfs.uext4".into())
}

impl Args {
    /// The command line, or the code to exit with once help or an error has been printed.
    pub fn read() -> Result<Self, ExitCode> {
        Self::try_parse().map_err(|error| match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                show(&error.to_string());
                ExitCode::SUCCESS
            }
            _ => {
                complain!("{}: {}", program(), one_line(&error.to_string()));
                ExitCode::FAILURE
            }
        })
    }

    pub fn force(&self) -> bool {
        self.force_count > 0
    }

    /// The extended options.
    pub fn extended(&self) -> Result<Extended, MakeError> {
        Extended::parse(&self.extended)
    }

    /// The size that was asked for.
    pub fn size_in_bytes(&self) -> Result<Option<u64>, MakeError> {
        let Some(text) = &self.size else {
            return Ok(None);
        };
        let unit = bytes("block size", &self.block_size)?.unwrap_or(1024);
        size::in_units(text, unit.into())
            .map(Some)
            .ok_or_else(|| invalid("size", text))
    }

    fn kind(&self) -> Result<Kind, MakeError> {
        let name = program();
        let by_name = name
            .strip_prefix("mkfs.")
            .filter(|kind| kind.starts_with("ext"));
        self.kind.as_deref().or(by_name).unwrap_or("ext4").parse()
    }

    /// The options for a file system of `size` bytes.
    pub fn options(&self, size: u64) -> Result<Options, MakeError> {
        let mut options = Options::fresh(size);
        options.features = FeatureSet::of(self.kind()?);
        if self.wants_journal {
            options.features.apply("has_journal")?;
        }
        for list in &self.features {
            options.features.apply(list)?;
        }
        for usage in &self.usage {
            options.usage.push(usage.parse()?);
        }
        options.block_size = bytes("block size", &self.block_size)?;
        options.cluster_size = bytes("cluster size", &self.cluster_size)?;
        options.blocks_per_group = self.blocks_per_group;
        options.groups_per_flex = self.groups_per_flex;
        options.bytes_per_inode = bytes("bytes per inode", &self.bytes_per_inode)?;
        options.inodes = self.inodes;
        options.inode_size = self.inode_size;
        options.revision = self.revision;
        let text = |text: &Option<String>| text.clone().unwrap_or_default().into_bytes();
        options.label = text(&self.label);
        options.last_mounted = text(&self.last_mounted);
        if let Some(percent) = &self.reserved {
            options.reserved =
                percent::parse(percent).ok_or_else(|| invalid("percentage", percent))?;
        }
        self.set_ids(&mut options)?;
        for option in &self.journal {
            set_journal_option(&mut options, option)?;
        }
        self.extended()?.set(&mut options)?;
        Ok(options)
    }

    /// UUID, time and what to do about errors.
    fn set_ids(&self, options: &mut Options) -> Result<(), MakeError> {
        match self.uuid.as_deref() {
            None | Some("random" | "time") => {}
            Some("clear") => options.uuid = [0; 16],
            Some(text) => {
                options.uuid = make::parse_uuid(text).ok_or_else(|| invalid("UUID", text))?
            }
        }
        options.errors = match self.errors.as_deref() {
            None | Some("continue") => 1,
            Some("remount-ro") => 2,
            Some("panic") => 3,
            Some(text) => return Err(invalid("error behaviour", text)),
        };
        if let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH") {
            let text = text.to_string_lossy();
            let seconds = text
                .parse()
                .map_err(|_| invalid("SOURCE_DATE_EPOCH", &text))?;
            options.time = Timestamp {
                seconds,
                nanoseconds: 0,
            };
        }
        Ok(())
    }
}

fn set_journal_option(options: &mut Options, option: &str) -> Result<(), MakeError> {
    let block_size = options.block_size().into();
    match option.split_once('=') {
        Some(("size", text)) => {
            let bytes =
                size::in_units(text, 1 << 20).ok_or_else(|| invalid("journal size", text))?;
            options.journal_size = Some(bytes);
        }
        Some(("location", text)) => {
            let bytes = size::in_units(text, block_size)
                .ok_or_else(|| invalid("journal location", text))?;
            options.journal_location = Some(bytes / block_size);
        }
        _ => return Err(MakeError::Unsupported(format!("journal option {option}"))),
    }
    Ok(())
}

/// A number of bytes, with or without a suffix.
fn bytes(what: &str, text: &Option<String>) -> Result<Option<u32>, MakeError> {
    let parse = |text: &String| {
        let number = size::in_units(text, 1).and_then(|number| u32::try_from(number).ok());
        number.ok_or_else(|| invalid(what, text))
    };
    text.as_ref().map(parse).transpose()
}

pub fn invalid(what: &str, text: &str) -> MakeError {
    MakeError::Invalid(format!("{what} {text:?} is not valid"))
}

/// clap's first line says it; what follows is usage.
fn one_line(message: &str) -> String {
    let line = message.lines().next().unwrap_or("wrong arguments");
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str) -> Result<Options, String> {
        let args =
            Args::try_parse_from(line.split(' ')).map_err(|error| one_line(&error.to_string()))?;
        let size = args.size_in_bytes().map_err(|error| error.to_string())?;
        args.options(size.unwrap_or(1 << 30))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn sizes_count_blocks_or_kibibytes() {
        assert_eq!(options("mkfs x 1000").unwrap().size, 1_024_000);
        assert_eq!(options("mkfs -b 4096 x 1000").unwrap().size, 4_096_000);
        assert_eq!(options("mkfs -b 4k x 1G").unwrap().size, 1 << 30);
    }

    #[test]
    fn what_is_not_built_is_named() {
        for (line, name) in [
            ("mkfs -E packed_meta_blocks=1 x", "packed_meta_blocks"),
            ("mkfs -E stride=many x", "many"),
            ("mkfs -O journal_dev x", "journal_dev"),
            ("mkfs -J device=/dev/sda x", "device=/dev/sda"),
            ("mkfs -U nonsense x", "nonsense"),
            ("mkfs -m many x", "many"),
            ("mkfs -t xfs x", "xfs"),
            ("mkfs -T mail x", "mail"),
            ("mkfs -e ignore x", "ignore"),
            ("mkfs x 12q", "12q"),
        ] {
            let error = options(line).unwrap_err();
            assert!(
                error.contains(name) && !error.contains('\n'),
                "{line}: {error}"
            );
        }
    }

    #[test]
    fn extended_options_reach_the_plan() {
        let made = options("mkfs -E stride=4,stripe_width=8,root_owner=5:6,quotatype=prjquota x");
        let made = made.unwrap();
        assert_eq!((made.stride, made.stripe_width), (4, 8));
        assert_eq!(
            (made.root_owner, made.quotas),
            ((5, 6), [false, false, true])
        );
    }
}

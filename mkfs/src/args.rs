//! The command line of `mkfs.uext4`, also called as `mkfs.fuse.uext4`.
//!
//! Source: mke2fs(8).
//! Invariants: an option that is not known, or a value that is not, is an error of one line.

use crate::size;
use clap::Parser;
use clap::error::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;
use uext4::make::{self, MakeError, Options};

/// Make an ext4 file system.
#[derive(Parser, Debug)]
#[command(name = "mkfs.uext4", version, disable_version_flag = true)]
pub struct Args {
    /// Block size in bytes, 1024 to 65536
    #[arg(short = 'b', value_name = "BYTES")]
    block_size: Option<u32>,
    /// Volume label, at most 16 bytes
    #[arg(short = 'L', value_name = "LABEL")]
    label: Option<String>,
    /// UUID, or `clear` or `random`
    #[arg(short = 'U', value_name = "UUID")]
    uuid: Option<String>,
    /// Percentage of blocks that only the super-user may use
    #[arg(short = 'm', value_name = "PERCENT")]
    reserved: Option<String>,
    /// Bytes of the volume per inode
    #[arg(short = 'i', value_name = "BYTES")]
    bytes_per_inode: Option<u32>,
    /// Number of inodes
    #[arg(short = 'N', value_name = "COUNT")]
    inodes: Option<u32>,
    /// Inode size in bytes
    #[arg(short = 'I', value_name = "BYTES")]
    inode_size: Option<u32>,
    /// Journal options: size=MEBIBYTES
    #[arg(short = 'J', value_name = "OPTION", value_delimiter = ',')]
    journal: Vec<String>,
    /// Features: NAME or ^NAME, separated by commas
    #[arg(short = 'O', value_name = "FEATURES")]
    features: Vec<String>,
    /// Overwrite whatever the device holds
    #[arg(short = 'F', action = clap::ArgAction::Count)]
    force_count: u8,
    /// Only say what would be made
    #[arg(short = 'n')]
    pub dry_run: bool,
    /// Say nothing
    #[arg(short = 'q')]
    pub quiet: bool,
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
                print!("{error}");
                ExitCode::SUCCESS
            }
            _ => {
                eprintln!("{}: {}", program(), one_line(&error.to_string()));
                ExitCode::FAILURE
            }
        })
    }

    pub fn force(&self) -> bool {
        self.force_count > 0
    }

    /// The size that was asked for.
    pub fn size_in_bytes(&self) -> Result<Option<u64>, MakeError> {
        let Some(text) = &self.size else {
            return Ok(None);
        };
        let unit = self.block_size.unwrap_or(1024).into();
        size::parse(text, unit)
            .map(Some)
            .ok_or_else(|| invalid("size", text))
    }

    /// The options for a file system of `size` bytes.
    pub fn options(&self, size: u64) -> Result<Options, MakeError> {
        let mut options = Options::fresh(size);
        options.block_size = self.block_size;
        options.bytes_per_inode = self.bytes_per_inode;
        options.inodes = self.inodes;
        options.inode_size = self.inode_size.unwrap_or(options.inode_size);
        if let Some(label) = &self.label {
            options.label = label.clone().into_bytes();
        }
        match self.uuid.as_deref() {
            None | Some("random" | "time") => {}
            Some("clear") => options.uuid = [0; 16],
            Some(text) => {
                options.uuid = make::parse_uuid(text).ok_or_else(|| invalid("UUID", text))?
            }
        }
        if let Some(percent) = &self.reserved {
            options.reserved =
                size::parse_percent(percent).ok_or_else(|| invalid("percentage", percent))?;
        }
        for list in &self.features {
            options.features.apply(list)?;
        }
        for option in &self.journal {
            let Some(text) = option.strip_prefix("size=") else {
                return Err(MakeError::Unsupported(format!("journal option {option}")));
            };
            options.journal_size =
                Some(size::parse(text, 1 << 20).ok_or_else(|| invalid("journal size", text))?);
        }
        Ok(options)
    }
}

fn invalid(what: &str, text: &str) -> MakeError {
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
        assert_eq!(options("mkfs -b 4096 x 1G").unwrap().size, 1 << 30);
    }

    #[test]
    fn what_is_not_built_is_named() {
        for (line, name) in [
            ("mkfs -E lazy_itable_init=1 x", "-E"),
            ("mkfs -O bigalloc x", "bigalloc"),
            ("mkfs -J device=/dev/sda x", "device=/dev/sda"),
            ("mkfs -U nonsense x", "nonsense"),
            ("mkfs -m many x", "many"),
            ("mkfs x 12q", "12q"),
        ] {
            let error = options(line).unwrap_err();
            assert!(
                error.contains(name) && !error.contains('\n'),
                "{line}: {error}"
            );
        }
    }
}

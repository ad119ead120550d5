//! What `-E` takes.
//!
//! Source: mke2fs(8), "-E extended-options".
//! Invariants: a name that is not known is refused.

use crate::args::invalid;
use uext4::make::{self, MakeError, Options};
use uext4::text::size;

/// The extended options, each with its text.
#[derive(Clone, Debug, Default)]
pub struct Extended {
    /// Where the file system begins on the device, in bytes.
    pub offset: u64,
    /// Tell the device that its blocks hold nothing.
    pub discard: Option<bool>,
    pub lazy_itable_init: Option<bool>,
    /// Do not copy extended attributes with -d.
    pub no_copy_xattrs: bool,
    others: Vec<(String, String)>,
}

/// Names that take no value.
const BARE: &[&str] = &["discard", "nodiscard", "root_owner", "no_copy_xattrs"];
/// Names that mean 1 without a value.
const SWITCHES: &[&str] = &[
    "lazy_itable_init",
    "lazy_journal_init",
    "assume_storage_prezeroed",
];
const OTHERS: &[&str] = &[
    "stride",
    "stripe_width",
    "stripe-width",
    "resize",
    "root_owner",
    "quotatype",
    "hash_seed",
    "num_backup_sb",
    "encoding",
    "encoding_flags",
    "mmp_update_interval",
    "orphan_file_size",
];

impl Extended {
    pub fn parse(list: &[String]) -> Result<Self, MakeError> {
        let mut this = Self::default();
        for item in list.iter().filter(|item| !item.is_empty()) {
            let (name, value) = match item.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (item.as_str(), None),
            };
            match (name, value) {
                ("discard", None) => this.discard = Some(true),
                ("nodiscard", None) => this.discard = Some(false),
                ("no_copy_xattrs", None) => this.no_copy_xattrs = true,
                ("offset", Some(text)) => this.offset = number(name, text, 1)?,
                ("lazy_itable_init", value) => {
                    this.lazy_itable_init = Some(switch(name, value.unwrap_or("1"))?);
                }
                (name, Some(text)) if OTHERS.contains(&name) || SWITCHES.contains(&name) => {
                    this.others.push((name.to_owned(), text.to_owned()));
                }
                (name, None) if SWITCHES.contains(&name) => {
                    this.others.push((name.to_owned(), "1".to_owned()));
                }
                (name, None) if BARE.contains(&name) => {
                    this.others.push((name.to_owned(), String::new()));
                }
                _ => {
                    return Err(MakeError::Unsupported(format!("extended option {item}")));
                }
            }
        }
        Ok(this)
    }

    /// Puts them into the options.
    pub fn set(&self, options: &mut Options) -> Result<(), MakeError> {
        options.lazy_itable_init = self.lazy_itable_init.unwrap_or(false);
        for (name, text) in &self.others {
            set_one(options, name, text)?;
        }
        Ok(())
    }
}

fn set_one(options: &mut Options, name: &str, text: &str) -> Result<(), MakeError> {
    let block_size = u64::from(options.block_size());
    match name {
        "stride" => options.stride = narrow(name, text)?,
        "stripe_width" | "stripe-width" => options.stripe_width = narrow(name, text)?,
        "resize" => options.resize = Some(number(name, text, block_size)? / block_size),
        "lazy_journal_init" => options.lazy_journal_init = switch(name, text)?,
        "assume_storage_prezeroed" => options.zeroed = switch(name, text)?,
        "root_owner" => options.root_owner = owner(text)?,
        "quotatype" => options.quotas = quotas(text)?,
        "hash_seed" => {
            options.hash_seed = make::parse_uuid(text).ok_or_else(|| invalid(name, text))?;
        }
        "num_backup_sb" => {
            options.backups = narrow(name, text)?;
            if options.backups > 2 {
                return Err(invalid(name, text));
            }
        }
        "encoding" if matches!(text, "utf8" | "utf8-12.1") => {
            options.features.apply("casefold")?;
        }
        "encoding_flags" => {
            options.encoding_flags = match text {
                "strict" => 1,
                "no-strict" | "nostrict" => 0,
                _ => return Err(invalid(name, text)),
            };
        }
        "mmp_update_interval" => options.mmp_interval = narrow(name, text)?,
        "orphan_file_size" => {
            let blocks = number(name, text, block_size)? / block_size;
            let blocks = u32::try_from(blocks)
                .ok()
                .filter(|blocks| (1..=512).contains(blocks));
            options.orphan_file_size = Some(blocks.ok_or_else(|| invalid(name, text))?);
        }
        _ => return Err(invalid(name, text)),
    }
    Ok(())
}

fn number(name: &str, text: &str, unit: u64) -> Result<u64, MakeError> {
    size::in_units(text, unit).ok_or_else(|| invalid(name, text))
}

fn narrow<T: TryFrom<u64>>(name: &str, text: &str) -> Result<T, MakeError> {
    T::try_from(number(name, text, 1)?).map_err(|_| invalid(name, text))
}

fn switch(name: &str, text: &str) -> Result<bool, MakeError> {
    match text {
        "0" => Ok(false),
        "1" => Ok(true),
        _ => Err(invalid(name, text)),
    }
}

/// `uid:gid`; without a value, who calls.
fn owner(text: &str) -> Result<(u32, u32), MakeError> {
    if text.is_empty() {
        let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
        return Ok((uid.as_raw(), gid.as_raw()));
    }
    let (uid, gid) = text.split_once(':').unwrap_or((text, text));
    match (uid.parse(), gid.parse()) {
        (Ok(uid), Ok(gid)) => Ok((uid, gid)),
        _ => Err(invalid("root_owner", text)),
    }
}

fn quotas(text: &str) -> Result<[bool; 3], MakeError> {
    let mut quotas = [false; 3];
    for name in text.split(':') {
        match name {
            "usrquota" | "usr" | "user" => quotas[0] = true,
            "grpquota" | "grp" | "group" => quotas[1] = true,
            "prjquota" | "prj" | "project" => quotas[2] = true,
            _ => return Err(invalid("quotatype", text)),
        }
    }
    Ok(quotas)
}

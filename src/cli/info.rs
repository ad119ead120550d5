//! `uext4 info`: superblock, features and journal of an image, for a person or as JSON.
//!
//! Source: the kernel's ext4 documentation, "Super Block" and "Journal (jbd2)".
//! Invariants: the image is only read, and may be mounted at the same time.

use super::failure::{Failure, Outcome};
use crate::control::Request;
use crate::control::client::Client;
use crate::device::file::FileDevice;
use crate::device::{Device, mountinfo};
use crate::error::Result;
use crate::format::features::{self, Features, KNOWN, Word, compat, incompat};
use crate::format::geometry::Geometry;
use crate::format::superblock::{OFFSET, SIZE, Superblock, state};
use crate::journal::recover::{self, LogMap};
use serde::Serialize;
use serde_json::Value;
use std::path::Path;

#[derive(Debug, Serialize)]
struct Info {
    source: String,
    label: String,
    uuid: String,
    state: Vec<&'static str>,
    error_count: u32,
    block_size: u32,
    blocks: u64,
    free_blocks: u64,
    reserved_blocks: u64,
    inodes: u32,
    free_inodes: u32,
    inode_size: u16,
    groups: u32,
    blocks_per_group: u32,
    /// Seconds since 1970.
    last_mount: i64,
    last_write: i64,
    mounts: u16,
    features: Vec<String>,
    /// What a mount would be: `read-write`, `read-only` or `refused`.
    access: &'static str,
    reasons: Vec<String>,
    journal: Option<Journal>,
    /// What the daemon says, of a mounted image.
    mount: Option<Value>,
}

#[derive(Debug, Serialize)]
struct Journal {
    blocks: u32,
    sequence: u32,
    needs_recovery: bool,
    error: Option<String>,
}

pub(super) fn run(source: &Path, offset: u64, json: bool) -> Outcome {
    let device = FileDevice::peek(source, offset).map_err(Failure::system)?;
    let info =
        gather(&device).map_err(|e| Failure::system(format!("{}: {e}", source.display())))?;
    let shown = if json {
        let mut json = serde_json::to_string_pretty(&info).map_err(Failure::system)?;
        json.push('\n');
        json
    } else {
        text(&info)
    };
    crate::text::show(&shown);
    Ok(())
}

fn gather(device: &FileDevice) -> Result<Info> {
    let mut bytes = [0; SIZE];
    device.read_at(OFFSET, &mut bytes)?;
    let sb = Superblock::parse(&bytes)?;
    let (access, reasons) = match features::gate(sb.features()) {
        Ok(access) if access.reasons().is_empty() => ("read-write", Vec::new()),
        Ok(access) => ("read-only", access.reasons().to_vec()),
        Err(error) => ("refused", vec![error.to_string()]),
    };
    let mut info = Info {
        source: device.path().display().to_string(),
        label: string(&sb.s_volume_name()),
        uuid: uuid::Uuid::from_bytes(sb.s_uuid()).to_string(),
        state: states(sb.s_state()),
        error_count: sb.s_error_count(),
        block_size: 1024_u32.checked_shl(sb.s_log_block_size()).unwrap_or(0),
        blocks: sb.s_blocks_count(),
        free_blocks: sb.s_free_blocks_count(),
        reserved_blocks: sb.s_r_blocks_count(),
        inodes: sb.s_inodes_count(),
        free_inodes: sb.s_free_inodes_count(),
        inode_size: sb.s_inode_size(),
        groups: 0,
        blocks_per_group: sb.s_blocks_per_group(),
        last_mount: sb.s_mtime(),
        last_write: sb.s_wtime(),
        mounts: sb.s_mnt_count(),
        features: feature_names(sb.features()),
        access,
        reasons,
        journal: None,
        mount: mount_of(device),
    };
    match sb.geometry(device.len()) {
        Ok(geo) => {
            info.groups = geo.group_count;
            info.journal = geo
                .features
                .has_compat(compat::HAS_JOURNAL)
                .then(|| journal(device, &geo));
        }
        Err(error) => {
            info.access = "refused";
            info.reasons.push(error.to_string());
        }
    }
    Ok(info)
}

fn journal(device: &FileDevice, geo: &Geometry) -> Journal {
    let read = LogMap::read(device, geo)
        .and_then(|log| Ok((log.len(), recover::read_superblock(device, geo, &log)?)));
    let marked = geo.features.has_incompat(incompat::RECOVER);
    match read {
        Ok((blocks, superblock)) => Journal {
            blocks,
            sequence: superblock.sequence().get(),
            needs_recovery: marked || superblock.start() != 0,
            error: (superblock.errno() != 0).then(|| "aborted after an error".to_owned()),
        },
        Err(error) => Journal {
            blocks: 0,
            sequence: 0,
            needs_recovery: marked,
            error: Some(error.to_string()),
        },
    }
}

/// What the daemon that has the image mounted says; where it is mounted, if it says nothing.
fn mount_of(device: &FileDevice) -> Option<Value> {
    let mounts = mountinfo::read().ok()?;
    let is_of_device =
        |m: &&mountinfo::Mount| m.fs_type == "fuse.uext4" && Path::new(&m.source) == device.path();
    let mount = mounts.iter().find(is_of_device)?;
    let asked = Client::connect(mount.major_minor()).and_then(|mut c| c.ask(Request::Info));
    Some(
        asked.unwrap_or_else(|_| serde_json::json!({ "directory": mount.point.to_string_lossy() })),
    )
}

fn states(bits: u16) -> Vec<&'static str> {
    let mut names = vec![if bits & state::VALID_FS != 0 {
        "clean"
    } else {
        "not clean"
    }];
    for (bit, name) in [
        (state::ERROR_FS, "with errors"),
        (state::ORPHAN_FS, "orphans"),
    ] {
        if bits & bit != 0 {
            names.push(name);
        }
    }
    names
}

fn feature_names(features: Features) -> Vec<String> {
    let words = [
        (Word::Compat, features.compat, "compat"),
        (Word::Incompat, features.incompat, "incompat"),
        (Word::RoCompat, features.ro_compat, "ro_compat"),
    ];
    let mut names = Vec::new();
    for (word, bits, word_name) in words {
        let mut unknown = bits;
        for feature in KNOWN.iter().filter(|f| f.word == word && bits & f.bit != 0) {
            names.push(feature.name.to_owned());
            unknown &= !feature.bit;
        }
        if unknown != 0 {
            names.push(format!("unknown-{word_name}-{unknown:#x}"));
        }
    }
    names
}

fn string(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default())
        .escape_debug()
        .to_string()
}

/// A line for each thing, name and value.
fn text(info: &Info) -> String {
    let size = |blocks: u64| amount(u128::from(blocks) * u128::from(info.block_size));
    let journal = match &info.journal {
        None => "none".to_owned(),
        Some(journal) => journal_text(journal, &size),
    };
    let mut access = info.access.to_owned();
    if !info.reasons.is_empty() {
        access.push_str(&format!(" ({})", info.reasons.join("; ")));
    }
    let mut state = info.state.join(", ");
    if info.error_count > 0 {
        state.push_str(&format!(", {} errors recorded", info.error_count));
    }
    let label = if info.label.is_empty() {
        "none"
    } else {
        &info.label
    };
    let lines = [
        ("source", info.source.clone()),
        ("label", label.to_owned()),
        ("UUID", info.uuid.clone()),
        ("state", state),
        ("mounts", access),
        (
            "size",
            format!(
                "{} ({} blocks of {} bytes)",
                size(info.blocks),
                info.blocks,
                info.block_size
            ),
        ),
        (
            "free",
            format!(
                "{} ({} blocks, {} reserved)",
                size(info.free_blocks),
                info.free_blocks,
                info.reserved_blocks
            ),
        ),
        (
            "inodes",
            format!(
                "{} of {} bytes, {} free",
                info.inodes, info.inode_size, info.free_inodes
            ),
        ),
        (
            "groups",
            format!("{} of {} blocks", info.groups, info.blocks_per_group),
        ),
        ("journal", journal),
        ("features", info.features.join(" ")),
        ("last mounted", time(info.last_mount)),
        ("last written", time(info.last_write)),
    ];
    let mut text = String::new();
    for (name, value) in lines {
        text.push_str(&format!("{name:<13} {value}\n"));
    }
    if let Some(mount) = &info.mount {
        text.push_str(&format!(
            "{:<13} {}\n",
            "mounted on",
            mount["directory"].as_str().unwrap_or("?")
        ));
        text.push_str("(the counts above are as old as the last superblock on disk)\n");
    }
    text
}

fn journal_text(journal: &Journal, size: &dyn Fn(u64) -> String) -> String {
    let mut text = format!(
        "{} ({} blocks)",
        size(journal.blocks.into()),
        journal.blocks
    );
    text.push_str(if journal.needs_recovery {
        ", needs recovery"
    } else {
        ", empty"
    });
    text.push_str(&format!(", next transaction {}", journal.sequence));
    if let Some(error) = &journal.error {
        text.push_str(&format!(", {error}"));
    }
    text
}

fn amount(bytes: u128) -> String {
    const UNITS: [&str; 6] = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    let mut tenths = bytes * 10;
    while tenths >= 10240 && unit < UNITS.len() - 1 {
        tenths /= 1024;
        unit += 1;
    }
    let fraction = if tenths.is_multiple_of(10) {
        String::new()
    } else {
        format!(".{}", tenths % 10)
    };
    format!("{}{fraction} {}", tenths / 10, UNITS[unit])
}

/// As a date in UTC.
fn time(seconds: i64) -> String {
    if seconds == 0 {
        return "never".to_owned();
    }
    let (days, rest) = (seconds.div_euclid(86400), seconds.rem_euclid(86400));
    // Civil date from days since 1970-01-01, in years that begin in March.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(time(0), "never");
        assert_eq!(time(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(time(-1), "1969-12-31 23:59:59 UTC");
        assert_eq!(time(4_102_444_799), "2099-12-31 23:59:59 UTC");
    }

    #[test]
    fn amounts_are_for_people() {
        assert_eq!(amount(1536), "1.5 KiB");
        assert_eq!(amount(1 << 30), "1 GiB");
        assert_eq!(amount(100), "100 bytes");
    }

    #[test]
    fn an_image_of_mke2fs_is_described() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 << 20).unwrap();
        let made = Command::new("mke2fs")
            .args([
                "-q",
                "-t",
                "ext4",
                "-L",
                "hello",
                "-O",
                "metadata_csum_seed,orphan_file",
            ])
            .arg(file.path())
            .status();
        assert!(made.unwrap().success());
        let device = FileDevice::peek(file.path(), 0).unwrap();
        let info = gather(&device).unwrap();
        assert_eq!((info.label.as_str(), info.access), ("hello", "read-write"));
        assert_eq!(
            (info.blocks, info.block_size, info.state),
            (65536, 1024, vec!["clean"])
        );
        let journal = info.journal.unwrap();
        assert_eq!(
            (journal.blocks, journal.needs_recovery, journal.error),
            (4096, false, None)
        );
        for name in [
            "has_journal",
            "extent",
            "orphan_file",
            "metadata_csum_seed",
            "64bit",
        ] {
            assert!(
                info.features.iter().any(|f| f == name),
                "{name}: {:?}",
                info.features
            );
        }
        let text = text(&gather(&device).unwrap());
        assert!(
            text.contains("64 MiB (65536 blocks of 1024 bytes)"),
            "{text}"
        );
    }

    #[test]
    fn what_is_no_ext4_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let failure = run(file.path(), 0, false).unwrap_err();
        assert!(failure.message.contains("not an ext4"), "{failure:?}");
    }
}

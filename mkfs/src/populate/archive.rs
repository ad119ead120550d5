//! A tar archive as a source.
//!
//! Source: POSIX pax, GNU tar's manual.
//! Invariants: what cannot be kept is an error, not a silent loss.

use super::node::{CHUNK, Event, Node, NodeKind, split};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use tar::{Archive, Entry, EntryType};
use uext4::format::time::Timestamp;
use uext4::make::MakeError;

const FIFO: u16 = 0o010_000;
const CHARACTERS: u16 = 0o020_000;
const BLOCKS: u16 = 0o060_000;
/// Where GNU tar, star and bsdtar keep extended attributes.
const XATTR: &str = "SCHILY.xattr.";
/// A sparse file in the archive is full of zeroes here; whole blocks of them stay holes.
const HOLE: usize = 4096;

/// Yields the archive's entries; `-` is standard input.
pub fn read(path: &Path, xattrs: bool, send: &dyn Fn(Event) -> bool) -> Result<(), MakeError> {
    let fail = |source| MakeError::File {
        path: path.display().to_string(),
        source,
    };
    let input: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::io::BufReader::with_capacity(
            CHUNK,
            File::open(path).map_err(fail)?,
        ))
    };
    let mut archive = Archive::new(input);
    for entry in archive.entries().map_err(fail)? {
        let mut entry = entry.map_err(fail)?;
        let Some(node) = node(&mut entry, xattrs).map_err(fail)? else {
            continue;
        };
        let is_file = matches!(node.kind, NodeKind::File { .. });
        if !send(Event::Node(Box::new(node))) {
            return Ok(());
        }
        if is_file && !data(&mut entry, send).map_err(fail)? {
            return Ok(());
        }
    }
    Ok(())
}

/// `None` for what is no file, as a label.
fn node<R: Read>(entry: &mut Entry<'_, R>, xattrs: bool) -> std::io::Result<Option<Node>> {
    let path = split(&entry.path_bytes());
    let extensions = Extensions::read(entry, xattrs)?;
    let header = entry.header();
    let entry_type = header.entry_type();
    let special = |file_type| -> std::io::Result<NodeKind> {
        let number = (
            header.device_major()?.unwrap_or(0),
            header.device_minor()?.unwrap_or(0),
        );
        let rdev = if file_type == FIFO { (0, 0) } else { number };
        Ok(NodeKind::Special { file_type, rdev })
    };
    let target = || entry.link_name_bytes().unwrap_or_default().into_owned();
    let kind = match entry_type {
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            NodeKind::File { size: entry.size() }
        }
        EntryType::Directory => NodeKind::Directory,
        EntryType::Symlink => NodeKind::Symlink(target()),
        EntryType::Link => NodeKind::Link(split(&target())),
        EntryType::Char => special(CHARACTERS)?,
        EntryType::Block => special(BLOCKS)?,
        EntryType::Fifo => special(FIFO)?,
        _ => return Ok(None),
    };
    let mtime = extensions.mtime.unwrap_or(Timestamp {
        seconds: header.mtime()?.cast_signed(),
        nanoseconds: 0,
    });
    Ok(Some(Node {
        path,
        kind,
        mode: (header.mode()? & 0o7777) as u16,
        uid: extensions.uid.unwrap_or(narrow(header.uid()?)?),
        gid: extensions.gid.unwrap_or(narrow(header.gid()?)?),
        atime: extensions.atime.unwrap_or(mtime),
        mtime,
        ctime: mtime,
        xattrs: extensions.xattrs,
    }))
}

fn narrow(id: u64) -> std::io::Result<u32> {
    u32::try_from(id).map_err(|_| std::io::Error::other(format!("owner {id} does not fit")))
}

/// What pax headers add.
#[derive(Default)]
struct Extensions {
    mtime: Option<Timestamp>,
    atime: Option<Timestamp>,
    uid: Option<u32>,
    gid: Option<u32>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Extensions {
    fn read<R: Read>(entry: &mut Entry<'_, R>, xattrs: bool) -> std::io::Result<Self> {
        let mut this = Self::default();
        let Some(extensions) = entry.pax_extensions()? else {
            return Ok(this);
        };
        for extension in extensions {
            let extension = extension?;
            let key = String::from_utf8_lossy(extension.key_bytes()).into_owned();
            let value = extension.value_bytes();
            let text = || std::str::from_utf8(value).ok();
            match key.as_str() {
                "mtime" => this.mtime = text().and_then(time),
                "atime" => this.atime = text().and_then(time),
                "uid" => this.uid = text().and_then(|text| text.parse().ok()),
                "gid" => this.gid = text().and_then(|text| text.parse().ok()),
                key if key.starts_with("GNU.sparse.") => {
                    return Err(std::io::Error::other(
                        "sparse files in pax format are not read: make the archive with --format=gnu",
                    ));
                }
                key => {
                    if let Some(name) = key.strip_prefix(XATTR)
                        && xattrs
                    {
                        this.xattrs.push((name.as_bytes().to_vec(), value.to_vec()));
                    }
                }
            }
        }
        this.xattrs.sort();
        Ok(this)
    }
}

/// Decimal seconds with a fraction.
fn time(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    let before_1970 = whole.starts_with('-') && nanoseconds > 0;
    Some(if before_1970 {
        Timestamp {
            seconds: seconds - 1,
            nanoseconds: 1_000_000_000 - nanoseconds,
        }
    } else {
        Timestamp {
            seconds,
            nanoseconds,
        }
    })
}

fn data<R: Read>(entry: &mut Entry<'_, R>, send: &dyn Fn(Event) -> bool) -> std::io::Result<bool> {
    let sparse = entry.header().entry_type() == EntryType::GNUSparse;
    let mut offset = 0;
    loop {
        let mut bytes = Vec::with_capacity(CHUNK.min(entry.size().saturating_sub(offset) as usize));
        let read = entry.take(CHUNK as u64).read_to_end(&mut bytes)?;
        if read == 0 {
            return Ok(true);
        }
        let sent = if sparse {
            send_without_holes(offset, &bytes, send)
        } else {
            send(Event::Data { offset, bytes })
        };
        if !sent {
            return Ok(false);
        }
        offset += read as u64;
    }
}

fn send_without_holes(offset: u64, bytes: &[u8], send: &dyn Fn(Event) -> bool) -> bool {
    bytes
        .chunks(HOLE)
        .enumerate()
        .filter(|(_, block)| block.iter().any(|&byte| byte != 0))
        .all(|(index, block)| {
            send(Event::Data {
                offset: offset + (index * HOLE) as u64,
                bytes: block.to_vec(),
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_before_1970_count_forwards() {
        let parts = |text| time(text).map(|time| (time.seconds, time.nanoseconds));
        assert_eq!(parts("1.5"), Some((1, 500_000_000)));
        assert_eq!(parts("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(parts("7"), Some((7, 0)));
        assert_eq!(parts("x"), None);
    }
}

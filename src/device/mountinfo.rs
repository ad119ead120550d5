//! The mounts that this process sees, from `/proc/self/mountinfo`: a text file, no mount is touched.
//!
//! Source: proc_pid_mountinfo(5).
//! Invariants: lines that do not parse are skipped; paths are unescaped.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub id: u64,
    /// The device number that files of the mount carry.
    pub device: u64,
    pub point: PathBuf,
    /// Options of the mount itself: `rw`, `nosuid`, ...
    pub options: String,
    pub fs_type: String,
    pub source: OsString,
}

impl Mount {
    pub fn major_minor(&self) -> (u32, u32) {
        (
            rustix::fs::major(self.device),
            rustix::fs::minor(self.device),
        )
    }
}

/// All mounts, in the order of mounting.
pub fn read() -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The topmost mount on `point`, which is absolute and without symbolic links.
pub fn at(point: &Path) -> io::Result<Option<Mount>> {
    Ok(read()?.into_iter().rev().find(|m| m.point == point))
}

fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|&b| b == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&b| b == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let _parent = fields.next()?;
    let (major, minor) = std::str::from_utf8(fields.next()?).ok()?.split_once(':')?;
    let device = rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?);
    let _root = fields.next()?;
    let point = PathBuf::from(unescape(fields.next()?));
    let options = String::from_utf8_lossy(fields.next()?).into_owned();
    fields.by_ref().find(|field| *field == b"-")?;
    let fs_type = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = unescape(fields.next()?);
    Some(Mount {
        id,
        device,
        point,
        options,
        fs_type,
        source,
    })
}

/// `\040` and the like are bytes that would break the format.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if first == b'\\' => {
                bytes.push(byte);
                rest = &after[3..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_manual_page_parse() {
        let text = b"36 35 98:0 /mnt1 /mnt\\040two rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n\
            broken line\n\
            91 28 0:52 / /mnt/x rw,relatime - fuse.uext4 /tmp/a\\134b rw,user_id=0\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].point, Path::new("/mnt two"));
        assert_eq!(mounts[0].major_minor(), (98, 0));
        assert_eq!(mounts[1].source, "/tmp/a\\b");
        assert_eq!(
            (mounts[1].id, mounts[1].fs_type.as_str()),
            (91, "fuse.uext4")
        );
    }

    #[test]
    fn the_root_is_mounted() {
        assert!(at(Path::new("/")).unwrap().is_some());
    }
}

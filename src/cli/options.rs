//! The words behind `-o`: mount(8)'s generic ones, ext4's, FUSE's and our own. Unknown ones are refused by name.
//!
//! Source: mount(8), "FILESYSTEM-INDEPENDENT MOUNT OPTIONS"; ext4(5); mount.fuse3(8).
//! Invariants: later words win over earlier ones, as in mount(8).

use super::failure::{Failure, Outcome};
use crate::evict;
use crate::text::size;
use rustix::mount::MountFlags;
use std::ffi::OsString;
use std::time::Duration;

/// What to do about a corrupt image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    Continue,
    RemountRo,
    Panic,
}

/// All options of a mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// `ro`, `nosuid`, `noatime`, ... as mount(2) takes them.
    pub flags: Flags,
    pub remount: bool,
    pub allow_other: bool,
    pub no_load: bool,
    pub no_acl: bool,
    pub no_user_xattr: bool,
    pub discard: bool,
    pub on_error: Option<OnError>,
    pub commit: Option<Duration>,
    /// How old delayed data may grow.
    pub delay: Option<Duration>,
    pub writethrough: bool,
    /// Where the file system begins in the source, in bytes.
    pub offset: u64,
    /// Bytes.
    pub memory: Option<u64>,
    pub threads: Option<usize>,
    /// How inodes leave memory.
    pub evict: evict::Settings,
    pub fs_name: Option<OsString>,
    /// Faults of the device, on purpose.
    #[cfg(feature = "faults")]
    pub faults: Box<crate::device::fault::Faults>,
}

/// Generic options: flags of mount(2), and the words that chose them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flags {
    set: MountFlags,
    words: Vec<&'static str>,
}

impl Default for Flags {
    fn default() -> Self {
        Self {
            set: MountFlags::empty(),
            words: Vec::new(),
        }
    }
}

/// A generic option, what it sets and what it clears.
type Generic = (&'static str, MountFlags, MountFlags);

const NONE: MountFlags = MountFlags::empty();
const ATIME: MountFlags = MountFlags::NOATIME
    .union(MountFlags::RELATIME)
    .union(MountFlags::STRICTATIME);
/// MS_LAZYTIME.
const LAZYTIME: MountFlags = MountFlags::from_bits_retain(1 << 25);

const GENERIC: [Generic; 20] = [
    ("ro", MountFlags::RDONLY, NONE),
    ("rw", NONE, MountFlags::RDONLY),
    ("suid", NONE, MountFlags::NOSUID),
    ("nosuid", MountFlags::NOSUID, NONE),
    ("dev", NONE, MountFlags::NODEV),
    ("nodev", MountFlags::NODEV, NONE),
    ("exec", NONE, MountFlags::NOEXEC),
    ("noexec", MountFlags::NOEXEC, NONE),
    ("sync", MountFlags::SYNCHRONOUS, NONE),
    ("async", NONE, MountFlags::SYNCHRONOUS),
    ("dirsync", MountFlags::DIRSYNC, NONE),
    ("atime", NONE, MountFlags::NOATIME),
    ("noatime", MountFlags::NOATIME, ATIME),
    ("diratime", NONE, MountFlags::NODIRATIME),
    ("nodiratime", MountFlags::NODIRATIME, NONE),
    ("relatime", MountFlags::RELATIME, ATIME),
    ("norelatime", NONE, MountFlags::RELATIME),
    ("strictatime", MountFlags::STRICTATIME, ATIME),
    ("lazytime", LAZYTIME, NONE),
    ("nolazytime", NONE, LAZYTIME),
];

/// Words that fusermount3 takes from a user.
const FOR_USERS: [&str; 7] = [
    "ro", "nosuid", "nodev", "noexec", "sync", "dirsync", "noatime",
];

/// Words for mount(8) itself that reach a helper by way of fstab.
const FOR_MOUNT: [&str; 9] = [
    "defaults", "auto", "noauto", "user", "nouser", "users", "owner", "nofail", "_netdev",
];

/// What mountinfo shows of a FUSE mount: mount(8) repeats it when it remounts one.
const FROM_KERNEL: [&str; 5] = ["user_id", "group_id", "rootmode", "max_read", "blksize"];

impl Flags {
    pub fn set(&self) -> MountFlags {
        self.set
    }

    pub fn has(&self, flag: MountFlags) -> bool {
        self.set.contains(flag)
    }

    /// Returns whether the word is known.
    pub fn add(&mut self, word: &str) -> bool {
        let Some(&(word, set, clear)) = GENERIC.iter().find(|(known, ..)| *known == word) else {
            return false;
        };
        self.set = self.set.difference(clear).union(set);
        self.words.retain(|&known| known != word);
        self.words.push(word);
        true
    }

    /// What `mount -o remount` is told.
    pub fn words(&self) -> &[&'static str] {
        &self.words
    }

    /// What fusermount3 is told: those in force that it knows.
    pub fn user_words(&self) -> Vec<&'static str> {
        let in_force = GENERIC
            .iter()
            .filter(|(_, set, _)| *set != NONE && self.has(*set));
        in_force
            .map(|(word, ..)| *word)
            .filter(|word| FOR_USERS.contains(word))
            .collect()
    }
}

impl MountOptions {
    pub fn read_only(&self) -> bool {
        self.flags.has(MountFlags::RDONLY)
    }

    /// Adds a comma-separated list. A backslash takes a comma's meaning away. `sloppy`: unknown words are ignored.
    pub fn add(&mut self, list: &str, sloppy: bool) -> Outcome {
        for word in split(list) {
            if !self.add_word(&word)? && !sloppy {
                let name = word.split('=').next().unwrap_or_default();
                return Err(Failure::usage(format!("unknown mount option {name:?}")));
            }
        }
        Ok(())
    }

    /// Returns whether the word is known.
    fn add_word(&mut self, word: &str) -> Outcome<bool> {
        if let Some((name, value)) = word.split_once('=') {
            return self.add_value(name, value);
        }
        match word {
            "remount" => self.remount = true,
            "writethrough" => self.writethrough = true,
            "allow_other" => self.allow_other = true,
            "acl" => self.no_acl = false,
            "noacl" => self.no_acl = true,
            "user_xattr" => self.no_user_xattr = false,
            "nouser_xattr" => self.no_user_xattr = true,
            "discard" => self.discard = true,
            "nodiscard" => self.discard = false,
            "noload" | "norecovery" => self.no_load = true,
            // Always in force.
            "" | "default_permissions" => {}
            word if FOR_MOUNT.contains(&word) || is_comment(word) => {}
            word => return Ok(self.flags.add(word)),
        }
        Ok(true)
    }

    fn add_value(&mut self, name: &str, value: &str) -> Outcome<bool> {
        match name {
            "errors" => self.on_error = Some(on_error(value)?),
            "commit" => {
                // As in ext4, 0 is the default.
                let seconds: u32 = number(name, value)?;
                self.commit = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
            }
            "delay" => self.delay = Some(Duration::from_secs(number::<u32>(name, value)?.into())),
            "offset" => self.offset = size::in_bytes(value).ok_or_else(|| invalid(name, value))?,
            "memory" => {
                self.memory = Some(size::in_bytes(value).ok_or_else(|| invalid(name, value))?)
            }
            "threads" => self.threads = Some(threads(value)?),
            "evict" => self.evict.policy = policy(value)?,
            "evict-from" => self.evict.from = evict_from(value)?,
            "reclaim-warn" => self.evict.warn = reclaim_warn(value)?,
            "evict-reserve" => self.evict.reserve = number(name, value)?,
            "fsname" => self.fs_name = Some(value.into()),
            #[cfg(feature = "faults")]
            "fault" => self.faults.add(value).map_err(Failure::usage)?,
            "subtype" | "comment" | "user" => {}
            name if FROM_KERNEL.contains(&name) => {}
            name if is_comment(name) => {}
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn is_comment(word: &str) -> bool {
    word.starts_with("x-") || word.starts_with("X-")
}

fn split(list: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut characters = list.chars();
    while let Some(c) = characters.next() {
        match c {
            ',' => words.push(std::mem::take(&mut word)),
            '\\' => word.extend(characters.next()),
            c => word.push(c),
        }
    }
    words.push(word);
    words
}

fn on_error(value: &str) -> Outcome<OnError> {
    match value {
        "continue" => Ok(OnError::Continue),
        "remount-ro" => Ok(OnError::RemountRo),
        "panic" => Ok(OnError::Panic),
        _ => Err(invalid("errors", value)),
    }
}

/// A way to evict.
pub fn policy(value: &str) -> Outcome<evict::PolicyName> {
    evict::PolicyName::parse(value).ok_or_else(|| invalid("evict", value))
}

/// Who evicts.
pub fn evict_from(value: &str) -> Outcome<evict::From> {
    evict::From::parse(value).ok_or_else(|| invalid("evict-from", value))
}

/// What is done when reclaim allocates.
pub fn reclaim_warn(value: &str) -> Outcome<evict::Warn> {
    evict::Warn::parse(value).ok_or_else(|| invalid("reclaim-warn", value))
}

/// A number of worker threads.
pub fn threads(value: &str) -> Outcome<usize> {
    let threads = number("threads", value)?;
    if (1..=256).contains(&threads) {
        Ok(threads)
    } else {
        Err(invalid("threads", value))
    }
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Outcome<T> {
    value.parse().map_err(|_| invalid(name, value))
}

fn invalid(name: &str, value: &str) -> Failure {
    Failure::usage(format!("{name}={value}: not a valid value"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(list: &str) -> Outcome<MountOptions> {
        let mut options = MountOptions::default();
        options.add(list, false).map(|()| options)
    }

    #[test]
    fn every_listed_option_is_known() {
        parse(
            "ro,rw,suid,nosuid,dev,nodev,exec,noexec,sync,dirsync,atime,noatime,diratime,nodiratime,\
             relatime,strictatime,lazytime,acl,noacl,user_xattr,nouser_xattr,norecovery,noload,\
             errors=continue,errors=remount-ro,errors=panic,allow_other,default_permissions,\
             fsname=/a\\,b,subtype=uext4,commit=10,offset=1M,threads=3,memory=64M,evict=skip,evict-from=direct,\
             reclaim-warn=log,evict-reserve=3,remount,\
             defaults,nofail,x-systemd.automount,user_id=0,group_id=0,max_read=131072",
        )
        .unwrap();
    }

    #[test]
    fn unknown_options_are_refused_by_name() {
        let refusal = |list| parse(list).unwrap_err();
        assert_eq!(
            refusal("rw,journal_async=1").message,
            "unknown mount option \"journal_async\""
        );
        assert_eq!(refusal("nodelalloc").code, Failure::USAGE);
        assert!(refusal("errors=ignore").message.contains("errors=ignore"));
        assert!(refusal("evict=never").message.contains("evict=never"));
        assert!(refusal("threads=0").message.contains("threads=0"));
        assert!(refusal("commit=abc").message.contains("commit=abc"));
        assert!(refusal("ro=1").message.contains("\"ro\""));
        let mut options = MountOptions::default();
        options.add("whatever,ro", true).unwrap();
        assert!(options.read_only());
    }

    #[test]
    fn later_words_win() {
        let options = parse("ro,rw,noatime,relatime,noexec,acl,noacl").unwrap();
        assert_eq!(
            options.flags.set(),
            MountFlags::RELATIME | MountFlags::NOEXEC
        );
        assert!(options.no_acl);
        assert_eq!(options.flags.user_words(), ["noexec"]);
        assert_eq!(parse("fsname=/a\\,b").unwrap().fs_name.unwrap(), "/a,b");
        assert_eq!(parse("commit=0").unwrap().commit, None);
    }

    /// A release knows no such word.
    #[test]
    fn faults_are_there_with_their_feature_alone() {
        let parsed = parse("fault=eio-sync=3,fault=read-delay=5ms");
        assert_eq!(parsed.is_ok(), cfg!(feature = "faults"));
        assert!(parse("fault=smoke").is_err());
    }
}

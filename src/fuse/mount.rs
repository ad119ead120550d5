//! Getting a FUSE session from the kernel: mount(2) as root, else by way of fusermount3; and giving it up again.
//!
//! Source: the kernel's FUSE documentation (mount options); fusermount3(1) and its `_FUSE_COMMFD` protocol: the
//! session's descriptor arrives over a socket. Its `auto_unmount` works only with `allow_other`, since it looks into
//! the mount as root first; so a watcher of our own calls `fusermount3 -u` when the daemon was killed.
//! Invariants: the mount point is absolute and without symbolic links; it is never stat'ed once mounted.

use crate::device::mountinfo::{self, Mount};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::ffi::{CString, OsStr, OsString};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const DEVICE: &str = "/dev/fuse";
const FUSERMOUNT: &str = "fusermount3";
const FS_TYPE: &str = "fuse.uext4";

/// What the kernel is told about a mount.
#[derive(Clone, Debug)]
pub struct MountSettings {
    /// What df shows.
    pub source: OsString,
    /// The generic options, as flags and by name.
    pub flags: MountFlags,
    pub words: Vec<&'static str>,
    /// Whether other users may enter; the permissions decide then.
    pub allow_other: bool,
    /// Bytes of the largest READ.
    pub max_read: u32,
}

/// Why there is no mount; `Display` is one line for the user.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("cannot open {DEVICE}: {0}")]
    Device(io::Error),
    #[error("cannot mount on {}: {source}", point.display())]
    Refused { point: PathBuf, source: io::Error },
    #[error("cannot run {FUSERMOUNT}, which mounts for users: {0}")]
    NoHelper(io::Error),
    #[error("{0}")]
    Helper(String),
}

/// A mount that exists, or did.
pub struct Mounted {
    point: PathBuf,
    mount: Option<Mount>,
    /// Stands by to unmount, for users.
    _watcher: Option<Watcher>,
}

/// Mounts on `point`; the session's descriptor comes back with the mount.
///
/// # Errors
/// Nothing is mounted then.
pub fn mount(point: &Path, settings: &MountSettings) -> Result<(OwnedFd, Mounted), MountError> {
    if rustix::process::geteuid().is_root() {
        match mount_by_kernel(point, settings) {
            Err(MountError::Refused { source, .. }) if is_denied(&source) => {}
            other => return other,
        }
    }
    mount_by_helper(point, settings)
}

impl Mounted {
    fn new(point: &Path, watcher: Option<Watcher>) -> Self {
        let mount = mountinfo::at(point).ok().flatten();
        Self {
            point: point.to_owned(),
            mount,
            _watcher: watcher,
        }
    }

    pub fn point(&self) -> &Path {
        &self.point
    }

    /// The number that files of the mount carry as their device.
    pub fn major_minor(&self) -> Option<(u32, u32)> {
        self.mount.as_ref().map(Mount::major_minor)
    }

    /// Whether it can still be found where it was made.
    pub fn is_in_place(&self) -> bool {
        let found = mountinfo::at(&self.point).ok().flatten();
        found.is_some() && found.map(|m| m.id) == self.mount.as_ref().map(|m| m.id)
    }

    /// Takes the mount out of the tree; `lazy`: although it is in use.
    pub fn unmount(&self, lazy: bool) -> io::Result<()> {
        if !self.is_in_place() {
            return Ok(());
        }
        let flags = if lazy {
            UnmountFlags::DETACH
        } else {
            UnmountFlags::empty()
        };
        match rustix::mount::unmount(&self.point, flags | UnmountFlags::NOFOLLOW) {
            Err(Errno::PERM) => unmount_by_helper(&self.point, lazy),
            other => Ok(other?),
        }
    }
}

/// A process that unmounts when this one ends without having stopped it.
struct Watcher {
    child: Child,
    /// Its standard input: open as long as this process lives.
    _alive: UnixStream,
}

impl Watcher {
    fn start(point: &Path) -> io::Result<Self> {
        const WAIT_THEN_UNMOUNT: &str = "read -r _; exec fusermount3 -uzq -- \"$0\"";
        let (ours, theirs) = UnixStream::pair()?;
        let child = Command::new("/bin/sh")
            .arg("-c")
            .arg(WAIT_THEN_UNMOUNT)
            .arg(point)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .process_group(0)
            .spawn()?;
        Ok(Self {
            child,
            _alive: ours,
        })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // The mount is gone; another one may have taken its place.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `fusermount3 -u`, for users.
pub fn unmount_by_helper(point: &Path, lazy: bool) -> io::Result<()> {
    let mut command = Command::new(FUSERMOUNT);
    command
        .arg(if lazy { "-uz" } else { "-u" })
        .arg("--")
        .arg(point)
        .stdin(Stdio::null());
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let message = last_line(&output.stderr);
    if message.to_ascii_lowercase().contains("busy") {
        return Err(Errno::BUSY.into());
    }
    Err(io::Error::other(message))
}

fn mount_by_kernel(
    point: &Path,
    settings: &MountSettings,
) -> Result<(OwnedFd, Mounted), MountError> {
    let device = std::fs::File::options().read(true).write(true).open(DEVICE);
    let fd = OwnedFd::from(device.map_err(MountError::Device)?);
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions,max_read={}",
        fd.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
        settings.max_read
    );
    if settings.allow_other {
        data.push_str(",allow_other");
    }
    let refused = |source| MountError::Refused {
        point: point.to_owned(),
        source,
    };
    let data = CString::new(data).map_err(|e| refused(e.into()))?;
    rustix::mount::mount(
        &settings.source,
        point,
        FS_TYPE,
        settings.flags,
        Some(data.as_c_str()),
    )
    .map_err(|e| refused(e.into()))?;
    Ok((fd, Mounted::new(point, None)))
}

fn mount_by_helper(
    point: &Path,
    settings: &MountSettings,
) -> Result<(OwnedFd, Mounted), MountError> {
    let (ours, theirs) = UnixStream::pair().map_err(MountError::NoHelper)?;
    let mut child = Command::new(FUSERMOUNT)
        .arg("-o")
        .arg(helper_options(settings))
        .arg("--")
        .arg(point)
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(MountError::NoHelper)?;
    match receive(&ours) {
        Ok(fd) => {
            drop((ours, child.stderr.take()));
            let _ = child.wait();
            let watcher = Watcher::start(point)
                .inspect_err(|e| log::warn!("a killed daemon will leave a dead mount: {e}"));
            Ok((fd, Mounted::new(point, watcher.ok())))
        }
        Err(error) => {
            drop(ours);
            let said = child
                .wait_with_output()
                .map(|o| last_line(&o.stderr))
                .unwrap_or_default();
            let message = if said.is_empty() {
                format!("{FUSERMOUNT}: {error}")
            } else {
                said
            };
            Err(MountError::Helper(message))
        }
    }
}

fn helper_options(settings: &MountSettings) -> OsString {
    let mut options = OsString::from("default_permissions,subtype=uext4");
    options.push(format!(",max_read={}", settings.max_read));
    if settings.allow_other {
        options.push(",allow_other");
    }
    for word in &settings.words {
        options.push(",");
        options.push(word);
    }
    // Last: the source may end in anything.
    options.push(",fsname=");
    options.push(escaped(&settings.source));
    options
}

/// fusermount3 splits at commas, unless a backslash stands before.
fn escaped(source: &OsStr) -> OsString {
    let mut bytes = Vec::new();
    for &byte in source.as_bytes() {
        if matches!(byte, b',' | b'\\') {
            bytes.push(b'\\');
        }
        bytes.push(byte);
    }
    OsStr::from_bytes(&bytes).to_owned()
}

fn receive(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0u8; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    rustix::io::retry_on_intr(|| {
        recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut byte)],
            &mut control,
            flags,
        )
    })?;
    let fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fds.last()
        .ok_or_else(|| io::Error::other("no descriptor received"))
}

fn is_denied(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EPERM)
}

fn last_line(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .trim()
        .lines()
        .last()
        .unwrap_or_default()
        .to_owned()
}

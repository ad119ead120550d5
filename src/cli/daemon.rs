//! The daemon: opens the device, mounts the file system and the kernel's side of it, serves until the unmount.
//!
//! Source: the design's sections on FUSE facts and devices; daemon(7).
//! Invariants: nothing is written to the image before the mount point and /dev/fuse have been looked at; the device
//! is closed before those who wait for the unmount are told.

use super::args::MountRequest;
use super::failure::{Failure, Outcome};
use super::launch::mount_point;
use super::logging;
use super::options::{MountOptions, OnError};
use super::panics;
use super::report::Report;
use super::sizes::{self, Sizes};
use crate::control::{self, Served, Server, signals};
use crate::device::Device;
use crate::device::file::{Access, FileDevice};
use crate::fs::{self, Fs};
use crate::fuse::mount::{self, MountSettings, Mounted};
use crate::fuse::session::{self, Settings};
use crate::memory::process;
use crate::memory::sizes::{Overhead, floor};
use rustix::mount::MountFlags;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

/// What the kernel may read ahead on a mount of root's, in KiB.
const READ_AHEAD: &str = "4096";

/// Mounts and serves. Returns after the unmount.
///
/// # Errors
/// Before the mount is in place: nothing is mounted. After it: not everything could be written.
pub(super) fn run(request: &MountRequest, report: Report) -> Outcome {
    prepare_process(report)?;
    let point = mount_point(&request.directory)?;
    if is_not_empty(&point) {
        report.notice(&format!("warning: {} is not empty", point.display()));
    }
    check_fuse()?;
    let device = open(request, report)?;
    let source = device.path().to_owned();
    let sizes = choose_sizes(request, &device)?;
    if report == Report::Parent {
        detach()?;
    }
    let fs = mount_fs(request, device, sizes, report)?;
    let settings = mount_settings(request, &source, &fs, sizes);
    let (fd, mounted) = match mount::mount(&point, &settings) {
        Ok(made) => made,
        Err(error) => {
            // The image was fine; it is left as clean as it can be.
            let _ = fs.unmount();
            return Err(Failure::mount(error));
        }
    };
    let mounted = Arc::new(mounted);
    let server = start_services(&fs, &mounted, &source)?;
    announce(&mounted, report)?;
    let settings = Settings {
        threads: sizes.threads,
        clone_fd: true,
        max_write: sizes.max_write,
    };
    let served = session::serve(Arc::clone(&fs), fd, settings);
    finish(
        fs,
        server,
        served.map_err(|e| format!("the FUSE session ended: {e}")),
    )
}

fn prepare_process(report: Report) -> Outcome {
    process::limit_malloc();
    if rustix::process::geteuid().is_root() {
        process::set_io_flusher();
    }
    match report {
        Report::Terminal => logging::to_stderr(),
        Report::Parent => {
            logging::to_syslog();
            rustix::process::setsid().map_err(Failure::system)?;
        }
    }
    panics::end_the_daemon();
    Ok(())
}

/// Paths have been made absolute: the caller's directory is let go of.
fn detach() -> Outcome {
    rustix::process::chdir("/").map_err(Failure::system)
}

fn is_not_empty(point: &Path) -> bool {
    std::fs::read_dir(point).is_ok_and(|mut entries| entries.next().is_some())
}

/// Whether we, or fusermount3 in our name, can open the device; later would be after the journal's replay.
fn check_fuse() -> Outcome {
    let opened = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse");
    opened
        .map(drop)
        .map_err(|e| Failure::mount(format!("cannot open /dev/fuse: {e}")))
}

fn open(request: &MountRequest, report: Report) -> Outcome<FileDevice> {
    let access = Access {
        read_only: request.options.read_only(),
        offset: request.options.offset,
        ..Access::default()
    };
    let device = FileDevice::open(&request.source, &access).map_err(Failure::mount)?;
    let source = request.source.display();
    if device.read_only() && !access.read_only {
        report.notice(&format!("{source} is write-protected, mounted read-only"));
    }
    if !device.direct() {
        report.notice(&format!(
            "{source}: no O_DIRECT here, so the page cache is used outside the memory cap"
        ));
    }
    Ok(device)
}

fn choose_sizes(request: &MountRequest, device: &FileDevice) -> Outcome<Sizes> {
    // s_log_block_size; whether it makes sense is the superblock's business.
    let mut bytes = [0u8; 4];
    let log = device
        .read_at(1024 + 24, &mut bytes)
        .map_or(2, |()| u32::from_le_bytes(bytes));
    let block_size = if log <= 6 { 1024 << log } else { 4096 };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    sizes::choose(&request.options, block_size, sizes::ram(), cores)
}

fn mount_fs(
    request: &MountRequest,
    device: FileDevice,
    sizes: Sizes,
    report: Report,
) -> Outcome<Arc<Fs>> {
    let options = &request.options;
    let defaults = fs::Options::default();
    let read_only = device.read_only();
    let fs_options = fs::Options {
        read_only,
        no_load: options.no_load,
        errors: options.on_error.map(|policy| match policy {
            OnError::Continue => fs::ErrorPolicy::Continue,
            OnError::RemountRo => fs::ErrorPolicy::RemountRo,
            OnError::Panic => fs::ErrorPolicy::Panic,
        }),
        commit_interval: options.commit.unwrap_or(defaults.commit_interval),
        delay: options.delay.unwrap_or(defaults.delay),
        writethrough: options.writethrough,
        sync: options.flags.has(MountFlags::SYNCHRONOUS),
        dirsync: options.flags.has(MountFlags::DIRSYNC),
        acl: !options.no_acl,
        user_xattr: !options.no_user_xattr,
        memory: sizes.memory,
        threads: sizes.threads,
        max_write: sizes.max_write,
        atime: !options.flags.has(MountFlags::NOATIME),
        discard: options.discard,
        evict: options.evict,
    };
    let device = with_faults(options, device, report);
    let fs = Fs::mount(device, fs_options)
        .map_err(|e| Failure::mount(format!("{}: {e}", request.source.display())))?;
    let overhead = Overhead::of(sizes.threads, sizes.max_write);
    let text = describe(sizes, u64::from(fs.geometry().block_size), overhead);
    report.notice(&text);
    for notice in fs.notices() {
        report.notice(&notice);
    }
    Ok(fs)
}

/// All that the process takes at most, in one line.
fn describe(sizes: Sizes, block_size: u64, overhead: Overhead) -> String {
    let kib = |bytes: u64| bytes.div_ceil(1024);
    let floor = floor(sizes.threads, block_size, sizes.max_write);
    format!(
        "memory: cap {} KiB (floor {} KiB), fixed overhead {} KiB outside of it (program {}, stacks of {} workers and others {}, \
         requests {})",
        kib(sizes.memory),
        kib(floor),
        kib(overhead.total()),
        kib(overhead.program),
        sizes.threads,
        kib(overhead.stacks),
        kib(overhead.requests),
    )
}

#[cfg(not(feature = "faults"))]
fn with_faults(_: &MountOptions, device: FileDevice, _: Report) -> Arc<dyn Device> {
    Arc::new(device)
}

/// A cut of the power ends this process, as if the machine had gone.
#[cfg(feature = "faults")]
fn with_faults(options: &MountOptions, device: FileDevice, report: Report) -> Arc<dyn Device> {
    use crate::device::fault::Faulty;
    use rustix::process::{Signal, getpid, kill_process};
    let device: Arc<dyn Device> = Arc::new(device);
    if options.faults.is_empty() {
        return device;
    }
    report.notice("faults of the device are simulated");
    if let Some(number) = options.faults.leak {
        crate::memory::leak::one_of(number);
    }
    let end = || {
        if kill_process(getpid(), Signal::KILL).is_err() {
            std::process::abort();
        }
    };
    Arc::new(Faulty::new(device, (*options.faults).clone(), end))
}

fn mount_settings(request: &MountRequest, source: &Path, fs: &Fs, sizes: Sizes) -> MountSettings {
    let options = &request.options;
    let mut flags = options.flags.clone();
    if fs.is_read_only() {
        flags.add("ro");
    }
    MountSettings {
        source: options
            .fs_name
            .clone()
            .unwrap_or_else(|| source.as_os_str().to_owned()),
        flags: flags.set(),
        words: flags.user_words(),
        allow_other: options.allow_other || rustix::process::geteuid().is_root(),
        max_read: sizes.max_write,
    }
}

/// The control channel, the signals and the core's own threads.
fn start_services(fs: &Arc<Fs>, mounted: &Arc<Mounted>, source: &Path) -> Outcome<Option<Server>> {
    let channel = Channel {
        fs: Arc::downgrade(fs),
        source: source.to_owned(),
        point: mounted.point().to_owned(),
    };
    let undo = |error: std::io::Error| {
        let _ = mounted.unmount(true);
        let _ = fs.unmount();
        Failure::system(error)
    };
    fs.start_threads().map_err(undo)?;
    let (weak, shared) = (Arc::downgrade(fs), Arc::clone(mounted));
    signals::start(move |count| on_signal(count, &weak, &shared)).map_err(undo)?;
    let server = mounted
        .major_minor()
        .map(|device| Server::start(device, Arc::new(channel)));
    match server {
        Some(Ok(server)) => Ok(Some(server)),
        Some(Err(error)) => {
            log::warn!("no control channel: {error}");
            Ok(None)
        }
        None => Ok(None),
    }
}

/// Says `ready` once the mount answers, on a thread of its own: this one goes on to answer it.
fn announce(mounted: &Arc<Mounted>, report: Report) -> Outcome {
    let mounted = Arc::clone(mounted);
    let announce = move || {
        if let Err(error) = rustix::fs::statfs(mounted.point()) {
            log::warn!("the new mount does not answer: {error}");
        }
        if let Some((major, minor)) = mounted.major_minor() {
            let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
            // Only root may; without it reads are slower.
            let _ = std::fs::write(path, READ_AHEAD);
        }
        if let Err(error) = report.ready() {
            log::error!("cannot say that the mount is ready: {error}");
        }
    };
    let thread = std::thread::Builder::new()
        .name("announce".into())
        .spawn(announce);
    thread.map(drop).map_err(Failure::system)
}

/// The first signal unmounts, at the latest when the last user is gone; the second one ends the daemon.
fn on_signal(count: usize, fs: &Weak<Fs>, mounted: &Mounted) {
    let Some(fs) = fs.upgrade() else { return };
    if count == 0 {
        match mounted.unmount(false) {
            Ok(()) => return,
            Err(error) => log::warn!("cannot unmount {}: {error}", mounted.point().display()),
        }
        for holder in control::holders::of(mounted.point()) {
            log::warn!("{holder}");
        }
        if let Err(error) = mounted.unmount(true) {
            log::error!("cannot detach {}: {error}", mounted.point().display());
        }
    }
    if let Err(error) = fs.sync_all() {
        log::error!("{error}");
    }
    if count > 0 {
        log::warn!("second signal: ending");
        std::process::exit(0);
    }
    log::info!("detached; serving until the last user is gone");
}

/// After the unmount: writes everything, closes the device, then tells those who wait.
fn finish(fs: Arc<Fs>, server: Option<Server>, served: Result<(), String>) -> Outcome {
    let written = fs.unmount().map_err(|e| e.to_string());
    fs.close();
    let outcome = served.and(written);
    if let Err(error) = &outcome {
        log::error!("{error}");
    }
    if let Some(server) = &server {
        server.finish(outcome.clone());
    }
    outcome.map_err(Failure::mount)
}

/// What the control channel reaches.
struct Channel {
    fs: Weak<Fs>,
    source: PathBuf,
    point: PathBuf,
}

impl Served for Channel {
    fn sync(&self) -> Result<(), String> {
        match self.fs.upgrade() {
            Some(fs) => fs.sync_all().map_err(|e| e.to_string()),
            None => Ok(()),
        }
    }

    fn info(&self) -> serde_json::Value {
        let fs = self.fs.upgrade();
        serde_json::json!({
            "source": self.source.to_string_lossy(),
            "directory": self.point.to_string_lossy(),
            "pid": std::process::id(),
            "read_only": fs.as_ref().map(|fs| fs.is_read_only()),
            "notices": fs.as_ref().map(|fs| fs.notices()),
            "memory": fs.as_ref().map(|fs| fs.memory().snapshot()),
        })
    }

    fn stats(&self) -> serde_json::Value {
        let stats = self.fs.upgrade().map(|fs| fs.stats());
        serde_json::to_value(stats).unwrap_or_default()
    }

    fn evict(&self) -> serde_json::Value {
        self.fs.upgrade().map(|fs| fs.evict_all()).into()
    }

    fn log(&self) -> Vec<String> {
        logging::recent()
    }
}

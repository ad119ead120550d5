//! A mount by uext4, the kernel or fuse2fs, which ends with the test, also when that panics or the daemon hangs.

use super::{Image, LoopDevice, attempt, run};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Who serves a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Uext4,
    Kernel,
    Fuse2fs,
}

impl Kind {
    /// Who is on trial: uext4, unless `UEXT4_TEST_ON` names somebody else.
    pub fn on_trial() -> Self {
        match std::env::var("UEXT4_TEST_ON").as_deref() {
            Err(_) | Ok("") | Ok("uext4") => Self::Uext4,
            Ok("kernel") => Self::Kernel,
            Ok("fuse2fs") => Self::Fuse2fs,
            Ok(other) => panic!("UEXT4_TEST_ON={other}: uext4, kernel or fuse2fs"),
        }
    }
}

/// The daemon under test.
pub const UEXT4: &str = env!("CARGO_BIN_EXE_uext4");

/// How long a test may use one mount before the watchdog takes the daemon away.
const PATIENCE: Duration = Duration::from_secs(240);

pub struct Mount {
    kind: Kind,
    dir: PathBuf,
    log: PathBuf,
    daemon: Option<Child>,
    device: Option<LoopDevice>,
    // Dropping it tells the watchdog that all is well.
    watchdog: Option<Sender<()>>,
}

impl Mount {
    /// Mounts `source`, an image or a device, on `dir`; `options` as after `-o`.
    pub fn new(kind: Kind, source: &Path, dir: &Path, options: &str) -> Self {
        Self::patient(kind, source, dir, options, PATIENCE)
    }

    /// As `new`, for a test that needs longer.
    pub fn patient(kind: Kind, source: &Path, dir: &Path, options: &str, limit: Duration) -> Self {
        Self::start(kind, source, dir, options, limit, "info")
    }

    /// A mount by uext4 whose log names every request that the kernel sends.
    pub fn verbose(source: &Path, dir: &Path) -> Self {
        Self::start(Kind::Uext4, source, dir, "", PATIENCE, "info,fuser=debug")
    }

    fn start(
        kind: Kind,
        source: &Path,
        dir: &Path,
        options: &str,
        limit: Duration,
        log: &str,
    ) -> Self {
        std::fs::create_dir_all(dir).expect("mount point");
        let mut mount = Self {
            kind,
            dir: dir.canonicalize().expect("mount point"),
            log: dir.with_extension("log"),
            daemon: None,
            device: None,
            watchdog: None,
        };
        match kind {
            Kind::Kernel => mount.start_kernel(source, options),
            Kind::Uext4 => {
                let options = if options.is_empty() { "rw" } else { options };
                mount.start_daemon(
                    Command::new(UEXT4)
                        .env("RUST_LOG", log)
                        .arg("mount")
                        .arg("--foreground")
                        .args(["-o", options]),
                    source,
                );
            }
            Kind::Fuse2fs => {
                let options =
                    format!("allow_other,default_permissions,no_default_opts,fakeroot,{options}");
                let options = options
                    .trim_end_matches(',')
                    .replace(",no_default_opts", "");
                mount.start_daemon(Command::new("fuse2fs").args(["-f", "-o", &options]), source);
            }
        }
        mount.watchdog = mount
            .daemon
            .as_ref()
            .map(|daemon| watch(daemon.id(), mount.dir.clone(), limit));
        mount
    }

    fn start_kernel(&mut self, source: &Path, options: &str) {
        let regular = source.metadata().expect("source").is_file();
        let node = if regular {
            let device = LoopDevice::attach(source, &[]);
            let node = device.path().to_path_buf();
            self.device = Some(device);
            node
        } else {
            source.to_path_buf()
        };
        let options = if options.is_empty() { "rw" } else { options };
        run!("mount", "-i", "-t", "ext4", "-o", options, node, self.dir);
    }

    fn start_daemon(&mut self, command: &mut Command, source: &Path) {
        let log = File::create(&self.log).expect("log");
        command.arg(source).arg(&self.dir).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("log")).stderr(log);
        self.daemon = Some(
            command
                .spawn()
                .unwrap_or_else(|e| panic!("{:?}: {e}", command.get_program())),
        );
        let end = Instant::now() + Duration::from_secs(30);
        while !is_mounted(&self.dir) {
            let ended = self
                .daemon
                .as_mut()
                .and_then(|daemon| daemon.try_wait().expect("wait"));
            assert!(
                ended.is_none(),
                "the daemon ended ({ended:?}) without a mount: {}",
                self.log()
            );
            assert!(Instant::now() < end, "no mount after 30 s: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn path(&self) -> &Path {
        &self.dir
    }

    pub fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("a mount with a daemon").id()
    }

    /// Whether the daemon is gone (it is waited for later).
    pub fn has_ended(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()));
        stat.is_ok_and(|stat| {
            stat.rsplit(')')
                .next()
                .is_some_and(|rest| rest.starts_with(" Z"))
        })
    }

    /// What the daemon printed.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether mountinfo says read-only.
    pub fn is_read_only(&self) -> bool {
        let line = mountinfo(&self.dir).expect("a line in mountinfo");
        line.split(' ')
            .nth(5)
            .expect("options")
            .split(',')
            .any(|option| option == "ro")
    }

    /// Unmounts; the image is whole when this returns.
    pub fn unmount(mut self) {
        self.finish()
            .unwrap_or_else(|why| panic!("unmounting {}: {why}", self.dir.display()));
    }

    /// SIGKILL for the daemon, in the middle of whatever it does, and the dead mount away.
    pub fn kill(mut self) {
        self.kill_daemon();
        self.detach();
    }

    /// SIGKILL for the daemon alone: whoever works in the mount gets errors from now on, and cannot fall through to the
    /// directory below it.
    pub fn kill_daemon(&mut self) {
        let mut daemon = self.daemon.take().expect("a mount with a daemon");
        daemon.kill().expect("kill");
        daemon.wait().expect("wait");
    }

    /// Takes a dead mount away.
    pub fn detach(mut self) {
        assert!(self.daemon.is_none(), "its daemon lives");
        if is_mounted(&self.dir) {
            run!("umount", "-i", "-l", self.dir);
        }
        self.watchdog = None;
    }

    fn unmount_once(&self) -> super::command::Outcome {
        match self.kind {
            Kind::Uext4 => attempt!(UEXT4, "umount", self.dir),
            Kind::Kernel | Kind::Fuse2fs => attempt!("umount", "-i", self.dir),
        }
    }

    fn finish(&mut self) -> Result<(), String> {
        let mut outcome = self.unmount_once();
        // A child of another test holds our descriptors from its fork to its exec.
        for _ in 0..50 {
            if outcome.ok() || !outcome.stderr.contains("busy") {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
            outcome = self.unmount_once();
        }
        if !outcome.ok() {
            return Err(format!("{}\n--- log\n{}", outcome.describe(), self.log()));
        }
        if is_mounted(&self.dir) {
            return Err("still in mountinfo".to_string());
        }
        if let Some(mut daemon) = self.daemon.take() {
            // uext4's umount has waited already; fuse2fs writes on after umount(2).
            let status = wait(&mut daemon, Duration::from_secs(30));
            if status.is_none() {
                let _ = daemon.kill();
                let _ = daemon.wait();
            }
            let clean = status.is_some_and(|status| status.success());
            if !clean {
                return Err(format!(
                    "the daemon's end: {status:?}\n--- log\n{}",
                    self.log()
                ));
            }
        }
        self.device = None;
        self.watchdog = None;
        let log = self.log();
        if self.kind == Kind::Uext4 && log.contains("leaked at the unmount") {
            return Err(format!("memory is not all given back\n--- log\n{log}"));
        }
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.daemon.is_none() && !is_mounted(&self.dir) {
            return;
        }
        if let Err(why) = self.finish() {
            assert!(
                std::thread::panicking() || !why.contains("leaked at the unmount"),
                "{why}"
            );
            eprintln!("{}: {why}", self.dir.display());
        }
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        if is_mounted(&self.dir) {
            attempt!("umount", "-i", "-l", self.dir);
        }
    }
}

/// Mounts an image by the kernel for the length of `body`.
pub fn with_kernel<T>(
    image: &Image,
    dir: &Path,
    options: &str,
    body: impl FnOnce(&Path) -> T,
) -> T {
    let mount = Mount::new(Kind::Kernel, image.path(), dir, options);
    let result = body(mount.path());
    mount.unmount();
    result
}

/// After `limit` aborts the FUSE connection and kills the daemon: a system call stuck in the mount then fails.
fn watch(daemon: u32, dir: PathBuf, limit: Duration) -> Sender<()> {
    let (alive, gone) = channel();
    let connection = mountinfo(&dir).and_then(|line| {
        line.split(' ')
            .nth(2)?
            .split_once(':')?
            .1
            .parse::<u64>()
            .ok()
    });
    std::thread::spawn(move || {
        if gone.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            eprintln!(
                "{}: in use for {limit:?}, its daemon is killed",
                dir.display()
            );
            if let Some(id) = connection {
                let _ = std::fs::write(format!("/sys/fs/fuse/connections/{id}/abort"), "1");
            }
            let pid = i32::try_from(daemon)
                .ok()
                .and_then(rustix::process::Pid::from_raw);
            if let Some(pid) = pid {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    });
    alive
}

fn wait(child: &mut Child, limit: Duration) -> Option<std::process::ExitStatus> {
    let end = Instant::now() + limit;
    loop {
        match child.try_wait().expect("wait") {
            Some(status) => return Some(status),
            None if Instant::now() >= end => return None,
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// The line of mountinfo whose mount point is `dir`.
pub fn mountinfo(dir: &Path) -> Option<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let dir = dir.to_string_lossy().into_owned();
    table
        .lines()
        .rev()
        .find(|line| line.split(' ').nth(4) == Some(&dir))
        .map(str::to_string)
}

pub fn is_mounted(dir: &Path) -> bool {
    mountinfo(dir).is_some()
}

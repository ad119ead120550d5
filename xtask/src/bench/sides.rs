//! Who is measured, and how each is mounted: every daemon is a child of ours, every mount and loop device ends with its
//! owner, and a watchdog ends a daemon that answers no more.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Uext4,
    Kernel,
    Fuse2fs,
    Null,
    Raw,
    /// Null with the raw file beneath it.
    NullOnRaw,
}

pub const SIDES: [Side; 6] = [
    Side::Uext4,
    Side::Kernel,
    Side::Raw,
    Side::Fuse2fs,
    Side::Null,
    Side::NullOnRaw,
];

impl Side {
    pub fn name(self) -> &'static str {
        match self {
            Side::Uext4 => "uext4",
            Side::Kernel => "kernel",
            Side::Fuse2fs => "fuse2fs",
            Side::Null => "null",
            Side::Raw => "raw",
            Side::NullOnRaw => "null+raw",
        }
    }

    /// These are measured in every round; the others in the first alone.
    pub fn is_repeated(self) -> bool {
        matches!(self, Side::Uext4 | Side::Kernel | Side::Raw)
    }
}

/// Where the programs and the images are.
pub struct Place {
    /// The daemon.
    pub uext4: PathBuf,
    /// Scratch on a disk file system; removed at the end.
    pub scratch: PathBuf,
    /// Seconds that one measurement may take.
    pub patience: Duration,
}

impl Place {
    pub fn image(&self, side: Side) -> PathBuf {
        self.scratch.join(format!("{}.img", side.name()))
    }

    fn point(&self, side: Side) -> PathBuf {
        self.scratch.join(format!("{}.mnt", side.name()))
    }
}

/// A mounted side; ends when it is dropped.
pub struct Mounted<'p> {
    pub place: &'p Place,
    pub side: Side,
    image: PathBuf,
    pub dir: PathBuf,
    daemon: Option<Child>,
    device: Option<String>,
    watchdog: Option<Sender<()>>,
    /// From the command to the first answer of the mount, loop devices apart.
    pub took: Duration,
}

impl<'p> Mounted<'p> {
    pub fn new(place: &'p Place, side: Side) -> Result<Self, String> {
        Self::of(place, side, &place.image(side))
    }

    /// Mounts `image` on the side's directory.
    pub fn of(place: &'p Place, side: Side, image: &Path) -> Result<Self, String> {
        let dir = place.point(side);
        std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let mut mounted = Self {
            place,
            side,
            image: image.to_owned(),
            dir,
            daemon: None,
            device: None,
            watchdog: None,
            took: Duration::ZERO,
        };
        mounted.start()?;
        Ok(mounted)
    }

    fn start(&mut self) -> Result<(), String> {
        let begun = match self.side {
            Side::Kernel => self.start_kernel()?,
            Side::Raw => return Err("raw is not mounted".into()),
            _ => {
                let begun = Instant::now();
                let mut command = self.daemon_command();
                command.stdin(Stdio::null()).stdout(Stdio::null());
                // Its process group is its own: a Ctrl-C for us is not one for it.
                std::os::unix::process::CommandExt::process_group(&mut command, 0);
                let child = command.spawn().map_err(|e| format!("{command:?}: {e}"))?;
                self.daemon = Some(child);
                self.wait_until_mounted()?;
                begun
            }
        };
        rustix::fs::statfs(&self.dir).map_err(|e| format!("{}: {e}", self.dir.display()))?;
        self.took = begun.elapsed();
        self.watchdog = self
            .daemon
            .as_ref()
            .map(|d| watch(d.id(), self.place.patience));
        Ok(())
    }

    fn daemon_command(&self) -> Command {
        let (image, dir) = (&self.image, &self.dir);
        match self.side {
            Side::Uext4 => {
                let mut command = Command::new(&self.place.uext4);
                command.args(["mount", "--foreground"]).arg(image).arg(dir);
                command
            }
            Side::Fuse2fs => {
                let mut command = Command::new("fuse2fs");
                command.args(["-f", "-o", "rw,allow_other,default_permissions,fakeroot"]);
                command.arg(image).arg(dir).stderr(Stdio::null());
                command
            }
            _ => {
                let me = std::env::current_exe().unwrap_or_else(|_| "xtask".into());
                let mut command = Command::new(me);
                command.arg("null-server").arg(dir);
                if self.side == Side::NullOnRaw {
                    command.arg(self.place.image(Side::Raw));
                }
                command
            }
        }
    }

    fn start_kernel(&mut self) -> Result<Instant, String> {
        let image = self.image.to_string_lossy().into_owned();
        let node = output("losetup", &["--direct-io=on", "--find", "--show", &image])?;
        let node = node.trim().to_owned();
        self.device = Some(node.clone());
        let dir = self.dir.to_string_lossy().into_owned();
        let begun = Instant::now();
        output("mount", &["-i", "-t", "ext4", &node, &dir])?;
        Ok(begun)
    }

    fn wait_until_mounted(&mut self) -> Result<(), String> {
        let above = self.dir.parent().unwrap_or(Path::new("/"));
        let outside = above.metadata().map_err(|e| e.to_string())?.dev();
        let limit = Instant::now() + Duration::from_secs(30);
        while Instant::now() < limit {
            let ended = self
                .daemon
                .as_mut()
                .and_then(|d| d.try_wait().ok().flatten());
            if let Some(status) = ended {
                return Err(format!("{} did not mount: {status}", self.side.name()));
            }
            if self
                .dir
                .metadata()
                .is_ok_and(|found| found.dev() != outside)
            {
                return Ok(());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Err(format!("{} was not there after 30 s", self.side.name()))
    }

    /// Everything written is on the image, as far as this side can say so.
    pub fn sync(&self) -> Result<(), String> {
        match self.side {
            Side::Uext4 => {
                let uext4 = self.place.uext4.to_string_lossy().into_owned();
                output(&uext4, &["sync", &self.dir.to_string_lossy()]).map(drop)
            }
            Side::Null | Side::NullOnRaw => Ok(()),
            _ => output("sync", &["-f", &self.dir.to_string_lossy()]).map(drop),
        }
    }

    /// Nothing in memory any more: unmounted, caches dropped, mounted again. (null has nothing else to be read from, and
    /// stays.)
    pub fn cool(&mut self) -> Result<(), String> {
        if matches!(self.side, Side::Null | Side::NullOnRaw) {
            return drop_caches();
        }
        self.stop()?;
        drop_caches()?;
        self.start()
    }

    /// Unmounts and waits until the image has been let go of.
    pub fn end(mut self) -> Result<(), String> {
        self.stop()
    }

    fn stop(&mut self) -> Result<(), String> {
        let dir = self.dir.to_string_lossy().into_owned();
        let mut unmounted = output("umount", &[&dir]);
        for _ in 0..20 {
            if unmounted.is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
            unmounted = output("umount", &[&dir]);
        }
        let served = match &mut self.daemon {
            Some(daemon) if unmounted.is_ok() => daemon.wait().map_err(|e| e.to_string()),
            _ => Ok(std::process::ExitStatus::default()),
        };
        self.clean_up();
        unmounted?;
        let status = served?;
        if !status.success() && self.side == Side::Uext4 {
            return Err(format!("uext4 ended with {status}"));
        }
        Ok(())
    }

    /// Ends what is left; after `stop` that is nothing but the loop device.
    fn clean_up(&mut self) {
        self.watchdog = None;
        if let Some(mut daemon) = self.daemon.take()
            && daemon.try_wait().ok().flatten().is_none()
        {
            let _ = daemon.kill();
            let _ = daemon.wait();
            let _ = output("umount", &["-l", &self.dir.to_string_lossy()]);
        }
        if let Some(node) = self.device.take() {
            let _ = Command::new("umount")
                .arg(&node)
                .stderr(Stdio::null())
                .status();
            let _ = output("losetup", &["-d", &node]);
        }
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        if self.daemon.is_some() {
            let _ = output("umount", &[&self.dir.to_string_lossy()]);
        }
        self.clean_up();
    }
}

/// Ends the daemon when it is not told of the end in time: whoever waits for it then gets an error.
fn watch(daemon: u32, patience: Duration) -> Sender<()> {
    let (alive, ended) = channel::<()>();
    std::thread::spawn(move || {
        if ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout)
            && let Some(pid) = i32::try_from(daemon)
                .ok()
                .and_then(rustix::process::Pid::from_raw)
        {
            eprintln!("bench: process {daemon} took more than {patience:?} and is ended");
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    });
    alive
}

/// Runs a program and returns what it printed.
pub fn output(program: &str, arguments: &[&str]) -> Result<String, String> {
    let done = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("{program}: {e}"))?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(format!(
        "{program} {}: {}: {}",
        arguments.join(" "),
        done.status,
        said.trim()
    ))
}

pub fn drop_caches() -> Result<(), String> {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").map_err(|e| format!("drop_caches: {e}"))
}

/// A file of `bytes`, every block of it written, none of them zero, so that no layer below has anything left to allocate.
pub fn fill(path: &Path, bytes: u64) -> Result<(), String> {
    let fail = |e: std::io::Error| format!("{}: {e}", path.display());
    let file = File::create(path).map_err(fail)?;
    let mut chunk = vec![0u8; 1 << 20];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for at in (0..bytes).step_by(chunk.len()) {
        for word in chunk.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let count = usize::try_from(bytes - at)
            .unwrap_or(usize::MAX)
            .min(chunk.len());
        file.write_all_at(&chunk[..count], at).map_err(fail)?;
    }
    file.sync_all().map_err(fail)
}

/// Makes an ext4 file system on a filled file and writes every block of it again: mke2fs zeroes by way of holes.
pub fn make_image(path: &Path, bytes: u64) -> Result<(), String> {
    fill(path, bytes)?;
    let extended = "nodiscard,lazy_itable_init=0,lazy_journal_init=0,hash_seed=5ca1ab1e-0000-4000-8000-000000000001";
    let path_word = path.to_string_lossy().into_owned();
    let uuid = "5ca1ab1e-0000-4000-8000-000000000002";
    output(
        "mke2fs",
        &[
            "-q", "-F", "-t", "ext4", "-U", uuid, "-E", extended, &path_word,
        ],
    )?;
    let fail = |e: std::io::Error| format!("{}: {e}", path.display());
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(fail)?;
    let mut chunk = vec![0u8; 1 << 20];
    for at in (0..bytes).step_by(chunk.len()) {
        let count = usize::try_from(bytes - at)
            .unwrap_or(usize::MAX)
            .min(chunk.len());
        file.read_exact_at(&mut chunk[..count], at).map_err(fail)?;
        file.write_all_at(&chunk[..count], at).map_err(fail)?;
    }
    file.sync_all().map_err(fail)
}

/// e2fsck finds nothing to say about the image.
pub fn judge(image: &Path) -> Result<(), String> {
    output("e2fsck", &["-fn", &image.to_string_lossy()])
        .map(drop)
        .map_err(|e| format!("after the bench: {e}"))
}

/// On SIGINT and SIGTERM everything below `scratch` is unmounted and detached, `scratch` removed, and the process ends.
pub fn end_on_signals(scratch: &Path) -> Result<(), String> {
    let also = scratch.to_owned();
    end_on_signals_but_keep(scratch, move || {
        let _ = std::fs::remove_dir_all(&also);
    })
}

/// The same, but what is in `scratch` stays, apart from what `then` removes.
pub fn end_on_signals_but_keep(
    scratch: &Path,
    then: impl FnOnce() + Send + 'static,
) -> Result<(), String> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals =
        signal_hook::iterator::Signals::new([SIGINT, SIGTERM]).map_err(|e| e.to_string())?;
    let scratch = scratch.to_owned();
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            end_all(&scratch);
            then();
            std::process::exit(130);
        }
    });
    Ok(())
}

fn end_all(scratch: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    for point in points.filter(|point| Path::new(point).starts_with(scratch)) {
        let _ = output("umount", &["-l", point]);
    }
    for entry in std::fs::read_dir(scratch).into_iter().flatten().flatten() {
        let path = entry.path();
        let attached = output("losetup", &["-j", &path.to_string_lossy()]).unwrap_or_default();
        for node in attached.lines().filter_map(|line| line.split(':').next()) {
            let _ = output("losetup", &["-d", node]);
        }
    }
}

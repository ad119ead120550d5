//! A daemon of a release build, perhaps inside a memory cgroup, and what it may take.

use super::harness::mount::{UEXT4, is_mounted};
use super::harness::{Detached, Image, Scratch};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub const MIB: u64 = 1 << 20;
/// How long an unmount may take after the long forms.
const PATIENCE: Duration = Duration::from_secs(600);

/// What the daemon may take beside the cap, in bytes, with requests of 256 KiB.
pub fn overhead(threads: usize) -> u64 {
    uext4::memory::sizes::Overhead::of(threads, 256 << 10).total()
}

pub struct Daemon {
    child: Child,
    mount: Option<Detached>,
    dir: PathBuf,
    log: PathBuf,
    begun: Instant,
    /// Bytes that it may have resident.
    limit: u64,
    cgroup: Option<Cgroup>,
}

impl Daemon {
    /// Mounts `image` with that cap.
    pub fn start(
        image: &Image,
        scratch: &Scratch,
        cap: u64,
        threads: usize,
        options: &str,
        cgroup: Option<Cgroup>,
    ) -> Self {
        assert!(cap < 32 * MIB, "the overhead is that of small requests");
        let (dir, log) = (scratch.dir("mnt"), scratch.file("log"));
        // What becomes the daemon moves itself, so that nothing of it is counted elsewhere.
        let procs = match &cgroup {
            Some(cgroup) => cgroup.dir.join("cgroup.procs"),
            None => PathBuf::from("/dev/null"),
        };
        let file = std::fs::File::create(&log).expect("log");
        let child = Command::new("sh")
            .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
            .arg(&procs)
            .args([UEXT4, "mount", "--foreground", "--memory"])
            .arg(cap.to_string())
            .args(["--threads", &threads.to_string(), "-o", options])
            .arg(image.path())
            .arg(&dir)
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("log"))
            .stderr(file)
            .spawn()
            .expect("sh");
        let mut daemon = Self {
            child,
            mount: None,
            dir,
            log,
            begun: Instant::now(),
            limit: cap + overhead(threads),
            cgroup,
        };
        let end = Instant::now() + Duration::from_secs(30);
        while !is_mounted(&daemon.dir) {
            let ended = daemon.child.try_wait().expect("wait");
            assert!(ended.is_none(), "no mount: {}", daemon.log());
            assert!(Instant::now() < end, "no mount: {}", daemon.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        daemon.mount = Some(Detached::on(&daemon.dir));
        // Pages of the image that the kernel keeps would be counted in the cgroup.
        assert!(!daemon.log().contains("no O_DIRECT"), "{}", daemon.log());
        let printed = format!("fixed overhead {} KiB", overhead(threads).div_ceil(1024));
        assert!(
            daemon.log().contains(&printed),
            "{printed}: {}",
            daemon.log()
        );
        daemon
    }

    pub fn path(&self) -> &Path {
        &self.dir
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether the most that was ever resident is within the limit; in words.
    pub fn is_within_limit(&self) -> (bool, String) {
        let resident = self.resident_at_most();
        let (kib, allowed) = (resident >> 10, self.limit >> 10);
        let words = format!("{kib} KiB resident at most, {allowed} KiB allowed");
        (resident <= self.limit, words)
    }

    fn resident_at_most(&self) -> u64 {
        let status = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(status).expect("the daemon lives");
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .expect("VmHWM");
        let kib: u64 = line
            .split_whitespace()
            .nth(1)
            .and_then(|word| word.parse().ok())
            .expect("a number");
        kib << 10
    }

    /// The most that was ever resident is within the limit, and nothing was refused or taken beyond the cap.
    pub fn check(&self, when: &str) {
        let (is_within, words) = self.is_within_limit();
        let stats = super::harness::run!(UEXT4, "stats", "--json", self.dir);
        let stats: serde_json::Value = serde_json::from_str(&stats).expect("stats");
        let memory = &stats["memory"];
        println!(
            "{when} after {} s: {words}; peak {} of {}; {}",
            self.begun.elapsed().as_secs(),
            memory["peak"],
            memory["cap"],
            memory["activity"]
        );
        assert!(is_within, "{when}: {words}: {stats}");
        assert_eq!(memory["activity"]["refused"], 0, "{stats}");
        assert_eq!(memory["activity"]["overdrafts"], 0, "{stats}");
        if let Some(cgroup) = &self.cgroup {
            assert_eq!(cgroup.kills(), 0, "{when}: killed for its memory");
        }
    }

    /// Judges once more and unmounts.
    pub fn end(self, when: &str) {
        self.check(when);
        self.unmount();
    }

    pub fn unmount(mut self) {
        let mount = self.mount.take().expect("a mount");
        mount.unmount_within(PATIENCE);
        let status = self.child.wait().expect("wait");
        assert!(status.success(), "{status}: {}", self.log());
        assert!(!self.log().contains("ERROR"), "{}", self.log());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.mount.take().is_some() || self.child.try_wait().is_ok_and(|s| s.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A memory cgroup of one daemon's, v1 or v2.
pub struct Cgroup {
    dir: PathBuf,
    unified: bool,
}

impl Cgroup {
    pub fn new(limit: u64) -> Self {
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let unified = !v1.is_dir();
        let root = if unified {
            Path::new("/sys/fs/cgroup")
        } else {
            v1
        };
        if unified {
            let control = root.join("cgroup.subtree_control");
            std::fs::write(control, "+memory").expect("the memory controller");
        }
        let dir = root.join(format!("uext4-proof-{}", std::process::id()));
        std::fs::create_dir(&dir).expect("a cgroup");
        let cgroup = Self { dir, unified };
        let (file, swap) = if unified {
            ("memory.max", "memory.swap.max")
        } else {
            ("memory.limit_in_bytes", "memory.swappiness")
        };
        std::fs::write(cgroup.dir.join(file), limit.to_string()).expect("the limit");
        // Not every kernel has swap.
        let _ = std::fs::write(cgroup.dir.join(swap), "0");
        cgroup
    }

    /// Processes that were killed because of the limit.
    fn kills(&self) -> u64 {
        let file = if self.unified {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        let text = std::fs::read_to_string(self.dir.join(file)).expect("events");
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.and_then(|count| count.trim().parse().ok())
            .expect("a count of kills")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.dir);
    }
}

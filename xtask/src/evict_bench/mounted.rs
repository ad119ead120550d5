//! One daemon: started with a policy and a cap, asked for its gauges, ended; a watchdog aborts a mount that no longer answers.

use super::plan::{Run, Workload};
use crate::bench::sides::output;
use serde_json::Value;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// No request may take longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Writing everything at the end may.
const END: Duration = Duration::from_secs(120);

pub struct Mounted {
    pub dir: PathBuf,
    program: PathBuf,
    log: PathBuf,
    daemon: Option<Child>,
    /// Of the FUSE connection.
    minor: u64,
}

impl Mounted {
    pub fn start(program: &Path, image: &Path, run: &Run) -> Result<Self, String> {
        let dir = image.with_extension("mnt");
        std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let log = image.with_extension("log");
        let output = File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
        let options = match run.workload {
            Workload::Files => "rw",
            Workload::Growing => "writethrough",
            Workload::Slow => "writethrough,fault=read-delay=5ms",
        };
        let mut command = Command::new(program);
        command
            .args(["mount", "--foreground", "-o", options, "--memory"])
            .arg(format!("{}M", run.mebibytes))
            .args(["--evict-policy", run.policy, "--evict-from", run.from])
            .arg(image)
            .arg(&dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let daemon = command.spawn().map_err(|e| format!("{command:?}: {e}"))?;
        let mut mounted = Self {
            dir,
            program: program.to_owned(),
            log,
            daemon: Some(daemon),
            minor: 0,
        };
        mounted.wait_until_mounted()?;
        Ok(mounted)
    }

    fn wait_until_mounted(&mut self) -> Result<(), String> {
        let above = self.dir.parent().unwrap_or(Path::new("/"));
        let outside = above.metadata().map_err(|e| e.to_string())?.dev();
        let limit = Instant::now() + Duration::from_secs(30);
        while Instant::now() < limit {
            if let Some(daemon) = &mut self.daemon
                && let Ok(Some(status)) = daemon.try_wait()
            {
                return Err(format!("no mount, {status}: {}", self.log()));
            }
            let device = self.dir.metadata().map_or(outside, |found| found.dev());
            if device != outside {
                self.minor = u64::from(rustix::fs::minor(device));
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(format!("not mounted after 30 s: {}", self.log()))
    }

    /// The daemon's gauges and counters.
    pub fn stats(&self) -> Result<Value, String> {
        let program = self.program.to_string_lossy();
        let text = output(&program, &["stats", "--json", &self.dir.to_string_lossy()])?;
        serde_json::from_str(&text).map_err(|e| format!("stats: {e}"))
    }

    /// The highest resident size, in KiB.
    pub fn high_water(&self) -> Option<u64> {
        let daemon = self.daemon.as_ref()?;
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }

    /// The daemon has never been larger than the cap and the overhead that it printed at the mount.
    fn check_size(&self) -> Result<(), String> {
        let log = self.log();
        let printed = |before: &str| {
            let (_, rest) = log.split_once(before)?;
            rest.split(' ').next()?.parse::<u64>().ok()
        };
        let bound = printed("memory: cap ").zip(printed("fixed overhead "));
        let (Some(used), Some((cap, overhead))) = (self.high_water(), bound) else {
            return Err(format!("no figures of its memory: {log}"));
        };
        if used > cap + overhead {
            return Err(format!(
                "{used} KiB resident, cap {cap} KiB and overhead {overhead} KiB"
            ));
        }
        Ok(())
    }

    pub fn sync(&self) -> Result<(), String> {
        let program = self.program.to_string_lossy();
        output(&program, &["sync", &self.dir.to_string_lossy()]).map(drop)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Aborts the connection when `progress` stands still for too long while `busy`; returns whether it had to.
    pub fn watch(&self, progress: &AtomicU64, busy: &AtomicBool) -> bool {
        let mut seen = (progress.load(Ordering::Relaxed), Instant::now());
        while busy.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(50));
            let now = progress.load(Ordering::Relaxed);
            if now != seen.0 {
                seen = (now, Instant::now());
            } else if seen.1.elapsed() > PATIENCE {
                let gauges = self.stats().map_or_else(|e| e, |stats| stats.to_string());
                eprintln!("evict-bench: no request was served for {PATIENCE:?}: {gauges}");
                self.abort();
                busy.store(false, Ordering::Relaxed);
                return true;
            }
        }
        false
    }

    /// Every request fails from now on.
    fn abort(&self) {
        let _ = std::fs::write(
            format!("/sys/fs/fuse/connections/{}/abort", self.minor),
            "1",
        );
    }

    /// Unmounts; the daemon has written everything, leaked nothing, kept to its cap and has said nothing bad.
    pub fn end(mut self) -> Result<(), String> {
        let size = self.check_size();
        let point = self.dir.to_string_lossy().into_owned();
        let mut unmounted = output("umount", &["-i", &point]);
        for _ in 0..50 {
            if unmounted.is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
            unmounted = output("umount", &["-i", &point]);
        }
        unmounted?;
        let status = self.wait()?;
        let log = self.log();
        let bad: Vec<&str> = log
            .lines()
            .filter(|line| line.contains("ERROR") || line.contains("panicked"))
            .take(5)
            .collect();
        if !status.success() || !bad.is_empty() {
            return Err(format!("the daemon's end: {status}: {}", bad.join("\n")));
        }
        size
    }

    fn wait(&mut self) -> Result<ExitStatus, String> {
        let limit = Instant::now() + END;
        let Some(daemon) = &mut self.daemon else {
            return Err("no daemon".into());
        };
        while Instant::now() < limit {
            if let Some(status) = daemon.try_wait().map_err(|e| e.to_string())? {
                self.daemon = None;
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(format!("the daemon writes for {END:?}"))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let Some(mut daemon) = self.daemon.take() else {
            return;
        };
        self.abort();
        let _ = output("umount", &["-i", "-l", &self.dir.to_string_lossy()]);
        let _ = daemon.kill();
        let _ = daemon.wait();
    }
}

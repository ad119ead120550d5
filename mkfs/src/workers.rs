//! Several threads write a file system.
//!
//! Source: the phases and jobs of `uext4::make`.
//! Invariants: a phase is begun when the one before is done; after an error no new job begins.

use crate::progress::Progress;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use uext4::device::Device;
use uext4::error::Result;
use uext4::make::{Job, MakeError, Phase, Plan, Writing};

/// More than processors: some wait for the device while others compute.
const THREADS: usize = 4;

pub fn write(
    plan: &Plan,
    device: &dyn Device,
    progress: &Progress,
) -> std::result::Result<(), MakeError> {
    let writing = Writing::new(plan, device)?;
    for phase in Phase::ALL {
        let jobs = writing.begin(phase)?;
        let name = match phase {
            Phase::Tables => "inode tables",
            Phase::Groups => "groups",
            Phase::Copies => "bitmaps and descriptors",
        };
        run_all(&writing, &jobs, &|done| {
            progress.show(name, done as u64, jobs.len() as u64);
        })?;
    }
    progress.show("waiting for the device", 0, 0);
    Ok(writing.finish()?)
}

/// Runs the jobs of a phase; `watch` hears how many are done.
fn run_all(writing: &Writing<'_>, jobs: &[Job], watch: &dyn Fn(usize)) -> Result<()> {
    if let [job] = jobs {
        return writing.run(job.clone());
    }
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (tell, told) = mpsc::channel();
    let work = |tell: mpsc::Sender<Result<()>>| {
        while !failed.load(Ordering::Relaxed)
            && let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed))
        {
            let done = writing.run(job.clone());
            failed.fetch_or(done.is_err(), Ordering::Relaxed);
            // Heard until all have ended.
            let _ = tell.send(done);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..THREADS.min(jobs.len()) {
            let tell = tell.clone();
            scope.spawn(|| work(tell));
        }
        drop(tell);
        let mut first_error = Ok(());
        for (index, done) in told.iter().enumerate() {
            watch(index + 1);
            first_error = first_error.and(done);
        }
        first_error
    })
}

//! What a person or a program sees of a run.
//!
//! Source: e2fsck(8), `-C`.
//! Invariants: with `--json` standard output holds one object and nothing else.

use crate::args::Args;
use crate::progress::Progress;
use fsck::report::{Finding, Listener};
use fsck::{Answer, Outcome, exit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use uext4::text::{complain, say};

const PASSES: [&str; 6] = [
    "",
    "inodes and their blocks",
    "directories",
    "paths to the root",
    "link counts",
    "bitmaps and counts",
];

pub struct Screen {
    answer: Answer,
    json: bool,
    verbose: bool,
    timing: bool,
    progress: Progress,
    pass: u8,
    started: Instant,
    findings: Vec<Finding>,
    all: bool,
    signals: Signals,
}

/// The first signal ends the run where nothing is half done, the second at once, as does one at a question.
struct Signals {
    /// One asked for the end.
    end: Arc<AtomicBool>,
    /// The next one is not to be waited for.
    at_once: Arc<AtomicBool>,
}

impl Screen {
    pub fn new(args: &Args) -> Self {
        Self {
            answer: args.answer(),
            json: args.json,
            verbose: args.verbose,
            timing: args.timing > 0,
            progress: Progress::new(args.progress, args.device.display().to_string()),
            pass: 0,
            started: Instant::now(),
            findings: Vec::new(),
            all: false,
            signals: Signals::new(),
        }
    }

    pub fn end(&mut self, device: &Path, outcome: &Outcome) {
        self.progress.wipe();
        if self.json {
            let report = serde_json::json!({
                "device": device.display().to_string(),
                "status": outcome.status,
                "found": outcome.found,
                "fixed": outcome.fixed,
                "skipped": outcome.skipped,
                "files": outcome.files,
                "inodes": outcome.inodes,
                "blocks_used": outcome.blocks_used,
                "blocks": outcome.blocks,
                "problems": self.findings,
            });
            say!("{report}");
            return;
        }
        let device = device.display();
        if outcome.status & exit::CANCELLED != 0 {
            say!("{device}: cancelled, nothing was changed");
        } else if outcome.skipped {
            say!("{device}: clean");
        } else if outcome.status & exit::OPERATIONAL == 0 {
            let state = match outcome.status {
                exit::CLEAN => "in order",
                exit::CORRECTED => "repaired",
                _ => "STILL HAS ERRORS",
            };
            let Outcome {
                files,
                inodes,
                blocks_used,
                blocks,
                ..
            } = *outcome;
            say!(
                "{device}: {state}; {files} of {inodes} inodes, {blocks_used} of {blocks} blocks in use"
            );
        }
        if self.verbose {
            let Outcome { found, fixed, .. } = *outcome;
            say!("{found} problems, {fixed} of them repaired");
        }
        if self.timing {
            if let Some(kibibytes) = peak() {
                say!("{kibibytes} KiB of memory at most");
            }
            say!("{:.3} s", self.started.elapsed().as_secs_f64());
        }
    }
}

/// What the process has occupied at most, in KiB.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

impl Signals {
    fn new() -> Self {
        let (end, at_once) = (Arc::default(), Arc::default());
        for signal in [SIGINT, SIGTERM] {
            // Without the handlers the signal ends the program, too.
            let now = Arc::clone(&at_once);
            let _ = flag::register_conditional_shutdown(signal, exit::CANCELLED.into(), now);
            let _ = flag::register(signal, Arc::clone(&end));
            let _ = flag::register(signal, Arc::clone(&at_once));
        }
        Self { end, at_once }
    }
}

impl Listener for Screen {
    fn cancelled(&self) -> bool {
        self.signals.end.load(Ordering::Relaxed)
    }

    fn finding(&mut self, finding: &Finding) {
        if self.json {
            self.findings.push(finding.clone());
            return;
        }
        self.progress.wipe();
        let done = match (finding.done, self.answer) {
            (true, _) => "yes",
            (false, _) => "no",
        };
        say!(
            "{:04} {}. {}? {done}",
            finding.code,
            finding.text,
            finding.action
        );
    }

    fn note(&mut self, text: &str) {
        self.progress.wipe();
        if self.json {
            complain!("fsck.uext4: {text}");
        } else {
            say!("{text}");
        }
    }

    fn progress(&mut self, pass: u8, done: u64, all: u64) {
        if pass != self.pass {
            self.pass = pass;
            let name = PASSES.get(usize::from(pass)).unwrap_or(&"");
            if !self.json && self.answer != Answer::Preen {
                self.progress.wipe();
                say!("Pass {pass}: {name}");
            }
        }
        self.progress.show(pass, done, all);
    }

    fn ask(&mut self, question: &str, default: bool) -> Option<bool> {
        if self.all {
            return Some(true);
        }
        self.progress.wipe();
        loop {
            let hint = if default { "Y/n/a" } else { "y/N/a" };
            let mut out = std::io::stdout();
            write!(out, "{question} [{hint}] ").ok()?;
            out.flush().ok()?;
            let mut line = String::new();
            self.signals.at_once.store(true, Ordering::Relaxed);
            let read = std::io::stdin().lock().read_line(&mut line);
            self.signals.at_once.store(false, Ordering::Relaxed);
            if read.ok()? == 0 {
                return None;
            }
            match line.trim() {
                "" => return Some(default),
                "y" | "Y" => return Some(true),
                "n" | "N" => return Some(false),
                "a" | "A" => {
                    self.all = true;
                    return Some(true);
                }
                _ => {}
            }
        }
    }
}

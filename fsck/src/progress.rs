//! How far a run is: lines for programs, or a bar for a person.
//!
//! Source: e2fsck(8), `-C`: lines of pass, done, all and the device; a bar over all passes, between the bytes 1 and 2 that
//! boot screens look for; SIGUSR1 begins with it, SIGUSR2 ends it.
//! Invariants: a bar is wiped away before anything else is printed; a reader that went away is no reason to stop.

use signal_hook::consts::{SIGUSR1, SIGUSR2};
use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How far the whole run is at the end of each pass, in parts of a thousand.
const ENDS: [u64; 6] = [0, 700, 900, 920, 950, 1000];
const WIDTH: usize = 40;

enum Sink {
    Bar,
    Lines(File),
}

pub struct Progress {
    sink: Option<Sink>,
    device: String,
    wanted: bool,
    begin: Arc<AtomicBool>,
    end: Arc<AtomicBool>,
    /// What the bar shows, in parts of a thousand; `None` where there is none.
    shown: Option<u64>,
}

impl Progress {
    pub fn new(fd: Option<i32>, device: String) -> Self {
        let (begin, end) = (Arc::default(), Arc::default());
        for (signal, flag) in [(SIGUSR1, &begin), (SIGUSR2, &end)] {
            // Without the signal there is only what the command line asks for.
            let _ = signal_hook::flag::register(signal, Arc::clone(flag));
        }
        let sink = match fd {
            None | Some(0) => Some(Sink::Bar),
            Some(fd) => open(fd.unsigned_abs()).map(Sink::Lines),
        };
        Self {
            sink,
            device,
            wanted: fd.is_some_and(|fd| fd >= 0),
            begin,
            end,
            shown: None,
        }
    }

    pub fn show(&mut self, pass: u8, done: u64, all: u64) {
        if self.begin.swap(false, Ordering::Relaxed) {
            self.wanted = true;
        }
        if self.end.swap(false, Ordering::Relaxed) {
            self.wanted = false;
            self.wipe();
        }
        if !self.wanted {
            return;
        }
        match &mut self.sink {
            None => {}
            Some(Sink::Lines(file)) => {
                let _ = writeln!(file, "{pass} {done} {all} {}", self.device);
            }
            Some(Sink::Bar) => {
                let now = share(pass, done, all);
                if self.shown != Some(now) {
                    self.shown = Some(now);
                    print_flushed(&bar(&self.device, now));
                }
            }
        }
    }

    pub fn wipe(&mut self) {
        if self.shown.take().is_some() {
            let width = self.device.len() + WIDTH + 16;
            print_flushed(&format!("\x01{:width$}\r\x02", ""));
        }
    }
}

fn print_flushed(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Of the whole run, in parts of a thousand.
fn share(pass: u8, done: u64, all: u64) -> u64 {
    let pass = usize::from(pass).clamp(1, ENDS.len() - 1);
    let (from, to) = (ENDS[pass - 1], ENDS[pass]);
    from + (to - from) * done.min(all) / all.max(1)
}

fn bar(device: &str, share: u64) -> String {
    let full = share as usize * WIDTH / 1000;
    let (whole, tenth) = (share / 10, share % 10);
    let bar = "=".repeat(full);
    format!("\x01{device}: |{bar:WIDTH$}| {whole:2}.{tenth}%  \r\x02")
}

fn open(fd: u32) -> Option<File> {
    let path = format!("/proc/self/fd/{fd}");
    std::fs::OpenOptions::new().append(true).open(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_never_goes_back() {
        let mut before = 0;
        for pass in 1..6 {
            for done in 0..=10 {
                let now = share(pass, done, 10);
                assert!(now >= before, "{pass} {done}: {now} after {before}");
                before = now;
            }
        }
        assert_eq!(before, 1000);
        assert_eq!(share(1, 0, 0), 0);
        let line = bar("disk", 505);
        assert_eq!(line.matches('=').count(), 20);
        assert!(line.ends_with("| 50.5%  \r\x02"), "{line:?}");
    }
}

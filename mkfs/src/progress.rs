//! A bar for what takes longer than a second.
//!
//! Source: none.
//! Invariants: silent when standard error is no terminal, with `-q`, and in the first second.

use indicatif::{ProgressBar, ProgressStyle};
use std::cell::RefCell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(1);

pub struct Progress {
    begun: Instant,
    wanted: bool,
    bar: RefCell<Option<ProgressBar>>,
}

impl Progress {
    pub fn new(quiet: bool) -> Self {
        Self {
            begun: Instant::now(),
            wanted: !quiet && std::io::stderr().is_terminal(),
            bar: RefCell::new(None),
        }
    }

    /// `done` of `all` steps of the phase; 0 when nobody knows how many there are.
    pub fn show(&self, phase: &'static str, done: u64, all: u64) {
        if !self.wanted || self.begun.elapsed() < PATIENCE {
            return;
        }
        let mut slot = self.bar.borrow_mut();
        let bar = slot.get_or_insert_with(|| ProgressBar::new(all));
        if bar.message() != phase {
            bar.set_style(style(all));
            bar.set_message(phase);
        }
        bar.set_length(all.max(done));
        bar.set_position(done);
    }

    pub fn finish(&self) {
        if let Some(bar) = self.bar.borrow_mut().take() {
            bar.finish_and_clear();
        }
    }
}

fn style(all: u64) -> ProgressStyle {
    let template = if all == 0 {
        "{msg} {pos}"
    } else {
        "{msg} [{bar:40}] {percent}% {eta}"
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

//! Where log records go: stderr in the foreground, else syslog; the last ones also stay in memory.
//!
//! Source: the design's section on FUSE facts (log).
//! Invariants: at most `KEPT` records are kept.

use crate::sync::{Mutex, Rank};
use log::{LevelFilter, Log, Metadata, Record};
use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

const KEPT: usize = 256;

static RECENT: Mutex<VecDeque<String>> = Mutex::new(Rank::Memory, VecDeque::new());

struct Logger {
    sink: Option<Box<dyn Log>>,
}

/// Log to stderr; RUST_LOG decides how much.
pub fn to_stderr() {
    let environment = env_logger::Env::default().default_filter_or("info");
    let sink = env_logger::Builder::from_env(environment).build();
    let level = sink.filter();
    install(Some(Box::new(sink)), level);
}

/// Log to syslog, if there is one.
pub fn to_syslog() {
    let formatter = syslog::Formatter3164 {
        facility: syslog::Facility::LOG_DAEMON,
        hostname: None,
        process: "uext4".into(),
        pid: std::process::id(),
    };
    let sink = syslog::unix(formatter).ok().map(|logger| {
        let logger: Box<dyn Log> = Box::new(syslog::BasicLogger::new(logger));
        logger
    });
    install(sink, LevelFilter::Info);
}

/// The last records, oldest first.
pub fn recent() -> Vec<String> {
    RECENT.lock().iter().cloned().collect()
}

fn install(sink: Option<Box<dyn Log>>, level: LevelFilter) {
    log::set_max_level(level);
    // A second logger is refused; the first one stays.
    let _ = log::set_boxed_logger(Box::new(Logger { sink }));
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) || is_interrupted_request(record) {
            return;
        }
        keep(record);
        if let Some(sink) = &self.sink {
            sink.log(record);
        }
    }

    fn flush(&self) {
        if let Some(sink) = &self.sink {
            sink.flush();
        }
    }
}

/// A reply to a request whose caller was killed meanwhile: ENOENT from the connection, and nobody misses it.
fn is_interrupted_request(record: &Record<'_>) -> bool {
    let no_such_request = std::io::Error::from(rustix::io::Errno::NOENT).to_string();
    record.target() == "fuser::reply" && record.args().to_string().ends_with(&no_such_request)
}

fn keep(record: &Record<'_>) {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let line = format!(
        "{}.{:03} {} {}",
        now.as_secs(),
        now.subsec_millis(),
        record.level(),
        record.args()
    );
    let mut recent = RECENT.lock();
    if recent.len() == KEPT {
        recent.pop_front();
    }
    recent.push_back(line);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_replies_that_nobody_waits_for_are_dropped() {
        let drops = |target, text: &str| {
            let mut record = Record::builder();
            is_interrupted_request(&record.target(target).args(format_args!("{text}")).build())
        };
        let gone = "Failed to send FUSE reply: No such file or directory (os error 2)";
        assert!(drops("fuser::reply", gone));
        assert!(!drops(
            "fuser::reply",
            "Failed to send FUSE reply: Invalid argument (os error 22)"
        ));
        assert!(!drops("uext4::fs", gone));
    }

    #[test]
    fn the_newest_records_are_kept() {
        for number in 0..KEPT + 10 {
            keep(
                &Record::builder()
                    .args(format_args!("record {number}"))
                    .build(),
            );
        }
        let recent = recent();
        assert_eq!(recent.len(), KEPT);
        assert!(recent.iter().any(|line| line.ends_with("record 265")));
        assert!(!recent.iter().any(|line| line.ends_with("record 9")));
    }
}

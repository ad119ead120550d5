//! A panic in any thread ends the daemon: what the thread held would be held for ever, and whoever waits for it with it.
//!
//! Source: the design's decision that a panic aborts (release builds); debug builds unwind otherwise.
//! Invariants: the process ends even when the panic came while a record was logged; the journal is left as after a crash.

use std::backtrace::Backtrace;
use std::panic::PanicHookInfo;
use std::sync::mpsc::channel;
use std::time::Duration;

/// How long the log may take.
const LIMIT: Duration = Duration::from_secs(2);

/// From now on a panic is logged and ends the process.
pub(super) fn end_the_daemon() {
    std::panic::set_hook(Box::new(|panic| {
        log_aside(describe(panic));
        std::process::abort();
    }));
}

fn describe(panic: &PanicHookInfo<'_>) -> String {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("unnamed");
    format!(
        "thread {name}: {panic}; the daemon ends, the next mount replays the journal\n{}",
        Backtrace::capture()
    )
}

/// On a thread of its own: this one may hold what the log needs.
fn log_aside(text: String) {
    let (done, logged) = channel();
    let log = move || {
        log::error!("{text}");
        log::logger().flush();
        let _ = done.send(());
    };
    if std::thread::Builder::new().spawn(log).is_ok() {
        let _ = logged.recv_timeout(LIMIT);
    }
}

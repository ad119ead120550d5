//! Signals that end the daemon, counted, each handled on a thread of its own.
//!
//! Source: signal(7).
//! Invariants: a handler that hangs does not keep the next signal from being handled.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;
use std::sync::Arc;

/// Calls `handle(n)` for the n-th signal, counted from 0. Call it before other threads start.
pub fn start(handle: impl Fn(usize) + Send + Sync + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let handle = Arc::new(handle);
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for (count, signal) in signals.forever().enumerate() {
                log::info!("signal {signal}");
                let handle = Arc::clone(&handle);
                let builder = std::thread::Builder::new().name("signal-handler".into());
                if let Err(error) = builder.spawn(move || handle(count)) {
                    log::error!("cannot handle signal {signal}: {error}");
                }
            }
        })?;
    Ok(())
}

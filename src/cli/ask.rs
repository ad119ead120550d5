//! `uext4 sync`, `uext4 stats` and `uext4 evict`: what a running daemon is asked through its control channel.
//!
//! Source: the design's section on FUSE facts (sync, control channel).
//! Invariants: the mount itself is never touched, so the answer comes although every worker hangs.

use super::failure::{Failure, Outcome};
use super::locate::mount_of;
use crate::control::client::Client;
use crate::control::{Request, stats as shown};
use crate::text::{say, show};
use serde_json::Value;
use std::io;
use std::path::Path;
use std::time::Duration;

const WATCH: Duration = Duration::from_secs(1);

/// Everything durable.
pub(super) fn sync(directory: &Path) -> Outcome {
    ask(directory, Request::Sync).map(drop)
}

/// Gauges and counts; with `watch` until the daemon ends, or nobody reads them.
pub(super) fn stats(directory: &Path, json: bool, watch: bool) -> Outcome {
    loop {
        let stats = ask(directory, Request::Stats)?;
        let heard = if json {
            say!("{stats}")
        } else {
            show(&shown::table(&stats))
        };
        if !watch || !heard {
            return Ok(());
        }
        std::thread::sleep(WATCH);
    }
}

/// All that can leave memory does.
pub(super) fn evict(directory: &Path) -> Outcome {
    let left = ask(directory, Request::Evict)?;
    say!("{left} inodes stay in memory");
    Ok(())
}

fn ask(directory: &Path, request: Request) -> Outcome<Value> {
    let mount = mount_of(directory)?;
    let fail = |e: io::Error| Failure::mount(format!("{}: {e}", mount.point.display()));
    let mut client = Client::connect(mount.major_minor()).map_err(fail)?;
    client.ask(request).map_err(fail)
}

//! Serves a mounted FUSE connection until it is unmounted.
//!
//! Source: fuser's `Session`; the design's FUSE facts for what is asked of the kernel.
//! Invariants: requests of every user are served (the kernel admits whom the mount allows), since the kernel's own flusher
//! works as root.

use crate::fs::Fs;
use crate::fuse::prune::Pruner;
use crate::fuse::serve::Adapter;
use fuser::{Config, InitFlags, KernelConfig, Session, SessionACL};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub threads: usize,
    /// Each worker has its own descriptor of the connection.
    pub clone_fd: bool,
    /// Bytes of the largest write.
    pub max_write: u32,
}

/// Returns when the connection has ended: after the unmount, or when it was aborted.
pub fn serve(fs: Arc<Fs>, fd: OwnedFd, settings: Settings) -> std::io::Result<()> {
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(settings.threads.max(1));
    config.clone_fd = settings.clone_fd;
    let _pruner = Pruner::start(&fs, &fd)?;
    let adapter = Adapter::start(fs, settings.threads.max(1), settings.max_write)?;
    Session::from_fd(adapter, fd, SessionACL::All, config)?.run()
}

/// What we ask for, each only where the kernel offers it.
const WANTED: [InitFlags; 15] = [
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_BIG_WRITES,
    InitFlags::FUSE_MAX_PAGES,
    InitFlags::FUSE_WRITEBACK_CACHE,
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_HAS_IOCTL_DIR,
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_NO_OPENDIR_SUPPORT,
    InitFlags::FUSE_EXPLICIT_INVAL_DATA,
    InitFlags::FUSE_NO_EXPORT_SUPPORT,
];

/// Requests that the kernel may have under way in the background.
const MAX_BACKGROUND: u16 = 128;

pub(super) fn configure(config: &mut KernelConfig, fs: &Fs, max_write: u32) {
    ask_for(config, max_write, fs.kernel_keeps_times());
    if fs.uses_acls() {
        let _ = config.add_capabilities(InitFlags::FUSE_POSIX_ACL);
    }
    let granularity = if fs.has_fine_times() {
        Duration::from_nanos(1)
    } else {
        Duration::from_secs(1)
    };
    let _ = config.set_time_granularity(granularity);
}

/// What every mount asks for, and any server that is to be compared with ours.
pub fn ask(config: &mut KernelConfig, max_write: u32) {
    ask_for(config, max_write, true);
}

fn ask_for(config: &mut KernelConfig, max_write: u32, writeback: bool) {
    let wanted = WANTED.into_iter();
    for flag in wanted.filter(|flag| writeback || *flag != InitFlags::FUSE_WRITEBACK_CACHE) {
        // Refused: the kernel is older and does without.
        let _ = config.add_capabilities(flag);
    }
    let _ = config.set_max_write(max_write);
    let _ = config.set_max_background(MAX_BACKGROUND);
}

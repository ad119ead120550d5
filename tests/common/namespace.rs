//! Scripts in mount and process namespaces of their own, with a /dev/fuse of their own: nothing of it is seen outside,
//! and every process ends with the script.

use super::command::{Outcome, attempt};
use super::{Scratch, args, run};
use std::time::Duration;

/// Runs a bash script in `scratch`, where `uext4` is a program for everybody and `/dev/fuse` has `mode`.
pub fn script(scratch: &Scratch, mode: &str, limit: Duration, script: &str) -> Outcome {
    run!("chmod", "755", scratch.path());
    std::fs::copy(super::mount::UEXT4, scratch.file("uext4")).expect("the program");
    let script = format!(
        "trap 'echo \"failed: $BASH_COMMAND\" >&2' ERR
         cd '{}'; mknod -m {mode} fuse c 10 229; mount --bind fuse /dev/fuse
         {script}",
        scratch.path().display()
    );
    let bash = ["bash", "-eEuo", "pipefail", "-c", &script];
    let mut words = args!["-m", "-p", "-f", "--kill-child", "--mount-proc"];
    words.extend(bash.iter().map(std::ffi::OsString::from));
    attempt(limit, "unshare", &words)
}

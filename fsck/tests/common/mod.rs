//! The checker and e2fsprogs as commands on an image.

use std::path::Path;
use std::process::{Command, Output, Stdio};

pub fn run(program: &str, args: &[&str], image: &Path) -> Output {
    Command::new(program)
        .args(args)
        .arg(image)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Exit code and standard output of fsck.uext4.
#[allow(dead_code)] // some tests run it in their own way
pub fn fsck(args: &[&str], image: &Path) -> (i32, String) {
    let output = run(env!("CARGO_BIN_EXE_fsck-uext4"), args, image);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code().unwrap(), text)
}

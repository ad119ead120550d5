//! `cargo xtask test` and `ci`: the workspace's tests, then the external suites through a mount.

use crate::{corrupt, crash, setup, tidy};
use clap::Args;
use std::path::Path;
use xshell::{Shell, cmd};

#[derive(Args)]
pub struct Options {
    /// Only the workspace's own tests, not the external suites (pjdfstest, fsx, fio, stress-ng).
    #[arg(long)]
    quick: bool,
    /// Run the mount tests on this instead, to judge the tests themselves: kernel or fuse2fs.
    #[arg(long, value_name = "KIND")]
    on: Option<String>,
}

/// Runs everything, also after a failure, and fails when a part did.
pub fn run(root: &Path, options: &Options) -> Result<(), String> {
    setup::run(root)?;
    let shell = Shell::new().map_err(|e| e.to_string())?;
    shell.change_dir(root);
    shell.set_var("UEXT4_TOOLS", setup::tools(root).join("bin"));
    if let Some(kind) = &options.on {
        shell.set_var("UEXT4_TEST_ON", kind);
    }
    // Debug builds check the lock order, so the workspace's tests are debug builds; the suites run what users run.
    let mut failed = Vec::new();
    // With `faults`, so that the rounds of killtest also lose a write cache.
    if cmd!(
        shell,
        "cargo test --workspace --features uext4/faults --no-fail-fast"
    )
    .run()
    .is_err()
    {
        failed.push("workspace");
    }
    if cmd!(
        shell,
        "cargo test -p uext4 --lib --features shuttle,canaries judge::"
    )
    .run()
    .is_err()
    {
        failed.push("the judges of the allocator and of the inode table");
    }
    let suites = cmd!(
        shell,
        "cargo test --release --test suites --test allocator -- --ignored --test-threads=1 --nocapture"
    );
    if !options.quick && suites.run().is_err() {
        failed.push("suites");
    }
    let proof = cmd!(
        shell,
        "cargo test --release --test memory_proof -- --ignored --test-threads=1 --nocapture short_"
    );
    if !options.quick && options.on.is_none() && proof.run().is_err() {
        failed.push("the proof of the memory cap");
    }
    if !options.quick
        && options.on.is_none()
        && cmd!(shell, "cargo xtask bench --quick").run().is_err()
    {
        failed.push("bench --quick");
    }
    if !options.quick
        && options.on.is_none()
        && cmd!(shell, "cargo xtask evict-bench --quick")
            .run()
            .is_err()
    {
        failed.push("evict-bench --quick");
    }
    if !options.quick && options.on.is_none() && crash::short(root).is_err() {
        failed.push("crash");
    }
    if !options.quick && options.on.is_none() && corrupt::short(root).is_err() {
        failed.push("corrupt");
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!("failed: {}", failed.join(", ")))
    }
}

/// What a merge needs.
pub fn ci(root: &Path) -> Result<(), String> {
    tidy::run(root)?;
    let shell = Shell::new().map_err(|e| e.to_string())?;
    shell.change_dir(root);
    cmd!(
        shell,
        "cargo clippy --workspace --all-targets -- -D warnings"
    )
    .run()
    .map_err(|e| e.to_string())?;
    run(
        root,
        &Options {
            quick: false,
            on: None,
        },
    )
}

//! `cargo xtask test` and `ci`: the workspace's tests, then the external suites through a mount.

use crate::{corrupt, crash, setup, tidy};
use clap::Args;
use std::path::Path;
use std::time::Instant;
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

/// Runs everything, also after a failure, and fails when a part did. Tells how long each part took.
pub fn run(root: &Path, options: &Options) -> Result<(), String> {
    setup::run(root)?;
    let shell = Shell::new().map_err(|e| e.to_string())?;
    shell.change_dir(root);
    shell.set_var("UEXT4_TOOLS", setup::tools(root).join("bin"));
    if let Some(kind) = &options.on {
        shell.set_var("UEXT4_TEST_ON", kind);
    }
    let mut parts = Parts::default();
    let mut cargo = |name, arguments: &str| {
        let arguments = arguments.split(' ');
        let run = || cmd!(shell, "cargo {arguments...}").run();
        parts.run(name, || run().map_err(|e| e.to_string()));
    };
    // Debug builds check the lock order, so the workspace's tests are debug builds; the suites run what users run. With
    // `faults`, so that the rounds of killtest also lose a write cache.
    cargo(
        "workspace",
        "test --workspace --features uext4/faults --no-fail-fast",
    );
    cargo(
        "the judges of the allocator and of the inode table",
        "test -p uext4 --lib --features shuttle,canaries judge::",
    );
    if !options.quick {
        cargo(
            "suites",
            "test --release --test suites --test allocator -- --ignored --test-threads=1 --nocapture",
        );
    }
    if !options.quick && options.on.is_none() {
        cargo(
            "the proof of the memory cap",
            "test --release --test memory_proof -- --ignored --test-threads=1 --nocapture short_",
        );
        cargo("bench --quick", "xtask bench --quick");
        cargo("evict-bench --quick", "xtask evict-bench --quick");
        parts.run("crash", || crash::short(root));
        parts.run("corrupt", || corrupt::short(root));
    }
    parts.finish()
}

#[derive(Default)]
struct Parts {
    times: Vec<String>,
    failed: Vec<&'static str>,
}

impl Parts {
    fn run(&mut self, name: &'static str, part: impl FnOnce() -> Result<(), String>) {
        let begun = Instant::now();
        if part().is_err() {
            self.failed.push(name);
        }
        let took = begun.elapsed().as_secs();
        self.times.push(format!("{name} {took} s"));
    }

    fn finish(self) -> Result<(), String> {
        eprintln!("tests: {}", self.times.join(", "));
        if self.failed.is_empty() {
            Ok(())
        } else {
            Err(format!("failed: {}", self.failed.join(", ")))
        }
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

//! `cargo xtask killtest`, `filling` and `fsx`: a test of `tests/` that CI runs shortly, as long as one likes, on the daemon as
//! it is released.

use crate::setup;
use clap::Args;
use std::path::Path;
use xshell::{Shell, cmd};

#[derive(Args)]
pub struct Rounds {
    /// 1 to 4 seconds each.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// What is chosen at random follows from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Args)]
pub struct Operations {
    /// About 1000 a second.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    operations: u64,
    /// What is chosen at random follows from it.
    #[arg(long, default_value_t = 5)]
    seed: u64,
}

/// Load, a kill or (with the feature `faults`) the loss of the device's write cache, recovery by us and by the kernel.
pub fn killtest(root: &Path, options: &Rounds) -> Result<(), String> {
    let test = "--features faults --test killtest -- --nocapture what_was_fsynced_survives";
    run(
        root,
        test,
        "UEXT4_KILL",
        "ROUNDS",
        options.rounds,
        options.seed,
    )
}

/// Eight writers fill an image to the last block, all is compared and removed.
pub fn filling(root: &Path, options: &Rounds) -> Result<(), String> {
    let test = "--test filling -- --nocapture";
    run(
        root,
        test,
        "UEXT4_FILL",
        "ROUNDS",
        options.rounds,
        options.seed,
    )
}

/// One file under random operations.
pub fn fsx(root: &Path, options: &Operations) -> Result<(), String> {
    let test = "--test suites -- --ignored --nocapture fsx";
    run(
        root,
        test,
        "UEXT4_FSX",
        "OPERATIONS",
        options.operations,
        options.seed,
    )
}

fn run(
    root: &Path,
    test: &str,
    name: &str,
    what: &str,
    count: u64,
    seed: u64,
) -> Result<(), String> {
    setup::run(root)?;
    let shell = Shell::new().map_err(|e| e.to_string())?;
    shell.change_dir(root);
    shell.set_var("UEXT4_TOOLS", setup::tools(root).join("bin"));
    shell.set_var(format!("{name}_{what}"), count.to_string());
    shell.set_var(format!("{name}_SEED"), seed.to_string());
    let arguments = test.split(' ');
    cmd!(shell, "cargo test --release {arguments...}")
        .run()
        .map_err(|e| e.to_string())
}

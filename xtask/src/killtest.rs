//! `cargo xtask killtest`: many rounds of `tests/killtest.rs` on the daemon as it is released, with the feature `faults` so
//! that every second round loses its device's write cache.

use crate::setup;
use clap::Args;
use std::path::Path;
use xshell::{Shell, cmd};

#[derive(Args)]
pub struct Options {
    /// Rounds: load, a kill or a cut of the power, recovery by us and by the kernel, comparison. 2 to 4 seconds each.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// What is chosen at random follows from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub fn run(root: &Path, options: &Options) -> Result<(), String> {
    setup::run(root)?;
    let shell = Shell::new().map_err(|e| e.to_string())?;
    shell.change_dir(root);
    shell.set_var("UEXT4_KILL_ROUNDS", options.rounds.to_string());
    shell.set_var("UEXT4_KILL_SEED", options.seed.to_string());
    cmd!(
        shell,
        "cargo test --release --features faults --test killtest -- --nocapture what_was_fsynced_survives"
    )
    .run()
    .map_err(|e| e.to_string())
}

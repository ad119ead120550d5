//! `cargo xtask memory-proof`: the long forms of the proof that the daemon's resident memory stays within its cap.

use clap::Args;
use std::path::Path;
use xshell::{Shell, cmd};

#[derive(Args)]
pub struct Options {
    /// Only the forms whose names contain this.
    #[arg(long, value_name = "NAME", default_value = "long_")]
    only: String,
}

pub fn run(root: &Path, options: &Options) -> Result<(), String> {
    let shell = Shell::new().map_err(|e| e.to_string())?;
    shell.change_dir(root);
    let only = &options.only;
    cmd!(
        shell,
        "cargo test --release -p uext4 --test memory_proof -- --ignored --test-threads=1 --nocapture {only}"
    )
    .run()
    .map_err(|e| e.to_string())
}

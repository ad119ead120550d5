//! `cargo xtask memory-proof`: the long forms of the proof that the daemon's resident memory stays within its cap, and the
//! program that loses one charge of a hundred, which the proof must see.

use clap::Args;
use std::path::Path;
use xshell::{Shell, cmd};

#[derive(Args)]
pub struct Options {
    /// Only the forms whose names contain this.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// The program that leaks instead: fails if the proof does not notice.
    #[arg(long)]
    leaks: bool,
}

pub fn run(root: &Path, options: &Options) -> Result<(), String> {
    let shell = Shell::new().map_err(|e| e.to_string())?;
    shell.change_dir(root);
    let (features, default): (&[&str], _) = if options.leaks {
        (&["--features", "leaks"], "short_files_under_a_small_cap")
    } else {
        (&[], "long_")
    };
    let only = options.only.as_deref().unwrap_or(default);
    // A build that fails is no proof of anything.
    cmd!(
        shell,
        "cargo test --release -p uext4 {features...} --test memory_proof --no-run"
    )
    .run()
    .map_err(|e| e.to_string())?;
    let passed = cmd!(
        shell,
        "cargo test --release -p uext4 {features...} --test memory_proof -- --ignored --test-threads=1 --nocapture {only}"
    )
    .run();
    match (passed, options.leaks) {
        (Ok(()), true) => Err("a program that leaks has passed the proof of the cap".into()),
        (Err(error), false) => Err(error.to_string()),
        _ => Ok(()),
    }
}

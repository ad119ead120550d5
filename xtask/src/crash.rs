//! `cargo xtask crash`: the crash simulator of `tests/cuts.rs` on as many seeds as one likes, on one sequence of operations,
//! or on the lines that are broken on purpose. A build of its own, with the feature `canaries`.

use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};
use xshell::{Shell, cmd};

#[derive(Args)]
pub struct Options {
    /// Runs, of about 60 operations and 500 images each.
    #[arg(long, default_value_t = 40)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The sequence of operations in this file instead (a failing seed prints its own).
    #[arg(long, value_name = "FILE")]
    ops: Option<PathBuf>,
    /// Runs of eviction at the floor of the memory, by nofail, retry, eagain, skip, pin, reserve or derive, or by each (all).
    #[arg(long, value_name = "POLICY")]
    evict_policy: Option<String>,
    /// Break one line after the other instead; fails if one is not noticed.
    #[arg(long)]
    canaries: bool,
    /// Let the device fail at every place of this many seeded runs instead, from seed 1000 + --seed on.
    #[arg(long, value_name = "N")]
    faults: Option<u64>,
    /// Seeds side by side; as many as there are processors unless given.
    #[arg(long)]
    jobs: Option<usize>,
    /// Where the images and sequences that fail are put.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

pub fn run(root: &Path, options: &Options) -> Result<(), String> {
    if let Some(seeds) = options.faults {
        return faults(root, seeds, options.seed);
    }
    let absolute = |path: &Option<PathBuf>| {
        let path = path.as_ref().map(std::path::absolute).transpose();
        path.map_err(|e| e.to_string())
    };
    let request = json!({
        "seeds": options.seeds,
        "seed": options.seed,
        "ops": absolute(&options.ops)?,
        "canaries": options.canaries,
        "evict_policy": options.evict_policy,
        "jobs": options.jobs,
        "keep": absolute(&options.keep)?,
    });
    simulate(root, &request)
}

/// What continuous integration runs: 40 seeds, 7 of eviction, and the lines that are broken on purpose.
pub fn short(root: &Path) -> Result<(), String> {
    simulate(root, &json!({ "seeds": 40, "seed": 0, "at_least": 20_000 }))?;
    simulate(
        root,
        &json!({ "seeds": 7, "seed": 0, "evict_policy": "all", "at_least": 2_000 }),
    )?;
    simulate(root, &json!({ "canaries": true }))
}

/// The Nth read, write and sync fail, for every N, in as many sequences as asked for.
fn faults(root: &Path, seeds: u64, first: u64) -> Result<(), String> {
    let shell = Shell::new().map_err(|e| e.to_string())?;
    shell.change_dir(root);
    shell.set_var("UEXT4_FAULT_SEEDS", seeds.to_string());
    shell.set_var("UEXT4_FAULT_SEED", (1000 + first).to_string());
    cmd!(
        shell,
        "cargo test --release --features faults --test faults -- --ignored --exact sequences::many_sequences_with_faults --nocapture"
    )
    .run()
    .map_err(|e| e.to_string())
}

fn simulate(root: &Path, request: &serde_json::Value) -> Result<(), String> {
    let shell = Shell::new().map_err(|e| e.to_string())?;
    shell.change_dir(root);
    shell.set_var("UEXT4_CRASH", request.to_string());
    cmd!(
        shell,
        "cargo test --release --features canaries --test cuts -- --ignored --exact command --nocapture"
    )
    .run()
    .map_err(|e| e.to_string())
}

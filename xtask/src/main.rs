//! Set-up, tests, house rules and installation of uext4: `cargo xtask --help`.

mod bench;
mod corrupt;
mod crash;
mod evict_bench;
mod install;
mod memory_proof;
mod rounds;
mod rules;
mod setup;
mod source;
mod test;
mod tidy;

use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Set-up, tests, house rules and installation of uext4"
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what the tests need (as root), or say what is missing.
    Setup,
    /// Setup, then every test: the workspace's own and the external suites through a mount.
    Test(test::Options),
    /// uext4 beside the kernel, fuse2fs, a server that stores nothing, and the raw file.
    Bench(bench::Options),
    /// Every way out of the thread about eviction, on the same workloads, under small caps.
    EvictBench(evict_bench::Options),
    /// The daemon's resident memory stays within its cap: the long forms.
    MemoryProof(memory_proof::Options),
    #[command(hide = true)]
    NullServer {
        directory: PathBuf,
        raw: Option<PathBuf>,
    },
    /// Kill the daemon under load, again and again, and look for what was fsynced.
    Killtest(rounds::Rounds),
    /// Fill an image to the last block from eight sides, empty it, again and again.
    Filling(rounds::Rounds),
    /// fsx, with as many operations as asked for.
    Fsx(rounds::Operations),
    /// Cut the power at every write of seeded runs, and look for what was synced.
    Crash(crash::Options),
    /// Damage images field by field, and compare fsck.uext4 with e2fsck.
    Corrupt(corrupt::Options),
    /// Check layers, unsafe, file headers and sizes.
    Tidy,
    /// What a merge needs: tidy, clippy, test.
    Ci,
    /// Build and install the programs and the names under which mount(8) and fsck(8) look for them.
    Install(install::Options),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().task {
        Task::Setup => setup::run(&root()),
        Task::Test(options) => test::run(&root(), &options),
        Task::Bench(options) => bench::run(&root(), &options),
        Task::EvictBench(options) => evict_bench::run(&root(), &options),
        Task::MemoryProof(options) => memory_proof::run(&root(), &options),
        Task::NullServer { directory, raw } => bench::null_server(&directory, raw.as_deref()),
        Task::Killtest(options) => rounds::killtest(&root(), &options),
        Task::Filling(options) => rounds::filling(&root(), &options),
        Task::Fsx(options) => rounds::fsx(&root(), &options),
        Task::Crash(options) => crash::run(&root(), &options),
        Task::Corrupt(options) => corrupt::run(&root(), &options),
        Task::Tidy => tidy::run(&root()),
        Task::Ci => test::ci(&root()),
        Task::Install(options) => install::run(&root(), &options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's root: xtask is its direct member.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

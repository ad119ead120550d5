//! The `uext4` program.
//!
//! Source: the design's section on layers: thin binaries over one library.
//! Invariants: nothing but the call of `cli::main`.

fn main() -> std::process::ExitCode {
    uext4::cli::main()
}

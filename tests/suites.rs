//! Suites that are not ours, through a mount: pjdfstest, fsx, fio with verification, stress-ng's filesystem class.
//!
//! They take minutes and need `cargo xtask setup`, so `cargo xtask test` runs them: `--ignored`, one after the other.

#[path = "common/harness.rs"]
mod harness;

use harness::command::{Outcome, attempt_with};
use harness::{Image, Kind, Mount, Scratch, judge, run};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A program that `cargo xtask setup` installed.
fn tool(name: &str) -> PathBuf {
    let dir = std::env::var_os("UEXT4_TOOLS").expect("UEXT4_TOOLS: run `cargo xtask test`");
    let path = Path::new(&dir).join(name);
    assert!(
        path.is_file(),
        "{} is missing: run `cargo xtask setup`",
        path.display()
    );
    path
}

fn stage(scratch: &Scratch, size: &str, minutes: u64) -> (Image, Mount) {
    let image = Image::mke2fs(scratch, "disk.img", size, "-t ext4");
    let limit = Duration::from_secs(60 * minutes);
    let options = if Kind::on_trial() == Kind::Kernel {
        ""
    } else {
        "dev,suid,allow_other"
    };
    let mount = Mount::patient(
        Kind::on_trial(),
        image.path(),
        &scratch.dir("mnt"),
        options,
        limit,
    );
    (image, mount)
}

const PJDFSTEST: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.02
allow_remount = REMOUNT
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

fn pjdfstest(remount: bool, patterns: &[&str]) -> Outcome {
    let scratch = Scratch::new();
    let (image, mount) = stage(&scratch, "512M", 10);
    run!("chmod", "755", scratch.path());
    std::fs::write(
        scratch.file("pjdfstest.toml"),
        PJDFSTEST.replace("REMOUNT", &remount.to_string()),
    )
    .expect("config");
    // Remounting goes through mount(8), whose helper looks for our program in the system's own directories: here in a mount
    // namespace of the suite's.
    let programs = scratch.dir("sbin");
    std::fs::copy(env!("CARGO_BIN_EXE_uext4"), programs.join("uext4")).expect("the program");
    let mut command = Command::new("unshare");
    command
        .args(["-m", "bash", "-c"])
        .arg("mount --bind \"$0\" /usr/local/sbin && exec \"$@\"")
        .arg(&programs)
        .arg(tool("pjdfstest"))
        .arg("-c")
        .arg(scratch.file("pjdfstest.toml"))
        .arg("-p")
        .arg(mount.path())
        .args(["-s", "/dev/shm"]);
    let outcome = attempt_with(Duration::from_secs(480), command.args(patterns));
    mount.unmount();
    judge::clean(&image);
    outcome
}

#[test]
#[ignore = "an external suite: cargo xtask test"]
fn pjdfstest_passes() {
    let outcome = pjdfstest(false, &[]).expect_ok("pjdfstest");
    println!("{}", outcome.stdout.lines().last().unwrap_or_default());
}

#[test]
#[ignore = "an external suite: cargo xtask test"]
fn pjdfstest_passes_its_erofs_cases() {
    pjdfstest(true, &["erofs"]).expect_ok("pjdfstest erofs");
}

#[test]
#[ignore = "an external suite: cargo xtask test"]
fn fsx_finds_no_mismatch() {
    // Longer by `cargo xtask fsx`.
    let number =
        |name, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let operations: u64 = number("UEXT4_FSX_OPERATIONS", 100_000);
    let seed: u64 = number("UEXT4_FSX_SEED", 5);
    // fsx keeps what it maps for reading: a process may have 65530 mappings, and becomes slow long before that.
    let part = operations.min(50_000);
    let parts = operations.div_ceil(part);
    let limit = Duration::from_secs(5 * part.div_ceil(1000).max(60));
    let scratch = Scratch::in_memory();
    let (image, mount) = stage(&scratch, "512M", parts * limit.as_secs().div_ceil(60) + 1);
    for seed in seed..seed + parts {
        // Most seeds make fsx ask for zero bytes once, which it takes for a missing posix_fallocate. Every fifth operation
        // syncs.
        let config = format!(
            "[weights]\nclose_open = 1\nread = 10\nwrite = 10\nmapread = 10\nmapwrite = 10\ninvalidate = 1\n\
            truncate = 5\nfsync = 0.2\nfdatasync = 0.2\nposix_fallocate = {}\npunch_hole = 2\nsendfile = 1\n",
            if seed == 5 { 2 } else { 0 }
        );
        std::fs::write(scratch.file("fsx.toml"), config).expect("config");
        let mut command = Command::new(tool("fsx"));
        command.arg("-f").arg(scratch.file("fsx.toml")).arg("-q");
        command.args(["-S", &seed.to_string(), "-N", &part.to_string()]);
        command.arg("-P").arg(scratch.path()).arg(mount.at("fsx"));
        attempt_with(limit, &mut command).expect_ok("fsx");
        println!("fsx: {part} operations, seed {seed}, no mismatch");
    }
    mount.unmount();
    judge::clean(&image);
}

fn fio(engine: &str, direct: &str) {
    let scratch = Scratch::new();
    let (image, mount) = stage(&scratch, "1G", 5);
    let mut command = Command::new("fio");
    command.args([
        "--name=verify",
        "--rw=randrw",
        "--bs=4k",
        "--size=64m",
        "--verify=crc32c",
        "--verify_fatal=1",
    ]);
    command.args([
        "--iodepth=8",
        "--randseed=7",
        "--end_fsync=1",
        "--verify_state_save=0",
        "--output-format=terse",
    ]);
    command
        .arg(format!("--ioengine={engine}"))
        .arg(format!("--direct={direct}"));
    command.arg(format!("--directory={}", mount.path().display()));
    attempt_with(Duration::from_secs(240), &mut command).expect_ok("fio");
    mount.unmount();
    judge::clean(&image);
}

#[test]
#[ignore = "an external suite: cargo xtask test"]
fn fio_verifies_buffered() {
    fio("psync", "0");
}

#[test]
#[ignore = "an external suite: cargo xtask test"]
fn fio_verifies_direct() {
    fio("libaio", "1");
}

#[test]
#[ignore = "an external suite: cargo xtask test"]
fn fio_verifies_mmap() {
    fio("mmap", "0");
}

/// Stressors that cannot pass, and why.
const EXPECTED: &[(&str, &str)] = &[
    ("binderfs", "needs the kernel's binderfs, not ours"),
    (
        "verity",
        "ext4's verity feature is not among mke2fs's defaults; fuse(4) has no call for it",
    ),
    (
        "bind-mount",
        "stress-ng itself leaves it out: it may hang the machine (--pathological)",
    ),
    ("fiemap", "FIEMAP never reaches a plain FUSE daemon"),
];

#[test]
#[ignore = "an external suite: cargo xtask test"]
fn stress_ng_filesystem_class_passes() {
    let listed = harness::command::attempt(
        Duration::from_secs(20),
        "stress-ng",
        &harness::args!["--class", "filesystem?"],
    );
    let text = format!("{}{}", listed.stdout, listed.stderr);
    let names = text
        .split("stressors:")
        .nth(1)
        .expect("a list of stressors");
    let scratch = Scratch::new();
    let (image, mount) = stage(&scratch, "2G", 10);
    let work = mount.at("stress");
    std::fs::create_dir(&work).expect("mkdir");
    let mut failed = Vec::new();
    for name in names.split_whitespace() {
        let mut command = Command::new("stress-ng");
        command
            .args([&format!("--{name}"), "1", "--timeout", "2", "--temp-path"])
            .arg(&work);
        let outcome = attempt_with(
            Duration::from_secs(40),
            command.args(["--verify", "--metrics-brief"]),
        );
        let expected = EXPECTED.iter().find(|(listed, _)| *listed == name);
        println!(
            "stress-ng {name}: {:?} {}",
            outcome.code,
            expected.map_or("", |(_, why)| why)
        );
        if !outcome.ok() && expected.is_none() {
            failed.push(format!("{name}: {}", outcome.describe()));
        }
        if outcome.timed_out {
            break;
        }
    }
    mount.unmount();
    judge::clean(&image);
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

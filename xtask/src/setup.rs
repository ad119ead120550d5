//! `cargo xtask setup`: the programs that the tests need, from apt as root and from crates.io into `target/tools`.

use std::path::{Path, PathBuf};
use xshell::{Shell, cmd};

/// Debian packages, each with a program (or a file) that shows it is there.
const PACKAGES: &[(&str, &str)] = &[
    ("fuse3", "fusermount3"),
    ("e2fsprogs", "mke2fs"),
    ("fio", "fio"),
    ("stress-ng", "stress-ng"),
    ("fuse2fs", "fuse2fs"),
    ("attr", "setfattr"),
    ("acl", "setfacl"),
    ("fdisk", "sfdisk"),
    ("pkg-config", "pkg-config"),
    ("libacl1-dev", "/usr/include/sys/acl.h"),
];

/// Test suites on crates.io: name and version. The versions are part of what the tests expect.
const SUITES: &[(&str, &str)] = &[("pjdfstest", "0.2.2"), ("fsx", "0.3.2")];

/// Installs what is missing, or names it.
pub fn run(root: &Path) -> Result<(), String> {
    packages()?;
    suites(root)
}

/// Where the suites of crates.io are installed: nothing global.
pub fn tools(root: &Path) -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    target.join("tools")
}

fn packages() -> Result<(), String> {
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|(_, proof)| !present(proof))
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !rustix::process::geteuid().is_root() || !present("apt-get") {
        return Err(format!(
            "missing packages (install them as root, or run this as root): {names}"
        ));
    }
    let shell = Shell::new().map_err(|e| e.to_string())?;
    shell.set_var("DEBIAN_FRONTEND", "noninteractive");
    cmd!(shell, "apt-get -qq update")
        .run()
        .map_err(|e| e.to_string())?;
    cmd!(
        shell,
        "apt-get -qq install -y --no-install-recommends {missing...}"
    )
    .run()
    .map_err(|e| e.to_string())?;
    let still: Vec<&str> = PACKAGES
        .iter()
        .filter(|(_, proof)| !present(proof))
        .map(|(name, _)| *name)
        .collect();
    if still.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "apt-get installed, but not found: {}",
            still.join(" ")
        ))
    }
}

/// A file by its path, or a program in PATH or in the directories that an ordinary PATH lacks.
fn present(proof: &str) -> bool {
    if proof.starts_with('/') {
        return Path::new(proof).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(usual)
        .any(|dir| dir.join(proof).is_file())
}

fn suites(root: &Path) -> Result<(), String> {
    let shell = Shell::new().map_err(|e| e.to_string())?;
    let tools = tools(root);
    // Its own build directory: the outer cargo holds the lock of the workspace's.
    let build = tools.join("build");
    for (name, version) in SUITES {
        if tools.join("bin").join(name).is_file()
            && installed(&shell, &tools).contains(&format!("{name} v{version}:"))
        {
            continue;
        }
        cmd!(shell, "cargo install --quiet --locked --root {tools} --target-dir {build} --version {version} {name}")
            .run()
            .map_err(|e| e.to_string())?;
    }
    Ok(())
}

fn installed(shell: &Shell, tools: &Path) -> String {
    cmd!(shell, "cargo install --list --root {tools}")
        .quiet()
        .ignore_stderr()
        .read()
        .unwrap_or_default()
}

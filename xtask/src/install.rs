//! `cargo xtask install`: the programs, and the names by which mount(8), umount(8), mkfs(8) and fsck(8) find them.

use clap::Args;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use xshell::{Shell, cmd};

#[derive(Args)]
pub struct Options {
    /// Programs go to PREFIX/sbin. With the default, helper names go to /sbin, the only place where mount(8) looks.
    #[arg(long, value_name = "DIR", default_value = "/usr/local")]
    prefix: PathBuf,
}

/// Built program and its installed name: a crate's program has no dot in its name.
const PROGRAMS: &[(&str, &str)] = &[
    ("uext4", "uext4"),
    ("mkfs-uext4", "mkfs.uext4"),
    ("fsck-uext4", "fsck.uext4"),
];

/// Helper name and the program behind it. `mount -t fuse.uext4` runs mount.fuse.uext4 when it is there.
const HELPERS: &[(&str, &str)] = &[
    ("mount.uext4", "uext4"),
    ("mount.fuse.uext4", "uext4"),
    ("umount.uext4", "uext4"),
    ("umount.fuse.uext4", "uext4"),
    ("mkfs.uext4", "mkfs.uext4"),
    ("mkfs.fuse.uext4", "mkfs.uext4"),
    ("fsck.uext4", "fsck.uext4"),
    ("fsck.fuse.uext4", "fsck.uext4"),
];

/// Builds and installs; every file written is printed.
pub fn run(root: &Path, options: &Options) -> Result<(), String> {
    let shell = Shell::new().map_err(|e| e.to_string())?;
    shell.change_dir(root);
    cmd!(shell, "cargo build --release --workspace --bins")
        .run()
        .map_err(|e| e.to_string())?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let helpers =
        if options.prefix == Path::new("/usr/local") || options.prefix == Path::new("/usr") {
            PathBuf::from("/sbin")
        } else {
            options.prefix.join("sbin")
        };
    place(
        &target.join("release"),
        &options.prefix.join("sbin"),
        &helpers,
    )
}

fn place(built: &Path, sbin: &Path, helpers: &Path) -> Result<(), String> {
    let at = |path: &Path, e: std::io::Error| format!("{}: {e}", path.display());
    for dir in [sbin, helpers] {
        fs::create_dir_all(dir).map_err(|e| at(dir, e))?;
    }
    for (program, name) in PROGRAMS {
        let to = sbin.join(name);
        let new = sbin.join(format!(".{name}.new"));
        fs::copy(built.join(program), &new).map_err(|e| at(&built.join(program), e))?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).map_err(|e| at(&new, e))?;
        // A rename, because a running daemon's file cannot be written.
        fs::rename(&new, &to).map_err(|e| at(&to, e))?;
        println!("{}", to.display());
    }
    for (name, program) in HELPERS {
        let link = helpers.join(name);
        if link == sbin.join(program) {
            continue;
        }
        if link.is_symlink() {
            fs::remove_file(&link).map_err(|e| at(&link, e))?;
        }
        symlink(sbin.join(program), &link).map_err(|e| at(&link, e))?;
        println!("{} -> {}", link.display(), sbin.join(program).display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_and_helper_names_are_placed_and_replaced() {
        let scratch = tempfile::tempdir().expect("scratch");
        let built = scratch.path().join("built");
        fs::create_dir(&built).expect("mkdir");
        for (program, _) in PROGRAMS {
            fs::write(built.join(program), program).expect("write");
        }
        let sbin = scratch.path().join("prefix/sbin");
        for _ in 0..2 {
            place(&built, &sbin, &sbin).expect("installed");
        }
        assert_eq!(
            fs::read_to_string(sbin.join("mount.fuse.uext4")).expect("helper"),
            "uext4"
        );
        assert_eq!(
            fs::read_to_string(sbin.join("fsck.fuse.uext4")).expect("helper"),
            "fsck-uext4"
        );
        assert!(!sbin.join("mkfs.uext4").is_symlink());
    }

    #[test]
    fn every_helper_is_a_program_that_is_installed() {
        for (helper, program) in HELPERS {
            assert!(PROGRAMS.iter().any(|(_, name)| name == program), "{helper}");
        }
    }
}

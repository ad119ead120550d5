//! `cargo xtask tidy`: the rules of `rules.rs` applied to every file of the repository; also run as a test.

use crate::rules;
use crate::source;
use std::fs;
use std::path::{Path, PathBuf};

/// Prints every violation; an error when there is one.
pub fn run(root: &Path) -> Result<(), String> {
    let violations = check(root)?;
    for violation in &violations {
        println!("{violation}");
    }
    match violations.len() {
        0 => Ok(()),
        count => Err(format!("tidy: {count} violations")),
    }
}

/// Every violation, as `path:line: rule`.
fn check(root: &Path) -> Result<Vec<String>, String> {
    let mut files = Vec::new();
    walk(root, root, &mut files)?;
    let mut violations = Vec::new();
    for path in files {
        let text =
            fs::read_to_string(root.join(&path)).map_err(|e| format!("{}: {e}", path.display()))?;
        let name = path.to_string_lossy().into_owned();
        ascii(&name, &text, &mut violations);
        if name.ends_with(".rs") {
            rust_file(&name, &text, &mut violations);
        }
    }
    Ok(violations)
}

fn walk(root: &Path, dir: &Path, files: &mut Vec<PathBuf>) -> Result<(), String> {
    let entries = fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    for entry in entries {
        let path = entry.map_err(|e| e.to_string())?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && !path.is_symlink() {
            if name != "target" && (!name.starts_with('.') || name == ".ci" || name == ".cargo") {
                walk(root, &path, files)?;
            }
        } else if [".rs", ".md", ".toml"]
            .iter()
            .any(|ending| name.ends_with(ending))
        {
            files.push(path.strip_prefix(root).unwrap_or(&path).to_path_buf());
        }
    }
    files.sort();
    Ok(())
}

fn ascii(name: &str, text: &str, violations: &mut Vec<String>) {
    for (index, line) in text.lines().enumerate() {
        if !line.is_ascii() {
            violations.push(format!("{name}:{}: not ASCII", index + 1));
        }
    }
}

fn rust_file(name: &str, text: &str, violations: &mut Vec<String>) {
    let stripped = source::strip(text);
    let tests = if is_test_file(name) {
        0
    } else {
        source::tests_start(&stripped)
    };
    let code = &stripped[..tests];
    header(name, text, violations);
    sizes(name, &stripped, tests, violations);
    for at in source::words(&stripped, "unsafe") {
        if !rules::UNSAFE.contains(&name) {
            violations.push(format!(
                "{name}:{}: `unsafe` outside the files that may have it",
                source::line_of(&stripped, at)
            ));
        }
    }
    let adapter =
        name == "src/fuse.rs" || name.starts_with("src/fuse/") || name.starts_with("xtask/");
    for at in source::words(&stripped, "fuser") {
        if !adapter {
            violations.push(format!(
                "{name}:{}: `fuser` outside src/fuse",
                source::line_of(&stripped, at)
            ));
        }
    }
    imports(name, code, violations);
}

/// Unit tests kept in a file of their own.
fn is_test_file(name: &str) -> bool {
    name.starts_with("src/") && (name.ends_with("/tests.rs") || name.contains("/tests/"))
}

fn header(name: &str, text: &str, violations: &mut Vec<String>) {
    let head: Vec<&str> = text
        .lines()
        .take_while(|line| line.starts_with("//!"))
        .collect();
    if head.is_empty() {
        violations.push(format!("{name}:1: does not open with `//!`"));
    } else if name.starts_with("src/")
        && !is_test_file(name)
        && !head.iter().any(|line| line.contains("Source:"))
    {
        let exempt = name == "src/lib.rs" || name == "src/main.rs";
        if !exempt {
            violations.push(format!("{name}:1: header names no `Source:`"));
        }
    }
}

fn sizes(name: &str, stripped: &str, tests: usize, violations: &mut Vec<String>) {
    let lines = stripped[..tests].lines().count();
    if lines > rules::FILE_LINES {
        violations.push(format!(
            "{name}:1: {lines} lines without tests, at most {}",
            rules::FILE_LINES
        ));
    }
    for (function, line, length) in source::functions(stripped) {
        if length > rules::FUNCTION_LINES {
            violations.push(format!(
                "{name}:{line}: fn {function} has {length} lines, at most {}",
                rules::FUNCTION_LINES
            ));
        }
    }
}

/// `code` is the file without its unit tests, which may use any layer.
fn imports(name: &str, code: &str, violations: &mut Vec<String>) {
    if let Some(from) = layer_of(name) {
        for (at, path) in source::paths_under(code, "crate") {
            let to = path.split("::").next().unwrap_or(&path);
            if !rules::may_import(from, to) {
                violations.push(format!(
                    "{name}:{}: {from} imports {to}",
                    source::line_of(code, at)
                ));
            }
        }
    }
    let member = name.split('/').next().unwrap_or(name);
    let allowed = match member {
        "mkfs" => rules::MKFS,
        "fsck" => rules::FSCK,
        _ => return,
    };
    for (at, path) in source::paths_under(code, "uext4") {
        let layer = path.split("::").next().unwrap_or(&path);
        if !allowed.contains(&layer) && !allowed.contains(&path.as_str()) {
            violations.push(format!(
                "{name}:{}: {member} imports {path}",
                source::line_of(code, at)
            ));
        }
    }
}

/// `src/journal/tx.rs` and `src/journal.rs` belong to `journal`; the crate's roots to no layer.
fn layer_of(name: &str) -> Option<&str> {
    let inner = name.strip_prefix("src/")?;
    let layer = inner.split('/').next()?.trim_end_matches(".rs");
    rules::rank(layer).map(|_| layer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(name: &str, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        rust_file(name, text, &mut found);
        found
    }

    const HEAD: &str = "//! A part.\n//! Source: the design.\n";

    #[test]
    fn the_repository_is_tidy() {
        let found = check(&crate::root()).expect("the repository can be read");
        assert!(found.is_empty(), "{}", found.join("\n"));
    }

    #[test]
    fn every_directory_of_the_library_is_a_layer() {
        for entry in fs::read_dir(crate::root().join("src")).expect("src") {
            let name = entry
                .expect("entry")
                .file_name()
                .to_string_lossy()
                .into_owned();
            let layer = name.trim_end_matches(".rs");
            assert!(
                ["lib", "main"].contains(&layer) || rules::rank(layer).is_some(),
                "{name} is no layer"
            );
        }
    }

    #[test]
    fn an_upward_import_is_found_in_any_spelling() {
        for line in [
            "use crate::journal::Handle;",
            "use crate::{ids::X, journal};",
            "fn f() { crate::journal::start(); }",
        ] {
            let found = violations("src/cache/meta.rs", &format!("{HEAD}{line}\n"));
            assert_eq!(found, ["src/cache/meta.rs:3: cache imports journal"]);
        }
        assert!(
            violations(
                "src/cache/meta.rs",
                &format!("{HEAD}use crate::device::Device;\n")
            )
            .is_empty()
        );
    }

    #[test]
    fn siblings_and_make_keep_apart() {
        assert_eq!(
            violations("src/dir.rs", &format!("{HEAD}use crate::file::X;\n")).len(),
            1
        );
        assert_eq!(
            violations("src/file/read.rs", &format!("{HEAD}use crate::dir::X;\n")).len(),
            1
        );
        assert_eq!(
            violations("src/make/plan.rs", &format!("{HEAD}use crate::cache::X;\n")).len(),
            1
        );
    }

    #[test]
    fn unit_tests_may_use_any_layer() {
        let text =
            format!("{HEAD}fn a() {{}}\n#[cfg(test)]\nmod tests {{ use crate::make::plan; }}\n");
        assert!(violations("src/device/file.rs", &text).is_empty());
    }

    #[test]
    fn fsck_sees_recovery_only_of_the_journal() {
        assert!(
            violations(
                "fsck/src/main.rs",
                "//! fsck\nuse uext4::journal::recover;\n"
            )
            .is_empty()
        );
        assert_eq!(
            violations(
                "fsck/src/main.rs",
                "//! fsck\nuse uext4::{alloc, journal::tx};\n"
            )
            .len(),
            2
        );
        assert_eq!(
            violations("mkfs/src/main.rs", "//! mkfs\nuse uext4::cache::X;\n").len(),
            1
        );
    }

    #[test]
    fn unsafe_and_fuser_have_their_places() {
        let text = format!("{HEAD}// unsafe in a comment\nfn f() {{ unsafe {{ g() }} }}\n");
        assert!(violations("src/device/ring.rs", &text).is_empty());
        assert_eq!(violations("src/device/latch.rs", &text).len(), 1);
        let text = format!("{HEAD}use fuser::Session;\n");
        assert!(violations("src/fuse/session.rs", &text).is_empty());
        assert_eq!(violations("src/fs/read.rs", &text).len(), 1);
    }

    #[test]
    fn headers_and_sizes_are_checked() {
        assert_eq!(
            violations("src/map/split.rs", "//! A part without a source.\n").len(),
            1
        );
        assert_eq!(violations("src/map/split.rs", "fn f() {}\n").len(), 1);
        let long = format!("{HEAD}fn f() {{\n{}}}\n", "    g();\n".repeat(79));
        assert_eq!(violations("src/map/split.rs", &long).len(), 1);
        let file = format!("{HEAD}{}", "// line\n".repeat(600));
        assert_eq!(violations("src/map/split.rs", &file).len(), 1);
        let mut found = Vec::new();
        ascii("README.md", "caf\u{e9}\n", &mut found);
        assert_eq!(found, ["README.md:1: not ASCII"]);
    }
}

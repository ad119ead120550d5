//! The measured table goes into a document between two marks, so that nobody types its figures.

use super::report::{self, Results};
use std::path::Path;
use std::process::Command;

const BEGIN: &str = "<!-- bench: begin, written by `cargo xtask bench --readme` -->";
const END: &str = "<!-- bench: end -->";

/// Whether the document has a place for the table; asked before anything is measured.
pub fn check(path: &Path) -> Result<(), String> {
    let text = read(path)?;
    splice(&text, "").map(drop).map_err(said(path))
}

/// Puts the table where the last one was.
pub fn write(
    path: &Path,
    results: &Results,
    rounds: usize,
    notes: &[String],
) -> Result<(), String> {
    let text = splice(&read(path)?, &section(results, rounds, notes)?).map_err(said(path))?;
    std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn said(path: &Path) -> impl Fn(String) -> String {
    move |e| format!("{}: {e}", path.display())
}

fn section(results: &Results, rounds: usize, notes: &[String]) -> Result<String, String> {
    let date = super::sides::output("date", &["-u", "-I"])?;
    let head = format!(
        "Measured on {}, on {}: Linux {}, {}; {rounds} {} of uext4, kernel and raw.",
        date.trim(),
        machine()?,
        kernel()?,
        fuse2fs()?,
        if rounds == 1 { "round" } else { "rounds" },
    );
    let mut lines = vec![head, String::new(), report::short_table(results)];
    if !notes.is_empty() {
        lines.push(String::new());
        lines.extend(notes.iter().map(|note| format!("- {note}")));
    }
    Ok(lines.join("\n"))
}

/// In general words.
fn machine() -> Result<String, String> {
    let path = Path::new("/proc/cpuinfo");
    let is_virtual = read(path)?
        .lines()
        .any(|line| line.starts_with("flags") && line.contains(" hypervisor"));
    let kind = if is_virtual {
        "a virtual machine"
    } else {
        "a machine"
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(format!("{kind} with {cores} cores"))
}

/// Version and series; what a distributor adds says nothing to a reader.
fn kernel() -> Result<String, String> {
    let release = super::sides::output("uname", &["-r"])?;
    let version = release.trim().split(['-', '+']).next();
    Ok(version.unwrap_or_default().to_owned())
}

/// Its name and version as it tells them: the first line, on either stream.
fn fuse2fs() -> Result<String, String> {
    let told = Command::new("fuse2fs")
        .arg("-V")
        .output()
        .map_err(|e| format!("fuse2fs: {e}"))?;
    let both = [told.stderr, told.stdout].concat();
    let text = String::from_utf8_lossy(&both);
    let line = text.lines().find(|line| line.starts_with("fuse2fs"));
    Ok(line.unwrap_or("fuse2fs of an unknown version").to_owned())
}

/// `text` with `section` between the marks.
fn splice(text: &str, section: &str) -> Result<String, String> {
    let missing = || format!("no lines `{BEGIN}` and `{END}`, in this order");
    let (before, rest) = text.split_once(BEGIN).ok_or_else(missing)?;
    let (_, after) = rest.split_once(END).ok_or_else(missing)?;
    Ok(format!("{before}{BEGIN}\n\n{section}\n\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::rows::Figures;
    use crate::bench::sides::Side;

    #[test]
    fn the_table_takes_the_place_of_the_last_one() {
        let document = format!("above\n{BEGIN}\n{END}\nbelow\n");
        let once = splice(&document, "| one |").expect("marks");
        assert_eq!(once, format!("above\n{BEGIN}\n\n| one |\n\n{END}\nbelow\n"));
        let twice = splice(&once, "| two |").expect("marks");
        assert_eq!(twice, once.replace("one", "two"));
        assert!(splice("above", "").is_err());
        assert!(splice(&format!("{END}\n{BEGIN}\n"), "").is_err());
    }

    #[test]
    fn every_measured_row_is_in_the_table() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), format!("{BEGIN}\n{END}\n")).expect("a document");
        check(file.path()).expect("it has a place");
        let mut results = Results::new();
        let mut figures = Figures::default();
        for (side, figure) in [
            (Side::Uext4, 300.0),
            (Side::Null, 400.0),
            (Side::Fuse2fs, 100.0),
        ] {
            figures.add(side, figure);
        }
        results.insert("create-20k", figures);
        write(file.path(), &results, 1, &["a note".to_owned()]).expect("a table");
        let text = std::fs::read_to_string(file.path()).expect("the document");
        let row = text.lines().find(|line| line.contains("create-20k"));
        let row = row.expect("its row");
        // The figure, in parts of fuse2fs and null, and of the goal.
        for part in ["| 300 |", "| 3.00 |", "| 0.75 |", "no (0.88)"] {
            assert!(row.contains(part), "{part}: {row}");
        }
        assert!(text.contains("- a note"));
        assert!(check(Path::new("/nonexistent")).is_err());
    }
}

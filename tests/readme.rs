//! The README's table of features says what the code does.

use uext4::format::features::{KNOWN, Treatment, Word};

#[test]
fn feature_table_is_that_of_the_code() {
    let readme = include_str!("../README.md");
    let rows: Vec<&str> = readme
        .lines()
        .filter(|line| line.contains("compat |"))
        .collect();
    let expected: Vec<String> = KNOWN
        .iter()
        .map(|feature| {
            let word = match feature.word {
                Word::Compat => "compat",
                Word::Incompat => "incompat",
                Word::RoCompat => "ro_compat",
            };
            let mounted = match feature.treatment {
                Treatment::ReadWrite => "rw",
                Treatment::ReadOnly(_) => "ro",
                Treatment::Refuse => "refuse",
            };
            format!("| {word} | {} | {mounted} |", feature.name)
        })
        .collect();
    assert_eq!(rows, expected);
}

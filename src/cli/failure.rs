//! How a command fails: one line for the user, one of mount(8)'s exit codes for the caller.
//!
//! Source: mount(8), "EXIT STATUS".
//! Invariants: the message has no newline.

use crate::text::complain;
use std::fmt::Display;
use std::process::ExitCode;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub code: u8,
    pub message: String,
}

pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub const USAGE: u8 = 1;
    pub const SYSTEM: u8 = 2;
    pub const MOUNT: u8 = 32;

    pub fn new(code: u8, message: impl Display) -> Self {
        let message = without_numbers(&message.to_string());
        let line = message.lines().map(str::trim).filter(|l| !l.is_empty());
        Self {
            code,
            message: line.collect::<Vec<_>>().join("; "),
        }
    }

    pub fn usage(message: impl Display) -> Self {
        Self::new(Self::USAGE, message)
    }

    pub fn system(message: impl Display) -> Self {
        Self::new(Self::SYSTEM, message)
    }

    pub fn mount(message: impl Display) -> Self {
        Self::new(Self::MOUNT, message)
    }

    /// Tells the user and becomes the exit code.
    pub fn report(&self) -> ExitCode {
        complain!("uext4: {}", self.message);
        ExitCode::from(self.code)
    }
}

/// Without the ` (os error 2)` that `std::io::Error` adds to the system's words.
fn without_numbers(message: &str) -> String {
    let mut text = message.to_owned();
    while let Some(start) = text.find(" (os error ")
        && let Some(length) = text[start..].find(')')
    {
        text.replace_range(start..=start + length, "");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_line_of_words() {
        let error = std::io::Error::from_raw_os_error(libc::ENOENT);
        let failure = Failure::mount(format!("a: {error}\n  b: {error}\n"));
        assert_eq!(
            failure.message,
            "a: No such file or directory; b: No such file or directory"
        );
    }
}

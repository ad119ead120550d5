//! What programs are told and what they say: sizes with units, lines on the standard streams.
//!
//! Source: write(2), EPIPE.
//! Invariants: that nobody reads along any more ends no program.

pub mod size;

pub use crate::{complain, say};

use std::fmt::Arguments;
use std::io::Write;

/// A line on standard output; false when nobody reads it.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => {
        $crate::text::to_output(::std::format_args!("{}\n", ::std::format_args!($($text)*)))
    };
}

/// A line on standard error; false when nobody reads it.
#[macro_export]
macro_rules! complain {
    ($($text:tt)*) => {
        $crate::text::to_error(::std::format_args!("{}\n", ::std::format_args!($($text)*)))
    };
}

/// As it is on standard output; false when nobody reads it.
pub fn show(text: &str) -> bool {
    to_output(format_args!("{text}"))
}

/// What `say` comes to.
pub fn to_output(text: Arguments<'_>) -> bool {
    let mut out = std::io::stdout().lock();
    out.write_fmt(text).and_then(|()| out.flush()).is_ok()
}

/// What `complain` comes to.
pub fn to_error(text: Arguments<'_>) -> bool {
    std::io::stderr().lock().write_fmt(text).is_ok()
}

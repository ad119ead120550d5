//! Making a file system: `Plan` turns a size and options into the whole layout, `write` puts it on a device.
//!
//! Source: the kernel's ext4 documentation for what lies where; the counts, sizes and places are those that
//! mke2fs chooses by default, so that an image of ours and one of its are the same but for ids and times.
//! Invariants: a plan is pure and complete (no device, no clock, no randomness); the primary superblock is
//! written last, so a device that was filled half way is not a file system.

mod create;
mod features;
mod layout;
mod numbers;
mod options;
mod plan;
mod probe;
mod quota;
mod resize;
mod space;
mod superblock;
mod tree;
mod usage;
mod write;

pub use create::{create, create_with};
pub use features::{FeatureSet, Kind};
pub use numbers::Numbers;
pub use options::{Options, format_uuid, parse_uuid};
pub use plan::Plan;
pub use probe::find_signature;
pub use usage::Usage;
pub use write::{Job, Phase, Writing, reveal_features, write};

/// Why no file system can be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// An option that contradicts another one, or lies out of range.
    #[error("{0}")]
    Invalid(String),
    /// Something that mke2fs knows and this mkfs does not build.
    #[error("{0} is not supported")]
    Unsupported(String),
    #[error("{0} bytes are too small for such a file system")]
    TooSmall(u64),
    #[error("{path}: {source}")]
    File {
        path: String,
        source: std::io::Error,
    },
    /// The device cannot be had: missing, in use, not writable.
    #[error("{0}")]
    Open(String),
    #[error("{0}")]
    Device(#[from] crate::error::Error),
}

#[cfg(test)]
mod judged;

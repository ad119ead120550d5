//! The house rules as data: which layer stands where, who may import what, where `unsafe` is allowed, and the sizes.

/// Layers, lowest first. The names in one row are siblings, which do not import each other.
pub const LAYERS: &[&[&str]] = &[
    &["ids"],
    &["error"],
    &["sync"],
    &["canary"],
    &["clock"],
    &["text"],
    &["memory"],
    &["device"],
    &["format"],
    &["make"],
    &["cache"],
    &["journal"],
    &["alloc"],
    &["map"],
    &["inode"],
    &["xattr"],
    &["dir", "file"],
    &["evict"],
    &["fs"],
    &["fuse"],
    &["control"],
    &["cli"],
];

/// What `mkfs` may import of the library (`fs` only to populate).
pub const MKFS: &[&str] = &[
    "ids", "error", "sync", "text", "memory", "device", "format", "make", "fs",
];

/// What `fsck` may import: nothing that it checks, so that one bug cannot hide from both.
pub const FSCK: &[&str] = &[
    "ids",
    "error",
    "text",
    "memory",
    "device",
    "format",
    "cache",
    "journal::recover",
];

/// The only files with `unsafe`, each block with its proof.
pub const UNSAFE: &[&str] = &[
    "src/memory/arena.rs",
    "src/memory/process.rs",
    "src/device/file.rs",
    "src/device/ring.rs",
    "src/fuse/mount.rs",
    // A shared writable mapping is what its tests are about.
    "tests/common/mapping.rs",
];

/// Lines of a file without its unit tests.
pub const FILE_LINES: usize = 600;

/// Lines of a function, braces included.
pub const FUNCTION_LINES: usize = 80;

/// The position of a layer, or `None` for a name that is not one.
pub fn rank(layer: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&layer))
}

/// Whether `from` may import `to`: itself, or anything lower.
pub fn may_import(from: &str, to: &str) -> bool {
    match (rank(from), rank(to)) {
        (Some(high), Some(low)) => from == to || low < high,
        _ => true,
    }
}

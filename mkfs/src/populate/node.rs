//! What a source yields: inodes with their names, and data.
//!
//! Source: none.
//! Invariants: a directory comes before what is in it; the data of a file follows it at once, in ascending order.

use uext4::format::time::Timestamp;

/// The most bytes in one piece of data.
pub const CHUNK: usize = 1 << 20;

#[derive(Debug)]
pub enum Event {
    Node(Box<Node>),
    /// Of the last file.
    Data {
        offset: u64,
        bytes: Vec<u8>,
    },
}

#[derive(Debug)]
pub struct Node {
    /// The names from the root on; empty for the root itself.
    pub path: Vec<Vec<u8>>,
    pub kind: NodeKind,
    /// Permissions.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug)]
pub enum NodeKind {
    File {
        size: u64,
    },
    Directory,
    Symlink(Vec<u8>),
    /// The file type's bits, and the device number.
    Special {
        file_type: u16,
        rdev: (u32, u32),
    },
    /// Another name for what has that path.
    Link(Vec<Vec<u8>>),
}

/// The names in a path. `..` and `.` do not lead anywhere.
pub fn split(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&byte| byte == b'/')
        .filter(|name| !matches!(*name, b"" | b"." | b".."))
        .map(<[u8]>::to_vec)
        .collect()
}

pub fn join(path: &[Vec<u8>]) -> String {
    String::from_utf8_lossy(&path.join(&b'/')).into_owned()
}

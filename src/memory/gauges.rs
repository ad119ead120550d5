//! stub
/// What memory is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    Meta,
    Buddy,
    Dirty,
    Io,
    Inode,
    Prealloc,
    ExtentStatus,
    Lookup,
    Freed,
    Group,
    Handle,
}
/// Accounts for heap memory until dropped.
pub struct Charge {}

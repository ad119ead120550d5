//! stub
pub mod mount;

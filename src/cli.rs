//! stub
pub mod args; pub mod failure; pub mod logging; pub mod options;

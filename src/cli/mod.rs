//! To come.
pub mod flags;
pub mod help;

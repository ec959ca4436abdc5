//! What a person runs beside the proxy itself: `check`, `policy` and `audit`. They print in the same words as replies, log and
//! records.

pub mod audit;
mod check;
mod deciding;
mod policy;

pub use check::{
    Checked, check,
    probe::{Asker, Heard, Probed},
};
pub use policy::{policy_purge, policy_show, policy_test};

use crate::exit::Exit;

/// The multi-thread runtime that every command uses.
///
/// # Errors
/// No threads can be had.
pub fn runtime() -> Result<tokio::runtime::Runtime, Exit> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Exit::Configuration(format!("cannot start threads: {error}")))
}

//! The commands that a person runs beside the proxy itself: `check`, `policy`, `audit`, `doctor` and `setup`. They print the same
//! words as replies, log and records.

pub mod audit;
pub mod check;
pub(crate) mod doctor;
mod machine;
pub(crate) mod policy;
pub(crate) mod setup;
mod unnamed;

use crate::exit::Exit;

/// The multi-thread runtime that every command uses.
///
/// # Errors
/// The system gives no threads.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Exit> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Exit::Temporary(format!("cannot start threads: {error}")))
}

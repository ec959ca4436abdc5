//! The commands about the evidence: `audit keygen`, `verify`, `show`, `report`, `prove` and `check-proof`.
//!
//! Each prints to the writer it is given. Errors are [`Exit`]s: `Exit::No` for a log that is not what was written
//! or lacks what is asked for,
//! `Exit::Configuration` for a file that cannot be read or written and for an argument that means nothing,
//! `Exit::Temporary` for a log that changed while it was read.

mod json;
mod keygen;
mod outside;
mod period;
mod prove;
mod quantity;
mod report;
mod show;
mod verify;

pub use keygen::keygen;
pub use prove::{check_proof, prove};
pub use report::report;
pub use show::show;
pub use verify::verify;

use crate::{audit::OpenError, exit::Exit};
use std::{fmt::Display, io, path::PathBuf};

/// Says why a command could not be carried out.
fn unusable(command: &str, error: impl Display) -> Exit {
    Exit::Configuration(format!("audit {command}: {error}"))
}

/// The same, where a log or a key was read.
fn unread(command: &str, error: impl Into<OpenError>) -> Exit {
    let error = error.into();
    error
        .with(|words| format!("audit {command}: {words}"))
        .into()
}

/// What became of printing. A reader that has closed the pipe, such as `head`, wants no more, and that is no fault.
fn printed(command: &str, result: io::Result<()>) -> Result<(), Exit> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(unusable(command, error)),
        _ => Ok(()),
    }
}

fn demand_files(files: &[PathBuf]) -> Result<(), Exit> {
    match files {
        [] => Err(Exit::Usage("audit: name at least one file".into())),
        _ => Ok(()),
    }
}

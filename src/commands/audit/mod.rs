//! The commands about the evidence: `audit keygen`, `verify`, `show` and `report`; what they print, and their exit codes.

mod keygen;
mod quantity;
mod report;
mod show;
mod verify;

pub use keygen::{Keygen, keygen};
pub use report::{Report, report};
pub use show::{Show, show};
pub use verify::{Verify, verify};

use std::io::Write;

/// Done; for `verify`: intact.
pub const DONE: u8 = 0;
/// The log is not what was written.
pub const DAMAGED: u8 = 1;
/// A file cannot be read or written, or an argument means nothing (EX_CONFIG).
pub const UNUSABLE: u8 = 78;

/// Says on the error stream why a command could not be carried out.
fn unusable(errors: &mut dyn Write, command: &str, error: &dyn std::fmt::Display) -> u8 {
    let _ = writeln!(errors, "starttls-proxy: audit {command}: {error}"); // nowhere left to say it
    UNUSABLE
}

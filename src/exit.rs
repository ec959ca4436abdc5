//! Why the program ends, and the exit code that says so (sysexits.h).

use crate::serve;

/// Each exit code with what it says, for people.
pub const CODES: [(u8, &str); 7] = [
    (0, "all is well"),
    (
        1,
        "the answer is no: mail would be refused (check), the log is not intact (audit), the policy is not cached (policy)",
    ),
    (USAGE, "the command line is wrong"),
    (SOFTWARE, "a fault of this program"),
    (IO, "the proxy ended, and its last records are not on disk"),
    (
        TEMPORARY,
        "something that may come right by itself; start it again",
    ),
    (
        CONFIGURATION,
        "a flag's value or a file is wrong; nothing was started",
    ),
];
const USAGE: u8 = 64;
/// A panic that no session confined.
pub(crate) const SOFTWARE: u8 = 70;
const IO: u8 = 74;
const TEMPORARY: u8 = 75;
const CONFIGURATION: u8 = 78;

/// Why the program ends without having done what was asked.
#[derive(Debug)]
pub enum Exit {
    /// Exit 64: the command line.
    Usage(String),
    /// Exit 78: a flag's value, a file, an address.
    Configuration(String),
    /// Exit 75 and 74: what [`serve::ServeError`] says.
    Serving(serve::ServeError),
    /// Exit 1: it was done, and the answer is no.
    No,
}

impl From<serve::ServeError> for Exit {
    fn from(failed: serve::ServeError) -> Self {
        Self::Serving(failed)
    }
}

impl Exit {
    /// The exit code.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 64,
            Self::Configuration(_) => serve::EX_CONFIG,
            Self::Serving(failed) => failed.code,
            Self::No => 1,
        }
    }
}

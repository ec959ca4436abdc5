//! Why the program ends, and the exit code that says so (sysexits.h).

use crate::serve;

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

//! Why the program ends, and the exit code that says so. The codes are those of BSD's sysexits.h.

use crate::audit::OpenError;

/// Each exit code with what it says, for people.
pub(crate) const CODES: [(u8, &str); 8] = [
    (0, "all is well"),
    (
        NO,
        "the answer is no: mail would be refused (check), the log is not intact or lacks what is to be proved (audit), the policy \
         is not cached (policy), or there are warnings (doctor)",
    ),
    (FAULTY, "doctor found what must be mended"),
    (USAGE, "the command line is wrong"),
    (SOFTWARE, "a fault of this program"),
    (
        RECORDS_LOST,
        "the proxy ended, and its last records are not on disk",
    ),
    (
        TEMPORARY,
        "something that may come right by itself; start it again",
    ),
    (
        CONFIGURATION,
        "a flag's value or a file is wrong; nothing was started",
    ),
];

const NO: u8 = 1;
/// What Nagios calls critical; its warning is 1, too.
const FAULTY: u8 = 2;
/// EX_USAGE.
const USAGE: u8 = 64;
/// EX_SOFTWARE: a panic that ended more than one session.
pub(crate) const SOFTWARE: u8 = 70;
/// EX_IOERR.
const RECORDS_LOST: u8 = 74;
/// EX_TEMPFAIL: starting the process again may help.
const TEMPORARY: u8 = 75;
/// EX_CONFIG: starting again does not help.
const CONFIGURATION: u8 = 78;

/// Why the program ends without having done what was asked; with words for the administrator.
#[derive(Debug)]
pub enum Exit {
    /// The command was carried out, and the answer is no. The command has printed it.
    No,
    /// The same, where nothing is printed: the output has a form that words do not have.
    NoBecause(String),
    /// `doctor` found what must be mended, and has printed it.
    Faulty,
    /// The command line is wrong.
    Usage(String),
    /// A flag's value, a file or an address is wrong.
    Configuration(String),
    /// What failed may work a moment later: an address in use, a locked file, a resolver.
    Temporary(String),
    /// The process ended and its last records are not on disk.
    RecordsLost(String),
}

impl Exit {
    /// The exit code.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::No | Self::NoBecause(_) => NO,
            Self::Faulty => FAULTY,
            Self::Usage(_) => USAGE,
            Self::Configuration(_) => CONFIGURATION,
            Self::Temporary(_) => TEMPORARY,
            Self::RecordsLost(_) => RECORDS_LOST,
        }
    }
}

impl From<OpenError> for Exit {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Wrong(words) => Self::Configuration(words),
            OpenError::Temporary(words) => Self::Temporary(words),
        }
    }
}

/// What to tell the administrator; nothing where the command has told it.
impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::No | Self::Faulty => Ok(()),
            Self::NoBecause(words)
            | Self::Usage(words)
            | Self::Configuration(words)
            | Self::Temporary(words)
            | Self::RecordsLost(words) => f.write_str(words),
        }
    }
}

impl std::error::Error for Exit {}

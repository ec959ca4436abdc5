//! The levels' words.

use super::Level;
use std::{fmt, str::FromStr};

impl Level {
    /// Its name in Postfix's words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::May => "may",
            Self::Encrypt => "encrypt",
            Self::Fingerprint => "fingerprint",
            Self::Verify => "verify",
            Self::Secure => "secure",
            Self::MtaSts => "mta-sts",
            Self::Dane => "dane",
            Self::DaneOnly => "dane-only",
        }
    }

    /// Whether mail may pass in the clear under it.
    #[must_use]
    pub fn allows_plaintext(self) -> bool {
        matches!(self, Self::None | Self::May)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        const ALL: [Level; 9] = [
            Level::None,
            Level::May,
            Level::Encrypt,
            Level::Fingerprint,
            Level::Verify,
            Level::Secure,
            Level::MtaSts,
            Level::Dane,
            Level::DaneOnly,
        ];
        ALL.into_iter()
            .find(|level| level.as_str().eq_ignore_ascii_case(word))
            .ok_or_else(|| {
                let words: Vec<&str> = ALL.iter().map(|level| level.as_str()).collect();
                format!("no level {word:?}, choose one of {}", words.join(", "))
            })
    }
}

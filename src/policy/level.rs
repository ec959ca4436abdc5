//! The levels of authentication, and their words.

use std::{fmt, str::FromStr};

/// How strictly a peer is authenticated, in Postfix's words, weakest first; and `mta-sts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// No TLS at all.
    None,
    /// TLS where the peer offers it, not authenticated.
    May,
    /// TLS, not authenticated.
    Encrypt,
    /// TLS, and the certificate or its key is one of those listed.
    Fingerprint,
    /// TLS, a chain to a trust anchor, and the name of an MX host (or as `match=` says).
    Verify,
    /// TLS, a chain to a trust anchor, and the name of the domain itself (or as `match=` says).
    Secure,
    /// RFC 8461, mode enforce.
    MtaSts,
    /// RFC 7672 where usable TLSA records are published, else the next layer (see `require`).
    Dane,
    /// RFC 7672, or no delivery.
    DaneOnly,
}

impl Level {
    /// The level in Postfix's words.
    #[must_use]
    pub(crate) fn as_str(self) -> &'static str {
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

    /// Whether mail may pass in the clear under this level.
    #[must_use]
    pub(crate) fn allows_plaintext(self) -> bool {
        matches!(self, Self::None | Self::May)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

pub(super) const ALL: [Level; 9] = [
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

impl FromStr for Level {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        ALL.into_iter()
            .find(|level| level.as_str().eq_ignore_ascii_case(word))
            .ok_or_else(|| {
                let words: Vec<&str> = ALL.iter().map(|level| level.as_str()).collect();
                format!("no level {word:?}, choose one of {}", words.join(", "))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_level_is_read_as_it_is_written_and_serde_agrees() {
        for level in ALL {
            assert_eq!(level.to_string().parse(), Ok(level));
            assert_eq!(level.as_str().to_uppercase().parse(), Ok(level));
            assert_eq!(serde_json::to_value(level).expect("json"), level.as_str());
        }
        let error = "strict".parse::<Level>().expect_err("no such level");
        assert!(error.starts_with("no level \"strict\", choose one of none, may, encrypt,"));
    }
}

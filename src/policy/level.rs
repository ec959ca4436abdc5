//! The levels' words.

use super::{Level, Settings};
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

impl Settings {
    /// Whether the flags go together; asked before the first socket is bound.
    ///
    /// # Errors
    ///
    /// What contradicts itself, and what to do.
    pub fn check(&self, upstream: bool) -> Result<(), String> {
        let level = self.level;
        let wrong = |why: &str| Err(format!("--level {level}: {why}"));
        match level {
            Level::None | Level::May => wrong(
                "plaintext is never the default; write entries for those who need it into the --policy table",
            ),
            Level::Fingerprint => {
                wrong("a fingerprint belongs to one peer; write entries into the --policy table")
            }
            Level::Dane | Level::DaneOnly if !self.dane => {
                wrong("it needs DANE; leave --no-dane away")
            }
            Level::MtaSts if !self.mta_sts => wrong("it needs MTA-STS; leave --no-mta-sts away"),
            Level::MtaSts if upstream => wrong(
                "MTA-STS is about recipients' domains, not about an --upstream host; choose verify",
            ),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

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

    #[test]
    fn plaintext_and_contradictions_are_no_default() {
        let check = |level, dane, mta_sts, upstream| {
            Settings {
                level,
                dane,
                mta_sts,
                ..Settings::default()
            }
            .check(upstream)
            .is_ok()
        };
        for level in ALL {
            let may_be = !matches!(level, Level::None | Level::May | Level::Fingerprint);
            assert_eq!(check(level, true, true, false), may_be, "{level}");
            let without = matches!(level, Level::Encrypt | Level::Verify | Level::Secure);
            assert_eq!(check(level, false, false, false), without, "{level}");
            assert_eq!(
                check(level, true, true, true),
                may_be && level != Level::MtaSts,
                "{level}"
            );
        }
    }
}

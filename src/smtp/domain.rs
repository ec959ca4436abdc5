//! Domain names as they appear in mail paths, DNS and certificates.

use std::fmt;

/// A domain name in lower case, without a trailing dot, in A-labels (RFC 5890): the form that DNS and certificates use.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain(String);

impl Domain {
    /// Accepts letters, digits, `-` and `_`, in labels of 1 to 63 octets that neither begin nor end with `-`, at most 253 octets
    /// in all (RFC 5321 §4.1.2, §4.5.3.1.2), without a trailing dot; folds ASCII case. Returns `None` for anything else.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let is_label = |label: &[u8]| {
            (1..=63).contains(&label.len())
                && label[0] != b'-'
                && label[label.len() - 1] != b'-'
                && label
                    .iter()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        let well_formed = name.len() <= 253 && name.as_bytes().split(|b| *b == b'.').all(is_label);
        well_formed.then(|| Self(name.to_ascii_lowercase()))
    }

    /// The name in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without its first label; `None` for a single label.
    pub(crate) fn parent(&self) -> Option<Self> {
        self.0
            .split_once('.')
            .map(|(_, rest)| Self(rest.to_owned()))
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

//! Domain names as they appear in mail paths, DNS and certificates.

use std::fmt;

/// A domain name in lower case, without a trailing dot, in A-labels (RFC 5890): the form that DNS and certificates use.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain(String);

/// By octet: it may stand in a label.
const IN_LABELS: [bool; 256] =
    any_of(b"-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz");

/// A table by octet: it is one of these.
pub(super) const fn any_of(octets: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut at = 0;
    while at < octets.len() {
        table[octets[at] as usize] = true;
        at += 1;
    }
    table
}

impl Domain {
    /// Accepts letters, digits, `-` and `_`, in labels of 1 to 63 octets that neither begin nor end with `-`, at most 253 octets
    /// in all (RFC 5321 §4.1.2, §4.5.3.1.2), without a trailing dot; folds ASCII case. Returns `None` for anything else.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let name = name.as_bytes();
        Self::is_well_formed(name).then(|| Self::of_well_formed(name))
    }

    /// Whether [`parse`](Self::parse) accepts the name.
    pub(super) fn is_well_formed(name: &[u8]) -> bool {
        let is_label = |label: &[u8]| {
            (1..=63).contains(&label.len())
                && label[0] != b'-'
                && label[label.len() - 1] != b'-'
                && label.iter().all(|b| IN_LABELS[usize::from(*b)])
        };
        name.len() <= 253 && name.split(|b| *b == b'.').all(is_label)
    }

    /// The name, which [is well-formed](Self::is_well_formed).
    pub(super) fn of_well_formed(name: &[u8]) -> Self {
        Self(String::from_utf8_lossy(name).to_ascii_lowercase())
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

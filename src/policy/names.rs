//! Does a name in a certificate match (RFC 9525 §6.3)?

use super::NamePattern;

impl NamePattern {
    /// Whether a DNS-ID, as presented in the certificate, matches. Case does not count; a trailing dot never matches.
    #[must_use]
    pub fn matches(&self, _presented: &str) -> bool {
        todo!()
    }
}

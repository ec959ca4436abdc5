//! Names of certificates in words, and whether a certificate shows a demanded name (RFC 9525).

use super::cert::CertFacts;
use crate::policy::{Denial, NamePattern, Reason};
use std::borrow::Cow;

/// The first of `names` that the certificate shows as DNS-ID or IP-ID of its subject alternative name. The common name never counts
/// (RFC 9525 §6.3).
pub(super) fn shown_name(leaf: &CertFacts, names: &[NamePattern]) -> Result<String, Denial> {
    let shown = names.iter().find_map(|wanted| match wanted {
        NamePattern::Address(address) => leaf
            .addresses
            .iter()
            .any(|own| own.to_canonical() == address.to_canonical())
            .then(|| format!("[{address}]")),
        _ => leaf.names.iter().find(|own| wanted.matches(own)).cloned(),
    });
    shown
        .map(|name| format!("name {}", short(&name)))
        .ok_or_else(|| (Reason::CertificateHostMismatch, leaf.names_in_words()))
}

/// The first 120 characters of a text that the peer chose: a reply has no room for more.
pub(super) fn short(text: &str) -> Cow<'_, str> {
    const ROOM: usize = 120;
    match text.char_indices().nth(ROOM) {
        None => text.into(),
        Some((end, _)) => format!("{}...", &text[..end]).into(),
    }
}

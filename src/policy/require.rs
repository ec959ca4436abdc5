//! What must the peer prove? Reads table entry, findings and settings; knows no clock.

use super::{Ask, Demand, Findings, Needs, Reason, Settings, table::Entry};
use crate::smtp::Domain;

/// What `lookup` shall gather before [`require`] can answer.
#[must_use]
pub fn needs(_ask: &Ask, _entry: Option<&Entry>, _settings: &Settings) -> Needs {
    todo!()
}

/// What the peer must prove to be given mail for what is asked, or why nothing it could prove would do.
///
/// # Errors
///
/// The reason and its words, where no peer could satisfy (a look-up failed, DANE is demanded and not published, a null MX).
pub fn require(
    _ask: &Ask,
    _entry: Option<&Entry>,
    _findings: &Findings,
    _settings: &Settings,
) -> Result<Demand, (Reason, String)> {
    todo!()
}

/// Inbound: what a client must prove that an entry by sender domain or client address speaks about.
///
/// # Errors
///
/// The entry's names depend on a sender domain, and there is none (null reverse-path).
pub fn require_client(
    _sender: Option<&Domain>,
    _entry: &Entry,
    _settings: &Settings,
) -> Result<Demand, (Reason, String)> {
    todo!()
}

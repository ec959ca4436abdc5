//! Until when a peer proves what it proves now: the next date in what it presented.

use super::{cert::Date, der::Certificate, ocsp, peer::Peer};
use crate::policy::{ReferenceIdentity, dane::DANE_TA};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The next moment at which a date passes in the certificates and the OCSP response that `peer` presented, or in a trust anchor that
/// a TLSA record of `identities` holds. Which of them a proof needs makes no difference: until then, [`check`](super::Trust::check)
/// finds the same. `None`: there is no such moment.
#[must_use]
pub(crate) fn next_date<'a>(
    peer: &Peer,
    identities: impl Iterator<Item = &'a ReferenceIdentity>,
    now: SystemTime,
) -> Option<SystemTime> {
    let presented = peer
        .chain
        .iter()
        .flat_map(|cert| [cert.not_before, cert.not_after]);
    let stapled = peer.staple.as_deref().map(ocsp::dates).unwrap_or_default();
    let anchors = identities
        .filter_map(|identity| match identity {
            ReferenceIdentity::Dane { records, .. } => Some(records),
            _ => None,
        })
        .flatten()
        // Other records hold a key, which has no dates, or a digest.
        .filter(|record| (record.usage, record.selector, record.matching) == (DANE_TA, 0, 0))
        .filter_map(|record| Certificate::read(&record.data))
        .flat_map(|anchor| [Date(anchor.not_before), Date(anchor.not_after)]);
    let now = Date::of(now);
    let dates = presented.chain(stapled).chain(anchors);
    let Date(next) = dates.filter(|date| *date >= now).min()?;
    let since_1970 = Duration::from_secs(u64::try_from(next).ok()?);
    UNIX_EPOCH.checked_add(since_1970)
}

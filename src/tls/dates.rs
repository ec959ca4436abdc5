//! Until when a peer proves what it proves now: the next date in what it presented.

use super::{cert::Date, der::Certificate, ocsp, peer::Peer};
use crate::policy::{ReferenceIdentity, dane::DANE_TA};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The next moment at which a date passes in the certificates and the OCSP response that `peer` presented, or in a trust anchor
/// that a TLSA record of `identities` holds. Which of them a proof needs makes no difference: until then,
/// [`check`](super::Trust::check) finds the same. `None`: there is no such moment.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Tlsa;
    use crate::tls::{
        CertFacts,
        tests::{peer, pki::Authority},
    };

    fn at(seconds: i64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).expect("after 1970"))
    }

    #[test]
    fn the_next_date_is_the_first_that_has_not_passed_in_any_certificate_presented() {
        let authority = Authority::root("dates").below("issuer");
        let mut peer = peer(&authority.leaf(&["mx.example"]).chain);
        assert_eq!(peer.chain.len(), 2);
        for (cert, dates) in std::sync::Arc::make_mut(&mut peer.chain)
            .iter_mut()
            .zip([(100, 400), (200, 300)])
        {
            (cert.not_before, cert.not_after) = (Date(dates.0), Date(dates.1));
        }
        let next = |now| next_date(&peer, std::iter::empty(), at(now));
        let expected = [
            (0, Some(100)),
            (100, Some(100)),
            (101, Some(200)),
            (250, Some(300)),
            (301, Some(400)),
            (401, None),
        ];
        for (now, date) in expected {
            assert_eq!(next(now), date.map(at), "{now}");
        }
    }

    #[test]
    fn an_anchor_in_a_tlsa_record_has_dates_and_a_key_or_a_digest_has_none() {
        let authority = Authority::root("anchor");
        let anchor = CertFacts::read(&authority.cert);
        let nobody = peer(&[]);
        let next = |usage, selector, matching| {
            let record = Tlsa {
                usage,
                selector,
                matching,
                data: authority.cert.to_vec(),
            };
            let identity = ReferenceIdentity::Dane {
                records: vec![record],
                names: Vec::new(),
            };
            next_date(
                &nobody,
                [&identity].into_iter(),
                at(anchor.not_before.0 + 1),
            )
        };
        assert_eq!(next(2, 0, 0), Some(at(anchor.not_after.0)));
        for other in [(2, 1, 0), (2, 0, 1), (3, 0, 0)] {
            assert_eq!(next(other.0, other.1, other.2), None, "{other:?}");
        }
    }
}

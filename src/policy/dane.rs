//! DANE for SMTP (RFC 7672): which TLSA records are usable, and what a host must prove by them.

use super::{
    findings::{Dns, MxHost, Security, Tlsa},
    names::NamePattern,
    reason::Reason,
};

/// Certificate usage DANE-TA(2): a trust anchor in the server's chain (RFC 7672 §3.1.2).
pub(crate) const DANE_TA: u8 = 2;
/// Certificate usage DANE-EE(3): the server's own certificate or key (RFC 7672 §3.1.1).
pub(crate) const DANE_EE: u8 = 3;

/// What DANE says about one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Statement {
    /// One of these records must authenticate the host.
    Records(Vec<Tlsa>),
    /// DANE does not apply: a signed proof that there is no record, an unsigned zone, or no usable record. The text says which. (No
    /// usable record still demands TLS, RFC 7672 §2.2; every level that can come next does so anyway.)
    Silent(String),
    /// An answer is missing or bogus, so that it is unknown whether DANE applies: the mail is delayed (RFC 7672 §2.2).
    Unknown(Reason, String),
}

/// What DANE says about a host, from its addresses and TLSA records.
///
/// TLSA records are looked up only for secure addresses (RFC 7672 §2.2.2) or a secure alias, and count only if they are secure
/// themselves. Every failed look-up is `Unknown`, never `Silent`.
#[must_use]
pub(crate) fn statement(host: &MxHost) -> Statement {
    let (name, base) = (&host.name, &host.tlsa_base);
    if host.addresses == Dns::NotAsked {
        let why = format!("addresses of {name} were not asked for");
        return Statement::Unknown(Reason::LookupFailed, why);
    }
    match host.addresses.answer(&format!("addresses of {name}")) {
        Err((reason, why)) => return Statement::Unknown(reason, why),
        Ok((None, _)) => return Statement::Silent(format!("{name} has no addresses")),
        Ok((_, Security::Insecure)) if host.tlsa == Dns::NotAsked => {
            return Statement::Silent(format!("the addresses of {name} are not signed"));
        }
        // The name may be a secure alias of a name with insecure addresses; then its TLSA records count (RFC 7672 §2.2.3).
        Ok(_) => {}
    }
    match host.tlsa.answer(&format!("TLSA of {base}")) {
        Err((reason, why)) => Statement::Unknown(reason, why),
        Ok((None, _)) => Statement::Silent(format!("{base} has no TLSA records")),
        Ok((_, Security::Insecure)) => {
            Statement::Silent(format!("the TLSA records of {base} are not signed"))
        }
        Ok((Some(records), Security::Secure)) => match usable(records) {
            none if none.is_empty() => {
                Statement::Silent(format!("{base} has no usable TLSA record"))
            }
            some => Statement::Records(some),
        },
    }
}

/// The usable records, in the given order: those with known usage, selector and matching type and data of the right form; of these,
/// only the strongest digest of each usage and selector (RFC 7671 §9).
///
/// PKIX-TA(0) and PKIX-EE(1) are unusable for SMTP (RFC 7672 §3.1.3).
#[must_use]
pub(crate) fn usable(records: &[Tlsa]) -> Vec<Tlsa> {
    let known: Vec<&Tlsa> = records.iter().filter(|record| is_usable(record)).collect();
    let strongest = |record: &Tlsa| {
        known
            .iter()
            .filter(|other| other.usage == record.usage && other.selector == record.selector)
            .map(|other| other.matching)
            .max()
    };
    known
        .iter()
        // Matching type 0, the data itself, takes no part in digest agility (RFC 7671 §9).
        .filter(|record| record.matching == 0 || Some(record.matching) == strongest(record))
        .map(|record| (*record).clone())
        .collect()
}

fn is_usable(record: &Tlsa) -> bool {
    let sized = match record.matching {
        0 => is_der_sequence(&record.data),
        1 => record.data.len() == 32,
        2 => record.data.len() == 64,
        _ => false,
    };
    matches!(record.usage, DANE_TA | DANE_EE) && record.selector <= 1 && sized
}

/// Whether the data is exactly one DER SEQUENCE, as both a certificate and a SubjectPublicKeyInfo are.
fn is_der_sequence(data: &[u8]) -> bool {
    let (length, header) = match data {
        [0x30, short @ 0..=0x7f, ..] => (usize::from(*short), 2),
        [0x30, 0x81, a, ..] => (usize::from(*a), 3),
        [0x30, 0x82, a, b, ..] => (usize::from(u16::from_be_bytes([*a, *b])), 4),
        _ => return false,
    };
    length > 0 && data.len() == header + length
}

/// The names of which a chain to a DANE-TA(2) anchor must show one (RFC 7672 §3.2.2): the TLSA base domain, the next-hop domain, and
/// the name of which the latter is a secure alias. The caller leaves out the last two where an insecure MX RRset leads to the host,
/// since an attacker who forges that RRset chooses the host. DANE-EE(3) demands no name (RFC 7672 §3.1.1).
#[must_use]
pub(crate) fn reference_names(
    base: &str,
    next_hop: Option<&str>,
    expanded: Option<&str>,
) -> Vec<NamePattern> {
    let mut names = Vec::new();
    for name in [Some(base), next_hop, expanded].into_iter().flatten() {
        let name = NamePattern::Host(name.to_ascii_lowercase());
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tlsa(usage: u8, selector: u8, matching: u8, length: usize) -> Tlsa {
        let mut data = vec![0xab; length];
        if matching == 0 && length >= 2 {
            data[0] = 0x30;
            data[1] = u8::try_from(length - 2).expect("short form");
        }
        Tlsa {
            usage,
            selector,
            matching,
            data,
        }
    }

    fn host(addresses: Dns<Vec<std::net::IpAddr>>, tlsa: Dns<Vec<Tlsa>>) -> MxHost {
        MxHost {
            name: "mx.clinic.example".into(),
            preference: 10,
            addresses,
            missing: None,
            tlsa_base: "mx.clinic.example".into(),
            tlsa,
        }
    }

    fn here(security: Security) -> Dns<Vec<std::net::IpAddr>> {
        Dns::Found(vec!["203.0.113.9".parse().expect("address")], security)
    }

    #[test]
    fn only_records_we_can_check_are_usable() {
        for unusable in [
            tlsa(0, 1, 1, 32),
            tlsa(1, 1, 1, 32),
            tlsa(4, 1, 1, 32),
            tlsa(255, 1, 1, 32),
            tlsa(3, 2, 1, 32),
            tlsa(3, 7, 1, 32),
            tlsa(3, 1, 9, 32),
            tlsa(3, 1, 1, 31),
            tlsa(3, 1, 1, 64),
            tlsa(3, 1, 2, 32),
            tlsa(3, 1, 1, 0),
            tlsa(3, 1, 0, 0),
            tlsa(2, 0, 0, 2),
        ] {
            assert_eq!(usable(std::slice::from_ref(&unusable)), [], "{unusable:?}");
        }
        for good in [
            tlsa(2, 0, 1, 32),
            tlsa(2, 1, 2, 64),
            tlsa(3, 0, 1, 32),
            tlsa(3, 1, 2, 64),
            tlsa(3, 1, 0, 60),
        ] {
            assert_eq!(usable(std::slice::from_ref(&good)), [good]);
        }
        let trailing = Tlsa {
            data: [tlsa(3, 1, 0, 60).data, vec![0]].concat(),
            ..tlsa(3, 1, 0, 60)
        };
        assert_eq!(usable(&[trailing]), []);
    }

    #[test]
    fn the_strongest_digest_of_each_usage_and_selector_counts_alone() {
        let records = [
            tlsa(3, 1, 1, 32),
            tlsa(3, 1, 2, 64),
            tlsa(3, 1, 0, 60),
            tlsa(3, 0, 1, 32),
            tlsa(2, 1, 1, 32),
        ];
        assert_eq!(
            usable(&records),
            [
                records[1].clone(),
                records[2].clone(),
                records[3].clone(),
                records[4].clone()
            ]
        );
    }

    #[test]
    fn an_unusable_strong_digest_does_not_displace_a_usable_weak_one() {
        let weak = tlsa(3, 1, 1, 32);
        assert_eq!(usable(&[weak.clone(), tlsa(3, 1, 2, 63)]), [weak]);
    }

    #[test]
    fn a_failed_look_up_is_never_taken_for_no_record() {
        let records = Dns::Found(vec![tlsa(3, 1, 1, 32)], Security::Secure);
        for (host, reason) in [
            (
                host(Dns::Failed("timeout".into()), records.clone()),
                Reason::LookupFailed,
            ),
            (
                host(Dns::Bogus("expired".into()), records.clone()),
                Reason::DnssecInvalid,
            ),
            (host(Dns::NotAsked, records), Reason::LookupFailed),
            (
                host(here(Security::Secure), Dns::Failed("SERVFAIL".into())),
                Reason::LookupFailed,
            ),
            (
                host(here(Security::Secure), Dns::Bogus("expired".into())),
                Reason::DnssecInvalid,
            ),
            (
                host(here(Security::Secure), Dns::NotAsked),
                Reason::LookupFailed,
            ),
        ] {
            assert!(
                matches!(statement(&host), Statement::Unknown(got, _) if got == reason),
                "{host:?}"
            );
        }
    }

    #[test]
    fn one_insecure_step_makes_dane_silent() {
        let good = || Dns::Found(vec![tlsa(3, 1, 1, 32)], Security::Secure);
        let insecure = Dns::Found(vec![tlsa(3, 1, 1, 32)], Security::Insecure);
        for silent in [
            host(here(Security::Insecure), Dns::NotAsked),
            host(here(Security::Insecure), insecure.clone()),
            host(here(Security::Secure), insecure),
            host(here(Security::Secure), Dns::Absent(Security::Secure)),
            host(here(Security::Secure), Dns::Absent(Security::Insecure)),
            host(
                here(Security::Secure),
                Dns::Found(vec![tlsa(1, 1, 1, 32)], Security::Secure),
            ),
        ] {
            assert!(
                matches!(statement(&silent), Statement::Silent(_)),
                "{silent:?}"
            );
        }
        assert!(matches!(
            statement(&host(here(Security::Secure), good())),
            Statement::Records(_)
        ));
    }

    #[test]
    fn a_secure_alias_of_unsigned_addresses_has_its_own_records() {
        let records = Dns::Found(vec![tlsa(3, 1, 1, 32)], Security::Secure);
        let alias = host(here(Security::Insecure), records);
        assert!(matches!(statement(&alias), Statement::Records(_)));
        let failed = host(here(Security::Insecure), Dns::Failed("SERVFAIL".into()));
        assert!(matches!(statement(&failed), Statement::Unknown(..)));
    }

    #[test]
    fn reference_names_are_base_next_hop_and_expansion_once_each() {
        let name = |name: &str| NamePattern::Host(name.into());
        assert_eq!(
            reference_names("mx.example", Some("clinic.example"), Some("www.example")),
            [
                name("mx.example"),
                name("clinic.example"),
                name("www.example")
            ]
        );
        assert_eq!(
            reference_names("Clinic.example", Some("clinic.example"), None),
            [name("clinic.example")]
        );
    }
}

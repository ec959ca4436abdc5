//! What must the peer prove? Reads table entry, findings and settings; knows no clock.
//!
//! The first layer that applies decides, and if its proof fails, no later layer is tried:
//!
//! 1. An entry of the table. Levels none to secure decide alone; `dane`, `dane-only` and `mta-sts` say which of the next layers may
//!    or must apply.
//! 2. DANE (RFC 7672), for each host that has usable TLSA records. DANE ranks above MTA-STS only if the MX RRset is secure. An
//!    attacker who forges an insecure MX RRset could publish TLSA records for a host of his own; so if the MX RRset is insecure and
//!    there is an MTA-STS policy in mode enforce, DANE authenticates only hosts that the policy lists.
//! 3. MTA-STS (RFC 8461) in mode enforce.
//! 4. `--level`.
//!
//! Candidates are the MX hosts that have the destination's address. If none has it, all MX hosts are, since an MTA may have seen
//! other addresses than we did. A certificate may prove the name of any MX host; only a host with TLSA records must be proved by
//! these. A failed look-up neither authorises a host nor counts as "DANE is silent": while it is unknown whether DANE applies to a
//! host, that host is refused.

mod entry;
mod hosts;
mod next_hop;
mod published;

pub(crate) use entry::require_client;

use super::{
    ask::{Ask, NextHop},
    demand::{Basis, Demand, ReferenceIdentity},
    findings::{Findings, Needs},
    level::Level,
    reason::{Denial, Reason},
    settings::Settings,
    table::{Entry, Servername},
};
use crate::smtp::Recipient;
use entry::by_entry;
use hosts::{Hosts, LayerUse};
use next_hop::is_dns_name;
use published::Published;
use std::net::IpAddr;

/// The statement that decides.
enum Rule<'a> {
    /// An entry, alone.
    Entry(&'a Entry),
    /// What the domain publishes for these layers, and a level where it publishes nothing.
    Published {
        dane: LayerUse,
        sts: LayerUse,
        /// Encrypt, verify or secure.
        otherwise: Level,
    },
}

fn rule<'a>(entry: Option<&'a Entry>, settings: &Settings) -> Rule<'a> {
    let if_on = |on| {
        if on {
            LayerUse::IfPublished
        } else {
            LayerUse::Off
        }
    };
    let (dane, sts) = (if_on(settings.dane), if_on(settings.mta_sts));
    // Where DANE is silent under an entry's level `dane`, `--level` comes next; if that is a DANE or MTA-STS level too, verify.
    let otherwise = match settings.level {
        level @ (Level::Encrypt | Level::Verify | Level::Secure) => level,
        _ => Level::Verify,
    };
    let level = entry.map_or(settings.level, |entry| entry.level);
    let (dane, sts) = match (level, entry) {
        (Level::DaneOnly, _) => (LayerUse::Required, LayerUse::Off),
        (Level::Dane, _) if settings.level == Level::MtaSts => {
            (LayerUse::IfPublished, LayerUse::Required)
        }
        (Level::Dane, _) => (LayerUse::IfPublished, sts),
        (Level::MtaSts, _) => (dane, LayerUse::Required),
        (_, Some(entry)) => return Rule::Entry(entry),
        (_, None) => (dane, sts),
    };
    Rule::Published {
        dane,
        sts,
        otherwise,
    }
}

/// With `--no-dane` DNSSEC is not validated, so that no peer can satisfy an entry that demands DANE. To go on with the next layer
/// would not be what the entry says.
fn switched_off(entry: Option<&Entry>, settings: &Settings) -> Option<Denial> {
    let entry = entry.filter(|entry| matches!(entry.level, Level::Dane | Level::DaneOnly))?;
    (!settings.dane).then(|| {
        let why = format!(
            "level {} of {} cannot be had with --no-dane; leave that away, or change the entry",
            entry.level,
            entry.basis()
        );
        (Reason::NoPolicy, why)
    })
}

/// What `lookup` must gather before [`require`] can answer. For [`NextHop::Upstream`], `mx` means the addresses of the host.
#[must_use]
pub fn needs(ask: &Ask, entry: Option<&Entry>, settings: &Settings) -> Needs {
    match (&ask.next_hop, rule(entry, settings)) {
        // SNI carries the name of the MX host, even where the entry itself names what the certificate must show.
        (NextHop::Recipient(Recipient::Domain(_)), Rule::Entry(entry)) => Needs {
            mx: entry.level != Level::None
                && (entry.matches_an_mx_host()
                    || !matches!(
                        entry.servername,
                        Some(Servername::Name(_) | Servername::Nexthop)
                    )),
            ..Needs::default()
        },
        (NextHop::Recipient(Recipient::Domain(_)), Rule::Published { dane, sts, .. }) => Needs {
            mx: true,
            tlsa: dane != LayerUse::Off,
            sts: sts != LayerUse::Off,
        },
        (NextHop::Upstream(host), Rule::Published { dane, .. })
            if dane != LayerUse::Off && host.parse::<IpAddr>().is_err() =>
        {
            Needs {
                mx: true,
                tlsa: true,
                sts: false,
            }
        }
        _ => Needs::default(),
    }
}

/// What the peer must prove to receive the mail that is asked about.
///
/// # Errors
///
/// The reason and its words, where no peer could satisfy any demand: a look-up failed, DANE is demanded and not published, or the
/// domain has a null MX.
pub fn require(
    ask: &Ask,
    entry: Option<&Entry>,
    findings: &Findings,
    settings: &Settings,
) -> Result<Demand, Denial> {
    if let Some(denial) = switched_off(entry, settings) {
        return Err(denial);
    }
    let mut demand = match rule(entry, settings) {
        Rule::Entry(entry) => by_entry(ask, entry, findings)?,
        Rule::Published {
            dane,
            sts,
            otherwise,
        } => Published {
            ask,
            findings,
            dane,
            sts,
            otherwise,
            entry,
        }
        .require()?,
    };
    demand.tls13_only = settings.tls13_only || entry.is_some_and(|entry| entry.tls13_only);
    Ok(demand)
}

impl Demand {
    /// `--observe`, where [`require`] made no demand: TLS if the server offers it, with nobody authenticated and nothing enforced.
    pub(crate) fn observing(ask: &Ask, findings: &Findings) -> Self {
        let hosts = Hosts::find(ask, findings, LayerUse::Off).unwrap_or_else(|_| Hosts::none());
        let sni = hosts.candidates().next().map(|host| host.name.clone());
        Self {
            sni: sni.filter(|name| is_dns_name(name)),
            host: hosts.here(),
            references: vec![ReferenceIdentity::Anyone],
            ..Self::of_level(Level::May, Basis::Observe)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{
        findings::{Dns, Mx, MxHost, Security},
        names::NamePattern,
        table::Table,
    };
    use crate::smtp::Domain;
    use std::time::SystemTime;

    fn ask() -> Ask {
        Ask {
            next_hop: NextHop::Recipient(Recipient::Domain(
                Domain::parse("clinic.example").expect("domain"),
            )),
            server: "203.0.113.9".parse().expect("address"),
            port: 25,
        }
    }

    fn findings() -> Findings {
        let host = MxHost {
            name: "mx1.clinic.example".into(),
            preference: 10,
            addresses: Dns::Found(vec![ask().server], Security::Insecure),
            missing: None,
            tlsa_base: "mx1.clinic.example".into(),
            tlsa: Dns::NotAsked,
        };
        Findings {
            mx: Dns::Found(Mx::Hosts(vec![host]), Security::Insecure),
            ..Findings::none()
        }
    }

    #[test]
    fn without_a_demand_observing_sends_the_name_of_the_likely_host() {
        let demand = Demand::observing(&ask(), &findings());
        assert_eq!(demand.sni.as_deref(), Some("mx1.clinic.example"));
        assert!(!demand.is_enforced());
        let nothing = Demand::observing(&ask(), &Findings::none());
        assert_eq!((nothing.sni, nothing.host), (None, None));
    }

    #[test]
    fn a_client_must_prove_what_the_entry_for_its_sender_domain_names() {
        let table = Table::parse(
            "policy",
            "@a.example secure\n@b.example verify match=mx.b.example\n192.0.2.0/24 secure\n@c.example none\n",
            &mut |_| Err("no file".into()),
        )
        .expect("table");
        let require = |sender: Option<&str>| {
            let sender = sender.map(|name| Domain::parse(name).expect("domain"));
            let client = "192.0.2.7".parse().expect("address");
            let entry = table
                .find_sender(sender.as_ref(), client, SystemTime::UNIX_EPOCH)
                .expect("entry");
            require_client(sender.as_ref(), entry, &Settings::default())
        };
        let names = |sender| match require(Some(sender)).expect("demand").references.as_slice() {
            [ReferenceIdentity::Pkix { names, .. }] => names.clone(),
            other => panic!("{other:?}"),
        };
        let host = |name: &str| NamePattern::Host(name.into());
        let below = |name: &str| NamePattern::Below(name.into());
        assert_eq!(names("a.example"), [host("a.example"), below("a.example")]);
        assert_eq!(names("b.example"), [host("mx.b.example")]);
        assert_eq!(names("d.example"), [host("d.example"), below("d.example")]);
        assert!(matches!(require(None), Err((Reason::NoPolicy, _))));
        assert!(!require(Some("c.example")).expect("demand").is_enforced());
    }
}

//! The demand from what a domain publishes: DANE, MTA-STS, and its MX hosts for `--level`.

use super::{
    super::{
        ask::{Ask, NextHop},
        dane,
        demand::{Basis, Demand, ReferenceIdentity},
        findings::{Findings, Security, Sts},
        level::Level,
        mta_sts::{Mode, Policy},
        names::NamePattern,
        reason::{Denial, Reason},
        table::Entry,
    },
    hosts::{Host, Hosts, LayerUse},
    next_hop::{below, exactly, is_dns_name, next_hop_name},
};
use crate::smtp::Recipient;

/// What a domain publishes, and which layers of it count.
pub(super) struct Published<'a> {
    pub ask: &'a Ask,
    pub findings: &'a Findings,
    pub dane: LayerUse,
    pub sts: LayerUse,
    /// The level where no layer applies: encrypt, verify or secure.
    pub otherwise: Level,
    /// The table entry that names the layers, if one does.
    pub entry: Option<&'a Entry>,
}

impl Published<'_> {
    pub(super) fn require(&self) -> Result<Demand, Denial> {
        let upstream = match &self.ask.next_hop {
            NextHop::Upstream(_) => true,
            NextHop::Recipient(Recipient::Domain(_)) => false,
            other => return Err(no_entry(other, self.entry)),
        };
        if upstream && self.sts == LayerUse::Required {
            return Err((
                Reason::NoPolicy,
                "level mta-sts is about recipients' domains, not about an upstream host; choose verify".into(),
            ));
        }
        let hosts = Hosts::find(self.ask, self.findings, self.dane)?;
        if let Some(denial) = hosts.why_destination_unknown() {
            return Err(denial);
        }
        if self.dane == LayerUse::Required {
            return self.dane_only(&hosts);
        }
        let policy = if upstream { None } else { self.sts_policy()? };
        let (enforced, testing) = match policy {
            Some(policy) if policy.mode == Mode::Enforce => (Some(policy), None),
            Some(policy) if policy.mode == Mode::Testing => (None, Some(policy)),
            _ => (None, None),
        };

        // With an insecure MX RRset, DANE alone does not show that a host belongs to the domain (see the docs of `require`).
        let dane_may_speak = |host: &Host| {
            hosts.security == Security::Secure
                || enforced.is_none_or(|policy| policy.lists(&host.name))
        };
        let by_dane: Vec<&Host> = hosts
            .candidates()
            .filter(|host| matches!(host.dane, dane::Statement::Records(_)) && dane_may_speak(host))
            .collect();
        let mut demand = match self.without_dane(&hosts, enforced) {
            Ok(Some(demand)) => demand,
            Ok(None) if by_dane.is_empty() => return Err(self.why_nothing_proves(&hosts, enforced)),
            Err(denial) if by_dane.is_empty() => return Err(denial),
            Ok(None) | Err(_) => Demand::of_level(Level::Dane, Basis::Dane),
        };
        let proofs = by_dane
            .iter()
            .filter_map(|host| self.dane_reference(&hosts, host));
        demand.references.splice(0..0, proofs);
        // The first candidate, under the name that its layer sends in SNI (RFC 7672 §8.1, RFC 8461 §7.1).
        demand.sni = hosts
            .candidates()
            .find_map(|host| match host.dane {
                dane::Statement::Records(_) => dane_may_speak(host).then(|| host.base.clone()),
                dane::Statement::Silent(_) => Some(host.name.clone()),
                dane::Statement::Unknown(..) => None,
            })
            .filter(|name| is_dns_name(name));
        demand.testing =
            testing.map(|policy| ReferenceIdentity::pkix(listed(&hosts.all, policy), None));
        demand.host = hosts.here();
        demand.not_an_mx = hosts.not_an_mx;
        Ok(demand)
    }

    /// Level dane-only: the MX RRset must be secure, and only hosts with usable records count (RFC 7672).
    fn dane_only(&self, hosts: &Hosts) -> Result<Demand, Denial> {
        let basis = self.entry.map_or(Basis::Dane, Entry::basis);
        let from = match self.entry {
            Some(_) => format!("level dane-only, from {basis}"),
            None => "level dane-only".to_owned(),
        };
        if hosts.security != Security::Secure {
            return Err((
                Reason::DaneRequired,
                format!("the MX records are not signed ({from})"),
            ));
        }
        let by_dane: Vec<&Host> = hosts
            .candidates()
            .filter(|host| matches!(host.dane, dane::Statement::Records(_)))
            .collect();
        let Some(first) = by_dane.first() else {
            return Err(hosts.why_dane_unknown().unwrap_or_else(|| {
                let silent = hosts.candidates().find_map(|host| match &host.dane {
                    dane::Statement::Silent(why) => Some(why.as_str()),
                    _ => None,
                });
                let why = silent.unwrap_or("no host");
                (Reason::DaneRequired, format!("{why} ({from})"))
            }));
        };
        Ok(Demand {
            sni: Some(first.base.clone()).filter(|name| is_dns_name(name)),
            host: hosts.here(),
            references: by_dane
                .iter()
                .filter_map(|host| self.dane_reference(hosts, host))
                .collect(),
            not_an_mx: hosts.not_an_mx,
            ..Demand::of_level(Level::DaneOnly, basis)
        })
    }

    fn dane_reference(&self, hosts: &Hosts, host: &Host) -> Option<ReferenceIdentity> {
        let dane::Statement::Records(records) = &host.dane else {
            return None;
        };
        let next_hop = next_hop_name(self.ask).filter(|_| hosts.may_show_next_hop);
        let expanded = self.findings.expanded.as_deref();
        Some(ReferenceIdentity::Dane {
            records: records.clone(),
            names: dane::reference_names(
                &host.base,
                next_hop.as_deref(),
                expanded.filter(|_| hosts.may_show_next_hop),
            ),
        })
    }

    /// The MTA-STS policy that applies, if any. A policy that can neither be fetched nor found in the cache is no policy
    /// (RFC 8461 §3.3). A DNS error is a refusal, since it does not show that there is no policy.
    fn sts_policy(&self) -> Result<Option<&Policy>, Denial> {
        if self.sts == LayerUse::Off {
            return Ok(None);
        }
        match &self.findings.sts {
            Sts::Policy { policy, age, .. } => Ok(Some(policy).filter(|policy| policy.holds(*age))),
            Sts::Absent => Ok(None),
            Sts::Unavailable(
                reason @ (Reason::LookupFailed | Reason::DnssecInvalid | Reason::LocalFault),
                why,
            ) => Err((*reason, format!("MTA-STS: {why}"))),
            Sts::Unavailable(reason, why) if self.sts == LayerUse::Required => {
                Err((*reason, format!("MTA-STS: {why}")))
            }
            Sts::Unavailable(..) => Ok(None),
            Sts::NotAsked => Err((Reason::LookupFailed, "MTA-STS was not asked for".into())),
        }
    }

    /// The demand for hosts about which DANE is silent: MTA-STS in mode enforce, else the level. `None`: no candidate is such a
    /// host.
    fn without_dane(
        &self,
        hosts: &Hosts,
        enforced: Option<&Policy>,
    ) -> Result<Option<Demand>, Denial> {
        if hosts.must_match_tlsa() || !hosts.candidates().any(Host::is_silent) {
            return Ok(None);
        }
        if let Some(policy) = enforced {
            let names = listed(hosts.all.iter().filter(|host| host.is_silent()), policy);
            if names.is_empty() {
                return Err((Reason::StsPolicyInvalid, not_listed(hosts)));
            }
            let basis = match self.entry {
                Some(entry) if entry.level == Level::MtaSts => entry.basis(),
                _ => Basis::MtaSts,
            };
            return Ok(Some(Demand {
                references: vec![ReferenceIdentity::pkix(names, None)],
                ..Demand::of_level(Level::MtaSts, basis)
            }));
        }
        if self.sts == LayerUse::Required {
            let why = match &self.findings.sts {
                Sts::Policy { policy, age, .. } if policy.holds(*age) => {
                    "the MTA-STS policy is not in mode enforce"
                }
                Sts::Policy { .. } => "the MTA-STS policy is too old",
                _ => "no MTA-STS policy",
            };
            return Err((Reason::NoPolicy, format!("{why} (level mta-sts)")));
        }
        let basis = match self.ask.next_hop {
            NextHop::Upstream(_) => Basis::Upstream,
            _ => Basis::Mx,
        };
        Ok(self.by_level(hosts).map(|reference| Demand {
            references: vec![reference],
            ..Demand::of_level(self.otherwise, basis)
        }))
    }

    /// The level's demand on the hosts about which DANE is silent; `None` where the level cannot tell them from other hosts.
    fn by_level(&self, hosts: &Hosts) -> Option<ReferenceIdentity> {
        // `encrypt` and `secure` demand the same of every host. They apply only if no candidate host has TLSA records; otherwise they
        // would let that host skip DANE.
        let all_silent = hosts.candidates().all(Host::is_silent);
        match self.otherwise {
            Level::Encrypt => all_silent.then_some(ReferenceIdentity::Anyone),
            Level::Secure => next_hop_name(self.ask).filter(|_| all_silent).map(|name| {
                let names = [exactly(&name)].into_iter().chain(below(&name));
                ReferenceIdentity::pkix(names.collect(), None)
            }),
            _ => {
                let silent = hosts.all.iter().filter(|host| host.is_silent());
                let names = silent.map(Host::pattern).collect();
                Some(ReferenceIdentity::pkix(names, None))
            }
        }
    }

    /// Why no host could prove anything: a look-up that failed, else an MTA-STS policy that lists none of the hosts with TLSA
    /// records.
    fn why_nothing_proves(&self, hosts: &Hosts, enforced: Option<&Policy>) -> Denial {
        hosts.why_dane_unknown().unwrap_or_else(|| match enforced {
            Some(_) => (Reason::StsPolicyInvalid, not_listed(hosts)),
            None => (Reason::LookupFailed, "no host is known".into()),
        })
    }
}

/// The hosts that a policy lists, as name patterns: each host's own name (RFC 8461 §4.1, §4.2).
fn listed<'a>(hosts: impl IntoIterator<Item = &'a Host>, policy: &Policy) -> Vec<NamePattern> {
    hosts
        .into_iter()
        .filter(|host| policy.lists(&host.name))
        .map(Host::pattern)
        .collect()
}

fn not_listed(hosts: &Hosts) -> String {
    let names: Vec<&str> = hosts
        .all
        .iter()
        .take(3)
        .map(|host| host.name.as_str())
        .collect();
    format!(
        "the MTA-STS policy lists no MX host of the domain, which are {}",
        names.join(", ")
    )
}

/// Literals, `<postmaster>` and addresses before a recipient: only an entry that decides alone can allow them, since neither DANE
/// nor MTA-STS is about address literals (RFC 7672 §2.2, RFC 8461 §3.4).
fn no_entry(next_hop: &NextHop, entry: Option<&Entry>) -> Denial {
    let what = match next_hop {
        NextHop::Recipient(Recipient::Literal(_)) => "an address literal",
        NextHop::Recipient(Recipient::Postmaster) => "<postmaster>",
        _ => "a destination without a recipient",
    };
    match entry {
        Some(entry) => (
            Reason::NoPolicy,
            format!(
                "level {} of {} cannot speak for {what}",
                entry.level,
                entry.basis()
            ),
        ),
        None => (
            Reason::NoPolicy,
            format!(
                "only an entry of the policy table for the destination address can allow {what}"
            ),
        ),
    }
}

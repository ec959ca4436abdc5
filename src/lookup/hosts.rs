//! The mail exchangers of a domain, their addresses and their TLSA records, each with its DNSSEC state (RFC 7672 §2.2).

use super::{
    cache::Cache,
    dns::{DnsResponse, Rdata, RecordType, Rrset},
};
use crate::{
    clock,
    policy::{Dns, Missing, Mx, MxHost, Reason, Security, Tlsa},
    smtp::Domain,
};
use std::{
    net::IpAddr,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    task::JoinSet,
    time::{timeout, timeout_at},
};

/// Most MX hosts of a domain that are looked up. The others are `Failed`.
const MAX_HOSTS: usize = 20;

/// How long to wait for the addresses of the other family when those of one family are known.
const OTHER_FAMILY: Duration = Duration::from_secs(5);

/// The questions of one decision.
pub(super) struct DomainLookup {
    dns: Arc<Cache>,
    pub(super) deadline: Instant,
    /// Seconds since the oldest of the answers was received.
    age: AtomicU64,
    /// When the first of the answers ends.
    end: Mutex<Option<Instant>>,
}

impl DomainLookup {
    pub(super) fn new(dns: Arc<Cache>, deadline: Instant) -> Self {
        Self {
            dns,
            deadline,
            age: AtomicU64::new(0),
            end: Mutex::new(None),
        }
    }

    pub(super) fn age(&self) -> u64 {
        self.age.load(Ordering::Relaxed)
    }

    /// How long all answers hold from now on.
    pub(super) fn fresh_for(&self) -> Duration {
        self.end().map_or(Duration::MAX, |end| {
            end.saturating_duration_since(clock::instant())
        })
    }

    /// An answer ends then.
    pub(super) fn ends(&self, at: Instant) {
        let mut end = self.end();
        *end = Some(end.map_or(at, |end| end.min(at)));
    }

    fn end(&self) -> MutexGuard<'_, Option<Instant>> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn ask(&self, name: &str, kind: RecordType) -> Dns<Rrset> {
        self.reply(name, kind).await.answer
    }

    async fn reply(&self, name: &str, kind: RecordType) -> DnsResponse {
        match timeout_at(self.deadline.into(), self.dns.get(name, kind)).await {
            Ok(known) => {
                let age = clock::instant().duration_since(known.got).as_secs();
                self.age.fetch_max(age, Ordering::Relaxed);
                self.ends(known.end());
                (*known.reply).clone()
            }
            Err(_) => DnsResponse::failed(format!("no answer about {name} in time")),
        }
    }

    /// The MX RRset with its hosts, and the name that the domain is a secure alias of.
    pub(super) async fn mx(
        self: &Arc<Self>,
        domain: &Domain,
        tlsa_port: Option<u16>,
    ) -> (Dns<Mx>, Option<String>) {
        let reply = self.reply(domain.as_str(), RecordType::Mx).await;
        let (rrset, security) = match reply.answer {
            Dns::Found(rrset, security) => (rrset, security),
            Dns::Absent(security) => {
                // RFC 5321 §5.1: the domain itself is the host, unless it does not exist. Some servers answer NXDOMAIN for a name that
                // has addresses.
                let host = self.host(domain.as_str(), 0, tlsa_port).await;
                if reply.no_such_name && matches!(host.addresses, Dns::Absent(_)) {
                    return (Dns::Absent(security), None);
                }
                return (Dns::Found(Mx::Implicit(host), security), None);
            }
            Dns::Bogus(words) => return (Dns::Bogus(words), None),
            Dns::Failed(words) => return (Dns::Failed(words), None),
            Dns::NotAsked => return (Dns::NotAsked, None),
        };
        let alias = rrset.owner != domain.as_str() && security == Security::Secure;
        let expanded = alias.then(|| rrset.owner.clone());
        let mut exchangers: Vec<(u16, String)> = rrset
            .records
            .into_iter()
            .filter_map(|record| match record {
                Rdata::Mx(preference, name) => Some((preference, name)),
                _ => None,
            })
            .collect();
        if let [(_, name)] = exchangers.as_slice()
            && name.is_empty()
        {
            return (Dns::Found(Mx::Null, security), expanded);
        }
        // RFC 7505 §3: beside other exchangers the root means nothing.
        exchangers.retain(|(_, name)| !name.is_empty());
        exchangers.sort();
        exchangers.dedup_by(|a, b| a.1 == b.1);
        let hosts = self.hosts(exchangers, tlsa_port).await;
        (Dns::Found(Mx::Hosts(hosts), security), expanded)
    }

    async fn hosts(
        self: &Arc<Self>,
        exchangers: Vec<(u16, String)>,
        tlsa_port: Option<u16>,
    ) -> Vec<MxHost> {
        let mut hosts: Vec<MxHost> = exchangers
            .into_iter()
            .map(|(preference, name)| {
                let words = format!("more than {MAX_HOSTS} MX hosts");
                unknown(name, preference, Dns::Failed(words))
            })
            .collect();
        let mut tasks = JoinSet::new();
        for (index, host) in hosts.iter().enumerate().take(MAX_HOSTS) {
            let (asking, name) = (Arc::clone(self), host.name.clone());
            let preference = host.preference;
            tasks.spawn(async move { (index, asking.host(&name, preference, tlsa_port).await) });
        }
        while let Some(done) = tasks.join_next().await {
            if let Ok((index, host)) = done {
                hosts[index] = host;
            }
        }
        hosts
    }

    /// A and AAAA. When one is found, the other gets only a little more time, so that some is left for TLSA.
    async fn both_families(&self, name: &str) -> (Dns<Rrset>, Dns<Rrset>) {
        let (v4, v6) = (
            self.ask(name, RecordType::A),
            self.ask(name, RecordType::Aaaa),
        );
        let (mut v4, mut v6) = (pin!(v4), pin!(v6));
        tokio::select! {
            first = &mut v4 => {
                let other = self.or_soon(&first, v6).await;
                (first, other)
            }
            first = &mut v6 => (self.or_soon(&first, v4).await, first),
        }
    }

    async fn or_soon(
        &self,
        first: &Dns<Rrset>,
        other: impl Future<Output = Dns<Rrset>>,
    ) -> Dns<Rrset> {
        if !matches!(first, Dns::Found(..)) {
            return other.await;
        }
        let late = || Dns::Failed("no answer in time".to_owned());
        timeout(OTHER_FAMILY, other)
            .await
            .unwrap_or_else(|_| late())
    }

    /// Addresses and TLSA records of one host.
    pub(super) async fn host(&self, name: &str, preference: u16, tlsa_port: Option<u16>) -> MxHost {
        let name = name.to_ascii_lowercase();
        if Domain::parse(&name).is_none() || name.parse::<IpAddr>().is_ok() {
            // No host has such a name (RFC 5321 §2.3.5), so there is nothing to ask.
            return unknown(name, preference, Dns::Absent(Security::Insecure));
        }
        let (v4, v6) = self.both_families(&name).await;
        let (found, missing) = together(&name, v4, v6);
        let (tlsa_base, tlsa) = match tlsa_port {
            Some(port) => self.tlsa(&name, port, &found).await,
            None => (name.clone(), Dns::NotAsked),
        };
        MxHost {
            name,
            preference,
            addresses: map(found, |rrset| {
                let address = |record| match record {
                    Rdata::Address(address) => Some(address),
                    _ => None,
                };
                rrset.records.into_iter().filter_map(address).collect()
            }),
            missing,
            tlsa_base,
            tlsa,
        }
    }

    /// The TLSA RRset and its base domain (RFC 7672 §2.2.3, RFC 7671 §7). If all aliases and the addresses are secure, the base is the
    /// end of the aliases. If that has no TLSA records, or the end is insecure, the base is the original name, provided that it is
    /// secure.
    async fn tlsa(&self, name: &str, port: u16, found: &Dns<Rrset>) -> (String, Dns<Vec<Tlsa>>) {
        let Dns::Found(addresses, security) = found else {
            return (name.to_owned(), Dns::NotAsked);
        };
        let alias = addresses.owner != name;
        if *security == Security::Secure {
            let tlsa = self.tlsa_at(&addresses.owner, port).await;
            if !(alias && matches!(tlsa, Dns::Absent(_))) {
                return (addresses.owner.clone(), tlsa);
            }
            return (name.to_owned(), self.tlsa_at(name, port).await);
        }
        let tlsa = if alias {
            match self.ask(name, RecordType::Cname).await {
                Dns::Found(_, Security::Secure) => self.tlsa_at(name, port).await,
                Dns::Bogus(words) => Dns::Bogus(words),
                Dns::Failed(words) => Dns::Failed(words),
                Dns::Found(..) | Dns::Absent(_) | Dns::NotAsked => Dns::NotAsked,
            }
        } else {
            Dns::NotAsked
        };
        (name.to_owned(), tlsa)
    }

    async fn tlsa_at(&self, base: &str, port: u16) -> Dns<Vec<Tlsa>> {
        let answer = self
            .ask(&format!("_{port}._tcp.{base}"), RecordType::Tlsa)
            .await;
        map(answer, |rrset| {
            let tlsa = |record| match record {
                Rdata::Tlsa(tlsa) => Some(tlsa),
                _ => None,
            };
            rrset.records.into_iter().filter_map(tlsa).collect()
        })
    }
}

fn unknown(name: String, preference: u16, addresses: Dns<Vec<IpAddr>>) -> MxHost {
    let tlsa = match &addresses {
        // A question that was not asked proves no absence.
        Dns::Failed(words) => Dns::Failed(words.clone()),
        _ => Dns::NotAsked,
    };
    MxHost {
        tlsa_base: name.clone(),
        name,
        preference,
        addresses,
        missing: None,
        tlsa,
    }
}

fn map<T, U>(answer: Dns<T>, f: impl FnOnce(T) -> U) -> Dns<U> {
    match answer {
        Dns::Found(found, security) => Dns::Found(f(found), security),
        Dns::Absent(security) => Dns::Absent(security),
        Dns::Bogus(words) => Dns::Bogus(words),
        Dns::Failed(words) => Dns::Failed(words),
        Dns::NotAsked => Dns::NotAsked,
    }
}

/// Joins the answers for A and AAAA of `name` into one, as weak as the weaker (RFC 7672 §2.2.2). The second value is the family that
/// is missing although the other is there.
///
/// One family is enough if it is secure: TLSA records are then looked up at a proven name. An insecure family is enough if the other
/// has merely failed: nothing that DANE relies on can be hidden there. Bogus beside insecure stays bogus.
fn together(name: &str, v4: Dns<Rrset>, v6: Dns<Rrset>) -> (Dns<Rrset>, Option<Missing>) {
    use Dns::{Absent, Bogus, Failed, Found, NotAsked};
    use Security::{Insecure, Secure};
    let weaker = |a: Security, b: Security| if a == b { a } else { Insecure };
    let missing = |ipv6, reason, why| {
        let why = format!("{} of {name}: {why}", if ipv6 { "AAAA" } else { "A" });
        Some(Missing { ipv6, reason, why })
    };
    let apart = |a: &Rrset, b: &Rrset| {
        format!(
            "addresses of both families at different names, {} and {}",
            a.owner, b.owner
        )
    };
    let both = match (v4, v6) {
        (Found(mut a, x), Found(b, y)) if a.owner == b.owner => {
            a.records.extend(b.records);
            Found(a, weaker(x, y))
        }
        // The alias changed between the two questions. Without signatures both answers are equally good.
        (Found(mut a, Insecure), Found(b, Insecure)) => {
            a.records.extend(b.records);
            if a.owner == name {
                a.owner = b.owner;
            }
            Found(a, Insecure)
        }
        (Found(a, Secure), Found(b, _)) => {
            let why = apart(&a, &b);
            return (Found(a, Secure), missing(true, Reason::LookupFailed, why));
        }
        (Found(a, Insecure), Found(b, Secure)) => {
            let why = apart(&a, &b);
            return (Found(b, Secure), missing(false, Reason::LookupFailed, why));
        }
        (Found(a, Secure), Bogus(why)) => {
            return (Found(a, Secure), missing(true, Reason::DnssecInvalid, why));
        }
        (Bogus(why), Found(b, Secure)) => {
            return (Found(b, Secure), missing(false, Reason::DnssecInvalid, why));
        }
        (Found(a, x), Failed(why)) => {
            return (Found(a, x), missing(true, Reason::LookupFailed, why));
        }
        (Failed(why), Found(b, y)) => {
            return (Found(b, y), missing(false, Reason::LookupFailed, why));
        }
        (Bogus(words), _) | (_, Bogus(words)) => Bogus(words),
        (Failed(words), _) | (_, Failed(words)) => Failed(words),
        (NotAsked, _) | (_, NotAsked) => Failed("not asked".to_owned()),
        (Found(rrset, x), Absent(y)) | (Absent(y), Found(rrset, x)) => Found(rrset, weaker(x, y)),
        (Absent(x), Absent(y)) => Absent(weaker(x, y)),
    };
    (both, None)
}

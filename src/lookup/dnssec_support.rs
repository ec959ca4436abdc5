//! Whether the resolvers give DNSSEC signatures at all, tested at the start.

use super::{
    dns::{RecordType, Resolve, Style, Transport, any_reply, is_answer},
    dnssec::{Validator, has_signatures, trust_anchors},
    resolver_config::ResolverConfig,
};
use crate::policy::{Dns, Security};
use domain::base::{Message, Rtype, iana::OptRcode};
use hyper::body::Bytes;
use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};
use tokio::{task::JoinSet, time::timeout};

/// A resolver that has not answered within this time counts as silent.
const PATIENCE: Duration = Duration::from_secs(6);
/// A name below the root about which every root has a signed answer: a delegation, or a proof that the name does not exist. It has
/// one label: systemd-resolved 252 refuses to ask for such names.
const BELOW: &str = "com";
/// Addresses of the stub resolver in systemd-resolved (`systemd-resolved.service(8)`).
const STUBS: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 0, 53), Ipv4Addr::new(127, 0, 0, 54)];
/// The servers that systemd-resolved itself asks, in the format of `resolv.conf`.
const BEHIND_THE_STUB: &str = "/run/systemd/resolve/resolv.conf";

/// Whether DNSSEC can be used, as the resolvers' answers show.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum DnssecSupport {
    /// DANE is off, so nothing was asked.
    Off,
    /// At least one resolver gives signatures that follow from the trust anchor.
    Available {
        /// How DNSSEC is validated, in one line.
        words: String,
        /// What is wrong with the other resolvers. It costs time only.
        faults: Vec<String>,
    },
    /// No resolver answers, which shows nothing. Mail is deferred as long as that lasts.
    Unknown(String),
    /// The answers have no usable signatures. One sentence that names the resolvers and the remedy.
    Missing(String),
}

/// The same for one resolver.
enum ResolverSupport {
    Available,
    /// Why there are no signatures; words that follow the resolver's name.
    Missing(String),
    /// Why nothing can be concluded; words that follow the resolver's name.
    Unknown(String),
}

/// Asks every resolver at once.
pub(super) async fn survey(config: &ResolverConfig) -> DnssecSupport {
    if !config.dnssec {
        return DnssecSupport::Off;
    }
    let mut asking = JoinSet::new();
    for (index, &resolver) in config.resolvers.iter().enumerate() {
        let anchor = config.anchor.clone();
        asking.spawn(async move { (index, ask(resolver, anchor.as_deref()).await) });
    }
    let mut found = asking.join_all().await;
    found.sort_by_key(|(index, _)| *index);
    let (mut available, mut missing, mut unknown) = (false, Vec::new(), Vec::new());
    for (index, support) in found {
        let resolver = config.resolvers[index];
        match support {
            ResolverSupport::Available => available = true,
            ResolverSupport::Missing(words) => missing.push(format!("resolver {resolver} {words}")),
            ResolverSupport::Unknown(words) => unknown.push(format!("resolver {resolver} {words}")),
        }
    }
    if available {
        missing.append(&mut unknown);
        return DnssecSupport::Available {
            words: validated_how(config),
            faults: missing,
        };
    }
    if missing.is_empty() {
        return DnssecSupport::Unknown(format!(
            "whether DNSSEC signatures can be had is not known yet: {}; mail waits until a resolver answers",
            unknown.join("; ")
        ));
    }
    let otherwise = behind_the_stub(&config.resolvers, Path::new(BEHIND_THE_STUB));
    DnssecSupport::Missing(format!(
        "DANE is on, but DNSSEC signatures cannot be had: {}; {otherwise}, or go without DANE on purpose: --no-dane",
        missing.join("; ")
    ))
}

fn validated_how(config: &ResolverConfig) -> String {
    let anchor = match &config.anchor {
        None => "the root keys of IANA".to_owned(),
        Some(anchor) => anchor.display().to_string(),
    };
    let list: Vec<_> = config.resolvers.iter().map(ToString::to_string).collect();
    let list = list.join(", ");
    format!("DNSSEC is validated here, from {anchor}; resolvers: {list}")
}

/// The remedy for resolvers without signatures. Behind systemd-resolved it is flags that can be copied.
fn behind_the_stub(resolvers: &[SocketAddr], file: &Path) -> String {
    let is_stub = |resolver: &SocketAddr| STUBS.iter().any(|stub| resolver.ip() == *stub);
    let mut flags = String::new();
    if resolvers.iter().any(is_stub) {
        let text = fs::read_to_string(file).unwrap_or_default();
        let servers = text.lines().filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let server = words.next().filter(|word| *word == "nameserver");
            // --resolver does not take an address with a zone (`fe80::1%eth0`).
            server.and_then(|_| words.next()?.parse::<IpAddr>().ok())
        });
        for server in servers {
            // Writing to a String cannot fail.
            let _ = write!(flags, " --resolver {server}");
        }
    }
    if flags.is_empty() {
        "name a resolver that gives them: --resolver ADDRESS".to_owned()
    } else {
        format!("ask the servers behind systemd-resolved instead:{flags}")
    }
}

async fn ask(resolver: SocketAddr, anchor: Option<&Path>) -> ResolverSupport {
    match timeout(PATIENCE, questions(resolver, anchor)).await {
        Ok(shown) => shown,
        Err(_) => {
            let begun = Transport::new(vec![resolver]);
            unanswered(&begun, "does not answer".to_owned()).await
        }
    }
}

async fn questions(resolver: SocketAddr, anchor: Option<&Path>) -> ResolverSupport {
    let wire = Transport::new(vec![resolver]);
    let (keys, below) = tokio::join!(
        any_reply(&wire, ".", Rtype::DNSKEY, Style::Signatures),
        any_reply(&wire, BELOW, Rtype::DS, Style::Signatures),
    );
    let (keys, below) = match (keys, below) {
        (Ok(keys), Ok(below)) => (keys, below),
        (Err(words), Err(_)) => return unanswered(&wire, words).await,
        // One answer arrived, so the other was lost or delayed.
        (Ok(one), Err(words)) | (Err(words), Ok(one)) => {
            return fault(&one).map_or(ResolverSupport::Unknown(words), ResolverSupport::Missing);
        }
    };
    if let Some(words) = fault(&keys).or_else(|| fault(&below)) {
        return ResolverSupport::Missing(words);
    }
    if !is_answer(&keys) || !is_answer(&below) {
        let rcode = if is_answer(&keys) { &below } else { &keys }.opt_rcode();
        return unanswered(&wire, format!("says {rcode}")).await;
    }
    let anchors = match trust_anchors(anchor) {
        Ok(anchors) => anchors,
        Err(words) => return ResolverSupport::Unknown(words),
    };
    // To prove that the root has no MX record takes the keys, their signatures, and a signed proof of absence.
    match Validator::new(wire, anchors)
        .resolve(".", RecordType::Mx)
        .await
        .answer
    {
        Dns::Found(_, Security::Secure) | Dns::Absent(Security::Secure) => {
            ResolverSupport::Available
        }
        Dns::Found(..) | Dns::Absent(_) | Dns::NotAsked => {
            ResolverSupport::Missing("says that the root is not signed".to_owned())
        }
        Dns::Bogus(words) => ResolverSupport::Missing(format!(
            "gives signatures of the root that do not follow from the trust anchor (look at the clock, and at --dnssec-anchor; {words})"
        )),
        Dns::Failed(words) => ResolverSupport::Unknown(words),
    }
}

/// The fault that an answer shows in its resolver. SERVFAIL shows none: a resolver also sends it while it cannot reach other servers.
fn fault(answer: &Message<Bytes>) -> Option<String> {
    match answer.opt_rcode() {
        OptRcode::SERVFAIL => None,
        OptRcode::NOERROR | OptRcode::NXDOMAIN if has_signatures(answer) => None,
        OptRcode::NOERROR | OptRcode::NXDOMAIN => Some("answers without them".to_owned()),
        rcode => Some(format!(
            "answers {rcode} to a question for keys and their signatures"
        )),
    }
}

/// There was no answer to a question for signatures. That is the resolver's fault only if it answers a question without them.
async fn unanswered(wire: &Transport, words: String) -> ResolverSupport {
    let plain = timeout(PATIENCE / 2, any_reply(wire, ".", Rtype::SOA, Style::Plain));
    match plain.await {
        Ok(Ok(answer)) if answer.opt_rcode() == OptRcode::NOERROR => ResolverSupport::Missing(
            "answers questions, but none for keys and their signatures".to_owned(),
        ),
        _ => ResolverSupport::Unknown(words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_systemd_resolved_the_flags_to_copy_name_what_it_asks() {
        let folder = crate::tls::tests::pki::Scratch::new();
        let file = folder.0.join("resolv.conf");
        let text = "# made by systemd-resolved\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver 2001:db8::53\nsearch .\n";
        fs::write(&file, text).unwrap();
        for (resolver, words) in [
            (
                "127.0.0.53:53",
                "ask the servers behind systemd-resolved instead: --resolver 192.0.2.1 --resolver 2001:db8::53",
            ),
            (
                "192.0.2.7:53",
                "name a resolver that gives them: --resolver ADDRESS",
            ),
        ] {
            assert_eq!(behind_the_stub(&[resolver.parse().unwrap()], &file), words);
        }
        fs::remove_file(&file).unwrap();
        let words = behind_the_stub(&["127.0.0.53:53".parse().unwrap()], &file);
        assert!(words.ends_with("--resolver ADDRESS"), "{words}");
    }
}

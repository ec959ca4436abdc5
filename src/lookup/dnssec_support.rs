//! Whether DNSSEC signatures can be had at all, told from what the resolvers answer at a start.

use super::{
    ResolverConfig,
    dns::{RecordType, Resolve, Style, Transport, any_reply, is_answer},
    dnssec::{Validator, has_signatures, trust_anchors},
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

/// A resolver that has not answered by then is silent.
const PATIENCE: Duration = Duration::from_secs(6);
/// A name below the root that every root says something signed about: that it is delegated, or that it does not exist. It has one
/// label, for which systemd-resolved 252 refuses to ask.
const BELOW: &str = "com";
/// Where systemd-resolved listens; the second address does not follow its own names.
const STUBS: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 0, 53), Ipv4Addr::new(127, 0, 0, 54)];
/// What systemd-resolved itself asks, in the form of `resolv.conf`.
const BEHIND_THE_STUB: &str = "/run/systemd/resolve/resolv.conf";

/// What the resolvers' answers show about DNSSEC.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum DnssecSupport {
    /// Not used: DANE is off.
    Off,
    /// At least one resolver gives signatures that follow from the trust anchor.
    Available {
        /// How DNSSEC is validated, in one line.
        words: String,
        /// What is wrong with the other resolvers; it costs time only.
        faults: Vec<String>,
    },
    /// No resolver answers, which shows nothing: mail is deferred for as long as that lasts.
    Unknown(String),
    /// Answers show that signatures cannot be had. One sentence that says whose answers, and what to do.
    Missing(String),
}

/// What one resolver's answers show.
enum ResolverSupport {
    Available,
    /// Why there are none; words behind the resolver's name.
    Missing(String),
    /// Why it cannot be told; words behind the resolver's name.
    Unknown(String),
}

impl ResolverConfig {
    pub(super) async fn dnssec_support(&self) -> DnssecSupport {
        if !self.dnssec {
            return DnssecSupport::Off;
        }
        let mut asking = JoinSet::new();
        for (index, &resolver) in self.resolvers.iter().enumerate() {
            let anchor = self.anchor.clone();
            asking.spawn(async move { (index, ask(resolver, anchor.as_deref()).await) });
        }
        let mut shown = asking.join_all().await;
        shown.sort_by_key(|(index, _)| *index);
        let (mut good, mut none, mut silent) = (false, Vec::new(), Vec::new());
        for (index, shown) in shown {
            let resolver = self.resolvers[index];
            match shown {
                ResolverSupport::Available => good = true,
                ResolverSupport::Missing(words) => {
                    none.push(format!("resolver {resolver} {words}"))
                }
                ResolverSupport::Unknown(words) => {
                    silent.push(format!("resolver {resolver} {words}"))
                }
            }
        }
        if good {
            none.append(&mut silent);
            return DnssecSupport::Available {
                words: self.words(),
                faults: none,
            };
        }
        if none.is_empty() {
            return DnssecSupport::Unknown(format!(
                "whether DNSSEC signatures can be had is not known yet: {}; mail waits until a resolver answers",
                silent.join("; ")
            ));
        }
        let otherwise = behind_the_stub(&self.resolvers, Path::new(BEHIND_THE_STUB));
        DnssecSupport::Missing(format!(
            "DANE is on, but DNSSEC signatures cannot be had: {}; {otherwise}, or go without DANE on purpose: --no-dane",
            none.join("; ")
        ))
    }

    fn words(&self) -> String {
        let anchor = match &self.anchor {
            None => "the root keys of IANA".to_owned(),
            Some(anchor) => anchor.display().to_string(),
        };
        let list: Vec<_> = self.resolvers.iter().map(ToString::to_string).collect();
        let list = list.join(", ");
        format!("DNSSEC is validated here, from {anchor}; resolvers: {list}")
    }
}

/// What to do about resolvers without signatures: ready to copy where systemd-resolved stands between us and others.
fn behind_the_stub(resolvers: &[SocketAddr], file: &Path) -> String {
    let is_stub = |resolver: &SocketAddr| STUBS.iter().any(|stub| resolver.ip() == *stub);
    let mut flags = String::new();
    if resolvers.iter().any(is_stub) {
        let text = fs::read_to_string(file).unwrap_or_default();
        let servers = text.lines().filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let server = words.next().filter(|word| *word == "nameserver");
            // An address with a zone (`fe80::1%eth0`) is none that can be given to --resolver.
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
        // One of them came, so that the other was lost or held up.
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
    // That there is no MX record at the root takes the keys, their signatures, and a proof of absence.
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

/// What an answer shows against its resolver. SERVFAIL is no such answer: a resolver says it, too, while it cannot reach others.
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

/// Nothing came of a question for signatures. That shows something only if the same resolver answers one without.
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

//! One decision as one object: for the log, `check`, and the record.

use super::{
    Ask, Basis, Decision, Demand, Findings, Level, Moment, NextHop, Reason, ReferenceIdentity,
    Settings, Sts, Verdict, refusal, require,
};
use crate::smtp::{Recipient, Refusal};
use data_encoding::HEXLOWER;
use jiff::Timestamp;
use serde::ser::{Serialize, SerializeStruct, Serializer};
use std::{fmt, sync::Arc, time::SystemTime};

impl Decision {
    /// Puts it together and words the refusal, if it is one.
    #[must_use]
    pub fn new(
        ask: Ask,
        findings: Option<Arc<Findings>>,
        demand: Option<Demand>,
        verdict: Verdict,
        moment: Moment,
        settings: &Settings,
        at: SystemTime,
    ) -> Self {
        let refusal = match &verdict {
            Verdict::Refused(reason, text) => Some(refusal(
                &ask,
                findings.as_deref(),
                demand.as_ref(),
                *reason,
                text,
                moment,
                settings,
            )),
            Verdict::Authorised(_) | Verdict::Unprotected(_) => None,
        };
        Self {
            ask,
            findings,
            demand,
            verdict,
            refusal,
            observed: settings.observe,
            at,
        }
    }

    /// The refusal that must be given; `None` where mail may flow (also with `--observe`).
    #[must_use]
    pub fn refused(&self) -> Option<&Refusal> {
        self.refusal.as_ref().filter(|_| !self.observed)
    }
}

impl Demand {
    /// `--observe`, where [`super::require`] made no demand: TLS if it can be had, nobody authenticated, nothing enforced.
    #[must_use]
    pub fn observing(ask: &Ask, findings: &Findings) -> Self {
        let (sni, host) = require::likely_host(ask, findings);
        Self {
            level: Level::May,
            basis: Basis::Observe,
            sni,
            host,
            references: vec![ReferenceIdentity::Anyone],
            tls13_only: false,
            testing: None,
            not_an_mx: false,
        }
    }
}

impl Sts {
    /// Why an announced policy could not be had, or not anew; one that is cached may hold all the same.
    #[must_use]
    pub fn fault(&self) -> Option<Reason> {
        match self {
            Self::Unavailable(reason, _) => Some(*reason),
            Self::Policy { refresh_failed, .. } => {
                refresh_failed.as_ref().map(|(reason, _)| *reason)
            }
            Self::Absent | Self::NotAsked => None,
        }
    }
}

impl Verdict {
    /// `authorised`, `unprotected` or `refused`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Authorised(_) => "authorised",
            Self::Unprotected(_) => "unprotected",
            Self::Refused(..) => "refused",
        }
    }

    /// What matched, or why not.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Authorised(text) | Self::Unprotected(text) | Self::Refused(_, text) => text,
        }
    }
}

/// As in the log: `to=203.0.113.9:25 domain=clinic.example verdict=refused reason=certificate-host-mismatch level=verify
/// basis=MX sni=mx1.clinic.example text="names *.hoster.example"`. What came from the wire is escaped.
impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = std::net::SocketAddr::new(self.ask.server, self.ask.port);
        write!(f, "to={to}")?;
        let (key, name) = self.ask.next_hop.named();
        if let Some(name) = name {
            write!(f, " {key}={}", escaped(&name))?;
        }
        write!(f, " verdict={}", self.verdict.word())?;
        if self.observed {
            f.write_str(" observed=yes")?;
        }
        if let Verdict::Refused(reason, _) = &self.verdict {
            write!(f, " reason={}", reason.word())?;
        }
        if let Some(demand) = &self.demand {
            write!(
                f,
                " level={} basis={}",
                demand.level,
                escaped(&demand.basis.to_string())
            )?;
            if let Some(sni) = &demand.sni {
                write!(f, " sni={sni}")?;
            }
        }
        write!(f, " text=\"{}\"", self.verdict.text().escape_default())
    }
}

impl NextHop {
    /// The key that names it in log and record, and the name.
    fn named(&self) -> (&'static str, Option<String>) {
        match self {
            Self::Recipient(Recipient::Domain(domain)) => ("domain", Some(domain.to_string())),
            Self::Recipient(Recipient::Literal(literal)) => ("literal", Some(literal.clone())),
            Self::Recipient(Recipient::Postmaster) => ("domain", Some("<postmaster>".into())),
            Self::Upstream(host) => ("upstream", Some(host.clone())),
            Self::Address => ("address", None),
        }
    }
}

/// A value without white space, quotes and what is not printable, so that it stays one word of the line.
fn escaped(value: &str) -> String {
    value
        .chars()
        .flat_map(|c| match c {
            ' ' => "\\x20".chars().collect::<Vec<_>>(),
            _ => c.escape_default().collect(),
        })
        .collect()
}

impl Serialize for Ask {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (key, name) = self.next_hop.named();
        let mut ask = serializer.serialize_struct("Ask", 3)?;
        if let Some(name) = name {
            ask.serialize_field(key, &name)?;
        }
        ask.serialize_field("server", &self.server)?;
        ask.serialize_field("port", &self.port)?;
        ask.end()
    }
}

impl Serialize for Verdict {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut verdict = serializer.serialize_struct("Verdict", 3)?;
        verdict.serialize_field("verdict", self.word())?;
        if let Self::Refused(reason, _) = self {
            verdict.serialize_field("reason", reason)?;
        }
        verdict.serialize_field("text", self.text())?;
        verdict.end()
    }
}

impl Serialize for Decision {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut decision = serializer.serialize_struct("Decision", 7)?;
        // A clock before 1970 is broken, and cannot be written as a date here.
        let at = self.at.max(SystemTime::UNIX_EPOCH);
        let at = Timestamp::try_from(at).unwrap_or(Timestamp::MAX);
        decision.serialize_field("at", &format_args!("{at:.6}"))?;
        decision.serialize_field("ask", &self.ask)?;
        decision.serialize_field("findings", &self.findings.as_deref())?;
        decision.serialize_field("demand", &self.demand)?;
        decision.serialize_field("outcome", &self.verdict)?;
        decision.serialize_field("reply", &self.refusal.as_ref().map(ToString::to_string))?;
        decision.serialize_field("observed", &self.observed)?;
        decision.end()
    }
}

/// Octets as lower-case hex, in records.
pub(super) fn hex<S: Serializer>(octets: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&HEXLOWER.encode_display(octets))
}

/// Several of them.
pub(super) fn hex_list<S: Serializer>(list: &[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(list.iter().map(|octets| HEXLOWER.encode(octets)))
}

/// How many trust anchors, in place of the certificates themselves.
#[allow(clippy::ref_option, reason = "serde passes the field by reference")]
pub(super) fn count<S: Serializer>(
    anchors: &Option<Arc<Vec<Vec<u8>>>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    anchors
        .as_ref()
        .map(|anchors| anchors.len())
        .serialize(serializer)
}

/// Where it comes from, as words behind "from".
impl fmt::Display for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table { file, line, .. } => write!(f, "{file}:{line}"),
            Self::Dane => f.write_str("TLSA"),
            Self::MtaSts => f.write_str("MTA-STS"),
            Self::Mx => f.write_str("MX"),
            Self::Upstream => f.write_str("--upstream"),
            Self::Exempt(prefix) => write!(f, "--exempt {prefix}"),
            Self::Observe => f.write_str("--observe"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        policy::{Dns, Mx, MxHost, NamePattern, Reason, Security, table::Table},
        smtp::Domain,
    };

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

    fn demand() -> Demand {
        let settings = Settings {
            dane: false,
            mta_sts: false,
            ..Settings::default()
        };
        require::require(&ask(), None, &findings(), &settings).expect("demand")
    }

    fn decide(verdict: Verdict, observe: bool) -> Decision {
        Decision::new(
            ask(),
            Some(Arc::new(findings())),
            Some(demand()),
            verdict,
            Moment::FirstRecipient,
            &Settings {
                observe,
                ..Settings::default()
            },
            SystemTime::UNIX_EPOCH,
        )
    }

    fn mismatch() -> Verdict {
        let words = "names \"evil\r\n\u{1b}[2J.example\"";
        Verdict::Refused(Reason::CertificateHostMismatch, words.into())
    }

    #[test]
    fn observing_decides_the_same_and_lets_mail_flow() {
        let (enforced, observed) = (decide(mismatch(), false), decide(mismatch(), true));
        assert_eq!(enforced.refusal, observed.refusal);
        assert!(enforced.refused().is_some() && observed.refused().is_none());
        assert_eq!(enforced.verdict, observed.verdict);
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
    fn the_log_line_is_one_line_whatever_the_wire_said() {
        assert_eq!(
            decide(mismatch(), true).to_string(),
            "to=203.0.113.9:25 domain=clinic.example verdict=refused observed=yes reason=certificate-host-mismatch \
             level=verify basis=MX sni=mx1.clinic.example text=\"names \\\"evil\\r\\n\\u{1b}[2J.example\\\"\""
        );
        let mut literal = decide(Verdict::Authorised("x".into()), false);
        literal.ask.next_hop = NextHop::Recipient(Recipient::Literal("[a b\n\"]".into()));
        assert!(
            literal
                .to_string()
                .contains(" literal=[a\\x20b\\n\\\"] verdict=authorised ")
        );
    }

    #[test]
    fn as_json_it_says_what_was_asked_found_demanded_and_what_came_of_it() {
        let json = serde_json::to_value(decide(mismatch(), false)).expect("json");
        assert_eq!(json["at"], "1970-01-01T00:00:00.000000Z");
        assert_eq!(json["ask"]["domain"], "clinic.example");
        assert_eq!(json["findings"]["mx"]["found"][1], "insecure");
        assert_eq!(json["demand"]["level"], "verify");
        assert_eq!(json["demand"]["basis"], "mx");
        assert_eq!(json["outcome"]["verdict"], "refused");
        assert_eq!(json["outcome"]["reason"], "certificate-host-mismatch");
        let reply = json["reply"].as_str().expect("reply");
        assert!(reply.starts_with("421 4.7.5 clinic.example: mx1.clinic.example[203.0.113.9]"));
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
            require::require_client(sender.as_ref(), entry, &Settings::default())
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

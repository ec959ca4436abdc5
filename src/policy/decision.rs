//! One decision as one object: for the log, `check`, and the record.

use super::{
    Ask, Basis, Decision, Demand, Findings, Level, Moment, NextHop, ReferenceIdentity, Settings,
    Verdict, refusal, require,
};
use crate::smtp::{Recipient, Refusal};
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
            enforced: false,
            testing: None,
            not_an_mx: false,
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
        let at = humantime::format_rfc3339_micros(at).to_string();
        decision.serialize_field("at", &at)?;
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
    serializer.serialize_str(&hex_of(octets))
}

/// Several of them.
pub(super) fn hex_list<S: Serializer>(list: &[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(list.iter().map(|octets| hex_of(octets)))
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

fn hex_of(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
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

//! What can happen in a session, one struct each. A fact alone makes its log line, its counters and its record, so that the three
//! can only say the same; [`Evidence`](super::evidence::Evidence) tells it, and adds whose session it was.
//!
//! A fact needs no audit log: without one its line and its counters are made all the same.

mod heard;

pub use heard::Heard;

use std::fmt::Write as _;

use crate::{
    audit::{self, AuditLog, OutcomeField, Record, VerdictField, WireText},
    metrics::{self, Metrics},
    policy::{Decision, NextHop},
    smtp::{Completed, Keyword, Recipient, Refusal, Side},
    tls::{HandshakeFault, Peer, sha256},
};

use super::{
    memory::Remembered,
    records::{peer_record, tls_record, word},
};

/// Whether a fact's line and record must be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// A message, or what one rests on: written whatever it costs.
    Always,
    /// Anybody who can connect makes as many as he likes: written while his budget lasts, then counted.
    WithinBudget,
}

/// What repeats of a fact have in common within a session: they are counted, and neither logged nor written again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The record's `event`.
    pub event: &'static str,
    /// The domain that it is about.
    pub domain: Option<String>,
    /// The verdict.
    pub verdict: Option<VerdictField>,
    /// The reason.
    pub reason: Option<String>,
    /// Nothing was enforced.
    pub observed: bool,
    /// Whatever else must be the same.
    pub more: String,
}

/// One thing that happened.
pub trait Fact {
    /// `None`: it is told each time.
    fn kind(&self) -> Option<Kind> {
        None
    }
    /// Counted each time.
    fn count(&self, _metrics: &Metrics) {}
    /// The end of its log line: `key=value` pairs.
    fn line(&self) -> Option<(log::Level, String)>;
    /// Its record in this session, where it has one.
    fn record(&self, _audit: &AuditLog, _session: audit::SessionField) -> Option<Record> {
        None
    }
    /// Whether its line and record must be written.
    fn keep(&self) -> Keep {
        Keep::Always
    }
}

/// A client connected. Told with the first record of its session.
pub struct Opened;

impl Fact for Opened {
    fn line(&self) -> Option<(log::Level, String)> {
        None
    }
    fn record(&self, _audit: &AuditLog, session: audit::SessionField) -> Option<Record> {
        Some(Record::SessionOpened(audit::SessionOpenedRecord {
            session,
        }))
    }
}

/// TLS is up on the outside.
pub struct Secured<'a>(pub &'a Peer);

impl Fact for Secured<'_> {
    fn count(&self, metrics: &Metrics) {
        metrics.count(metrics::HANDSHAKES, "done");
    }
    fn line(&self) -> Option<(log::Level, String)> {
        let facts = &self.0.facts;
        let sni = facts.sni.as_deref().map_or_else(|| "-".into(), printable);
        let line = format!(
            "tls={} suite={} group={} sni={sni}",
            facts.version, facts.suite, facts.group
        );
        Some((log::Level::Info, line))
    }
    // A message's own record says it again.
    fn keep(&self) -> Keep {
        Keep::WithinBudget
    }
}

/// A handshake with an outside client failed.
pub struct HandshakeFailed<'a>(pub &'a str);

impl Fact for HandshakeFailed<'_> {
    fn count(&self, metrics: &Metrics) {
        metrics.count(metrics::HANDSHAKES, "failed");
    }
    fn line(&self) -> Option<(log::Level, String)> {
        let line = format!(
            "verdict=refused reason=validation-failure detail={:?}",
            self.0
        );
        Some((log::Level::Warn, line))
    }
    fn record(&self, _audit: &AuditLog, session: audit::SessionField) -> Option<Record> {
        Some(Record::Refusal(Box::new(audit::RefusalRecord {
            session,
            domain: None,
            level: None,
            reason: String::from("validation-failure"),
            remembered: false,
            reply: None,
            detail: Some(self.0.to_owned()),
        })))
    }
    fn keep(&self) -> Keep {
        Keep::WithinBudget
    }
}

/// The policy decided.
pub struct Judged<'a> {
    /// What it said.
    pub entry: &'a audit::DecisionField,
    /// For whom: `@domain`; `None` where the peer as such was judged.
    pub address: Option<String>,
    /// The reply that refuses, given or (observed) not.
    pub reply: Option<&'a Refusal>,
    /// Who was judged, where TLS is up.
    pub peer: Option<&'a Peer>,
}

impl Judged<'_> {
    /// For whom a decision was made.
    #[must_use]
    pub fn address(decision: &Decision) -> Option<String> {
        match &decision.ask.next_hop {
            NextHop::Recipient(Recipient::Domain(domain)) => Some(format!("@{domain}")),
            NextHop::Recipient(Recipient::Literal(literal)) => Some(format!("@{literal}")),
            NextHop::Recipient(Recipient::Postmaster) => Some(String::from("postmaster")),
            NextHop::Upstream(_) | NextHop::Address => None,
        }
    }

    fn is_refused(&self) -> bool {
        self.entry.verdict == VerdictField::Refused && !self.entry.observed
    }
}

impl Fact for Judged<'_> {
    fn kind(&self) -> Option<Kind> {
        let entry = self.entry;
        Some(Kind {
            event: match entry.verdict {
                VerdictField::Unprotected => "unprotected",
                VerdictField::Authorised | VerdictField::Refused => "verdict",
            },
            domain: Some(entry.domain.clone()),
            verdict: Some(entry.verdict),
            reason: entry.reason.clone(),
            observed: entry.observed,
            // The words of a certificate can be long.
            more: sha256(
                format!(
                    "{:?} {:?} {:?} {} {}",
                    entry.level,
                    entry.basis,
                    entry.rule,
                    entry.detail,
                    self.peer.is_some()
                )
                .as_bytes(),
            ),
        })
    }
    fn count(&self, metrics: &Metrics) {
        let entry = self.entry;
        let observed = entry.observed && entry.reason.is_some();
        let verdict = if observed {
            "observed"
        } else {
            word(entry.verdict)
        };
        metrics.count(metrics::VERDICTS, verdict);
        if let (true, Some(reason)) = (self.is_refused(), &entry.reason) {
            metrics.count(metrics::REFUSALS, reason);
        }
    }
    fn line(&self) -> Option<(log::Level, String)> {
        let entry = self.entry;
        let mut line = format!(
            "domain={} verdict={}",
            printable(&entry.domain),
            word(entry.verdict)
        );
        // Writing to a String cannot fail.
        if let Some(reason) = &entry.reason {
            let _ = write!(line, " reason={reason}");
        }
        let level = entry.level.as_deref().unwrap_or("-");
        let basis = entry.basis.as_deref().unwrap_or("-");
        let _ = write!(line, " level={level} basis={basis}");
        if let Some(rule) = &entry.rule {
            let _ = write!(line, " rule={}", printable(rule));
        }
        if let Some(why) = &entry.why {
            let _ = write!(line, " why={why:?}");
        }
        if entry.observed {
            line.push_str(" observed=yes");
        }
        let level = match entry.verdict {
            VerdictField::Authorised => log::Level::Info,
            VerdictField::Unprotected | VerdictField::Refused => log::Level::Warn,
        };
        let _ = match self.reply {
            Some(reply) => write!(line, " reply={}", quoted(reply)),
            None => write!(line, " detail={:?}", entry.detail),
        };
        Some((level, line))
    }
    fn record(&self, audit: &AuditLog, session: audit::SessionField) -> Option<Record> {
        let tls = self.peer.map(tls_record);
        let decision = self.entry.clone();
        Some(if decision.verdict == VerdictField::Unprotected {
            Record::Unprotected(Box::new(audit::UnprotectedRecord {
                session,
                decision,
                tls,
            }))
        } else {
            Record::Verdict(Box::new(audit::VerdictRecord {
                session,
                address: self
                    .address
                    .as_ref()
                    .map(|address| audit.address(address.as_bytes())),
                decision,
                reply: self.reply.map(|reply| reply.to_string().as_str().into()),
                tls,
                peer: self.peer.and_then(peer_record),
            }))
        })
    }
    fn keep(&self) -> Keep {
        match self.is_refused() {
            true => Keep::WithinBudget,
            false => Keep::Always,
        }
    }
}

/// A refusal of our own that is no verdict. Those that are ([`Cause::Verdict`](crate::smtp::Cause::Verdict)) are [`Judged`], and no fact of their own.
pub struct Refused<'a> {
    /// What the client was told.
    pub refusal: &'a Refusal,
    /// The domain that it is about, where there is one.
    pub domain: Option<&'a str>,
}

impl Fact for Refused<'_> {
    fn kind(&self) -> Option<Kind> {
        Some(Kind {
            event: "refusal",
            domain: self.domain.map(str::to_owned),
            verdict: None,
            reason: Some(self.refusal.cause.word().to_owned()),
            observed: false,
            more: self.refusal.code.to_string(),
        })
    }
    fn count(&self, metrics: &Metrics) {
        metrics.count(metrics::REFUSALS, self.refusal.cause.word());
    }
    fn line(&self) -> Option<(log::Level, String)> {
        let mut line = String::from("verdict=refused");
        if let Some(domain) = self.domain {
            let _ = write!(line, " domain={}", printable(domain));
        }
        let reason = self.refusal.cause.word();
        let _ = write!(line, " reason={reason} reply={}", quoted(self.refusal));
        Some((log::Level::Warn, line))
    }
    fn record(&self, _audit: &AuditLog, session: audit::SessionField) -> Option<Record> {
        Some(Record::Refusal(Box::new(audit::RefusalRecord {
            session,
            domain: self.domain.map(str::to_owned),
            level: None,
            reason: self.refusal.cause.word().to_owned(),
            remembered: false,
            reply: Some(self.refusal.to_string().as_str().into()),
            detail: None,
        })))
    }
    fn keep(&self) -> Keep {
        Keep::WithinBudget
    }
}

/// A session is refused at its greeting for what another one met a short while ago.
pub struct RefusedAgain<'a> {
    /// What that was.
    pub first: &'a Remembered,
    /// What the client is told.
    pub refusal: &'a Refusal,
}

impl Fact for RefusedAgain<'_> {
    fn count(&self, metrics: &Metrics) {
        metrics.count(metrics::REFUSALS, self.first.reason);
    }
    fn line(&self) -> Option<(log::Level, String)> {
        let domain = self.first.domain.as_deref();
        let line = format!(
            "domain={} verdict=refused reason={} level={} remembered=yes reply={}",
            domain.map_or_else(|| "-".into(), printable),
            self.first.reason,
            self.first.level.as_deref().unwrap_or("-"),
            quoted(self.refusal),
        );
        Some((log::Level::Warn, line))
    }
    fn record(&self, _audit: &AuditLog, session: audit::SessionField) -> Option<Record> {
        Some(Record::Refusal(Box::new(audit::RefusalRecord {
            session,
            domain: self.first.domain.clone(),
            level: self.first.level.clone(),
            reason: self.first.reason.to_owned(),
            remembered: true,
            reply: Some(self.refusal.to_string().as_str().into()),
            detail: None,
        })))
    }
    fn keep(&self) -> Keep {
        Keep::WithinBudget
    }
}

/// A rule of the protocol was broken, or something else that a log should name in one word.
pub struct Incident(pub &'static str);

impl Fact for Incident {
    fn count(&self, metrics: &Metrics) {
        metrics.count(metrics::INCIDENTS, self.0);
    }
    fn line(&self) -> Option<(log::Level, String)> {
        Some((log::Level::Warn, format!("incident={}", self.0)))
    }
    fn keep(&self) -> Keep {
        Keep::WithinBudget
    }
}

/// The server lacks inside TLS what it offered before, and the client used it.
pub struct Lacking(pub Keyword);

impl Fact for Lacking {
    fn line(&self) -> Option<(log::Level, String)> {
        let line = format!(
            "lacking={:?} detail=\"not shown to this client's next session with this server\"",
            self.0
        );
        Some((log::Level::Info, line))
    }
}

/// A message was handed over, or may have been.
pub struct Handed<'a> {
    /// What the machine knows of it.
    pub message: &'a Completed,
    /// Its number within the session.
    pub number: u64,
    /// `out` or `in`.
    pub direction: &'static str,
    /// Name of this machine.
    pub host: &'a str,
    /// SHA-256 of the configuration in force.
    pub configuration: &'a str,
    /// SHA-256 of its octets.
    pub sha256: String,
    /// One for each domain of its recipients, or the one for its sender.
    pub decisions: Vec<audit::DecisionField>,
    /// Who was at the other end of the outside link, where it had TLS.
    pub peer: Option<&'a Peer>,
}

impl Handed<'_> {
    fn outcome(&self) -> (OutcomeField, &'static str) {
        let outcome = OutcomeField::of(self.message.reply.as_deref());
        let word = match outcome {
            OutcomeField::Accepted => "accepted",
            OutcomeField::Rejected => "rejected",
            OutcomeField::Unknown => "unknown",
        };
        (outcome, word)
    }

    /// With no decision about anybody: over TLS nothing more was demanded, in the clear nothing was.
    fn verdict(&self) -> VerdictField {
        let weakest = self.decisions.iter().map(|decision| decision.verdict).max();
        weakest.unwrap_or(match self.peer {
            Some(_) => VerdictField::Authorised,
            None => VerdictField::Unprotected,
        })
    }
}

impl Fact for Handed<'_> {
    fn count(&self, metrics: &Metrics) {
        metrics.count(metrics::MESSAGES, self.outcome().1);
        metrics.add(metrics::OCTETS, self.direction, self.message.octets);
    }
    fn line(&self) -> Option<(log::Level, String)> {
        let reply = self.message.reply.as_deref().unwrap_or_default();
        let line = format!(
            "message={} octets={} outcome={} reply=\"{}\"",
            self.number,
            self.message.octets,
            self.outcome().1,
            without_crlf(reply).escape_ascii(),
        );
        Some((log::Level::Info, line))
    }
    fn record(&self, audit: &AuditLog, session: audit::SessionField) -> Option<Record> {
        let message = self.message;
        let recipients = message.recipients.iter();
        let reply = message.reply.as_deref();
        Some(Record::Message(Box::new(audit::MessageRecord {
            session,
            host: self.host.to_owned(),
            configuration: self.configuration.to_owned(),
            number: self.number,
            sender: audit.address(&message.sender),
            recipients: recipients.map(|to| audit.address(&to.path)).collect(),
            octets: message.octets,
            sha256: self.sha256.clone(),
            verdict: self.verdict(),
            decisions: self.decisions.clone(),
            tls: self.peer.map(tls_record),
            peer: self.peer.and_then(peer_record),
            outcome: self.outcome().0,
            reply: reply.map(|reply| WireText::escape(without_crlf(reply))),
        })))
    }
}

/// A record could not be made durable, so that something is not acknowledged.
pub struct Unrecorded<'a>(pub Option<&'a str>);

impl Fact for Unrecorded<'_> {
    fn count(&self, metrics: &Metrics) {
        metrics.count(metrics::RECORD_FAULTS, "");
    }
    fn line(&self) -> Option<(log::Level, String)> {
        let error = self.0?;
        let line =
            format!("a message is not acknowledged, its record is not on disk: detail={error:?}");
        Some((log::Level::Error, line))
    }
}

/// A connection broke.
pub struct Broken<'a> {
    /// Whose.
    pub side: Side,
    /// What the system or TLS said.
    pub error: &'a std::io::Error,
}

impl Fact for Broken<'_> {
    fn line(&self) -> Option<(log::Level, String)> {
        let side = match self.side {
            Side::Client => "client",
            Side::Server => "server",
        };
        let words = HandshakeFault::of(self.error).to_string();
        Some((log::Level::Info, format!("broken={side} detail={words:?}")))
    }
    fn keep(&self) -> Keep {
        Keep::WithinBudget
    }
}

/// The session has ended.
pub struct Closed<'a> {
    /// How, in one word.
    pub end: &'static str,
    /// How long it was.
    pub took: std::time::Duration,
    /// Messages that began, and those that the server accepted.
    pub messages: [u64; 2],
    /// Octets read from and written to client and server.
    pub traffic: [[u64; 2]; 2],
    /// Who was at the other end of the outside link, where it had TLS.
    pub peer: Option<&'a Peer>,
    /// What was not written again.
    pub repeated: Vec<audit::RepeatedField>,
    /// No record came before.
    pub empty: bool,
}

impl Fact for Closed<'_> {
    fn line(&self) -> Option<(log::Level, String)> {
        let [messages, accepted] = self.messages;
        let mut line = format!(
            "end={} messages={messages} accepted={accepted} seconds={:.3}",
            self.end,
            self.took.as_secs_f64(),
        );
        let repeated: u64 = self.repeated.iter().map(|one| one.times).sum();
        if repeated > 0 {
            let _ = write!(line, " repeated={repeated}");
        }
        Some((log::Level::Info, line))
    }
    fn record(&self, _audit: &AuditLog, session: audit::SessionField) -> Option<Record> {
        Some(Record::SessionClosed(audit::SessionClosedRecord {
            session,
            end: self.end.to_owned(),
            duration_us: u64::try_from(self.took.as_micros()).unwrap_or(u64::MAX),
            messages: self.messages[1],
            client_octets: self.traffic[0],
            server_octets: self.traffic[1],
            tls: self.peer.map(tls_record),
            repeated: self.repeated.clone(),
        }))
    }
    fn keep(&self) -> Keep {
        match self.empty {
            true => Keep::WithinBudget,
            false => Keep::Always,
        }
    }
}

/// A reply's text without what ends its last line.
fn without_crlf(reply: &[u8]) -> &[u8] {
    reply.strip_suffix(b"\r\n").unwrap_or(reply)
}

/// For a log line: without spaces and quotes, whoever wrote it.
fn printable(text: &str) -> String {
    text.escape_default().to_string().replace(' ', "\\x20")
}

/// A reply for a log line. It can show names of a certificate, which is anybody's to write.
fn quoted(refusal: &Refusal) -> String {
    format!("{:?}", refusal.to_string())
}

#[cfg(test)]
mod tests;

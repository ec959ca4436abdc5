//! What can happen in a session, one struct for each kind of event. A fact makes its own log line, counters and record, so that the
//! three always say the same. The session's journal writes them, and adds whose session it was.
//!
//! A fact needs no audit log: without one it is still logged and counted.

mod heard;

pub(crate) use heard::HeardFact;

use std::fmt::Write as _;

use crate::{
    audit::{self, AuditLog, OutcomeField, Record, VerdictField, WireText},
    metrics::{self, Metrics},
    policy::{Decision, NextHop},
    smtp::{Completed, Keyword, Recipient, Refusal, Side},
    tls::{HandshakeFault, Peer, sha256},
};

use super::{
    fields::{peer_field, recipient_word, tls_field, verdict_word},
    memory::Remembered,
};

/// Whether a fact's line and record must be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writing {
    /// A message, or a decision that lets one pass: always written.
    Always,
    /// Anybody who can connect can cause as many as they like: written while the client's budget lasts, counted after that.
    WithinBudget,
}

/// What repeats of a fact have in common. Within a session a repeat is counted, and neither logged nor recorded again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RepeatKey {
    /// The record's `event`.
    pub(super) event: &'static str,
    /// The domain of the mail.
    pub(super) domain: Option<String>,
    /// The verdict.
    pub(super) verdict: Option<VerdictField>,
    /// The reason.
    pub(super) reason: Option<String>,
    /// Nothing was enforced.
    pub(super) observed: bool,
    /// All else that must be the same.
    pub(super) more: String,
}

/// One thing that happened.
pub(crate) trait Fact {
    /// `None`: the fact is written each time.
    fn repeat_key(&self) -> Option<RepeatKey> {
        None
    }
    /// Counts the fact. Repeats are counted, too.
    fn count(&self, _metrics: &Metrics) {}
    /// The level and the end of its log line: `key=value` pairs.
    fn line(&self) -> Option<(log::Level, String)>;
    /// Its record in this session, if it has one.
    fn record(&self, _audit: &AuditLog, _session: audit::SessionField) -> Option<Record> {
        None
    }
    /// Whether its line and record must be written.
    fn writing(&self) -> Writing {
        Writing::Always
    }
}

/// A client connected. Written in front of the first record of its session.
pub(crate) struct OpenedFact;

impl Fact for OpenedFact {
    fn line(&self) -> Option<(log::Level, String)> {
        None
    }
    fn record(&self, _audit: &AuditLog, session: audit::SessionField) -> Option<Record> {
        Some(Record::SessionOpened(audit::SessionOpenedRecord {
            session,
        }))
    }
}

/// TLS is up with the outside party.
pub(crate) struct TlsUpFact<'a>(pub(super) &'a Peer);

impl Fact for TlsUpFact<'_> {
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
    // The record of each message says it again.
    fn writing(&self) -> Writing {
        Writing::WithinBudget
    }
}

/// A handshake with an outside client failed.
pub(crate) struct HandshakeFailedFact<'a>(pub(super) &'a str);

impl Fact for HandshakeFailedFact<'_> {
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
    fn writing(&self) -> Writing {
        Writing::WithinBudget
    }
}

/// The policy decided.
pub(crate) struct VerdictFact<'a> {
    /// The decision.
    pub(super) entry: &'a audit::DecisionField,
    /// The mail it is about: `@domain`. `None` if the peer was judged without a recipient.
    pub(super) address: Option<String>,
    /// The refusal. In observe mode it is not given.
    pub(super) reply: Option<&'a Refusal>,
    /// The party that was judged, if TLS is up.
    pub(super) peer: Option<&'a Peer>,
}

impl VerdictFact<'_> {
    /// The mail that a decision is about.
    pub(super) fn address(decision: &Decision) -> Option<String> {
        match &decision.ask.next_hop {
            NextHop::Recipient(Recipient::Postmaster) => Some(String::from("postmaster")),
            NextHop::Recipient(recipient) => Some(format!("@{}", recipient_word(recipient))),
            NextHop::Upstream(_) | NextHop::Address => None,
        }
    }

    fn is_refused(&self) -> bool {
        self.entry.verdict == VerdictField::Refused && !self.entry.observed
    }
}

impl Fact for VerdictFact<'_> {
    fn repeat_key(&self) -> Option<RepeatKey> {
        let entry = self.entry;
        Some(RepeatKey {
            event: match entry.verdict {
                VerdictField::Unprotected => "unprotected",
                VerdictField::Authorised | VerdictField::Refused => "verdict",
            },
            domain: Some(entry.domain.clone()),
            verdict: Some(entry.verdict),
            reason: entry.reason.clone(),
            observed: entry.observed,
            // Names in a certificate can be long, so the key has their digest.
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
            verdict_word(entry.verdict)
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
            verdict_word(entry.verdict)
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
        let tls = self.peer.map(tls_field);
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
                peer: self.peer.and_then(peer_field),
            }))
        })
    }
    fn writing(&self) -> Writing {
        match self.is_refused() {
            true => Writing::WithinBudget,
            false => Writing::Always,
        }
    }
}

/// A refusal of this proxy that is no verdict. Refusals by verdict ([`Cause::Verdict`](crate::smtp::Cause::Verdict)) are written as a
/// [`VerdictFact`] only.
pub(crate) struct RefusalFact<'a> {
    /// The reply to the client.
    pub(super) refusal: &'a Refusal,
    /// The domain of the mail, if it is known.
    pub(super) domain: Option<&'a str>,
}

impl Fact for RefusalFact<'_> {
    fn repeat_key(&self) -> Option<RepeatKey> {
        Some(RepeatKey {
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
    fn writing(&self) -> Writing {
        Writing::WithinBudget
    }
}

/// A session is refused at its greeting for a fault that another session met a short while ago.
pub(crate) struct RepeatedRefusalFact<'a> {
    /// That fault.
    pub(super) first: &'a Remembered,
    /// The reply to the client.
    pub(super) refusal: &'a Refusal,
}

impl Fact for RepeatedRefusalFact<'_> {
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
    fn writing(&self) -> Writing {
        Writing::WithinBudget
    }
}

/// A rule of the protocol was broken, or something else that the log should name in one word.
pub(crate) struct IncidentFact(pub(super) &'static str);

impl Fact for IncidentFact {
    fn count(&self, metrics: &Metrics) {
        metrics.count(metrics::INCIDENTS, self.0);
    }
    fn line(&self) -> Option<(log::Level, String)> {
        Some((log::Level::Warn, format!("incident={}", self.0)))
    }
    fn writing(&self) -> Writing {
        Writing::WithinBudget
    }
}

/// The server lacks an extension inside TLS that it offered before, and that the client used.
pub(crate) struct MissingExtensionFact(pub(super) Keyword);

impl Fact for MissingExtensionFact {
    fn line(&self) -> Option<(log::Level, String)> {
        let line = format!(
            "lacking={:?} detail=\"not shown to this client's next session with this server\"",
            self.0
        );
        Some((log::Level::Info, line))
    }
}

/// A message was handed to the server, or may have been.
pub(crate) struct MessageFact<'a> {
    /// The message as the machine knows it.
    pub(super) message: &'a Completed,
    /// The message's number within the session.
    pub(super) number: u64,
    /// `out` or `in`.
    pub(super) direction: &'static str,
    /// Name of this machine.
    pub(super) host: &'a str,
    /// SHA-256 of the configuration in force.
    pub(super) configuration: &'a str,
    /// SHA-256 of the message's octets, in hexadecimal digits.
    pub(super) sha256: String,
    /// Outbound one for each domain of the recipients, inbound the one for the sender.
    pub(super) decisions: Vec<audit::DecisionField>,
    /// The outside party, if the link had TLS.
    pub(super) peer: Option<&'a Peer>,
}

impl MessageFact<'_> {
    fn outcome(&self) -> (OutcomeField, &'static str) {
        let outcome = OutcomeField::of(self.message.reply.as_deref());
        let word = match outcome {
            OutcomeField::Accepted => "accepted",
            OutcomeField::Rejected => "rejected",
            OutcomeField::Unknown => "unknown",
        };
        (outcome, word)
    }

    /// The weakest of the decisions. Without any, nothing more than TLS was demanded, or in the clear nothing.
    fn verdict(&self) -> VerdictField {
        let weakest = self.decisions.iter().map(|decision| decision.verdict).max();
        weakest.unwrap_or(match self.peer {
            Some(_) => VerdictField::Authorised,
            None => VerdictField::Unprotected,
        })
    }
}

impl Fact for MessageFact<'_> {
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
            tls: self.peer.map(tls_field),
            peer: self.peer.and_then(peer_field),
            outcome: self.outcome().0,
            reply: reply.map(|reply| WireText::escape(without_crlf(reply))),
        })))
    }
}

/// A record could not be brought to the disk, so a message is not acknowledged or a question is refused. With the error, if there is
/// one to log.
pub(crate) struct UnrecordedFact<'a>(pub(super) Option<&'a str>);

impl Fact for UnrecordedFact<'_> {
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
pub(crate) struct BrokenFact<'a> {
    /// The side that it was with.
    pub(super) side: Side,
    /// The error of the system or of TLS.
    pub(super) error: &'a std::io::Error,
}

impl Fact for BrokenFact<'_> {
    fn line(&self) -> Option<(log::Level, String)> {
        let side = match self.side {
            Side::Client => "client",
            Side::Server => "server",
        };
        let words = HandshakeFault::of(self.error).to_string();
        Some((log::Level::Info, format!("broken={side} detail={words:?}")))
    }
    fn writing(&self) -> Writing {
        Writing::WithinBudget
    }
}

/// The session has ended.
pub(crate) struct ClosedFact<'a> {
    /// How it ended, in one word.
    pub(super) end: &'static str,
    /// How long it lasted.
    pub(super) took: std::time::Duration,
    /// Messages that began, and messages that the server accepted.
    pub(super) messages: [u64; 2],
    /// Octets read from and written to client and server.
    pub(super) traffic: [[u64; 2]; 2],
    /// The outside party, if the link had TLS.
    pub(super) peer: Option<&'a Peer>,
    /// Repeats that were only counted.
    pub(super) repeated: Vec<audit::RepeatedField>,
    /// The session has no record yet.
    pub(super) empty: bool,
}

impl Fact for ClosedFact<'_> {
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
            tls: self.peer.map(tls_field),
            repeated: self.repeated.clone(),
        }))
    }
    fn writing(&self) -> Writing {
        match self.empty {
            true => Writing::WithinBudget,
            false => Writing::Always,
        }
    }
}

/// A reply without the CRLF of its last line.
fn without_crlf(reply: &[u8]) -> &[u8] {
    reply.strip_suffix(b"\r\n").unwrap_or(reply)
}

/// Text for a log line, escaped so that it has no spaces and quotes.
fn printable(text: &str) -> String {
    text.escape_default().to_string().replace(' ', "\\x20")
}

/// A refusal for a log line. It can contain names of a certificate, which anybody can choose.
fn quoted(refusal: &Refusal) -> String {
    format!("{:?}", refusal.to_string())
}

#[cfg(test)]
mod tests;

//! What can happen in a session, one struct for each kind of event. A fact makes its own log line, counters and record, so that the
//! three always say the same. The session's journal writes them, and adds whose session it was.
//!
//! A fact needs no audit log: without one it is still logged and counted.

mod heard;
mod login;
mod refusal;

pub(crate) use heard::HeardFact;
pub(crate) use login::LoginFact;
pub(crate) use refusal::{RefusalFact, RepeatedRefusalFact};

use std::{fmt, sync::Arc};

use crate::{
    audit::{
        self, AuditLog, DecisionField, DirectionField, OutcomeField, Record, VerdictField, WireText,
    },
    clock,
    metrics::{self, Metrics, RefusedMail},
    policy::{Decision, Demand, NextHop},
    smtp::{Cause, Completed, Keyword, Recipient, Refusal, Side, Stage},
    tls::{HandshakeFault, Peer},
};

use super::fields::{
    basis_word, findings_field, peer_field, recipient_word, tls_field, verdict_word,
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
pub(crate) enum RepeatKey {
    /// The same decision, and again before TLS or over it.
    Decision {
        entry: Arc<DecisionField>,
        over_tls: bool,
    },
    /// A refusal that is no verdict.
    Refusal {
        domain: Option<String>,
        cause: Cause,
        code: u16,
    },
    /// A refusal of the server.
    Heard(Stage),
}

/// One thing that happened.
pub(crate) trait Fact {
    /// `None`: the fact is written each time.
    fn repeat_key(&self) -> Option<RepeatKey> {
        None
    }
    /// Counts the fact. Repeats are counted, too.
    fn count(&self, _metrics: &Metrics) {}
    /// The level of its log line. `None`: it has none.
    fn level(&self) -> Option<log::Level>;
    /// Writes the end of its log line: `key=value` pairs.
    fn line(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result;
    /// Its record in this session, if it has one.
    fn record(&self, _audit: &AuditLog, _session: audit::SessionField) -> Option<Record> {
        None
    }
    /// The refusal, for people who look. Facts that refuse nothing have none.
    fn refused(&self) -> Option<RefusedMail> {
        None
    }
    /// Whether its line and record must be written.
    fn writing(&self) -> Writing {
        Writing::Always
    }
}

/// The end of a fact's log line. It is formatted where it is written, and if nobody reads lines of its level not at all.
pub(crate) struct FactLine<'a, F>(pub(super) &'a F);

impl<F: Fact> fmt::Display for FactLine<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.line(f)
    }
}

/// A client connected. Written in front of the first record of its session.
pub(crate) struct OpenedFact;

impl Fact for OpenedFact {
    fn level(&self) -> Option<log::Level> {
        None
    }
    fn line(&self, _out: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
    fn record(&self, _audit: &AuditLog, session: audit::SessionField) -> Option<Record> {
        Some(Record::SessionOpened(audit::SessionOpenedRecord {
            session,
        }))
    }
}

/// TLS is up with the outside party.
pub(crate) struct TlsUpFact<'a> {
    /// That party.
    pub(super) peer: &'a Peer,
    /// Of the session.
    pub(super) direction: DirectionField,
    /// What the party must prove. `None`: that is not known yet, as inbound before MAIL.
    pub(super) demand: Option<&'a Demand>,
}

impl Fact for TlsUpFact<'_> {
    fn count(&self, metrics: &Metrics) {
        metrics.count(metrics::HANDSHAKES, "done");
        let direction = match self.direction {
            DirectionField::Outbound => "outbound",
            DirectionField::Inbound => "inbound",
        };
        let facts = &self.peer.facts;
        let level = self.demand.map_or("-", |demand| demand.level.as_str());
        let basis = self.demand.map_or("-", |demand| basis_word(&demand.basis));
        metrics.count_by(
            metrics::UPGRADES,
            &[
                direction,
                facts.version,
                facts.group,
                facts.suite,
                level,
                basis,
            ],
        );
    }
    // The line of the session's end says it again.
    fn level(&self) -> Option<log::Level> {
        Some(log::Level::Debug)
    }
    fn line(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        tls_words(self.peer, out)
    }
    // The record of each message says it again.
    fn writing(&self) -> Writing {
        Writing::WithinBudget
    }
}

/// What the log says of the TLS with a peer.
fn tls_words(peer: &Peer, out: &mut fmt::Formatter<'_>) -> fmt::Result {
    let facts = &peer.facts;
    write!(
        out,
        "tls={} suite={} group={} sni={}",
        facts.version,
        facts.suite,
        facts.group,
        Printable(facts.sni.as_deref().unwrap_or("-")),
    )
}

/// A handshake with an outside client failed.
pub(crate) struct HandshakeFailedFact<'a>(pub(super) &'a str);

impl Fact for HandshakeFailedFact<'_> {
    fn count(&self, metrics: &Metrics) {
        metrics.count(metrics::HANDSHAKES, "failed");
    }
    fn level(&self) -> Option<log::Level> {
        Some(log::Level::Warn)
    }
    fn line(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.0;
        write!(
            out,
            "verdict=refused reason=validation-failure detail={words:?}"
        )
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
    fn refused(&self) -> Option<RefusedMail> {
        Some(RefusedMail {
            reason: "validation-failure".into(),
            domain: None,
            text: format!("TLS handshake failed: {}", self.0),
            observed: false,
        })
    }
    fn writing(&self) -> Writing {
        Writing::WithinBudget
    }
}

/// The policy decided.
pub(crate) struct VerdictFact<'a> {
    /// The decision, without its findings.
    pub(super) entry: &'a Arc<DecisionField>,
    /// The decision as the policy made it. `None`: a rule of the administrator lets an inbound client send in the clear.
    pub(super) decision: Option<&'a Decision>,
    /// The refusal. In observe mode it is not given.
    pub(super) reply: Option<&'a Refusal>,
    /// The party that was judged, if TLS is up.
    pub(super) peer: Option<&'a Peer>,
}

impl VerdictFact<'_> {
    /// The mail that it is about: `@domain`. `None` if the peer was judged without a recipient.
    fn address(&self) -> Option<String> {
        match &self.decision?.ask.next_hop {
            NextHop::Recipient(Recipient::Postmaster) => Some(String::from("postmaster")),
            NextHop::Recipient(recipient) => Some(format!("@{}", recipient_word(recipient))),
            NextHop::Upstream(_) | NextHop::Address => None,
        }
    }

    /// What its repeats have in common.
    pub(super) fn key(&self) -> RepeatKey {
        RepeatKey::Decision {
            entry: Arc::clone(self.entry),
            over_tls: self.peer.is_some(),
        }
    }

    fn is_refused(&self) -> bool {
        self.entry.verdict == VerdictField::Refused && !self.entry.observed
    }

    /// Whether its record leaves the peer and its TLS to those that follow: most often a message, which must have both.
    pub(super) fn leaves_peer(&self) -> bool {
        self.entry.verdict == VerdictField::Authorised
    }
}

/// Counts a decision, which a session may give many times.
pub(super) fn count_decision(entry: &DecisionField, metrics: &Metrics) {
    let observed = entry.observed && entry.reason.is_some();
    let verdict = if observed {
        "observed"
    } else {
        verdict_word(entry.verdict)
    };
    metrics.count(metrics::VERDICTS, verdict);
    let [reason, level, basis] =
        [&entry.reason, &entry.level, &entry.basis].map(|word| word.as_deref().unwrap_or("-"));
    metrics.count_by(metrics::DECISIONS, &[verdict, reason, level, basis]);
    if let (VerdictField::Refused, false, Some(reason)) =
        (entry.verdict, entry.observed, &entry.reason)
    {
        metrics.count(metrics::REFUSALS, reason);
    }
}

impl Fact for VerdictFact<'_> {
    fn repeat_key(&self) -> Option<RepeatKey> {
        Some(self.key())
    }
    fn count(&self, metrics: &Metrics) {
        count_decision(self.entry, metrics);
    }
    fn level(&self) -> Option<log::Level> {
        Some(match self.entry.verdict {
            VerdictField::Authorised => log::Level::Debug,
            VerdictField::Unprotected | VerdictField::Refused => log::Level::Warn,
        })
    }
    fn line(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = self.entry;
        write!(
            out,
            "domain={} verdict={}",
            Printable(&entry.domain),
            verdict_word(entry.verdict)
        )?;
        if let Some(reason) = &entry.reason {
            write!(out, " reason={reason}")?;
        }
        let level = entry.level.as_deref().unwrap_or("-");
        let basis = entry.basis.as_deref().unwrap_or("-");
        write!(out, " level={level} basis={basis}")?;
        if let Some(rule) = &entry.rule {
            write!(out, " rule={}", Printable(rule))?;
        }
        if let Some(why) = &entry.why {
            write!(out, " why={why:?}")?;
        }
        if entry.observed {
            out.write_str(" observed=yes")?;
        }
        match self.reply {
            Some(reply) => write!(out, " reply={}", quoted(reply)),
            None => write!(out, " detail={:?}", entry.detail),
        }
    }
    fn record(&self, audit: &AuditLog, session: audit::SessionField) -> Option<Record> {
        let peer = self.peer.filter(|_| !self.leaves_peer());
        let tls = peer.map(tls_field);
        let decision = DecisionField {
            findings: self.decision.and_then(findings_field),
            ..(**self.entry).clone()
        };
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
                    .address()
                    .map(|address| audit.address(address.as_bytes())),
                decision,
                reply: self.reply.map(|reply| reply.to_string().as_str().into()),
                tls,
                peer: peer.and_then(peer_field),
            }))
        })
    }
    fn refused(&self) -> Option<RefusedMail> {
        Some(RefusedMail {
            reason: self.entry.reason.clone()?.into(),
            domain: Some(self.entry.domain.clone()),
            text: self
                .reply
                .map_or_else(|| self.entry.detail.clone(), ToString::to_string),
            observed: self.entry.observed,
        })
    }
    fn writing(&self) -> Writing {
        match self.is_refused() {
            true => Writing::WithinBudget,
            false => Writing::Always,
        }
    }
}

/// A rule of the protocol was broken, or something else that the log should name in one word.
pub(crate) struct IncidentFact(pub(super) &'static str);

impl Fact for IncidentFact {
    fn count(&self, metrics: &Metrics) {
        metrics.count(metrics::INCIDENTS, self.0);
    }
    fn level(&self) -> Option<log::Level> {
        Some(log::Level::Warn)
    }
    fn line(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "incident={}", self.0)
    }
    fn writing(&self) -> Writing {
        Writing::WithinBudget
    }
}

/// The server lacks an extension inside TLS that it offered before, and that the client used.
pub(crate) struct MissingExtensionFact(pub(super) Keyword);

impl Fact for MissingExtensionFact {
    fn level(&self) -> Option<log::Level> {
        Some(log::Level::Info)
    }
    fn line(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "lacking={:?} detail=\"not shown to this client's next session with this server\"",
            self.0
        )
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
    /// SHA-256 of the message's octets, in hexadecimal digits. Empty without an audit log, which alone needs it.
    pub(super) sha256: String,
    /// Outbound one for each domain of the recipients, inbound the one for the sender. None without an audit log.
    pub(super) decisions: Vec<Arc<DecisionField>>,
    /// The outside party, if the link had TLS.
    pub(super) peer: Option<&'a Peer>,
    /// As whom the proxy logged in to the server.
    pub(super) user: Option<&'a str>,
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
        let (outcome, word) = self.outcome();
        metrics.count(metrics::MESSAGES, word);
        if outcome == OutcomeField::Accepted {
            metrics.message_accepted(clock::wall_tick());
        }
        metrics.add(metrics::OCTETS, self.direction, self.message.octets);
    }
    // The line of the session's end counts the messages that were accepted.
    fn level(&self) -> Option<log::Level> {
        Some(match self.outcome().0 {
            OutcomeField::Accepted => log::Level::Debug,
            OutcomeField::Rejected | OutcomeField::Unknown => log::Level::Info,
        })
    }
    fn line(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reply = self.message.reply.as_deref().unwrap_or_default();
        write!(
            out,
            "message={} octets={} outcome={} reply=\"{}\"",
            self.number,
            self.message.octets,
            self.outcome().1,
            without_crlf(reply).escape_ascii(),
        )
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
            recipients: recipients.map(|to| audit.address(to.path())).collect(),
            octets: message.octets,
            sha256: self.sha256.clone(),
            verdict: self.verdict(),
            decisions: self.decisions.iter().map(|one| (**one).clone()).collect(),
            tls: self.peer.map(tls_field),
            peer: self.peer.and_then(peer_field),
            authenticated_as: self.user.map(|user| audit.address(user.as_bytes())),
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
    fn level(&self) -> Option<log::Level> {
        self.0.map(|_| log::Level::Error)
    }
    fn line(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = self.0.unwrap_or_default();
        write!(
            out,
            "a message is not acknowledged, its record is not on disk: detail={error:?}"
        )
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
    fn level(&self) -> Option<log::Level> {
        Some(log::Level::Info)
    }
    fn line(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match self.side {
            Side::Client => "client",
            Side::Server => "server",
        };
        let words = HandshakeFault::of(self.error).to_string();
        write!(out, "broken={side} detail={words:?}")
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
    /// Octets of these messages.
    pub(super) octets: u64,
    /// Octets read from and written to client and server.
    pub(super) traffic: [[u64; 2]; 2],
    /// The outside party, if the link had TLS.
    pub(super) peer: Option<&'a Peer>,
    /// The party that a verdict authorised and that no record has named.
    pub(super) unnamed: Option<Arc<Peer>>,
    /// The number of repeats, which were only counted.
    pub(super) repeats: u64,
    /// Their counts by fact, for the record.
    pub(super) repeated: Vec<audit::RepeatedField>,
    /// The session has no record yet.
    pub(super) empty: bool,
}

impl Fact for ClosedFact<'_> {
    fn level(&self) -> Option<log::Level> {
        Some(log::Level::Info)
    }
    fn line(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [messages, accepted] = self.messages;
        write!(
            out,
            "end={} messages={messages} accepted={accepted} octets={} seconds={:.3}",
            self.end,
            self.octets,
            self.took.as_secs_f64(),
        )?;
        if let Some(peer) = self.peer {
            out.write_str(" ")?;
            tls_words(peer, out)?;
        }
        match self.repeats {
            0 => Ok(()),
            repeats => write!(out, " repeated={repeats}"),
        }
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
            peer: self.unnamed.as_deref().and_then(peer_field).map(Box::new),
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
struct Printable<'a>(&'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |octet: u8| octet.is_ascii_graphic() && !b"\"'\\".contains(&octet);
        if self.0.bytes().all(plain) {
            return f.write_str(self.0);
        }
        self.0.chars().try_for_each(|c| match c {
            ' ' => f.write_str("\\x20"),
            c => write!(f, "{}", c.escape_default()),
        })
    }
}

/// A refusal for a log line. It can contain names of a certificate, which anybody can choose.
fn quoted(refusal: &Refusal) -> String {
    format!("{:?}", refusal.to_string())
}

#[cfg(test)]
mod tests;

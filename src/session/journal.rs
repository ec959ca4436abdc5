//! The journal of one session: it counts, logs and records what happens in the session.
//!
//! What happened is a [`Fact`], which makes its own log line, counter and record. The journal adds whose session it was, writes each
//! fact once however often it happens, and keeps to the [budget](super::budget) of strangers.

mod login;

use std::{fmt, net::SocketAddr, sync::Arc, time::Instant};

use super::{
    budget::BudgetedEvent,
    facts::{
        BrokenFact, ClosedFact, Fact, FactLine, HandshakeFailedFact, HeardFact, IncidentFact,
        MessageFact, MissingExtensionFact, OpenedFact, RefusalFact, RepeatedRefusalFact, TlsUpFact,
        UnrecordedFact, VerdictFact, Writing, count_decision,
    },
    fields::decision_field,
    identity::SessionIdentity,
    job::Job,
    memory::Remembered,
    refusals::local_fault,
    repeats::{FactNumber, Repeats},
    setup::CommonSetup,
    trace,
    transaction::TransactionDecisions,
    write_budget::octets,
};
use crate::{
    audit::{AuditLog, ConnectionField, DecisionField, DirectionField, OutcomeField, Record},
    clock,
    metrics::RefusedMail,
    net::ClientAddr,
    policy::{Decision, Demand},
    smtp::{Cause, Completed, Domain, End, Note, Question, Recorded, Refusal, Side},
    tls::Peer,
};

/// Octets that the record of a session's end takes, and that are paid for with its beginning. What it takes beyond is paid for at the end:
/// the client may say a long name until then.
const LAST_RECORD: usize = 800;
/// Octets that the log line of a session's end takes.
const LAST_LINE: usize = 400;
/// Octets in front of each log line: time, level and whose session it is.
const PREFIX: usize = 120;

/// The journal of one session; the text of this module describes it.
pub struct Journal {
    common: Arc<CommonSetup>,
    session: SessionIdentity,
    began: Instant,
    /// The outside party, once TLS is up with it.
    peer: Option<Arc<Peer>>,
    /// The party that a verdict authorised and left to the next message or the end. Neither has named it yet.
    unnamed: Option<Arc<Peer>>,
    transaction: TransactionDecisions,
    repeats: Repeats,
    next_refusal: Option<NextRefusal>,
    /// A record of this session is written.
    recorded: bool,
    /// Whether the budget pays for the session's first and last record. `None`: it was not asked yet.
    afforded: Option<bool>,
    messages: u64,
    accepted: u64,
    /// Octets of all messages.
    octets: u64,
    end: Option<End>,
    incident: Option<&'static str>,
    /// Octets read from and written to client and server.
    traffic: [[u64; 2]; 2],
}

/// What the session knows about a refusal before the machine gives it.
enum NextRefusal {
    /// This refusal is recorded with a verdict already.
    Recorded(Refusal),
    /// A refusal for this cause is about this domain's mail.
    About(Cause, String),
}

/// Proof that a decision is written down. Only a journal makes it.
pub(super) struct Written {
    is_first: bool,
    decision: WrittenDecision,
}

impl Written {
    /// Whether the decision is the first of its kind in this session.
    pub(super) fn is_first(&self) -> bool {
        self.is_first
    }

    /// The decision, with which its session can [`give it again`](Journal::again).
    pub(super) fn decision(&self) -> WrittenDecision {
        self.decision.clone()
    }
}

/// A decision that stands in log and record of this session. It proves nothing by itself: each time that the decision is given, the
/// journal counts it and makes the proof anew. Only a journal makes it.
#[derive(Clone)]
pub(super) struct WrittenDecision {
    entry: Arc<DecisionField>,
    number: FactNumber,
}

impl Journal {
    /// A session begins. Nothing is written before something worth a record happens.
    pub(super) fn open(
        common: &Arc<CommonSetup>,
        direction: DirectionField,
        client: ClientAddr,
        intended: SocketAddr,
    ) -> Self {
        Self {
            common: Arc::clone(common),
            session: SessionIdentity::new(direction, client, intended),
            began: clock::instant(),
            peer: None,
            unnamed: None,
            transaction: TransactionDecisions::default(),
            repeats: Repeats::default(),
            next_refusal: None,
            recorded: false,
            afforded: None,
            messages: 0,
            accepted: 0,
            octets: 0,
            end: None,
            incident: None,
            traffic: [[0; 2]; 2],
        }
    }

    /// Who connected.
    pub(super) fn client(&self) -> ClientAddr {
        self.session.client
    }

    /// The outside party, once TLS is up with it.
    pub(super) fn peer(&self) -> Option<&Arc<Peer>> {
        self.peer.as_ref()
    }

    // ----- writing -----

    /// Counts a fact, and writes it down unless it is a repeat.
    fn tell(&mut self, fact: &impl Fact) {
        fact.count(&self.common.metrics);
        let is_new = |key| self.repeats.see(key).1;
        if fact.repeat_key().is_none_or(is_new) {
            self.put_down(fact);
        }
    }

    /// Logs and records a fact.
    fn put_down(&mut self, fact: &impl Fact) {
        if let Some(refused) = fact.refused() {
            self.remember(refused);
        }
        let record = self.record_of(fact);
        let is_free = fact.writing() == Writing::Always
            || self.messages > 0
            || !self.common.write_budget.is_limited();
        if is_free {
            self.log(fact);
        } else {
            let level = fact.level().filter(|level| log::log_enabled!(*level));
            let line = level.map(|level| (level, FactLine(fact).to_string()));
            let octets = line.as_ref().map_or(0, |(_, line)| PREFIX + line.len());
            if !self.affords(octets, record.as_ref()) {
                return;
            }
            if let Some((level, line)) = line {
                self.log_line(level, &line);
            }
        }
        if let Some(record) = record
            && let Some(audit) = self.audit_log()
        {
            let is_end = matches!(record, Record::SessionClosed(_));
            if is_end && self.messages == 0 && self.afforded == Some(true) {
                let more = octets(&record).saturating_sub(LAST_RECORD);
                let client = self.session.client.0.ip();
                self.common.write_budget.charge(client, more);
            }
            audit.append(&record);
        }
    }

    /// Remembers a refusal for people who look, with addresses in the form that records have.
    fn remember(&self, mut refused: RefusedMail) {
        let client = self.session.client.0.ip();
        if let Some(audit) = &self.common.audit {
            refused.text = audit.masked_text(&refused.text);
        }
        let last = &self.common.metrics.refused;
        last.remember(refused, client, clock::wall());
    }

    fn record_of(&self, fact: &impl Fact) -> Option<Record> {
        let audit = self.common.audit.as_ref()?;
        fact.record(audit, self.session.field())
    }

    /// Whether the budget pays for the line (with this number of octets) and record of a fact that strangers can cause as often as
    /// they like. The session's first and last record are paid for once. The budget counts what is not written.
    fn affords(&mut self, line: usize, record: Option<&Record>) -> bool {
        let (client, write_budget) = (self.client().0.ip(), Arc::clone(&self.common.write_budget));
        let session = match self.afforded {
            Some(afforded) => afforded,
            None => {
                let opened = self.record_of(&OpenedFact);
                let records = opened.map_or(0, |record| octets(&record) + LAST_RECORD);
                let octets = records + LAST_LINE;
                let afforded = write_budget.may_write(client, BudgetedEvent::SessionOpened, octets);
                *self.afforded.insert(afforded)
            }
        };
        match record {
            None | Some(Record::SessionClosed(_)) => session,
            Some(record) => {
                let octets = line + octets(record);
                write_budget.may_write(client, BudgetedEvent::Refusal, octets) && session
            }
        }
    }

    fn log(&self, fact: &impl Fact) {
        if let Some(level) = fact.level() {
            self.log_line(level, &FactLine(fact));
        }
    }

    fn log_line(&self, level: log::Level, line: &dyn fmt::Display) {
        log::log!(level, "{} {line}", self.session);
    }

    /// The audit log. Before the first record of this session, its beginning is recorded.
    fn audit_log(&mut self) -> Option<Arc<AuditLog>> {
        let audit = self.common.audit.clone()?;
        if !std::mem::replace(&mut self.recorded, true)
            && let Some(opened) = self.record_of(&OpenedFact)
        {
            audit.append(&opened);
        }
        Some(audit)
    }

    // ----- connections -----

    /// A connection to the server stands.
    pub(super) fn connected(&mut self, server: ConnectionField) {
        self.session.server = Some(server);
        self.session.user = None;
        self.peer = self.peer.take().filter(|_| self.session.is_inbound());
    }

    /// TLS is up with the outside party.
    pub(super) fn secured(&mut self, peer: Arc<Peer>) {
        self.secured_for(peer, None);
    }

    /// TLS is up with the outside party, which must prove what `demand` says.
    pub(super) fn secured_for(&mut self, peer: Arc<Peer>, demand: Option<&Demand>) {
        self.tell(&TlsUpFact {
            peer: &peer,
            direction: self.session.direction,
            demand,
        });
        self.peer = Some(peer);
    }

    /// A handshake with an outside client failed.
    pub(super) fn handshake_failed(&mut self, words: &str) {
        self.incident = Some("handshake-failed");
        self.tell(&HandshakeFailedFact(words));
    }

    /// A connection broke. Over TLS 1.3 an error of the first read tells what a peer thinks of our certificate (RFC 8446 §4.4.2.4).
    pub(super) fn broken(&mut self, side: Side, error: &std::io::Error) {
        self.tell(&BrokenFact { side, error });
    }

    /// Counts octets read from and written to a side, whose connection is done with.
    pub(super) fn traffic(&mut self, side: Side, octets: [u64; 2]) {
        let sum = &mut self.traffic[usize::from(side == Side::Server)];
        sum[0] += octets[0];
        sum[1] += octets[1];
    }

    // ----- decisions -----

    /// Writes a decision down, before its answer is given. If it allows the question's recipient or sender, it is kept for the
    /// transaction.
    ///
    /// # Errors
    /// The audit log cannot be written, and this refusal is the only answer.
    pub(super) fn verdict(
        &mut self,
        decision: &Decision,
        about: &Question,
    ) -> Result<Written, Refusal> {
        let entry = Arc::new(decision_field(decision));
        let reply = decision.refusal.as_ref();
        let is_first = self.write(&entry, Some(decision), reply);
        let allowed = decision.refused().is_none().then_some(about);
        self.written(entry, is_first, allowed)
    }

    /// Inbound: writes down that the session goes on in the clear, because of the rule in `entry` or in observe mode.
    ///
    /// # Errors
    /// The audit log cannot be written, and this refusal is the only answer.
    pub(super) fn unprotected(
        &mut self,
        entry: DecisionField,
        observed: Option<&Refusal>,
        about: &Question,
    ) -> Result<Written, Refusal> {
        let entry = Arc::new(entry);
        let is_first = self.write(&entry, None, observed);
        self.written(entry, is_first, Some(about))
    }

    /// Counts that a decision, which let mail pass, is given again. `None`: it was forgotten, and is to be written anew.
    ///
    /// # Errors
    /// The audit log cannot be written, and this refusal is the only answer.
    pub(super) fn again(
        &mut self,
        decision: &WrittenDecision,
        about: &Question,
    ) -> Option<Result<Written, Refusal>> {
        let WrittenDecision { entry, number } = decision;
        if !self.repeats.again(*number) {
            return None;
        }
        count_decision(entry, &self.common.metrics);
        Some(self.written(Arc::clone(entry), (*number, false), Some(about)))
    }

    /// Counts a decision, and writes it down unless it is a repeat. Returns its number, and whether it was the first of its kind.
    fn write(
        &mut self,
        entry: &Arc<DecisionField>,
        decision: Option<&Decision>,
        reply: Option<&Refusal>,
    ) -> (FactNumber, bool) {
        let peer = self.peer.clone();
        let fact = VerdictFact {
            entry,
            decision,
            reply,
            peer: peer.as_deref(),
        };
        fact.count(&self.common.metrics);
        let (number, is_first) = self.repeats.see(fact.key());
        if is_first {
            self.put_down(&fact);
            if fact.leaves_peer() {
                self.unnamed = peer;
            }
        }
        (number, is_first)
    }

    /// The proof that a decision is written down. `allowed` is the question whose recipient or sender the decision allows.
    fn written(
        &mut self,
        entry: Arc<DecisionField>,
        (number, is_first): (FactNumber, bool),
        allowed: Option<&Question>,
    ) -> Result<Written, Refusal> {
        if self.common.audit.is_some()
            && let Some(about) = allowed
        {
            self.transaction.allow(about, &entry);
        }
        self.can_record()?;
        Ok(Written {
            is_first,
            decision: WrittenDecision { entry, number },
        })
    }

    /// Whether a message that begins now can be recorded. Otherwise the server would have it, and its sender would send it again.
    pub(super) fn can_record(&mut self) -> Result<(), Refusal> {
        match &self.common.audit {
            Some(audit) if !audit.healthy() => {
                self.tell(&UnrecordedFact(None));
                Err(unwritable())
            }
            _ => Ok(()),
        }
    }

    /// If the machine's next refusal has this cause, it is about this domain's mail.
    pub(super) fn may_refuse(&mut self, cause: Cause, domain: Option<&Domain>) {
        self.next_refusal = domain.map(|domain| NextRefusal::About(cause, domain.to_string()));
    }

    /// The machine will give this refusal, which is recorded with a verdict already.
    pub(super) fn will_be_given(&mut self, refusal: &Refusal) {
        self.next_refusal = Some(NextRefusal::Recorded(refusal.clone()));
    }

    /// Refuses the session at its greeting for a fault that an earlier session met. Returns the refusal.
    pub(super) fn refused_again(&mut self, first: &Remembered) -> Refusal {
        let refusal = first.refuse_again();
        self.tell(&RepeatedRefusalFact {
            first,
            refusal: &refusal,
        });
        refusal
    }

    // ----- the machine's notes -----

    /// Takes a note of the machine.
    pub(super) fn note(&mut self, note: Note) {
        match note {
            Note::Hello(name) => self.session.hello = Some(name),
            Note::TransactionBegins if self.session.is_inbound() => {}
            Note::TransactionBegins => self.transaction_begins(),
            Note::MessageBegins => self.transaction.message_begins(),
            Note::Refused(refusal) => self.refused(&refusal),
            Note::Heard {
                stage,
                reply,
                proved,
            } => {
                self.tell(&HeardFact {
                    stage,
                    reply: &reply,
                    proved,
                });
            }
            Note::MissingExtension(keyword) => {
                self.tell(&MissingExtensionFact(keyword));
            }
            Note::LoggedIn { user, mechanism } => self.logged_in(user, mechanism),
            Note::Ends(end) => self.end = Some(end),
            Note::Incident(incident) => {
                self.incident = Some(incident);
                self.tell(&IncidentFact(incident));
            }
            // The refusal that follows tells of it, or the decision about mail that goes on in the clear.
            Note::NoTls { .. } | Note::HostFault { .. } => {}
        }
    }

    /// The machine gave a refusal. A verdict was written when it was made.
    fn refused(&mut self, refusal: &Refusal) {
        if refusal.cause == Cause::Verdict {
            return;
        }
        let domain = match self.next_refusal.take() {
            Some(NextRefusal::Recorded(recorded)) if recorded == *refusal => return,
            Some(NextRefusal::About(cause, domain)) if cause == refusal.cause => Some(domain),
            _ => None,
        };
        self.tell(&RefusalFact {
            refusal,
            domain: domain.as_deref(),
        });
    }

    // ----- messages -----

    /// A transaction begins: earlier decisions are not about its mail. Inbound it begins with the question about its sender.
    pub(super) fn transaction_begins(&mut self) {
        self.transaction.begins();
    }

    /// Octets of a message on their way to the server. Their digest costs as much as a third of the encryption, and only a record needs
    /// it.
    pub(super) fn content(&mut self, octets: &[u8]) {
        if self.common.audit.is_some() {
            self.transaction.content(octets);
        }
    }

    /// The server's final reply is in, or will never come: records the message. The record is queued before this returns, even if the
    /// job is dropped. The job is over when the record is on disk, or at once if there is none to be written; `told` makes its result.
    pub(super) fn message<T>(
        &mut self,
        message: &Completed,
        told: impl FnOnce(Result<Recorded, Refusal>) -> T + Send + 'static,
    ) -> Job<T> {
        self.messages += 1;
        self.octets += message.octets;
        if OutcomeField::of(message.reply.as_deref()) == OutcomeField::Accepted {
            self.accepted += 1;
            let client = self.client().0.ip();
            self.common.write_budget.delivered(client, self.accepted);
        }
        // Only a record says who allowed the mail, and what it was.
        let (decisions, sha256) = match self.common.audit {
            Some(_) => self.transaction.finish(self.session.direction, message),
            None => Default::default(),
        };
        let fact = MessageFact {
            message,
            number: self.messages,
            direction: self.session.word(),
            host: &self.common.hostname,
            configuration: &self.common.configuration,
            sha256,
            decisions,
            peer: self.peer.as_deref(),
            user: self.session.user.as_deref(),
        };
        fact.count(&self.common.metrics);
        self.log(&fact);
        let record = self.record_of(&fact);
        let (Some(audit), Some(record)) = (self.audit_log(), record) else {
            return Job::Done(told(Ok(Recorded::assertion())));
        };
        let durable = audit.append_durable(&record);
        if self.peer.is_some() {
            self.unnamed = None;
        }
        let metrics = Arc::clone(&self.common.metrics);
        Job::running(async move {
            let outcome = durable.await.map_err(|error| {
                let error = error.to_string();
                let fact = UnrecordedFact(Some(&error));
                fact.count(&metrics);
                if let Some(level) = fact.level() {
                    log::log!(level, "{}", FactLine(&fact));
                }
                unwritable()
            });
            told(outcome.map(|_| Recorded::assertion()))
        })
    }

    /// The line that `--add-received` puts in front of a message that begins now. `None` before TLS is up.
    pub(super) fn trace(&self) -> Option<Vec<u8>> {
        let peer = self.peer.as_ref().filter(|_| self.common.add_received)?;
        Some(trace::line(
            self.session.hello.as_deref(),
            self.client().0.ip(),
            &self.common.hostname,
            self.session.direction,
            &self.session.id.to_string(),
            peer.facts.suite,
        ))
    }

    // ----- the end -----

    /// The session has ended.
    pub(super) fn closed(mut self) {
        let end = match (self.incident, self.end) {
            (Some(incident), _) => incident,
            (None, Some(end)) => end.word(),
            (None, None) => "closed",
        };
        let (peer, repeats) = (self.peer.clone(), std::mem::take(&mut self.repeats));
        let total = repeats.total();
        let audited = self.common.audit.is_some().then_some(repeats);
        let fact = ClosedFact {
            end,
            took: clock::instant().duration_since(self.began),
            messages: [self.messages, self.accepted],
            octets: self.octets,
            traffic: self.traffic,
            peer: peer.as_deref(),
            unnamed: self.unnamed.take(),
            repeats: total,
            repeated: audited.map(Repeats::counts).unwrap_or_default(),
            empty: !self.recorded,
        };
        self.tell(&fact);
    }
}

/// The audit log cannot be written, so nothing goes on.
fn unwritable() -> Refusal {
    local_fault("the audit log cannot be written, no mail can pass")
}

#[cfg(test)]
mod tests;

//! The book of one session: whose it is, what happened in it so far, and the book of its transaction, which is handed over by value
//! to the record of its message. What happens is told as a [`Fact`]; this says for whom, and how often.

use jiff::Timestamp;
use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Instant};

use aws_lc_rs::digest;

use super::{
    budget::Kind,
    drive::ActionResult,
    facts::{
        Broken, Closed, Fact, Handed, HandshakeFailed, Heard, Incident, Judged, Keep, Lacking,
        Opened, Refused, RefusedAgain, Secured, Unrecorded,
    },
    memory::Remembered,
    records::{entry, unwritable},
    repeats::Repeats,
    setup::CommonSetup,
};
use crate::{
    audit::{
        self, AuditLog, ConnectionField, DirectionField, OutcomeField, Record, VerdictField,
        WireText,
    },
    clock,
    net::ClientAddr,
    policy::Decision,
    smtp::{
        Cause, Completed, Domain, End, Note, Question, Recipient, Recorded, Refusal, Side,
        fits_a_trace,
    },
    tls::Peer,
};

/// What the record of a session's end takes, in octets.
const LAST_RECORD: usize = 800;
/// What the line of its end takes.
const LAST_LINE: usize = 240;
/// What each line begins with, in octets: time, level and whose session it is.
const PREFIX: usize = 120;

/// See the module.
pub struct Evidence {
    common: CommonSetup,
    id: String,
    direction: DirectionField,
    client: ClientAddr,
    began: Instant,
    /// Where the client meant to go; with `--upstream`, where it came.
    to: SocketAddr,
    server: Option<ConnectionField>,
    hello: Option<Vec<u8>>,
    peer: Option<Arc<Peer>>,
    transaction: Transaction,
    /// The last decision.
    decided: Option<Decision>,
    repeats: Repeats,
    /// Why the machine was answered with no, and the domain that this is about.
    answered: Option<(Cause, String)>,
    /// A refusal that is written down already, though the machine will tell of it when it is given.
    told: Option<Refusal>,
    /// Something of this session is recorded.
    recorded: bool,
    /// Whether its beginning and end are paid for, once that was asked.
    afforded: Option<bool>,
    messages: u64,
    accepted: u64,
    end: Option<End>,
    incident: Option<&'static str>,
    /// Octets read from and written to client and server.
    traffic: [[u64; 2]; 2],
}

/// What was decided for one transaction, and the digest of its message.
struct Transaction {
    /// Outbound: what allowed each recipient, in policy's own terms.
    recipients: HashMap<Recipient, Arc<audit::DecisionField>>,
    /// Inbound: what allowed the sender; a sender that no rule speaks of has none.
    sender: Option<(Option<Domain>, Arc<audit::DecisionField>)>,
    digest: digest::Context,
}

impl Default for Transaction {
    fn default() -> Self {
        Self {
            recipients: HashMap::new(),
            sender: None,
            digest: digest::Context::new(&digest::SHA256),
        }
    }
}

impl Evidence {
    /// A session begins. Nothing is written down before something worth it happens.
    #[must_use]
    pub fn open(
        common: &CommonSetup,
        direction: DirectionField,
        client: ClientAddr,
        to: SocketAddr,
    ) -> Self {
        Self {
            common: common.clone(),
            id: session_id(),
            direction,
            client,
            began: clock::instant(),
            to,
            server: None,
            hello: None,
            peer: None,
            transaction: Transaction::default(),
            decided: None,
            repeats: Repeats::default(),
            answered: None,
            told: None,
            recorded: false,
            afforded: None,
            messages: 0,
            accepted: 0,
            end: None,
            incident: None,
            traffic: [[0; 2]; 2],
        }
    }

    /// `out` or `in`.
    fn word(&self) -> &'static str {
        match self.direction {
            DirectionField::Outbound => "out",
            DirectionField::Inbound => "in",
        }
    }

    fn session(&self) -> audit::SessionField {
        audit::SessionField {
            id: self.id.clone(),
            direction: self.direction,
            client: ConnectionField {
                from: self.client.0,
                to: self.to,
            },
            server: self.server,
            hello: self.hello.as_deref().map(WireText::escape),
        }
    }

    // ----- the one way out -----

    /// Counts, logs and records a fact; one that was told before is counted only. False: it was told before.
    fn tell(&mut self, fact: &impl Fact) -> bool {
        fact.count(&self.common.metrics);
        if let Some(kind) = fact.kind()
            && !self.repeats.is_first(kind)
        {
            return false;
        }
        let record = self.record_of(fact);
        if fact.keep() == Keep::Always || self.affords(fact, record.as_ref()) {
            self.log(fact);
            if let Some(record) = record
                && let Some(audit) = self.begun()
            {
                audit.append(&record);
            }
        }
        true
    }

    fn record_of(&self, fact: &impl Fact) -> Option<Record> {
        let audit = self.common.audit.as_ref()?;
        fact.record(audit, self.session())
    }

    /// Whether this line and record may be written, which anybody who can connect causes as often as he likes. The session's
    /// own beginning and end are paid for once; what is not written is counted by the write_budget.
    fn affords(&mut self, fact: &impl Fact, record: Option<&Record>) -> bool {
        if self.messages > 0 {
            return true;
        }
        let (client, write_budget) = (self.client.0.ip(), Arc::clone(&self.common.write_budget));
        let session = match self.afforded {
            Some(afforded) => afforded,
            None => {
                let opened = self.record_of(&Opened);
                let records = opened.map_or(0, |record| octets(&record) + LAST_RECORD);
                let octets = records + LAST_LINE;
                let afforded = write_budget.may_write(client, Kind::SessionOpened, octets);
                *self.afforded.insert(afforded)
            }
        };
        match record {
            None | Some(Record::SessionClosed(_)) => session,
            Some(record) => {
                let line = fact.line().map_or(0, |(_, line)| PREFIX + line.len());
                let octets = line + octets(record);
                write_budget.may_write(client, Kind::Refusal, octets) && session
            }
        }
    }

    fn log(&self, fact: &impl Fact) {
        if let Some((level, line)) = fact.line() {
            let to = self.server.map_or(self.to, |server| server.to);
            log::log!(
                level,
                "{} s={} client={} to={to} {line}",
                self.word(),
                self.id,
                self.client
            );
        }
    }

    /// The log, for a record of this session; its first one goes ahead of all others.
    fn begun(&mut self) -> Option<Arc<AuditLog>> {
        let audit = self.common.audit.clone()?;
        if !std::mem::replace(&mut self.recorded, true)
            && let Some(opened) = self.record_of(&Opened)
        {
            audit.append(&opened);
        }
        Some(audit)
    }

    // ----- connections -----

    /// The connection to the server stands.
    pub fn connected(&mut self, server: ConnectionField) {
        self.server = Some(server);
        self.peer = self.peer.take().filter(|_| self.is_inbound());
    }

    fn is_inbound(&self) -> bool {
        self.direction == DirectionField::Inbound
    }

    /// TLS is up on the outside.
    pub fn secured(&mut self, peer: Arc<Peer>) {
        self.tell(&Secured(&peer));
        self.peer = Some(peer);
    }

    /// A handshake with an outside client failed.
    pub fn handshake_failed(&mut self, words: &str) {
        self.incident = Some("handshake-failed");
        self.tell(&HandshakeFailed(words));
    }

    /// A connection broke.
    pub fn broken(&mut self, side: Side, error: &std::io::Error) {
        self.tell(&Broken { side, error });
    }

    /// Octets read from and written to a side, on a connection that is done with.
    pub fn traffic(&mut self, side: Side, octets: [u64; 2]) {
        let sum = &mut self.traffic[usize::from(side == Side::Server)];
        sum[0] += octets[0];
        sum[1] += octets[1];
    }

    // ----- decisions -----

    /// Writes a decision down, before its answer is given. Where it allows what was asked, it is the transaction's. Gives whether
    /// it is the first of its kind in this session.
    ///
    /// # Errors
    /// The audit log cannot be written, so nothing may be answered but this.
    pub fn verdict(&mut self, decision: &Decision, about: &Question) -> Result<bool, Refusal> {
        self.decided = Some(decision.clone());
        let address = Judged::address(decision);
        let refused = decision.refused().is_some();
        self.judged(
            entry(decision),
            address,
            decision.refusal.as_ref(),
            refused,
            about,
        )
    }

    /// What the policy decided last.
    #[must_use]
    pub fn decided(self) -> Option<Decision> {
        self.decided
    }

    /// Inbound: the session goes on in the clear, because `entry` or observe mode says so.
    ///
    /// # Errors
    /// The audit log cannot be written.
    pub fn unprotected(
        &mut self,
        entry: audit::DecisionField,
        observed: Option<&Refusal>,
        about: &Question,
    ) -> Result<(), Refusal> {
        self.judged(entry, None, observed, false, about).map(drop)
    }

    fn judged(
        &mut self,
        entry: audit::DecisionField,
        address: Option<String>,
        reply: Option<&Refusal>,
        refused: bool,
        about: &Question,
    ) -> Result<bool, Refusal> {
        let peer = self.peer.clone();
        let first = self.tell(&Judged {
            entry: &entry,
            address,
            reply,
            peer: peer.as_deref(),
        });
        if !refused {
            // What was found stands in the record of the verdict, once.
            let entry = Arc::new(audit::DecisionField {
                findings: None,
                ..entry
            });
            match about {
                Question::Recipient(recipient) => {
                    self.transaction.recipients.insert(recipient.clone(), entry);
                }
                Question::Sender(sender) => self.transaction.sender = Some((sender.clone(), entry)),
                Question::Peer => {}
            }
        }
        if let Some(audit) = &self.common.audit
            && !audit.healthy()
        {
            self.tell(&Unrecorded(None));
            return Err(unwritable());
        }
        Ok(first)
    }

    /// What the machine is answered with is no verdict, but about this domain's mail. The words may become the machine's own.
    pub fn answers(&mut self, cause: Cause, domain: Option<&Domain>) {
        self.answered = domain.map(|domain| (cause, domain.to_string()));
    }

    /// This refusal of the machine's own is written down with a verdict.
    pub fn is_told(&mut self, refusal: &Refusal) {
        self.told = Some(refusal.clone());
    }

    /// Refused at the greeting for what another session met; gives the reply.
    #[must_use]
    pub fn refused_again(&mut self, first: &Remembered) -> Refusal {
        let refusal = first.refuse_again();
        self.tell(&RefusedAgain {
            first,
            refusal: &refusal,
        });
        refusal
    }

    // ----- what the machine says -----

    /// What the machine has to say.
    pub fn note(&mut self, note: Note) {
        match note {
            Note::Hello(name) => self.hello = Some(name),
            Note::TransactionBegins if self.is_inbound() => {}
            Note::TransactionBegins => self.transaction_begins(),
            Note::MessageBegins => {
                self.transaction.digest = digest::Context::new(&digest::SHA256);
            }
            Note::Refused(refusal) => self.refused(&refusal),
            Note::Heard {
                stage,
                reply,
                proved,
            } => {
                self.tell(&Heard {
                    stage,
                    reply: &reply,
                    proved,
                });
            }
            Note::MissingExtension(keyword) => {
                self.tell(&Lacking(keyword));
            }
            Note::Ends(end) => self.end = Some(end),
            Note::Incident(incident) => {
                self.incident = Some(incident);
                self.tell(&Incident(incident));
            }
            // It is told with the refusal that follows, or with whom it kept from being protected.
            Note::NoTls { .. } | Note::HostFault { .. } => {}
        }
    }

    /// A refusal of our own was given. A verdict was told when it was made.
    fn refused(&mut self, refusal: &Refusal) {
        if refusal.cause == Cause::Verdict || self.told.take().as_ref() == Some(refusal) {
            return;
        }
        let about = self.answered.take();
        let domain = about.filter(|(cause, _)| *cause == refusal.cause);
        self.tell(&Refused {
            refusal,
            domain: domain.as_ref().map(|(_, domain)| domain.as_str()),
        });
    }

    // ----- messages -----

    /// What was decided before does not concern what comes now. Inbound it begins with the question about its sender.
    pub fn transaction_begins(&mut self) {
        self.transaction = Transaction::default();
    }

    /// Octets of a message. Only a record wants their digest, which costs as much as a third of the encryption.
    pub fn content(&mut self, octets: &[u8]) {
        if self.common.audit.is_some() {
            self.transaction.digest.update(octets);
        }
    }

    /// The server's final reply is in, or will never be: writes the message down. Queued before this returns, whatever
    /// becomes of the future.
    pub fn message(
        &mut self,
        message: &Completed,
    ) -> impl Future<Output = ActionResult> + Send + use<> {
        let transaction = std::mem::take(&mut self.transaction);
        self.messages += 1;
        let accepted = OutcomeField::of(message.reply.as_deref()) == OutcomeField::Accepted;
        self.accepted += u64::from(accepted);
        if accepted {
            self.common.write_budget.delivered(self.client.0.ip());
        }
        let (decisions, digest) = transaction.hand_over(self.direction, message);
        let peer = self.peer.clone();
        let (host, configuration) = (
            self.common.hostname.clone(),
            Arc::clone(&self.common.configuration),
        );
        let fact = Handed {
            message,
            number: self.messages,
            direction: self.word(),
            host: &host,
            configuration: &configuration,
            sha256: data_encoding::HEXLOWER.encode(digest.as_ref()),
            decisions,
            peer: peer.as_deref(),
        };
        fact.count(&self.common.metrics);
        self.log(&fact);
        let record = self.record_of(&fact);
        let durable = match (self.begun(), record) {
            (Some(audit), Some(record)) => Some(audit.append_durable(&record)),
            _ => None,
        };
        let metrics = Arc::clone(&self.common.metrics);
        async move {
            let Some(durable) = durable else {
                return ActionResult::Recorded(Ok(Recorded::assertion()));
            };
            ActionResult::Recorded(match durable.await {
                Ok(_) => Ok(Recorded::assertion()),
                Err(error) => {
                    let error = error.to_string();
                    let fact = Unrecorded(Some(&error));
                    fact.count(&metrics);
                    if let Some((level, line)) = fact.line() {
                        log::log!(level, "{line}");
                    }
                    Err(unwritable())
                }
            })
        }
    }

    /// The line that `--add-received` puts before a message that begins now, once TLS is up (RFC 5321 §4.4, RFC 8314 §4.3).
    #[must_use]
    pub fn trace(&self) -> Option<Vec<u8>> {
        if !self.common.add_received {
            return None;
        }
        let facts = self.peer.as_ref().map(|peer| &peer.facts)?;
        let hello = self.hello.as_deref().and_then(plain_name);
        let from = hello.unwrap_or("unknown");
        let ip = match self.client.0.ip() {
            std::net::IpAddr::V4(ip) => ip.to_string(),
            std::net::IpAddr::V6(ip) => format!("IPv6:{ip}"),
        };
        // The TLS of the outside leg: inbound it protects the hop to us, outbound the hop from us, which ESMTP alone says.
        let with = match self.direction {
            DirectionField::Inbound => "ESMTPS",
            DirectionField::Outbound => "ESMTP",
        };
        Some(
            format!(
                "Received: from {from} ([{ip}])\r\n\tby {} (starttls-proxy) with {with} id {}\r\n\ttls {};\r\n\t{}\r\n",
                self.common.hostname,
                self.id,
                facts.suite,
                rfc5322_date(clock::wall()),
            )
            .into_bytes(),
        )
    }

    // ----- the end -----

    /// The session has ended.
    pub fn closed(mut self) {
        let end = match (self.incident, self.end) {
            (Some(incident), _) => incident,
            (None, Some(end)) => end.word(),
            (None, None) => "closed",
        };
        let peer = self.peer.clone();
        let fact = Closed {
            end,
            took: clock::instant().duration_since(self.began),
            messages: [self.messages, self.accepted],
            traffic: self.traffic,
            peer: peer.as_deref(),
            repeated: std::mem::take(&mut self.repeats).told(),
            empty: !self.recorded,
        };
        self.tell(&fact);
    }
}

impl Transaction {
    /// The decisions of the message's own parties, and its digest.
    fn hand_over(
        self,
        direction: DirectionField,
        message: &Completed,
    ) -> (Vec<audit::DecisionField>, digest::Digest) {
        let mut decisions: Vec<audit::DecisionField> = Vec::new();
        if direction == DirectionField::Inbound {
            // A decision about another sender is none about this one.
            let own = self
                .sender
                .filter(|(sender, _)| *sender == message.sender_domain);
            decisions.extend(own.map(|(_, decision)| (*decision).clone()));
        } else {
            for to in &message.recipients {
                let decision = match self.recipients.get(&to.recipient) {
                    Some(decision) => (**decision).clone(),
                    None => undecided(&to.recipient),
                };
                if !decisions.contains(&decision) {
                    decisions.push(decision);
                }
            }
        }
        (decisions, self.digest.finish())
    }
}

/// A recipient that no decision is known for is never said to have been protected.
fn undecided(recipient: &Recipient) -> audit::DecisionField {
    log::error!("no decision is known for a recipient that the server accepted");
    audit::DecisionField {
        domain: match recipient {
            Recipient::Domain(domain) => domain.to_string(),
            Recipient::Literal(literal) => literal.clone(),
            Recipient::Postmaster => String::from("postmaster"),
        },
        verdict: VerdictField::Unprotected,
        observed: false,
        level: None,
        basis: None,
        rule: None,
        until: None,
        why: None,
        reason: None,
        detail: String::from("no decision is known"),
        findings: None,
    }
}

/// What a record takes in the log, in octets, without what the chain adds.
fn octets(record: &Record) -> usize {
    serde_json::to_vec(record).map_or(0, |text| text.len())
}

/// A name in EHLO that can stand in a trace line.
fn plain_name(name: &[u8]) -> Option<&str> {
    std::str::from_utf8(name)
        .ok()
        .filter(|_| fits_a_trace(name))
}

/// Twelve hexadecimal digits that no other session of late has.
fn session_id() -> String {
    let mut bytes = [0_u8; 6];
    // Without randomness the id is not unique; nothing but reading the log depends on it.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    data_encoding::HEXLOWER.encode(&bytes)
}

/// RFC 5322 §3.3.
fn rfc5322_date(at: std::time::SystemTime) -> String {
    Timestamp::try_from(at)
        .unwrap_or_default()
        .strftime("%a, %d %b %Y %H:%M:%S +0000")
        .to_string()
}

#[cfg(test)]
mod tests;

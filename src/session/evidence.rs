//! What a session leaves behind: log lines, counters and records, always saying the same.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use aws_lc_rs::digest;
use tokio::net::TcpStream;

use super::{
    drive::{Done, Job},
    records::{entry, peer_record, tls_record, unwritable, word},
    site::Common,
};
use crate::{
    audit::{
        self, AuditLog, Connection, Direction, Message, Outcome, Protection, Record, SessionClosed,
        SessionOpened, Unprotected, WireText,
    },
    clock, metrics,
    net::{ClientAddr, canonical},
    policy::{Decision, NextHop, Reason, Verdict},
    smtp::{Completed, Note, Recipient, Recorded, Refusal, Side},
    tls::{HandshakeFault, Peer},
};

/// The evidence of one session.
pub struct Evidence {
    common: Common,
    id: String,
    /// `out` or `in`.
    word: &'static str,
    client: ClientAddr,
    began: Instant,
    book: Mutex<Book>,
}

/// What is known so far.
struct Book {
    /// Where the client meant to go; with `--upstream`, where it came.
    to: SocketAddr,
    server: Option<Connection>,
    hello: Option<Vec<u8>>,
    peer: Option<Arc<Peer>>,
    /// The last decision for each domain.
    decisions: BTreeMap<String, audit::Decision>,
    /// The last decision.
    decided: Option<Decision>,
    digest: digest::Context,
    messages: u64,
    accepted: u64,
    /// The last refusal that was written down: the machine tells of it once more when it is given.
    refused: Option<Refusal>,
    incident: Option<&'static str>,
    /// Octets read from and written to client and server.
    traffic: [[u64; 2]; 2],
}

impl Evidence {
    /// A session begins.
    #[must_use]
    pub fn open(common: &Common, word: &'static str, client: ClientAddr, to: SocketAddr) -> Self {
        let evidence = Self {
            common: common.clone(),
            id: session_id(),
            word,
            client,
            began: clock::instant(),
            book: Mutex::new(Book {
                to,
                server: None,
                hello: None,
                peer: None,
                decisions: BTreeMap::new(),
                decided: None,
                digest: digest::Context::new(&digest::SHA256),
                messages: 0,
                accepted: 0,
                refused: None,
                incident: None,
                traffic: [[0; 2]; 2],
            }),
        };
        evidence.append(|evidence| {
            Record::SessionOpened(SessionOpened {
                session: evidence.session(&evidence.book()),
            })
        });
        evidence
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a record only where one is kept.
    fn append(&self, record: impl FnOnce(&Self) -> Record) {
        if let Some(audit) = &self.common.audit {
            audit.append(&record(self));
        }
    }

    /// Key and value pairs that begin each of the session's log lines.
    fn line(&self, book: &Book) -> String {
        let to = book.server.map_or(book.to, |server| server.to);
        format!("{} s={} client={} to={to}", self.word, self.id, self.client)
    }

    fn session(&self, book: &Book) -> audit::Session {
        audit::Session {
            id: self.id.clone(),
            direction: self.direction(),
            client: Connection {
                from: self.client.0,
                to: book.to,
            },
            server: book.server,
            hello: book.hello.as_deref().map(WireText::escape),
        }
    }

    fn direction(&self) -> Direction {
        if self.word == "out" {
            Direction::Outbound
        } else {
            Direction::Inbound
        }
    }

    /// The connection to the server stands.
    pub fn connected(&self, stream: &TcpStream) {
        if let (Ok(from), Ok(to)) = (stream.local_addr(), stream.peer_addr()) {
            self.book().server = Some(Connection {
                from: canonical(from),
                to: canonical(to),
            });
        }
    }

    /// TLS is up on the outside.
    pub fn secured(&self, peer: &Peer) {
        self.common.metrics.count(metrics::HANDSHAKES, "done");
        let facts = &peer.facts;
        let mut book = self.book();
        log::info!(
            "{} tls={} suite={} group={} sni={}",
            self.line(&book),
            facts.version,
            facts.suite,
            facts.group,
            facts.sni.as_deref().unwrap_or("-"),
        );
        book.peer = Some(Arc::new(peer.clone()));
    }

    /// A handshake with an outside client failed.
    pub fn handshake_failed(&self, words: &str) {
        self.common.metrics.count(metrics::HANDSHAKES, "failed");
        let mut book = self.book();
        book.incident = Some("handshake-failed");
        log::warn!(
            "{} verdict=refused reason=validation-failure detail={words:?}",
            self.line(&book)
        );
        let refusal = audit::Refusal {
            session: self.session(&book),
            domain: None,
            reason: "validation-failure".into(),
            reply: words.into(),
        };
        drop(book);
        self.append(|_| Record::Refusal(Box::new(refusal)));
    }

    /// Writes a decision down, before its answer is given.
    ///
    /// # Errors
    /// The audit log cannot be written, so nothing may be answered but this.
    pub fn verdict(&self, decision: &Decision, peer: Option<&Peer>) -> Result<(), Refusal> {
        let entry = entry(decision);
        let mut line = self.line(&self.book());
        let verdict = word(entry.verdict);
        let _ = write!(
            line,
            " domain={} verdict={verdict}",
            printable(&entry.domain)
        );
        if let Some(reason) = &entry.reason {
            let _ = write!(line, " reason={reason}");
        }
        let level = entry.level.as_deref().unwrap_or("-");
        let basis = entry.basis.as_deref().unwrap_or("-");
        let _ = write!(line, " level={level} basis={basis}");
        if let Some(rule) = &entry.rule {
            let _ = write!(line, " rule={}", printable(rule));
        }
        if decision.observed {
            line.push_str(" observed=yes");
        }
        match (&decision.verdict, &decision.refusal) {
            (Verdict::Refused(..), Some(refusal)) => log::warn!("{line} reply={}", quoted(refusal)),
            (Verdict::Unprotected(_), _) => log::warn!("{line} detail={:?}", entry.detail),
            _ => log::info!("{line} detail={:?}", entry.detail),
        }
        self.common.metrics.count(metrics::VERDICTS, verdict);
        if let Verdict::Refused(reason, _) = decision.verdict {
            self.common.metrics.count(metrics::REFUSALS, reason.word());
        }
        let record = self.decision_record(decision, entry.clone(), peer);
        let mut book = self.book();
        if let Some(refusal) = decision.refused() {
            book.refused = Some(refusal.clone());
        }
        book.decisions.insert(entry.domain.clone(), entry);
        book.decided = Some(decision.clone());
        drop(book);
        self.append(|_| record);
        self.healthy()
    }

    /// What the policy decided last.
    #[must_use]
    pub fn decided(&self) -> Option<Decision> {
        self.book().decided.clone()
    }

    fn decision_record(
        &self,
        decision: &Decision,
        entry: audit::Decision,
        peer: Option<&Peer>,
    ) -> Record {
        let session = self.session(&self.book());
        let tls = peer.map(tls_record);
        if entry.verdict == Protection::Unprotected {
            return Record::Unprotected(Box::new(Unprotected {
                session,
                decision: entry,
                tls,
            }));
        }
        let address = match (&decision.ask.next_hop, &self.common.audit) {
            (NextHop::Recipient(Recipient::Domain(domain)), Some(audit)) => {
                Some(audit.address(format!("@{domain}").as_bytes()))
            }
            _ => None,
        };
        Record::Verdict(Box::new(audit::Verdict {
            session,
            address,
            decision: entry,
            tls,
            peer: peer.and_then(peer_record),
        }))
    }

    fn healthy(&self) -> Result<(), Refusal> {
        match &self.common.audit {
            Some(audit) if !audit.healthy() => {
                self.common.metrics.count(metrics::RECORD_FAULTS, "");
                Err(unwritable())
            }
            _ => Ok(()),
        }
    }

    /// Inbound: this session goes on in the clear because of `why`.
    ///
    /// # Errors
    /// The audit log cannot be written.
    pub fn unprotected(&self, why: &str) -> Result<(), Refusal> {
        let book = self.book();
        log::warn!("{} verdict=unprotected detail={why:?}", self.line(&book));
        self.common.metrics.count(metrics::VERDICTS, "unprotected");
        let basis = why
            .split(' ')
            .next()
            .unwrap_or(why)
            .trim_start_matches("--");
        let decision = audit::Decision {
            domain: self.client.0.ip().to_string(),
            verdict: Protection::Unprotected,
            level: None,
            basis: Some(basis.to_owned()),
            rule: Some(why.to_owned()),
            until: None,
            why: None,
            reason: None,
            detail: String::from("in the clear"),
            findings: None,
        };
        let session = self.session(&book);
        drop(book);
        self.book()
            .decisions
            .insert(decision.domain.clone(), decision.clone());
        self.append(|_| {
            Record::Unprotected(Box::new(Unprotected {
                session,
                decision,
                tls: None,
            }))
        });
        self.healthy()
    }

    /// A refusal of our own that is no verdict.
    pub fn refused(&self, refusal: &Refusal) {
        let reason = match (refusal.code, refusal.enhanced) {
            (_, (4, 1)) => "server-unreachable",
            (_, (4, 2)) => "server-gone",
            (_, (3, 0 | 2)) => "local-fault",
            (_, (7, 4)) => "starttls-not-supported",
            (530, _) => "starttls-required",
            _ => "protocol",
        };
        self.refusal(reason, refusal);
    }

    /// A refusal of our own, for a reason of the policy's.
    pub fn refused_for(&self, reason: Reason, refusal: &Refusal) {
        self.refusal(reason.word(), refusal);
    }

    fn refusal(&self, reason: &str, refusal: &Refusal) {
        let mut book = self.book();
        if book.refused.as_ref() == Some(refusal) {
            return;
        }
        book.refused = Some(refusal.clone());
        log::warn!(
            "{} verdict=refused reason={reason} reply={}",
            self.line(&book),
            quoted(refusal)
        );
        self.common.metrics.count(metrics::REFUSALS, reason);
        let session = self.session(&book);
        drop(book);
        self.append(|_| {
            Record::Refusal(Box::new(audit::Refusal {
                session,
                domain: None,
                reason: reason.to_owned(),
                reply: refusal.to_string().as_str().into(),
            }))
        });
    }

    /// What the machine has to say.
    pub fn note(&self, note: Note) {
        match note {
            Note::Hello(name) => self.book().hello = Some(name),
            Note::MessageBegins => self.message_begins(),
            Note::Refused(refusal) | Note::HostFault { refusal, .. } => self.refused(&refusal),
            Note::TransactionBegins | Note::Heard { .. } | Note::Lacking(_) | Note::Ends(_) => {}
            Note::Incident(incident) => {
                let mut book = self.book();
                book.incident = Some(incident);
                log::warn!("{} incident={incident}", self.line(&book));
                self.common.metrics.count(metrics::INCIDENTS, incident);
            }
        }
    }

    /// The next octets begin a message.
    pub fn message_begins(&self) {
        let mut book = self.book();
        book.digest = digest::Context::new(&digest::SHA256);
    }

    /// Octets of a message. Only a record wants their digest, which costs as much as a third of the encryption.
    pub fn content(&self, octets: &[u8]) {
        if self.common.audit.is_some() {
            self.book().digest.update(octets);
        }
    }

    /// The server's final reply is in, or will never be: writes the message down. Queued before this returns, whatever
    /// becomes of the job.
    pub fn message(&self, message: Completed) -> Job {
        self.count(&message);
        let Some(audit) = &self.common.audit else {
            let recorded = Ok(Recorded::assertion());
            return Box::pin(std::future::ready(Done::Recorded(recorded)));
        };
        let durable = audit.append_durable(&self.message_record(audit, &message));
        let metrics = Arc::clone(&self.common.metrics);
        Box::pin(async move {
            Done::Recorded(match durable.await {
                Ok(_) => Ok(Recorded::assertion()),
                Err(error) => {
                    log::error!(
                        "a message is not acknowledged, its record is not on disk: {error}"
                    );
                    metrics.count(metrics::RECORD_FAULTS, "");
                    Err(unwritable())
                }
            })
        })
    }

    fn count(&self, message: &Completed) {
        let outcome = match Outcome::of(message.reply.as_deref()) {
            Outcome::Accepted => "accepted",
            Outcome::Rejected => "rejected",
            Outcome::Unknown => "unknown",
        };
        let metrics = &self.common.metrics;
        metrics.count(metrics::MESSAGES, outcome);
        metrics.add(metrics::OCTETS, self.word, message.octets);
        let mut book = self.book();
        book.messages += 1;
        book.accepted += u64::from(outcome == "accepted");
        log::info!(
            "{} message={} octets={} outcome={outcome} reply=\"{}\"",
            self.line(&book),
            book.messages,
            message.octets,
            without_crlf(message.reply.as_deref().unwrap_or_default()).escape_ascii(),
        );
    }

    fn message_record(&self, audit: &AuditLog, message: &Completed) -> Record {
        let mut book = self.book();
        let fresh = digest::Context::new(&digest::SHA256);
        let digest = std::mem::replace(&mut book.digest, fresh).finish();
        let decisions = self.decisions_for(&book, message);
        let weakest = decisions.iter().map(|decision| decision.verdict).max();
        let recipients = message.recipients.iter();
        let reply = message.reply.as_deref();
        Record::Message(Box::new(Message {
            session: self.session(&book),
            host: self.common.hostname.clone(),
            configuration: self.common.configuration.to_string(),
            number: book.messages,
            sender: audit.address(&message.sender),
            recipients: recipients.map(|to| audit.address(&to.path)).collect(),
            octets: message.octets,
            sha256: audit::hex(digest.as_ref()),
            verdict: weakest.unwrap_or(self.plain_verdict(&book)),
            decisions,
            tls: book.peer.as_deref().map(tls_record),
            peer: book.peer.as_deref().and_then(peer_record),
            outcome: Outcome::of(reply),
            reply: reply.map(|reply| WireText::escape(without_crlf(reply))),
        }))
    }

    /// With no decision about anybody: over TLS nothing more was demanded, in the clear nothing was.
    fn plain_verdict(&self, book: &Book) -> Protection {
        if book.peer.is_some() {
            Protection::Authorised
        } else {
            Protection::Unprotected
        }
    }

    /// The decisions that the message's own parties had; with `--upstream`, and in the clear inbound, the session's.
    fn decisions_for(&self, book: &Book, message: &Completed) -> Vec<audit::Decision> {
        let mut domains: Vec<String> = if self.word == "out" {
            message
                .recipients
                .iter()
                .map(|to| domain_of(&to.path))
                .collect()
        } else {
            vec![domain_of(&message.sender)]
        };
        domains.sort();
        domains.dedup();
        let own: Vec<_> = domains
            .iter()
            .filter_map(|domain| book.decisions.get(domain).cloned())
            .collect();
        if own.is_empty() {
            book.decisions.values().cloned().collect()
        } else {
            own
        }
    }

    /// The line that `--add-received` puts before each message, once TLS is up (RFC 5321 §4.4, RFC 8314 §4.3).
    #[must_use]
    pub fn trace(&self) -> Option<Vec<u8>> {
        if !self.common.add_received {
            return None;
        }
        let book = self.book();
        let facts = book.peer.as_ref().map(|peer| &peer.facts)?;
        let from = book.hello.as_deref().map_or_else(
            || "unknown".into(),
            |hello| hello.escape_ascii().to_string(),
        );
        let ip = match self.client.0.ip() {
            std::net::IpAddr::V4(ip) => ip.to_string(),
            std::net::IpAddr::V6(ip) => format!("IPv6:{ip}"),
        };
        // The TLS of the outside leg: inbound it protects the hop to us, outbound the hop from us, which ESMTP alone says.
        let with = if self.word == "in" { "ESMTPS" } else { "ESMTP" };
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

    /// A connection broke.
    pub fn broken(&self, side: Side, error: &std::io::Error) {
        let side = match side {
            Side::Client => "client",
            Side::Server => "server",
        };
        let words = HandshakeFault::of(error).to_string();
        log::info!("{} broken={side} detail={words:?}", self.line(&self.book()));
    }

    /// Octets read from and written to a side, on a connection that is done with.
    pub fn traffic(&self, side: Side, octets: [u64; 2]) {
        let mut book = self.book();
        let sum = &mut book.traffic[usize::from(side == Side::Server)];
        sum[0] += octets[0];
        sum[1] += octets[1];
    }

    /// The session has ended.
    pub fn closed(&self) {
        let book = self.book();
        let end = match (book.incident, book.refused.is_some(), book.accepted) {
            (Some(incident), ..) => incident,
            (None, true, 0) => "refused",
            _ => "closed",
        };
        let took = self.began.elapsed();
        log::info!(
            "{} end={end} messages={} accepted={} seconds={:.3}",
            self.line(&book),
            book.messages,
            book.accepted,
            took.as_secs_f64(),
        );
        let record = SessionClosed {
            session: self.session(&book),
            end: end.to_owned(),
            duration_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            messages: book.accepted,
            client_octets: book.traffic[0],
            server_octets: book.traffic[1],
            tls: book.peer.as_deref().map(tls_record),
        };
        drop(book);
        self.append(|_| Record::SessionClosed(record));
    }
}

/// Twelve hexadecimal digits that no other session of late has.
fn session_id() -> String {
    let mut bytes = [0_u8; 6];
    // Without randomness the id is not unique; nothing but reading the log depends on it.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    audit::hex(&bytes)
}

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

/// The domain of a path, in lower case; the path itself where it has none.
fn domain_of(path: &[u8]) -> String {
    let domain = path
        .iter()
        .rposition(|b| *b == b'@')
        .map_or(path, |at| &path[at + 1..]);
    String::from_utf8_lossy(domain).to_ascii_lowercase()
}

/// RFC 5322 §3.3.
fn rfc5322_date(at: std::time::SystemTime) -> String {
    httpdate::fmt_http_date(at).replace("GMT", "+0000")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_date_is_in_the_form_of_rfc_5322() {
        let at = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_795_502_136);
        assert_eq!(rfc5322_date(at), "Tue, 24 Nov 2026 06:35:36 +0000");
    }

    #[test]
    fn nothing_in_a_reply_can_forge_a_log_field() {
        let refusal = Refusal {
            code: 421,
            enhanced: (7, 5),
            text: String::from(r#"names a" verdict=authorised x="b\"#),
            cause: crate::smtp::Cause::Verdict,
        };
        assert_eq!(
            quoted(&refusal),
            r#""421 4.7.5 names a\" verdict=authorised x=\"b\\""#
        );
    }

    #[test]
    fn nothing_in_a_domain_can_forge_a_log_field() {
        assert_eq!(
            printable("a b\r\nverdict=authorised"),
            "a\\x20b\\r\\nverdict=authorised"
        );
    }
}

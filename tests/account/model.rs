//! What the records must say of a session, worked out from what its client and the server said and heard, and from the table.

use crate::{
    certs::Shown,
    client::{Ended, Exchange, Session, What},
    heard::{Connection, Fatal, Transaction},
    rules::{Fact, Line, Rules, Want, Way, domain_of, fact, is, refused},
};
use std::collections::BTreeSet;

/// A decision in a message record.
#[derive(Clone, Debug)]
pub struct WantedDecision {
    /// The domain is any of these, in lower case.
    pub domains: Vec<String>,
    pub verdict: &'static str,
    /// `None`: every value is right.
    pub level: Option<&'static str>,
    pub basis: Option<&'static str>,
    pub rule: Option<String>,
    /// As in a [`Fact`].
    pub reason: Option<&'static str>,
    /// The decision may be missing.
    pub optional: bool,
}

impl WantedDecision {
    pub fn has_reason(&self, found: Option<&str>) -> bool {
        is(self.reason, found)
    }
}

/// A message record.
#[derive(Debug)]
pub struct WantedMessage<'a> {
    pub transaction: &'a Transaction,
    pub connection: &'a Connection,
    /// What the client meant to send.
    pub meant: Option<&'a [u8]>,
    /// The record must be there.
    pub certain: bool,
    pub secure: bool,
    /// SHA-256 of the outside peer's certificate.
    pub certificate: Option<&'a str>,
    pub decisions: Vec<WantedDecision>,
}

/// A session and its connections to the server, in their order.
pub type Played<'a> = (&'a Session, Vec<&'a Connection>);

/// The account of one session.
pub struct Account<'a> {
    pub messages: Vec<WantedMessage<'a>>,
    pub facts: Vec<Want>,
    pub ends: BTreeSet<String>,
}

impl Rules {
    /// `before`: the session before at the same server.
    pub fn account<'a>(&self, session: &Played<'a>, before: Option<&Played<'a>>) -> Account<'a> {
        let case = |played: &Played<'a>| Case {
            rules: self,
            session: played.0,
            connections: played.1.clone(),
            before: None,
        };
        let before = before.map(case);
        let case = Case {
            before: before.as_ref(),
            ..case(session)
        };
        let messages = case.messages();
        let (mut facts, ends) = match self.way {
            Way::Inbound => (case.inbound_facts(), case.ends()),
            Way::Gate | Way::Upstream => (case.outbound_facts(), case.ends()),
        };
        facts.extend(case.facts_of(&messages));
        if case.session.last {
            facts.push(Want {
                any_of: vec![refused(None, "stopped")],
                must: false,
            });
        }
        Account {
            messages,
            facts,
            ends,
        }
    }
}

/// One session with its connections to the server, in their order.
#[derive(Clone)]
pub struct Case<'r, 'a> {
    pub rules: &'r Rules,
    pub session: &'a Session,
    pub connections: Vec<&'a Connection>,
    /// The session before at the same server.
    pub before: Option<&'r Case<'r, 'a>>,
}

/// Why a session could not go on: the refusals that tell of it, and how it ended.
pub type Why = (Vec<Fact>, &'static [&'static str]);

impl<'a> Case<'_, 'a> {
    pub fn server(&self) -> String {
        self.session.to.ip().to_string()
    }

    pub fn last(&self) -> Option<&'a Connection> {
        self.connections.last().copied()
    }

    pub fn shown(&self) -> Option<&'a Shown> {
        self.last().and_then(|last| last.shown.as_ref())
    }

    /// Why there is no TLS. Later recipients find a session that goes on in the clear.
    pub fn no_tls(&self) -> &'static str {
        match self.connections.first().and_then(|first| first.fatal) {
            Some(Fatal::StartTls(_)) => "starttls-refused|session-in-the-clear",
            // The server closed the connection in place of its answer to STARTTLS, and another connection went on in the clear.
            Some(Fatal::Closed) if self.connections.len() > 1 => {
                "starttls-refused|session-in-the-clear"
            }
            Some(Fatal::Handshake) => "validation-failure|session-in-the-clear",
            _ => "starttls-not-supported|session-in-the-clear",
        }
    }

    /// Outbound: what is asked about for this recipient, and the line that answers.
    pub fn asked(&self, path: &str) -> (String, Option<&Line>) {
        match self.rules.way {
            Way::Gate => {
                let domain = domain_of(path);
                let line = self.rules.recipient(&domain, &self.server());
                (domain, line)
            }
            _ => (String::from("127.0.0.1"), self.rules.lines.first()),
        }
    }

    /// Outbound, the peer is judged at EHLO: the name it is judged by, and the line that decides.
    pub fn asked_at_connect(&self) -> Option<(String, &Line)> {
        let server = self.server();
        match self.rules.way {
            Way::Gate => {
                let line = self.rules.server(&server)?;
                (line.level == "fingerprint").then_some((server, line))
            }
            _ => Some((String::from("127.0.0.1"), self.rules.lines.first()?)),
        }
    }

    /// What the line decides about the peer: verdict and reason.
    pub fn judged(&self, line: Option<&Line>) -> (&'static str, Option<&'static str>) {
        let Some(line) = line else {
            return ("refused", Some("no-policy"));
        };
        match line.verdict(self.shown()) {
            Ok(verdict) => (verdict, None),
            Err(_) if self.shown().is_none() => ("refused", Some(self.no_tls())),
            Err(reason) => ("refused", Some(reason)),
        }
    }

    // ----- ends -----

    fn ends(&self) -> BTreeSet<String> {
        let session = self.session;
        let why = || match self.rules.way {
            Way::Inbound => self.why_inbound_over().1,
            _ => self.why_over(0).1,
        };
        let closing = session
            .exchanges
            .iter()
            .filter_map(|one| one.reply.as_ref())
            .find(|reply| reply.code == 421);
        let certainly: &[&str] = match (session.ended, closing) {
            (Ended::Stopped, Some(reply)) if reply.text.starts_with("421 4.3.2") => &["stopped"],
            (_, Some(reply)) if reply.is_servers() => &["server-closed"],
            (_, Some(_)) => why(),
            (Ended::Quit, None) => &["quit"],
            (Ended::Client, None) if self.broke_handshake().is_some() => {
                &["client-closed", "handshake-failed", "refused"]
            }
            // The client sent QUIT, and did not wait for the reply.
            (Ended::Client, None) if session.exchanges.iter().any(|one| one.what == What::Quit) => {
                &["quit", "client-closed"]
            }
            (Ended::Client, None) => &["client-closed"],
            _ => why(),
        };
        let mut ends: BTreeSet<String> = certainly.iter().map(ToString::to_string).collect();
        if session.last && session.ended == Ended::Client {
            ends.insert(String::from("stopped"));
        }
        let heard_all = session.exchanges.iter().all(|one| one.reply.is_some());
        let troubled = match self.last() {
            None => self.rules.way != Way::Inbound,
            Some(last) => {
                let in_the_clear = self.rules.way != Way::Inbound && last.shown.is_none();
                last.fatal.is_some() || in_the_clear
            }
        };
        if matches!(session.ended, Ended::Client | Ended::Quit)
            && (!heard_all || troubled)
            && closing.is_none()
        {
            // Which of the two came first, only the proxy can know.
            ends.extend(why().iter().map(ToString::to_string));
        }
        ends
    }

    // ----- messages -----

    fn messages(&self) -> Vec<WantedMessage<'a>> {
        let mut wanted = Vec::new();
        for &connection in &self.connections {
            for transaction in &connection.transactions {
                wanted.extend(self.message(transaction, connection));
            }
        }
        wanted
    }

    fn message(
        &self,
        transaction: &'a Transaction,
        connection: &'a Connection,
    ) -> Option<WantedMessage<'a>> {
        let session = self.session;
        let accepted = transaction.accepted();
        let first = *accepted.first()?;
        let attempt = session
            .attempts
            .iter()
            .find(|attempt| attempt.recipients.iter().any(|path| path == first));
        if !transaction.begun && attempt.is_none() {
            return None;
        }
        let heard_go = |go: &String| {
            session
                .exchanges
                .iter()
                .any(|one| one.reply.as_ref().is_some_and(|reply| reply.text == *go))
        };
        let certain = transaction.begun && transaction.go.as_ref().is_none_or(heard_go);
        let said = session
            .exchanges
            .iter()
            .find(|one| matches!(&one.what, What::Rcpt(path) if path == first))?;
        let inbound = self.rules.way == Way::Inbound;
        let secure = if inbound {
            said.secure
        } else {
            transaction.secure
        };
        let shown = if inbound {
            session.certificate.as_ref()
        } else {
            connection.shown.as_ref()
        };
        Some(WantedMessage {
            transaction,
            connection,
            meant: attempt.map(|attempt| &attempt.octets[..]),
            certain,
            secure,
            certificate: shown.filter(|_| secure).map(|shown| shown.sha256.as_str()),
            decisions: if inbound {
                self.sender_decision(&transaction.sender, said)
            } else {
                self.recipients_decisions(&accepted)
            },
        })
    }

    fn recipients_decisions(&self, accepted: &[&str]) -> Vec<WantedDecision> {
        let mut seen = BTreeSet::new();
        let asked = accepted.iter().map(|path| self.asked(path));
        let fresh = asked.filter(|(domain, _)| seen.insert(domain.clone()));
        let wanted = fresh.map(|(domain, line)| {
            let (verdict, reason) = self.judged(line);
            WantedDecision {
                domains: vec![domain],
                verdict,
                level: line.map(|line| line.level),
                basis: line.map(|line| line.basis),
                rule: line.map(|line| line.rule.clone()),
                reason,
                optional: false,
            }
        });
        wanted.collect()
    }

    fn sender_decision(&self, sender: &str, said: &Exchange) -> Vec<WantedDecision> {
        let (client, whose) = (self.client(), self.whose(sender));
        let line = match (self.line_of(sender), said.secure) {
            (None, true) => return Vec::new(),
            (None, false) => self.rules.exempt(&client),
            (own, _) => own,
        };
        let authenticated = said.secure && line.is_some_and(|line| line.level != "none");
        let verdict = if authenticated {
            "authorised"
        } else {
            "unprotected"
        };
        let domains = match verdict {
            "authorised" => vec![whose],
            _ => vec![client, whose],
        };
        vec![WantedDecision {
            domains,
            verdict,
            level: line
                .map(|line| line.level)
                .filter(|level| *level != "exempt"),
            basis: line.map(|line| line.basis),
            rule: line.map(|line| line.rule.clone()),
            reason: None,
            optional: said.secure && verdict == "unprotected",
        }]
    }

    /// The decision that allows a message also has a record of its own.
    fn facts_of(&self, messages: &[WantedMessage<'_>]) -> Vec<Want> {
        let certain = messages.iter().filter(|message| message.certain);
        let decisions = certain.flat_map(|message| &message.decisions);
        let wants = decisions.map(|decision| Want {
            any_of: decision
                .domains
                .iter()
                .map(|domain| fact(Some(domain), decision.verdict, decision.reason))
                .collect(),
            must: !decision.optional,
        });
        wants.collect()
    }
}

//! What the records must say of a session, worked out from what its client and the server said and heard, and from the table.

use crate::{
    certs::Shown,
    client::{Ended, Exchange, Reply, Session, What},
    server::{Connection, Fatal, Transaction},
};
use std::collections::BTreeSet;

/// One line of the table, as the test wrote it; or what stands for it where there is no table.
#[derive(Clone, Debug)]
pub struct Line {
    /// A domain, `@domain`, the beginning of server addresses (`10.192.`) or of client addresses.
    pub key: &'static str,
    pub level: &'static str,
    pub proof: Proof,
    pub basis: &'static str,
    pub rule: String,
}

#[derive(Clone, Debug)]
pub enum Proof {
    Nothing,
    Certificate(String),
    Name(&'static str),
}

impl Line {
    /// The whole rule of the test: what this line says of a peer that showed this, in the clear or inside TLS.
    pub fn verdict(&self, shown: Option<&Shown>) -> Result<&'static str, &'static str> {
        match (self.level, &self.proof, shown) {
            ("none" | "may", ..) => Ok("unprotected"),
            (_, _, None) => Err("starttls-not-supported"),
            (_, Proof::Nothing, Some(_)) => Ok("authorised"),
            (_, Proof::Certificate(pin), Some(shown)) if *pin == shown.sha256 => Ok("authorised"),
            (_, Proof::Certificate(_), Some(_)) => Err("certificate-not-trusted"),
            (_, Proof::Name(name), Some(shown)) => {
                shown.wrong_for(name).map_or(Ok("authorised"), Err)
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Outbound, recipients' domains decide.
    Gate,
    /// Outbound, `--upstream`.
    Upstream,
    Inbound,
}

/// How the program was started.
pub struct Rules {
    pub way: Way,
    pub lines: Vec<Line>,
}

/// What a verdict, unprotected or refusal record says: domain, verdict, reason. `*` is any, `a|b` either.
pub type Fact = (Option<String>, String, Option<String>);

/// One record of that kind, or several that say the same.
#[derive(Clone, Debug)]
pub struct Want {
    pub any_of: Vec<Fact>,
    /// It is missing if it is not there.
    pub must: bool,
}

/// `wanted` as in a [`Fact`].
fn is(wanted: Option<&str>, found: Option<&str>) -> bool {
    let mut any = wanted.into_iter().flat_map(|wanted| wanted.split('|'));
    wanted == found || any.any(|one| one == "*" || Some(one) == found)
}

impl Want {
    pub fn is(&self, found: &Fact) -> bool {
        self.any_of.iter().any(|(domain, verdict, reason)| {
            is(domain.as_deref(), found.0.as_deref())
                && *verdict == found.1
                && is(reason.as_deref(), found.2.as_deref())
        })
    }
}

impl WantedDecision {
    pub fn has_reason(&self, found: Option<&str>) -> bool {
        is(self.reason, found)
    }
}

/// A decision in a message record.
#[derive(Clone, Debug)]
pub struct WantedDecision {
    /// Any of these; in lower case.
    pub domains: Vec<String>,
    pub verdict: &'static str,
    /// `None`: whatever it is.
    pub level: Option<&'static str>,
    pub basis: Option<&'static str>,
    pub rule: Option<String>,
    /// As in a [`Fact`].
    pub reason: Option<&'static str>,
    /// It need not be there.
    pub optional: bool,
}

/// A message record.
#[derive(Debug)]
pub struct WantedMessage<'a> {
    pub transaction: &'a Transaction,
    pub connection: &'a Connection,
    /// What the client meant to send.
    pub meant: Option<&'a [u8]>,
    /// It is missing if it is not there.
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

fn fact(domain: Option<&str>, verdict: &str, reason: Option<&str>) -> Fact {
    (
        domain.map(Into::into),
        verdict.into(),
        reason.map(Into::into),
    )
}

fn refused(domain: Option<&str>, reason: &str) -> Fact {
    fact(domain, "refused", Some(reason))
}

/// Behind the last `@`, in lower case.
pub fn domain_of(path: &str) -> String {
    let domain = path.rsplit_once('@').map_or(path, |(_, domain)| domain);
    domain.to_ascii_lowercase()
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
        Account {
            messages,
            facts,
            ends,
        }
    }

    /// The line for a recipient's domain or literal at that server, or for the server as such.
    fn recipient(&self, domain: &str, server: &str) -> Option<&Line> {
        let is = |line: &&Line| line.key == domain;
        self.lines.iter().find(is).or_else(|| self.server(server))
    }

    fn server(&self, server: &str) -> Option<&Line> {
        let by_address = |line: &&Line| line.key.ends_with('.') && server.starts_with(line.key);
        self.lines.iter().find(by_address)
    }

    fn sender(&self, sender: &str) -> Option<&Line> {
        let (_, domain) = sender.rsplit_once('@')?;
        let domain = domain.to_ascii_lowercase();
        self.lines
            .iter()
            .find(|line| line.key.strip_prefix('@') == Some(&domain))
    }

    fn client(&self, client: &str) -> Option<&Line> {
        let by_address = |line: &&Line| {
            line.basis == "table" && line.key.ends_with('.') && client.starts_with(line.key)
        };
        self.lines.iter().find(by_address)
    }

    fn exempt(&self, client: &str) -> Option<&Line> {
        let exempts = |line: &&Line| line.basis == "exempt" && client.starts_with(line.key);
        self.lines.iter().find(exempts)
    }
}

/// One session with its connections to the server, in their order.
struct Case<'r, 'a> {
    rules: &'r Rules,
    session: &'a Session,
    connections: Vec<&'a Connection>,
    /// The session before at the same server.
    before: Option<&'r Case<'r, 'a>>,
}

/// Why a session could not go on: the refusals that tell of it, and how it ended.
type Why = (Vec<Fact>, &'static [&'static str]);

impl<'a> Case<'_, 'a> {
    fn server(&self) -> String {
        self.session.to.ip().to_string()
    }

    fn last(&self) -> Option<&'a Connection> {
        self.connections.last().copied()
    }

    fn shown(&self) -> Option<&'a Shown> {
        self.last().and_then(|last| last.shown.as_ref())
    }

    /// Why there is no TLS. Who comes later finds a session that goes on in the clear.
    fn no_tls(&self) -> &'static str {
        match self.connections.first().and_then(|first| first.fatal) {
            Some(Fatal::StartTls(_)) => "starttls-refused|session-in-the-clear",
            Some(Fatal::Handshake) => "validation-failure|session-in-the-clear",
            _ => "starttls-not-supported|session-in-the-clear",
        }
    }

    /// Outbound: what is asked about for this recipient, and the line that answers.
    fn asked(&self, path: &str) -> (String, Option<&Line>) {
        match self.rules.way {
            Way::Gate => {
                let domain = domain_of(path);
                let line = self.rules.recipient(&domain, &self.server());
                (domain, line)
            }
            _ => (String::from("127.0.0.1"), self.rules.lines.first()),
        }
    }

    /// Outbound, the peer is judged at EHLO: as whom, and by which line.
    fn asked_at_connect(&self) -> Option<(String, &Line)> {
        let server = self.server();
        match self.rules.way {
            Way::Gate => {
                let line = self.rules.server(&server)?;
                (line.level == "fingerprint").then_some((server, line))
            }
            _ => Some((String::from("127.0.0.1"), self.rules.lines.first()?)),
        }
    }

    /// What the line says of the peer: verdict and reason.
    fn judged(&self, line: Option<&Line>) -> (&'static str, Option<&'static str>) {
        let Some(line) = line else {
            return ("refused", Some("no-policy"));
        };
        match line.verdict(self.shown()) {
            Ok(verdict) => (verdict, None),
            Err(_) if self.shown().is_none() => ("refused", Some(self.no_tls())),
            Err(reason) => ("refused", Some(reason)),
        }
    }

    // ----- facts, outbound -----

    fn outbound_facts(&self) -> Vec<Want> {
        let mut wants = Vec::new();
        let mut want = |any_of: Vec<Fact>, must| wants.push(Want { any_of, must });
        let exchanges = &self.session.exchanges;
        for (at, one) in exchanges.iter().enumerate() {
            if let (What::Hello, Some((domain, line))) = (&one.what, self.asked_at_connect()) {
                let (verdict, reason) = self.judged(Some(line));
                let told = self.shown().is_some() && one.code() == Some(250);
                want(vec![fact(Some(&domain), verdict, reason)], told);
            }
            match (&one.what, &one.reply) {
                (What::Rcpt(path), Some(reply))
                    if reply.code == 250 || (reply.is_servers() && reply.code != 421) =>
                {
                    let (domain, line) = self.asked(path);
                    let (verdict, reason) = self.judged(line);
                    // In the clear, for a level that wanted TLS, it may be written down with the message only.
                    let early =
                        self.shown().is_some() || line.is_none_or(|line| line.level == "none");
                    want(vec![fact(Some(&domain), verdict, reason)], early);
                }
                (What::Rcpt(path), Some(reply)) if reply.code == 451 => {
                    let (domain, line) = self.asked(path);
                    let (verdict, reason) = self.judged(line);
                    let mut any_of = vec![fact(Some(&domain), verdict, reason)];
                    if self.shown().is_none() && line.is_some() {
                        // It needs TLS, and the session had begun without.
                        let reason = format!("{}|starttls-required", self.no_tls());
                        any_of = vec![refused(Some(&domain), &reason), refused(None, &reason)];
                    }
                    want(any_of, true);
                }
                (What::Rcpt(path), reply) if reply.as_ref().is_none_or(Reply::is_servers) => {
                    let (domain, _) = self.asked(path);
                    for verdict in ["authorised", "unprotected", "refused"] {
                        want(
                            vec![(Some(domain.clone()), verdict.into(), Some("*".into()))],
                            false,
                        );
                    }
                }
                (_, Some(reply)) if reply.text.starts_with("421 4.3.2") => {
                    want(vec![refused(None, "stopped")], true);
                }
                (_, Some(reply)) if reply.code == 421 && !reply.is_servers() => {
                    let later = self.recipients_from(at);
                    for (domain, line) in self.candidates(at).into_iter().chain(later) {
                        let (verdict, reason) = self.judged(line);
                        want(vec![fact(Some(&domain), verdict, reason)], false);
                    }
                    want(self.why_over(at).0, true);
                }
                (_, Some(reply)) if reply.code >= 400 && !reply.is_servers() => {
                    want(vec![refused(None, "protocol")], true);
                }
                _ => {}
            }
        }
        if matches!(
            self.session.ended,
            Ended::Client | Ended::Other | Ended::Quit
        ) {
            for (at, _) in exchanges
                .iter()
                .enumerate()
                .filter(|(_, one)| one.reply.is_none())
            {
                want(self.why_over(at).0, false);
                want(vec![refused(None, "protocol")], false);
            }
            if let (Ended::Client, Some((domain, line))) =
                (self.session.ended, self.asked_at_connect())
            {
                let (verdict, reason) = self.judged(Some(line));
                want(vec![fact(Some(&domain), verdict, reason)], false);
            }
            want(self.why_over(exchanges.len()).0, false);
        }
        wants
    }

    /// Why the session ended with a 421 of the proxy's own that stands for the exchange `at`.
    fn why_over(&self, at: usize) -> Why {
        const REFUSED: &[&str] = &["refused"];
        const EITHER: &[&str] = &["refused", "server-closed"];
        let gone = refused(None, "server-gone");
        let Some(last) = self.last() else {
            let Some(before) = self.before else {
                return (vec![refused(None, "server-unreachable")], REFUSED);
            };
            // Remembered from the session before at this server, with its domain.
            let (mut facts, _) = before.why_over(0);
            facts.extend(
                facts
                    .clone()
                    .into_iter()
                    .map(|(_, verdict, reason)| (None, verdict, reason)),
            );
            return (facts, REFUSED);
        };
        match last.fatal {
            Some(Fatal::Greeting(421)) => (vec![refused(None, "greeting-refused"), gone], EITHER),
            Some(Fatal::Greeting(_)) => (
                vec![refused(None, "greeting-refused")],
                &["refused", "greeting-refused"],
            ),
            Some(Fatal::Hello(421)) => (vec![refused(None, "ehlo-refused"), gone], EITHER),
            Some(Fatal::Hello(_)) => (vec![refused(None, "ehlo-refused")], REFUSED),
            Some(Fatal::StartTls(421)) => {
                let mut facts = self.refused_for(at, "starttls-refused");
                facts.push(gone);
                (facts, EITHER)
            }
            Some(Fatal::StartTls(_)) => (self.refused_for(at, "starttls-refused"), REFUSED),
            Some(Fatal::Closed | Fatal::Said421) => (vec![gone], &["server-closed"]),
            Some(Fatal::Handshake) => {
                let domains = self.candidates(at);
                let failed = domains
                    .iter()
                    .map(|(domain, _)| refused(Some(domain), "validation-failure"));
                (failed.collect(), EITHER)
            }
            None if last.shown.is_some() => {
                let refusals = self
                    .candidates(at)
                    .into_iter()
                    .filter_map(|(domain, line)| {
                        let (_, reason) = self.judged(line);
                        Some(refused(Some(&domain), reason?))
                    });
                (refusals.collect(), REFUSED)
            }
            None => (self.refused_for(at, "starttls-not-supported"), REFUSED),
        }
    }

    /// A refusal for this reason in place of the exchange `at`: of the server as such, or of whoever's mail asked for TLS.
    fn refused_for(&self, at: usize, reason: &str) -> Vec<Fact> {
        let domains = self.candidates(at).into_iter();
        let facts = domains.map(|(domain, _)| refused(Some(&domain), reason));
        facts.chain([refused(None, reason)]).collect()
    }

    /// Whom the refusal in place of the exchange `at` can be about.
    fn candidates(&self, at: usize) -> Vec<(String, Option<&Line>)> {
        if let Some((domain, line)) = self.asked_at_connect() {
            return vec![(domain, Some(line))];
        }
        self.recipients_from(at)
    }

    /// Whom was asked about from the exchange `at` on.
    fn recipients_from(&self, at: usize) -> Vec<(String, Option<&Line>)> {
        let later = self.session.exchanges.iter().skip(at);
        let paths = later.filter_map(|one| match &one.what {
            What::Rcpt(path) => Some(self.asked(path)),
            _ => None,
        });
        paths.collect()
    }

    // ----- facts, inbound -----

    fn inbound_facts(&self) -> Vec<Want> {
        let mut wants = Vec::new();
        let mut want = |any_of: Vec<Fact>, must| wants.push(Want { any_of, must });
        let exchanges = &self.session.exchanges;
        for one in exchanges {
            match (&one.what, &one.reply) {
                (What::Mail(sender), Some(reply)) if reply.is_servers() && reply.code != 421 => {
                    let (facts, must) = self.of_sender(sender, one);
                    want(facts, must);
                }
                (What::Mail(sender), Some(reply))
                    if matches!(reply.code, 530 | 550 | 450 | 451) =>
                {
                    want(self.of_sender(sender, one).0, true);
                }
                (What::Mail(sender), None) => want(self.of_sender(sender, one).0, false),
                (What::Mail(sender), Some(reply)) if reply.code == 421 => {
                    want(self.of_sender(sender, one).0, false);
                    if !reply.is_servers() {
                        want(self.why_inbound_over().0, true);
                    }
                }
                (_, Some(reply)) if reply.text.starts_with("421 4.3.2") => {
                    want(vec![refused(None, "stopped")], true);
                }
                (_, Some(reply)) if reply.code == 421 && !reply.is_servers() => {
                    want(self.why_inbound_over().0, true);
                }
                // Whom the entry for its address refuses hears that and nothing else.
                (_, Some(reply)) if one.secure && reply.code == 554 && self.is_refused() => {}
                (_, Some(reply)) if reply.code == 530 => {
                    want(vec![refused(None, "starttls-required")], true);
                }
                (_, Some(reply)) if reply.code >= 400 && !reply.is_servers() => {
                    want(vec![refused(None, "protocol")], true);
                }
                _ => {}
            }
        }
        if let Some(seen) = self.broke_handshake() {
            want(vec![refused(None, "validation-failure")], seen);
        }
        if self.session.secure
            && let Some(line) = self.rules.client(&self.client())
        {
            // This client is judged before it says another word, and whatever it says then is answered with that.
            let client = self.client();
            let (verdict, reason) = self.judged_client(line);
            want(vec![fact(Some(&client), verdict, reason)], true);
            if self.is_refused() {
                want(vec![refused(None, "*"), refused(Some(&client), "*")], false);
            }
        }
        if self.session.ended != Ended::Stopped {
            want(self.why_inbound_over().0, false);
        }
        if exchanges.iter().any(|one| one.reply.is_none()) {
            want(vec![refused(None, "protocol")], false);
        }
        wants
    }

    fn client(&self) -> String {
        self.session.from.ip().to_string()
    }

    /// The client went away before TLS was up: whether by something that the proxy must have seen.
    fn broke_handshake(&self) -> Option<bool> {
        let go =
            |one: &&Exchange| one.what == What::StartTls && matches!(one.code(), None | Some(220));
        let begun = !self.session.secure && self.session.exchanges.iter().any(|one| go(&one));
        self.session.broke_handshake.or(begun.then_some(false))
    }

    /// What the line says of the client and its certificate.
    fn judged_client(&self, line: &Line) -> (&'static str, Option<&'static str>) {
        let nobody = Shown {
            sha256: String::new(),
            names: &[],
            trusted: false,
            expired: false,
        };
        let shown = self.session.certificate.as_ref();
        match line.verdict(Some(shown.unwrap_or(&nobody))) {
            Ok(verdict) => (verdict, None),
            Err(_) if shown.is_none() => ("refused", Some("*")),
            Err(reason) => ("refused", Some(reason)),
        }
    }

    /// An entry for the client's address refuses it.
    fn is_refused(&self) -> bool {
        let line = self.rules.client(&self.client());
        line.is_some_and(|line| self.judged_client(line).0 == "refused")
    }

    /// As whom a sender is judged: by its domain, else by the client's address.
    fn whose(&self, sender: &str) -> String {
        match sender.rsplit_once('@') {
            Some((_, literal)) if literal.starts_with('[') => self.client(),
            Some((_, domain)) => domain.to_ascii_lowercase(),
            None => self.client(),
        }
    }

    /// The line for a sender; its own, or its client's.
    fn line_of(&self, sender: &str) -> Option<&Line> {
        let own = self.rules.sender(sender);
        own.or_else(|| self.rules.client(&self.client()))
    }

    /// What is written down about a sender, and whether anything must be.
    fn of_sender(&self, sender: &str, said: &Exchange) -> (Vec<Fact>, bool) {
        let (client, whose) = (self.client(), self.whose(sender));
        let unprotected = || {
            let domains = [&client, &whose];
            domains
                .map(|domain| fact(Some(domain), "unprotected", None))
                .into()
        };
        match (self.line_of(sender), said.secure) {
            (Some(line), true) if line.level == "none" => (unprotected(), false),
            (Some(line), true) => {
                let (verdict, reason) = self.judged_client(line);
                (vec![fact(Some(&whose), verdict, reason)], true)
            }
            (None, true) => (Vec::new(), false),
            (Some(line), false) if line.level == "none" => (unprotected(), true),
            (None, false) if self.rules.exempt(&client).is_some() => (unprotected(), true),
            (_, false) => {
                let facts = [
                    refused(None, "starttls-required"),
                    refused(Some(&whose), "starttls-required"),
                    refused(Some(&whose), "starttls-not-supported"),
                ];
                (facts.into(), true)
            }
        }
    }

    fn why_inbound_over(&self) -> Why {
        let gone = refused(None, "server-gone");
        match self.last().and_then(|last| last.fatal) {
            Some(Fatal::Greeting(421)) => (
                vec![refused(None, "greeting-refused"), gone],
                &["refused", "server-closed"],
            ),
            Some(Fatal::Greeting(_)) => (
                vec![refused(None, "greeting-refused")],
                &["refused", "greeting-refused"],
            ),
            Some(Fatal::Hello(421)) => (
                vec![refused(None, "ehlo-refused"), gone],
                &["refused", "server-closed"],
            ),
            Some(Fatal::Hello(_)) => (vec![refused(None, "ehlo-refused")], &["refused"]),
            Some(_) => (vec![gone], &["server-closed"]),
            None => (vec![refused(None, "limit")], &["refused"]),
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
            // It said QUIT, and did not wait for the reply.
            (Ended::Client, None) if session.exchanges.iter().any(|one| one.what == What::Quit) => {
                &["quit", "client-closed"]
            }
            (Ended::Client, None) => &["client-closed"],
            _ => why(),
        };
        let mut ends: BTreeSet<String> = certainly.iter().map(ToString::to_string).collect();
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

    /// What a message rests on stands in a record of its own, too.
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

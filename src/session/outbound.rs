//! Outbound: a legacy client inside, the world outside.

mod jobs;

use std::sync::Arc;

use tokio::{net::TcpStream, sync::watch};

use self::jobs::{Errand, Gathered, Handshake, Outcome, Pending, Reached, ask};
use super::{
    Arrival,
    drive::{ActionHandler, ActionResult, Job, Stop, Upgraded, drive},
    evidence::Evidence,
    leg::{Leg, Stream},
    memory::{self, Remembered},
    setup::OutboundSetup,
};
use crate::{
    audit::DirectionField,
    clock,
    net::{ClientAddr, Dialled, IntendedAddr, ServerAddr},
    policy::{
        self, Ask, Decision, Demand, Findings, Level, Moment, NextHop, Reason, Scope, Shown,
        Verdict,
    },
    smtp::{
        Answer, Authorised, Cause, Completed, Exempted, Keyword, Note, Outbound as Machine,
        OutboundConfig, Question, Refusal, Side,
    },
    tls::Peer,
};

/// A reason and its words.
type Failure = (Reason, String);

/// Serves one session, until both of its connections are closed.
pub async fn run(
    site: Arc<OutboundSetup>,
    client: TcpStream,
    arrival: Arrival,
    stop: watch::Receiver<Stop>,
) {
    let (machine, hands) = begin(&site, arrival.client, arrival.intended, arrival.server);
    let leg = Leg::new(Stream::Plain(client), arrival.first);
    let hands = drive(machine, hands, leg, stop).await;
    hands.evidence.closed();
}

/// The machine of a session, and the session that carries out what the machine wants.
pub(super) fn begin(
    site: &Arc<OutboundSetup>,
    client: ClientAddr,
    IntendedAddr(to): IntendedAddr,
    server: Option<ServerAddr>,
) -> (Machine, OutboundSession) {
    let hands = OutboundSession {
        known_at_connect: known_at_connect(site, server),
        evidence: Evidence::open(&site.common, DirectionField::Outbound, client, to),
        errand: Errand {
            site: Arc::clone(site),
            client,
        },
        server,
        dialled: None,
        peer: None,
        pending: None,
        lost: None,
        lost_with: None,
        authorised: false,
    };
    let machine = Machine::new(OutboundConfig {
        hostname: site.common.hostname.clone(),
        server: hands.server_words(),
        known_at_connect: hands.known_at_connect,
        auth: site.upstream.is_some(),
        plaintext_possible: site.common.observe
            || site.settings.level.allows_plaintext()
            || site.table.has_plaintext_entries(clock::wall()),
        implicit_tls: site
            .upstream
            .as_ref()
            .is_some_and(|upstream| upstream.implicit_tls),
        hidden: hands.hidden(),
    });
    (machine, hands)
}

/// With `--upstream`, or where an entry for the destination address proves the peer by itself.
fn known_at_connect(site: &OutboundSetup, server: Option<ServerAddr>) -> bool {
    match server {
        None => true,
        Some(ServerAddr(to)) => {
            let ask = Ask {
                next_hop: NextHop::Address,
                server: to.ip(),
                port: to.port(),
            };
            site.table
                .find(&ask, clock::wall())
                .is_some_and(|entry| !entry.needs_recipient())
        }
    }
}

/// What one session knows, and does.
pub(super) struct OutboundSession {
    errand: Errand,
    known_at_connect: bool,
    evidence: Evidence,
    /// Where the connection goes; with `--upstream` known once it stands.
    server: Option<ServerAddr>,
    /// Listed as ours while it lives.
    dialled: Option<Dialled>,
    /// Who answered the handshake.
    peer: Option<Arc<Peer>>,
    /// What TLS is to come up for.
    pending: Option<Pending>,
    /// Why this session has no TLS and will get none.
    lost: Option<Shown>,
    /// What enforcing would have answered then, where the machine says it.
    lost_with: Option<Refusal>,
    /// A recipient was authorised in this session.
    authorised: bool,
}

impl ActionHandler for OutboundSession {
    type JobResult = Outcome;

    fn finish(&mut self, outcome: Outcome) -> ActionResult {
        match outcome {
            Outcome::Connected(outcome) => {
                ActionResult::Connected(outcome.and_then(|reached| self.reached(*reached)))
            }
            Outcome::Upgraded(side, handshake) => {
                ActionResult::Upgraded(side, self.upgraded(*handshake))
            }
            Outcome::Gathered(gathered) => ActionResult::Answered(self.judge(*gathered)),
            Outcome::Answered(answer) => ActionResult::Answered(answer),
            Outcome::Done(done) => done,
        }
    }

    fn connect(&mut self) -> Job<Outcome> {
        if let Some(refusal) = self.refused_again() {
            return at_once(Outcome::Connected(Err(refusal)));
        }
        Box::pin(self.errand.clone().connect(self.server))
    }

    fn upgrade(&mut self, side: Side, stream: Stream) -> Job<Outcome> {
        match self.pending.take() {
            Some(pending) => Box::pin(self.errand.clone().upgrade(side, stream, pending)),
            None => {
                let failed = Upgraded::Failed(local_fault("TLS without a demand"));
                at_once(Outcome::Done(ActionResult::Upgraded(side, failed)))
            }
        }
    }

    fn authorise(&mut self, question: Question) -> Job<Outcome> {
        let Some(server) = self.server else {
            let refusal = local_fault("no server is known");
            return at_once(Outcome::Answered(Answer::Refused(refusal)));
        };
        let errand = self.errand.clone();
        let ask = ask(&errand.site, server, &question);
        Box::pin(async move { Outcome::Gathered(Box::new(errand.gather(question, ask).await)) })
    }

    fn record(&mut self, message: Completed) -> Job<Outcome> {
        let recorded = self.evidence.message(&message);
        Box::pin(async move { Outcome::Done(recorded.await) })
    }

    fn note(&mut self, note: Note) {
        match &note {
            Note::NoTls { words, refusal } => self.no_tls(words, refusal),
            Note::HostFault { refusal, lasting } => self.host_fault(refusal, *lasting),
            Note::MissingExtension(keyword) => self.lacking(*keyword),
            _ => {}
        }
        self.evidence.note(note);
    }

    fn content(&mut self, octets: &[u8]) {
        self.evidence.content(octets);
    }

    fn broken(&mut self, side: Side, error: &std::io::Error) {
        self.evidence.broken(side, error);
    }

    fn traffic(&mut self, side: Side, octets: [u64; 2]) {
        self.evidence.traffic(side, octets);
    }

    fn trace(&mut self) -> Option<Vec<u8>> {
        self.evidence.trace()
    }
}

fn at_once(outcome: Outcome) -> Job<Outcome> {
    Box::pin(std::future::ready(outcome))
}

impl OutboundSession {
    /// What the policy decided last, and who answered the last handshake.
    pub(super) fn learned(self) -> (Option<Decision>, Option<Arc<Peer>>) {
        (self.evidence.decided(), self.peer)
    }

    fn site(&self) -> &OutboundSetup {
        &self.errand.site
    }

    /// The server in words, before more is known than its address.
    fn server_words(&self) -> String {
        match (&self.site().upstream, self.server) {
            (Some(upstream), _) => upstream.host.clone(),
            (None, Some(ServerAddr(to))) => to.ip().to_string(),
            (None, None) => String::from("the server"),
        }
    }

    // ----- connections -----

    /// Refuses this session for what went wrong at its server a short while ago.
    fn refused_again(&mut self) -> Option<Refusal> {
        let ServerAddr(to) = self.server?;
        if self.site().common.observe || self.site().upstream.is_some() {
            return None;
        }
        let (client, now) = (self.errand.client.0.ip(), clock::instant());
        let first = self.site().memory.refusal(client, to.ip(), now)?;
        Some(self.evidence.refused_again(&first))
    }

    fn reached(&mut self, reached: Reached) -> Result<Stream, Refusal> {
        self.evidence.connected(reached.connection);
        self.server = Some(reached.server);
        self.dialled = Some(reached.dialled);
        self.peer = None;
        // With implicit TLS what is demanded is pending now, for the handshake that comes next.
        match reached.gathered.map(|gathered| self.judge(gathered)) {
            Some(Answer::Refused(refusal)) => Err(refusal),
            _ => Ok(reached.stream),
        }
    }

    fn upgraded(&mut self, handshake: Handshake) -> Upgraded {
        let server = handshake.pending.ask.server;
        let (memory, now) = (Arc::clone(&self.site().memory), clock::instant());
        let (died, words) = match handshake.outcome {
            Ok((stream, peer)) => {
                memory.handshake(server, handshake.classical, memory::Handshake::Done, now);
                let peer = Arc::new(peer);
                self.evidence.secured(Arc::clone(&peer));
                self.peer = Some(peer);
                return Upgraded::Up(stream);
            }
            Err(failure) => failure,
        };
        let outcome = match died {
            true => memory::Handshake::Died,
            false => memory::Handshake::Failed,
        };
        if memory.handshake(server, handshake.classical, outcome, now) {
            // The large ClientHello may be why; the host gets another chance before it is remembered as broken.
            log::info!(
                "{server}: the handshake died without an alert; the next goes without X25519MLKEM768"
            );
            let words = format!("{words}; the next try goes without the post-quantum key share");
            return Upgraded::Failed(self.handshake_failed(handshake.pending, words, false));
        }
        // An alert may be about the name in SNI, which is a fault of this question and not of the host for every question.
        let of_the_host = !words.contains("unrecognized_name");
        Upgraded::Failed(self.handshake_failed(handshake.pending, words, of_the_host))
    }

    // ----- judging -----

    /// The heart: who may have this mail, and is the peer that?
    fn judge(&mut self, gathered: Gathered) -> Answer {
        let Gathered {
            question,
            ask,
            findings,
            required,
        } = gathered;
        // With implicit TLS there is no way back into the clear.
        let upstream = self.site().upstream.as_ref();
        let implicit_tls = upstream.is_some_and(|upstream| upstream.implicit_tls);
        let or_plaintext = self.site().common.observe && !implicit_tls;
        let (reason, words) = match required {
            Ok(demand) => {
                let may = demand.level == Level::May && !implicit_tls;
                let or_plaintext = or_plaintext || may;
                return self.hold_against(Pending {
                    question,
                    ask,
                    findings: findings.unwrap_or_else(|| Arc::new(Findings::none())),
                    demand,
                    denied: None,
                    or_plaintext,
                });
            }
            Err(denial) => denial,
        };
        let decision = Decision::new(
            ask.clone(),
            findings.clone(),
            None,
            Verdict::Refused(reason, words),
            self.moment(&question),
            &self.site().settings,
            clock::wall(),
        );
        if decision.refused().is_some() || self.peer.is_some() || self.lost.is_some() {
            return self.conclude(&decision, None, &question);
        }
        let findings = findings.unwrap_or_else(|| Arc::new(Findings::none()));
        self.tls_first(Pending {
            demand: Demand::observing(&ask, &findings),
            question,
            ask,
            findings,
            denied: Some(Box::new(decision)),
            or_plaintext,
        })
    }

    fn moment(&self, question: &Question) -> Moment {
        match question {
            Question::Peer => Moment::Hello,
            _ if self.authorised || self.known_at_connect => Moment::LaterRecipient,
            _ => Moment::FirstRecipient,
        }
    }

    /// What is demanded is known: compare it with the peer, or first have TLS.
    fn hold_against(&mut self, pending: Pending) -> Answer {
        let demand = &pending.demand;
        let shown = match (&self.peer, &self.lost) {
            (Some(peer), _) => {
                let now = clock::wall();
                let trust = &self.site().tls.trust;
                demand.shown(&peer.facts.version, |one| trust.check(peer, one, now))
            }
            (None, Some(lost)) => lost.clone(),
            (None, None) if demand.level == Level::None => {
                // Whoever comes next in this session finds it so.
                let words = "needs TLS, and this session has begun without";
                let lost = Shown::NoTls(Reason::SessionInTheClear, words.into());
                self.lost.insert(lost).clone()
            }
            (None, None) => return self.tls_first(pending),
        };
        let question = pending.question.clone();
        let (decision, testing) = self.decide(pending, &shown);
        self.conclude(&decision, testing, &question)
    }

    /// What was shown, judged; and what MTA-STS in testing mode would have refused.
    fn decide(&self, pending: Pending, shown: &Shown) -> (Decision, Option<Failure>) {
        let moment = self.moment(&pending.question);
        let verdict = policy::judge(&pending.demand, shown);
        let testing = policy::testing_failure(&pending.demand, shown);
        let mut decision = Decision::new(
            pending.ask,
            Some(pending.findings),
            Some(pending.demand),
            verdict,
            moment,
            &self.site().settings,
            clock::wall(),
        );
        // What is observed is told in the words of the refusal that enforcing would have been.
        if let (true, Shown::NoTls(..), Some(refusal)) = (decision.observed, shown, &self.lost_with)
            && decision.refusal.is_some()
        {
            decision.refusal = Some(refusal.clone());
        }
        (decision, testing)
    }

    /// Writes a decision down, and reports it; one that this session has made before is only counted.
    fn write(
        &mut self,
        decision: &Decision,
        testing: Option<Failure>,
        question: &Question,
    ) -> Result<(), Refusal> {
        let is_first = self.evidence.verdict(decision, question)?;
        // What no handshake was tried for is no matter of TLS.
        if let (Some(tlsrpt), true, Some(_)) = (&self.site().tlsrpt, is_first, &decision.demand) {
            let (tlsrpt, lookup) = (Arc::clone(tlsrpt), Arc::clone(&self.site().lookup));
            super::tlsrpt::report(tlsrpt, lookup, decision, testing);
        }
        Ok(())
    }

    fn tls_first(&mut self, pending: Pending) -> Answer {
        let or_plaintext = pending.or_plaintext.then(Exempted::assertion);
        self.pending = Some(pending);
        Answer::Upgrade { or_plaintext }
    }

    /// Writes the decision down, then makes the answer of it.
    fn conclude(
        &mut self,
        decision: &Decision,
        testing: Option<Failure>,
        question: &Question,
    ) -> Answer {
        if let Err(refusal) = self.write(decision, testing, question) {
            return Answer::Refused(refusal);
        }
        if let Some(refusal) = decision.refused() {
            self.remember(decision, refusal);
            return Answer::Refused(refusal.clone());
        }
        self.authorised = true;
        let authenticates = decision
            .demand
            .as_ref()
            .is_some_and(|demand| demand.level > Level::Encrypt);
        match decision.verdict {
            Verdict::Authorised(_) if authenticates => Answer::Authorised(Authorised::assertion()),
            Verdict::Authorised(_) => Answer::Authorised(Authorised::unauthenticated()),
            Verdict::Unprotected(_) | Verdict::Refused(..) => {
                Answer::Exempted(Exempted::assertion())
            }
        }
    }

    // ----- TLS that is not to be had -----

    /// TLS cannot be had here. Where mail goes on in the clear for that, this is what is written down.
    fn no_tls(&mut self, words: &str, refusal: &Refusal) {
        let reason = match refusal.cause {
            Cause::StarttlsRefused => Reason::StarttlsRefused,
            _ => Reason::StarttlsNotSupported,
        };
        let lost = Shown::NoTls(reason, words.to_owned());
        self.lost_with = Some(refusal.clone());
        if let Some(pending) = self.pending.take_if(|pending| pending.or_plaintext) {
            self.in_the_clear(pending, &lost);
        }
        self.lost = Some(lost);
    }

    /// This mail goes on without TLS, or its session ends for want of it; gives the decision.
    fn in_the_clear(&mut self, pending: Pending, lost: &Shown) -> Option<Decision> {
        // One recipient that passes: what is refused from now on is for that recipient alone.
        let passes = pending.or_plaintext && matches!(pending.question, Question::Recipient(_));
        if let Some(decision) = pending.denied {
            self.authorised |= passes;
            // Mail goes on, and its own record, which its acceptance waits for, says the same.
            let _ = self.write(&decision, None, &pending.question);
            return None;
        }
        let (question, goes_on) = (pending.question.clone(), pending.or_plaintext);
        let (mut decision, testing) = self.decide(pending, lost);
        decision.observed &= goes_on;
        self.authorised |= passes;
        // The answer is given already; a record that cannot be written cannot make it another one, and a message's own record, which
        // its acceptance waits for, says the same.
        let _ = self.write(&decision, testing, &question);
        Some(decision)
    }

    /// The refusal for a handshake that failed; where mail may go in the clear then, the machine asks for a new connection.
    fn handshake_failed(&mut self, pending: Pending, words: String, of_the_host: bool) -> Refusal {
        let enforced = pending.demand.is_enforced();
        let lost = Shown::HandshakeFailed(words);
        let decision = self.in_the_clear(pending, &lost);
        self.lost = Some(lost);
        let Some((decision, refusal)) = decision
            .and_then(|decision| decision.refusal.clone().map(|refusal| (decision, refusal)))
        else {
            return local_fault("the handshake failed");
        };
        if of_the_host && enforced && decision.refused().is_some() {
            let fault = remembered(&decision, refusal.clone());
            self.fault_of_the_host(decision.ask.server, fault);
        }
        refusal
    }

    /// The session ends because the host has no TLS for us.
    fn host_fault(&mut self, refusal: &Refusal, lasting: bool) {
        let Some(ServerAddr(to)) = self.server else {
            return;
        };
        let mut fault = Remembered {
            refusal: refusal.clone(),
            reason: refusal.cause.word(),
            domain: None,
            level: None,
        };
        if let Some(pending) = self.pending.take() {
            // It is known for whom: the verdict says so, with the words that the machine gives.
            let question = pending.question.clone();
            let lost = self.lost.clone().unwrap_or(Shown::NoStartTls);
            let (decision, testing) = self.decide(pending, &lost);
            let decision = Decision {
                refusal: Some(refusal.clone()),
                observed: false,
                ..decision
            };
            fault = remembered(&decision, refusal.clone());
            // Refusing is the answer already; a record that cannot be written cannot make it another one.
            let _ = self.write(&decision, testing, &question);
            self.evidence.is_told(refusal);
        }
        let memory = &self.site().memory;
        if lasting || memory.passing_fault(to.ip(), clock::instant()) {
            self.fault_of_the_host(to.ip(), fault);
        }
    }

    // ----- what the next session should know -----

    /// A certificate that did not do ends this session; the client's next one there shall move on at the greeting.
    fn remember(&self, decision: &Decision, refusal: &Refusal) {
        let host_to_blame = matches!(&decision.verdict, Verdict::Refused(reason, _) if reason.scope() == Scope::Host);
        if refusal.code == 421 && host_to_blame && self.site().upstream.is_none() {
            let (client, server) = (self.errand.client.0.ip(), decision.ask.server);
            let fault = remembered(decision, refusal.clone());
            let memory = &self.site().memory;
            memory.fault_of_one_session(client, server, fault, clock::instant());
        }
    }

    /// Refuses everybody at the greeting for some minutes. Where an entry could let mail pass in the clear, only this
    /// client's next session: whose recipient it is for is not known then, and may be one of that entry's.
    fn fault_of_the_host(&self, server: std::net::IpAddr, fault: Remembered) {
        let (site, now) = (self.site(), clock::instant());
        if site.upstream.is_some() {
            return;
        }
        if site.table.has_plaintext_entries(clock::wall()) {
            let client = self.errand.client.0.ip();
            site.memory.fault_of_one_session(client, server, fault, now);
        } else {
            site.memory.host_fault(server, fault, now);
        }
    }

    fn lacking(&self, keyword: Keyword) {
        if let (Some(ServerAddr(to)), None) = (self.server, &self.site().upstream) {
            let (client, now) = (self.errand.client.0.ip(), clock::instant());
            self.site().memory.lacking(client, to.ip(), keyword, now);
        }
    }

    /// What this client is not shown now, because its server lacked it the last time.
    fn hidden(&self) -> Vec<Keyword> {
        let hidden = self.server.map(|ServerAddr(to)| {
            let (client, now) = (self.errand.client.0.ip(), clock::instant());
            self.site().memory.hidden(client, to.ip(), now)
        });
        hidden.unwrap_or_default()
    }
}

/// What the next session there is told of this decision.
fn remembered(decision: &Decision, refusal: Refusal) -> Remembered {
    Remembered {
        reason: match &decision.verdict {
            Verdict::Refused(reason, _) => reason.word(),
            Verdict::Authorised(_) | Verdict::Unprotected(_) => refusal.cause.word(),
        },
        domain: match decision.ask.next_hop {
            NextHop::Address => None,
            _ => Some(super::records::entry(decision).domain),
        },
        level: decision
            .demand
            .as_ref()
            .map(|demand| demand.level.to_string()),
        refusal,
    }
}

fn local_fault(words: &str) -> Refusal {
    Refusal {
        code: 421,
        enhanced: (3, 0),
        text: format!("starttls-proxy cannot go on: {words}"),
        cause: Cause::LocalFault,
    }
}

#[cfg(test)]
mod tests;

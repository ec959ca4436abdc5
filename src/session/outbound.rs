//! Outbound sessions: from a legacy client inside to the world outside.

mod jobs;
mod next_session;
mod remembered;

use std::{sync::Arc, time::SystemTime};

use tokio::{net::TcpStream, sync::watch};

use self::{
    jobs::{
        AwaitingTls, Blame, Connected, EndedHandshake, OutboundJob, Requirement, connect,
        handshake, require,
    },
    next_session::{NextSession, fault},
    remembered::{Lifetime, RememberedDecision, RememberedDecisions},
};
use super::{
    Arrival, credentials,
    drive::{ActionHandler, ActionResult, Stop, Upgraded, drive},
    job::Job,
    journal::{Journal, Written},
    leg::{Leg, Stream},
    memory::{HandshakeEnd, Remembered},
    permits,
    refusals::local_fault,
    setup::OutboundSetup,
};
use crate::{
    audit::DirectionField,
    clock,
    net::{ClientAddr, Dialled, IntendedAddr, ServerAddr},
    policy::{
        self, Ask, Decision, Demand, Findings, Level, Moment, NextHop, Reason, Shown, Verdict,
    },
    smtp::{
        Answer, Cause, Completed, Keyword, LoginMeans, Note, Outbound as Machine, OutboundConfig,
        Question, Refusal, Side, Stage,
    },
    tls::{self, Peer},
};

/// Serves one session, until both of its connections are closed.
pub fn run(
    setup: Arc<OutboundSetup>,
    client: TcpStream,
    arrival: Arrival,
    stop: watch::Receiver<Stop>,
) -> impl Future<Output = ()> + Send {
    let (machine, session) = begin(&setup, arrival.client, arrival.intended, arrival.server);
    let leg = Leg::new(Stream::Tcp(client), arrival.first);
    // Each future around this one would have room for it twice.
    let session = Box::pin(drive(machine, session, leg, stop));
    async move { session.await.journal.closed() }
}

/// The machine of a session, and the session that carries out its actions.
pub(super) fn begin(
    setup: &Arc<OutboundSetup>,
    client: ClientAddr,
    IntendedAddr(intended): IntendedAddr,
    server: Option<ServerAddr>,
) -> (Machine, OutboundSession) {
    let known_at_connect = known_at_connect(setup, server);
    let session = OutboundSession {
        setup: Arc::clone(setup),
        journal: Journal::open(&setup.common, DirectionField::Outbound, client, intended),
        server,
        dialled: None,
        recipient_moment: match known_at_connect {
            true => Moment::LaterRecipient,
            false => Moment::FirstRecipient,
        },
        awaiting_tls: None,
        asked_again: None,
        peer_number: 0,
        remembered: RememberedDecisions::default(),
        no_tls: None,
        tried: None,
        rehearses: false,
        last_decision: None,
    };
    let machine = Machine::new(OutboundConfig {
        hostname: setup.common.hostname.clone(),
        server: session.server_words(),
        known_at_connect,
        auth: setup.upstream.is_some(),
        login: setup.login.is_some(),
        plaintext_possible: setup.common.observe
            || setup.settings.level.allows_plaintext()
            || setup.table.has_plaintext_entries(clock::wall()),
        implicit_tls: setup.implicit_tls(),
        hidden: session.hidden_keywords(),
    });
    (machine, session)
}

/// Whether the peer can be judged before any recipient is known: with `--upstream`, or if a table entry for the destination address
/// says what the peer must prove.
fn known_at_connect(setup: &OutboundSetup, server: Option<ServerAddr>) -> bool {
    let Some(ServerAddr(to)) = server else {
        return true;
    };
    let ask = Ask {
        next_hop: NextHop::Address,
        server: to.ip(),
        port: to.port(),
    };
    let entry = setup.table.find(&ask, clock::wall_tick());
    entry.is_some_and(|entry| !entry.needs_recipient())
}

/// All that one session knows.
pub(super) struct OutboundSession {
    setup: Arc<OutboundSetup>,
    journal: Journal,
    /// Where the connection goes. With `--upstream` this is known once the connection stands.
    server: Option<ServerAddr>,
    /// Lists the connection as this proxy's own while it lives.
    dialled: Option<Dialled>,
    /// The moment of the next recipient: the first one, or one on a session that may already carry mail.
    recipient_moment: Moment,
    /// The question whose answer waits for TLS.
    awaiting_tls: Option<Box<AwaitingTls>>,
    /// The question for which TLS came up. The machine asks it once more.
    asked_again: Option<Box<AwaitingTls>>,
    /// How often the session got another peer, or none.
    peer_number: u64,
    /// Decisions that this session gives again while it has this peer.
    remembered: RememberedDecisions,
    /// Why this session has no TLS and will get none. Boxed, because most sessions have TLS.
    no_tls: Option<Box<NoTls>>,
    /// With what this session logs in.
    tried: Option<Box<LoginMeans>>,
    /// A rehearsal shows the policy's last decision. Other sessions do not keep it.
    rehearses: bool,
    last_decision: Option<Arc<Decision>>,
}

/// Why a session has no TLS.
struct NoTls {
    shown: Shown,
    /// The refusal that enforcing gives for it, if the machine has words of its own.
    refusal: Option<Refusal>,
}

impl ActionHandler for OutboundSession {
    type JobResult = OutboundJob;

    fn finish(&mut self, result: OutboundJob) -> ActionResult {
        match result {
            OutboundJob::Connected(result) => {
                ActionResult::Connected(result.and_then(|connected| self.connected(*connected)))
            }
            OutboundJob::HandshakeEnded(side, handshake) => {
                ActionResult::Upgraded(side, self.upgraded(*handshake))
            }
            OutboundJob::Required(requirement) => ActionResult::Answered(self.judge(*requirement)),
            OutboundJob::Answered(peer, answer) => ActionResult::Answered(match answer {
                // What one peer proved is nothing for the next one.
                Answer::Authorised(_) | Answer::Exempted(_) if peer != self.peer_number => {
                    Answer::Refused(cannot_go_on("the server is another one now"))
                }
                answer => answer,
            }),
            OutboundJob::Ready(result) => {
                if let ActionResult::Answered(Answer::Login(login)) = &result {
                    self.tried = Some(Box::new(login.means().clone()));
                }
                result
            }
        }
    }

    fn connect(&mut self) -> Job<OutboundJob> {
        if let Some(refusal) = self.refused_again() {
            return ready(ActionResult::Connected(Err(refusal)));
        }
        let job = connect(Arc::clone(&self.setup), self.journal.client(), self.server);
        Job::running(async move { OutboundJob::Connected(job.await) })
    }

    fn upgrade(&mut self, side: Side, stream: Stream) -> Job<OutboundJob> {
        let Some(awaiting) = self.awaiting_tls.take() else {
            let failed = Upgraded::Failed(cannot_go_on("TLS without a demand"));
            return ready(ActionResult::Upgraded(side, failed));
        };
        let job = handshake(Arc::clone(&self.setup), stream, awaiting);
        Job::running(async move { OutboundJob::HandshakeEnded(side, job.await) })
    }

    fn authorise(&mut self, question: Question) -> Job<OutboundJob> {
        let Some(server) = self.server else {
            let refusal = cannot_go_on("no server is known");
            return ready(ActionResult::Answered(Answer::Refused(refusal)));
        };
        if question == Question::Login {
            let login = credentials::login(self.setup.login.clone());
            return Job::running(async { OutboundJob::Ready(ActionResult::Answered(login.await)) });
        }
        if let Some(answer) = self.answer_at_once(&question) {
            let answered = OutboundJob::Answered(self.peer_number, answer);
            return Job::Done(answered);
        }
        let setup = Arc::clone(&self.setup);
        Job::running(async move {
            OutboundJob::Required(Box::new(require(&setup, server, question).await))
        })
    }

    fn record(&mut self, message: Completed) -> Job<OutboundJob> {
        self.journal.message(&message, |outcome| {
            OutboundJob::Ready(ActionResult::Recorded(outcome))
        })
    }

    fn note(&mut self, note: Note) {
        match &note {
            Note::NoTls { words, refusal } => self.tls_is_not_to_be_had(words, refusal),
            Note::HostFault { refusal, lasting } => self.host_fault(refusal, *lasting),
            Note::Heard {
                stage: Stage::Login,
                reply,
                ..
            } => {
                let tried = self.tried.take().map(|means| *means);
                credentials::refused(self.setup.login.as_deref(), tried, reply);
            }
            Note::MissingExtension(keyword) => {
                if let Some(ServerAddr(to)) = self.server {
                    self.next_session().lacks(to.ip(), *keyword);
                }
            }
            _ => {}
        }
        self.journal.note(note);
    }

    fn journal(&mut self) -> Option<&mut Journal> {
        Some(&mut self.journal)
    }
}

fn ready(result: ActionResult) -> Job<OutboundJob> {
    Job::Done(OutboundJob::Ready(result))
}

impl OutboundSession {
    /// Nothing of this session leaves. Its last decision is wanted.
    pub(super) fn rehearse(&mut self) {
        self.rehearses = true;
    }

    /// What a rehearsal showed: the policy's last decision, and the peer of the last handshake.
    pub(super) fn learned(self) -> (Option<Decision>, Option<Arc<Peer>>) {
        let decision = self.last_decision.map(Arc::unwrap_or_clone);
        (decision, self.journal.peer().cloned())
    }

    /// The server in words, as long as no more than its address is known.
    fn server_words(&self) -> String {
        match (&self.setup.upstream, self.server) {
            (Some(upstream), _) => upstream.host.clone(),
            (None, Some(ServerAddr(to))) => to.ip().to_string(),
            (None, None) => String::from("the server"),
        }
    }

    // ----- connections -----

    /// Refuses this session for a fault that its server had a short while ago.
    fn refused_again(&mut self) -> Option<Refusal> {
        let ServerAddr(to) = self.server?;
        let first = self.next_session().refusal(to.ip())?;
        Some(self.journal.refused_again(&first))
    }

    fn connected(&mut self, connected: Connected) -> Result<Stream, Refusal> {
        let link = connected.link;
        self.forget_peer();
        self.journal.connected(link.ends);
        self.server = Some(link.server);
        self.dialled = Some(link.dialled);
        // With implicit TLS this asks for the handshake that comes next.
        match connected.requirement.map(|required| self.judge(required)) {
            Some(Answer::Refused(refusal)) => Err(refusal),
            _ => Ok(link.stream),
        }
    }

    fn upgraded(&mut self, handshake: EndedHandshake) -> Upgraded {
        let (server, classical) = (handshake.awaiting.ask.server, handshake.classical);
        let (memory, now) = (Arc::clone(&self.setup.memory), clock::instant());
        self.forget_peer();
        let failure = match handshake.outcome {
            Ok((secured, peer)) => {
                memory.handshake(server, classical, HandshakeEnd::Done, now);
                let demand = &handshake.awaiting.demand;
                self.journal.secured_for(Arc::new(peer), Some(demand));
                // A decision that was denied before the handshake is made anew.
                self.asked_again = Some(handshake.awaiting).filter(|one| one.denied.is_none());
                return Upgraded::Up(secured);
            }
            Err(failure) => failure,
        };
        let end = match failure.blame {
            Blame::Unclear => HandshakeEnd::Died,
            Blame::Name | Blame::Host => HandshakeEnd::Failed,
        };
        if memory.handshake(server, classical, end, now) {
            // The large ClientHello may be why, so the host gets another chance before it is remembered as broken.
            log::info!(
                "{server}: the handshake died without an alert; the next goes without X25519MLKEM768"
            );
            let words = format!(
                "{}; the next try goes without the post-quantum key share",
                failure.words
            );
            return Upgraded::Failed(self.handshake_failed(*handshake.awaiting, words, false));
        }
        let of_the_host = failure.blame != Blame::Name;
        let refusal = self.handshake_failed(*handshake.awaiting, failure.words, of_the_host);
        Upgraded::Failed(refusal)
    }

    // ----- judging -----

    /// The answer to a question about which everything is known already: a decision that is given again, or the question for which
    /// TLS came up.
    fn answer_at_once(&mut self, question: &Question) -> Option<Answer> {
        let asked = self.asked_again.take();
        if let Some(asked) = asked
            && asked.question == *question
            && asked.lifetime.holds()
        {
            return Some(self.compare(*asked));
        }
        let known = self.remembered.answer(question)?;
        Some(match self.journal.again(&known.written, question)? {
            Ok(written) => permits::again(known.permit, written),
            Err(refusal) => Answer::Refused(refusal),
        })
    }

    /// From now on the session has another peer, or none.
    fn forget_peer(&mut self) {
        self.peer_number += 1;
        self.asked_again = None;
        self.remembered.forget_all();
    }

    /// Answers one question of the machine: what must the peer prove to get this mail, and has it proved that?
    fn judge(&mut self, requirement: Requirement) -> Answer {
        let Requirement {
            question,
            ask,
            findings,
            demand,
            lifetime,
        } = requirement;
        // With implicit TLS no session can be in the clear.
        let implicit_tls = self.setup.implicit_tls();
        let or_plaintext = self.setup.common.observe && !implicit_tls;
        let (reason, words) = match demand {
            Ok(demand) => {
                let may = demand.level == Level::May && !implicit_tls;
                return self.compare(AwaitingTls {
                    question,
                    ask,
                    findings: findings.unwrap_or_else(|| Arc::new(Findings::none())),
                    demand,
                    lifetime,
                    denied: None,
                    or_plaintext: or_plaintext || may,
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
            &self.setup.settings,
            clock::wall_tick(),
        );
        if decision.refused().is_some() || self.journal.peer().is_some() || self.no_tls.is_some() {
            return self.conclude(decision, None, &question, lifetime);
        }
        let findings = findings.unwrap_or_else(|| Arc::new(Findings::none()));
        self.after_tls(AwaitingTls {
            demand: Demand::observing(&ask, &findings),
            question,
            ask,
            findings,
            lifetime,
            denied: Some(Box::new(decision)),
            or_plaintext,
        })
    }

    fn moment(&self, question: &Question) -> Moment {
        match question {
            Question::Peer | Question::Login => Moment::Hello,
            Question::Recipient(_) | Question::Sender(_) => self.recipient_moment,
        }
    }

    /// Compares what is demanded with what the peer proves, once there is TLS or it is known that there will be none.
    fn compare(&mut self, awaiting: AwaitingTls) -> Answer {
        let demand = &awaiting.demand;
        let shown = match (self.journal.peer(), &self.no_tls) {
            (Some(peer), _) => {
                let now = clock::wall_tick();
                let trust = &self.setup.tls.trust;
                demand.shown(peer.facts.version, |one| trust.check(peer, one, now))
            }
            (None, Some(no_tls)) => no_tls.shown.clone(),
            (None, None) if demand.level == Level::None => {
                // Later recipients of this session cannot have TLS any more.
                let words = "needs TLS, and this session has begun without";
                let shown = Shown::NoTls(Reason::SessionInTheClear, words.into());
                self.no_tls = Some(Box::new(NoTls {
                    shown: shown.clone(),
                    refusal: None,
                }));
                shown
            }
            (None, None) => return self.after_tls(awaiting),
        };
        let (question, lifetime) = (awaiting.question.clone(), awaiting.lifetime);
        let (decision, testing) = self.decide(awaiting, &shown);
        self.conclude(decision, testing, &question, lifetime)
    }

    /// The decision about what the peer showed, and the failure that MTA-STS in testing mode reports without enforcing it.
    fn decide(&self, awaiting: AwaitingTls, shown: &Shown) -> (Decision, Option<(Reason, String)>) {
        let moment = self.moment(&awaiting.question);
        let verdict = policy::judge(&awaiting.demand, shown);
        let testing = policy::testing_failure(&awaiting.demand, shown);
        let mut decision = Decision::new(
            awaiting.ask,
            Some(awaiting.findings),
            Some(awaiting.demand),
            verdict,
            moment,
            &self.setup.settings,
            clock::wall_tick(),
        );
        // An observed decision has the words of the refusal that enforcing would have given.
        let enforced = self.no_tls.as_ref().and_then(|no| no.refusal.as_ref());
        if let (true, Shown::NoTls(..), Some(refusal)) = (decision.observed, shown, enforced)
            && decision.refusal.is_some()
        {
            decision.refusal = Some(refusal.clone());
        }
        (decision, testing)
    }

    /// Writes a decision down and reports it. A decision that this session made before is only counted.
    fn write(
        &mut self,
        decision: &Arc<Decision>,
        testing: Option<(Reason, String)>,
        question: &Question,
    ) -> Result<Written, Refusal> {
        self.last_decision = self.rehearses.then(|| Arc::clone(decision));
        let written = self.journal.verdict(decision, question)?;
        // A decision without a demand came before any handshake, so it says nothing about TLS.
        if let (Some(tlsrpt), true, Some(_)) =
            (&self.setup.tlsrpt, written.is_first(), &decision.demand)
        {
            let (tlsrpt, lookup) = (Arc::clone(tlsrpt), Arc::clone(&self.setup.lookup));
            super::tlsrpt::report(tlsrpt, lookup, decision, testing);
        }
        Ok(written)
    }

    fn after_tls(&mut self, awaiting: AwaitingTls) -> Answer {
        let answer = permits::after_tls(awaiting.or_plaintext);
        self.awaiting_tls = Some(Box::new(awaiting));
        answer
    }

    /// Writes the decision down, then answers by it. If it lets mail pass, it is remembered for as long as all that it rests on.
    fn conclude(
        &mut self,
        decision: Decision,
        testing: Option<(Reason, String)>,
        question: &Question,
        lifetime: Lifetime,
    ) -> Answer {
        let decision = Arc::new(decision);
        let written = match self.write(&decision, testing, question) {
            Ok(written) => written,
            Err(refusal) => return Answer::Refused(refusal),
        };
        match decision.refused() {
            Some(refusal) => self.next_session().failed(&decision, refusal),
            None => {
                self.recipient_moment = Moment::LaterRecipient;
                if let Some(permit) = permits::lasting(&decision) {
                    self.remembered.keep(RememberedDecision {
                        next_hop: decision.ask.next_hop.clone(),
                        permit,
                        written: written.decision(),
                        lifetime: lifetime.until(self.next_date(&decision)),
                    });
                }
            }
        }
        permits::by_decision(&decision, written)
    }

    /// When the peer may prove something else than it proved for this decision.
    fn next_date(&self, decision: &Decision) -> Option<SystemTime> {
        let (peer, demand) = (self.journal.peer()?, decision.demand.as_ref()?);
        tls::next_date(peer, demand.alternatives(), clock::wall())
    }

    // ----- TLS that is not to be had -----

    /// The server offers no TLS. If mail goes on in the clear then, the decision about it is recorded now.
    fn tls_is_not_to_be_had(&mut self, words: &str, refusal: &Refusal) {
        let reason = match refusal.cause {
            Cause::StarttlsRefused => Reason::StarttlsRefused,
            _ => Reason::StarttlsNotSupported,
        };
        let shown = Shown::NoTls(reason, words.to_owned());
        self.forget_peer();
        self.no_tls = Some(Box::new(NoTls {
            shown: shown.clone(),
            refusal: Some(refusal.clone()),
        }));
        let goes_on = self.awaiting_tls.take_if(|awaiting| awaiting.or_plaintext);
        if let Some(awaiting) = goes_on {
            self.record_without_tls(*awaiting, &shown);
        }
    }

    /// Records the decision about mail that goes on without TLS, or whose session ends for want of it. Returns that decision, unless it
    /// was made before the handshake.
    fn record_without_tls(
        &mut self,
        awaiting: AwaitingTls,
        shown: &Shown,
    ) -> Option<Arc<Decision>> {
        let question = awaiting.question.clone();
        let goes_on = awaiting.or_plaintext;
        let passes = goes_on && matches!(question, Question::Recipient(_));
        let (decision, testing, is_new) = match awaiting.denied {
            Some(decision) => (*decision, None, false),
            None => {
                let (mut decision, testing) = self.decide(awaiting, shown);
                decision.observed &= goes_on;
                (decision, testing, true)
            }
        };
        if passes {
            // A recipient has passed, so a refusal from now on is for one recipient alone.
            self.recipient_moment = Moment::LaterRecipient;
        }
        let decision = Arc::new(decision);
        // The machine has its answer already, so a record that cannot be written changes nothing here. The record of the message, which
        // its acceptance waits for, says the same.
        let _ = self.write(&decision, testing, &question);
        is_new.then_some(decision)
    }

    /// The refusal for a handshake that failed. If mail may go on in the clear, the machine asks for a new connection instead.
    fn handshake_failed(
        &mut self,
        awaiting: AwaitingTls,
        words: String,
        of_the_host: bool,
    ) -> Refusal {
        let enforced = awaiting.demand.is_enforced();
        let shown = Shown::HandshakeFailed(words);
        let decision = self.record_without_tls(awaiting, &shown);
        let refusal = self.no_tls.take().and_then(|no_tls| no_tls.refusal);
        self.no_tls = Some(Box::new(NoTls { shown, refusal }));
        let Some((decision, refusal)) = decision
            .and_then(|decision| decision.refusal.clone().map(|refusal| (decision, refusal)))
        else {
            return cannot_go_on("the handshake failed");
        };
        if of_the_host && enforced && decision.refused().is_some() {
            let fault = fault(&decision, refusal.clone());
            self.next_session().host_failed(decision.ask.server, fault);
        }
        refusal
    }

    /// The session ends because the host has no TLS for this proxy.
    fn host_fault(&mut self, refusal: &Refusal, lasting: bool) {
        let Some(ServerAddr(to)) = self.server else {
            return;
        };
        let mut known = Remembered {
            refusal: refusal.clone(),
            reason: refusal.cause.word(),
            domain: None,
            level: None,
        };
        if let Some(awaiting) = self.awaiting_tls.take() {
            // The recipient is known: its verdict says so, in the words that the machine gives.
            let question = awaiting.question.clone();
            let shown = self.no_tls.as_ref().map(|no_tls| no_tls.shown.clone());
            let (decision, testing) = self.decide(*awaiting, &shown.unwrap_or(Shown::NoStartTls));
            let decision = Decision {
                refusal: Some(refusal.clone()),
                observed: false,
                ..decision
            };
            known = fault(&decision, refusal.clone());
            // The mail is refused already, so a record that cannot be written changes nothing.
            let _ = self.write(&Arc::new(decision), testing, &question);
            self.journal.will_be_given(refusal);
        }
        if lasting || self.setup.memory.passing_fault(to.ip(), clock::instant()) {
            self.next_session().host_failed(to.ip(), known);
        }
    }

    /// What the next session should know.
    fn next_session(&self) -> NextSession<'_> {
        NextSession {
            setup: &self.setup,
            client: self.journal.client().0.ip(),
        }
    }

    /// Keywords that this client is not shown.
    fn hidden_keywords(&self) -> Vec<Keyword> {
        let hidden = |ServerAddr(to): ServerAddr| self.next_session().hidden_keywords(to.ip());
        self.server.map(hidden).unwrap_or_default()
    }
}

fn cannot_go_on(words: &str) -> Refusal {
    local_fault(format!("starttls-proxy cannot go on: {words}"))
}

#[cfg(test)]
mod tests;

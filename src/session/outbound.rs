//! Outbound: a legacy client inside, the world outside.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{net::TcpStream, sync::watch, time::timeout};

use super::{
    drive::{Done, Hands, Job, Stop, Upgraded, drive},
    evidence::Evidence,
    leg::{Leg, Stream},
    memory::Handshake,
    site::{Outbound as Site, Upstream},
};
use crate::{
    clock,
    net::{ClientAddr, Dialled, ServerAddr, canonical},
    policy::{
        self, Ask, Decision, Demand, Dns, Findings, Level, Moment, NextHop, Reason, Scope, Shown,
        Verdict,
    },
    smtp::{
        Answer, Authorised, Cause, Completed, Exempted, Note, Question, Recipient, Refusal, Side,
        outbound::{Outbound as Machine, OutboundConfig},
    },
    tls::{Hello, Kind, Peer},
};

/// A whole TLS handshake takes at most this long.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// A whole policy decision takes at most this long; `lookup` keeps to less.
const DECISION: Duration = Duration::from_secs(30);

/// One session: from `client`, which meant to go to `server`; `None` with `--upstream`.
pub async fn run(
    site: Arc<Site>,
    client: TcpStream,
    address: ClientAddr,
    server: Option<ServerAddr>,
    stop: watch::Receiver<Stop>,
) {
    let own = client.local_addr().map(canonical).unwrap_or(address.0);
    let (machine, hands) = begin(&site, address, own, server);
    let client = Leg::new(Stream::Plain(client), Vec::new());
    let hands = drive(machine, hands, client, stop).await;
    hands.0.evidence.closed();
}

/// The machine of a session and its hands; `own` is the address that the client came to.
pub(super) fn begin(
    site: &Arc<Site>,
    client: ClientAddr,
    own: SocketAddr,
    server: Option<ServerAddr>,
) -> (Machine, OutboundHands) {
    let evidence = Evidence::open(
        &site.common,
        "out",
        client,
        server.map_or(own, |ServerAddr(to)| to),
    );
    let hands = OutboundHands(Arc::new(Desk {
        known_at_connect: known_at_connect(site, server),
        site: Arc::clone(site),
        client,
        evidence,
        state: Mutex::new(State {
            server,
            ..State::default()
        }),
    }));
    let desk = &hands.0;
    let machine = Machine::new(OutboundConfig {
        hostname: site.common.hostname.clone(),
        server: desk.server_words(),
        known_at_connect: desk.known_at_connect,
        auth: site.upstream.is_some(),
        plaintext_possible: site.common.observe
            || site.settings.level.allows_plaintext()
            || site.table.has_plaintext_entries(),
        implicit_tls: site
            .upstream
            .as_ref()
            .is_some_and(|upstream| upstream.implicit_tls),
    });
    (machine, hands)
}

/// With `--upstream`, or where an entry for the destination address proves the peer by itself.
fn known_at_connect(site: &Site, server: Option<ServerAddr>) -> bool {
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

/// The hands of one session. Jobs share the desk.
pub(super) struct OutboundHands(Arc<Desk>);

impl OutboundHands {
    /// What the policy decided last, and who answered the last handshake.
    pub(super) fn learned(&self) -> (Option<Decision>, Option<Arc<Peer>>) {
        (self.0.evidence.decided(), self.0.state().peer.clone())
    }
}

/// What the session knows.
struct Desk {
    site: Arc<Site>,
    client: ClientAddr,
    known_at_connect: bool,
    evidence: Evidence,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Where the connection goes; with `--upstream` known once it stands.
    server: Option<ServerAddr>,
    /// Listed as ours while it lives.
    dialled: Option<Dialled>,
    /// Who answered the handshake.
    peer: Option<Arc<Peer>>,
    /// What TLS is to come up for: with what was asked and found.
    pending: Option<Pending>,
    /// A recipient was authorised in this session.
    authorised: bool,
}

#[derive(Clone)]
struct Pending {
    ask: Ask,
    findings: Arc<Findings>,
    demand: Demand,
}

impl Hands for OutboundHands {
    fn connect(&mut self) -> Job {
        let desk = Arc::clone(&self.0);
        Box::pin(async move { Done::Connected(desk.connect().await) })
    }

    fn upgrade(&mut self, side: Side, stream: Stream) -> Job {
        let desk = Arc::clone(&self.0);
        Box::pin(async move {
            Done::Upgraded(
                side,
                match desk.upgrade(stream).await {
                    Ok(stream) => Upgraded::Up(stream),
                    Err(refusal) => Upgraded::Failed(refusal),
                },
            )
        })
    }

    fn authorise(&mut self, question: Question) -> Job {
        let desk = Arc::clone(&self.0);
        Box::pin(async move { Done::Answered(desk.authorise(question).await) })
    }

    fn record(&mut self, message: Completed) -> Job {
        self.0.evidence.message(message)
    }

    fn note(&mut self, note: Note) {
        match note {
            Note::HostFault { refusal, .. } => self.0.no_starttls(refusal),
            Note::MessageBegins => {
                self.0.in_the_clear();
                self.0.evidence.message_begins();
            }
            note => self.0.evidence.note(note),
        }
    }

    fn content(&mut self, octets: &[u8]) {
        self.0.evidence.content(octets);
    }

    fn broken(&mut self, side: Side, error: &std::io::Error) {
        self.0.evidence.broken(side, error);
    }

    fn traffic(&mut self, side: Side, octets: [u64; 2]) {
        self.0.evidence.traffic(side, octets);
    }

    fn trace(&mut self) -> Option<Vec<u8>> {
        self.0.evidence.trace()
    }
}

impl Desk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server in words, before more is known than its address.
    fn server_words(&self) -> String {
        match (&self.site.upstream, self.state().server) {
            (Some(upstream), _) => upstream.host.clone(),
            (None, Some(ServerAddr(to))) => to.ip().to_string(),
            (None, None) => String::from("the server"),
        }
    }

    async fn connect(&self) -> Result<Stream, Refusal> {
        let known = self.state().server;
        match (&self.site.upstream, known) {
            (Some(upstream), _) => self.connect_upstream(upstream).await,
            (None, Some(server)) => {
                if let Some(refusal) = self.remembered(server) {
                    self.evidence.refused(&refusal);
                    return Err(refusal);
                }
                self.dial(server).await
            }
            (None, None) => Err(unreachable_server("nobody named the server")),
        }
    }

    /// What went wrong at this address a short while ago, unless its own entry asks for nothing that could.
    fn remembered(&self, server: ServerAddr) -> Option<Refusal> {
        if self.site.common.observe {
            return None;
        }
        self.site
            .memory
            .refusal(self.client.0.ip(), server.0.ip(), clock::instant())
    }

    async fn dial(&self, server: ServerAddr) -> Result<Stream, Refusal> {
        let source = self
            .site
            .common
            .keep_client_address
            .then(|| self.client.0.ip());
        match self.site.common.dial.connect(server, source).await {
            Ok((stream, dialled)) => {
                self.evidence.connected(&stream);
                let mut state = self.state();
                state.server = Some(server);
                state.dialled = Some(dialled);
                state.peer = None;
                Ok(Stream::Plain(stream))
            }
            Err(error) => Err(unreachable_server(&format!(
                "{}: {}",
                server.0,
                plain(&error)
            ))),
        }
    }

    async fn connect_upstream(&self, upstream: &Upstream) -> Result<Stream, Refusal> {
        let addresses = match upstream.ip() {
            Some(ip) => vec![ip],
            None => match self.site.lookup.host(&upstream.host, None).await.addresses {
                Dns::Found(addresses, _) => addresses,
                Dns::Absent(_) => {
                    return Err(unreachable_server(&format!(
                        "{} has no address",
                        upstream.host
                    )));
                }
                Dns::Bogus(words) | Dns::Failed(words) => {
                    return Err(unreachable_server(&format!(
                        "{}: address look-up failed: {words}",
                        upstream.host
                    )));
                }
                Dns::NotAsked => Vec::new(),
            },
        };
        let mut outcome = Err(unreachable_server(&format!(
            "{} has no address",
            upstream.host
        )));
        for ip in addresses {
            outcome = self.dial(ServerAddr((ip, upstream.port).into())).await;
            if outcome.is_ok() {
                break;
            }
        }
        let stream = outcome?;
        if upstream.implicit_tls
            && let Answer::Refused(refusal) = self.authorise(Question::Peer).await
        {
            return Err(refusal);
        }
        // With implicit TLS what is demanded is pending now, for the handshake that comes next.
        Ok(stream)
    }

    fn ask(&self, question: Question) -> Option<Ask> {
        let ServerAddr(to) = self.state().server?;
        let next_hop = match (&self.site.upstream, question) {
            (Some(upstream), _) => NextHop::Upstream(upstream.host.clone()),
            (None, Question::Recipient(recipient)) => NextHop::Recipient(recipient),
            (None, _) => NextHop::Address,
        };
        Some(Ask {
            next_hop,
            server: to.ip(),
            port: to.port(),
        })
    }

    async fn findings(&self, ask: &Ask, needs: policy::Needs) -> Findings {
        if needs == policy::Needs::default() {
            return Findings::none();
        }
        match &ask.next_hop {
            NextHop::Upstream(host) => Findings::of_upstream(
                self.site
                    .lookup
                    .host(host, needs.tlsa.then_some(ask.port))
                    .await,
            ),
            NextHop::Recipient(Recipient::Domain(domain)) => {
                self.site.lookup.gather(domain, needs).await
            }
            NextHop::Recipient(_) | NextHop::Address => Findings::none(),
        }
    }

    /// The heart: who may have this mail, and is the peer that?
    async fn authorise(&self, question: Question) -> Answer {
        let moment = match question {
            Question::Peer => Moment::Hello,
            _ if self.state().authorised || self.known_at_connect => Moment::LaterRecipient,
            _ => Moment::FirstRecipient,
        };
        let Some(ask) = self.ask(question) else {
            return Answer::Refused(local_fault("no server is known"));
        };
        let settings = &self.site.settings;
        let now = clock::wall();
        let entry = self.site.table.find(&ask, now);
        let findings = match timeout(
            DECISION,
            self.findings(&ask, policy::needs(&ask, entry, settings)),
        )
        .await
        {
            Ok(findings) => Arc::new(findings),
            Err(_) => {
                let verdict =
                    Verdict::Refused(Reason::LookupFailed, "no decision within 30 s".into());
                return self.conclude(Decision::new(
                    ask, None, None, verdict, moment, settings, now,
                ));
            }
        };
        match policy::require(&ask, entry, &findings, settings) {
            Ok(demand) => self.hold_against(
                Pending {
                    ask,
                    findings,
                    demand,
                },
                moment,
            ),
            Err((reason, words)) => {
                let verdict = Verdict::Refused(reason, words);
                let observing = Demand::observing(&ask, &findings);
                let pending = Pending {
                    ask: ask.clone(),
                    findings: Arc::clone(&findings),
                    demand: observing,
                };
                let decision =
                    Decision::new(ask, Some(findings), None, verdict, moment, settings, now);
                let refused = decision.refused().is_some();
                let answer = self.conclude(decision);
                if refused {
                    answer
                } else {
                    self.tls_first(pending).unwrap_or(answer)
                }
            }
        }
    }

    /// What is demanded is known: compare it with the peer, or first have TLS.
    fn hold_against(&self, pending: Pending, moment: Moment) -> Answer {
        let peer = self.state().peer.clone();
        let Some(peer) = peer else {
            if pending.demand.level != Level::None {
                return self
                    .tls_first(pending)
                    .unwrap_or_else(|| Answer::Refused(local_fault("TLS is up and is not")));
            }
            let verdict = policy::judge(&pending.demand, &Shown::NoStartTls);
            return self.conclude(self.decision(pending, verdict, moment));
        };
        let now = clock::wall();
        let shown = pending.demand.shown(&peer.facts.version, |one| {
            self.site.tls.trust.check(&peer, one, now)
        });
        let verdict = policy::judge(&pending.demand, &shown);
        let testing = policy::testing_failure(&pending.demand, &shown);
        let decision = self.decision(pending, verdict, moment);
        self.tlsrpt(&decision, testing);
        self.conclude(decision)
    }

    /// Reports what was decided after a handshake, or for want of one.
    fn tlsrpt(&self, decision: &Decision, testing: Option<(Reason, String)>) {
        if let Some(tlsrpt) = &self.site.tlsrpt {
            let (tlsrpt, lookup) = (Arc::clone(tlsrpt), Arc::clone(&self.site.lookup));
            super::tlsrpt::report(tlsrpt, lookup, decision, testing);
        }
    }

    fn tls_first(&self, pending: Pending) -> Option<Answer> {
        let mut state = self.state();
        if state.peer.is_some() {
            return None;
        }
        let or_plaintext = pending.demand.level == Level::May || self.site.common.observe;
        state.pending = Some(pending);
        Some(Answer::Upgrade {
            or_plaintext: or_plaintext.then(Exempted::assertion),
        })
    }

    fn decision(&self, pending: Pending, verdict: Verdict, moment: Moment) -> Decision {
        let Pending {
            ask,
            findings,
            demand,
        } = pending;
        Decision::new(
            ask,
            Some(findings),
            Some(demand),
            verdict,
            moment,
            &self.site.settings,
            clock::wall(),
        )
    }

    /// Writes the decision down, then makes the answer of it.
    fn conclude(&self, decision: Decision) -> Answer {
        let peer = self.state().peer.clone();
        if let Err(refusal) = self.evidence.verdict(&decision, peer.as_deref()) {
            return Answer::Refused(refusal);
        }
        if let Some(refusal) = decision.refused() {
            self.remember(&decision, refusal);
            return Answer::Refused(refusal.clone());
        }
        self.state().authorised = true;
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

    /// A certificate that did not do ends this session; the client's next one there shall move on at the greeting.
    fn remember(&self, decision: &Decision, refusal: &Refusal) {
        let host_to_blame = matches!(&decision.verdict, Verdict::Refused(reason, _) if reason.scope() == Scope::Host);
        if refusal.code == 421 && host_to_blame && self.site.upstream.is_none() {
            let (client, server) = (self.client.0.ip(), decision.ask.server);
            self.site.memory.fault_of_one_session(
                client,
                server,
                refusal.clone(),
                clock::instant(),
            );
        }
    }

    async fn upgrade(&self, stream: Stream) -> Result<Stream, Refusal> {
        let Stream::Plain(tcp) = stream else {
            return Err(local_fault("TLS within TLS"));
        };
        let Some(pending) = self.state().pending.take() else {
            return Err(local_fault("TLS without a demand"));
        };
        let server = pending.ask.server;
        let classical = self.site.memory.begins_classical(server, clock::instant());
        let Demand {
            sni, tls13_only, ..
        } = &pending.demand;
        let hello = Hello {
            sni: sni.as_deref(),
            tls13_only: *tls13_only,
            classical_only: classical,
        };
        let (died, words) = match timeout(HANDSHAKE, self.site.tls.connect(tcp, hello)).await {
            Ok(Ok((tls, peer))) => {
                let now = clock::instant();
                self.site
                    .memory
                    .handshake(server, classical, Handshake::Done, now);
                self.evidence.secured(&peer);
                self.state().peer = Some(Arc::new(peer));
                return Ok(Stream::ToServer(Box::new(tls)));
            }
            Ok(Err(fault)) => (fault.kind() == Kind::Died, fault.to_string()),
            Err(_) => (
                true,
                String::from("the handshake was not finished within 30 s"),
            ),
        };
        let outcome = if died {
            Handshake::Died
        } else {
            Handshake::Failed
        };
        let now = clock::instant();
        if self.site.memory.handshake(server, classical, outcome, now) {
            // The large ClientHello may be why; the host gets another chance before it is remembered as broken.
            log::info!(
                "{server}: the handshake died without an alert; the next goes without X25519MLKEM768"
            );
            let words = format!("{words}; the next try goes without the post-quantum key share");
            return Err(self.handshake_failed(pending, words));
        }
        self.remember_host(server, &pending, &words);
        Err(self.handshake_failed(pending, words))
    }

    /// The refusal for a handshake that failed; where mail may go in the clear then, the machine asks for a new connection.
    fn handshake_failed(&self, pending: Pending, words: String) -> Refusal {
        let moment = if self.known_at_connect {
            Moment::Hello
        } else {
            Moment::FirstRecipient
        };
        let verdict = policy::judge(&pending.demand, &Shown::HandshakeFailed(words));
        let decision = self.decision(pending.clone(), verdict, moment);
        let refusal = decision
            .refusal
            .clone()
            .unwrap_or_else(|| local_fault("the handshake failed"));
        // Refusing is the answer already; a record that cannot be written cannot make it another one.
        let _ = self.evidence.verdict(&decision, None);
        self.tlsrpt(&decision, None);
        refusal
    }

    fn remember_host(&self, server: IpAddr, pending: &Pending, words: &str) {
        // An alert may be about the name in SNI, which is a fault of this question and not of the host for every question.
        if self.site.upstream.is_some() || words.contains("unrecognized_name") {
            return;
        }
        let text = format!("{server}: TLS handshake failed a short while ago: {words}");
        if pending.demand.enforced {
            let refusal = Refusal {
                code: 421,
                enhanced: (7, 5),
                text,
                cause: Cause::Verdict,
            };
            self.fault_of_the_host(server, refusal);
        }
    }

    /// Refuses everybody at the greeting for some minutes. Where an entry could let mail pass in the clear, only this
    /// client's next session: whose recipient it is for is not known then, and may be one of that entry's.
    fn fault_of_the_host(&self, server: IpAddr, refusal: Refusal) {
        let (memory, now) = (&self.site.memory, clock::instant());
        if self.site.table.has_plaintext_entries() {
            memory.fault_of_one_session(self.client.0.ip(), server, refusal, now);
        } else {
            memory.host_fault(server, refusal, now);
        }
    }

    fn no_starttls(&self, refusal: Refusal) {
        let Some(ServerAddr(to)) = self.state().server else {
            return;
        };
        self.evidence
            .refused_for(Reason::StarttlsNotSupported, &refusal);
        if self.site.upstream.is_none() {
            self.fault_of_the_host(to.ip(), refusal);
        }
    }

    /// A message begins over a connection that was to have TLS and has none: level `may`, or observe mode.
    fn in_the_clear(&self) {
        let pending = {
            let mut state = self.state();
            if state.peer.is_some() {
                None
            } else {
                state.pending.take()
            }
        };
        if let Some(pending) = pending {
            let verdict = policy::judge(&pending.demand, &Shown::NoStartTls);
            // The message's own record, which its acceptance waits for, says the same.
            let _ = self.evidence.verdict(
                &self.decision(pending, verdict, Moment::LaterRecipient),
                None,
            );
        }
    }
}

fn unreachable_server(words: &str) -> Refusal {
    Refusal {
        code: 421,
        enhanced: (4, 1),
        text: format!("cannot reach the server: {words}"),
        cause: Cause::ServerUnreachable,
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

/// The system's words without its number.
fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::TimedOut => String::from("connection timed out"),
        _ => error
            .to_string()
            .split(" (os error")
            .next()
            .unwrap_or_default()
            .to_lowercase(),
    }
}

//! Inbound: the world outside, a legacy server inside.

use std::{sync::Arc, time::Duration};

use tokio::{io::AsyncWriteExt, net::TcpStream, sync::watch, time::timeout};

use super::{
    Arrival,
    drive::{ActionHandler, ActionResult, Job, Stop, Upgraded, drive},
    evidence::Evidence,
    leg::{Leg, Stream},
    networks::Attempt,
    records::{Exempt, in_the_clear},
    setup::InboundSetup,
};
use crate::{
    audit::{ConnectionField, DirectionField},
    clock,
    net::{ClientAddr, Dialled, IntendedAddr, NotTried, ServerAddr, canonical, proxy_header},
    policy::{
        self, Ask, Basis, Decision, Demand, Dns, Findings, Moment, NextHop, Reason, Shown, Verdict,
    },
    smtp::{
        Answer, Authorised, Cause, Completed, Domain, Exempted, Inbound as Machine, InboundConfig,
        Note, Question, Refusal, Side, StartTlsConditions,
    },
    tls::Peer,
};

/// A whole TLS handshake takes at most this long.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// One session.
pub async fn run(
    site: Arc<InboundSetup>,
    client: TcpStream,
    arrival: Arrival,
    stop: watch::Receiver<Stop>,
) {
    let common = &site.common;
    let evidence = Evidence::open(
        common,
        DirectionField::Inbound,
        arrival.client,
        arrival.intended.0,
    );
    let says = |basis| Exempt { basis, level: None };
    let exempt = site
        .exempt
        .iter()
        .find(|prefix| prefix.contains(arrival.client.0.ip()))
        .map(|prefix| says(Basis::Exempt(prefix.to_string())));
    let entry = site
        .table
        .find_sender(None, arrival.client.0.ip(), clock::wall());
    let by_table = entry
        .filter(|entry| entry.level.allows_plaintext())
        .map(Exempt::from);
    let exempt = exempt
        .or(by_table)
        .or_else(|| common.observe.then(|| says(Basis::Observe)));
    // A sender's own entry may allow it, too; which sender it is, only MAIL tells.
    let plaintext_allowed = exempt.is_some() || site.table.has_plaintext_senders(clock::wall());
    let machine = Machine::new(InboundConfig {
        hostname: common.hostname.clone(),
        tls_available: site.tls.is_some(),
        plaintext_allowed,
    });
    let leg = Leg::new(Stream::Plain(client), arrival.first);
    let errand = Errand {
        site: Arc::clone(&site),
        client: arrival.client,
        intended: arrival.intended,
        server: arrival.server,
    };
    let hands = InboundSession {
        errand,
        exempt,
        evidence,
        dialled: None,
        attempt: None,
        peer: None,
    };
    let hands = drive(machine, hands, leg, stop).await;
    hands.evidence.closed();
}

/// What one session knows, and does.
struct InboundSession {
    errand: Errand,
    /// What lets this client speak in the clear.
    exempt: Option<Exempt>,
    evidence: Evidence,
    dialled: Option<Dialled>,
    /// From STARTTLS until the client has said EHLO over TLS.
    attempt: Option<Attempt>,
    /// The client, once TLS is up; with its certificate, if it showed one.
    peer: Option<Arc<Peer>>,
}

/// What jobs need.
#[derive(Clone)]
struct Errand {
    site: Arc<InboundSetup>,
    client: ClientAddr,
    intended: IntendedAddr,
    server: Option<ServerAddr>,
}

/// What a job came back with.
enum Outcome {
    Connected(Result<(Stream, ConnectionField, Dialled), Refusal>),
    /// TLS and who is at its other end, or what went wrong.
    Upgraded(Side, Result<(Stream, Box<Peer>), String>),
    Done(ActionResult),
}

impl ActionHandler for InboundSession {
    type JobResult = Outcome;

    fn finish(&mut self, outcome: Outcome) -> ActionResult {
        match outcome {
            Outcome::Connected(Ok((stream, connection, dialled))) => {
                self.evidence.connected(connection);
                self.dialled = Some(dialled);
                ActionResult::Connected(Ok(stream))
            }
            Outcome::Connected(Err(refusal)) => ActionResult::Connected(Err(refusal)),
            Outcome::Upgraded(side, outcome) => {
                ActionResult::Upgraded(side, self.upgraded(outcome))
            }
            Outcome::Done(done) => done,
        }
    }

    fn connect(&mut self) -> Job<Outcome> {
        if let Some(attempt) = self.attempt.take() {
            attempt.succeeded();
        }
        let errand = self.errand.clone();
        Box::pin(async move { Outcome::Connected(errand.connect().await) })
    }

    fn upgrade(&mut self, side: Side, stream: Stream) -> Job<Outcome> {
        let client = self.errand.client.0.ip();
        self.attempt = Some(self.site().tried.attempt(client));
        let errand = self.errand.clone();
        Box::pin(async move { Outcome::Upgraded(side, errand.upgrade(stream).await) })
    }

    fn conditions(&self) -> StartTlsConditions {
        // They are about STARTTLS, and every read of the client asks, those of message octets too.
        if self.peer.is_some() {
            return StartTlsConditions::default();
        }
        StartTlsConditions {
            overloaded: self.site().handshakes.full(self.errand.client.0.ip()),
            may_have_tried: self
                .site()
                .tried
                .may_have_tried(self.errand.client.0.ip(), clock::instant()),
        }
    }

    fn authorise(&mut self, question: Question) -> Job<Outcome> {
        let answer = match question {
            Question::Sender(sender) => {
                self.evidence.transaction_begins();
                self.sender(sender.as_ref())
            }
            Question::Peer | Question::Recipient(_) => {
                Answer::Authorised(Authorised::unauthenticated())
            }
        };
        Box::pin(std::future::ready(Outcome::Done(ActionResult::Answered(
            answer,
        ))))
    }

    fn record(&mut self, message: Completed) -> Job<Outcome> {
        let recorded = self.evidence.message(&message);
        Box::pin(async move { Outcome::Done(recorded.await) })
    }

    fn note(&mut self, note: Note) {
        if matches!(&note, Note::Refused(refusal) if refusal.cause == Cause::Overload) {
            self.tried();
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

impl Errand {
    async fn connect(&self) -> Result<(Stream, ConnectionField, Dialled), Refusal> {
        let mut outcome = Err(no_server("it has no address"));
        for server in self.servers().await? {
            outcome = self.dial(server).await;
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    async fn servers(&self) -> Result<Vec<ServerAddr>, Refusal> {
        if let Some(server) = self.server {
            return Ok(vec![server]);
        }
        let Some(upstream) = &self.site.upstream else {
            return Err(no_server("nobody named it"));
        };
        if let Some(ip) = upstream.ip() {
            return Ok(vec![ServerAddr((ip, upstream.port).into())]);
        }
        match self.site.lookup.host(&upstream.host, None).await.addresses {
            Dns::Found(addresses, _) => Ok(addresses
                .into_iter()
                .map(|ip| ServerAddr((ip, upstream.port).into()))
                .collect()),
            other => {
                log::error!("in: {}: address look-up: {other:?}", upstream.host);
                Err(no_server("its address cannot be looked up"))
            }
        }
    }

    async fn dial(
        &self,
        server: ServerAddr,
    ) -> Result<(Stream, ConnectionField, Dialled), Refusal> {
        let common = &self.site.common;
        let source = common.keep_client_address.then(|| self.client.0.ip());
        let connected = async {
            let (mut stream, dialled) = common.dial.connect(server, source).await?;
            if let Some(version) = self.site.send_proxy {
                stream
                    .write_all(&proxy_header::header(
                        version,
                        self.client.0,
                        self.intended.0,
                    ))
                    .await?;
            }
            let connection = ConnectionField {
                from: canonical(stream.local_addr()?),
                to: canonical(stream.peer_addr()?),
            };
            std::io::Result::Ok((Stream::Plain(stream), connection, dialled))
        };
        connected.await.map_err(|error| {
            // The outside learns that it is down, the log learns where and why.
            log::error!(
                "in: client={} cannot reach the inside server {}: {error}",
                self.client,
                server
            );
            match NotTried::of(&error) {
                Some(NotTried::Ourselves) => Refusal {
                    enhanced: (4, 6),
                    ..no_server("it is this proxy itself: loop")
                },
                Some(NotTried::OtherFamily) => {
                    no_server("it takes no mail from addresses of your family")
                }
                None => no_server("it does not answer"),
            }
        })
    }

    async fn upgrade(&self, stream: Stream) -> Result<(Stream, Box<Peer>), String> {
        let (Stream::Plain(tcp), Some(tls)) = (stream, &self.site.tls) else {
            return Err(String::from("TLS is not available"));
        };
        let place = async {
            let place = self.site.handshakes.place(self.client.0.ip()).await;
            place.map_err(|_| String::from("no place for a handshake (--max-handshakes)"))
        };
        match timeout(HANDSHAKE, tls.accept_in_turn(tcp, place)).await {
            Ok(Ok((stream, peer))) => Ok((Stream::ToClient(Box::new(stream)), Box::new(peer))),
            Ok(Err(fault)) => Err(fault.to_string()),
            Err(_) => Err(String::from("it took longer than 30 s")),
        }
    }
}

impl InboundSession {
    fn site(&self) -> &InboundSetup {
        &self.errand.site
    }

    /// The client tried STARTTLS in vain, and may come back in the clear.
    fn tried(&self) {
        let client = self.errand.client.0.ip();
        self.site().tried.failed(client, clock::instant());
    }

    fn upgraded(&mut self, outcome: Result<(Stream, Box<Peer>), String>) -> Upgraded {
        let (stream, peer) = match outcome {
            Ok((stream, peer)) => (stream, Arc::from(peer)),
            Err(words) => {
                self.evidence.handshake_failed(&words);
                self.attempt = None;
                return Upgraded::Failed(Refusal {
                    code: 421,
                    enhanced: (7, 0),
                    text: String::from("TLS handshake failed"),
                    cause: Cause::ServerGone,
                });
            }
        };
        self.evidence.secured(Arc::clone(&peer));
        self.peer = Some(peer);
        match self.client_refused() {
            Some(refusal) => Upgraded::NotGoodEnough(stream, refusal),
            None => Upgraded::Up(stream),
        }
    }

    /// May this client send as that domain?
    fn sender(&mut self, sender: Option<&Domain>) -> Answer {
        let now = clock::wall();
        let address = self.errand.client.0.ip();
        let entry = match self.site().table.find_sender(sender, address, now) {
            Some(entry) if !entry.level.allows_plaintext() => entry,
            found => {
                let exempt = found.map(Exempt::from);
                return self.unlisted(sender, exempt);
            }
        };
        let demand = match policy::require_client(sender, entry, &self.site().settings) {
            Ok(demand) => demand,
            Err((reason, words)) => {
                return self.conclude(sender, None, Verdict::Refused(reason, words));
            }
        };
        let shown = match (&self.peer, &self.site().tls) {
            (Some(peer), Some(tls)) => {
                demand.shown(&peer.facts.version, |one| tls.trust.check(peer, one, now))
            }
            _ => Shown::NoTls(
                Reason::StarttlsNotSupported,
                String::from("the client has not started TLS"),
            ),
        };
        let verdict = policy::judge(&demand, &shown);
        self.conclude(sender, Some(demand), verdict)
    }

    /// An entry for the client's address is judged as soon as TLS is up; the sender of each message has its own.
    fn client_refused(&mut self) -> Option<Refusal> {
        let address = self.errand.client.0.ip();
        let entry = self
            .site()
            .table
            .find_sender(None, address, clock::wall())?;
        if entry.level.allows_plaintext() {
            return None;
        }
        match self.sender(None) {
            Answer::Refused(refusal) => Some(Refusal {
                code: 554,
                enhanced: (7, 0),
                text: refusal.text,
                cause: Cause::Verdict,
            }),
            _ => None,
        }
    }

    /// Nothing is demanded of this sender; `entry` is what says so. In the clear, somebody must have allowed it, and it
    /// is written down as unprotected.
    fn unlisted(&mut self, sender: Option<&Domain>, entry: Option<Exempt>) -> Answer {
        if self.peer.is_some() {
            return Answer::Authorised(Authorised::unauthenticated());
        }
        let refusal = self.conditions().starttls_first();
        let Some(exempt) = entry.or_else(|| self.exempt.clone()) else {
            self.evidence.answers(refusal.cause, sender);
            return Answer::Refused(refusal);
        };
        let observed = (exempt.basis == Basis::Observe).then_some(&refusal);
        let decision = in_the_clear(self.errand.client.0.ip(), &exempt, observed);
        let about = Question::Sender(sender.cloned());
        match self.evidence.unprotected(decision, observed, &about) {
            Ok(()) => Answer::Exempted(Exempted::assertion()),
            Err(refusal) => Answer::Refused(refusal),
        }
    }

    fn conclude(
        &mut self,
        sender: Option<&Domain>,
        demand: Option<Demand>,
        verdict: Verdict,
    ) -> Answer {
        let client = self.errand.client.0;
        let ask = Ask {
            next_hop: sender.map_or(NextHop::Address, |domain| {
                NextHop::Recipient(crate::smtp::Recipient::Domain(domain.clone()))
            }),
            server: client.ip(),
            port: client.port(),
        };
        let secured = self.peer.is_some();
        let refusal = match &verdict {
            Verdict::Refused(reason, words) => {
                let refusal = policy::refuse_client(sender, *reason, words, secured);
                // As for everybody who has not started TLS: the reply of this moment, which is the one that is recorded.
                let now = self.conditions();
                Some(match !secured && now.may_have_tried {
                    true => now.starttls_first().because(refusal.cause),
                    false => refusal,
                })
            }
            Verdict::Authorised(_) | Verdict::Unprotected(_) => None,
        };
        let mut decision = Decision::new(
            ask,
            Some(Arc::new(Findings::none())),
            demand,
            verdict,
            Moment::LaterRecipient,
            &self.site().settings,
            clock::wall(),
        );
        decision.refusal = refusal;
        let about = Question::Sender(sender.cloned());
        if let Err(refusal) = self.evidence.verdict(&decision, &about) {
            return Answer::Refused(refusal);
        }
        match decision.refused() {
            Some(refusal) => Answer::Refused(refusal.clone()),
            None if secured => Answer::Authorised(Authorised::assertion()),
            None => Answer::Exempted(Exempted::assertion()),
        }
    }
}

fn no_server(words: &str) -> Refusal {
    Refusal {
        code: 421,
        enhanced: (4, 1),
        text: format!("the mail server behind this proxy cannot be reached: {words}"),
        cause: Cause::ServerUnreachable,
    }
}

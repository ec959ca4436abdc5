//! Inbound sessions: from the world outside to a legacy server inside.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use tokio::{net::TcpStream, sync::watch, time::timeout};

use super::{
    Arrival,
    connecting::{HANDSHAKE, ServerLink},
    drive::{ActionHandler, ActionResult, Stop, Upgraded, drive},
    fields::{PlaintextBasis, in_the_clear},
    job::Job,
    journal::Journal,
    leg::{Leg, Stream},
    networks::TlsAttempt,
    permits,
    refusals::unreachable,
    setup::InboundSetup,
};
use crate::{
    audit::DirectionField,
    clock, metrics,
    net::{ClientAddr, Dialled, NotTried, ServerAddr, proxy_header},
    policy::{
        self, Ask, Basis, Decision, Demand, Dns, Findings, Moment, NextHop, Reason, Shown, Verdict,
    },
    smtp::{
        Answer, Cause, Completed, Domain, Inbound as Machine, InboundConfig, Note, Question,
        Recipient, Refusal, Side, StartTlsConditions,
    },
    tls::{Peer, Secured},
};

/// Serves one session, until both of its connections are closed.
pub fn run(
    setup: Arc<InboundSetup>,
    client: TcpStream,
    arrival: Arrival,
    stop: watch::Receiver<Stop>,
) -> impl Future<Output = ()> + Send {
    let common = &setup.common;
    let plaintext = plaintext_basis(&setup, arrival.client.0.ip());
    let machine = Machine::new(InboundConfig {
        hostname: common.hostname.clone(),
        tls_available: setup.tls.is_some(),
        // A sender's own entry may allow it, too. Only MAIL tells which sender it is.
        plaintext_allowed: plaintext.is_some() || setup.table.has_plaintext_senders(clock::wall()),
    });
    let intended = arrival.intended.0;
    let session = InboundSession {
        journal: Journal::open(common, DirectionField::Inbound, arrival.client, intended),
        setup,
        intended,
        server: arrival.server,
        plaintext,
        dialled: None,
        attempt: None,
    };
    let leg = Leg::new(Stream::Tcp(client), arrival.first);
    // Each future around this one would have room for it twice.
    let session = Box::pin(drive(machine, session, leg, stop));
    async move { session.await.journal.closed() }
}

/// The rule that lets this client send in the clear, whoever the sender is.
fn plaintext_basis(setup: &InboundSetup, client: IpAddr) -> Option<PlaintextBasis> {
    let exempt = setup.exempt.iter().find(|prefix| prefix.contains(client));
    let exempt = exempt.map(|prefix| Basis::Exempt(prefix.to_string()).into());
    let entry = setup.table.find_sender(None, client, clock::wall());
    let by_table = entry.filter(|entry| entry.level.allows_plaintext());
    exempt
        .or_else(|| by_table.map(PlaintextBasis::from))
        .or_else(|| setup.common.observe.then(|| Basis::Observe.into()))
}

/// All that one session knows.
struct InboundSession {
    setup: Arc<InboundSetup>,
    journal: Journal,
    /// Where the client meant to go, for the PROXY header.
    intended: SocketAddr,
    /// The inside server behind an intercepted connection.
    server: Option<ServerAddr>,
    /// The rule that lets this client send in the clear, whoever the sender is.
    plaintext: Option<PlaintextBasis>,
    /// Lists the connection to the server as this proxy's own while it lives.
    dialled: Option<Dialled>,
    /// From STARTTLS until the client has said EHLO over TLS.
    attempt: Option<TlsAttempt>,
}

/// The result of a job.
enum InboundJob {
    /// The connection to the server.
    Connected(Result<Box<ServerLink>, Refusal>),
    /// TLS and the client at its other end, or why the handshake failed.
    HandshakeEnded(Side, Result<(Secured<TcpStream>, Box<Peer>), String>),
    /// The machine's answer needs nothing of the session.
    Ready(ActionResult),
}

impl ActionHandler for InboundSession {
    type JobResult = InboundJob;

    fn finish(&mut self, result: InboundJob) -> ActionResult {
        match result {
            InboundJob::Connected(result) => ActionResult::Connected(result.map(|link| {
                self.journal.connected(link.ends);
                self.dialled = Some(link.dialled);
                link.stream
            })),
            InboundJob::HandshakeEnded(side, result) => {
                ActionResult::Upgraded(side, self.upgraded(result))
            }
            InboundJob::Ready(result) => result,
        }
    }

    fn connect(&mut self) -> Job<InboundJob> {
        if let Some(attempt) = self.attempt.take() {
            attempt.succeeded();
        }
        let setup = Arc::clone(&self.setup);
        let (client, intended, server) = (self.journal.client(), self.intended, self.server);
        Job::running(async move {
            let link = connect(&setup, client, intended, server).await;
            InboundJob::Connected(link.map(Box::new))
        })
    }

    fn upgrade(&mut self, side: Side, stream: Stream) -> Job<InboundJob> {
        let client = self.client();
        self.attempt = Some(self.setup.tried.attempt(client));
        let setup = Arc::clone(&self.setup);
        Job::running(async move {
            InboundJob::HandshakeEnded(side, handshake(&setup, client, stream).await)
        })
    }

    fn conditions(&self) -> StartTlsConditions {
        // They are about STARTTLS, and the driver asks for them at every read of the client, also while a message flows.
        if self.journal.peer().is_some() {
            return StartTlsConditions::default();
        }
        let client = self.client();
        StartTlsConditions {
            overloaded: self.setup.handshakes.full(client),
            may_have_tried: self.setup.tried.may_have_tried(client, clock::instant()),
        }
    }

    fn authorise(&mut self, question: Question) -> Job<InboundJob> {
        let answer = match question {
            Question::Sender(sender) => {
                self.journal.transaction_begins();
                match self.journal.can_record() {
                    Ok(()) => self.judge_sender(sender.as_ref()),
                    Err(refusal) => Answer::Refused(refusal),
                }
            }
            Question::Peer | Question::Recipient(_) | Question::Login => {
                permits::nothing_demanded()
            }
        };
        Job::Done(InboundJob::Ready(ActionResult::Answered(answer)))
    }

    fn record(&mut self, message: Completed) -> Job<InboundJob> {
        self.journal.message(&message, |outcome| {
            InboundJob::Ready(ActionResult::Recorded(outcome))
        })
    }

    fn note(&mut self, note: Note) {
        if matches!(&note, Note::Refused(refusal) if refusal.cause == Cause::Overload) {
            // The client tried STARTTLS in vain, and may come back in the clear.
            self.setup.tried.failed(self.client(), clock::instant());
        }
        self.journal.note(note);
    }

    fn journal(&mut self) -> Option<&mut Journal> {
        Some(&mut self.journal)
    }
}

/// Connects to the inside server, and sends it the PROXY header of `--send-proxy`.
async fn connect(
    setup: &InboundSetup,
    client: ClientAddr,
    intended: SocketAddr,
    server: Option<ServerAddr>,
) -> Result<ServerLink, Refusal> {
    let servers = match (server, &setup.upstream) {
        (Some(server), _) => vec![server],
        (None, None) => return Err(no_server("nobody named it")),
        (None, Some(upstream)) => match setup.lookup.host(&upstream.host, None).await.addresses {
            Dns::Found(addresses, _) => {
                let servers = addresses.into_iter().map(|ip| upstream.server(ip));
                servers.collect()
            }
            other => {
                log::error!("in: {}: address look-up: {other:?}", upstream.host);
                return Err(no_server("its address cannot be looked up"));
            }
        },
    };
    let header = setup
        .send_proxy
        .map(|version| proxy_header::header(version, client.0, intended));
    ServerLink::to_first_of(
        servers,
        &setup.common,
        client,
        &header.unwrap_or_default(),
        no_server("it has no address"),
        |server, error| {
            // The client outside learns that the server is down. The log names the server and the error.
            log::error!("in: client={client} cannot reach the inside server {server}: {error}");
            match NotTried::of(error) {
                Some(NotTried::Ourselves) => Refusal {
                    enhanced: (4, 6),
                    ..no_server("it is this proxy itself: loop")
                },
                Some(NotTried::OtherFamily) => {
                    no_server("it takes no mail from addresses of your family")
                }
                None => no_server("it does not answer"),
            }
        },
    )
    .await
}

/// Waits for a place for the client's handshake, and does it.
async fn handshake(
    setup: &InboundSetup,
    client: IpAddr,
    stream: Stream,
) -> Result<(Secured<TcpStream>, Box<Peer>), String> {
    let (Stream::Tcp(tcp), Some(tls)) = (stream, &setup.tls) else {
        return Err(String::from("TLS is not available"));
    };
    let (common, began) = (&setup.common, clock::instant());
    let turn = async {
        let asked = clock::instant();
        let place = setup.handshakes.turn(client).await;
        let waited = clock::instant().duration_since(asked);
        common.metrics.took(metrics::PLACE_TOOK, &[], waited);
        place
    };
    let outcome = match timeout(HANDSHAKE, tls.accept_in_turn(tcp, turn)).await {
        Ok(Ok((secured, peer))) => Ok((secured, Box::new(peer))),
        Ok(Err(fault)) => Err(fault.to_string()),
        Err(_) => Err(String::from("it took longer than 30 s")),
    };
    let took = clock::instant().duration_since(began);
    common.handshake_took("inbound", outcome.is_ok(), took);
    outcome
}

impl InboundSession {
    fn client(&self) -> IpAddr {
        self.journal.client().0.ip()
    }

    fn upgraded(&mut self, result: Result<(Secured<TcpStream>, Box<Peer>), String>) -> Upgraded {
        let (secured, peer) = match result {
            Ok((secured, peer)) => (secured, Arc::from(peer)),
            Err(words) => {
                self.journal.handshake_failed(&words);
                self.attempt = None;
                return Upgraded::Failed(Refusal {
                    code: 421,
                    enhanced: (7, 0),
                    text: String::from("TLS handshake failed"),
                    cause: Cause::ServerGone,
                });
            }
        };
        self.journal.secured(peer);
        match self.client_refused() {
            Some(refusal) => Upgraded::NotGoodEnough(secured, refusal),
            None => Upgraded::Up(secured),
        }
    }

    /// May this client send as this domain?
    fn judge_sender(&mut self, sender: Option<&Domain>) -> Answer {
        let (setup, now) = (Arc::clone(&self.setup), clock::wall_tick());
        let entry = match setup.table.find_sender(sender, self.client(), now) {
            Some(entry) if !entry.level.allows_plaintext() => entry,
            found => return self.judge_unlisted(sender, found.map(PlaintextBasis::from)),
        };
        let demand = match policy::require_client(sender, entry, &setup.settings) {
            Ok(demand) => demand,
            Err((reason, words)) => {
                return self.conclude(sender, None, Verdict::Refused(reason, words));
            }
        };
        let shown = match (self.journal.peer(), &setup.tls) {
            (Some(peer), Some(tls)) => {
                demand.shown(peer.facts.version, |one| tls.trust.check(peer, one, now))
            }
            _ => Shown::NoTls(
                Reason::StarttlsNotSupported,
                String::from("the client has not started TLS"),
            ),
        };
        let verdict = policy::judge(&demand, &shown);
        self.conclude(sender, Some(demand), verdict)
    }

    /// An entry for the client's address is judged as soon as TLS is up. An entry for a sender is judged at MAIL.
    fn client_refused(&mut self) -> Option<Refusal> {
        let table = &self.setup.table;
        let entry = table.find_sender(None, self.client(), clock::wall())?;
        if entry.level.allows_plaintext() {
            return None;
        }
        match self.judge_sender(None) {
            Answer::Refused(refusal) => Some(Refusal {
                code: if refusal.code < 500 { 454 } else { 554 },
                enhanced: (7, 0),
                text: refusal.text,
                cause: Cause::Verdict,
            }),
            _ => None,
        }
    }

    /// No entry demands a certificate of this sender. If the session is in the clear, a rule must allow that: the sender's `entry`, or
    /// one for the client. It is recorded as unprotected then.
    fn judge_unlisted(&mut self, sender: Option<&Domain>, entry: Option<PlaintextBasis>) -> Answer {
        if self.journal.peer().is_some() {
            return permits::nothing_demanded();
        }
        let refusal = self.conditions().starttls_first();
        let Some(plaintext) = entry.or_else(|| self.plaintext.clone()) else {
            self.journal.may_refuse(refusal.cause, sender);
            return Answer::Refused(refusal);
        };
        let observed = (plaintext.basis == Basis::Observe).then_some(&refusal);
        let decision = in_the_clear(self.client(), &plaintext, observed);
        let about = Question::Sender(sender.cloned());
        match self.journal.unprotected(decision, observed, &about) {
            Ok(written) => permits::in_the_clear(written),
            Err(refusal) => Answer::Refused(refusal),
        }
    }

    /// Writes the decision down, then answers by it.
    fn conclude(
        &mut self,
        sender: Option<&Domain>,
        demand: Option<Demand>,
        verdict: Verdict,
    ) -> Answer {
        let client = self.journal.client().0;
        let ask = Ask {
            next_hop: sender.map_or(NextHop::Address, |domain| {
                NextHop::Recipient(Recipient::Domain(domain.clone()))
            }),
            server: client.ip(),
            port: client.port(),
        };
        let refusal = match &verdict {
            Verdict::Refused(reason, words) => {
                let secured = self.journal.peer().is_some();
                let refusal = policy::refuse_client(sender, *reason, words, secured);
                // A client without TLS gets the same reply as any other at this moment, and that reply is recorded.
                let conditions = self.conditions();
                Some(match !secured && conditions.may_have_tried {
                    true => conditions.starttls_first().because(refusal.cause),
                    false => refusal,
                })
            }
            Verdict::Authorised(_) | Verdict::Unprotected(_) => None,
        };
        let decision = Decision {
            refusal,
            ..Decision::new(
                ask,
                Some(Arc::new(Findings::none())),
                demand,
                verdict,
                Moment::LaterRecipient,
                &self.setup.settings,
                clock::wall_tick(),
            )
        };
        let about = Question::Sender(sender.cloned());
        match self.journal.verdict(&decision, &about) {
            Ok(written) => permits::by_decision(&decision, written),
            Err(refusal) => Answer::Refused(refusal),
        }
    }
}

fn no_server(words: &str) -> Refusal {
    unreachable(format!(
        "the mail server behind this proxy cannot be reached: {words}"
    ))
}

//! Inbound: the world outside, a legacy server inside.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{io::AsyncWriteExt, net::TcpStream, sync::watch, time::timeout};

use super::{
    drive::{Done, Hands, Job, Stop, Upgraded, drive},
    evidence::Evidence,
    leg::{Leg, Stream},
    site::Inbound as Site,
};
use crate::{
    clock,
    net::{ClientAddr, Dialled, IntendedAddr, ServerAddr, proxy_header},
    policy::{self, Ask, Decision, Demand, Dns, Findings, Moment, NextHop, Shown, Verdict},
    smtp::{
        Answer, Authorised, Cause, Completed, Conditions, Domain, Exempted, Note, Question,
        Refusal, Side,
        inbound::{Inbound as Machine, InboundConfig},
    },
    tls::Peer,
};

/// A whole TLS handshake takes at most this long.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// The ends of an inbound session.
pub struct Ends {
    /// Who connected, or who a listed load balancer says did.
    pub client: ClientAddr,
    /// Where it meant to go.
    pub intended: IntendedAddr,
    /// The inside server, where interception tells; else `--upstream` is looked up.
    pub server: Option<ServerAddr>,
    /// Read behind a PROXY header already.
    pub first: Vec<u8>,
}

/// One session.
pub async fn run(site: Arc<Site>, client: TcpStream, ends: Ends, stop: watch::Receiver<Stop>) {
    let common = &site.common;
    let evidence = Evidence::open(common, "in", ends.client, ends.intended.0);
    let exempt = site
        .exempt
        .iter()
        .find(|prefix| prefix.contains(ends.client.0.ip()))
        .map(ToString::to_string);
    let entry = site
        .table
        .find_sender(None, ends.client.0.ip(), clock::wall());
    let by_table = entry
        .filter(|entry| entry.level.allows_plaintext())
        .map(|entry| entry.basis().to_string());
    let exempt = exempt
        .map(|prefix| format!("--exempt {prefix}"))
        .or(by_table);
    let exempt = exempt.or_else(|| common.observe.then(|| String::from("--observe")));
    // A sender's own entry may allow it, too; which sender it is, only MAIL tells.
    let plaintext_allowed = exempt.is_some() || site.table.has_plaintext_senders(clock::wall());
    let machine = Machine::new(InboundConfig {
        hostname: common.hostname.clone(),
        server: site.upstream.as_ref().map_or_else(
            || ends.intended.0.ip().to_string(),
            |upstream| upstream.host.clone(),
        ),
        tls_available: site.tls.is_some(),
        plaintext_allowed,
    });
    let leg = Leg::new(Stream::Plain(client), ends.first);
    let desk = Desk {
        site: Arc::clone(&site),
        client: ends.client,
        intended: ends.intended,
        exempt,
        evidence,
        state: Mutex::new(State {
            server: ends.server,
            ..State::default()
        }),
    };
    let hands = drive(machine, InboundHands(Arc::new(desk)), leg, stop).await;
    hands.0.evidence.closed();
}

struct InboundHands(Arc<Desk>);

struct Desk {
    site: Arc<Site>,
    client: ClientAddr,
    intended: IntendedAddr,
    /// What lets this client speak in the clear.
    exempt: Option<String>,
    evidence: Evidence,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    server: Option<ServerAddr>,
    dialled: Option<Dialled>,
    /// The client, once TLS is up; with its certificate, if it showed one.
    peer: Option<Arc<Peer>>,
}

impl Hands for InboundHands {
    fn connect(&mut self) -> Job {
        let desk = Arc::clone(&self.0);
        Box::pin(async move { Done::Connected(desk.connect().await) })
    }

    fn upgrade(&mut self, side: Side, stream: Stream) -> Job {
        let desk = Arc::clone(&self.0);
        Box::pin(async move { Done::Upgraded(side, desk.upgrade(stream).await) })
    }

    fn conditions(&self) -> Conditions {
        Conditions {
            overloaded: self.0.site.handshakes.available_permits() == 0,
            tried_lately: self
                .0
                .site
                .tried
                .tried_lately(self.0.client.0.ip(), clock::instant()),
        }
    }

    fn authorise(&mut self, question: Question) -> Job {
        let answer = match question {
            Question::Sender(sender) => self.0.sender(sender.as_ref()),
            Question::Peer | Question::Recipient(_) => {
                Answer::Authorised(Authorised::unauthenticated())
            }
        };
        Box::pin(std::future::ready(Done::Answered(answer)))
    }

    fn record(&mut self, message: Completed) -> Job {
        self.0.evidence.message(message)
    }

    fn note(&mut self, note: Note) {
        match note {
            Note::MessageBegins => self.0.evidence.message_begins(),
            Note::Refused(refusal) if refusal.cause == Cause::Overload => {
                self.0.tried();
                self.0.evidence.note(Note::Refused(refusal));
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

    /// The client tried STARTTLS in vain, and may come back in the clear.
    fn tried(&self) {
        self.site.tried.failed(self.client.0.ip(), clock::instant());
    }

    async fn connect(&self) -> Result<Stream, Refusal> {
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
        if let Some(server) = self.state().server {
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

    async fn dial(&self, server: ServerAddr) -> Result<Stream, Refusal> {
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
            std::io::Result::Ok((stream, dialled))
        };
        match connected.await {
            Ok((stream, dialled)) => {
                self.evidence.connected(&stream);
                self.state().dialled = Some(dialled);
                Ok(Stream::Plain(stream))
            }
            Err(error) => {
                // The outside learns that it is down, the log learns where and why.
                log::error!(
                    "in: client={} cannot reach the inside server {}: {error}",
                    self.client,
                    server
                );
                Err(no_server("it does not answer"))
            }
        }
    }

    async fn upgrade(&self, stream: Stream) -> Upgraded {
        let failed = |words: &str| {
            self.evidence.handshake_failed(words);
            self.tried();
            Upgraded::Failed(Refusal {
                code: 421,
                enhanced: (7, 0),
                text: String::from("TLS handshake failed"),
                cause: Cause::ServerGone,
            })
        };
        let (Stream::Plain(tcp), Some(tls)) = (stream, &self.site.tls) else {
            return failed("TLS is not available");
        };
        let Ok(_place) = self.site.handshakes.try_acquire() else {
            return failed("too many handshakes under way (--max-handshakes)");
        };
        match timeout(HANDSHAKE, tls.accept(tcp)).await {
            Ok(Ok((stream, peer))) => {
                self.evidence.secured(&peer);
                self.state().peer = Some(Arc::new(peer));
                let stream = Stream::ToClient(Box::new(stream));
                match self.client_refused() {
                    Some(refusal) => Upgraded::NotGoodEnough(stream, refusal),
                    None => Upgraded::Up(stream),
                }
            }
            Ok(Err(fault)) => failed(&fault.to_string()),
            Err(_) => failed("it took longer than 30 s"),
        }
    }

    /// May this client send as that domain?
    fn sender(&self, sender: Option<&Domain>) -> Answer {
        let now = clock::wall();
        let peer = self.state().peer.clone();
        let entry = match self.site.table.find_sender(sender, self.client.0.ip(), now) {
            Some(entry) if !entry.level.allows_plaintext() => entry,
            found => {
                return self.unlisted(peer.is_some(), found.map(|entry| entry.basis().to_string()));
            }
        };
        let demand = match policy::require_client(sender, entry, &self.site.settings) {
            Ok(demand) => demand,
            Err((reason, words)) => {
                return self.conclude(sender, None, Verdict::Refused(reason, words));
            }
        };
        let shown = match (&peer, &self.site.tls) {
            (Some(peer), Some(tls)) => {
                demand.shown(&peer.facts.version, |one| tls.trust.check(peer, one, now))
            }
            _ => Shown::NoStartTls,
        };
        let verdict = policy::judge(&demand, &shown);
        self.conclude(sender, Some(demand), verdict)
    }

    /// An entry for the client's address is judged as soon as TLS is up; the sender of each message has its own.
    fn client_refused(&self) -> Option<Refusal> {
        let address = self.client.0.ip();
        let entry = self.site.table.find_sender(None, address, clock::wall())?;
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
    fn unlisted(&self, secured: bool, entry: Option<String>) -> Answer {
        if secured {
            return Answer::Authorised(Authorised::unauthenticated());
        }
        let Some(why) = entry.or_else(|| self.exempt.clone()) else {
            let text = String::from("must issue a STARTTLS command first");
            return Answer::Refused(Refusal {
                code: 530,
                enhanced: (7, 0),
                text,
                cause: Cause::StarttlsRequired,
            });
        };
        match self.evidence.unprotected(&why) {
            Ok(()) => Answer::Exempted(Exempted::assertion()),
            Err(refusal) => Answer::Refused(refusal),
        }
    }

    fn conclude(
        &self,
        sender: Option<&Domain>,
        demand: Option<Demand>,
        verdict: Verdict,
    ) -> Answer {
        let ask = Ask {
            next_hop: sender.map_or(NextHop::Address, |domain| {
                NextHop::Recipient(crate::smtp::Recipient::Domain(domain.clone()))
            }),
            server: self.client.0.ip(),
            port: self.client.0.port(),
        };
        let peer = self.state().peer.clone();
        let secured = peer.is_some();
        let findings = Some(Arc::new(Findings::none()));
        let settings = &self.site.settings;
        let refusal = match &verdict {
            Verdict::Refused(reason, words) => {
                Some(policy::refuse_client(sender, *reason, words, secured))
            }
            Verdict::Authorised(_) | Verdict::Unprotected(_) => None,
        };
        let mut decision = Decision::new(
            ask,
            findings,
            demand,
            verdict,
            Moment::LaterRecipient,
            settings,
            clock::wall(),
        );
        decision.refusal = refusal;
        if let Err(refusal) = self.evidence.verdict(&decision, peer.as_deref()) {
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

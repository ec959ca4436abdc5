//! Outbound actions that take time. Each job owns what it needs, and its result is what it learned.

use std::{io, sync::Arc, time::Duration};

use tokio::{net::TcpStream, time::timeout};

use super::super::{
    connecting::{HANDSHAKE, ServerLink},
    drive::ActionResult,
    leg::Stream,
    refusals::unreachable,
    setup::OutboundSetup,
};
use super::remembered::Lifetime;
use crate::{
    clock, metrics,
    net::{ClientAddr, NotTried, ServerAddr},
    policy::{self, Ask, Decision, Demand, Dns, Findings, NextHop, Reason, table::Entry},
    smtp::{Answer, Question, Recipient, Refusal, Side},
    tls::{FaultKind, HandshakeFault, HelloOptions, Peer, Secured},
};

/// Longest time for a whole policy decision. The look-ups have shorter limits of their own.
const DECISION: Duration = Duration::from_secs(30);

/// The result of a job.
pub(in crate::session) enum OutboundJob {
    /// The connection to the server.
    Connected(Result<Box<Connected>, Refusal>),
    /// The handshake with the server.
    HandshakeEnded(Side, Box<EndedHandshake>),
    /// What the peer must prove for a question.
    Required(Box<Requirement>),
    /// The answer to a question about which everything was known, and the number of the peer that it is about.
    Answered(u64, Answer),
    /// The machine's answer needs nothing of the session.
    Ready(ActionResult),
}

/// A connection to the server.
pub(in crate::session) struct Connected {
    pub(super) link: ServerLink,
    /// With implicit TLS the handshake comes next, and this is what the peer must prove in it.
    pub(super) requirement: Option<Requirement>,
}

/// What the peer must prove for one question.
pub(in crate::session) struct Requirement {
    /// The machine's question.
    pub(super) question: Question,
    /// The same question as the policy reads it.
    pub(super) ask: Ask,
    /// What DNS and MTA-STS publish. `None`: the answers did not come in time.
    pub(super) findings: Option<Arc<Findings>>,
    /// The demand, or why no proof would suffice.
    pub(super) demand: Result<Demand, (Reason, String)>,
    /// How long the demand counts.
    pub(super) lifetime: Lifetime,
}

/// A question whose answer waits for TLS.
pub(in crate::session) struct AwaitingTls {
    pub(super) question: Question,
    pub(super) ask: Ask,
    pub(super) findings: Arc<Findings>,
    /// What the peer must prove.
    pub(super) demand: Demand,
    /// How long that counts.
    pub(super) lifetime: Lifetime,
    /// Observe mode: the decision that refuses whatever the peer proves. It is recorded with what the handshake shows, or when TLS
    /// cannot be had.
    pub(super) denied: Option<Box<Decision>>,
    /// If TLS cannot be had, mail goes on in the clear.
    pub(super) or_plaintext: bool,
}

/// A handshake that has ended.
pub(in crate::session) struct EndedHandshake {
    /// The question that waited for it.
    pub(super) awaiting: Box<AwaitingTls>,
    /// It went without the post-quantum key share.
    pub(super) classical: bool,
    /// TLS and the peer.
    pub(super) outcome: Result<(Secured<TcpStream>, Peer), HandshakeFailure>,
}

/// Why a handshake failed.
pub(in crate::session) struct HandshakeFailure {
    pub(super) blame: Blame,
    /// For logs, records and replies.
    pub(super) words: String,
}

/// What a failed handshake says about the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) enum Blame {
    /// It died without an alert, or took too long. The large ClientHello with the post-quantum key share may be why.
    Unclear,
    /// The host does not know the name in SNI. Other questions may ask for other names.
    Name,
    /// The host cannot do TLS with this proxy.
    Host,
}

impl From<HandshakeFault> for HandshakeFailure {
    fn from(fault: HandshakeFault) -> Self {
        Self {
            blame: match fault.kind() {
                FaultKind::Died => Blame::Unclear,
                _ if fault.is_unrecognized_name() => Blame::Name,
                _ => Blame::Host,
            },
            words: fault.to_string(),
        }
    }
}

/// Connects to `server`, or with `--upstream` to its host.
///
/// # Errors
/// No server can be reached.
pub(super) async fn connect(
    setup: Arc<OutboundSetup>,
    client: ClientAddr,
    server: Option<ServerAddr>,
) -> Result<Box<Connected>, Refusal> {
    let (servers, without) = match (&setup.upstream, server) {
        (Some(upstream), _) => {
            let host = &upstream.host;
            let addresses = match setup.lookup.host(host, None).await.addresses {
                Dns::Found(addresses, _) => addresses,
                Dns::Absent(_) | Dns::NotAsked => Vec::new(),
                Dns::Bogus(words) | Dns::Failed(words) => {
                    return Err(cannot_reach(&format!(
                        "{host}: address look-up failed: {words}"
                    )));
                }
            };
            let servers = addresses.into_iter().map(|ip| upstream.server(ip));
            (servers.collect(), format!("{host} has no address"))
        }
        (None, Some(server)) => (vec![server], String::new()),
        (None, None) => (Vec::new(), "nobody named the server".into()),
    };
    let link = ServerLink::to_first_of(
        servers,
        &setup.common,
        client,
        &[],
        cannot_reach(&without),
        |ServerAddr(to), error| match NotTried::of(error) {
            Some(NotTried::Ourselves) => Refusal {
                enhanced: (4, 6),
                ..cannot_reach(&format!("{to}: {error}"))
            },
            _ => cannot_reach(&format!("{to}: {}", plain(error))),
        },
    )
    .await?;
    let requirement = match setup.implicit_tls() {
        true => Some(require(&setup, link.server, Question::Peer).await),
        false => None,
    };
    Ok(Box::new(Connected { link, requirement }))
}

/// Looks up the facts that the policy for `question` depends on, and returns what it demands.
pub(super) async fn require(
    setup: &OutboundSetup,
    server: ServerAddr,
    question: Question,
) -> Requirement {
    let ask = ask(setup, server, &question);
    let settings = &setup.settings;
    let mut lifetime = Lifetime::begin();
    let began = clock::instant();
    let entry = setup.table.find(&ask, clock::wall());
    let needs = policy::needs(&ask, entry, settings);
    let (findings, demand) = match timeout(DECISION, findings(setup, &ask, needs)).await {
        Ok(findings) => {
            lifetime = lifetime.of(&findings).until(entry.and_then(Entry::end));
            let demand = policy::require(&ask, entry, &findings, settings);
            (Some(Arc::new(findings)), demand)
        }
        Err(_) => {
            let late = String::from("no decision within 30 s");
            (None, Err((Reason::LookupFailed, late)))
        }
    };
    let took = clock::instant().duration_since(began);
    let metrics = &setup.common.metrics;
    metrics.took(metrics::DECISION_TOOK, &[], took);
    Requirement {
        question,
        ask,
        findings,
        demand,
        lifetime,
    }
}

async fn findings(setup: &OutboundSetup, ask: &Ask, needs: policy::Needs) -> Findings {
    if needs == policy::Needs::default() {
        return Findings::none();
    }
    let lookup = &setup.lookup;
    match &ask.next_hop {
        NextHop::Upstream(host) => lookup.upstream(host, needs.tlsa.then_some(ask.port)).await,
        NextHop::Recipient(Recipient::Domain(domain)) => {
            let findings = lookup.gather(domain, needs).await;
            if let Some(reason) = findings.sts.fault() {
                let metrics = &setup.common.metrics;
                metrics.count(metrics::STS_FAULTS, reason.word());
            }
            findings
        }
        NextHop::Recipient(_) | NextHop::Address => Findings::none(),
    }
}

/// Does the handshake for which `awaiting` waits.
pub(super) async fn handshake(
    setup: Arc<OutboundSetup>,
    stream: Stream,
    awaiting: Box<AwaitingTls>,
) -> Box<EndedHandshake> {
    let classical = setup
        .memory
        .begins_classical(awaiting.ask.server, clock::instant());
    let hello = HelloOptions {
        sni: awaiting.demand.sni.as_deref(),
        tls13_only: awaiting.demand.tls13_only,
        classical_only: classical,
    };
    let failed = |blame, words: &str| HandshakeFailure {
        blame,
        words: words.into(),
    };
    let began = clock::instant();
    let outcome = match stream {
        Stream::Tcp(tcp) => match timeout(HANDSHAKE, setup.tls.connect(tcp, hello)).await {
            Ok(Ok(secured)) => Ok(secured),
            Ok(Err(fault)) => Err(fault.into()),
            Err(_) => Err(failed(
                Blame::Unclear,
                "the handshake was not finished within 30 s",
            )),
        },
        Stream::Memory(_) => Err(failed(Blame::Host, "TLS within this process")),
    };
    let took = clock::instant().duration_since(began);
    setup
        .common
        .handshake_took("outbound", outcome.is_ok(), took);
    Box::new(EndedHandshake {
        awaiting,
        classical,
        outcome,
    })
}

/// The machine's question as the policy reads it.
pub(super) fn ask(setup: &OutboundSetup, ServerAddr(to): ServerAddr, question: &Question) -> Ask {
    let next_hop = match (&setup.upstream, question) {
        (Some(upstream), _) => NextHop::Upstream(upstream.host.clone()),
        (None, Question::Recipient(recipient)) => NextHop::Recipient(recipient.clone()),
        (None, _) => NextHop::Address,
    };
    Ask {
        next_hop,
        server: to.ip(),
        port: to.port(),
    }
}

fn cannot_reach(words: &str) -> Refusal {
    unreachable(format!("cannot reach the server: {words}"))
}

/// The system's words for an error, without its number.
fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut => String::from("connection timed out"),
        _ => {
            let words = error.to_string();
            let words = words.split(" (os error").next().unwrap_or_default();
            words.to_lowercase()
        }
    }
}

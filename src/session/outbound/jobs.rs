//! What takes time outbound. Each job owns what it needs, and comes back with what it learned.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use super::super::{
    drive::ActionResult,
    leg::Stream,
    setup::{OutboundSetup, Upstream},
};
use crate::{
    audit::ConnectionField,
    clock, metrics,
    net::{ClientAddr, Dialled, NotTried, ServerAddr, canonical},
    policy::{self, Ask, Decision, Demand, Dns, Findings, NextHop, Reason},
    smtp::{Answer, Cause, Question, Recipient, Refusal, Side},
    tls::{FaultKind, HelloOptions, Peer},
};

/// A whole TLS handshake takes at most this long.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// A whole policy decision takes at most this long; `lookup` keeps to less.
const DECISION: Duration = Duration::from_secs(30);

/// What a job came back with.
pub enum Outcome {
    /// A connection to the server.
    Connected(Result<Box<Reached>, Refusal>),
    /// A handshake.
    Upgraded(Side, Box<Handshake>),
    /// What can be known about who may have this mail.
    Gathered(Box<Gathered>),
    /// The answer was there at once.
    Answered(Answer),
    /// The machine can be told as it is.
    Done(ActionResult),
}

/// Who the jobs work for.
#[derive(Clone)]
pub struct Errand {
    /// What all sessions share.
    pub site: Arc<OutboundSetup>,
    /// Whose session it is.
    pub client: ClientAddr,
}

/// A connection that stands.
pub struct Reached {
    /// It.
    pub stream: Stream,
    /// Where it goes.
    pub server: ServerAddr,
    /// Both ends.
    pub connection: ConnectionField,
    /// Listed as ours while it lives.
    pub dialled: Dialled,
    /// With implicit TLS the handshake comes next: what it must show.
    pub gathered: Option<Gathered>,
}

/// What was asked and found, and what policy demands.
pub struct Gathered {
    /// The machine's question.
    pub question: Question,
    /// The policy's.
    pub ask: Ask,
    /// `None`: they did not come in time.
    pub findings: Option<Arc<Findings>>,
    /// What the peer must prove, or why nothing it could prove would do.
    pub required: Result<Demand, (Reason, String)>,
}

/// What TLS is to come up for: with what was asked and found.
#[derive(Clone)]
pub struct Pending {
    /// The machine's question.
    pub question: Question,
    /// The policy's.
    pub ask: Ask,
    /// What was found.
    pub findings: Arc<Findings>,
    /// What the peer must prove.
    pub demand: Demand,
    /// Observe mode: it is refused whatever the peer shows. That is written down with what the handshake shows, or for want of one.
    pub denied: Option<Box<Decision>>,
    /// Where TLS cannot be had, mail goes on in the clear.
    pub or_plaintext: bool,
}

/// A handshake that is over.
pub struct Handshake {
    /// What it was for.
    pub pending: Pending,
    /// It went without the post-quantum key share.
    pub classical: bool,
    /// TLS and who answered; or whether it died without a word, and what went wrong.
    pub outcome: Result<(Stream, Peer), (bool, String)>,
}

impl Errand {
    /// Connects to `known`, or to the `--upstream` host.
    pub async fn connect(self, known: Option<ServerAddr>) -> Outcome {
        Outcome::Connected(match (&self.site.upstream, known) {
            (Some(upstream), _) => self.connect_upstream(upstream).await.map(Box::new),
            (None, Some(server)) => self.dial(server).await.map(Box::new),
            (None, None) => Err(unreachable_server("nobody named the server")),
        })
    }

    async fn dial(&self, server: ServerAddr) -> Result<Reached, Refusal> {
        let common = &self.site.common;
        let source = common.keep_client_address.then(|| self.client.0.ip());
        let connected = common.dial.connect(server, source).await;
        let reached = connected.and_then(|(stream, dialled)| {
            Ok(Reached {
                connection: ConnectionField {
                    from: canonical(stream.local_addr()?),
                    to: canonical(stream.peer_addr()?),
                },
                stream: Stream::Plain(stream),
                server,
                dialled,
                gathered: None,
            })
        });
        reached.map_err(|error| match NotTried::of(&error) {
            Some(NotTried::Ourselves) => Refusal {
                enhanced: (4, 6),
                ..unreachable_server(&format!("{}: {error}", server.0))
            },
            _ => unreachable_server(&format!("{}: {}", server.0, plain(&error))),
        })
    }

    async fn connect_upstream(&self, upstream: &Upstream) -> Result<Reached, Refusal> {
        let addresses = match upstream.ip() {
            Some(ip) => vec![ip],
            None => match self.site.lookup.host(&upstream.host, None).await.addresses {
                Dns::Found(addresses, _) => addresses,
                Dns::Absent(_) | Dns::NotAsked => Vec::new(),
                Dns::Bogus(words) | Dns::Failed(words) => {
                    return Err(unreachable_server(&format!(
                        "{}: address look-up failed: {words}",
                        upstream.host
                    )));
                }
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
        let mut reached = outcome?;
        if upstream.implicit_tls {
            let ask = ask(&self.site, reached.server, &Question::Peer);
            reached.gathered = Some(self.gather(Question::Peer, ask).await);
        }
        Ok(reached)
    }

    /// Finds out what the answer to a question hangs on.
    pub async fn gather(&self, question: Question, ask: Ask) -> Gathered {
        let settings = &self.site.settings;
        let entry = self.site.table.find(&ask, clock::wall());
        let needs = policy::needs(&ask, entry, settings);
        let found = timeout(DECISION, self.findings(&ask, needs)).await;
        let (findings, required) = match found {
            Ok(findings) => {
                let required = policy::require(&ask, entry, &findings, settings);
                (Some(Arc::new(findings)), required)
            }
            Err(_) => {
                let late = String::from("no decision within 30 s");
                (None, Err((Reason::LookupFailed, late)))
            }
        };
        Gathered {
            question,
            ask,
            findings,
            required,
        }
    }

    async fn findings(&self, ask: &Ask, needs: policy::Needs) -> Findings {
        if needs == policy::Needs::default() {
            return Findings::none();
        }
        let lookup = &self.site.lookup;
        match &ask.next_hop {
            NextHop::Upstream(host) => {
                Findings::of_upstream(lookup.host(host, needs.tlsa.then_some(ask.port)).await)
            }
            NextHop::Recipient(Recipient::Domain(domain)) => {
                let findings = lookup.gather(domain, needs).await;
                if let Some(reason) = findings.sts.fault() {
                    let metrics = &self.site.common.metrics;
                    metrics.count(metrics::STS_FAULTS, reason.word());
                }
                findings
            }
            NextHop::Recipient(_) | NextHop::Address => Findings::none(),
        }
    }

    /// The handshake for what is pending.
    pub async fn upgrade(self, side: Side, stream: Stream, pending: Pending) -> Outcome {
        let memory = &self.site.memory;
        let classical = memory.begins_classical(pending.ask.server, clock::instant());
        let hello = HelloOptions {
            sni: pending.demand.sni.as_deref(),
            tls13_only: pending.demand.tls13_only,
            classical_only: classical,
        };
        let outcome = match stream {
            Stream::Plain(tcp) => {
                match timeout(HANDSHAKE, self.site.tls.connect(tcp, hello)).await {
                    Ok(Ok((tls, peer))) => Ok((Stream::ToServer(Box::new(tls)), peer)),
                    Ok(Err(fault)) => Err((fault.kind() == FaultKind::Died, fault.to_string())),
                    Err(_) => {
                        let late = "the handshake was not finished within 30 s";
                        Err((true, String::from(late)))
                    }
                }
            }
            Stream::ToServer(_) | Stream::ToClient(_) | Stream::Memory(_) => {
                Err((false, String::from("TLS within TLS")))
            }
        };
        let handshake = Handshake {
            pending,
            classical,
            outcome,
        };
        Outcome::Upgraded(side, Box::new(handshake))
    }
}

/// The policy's question for the machine's.
pub fn ask(site: &OutboundSetup, ServerAddr(to): ServerAddr, question: &Question) -> Ask {
    let next_hop = match (&site.upstream, question) {
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

fn unreachable_server(words: &str) -> Refusal {
    Refusal {
        code: 421,
        enhanced: (4, 1),
        text: format!("cannot reach the server: {words}"),
        cause: Cause::ServerUnreachable,
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

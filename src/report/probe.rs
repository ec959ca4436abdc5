//! Asks one address of a mail exchanger what a session would ask it, and sends no mail: greeting, EHLO, STARTTLS, TLS, QUIT.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    clock,
    net::{Dial, ServerAddr},
    policy::{
        self, Ask, Decision, Demand, Findings, Level, Moment, NextHop, Settings, Shown, Verdict,
    },
    smtp::{Domain, Recipient},
    tls::{ClientTls, Hello, Peer},
};

/// Everything with one address takes at most this long.
const LIMIT: Duration = Duration::from_secs(40);
/// Longest reply that is read, in octets.
const LONGEST_REPLY: usize = 64 * 1024;

/// What is needed to ask.
pub struct Asker {
    /// `--hostname`.
    pub hostname: String,
    /// How connections are made.
    pub dial: Dial,
    /// Trust.
    pub tls: ClientTls,
    /// Levels.
    pub settings: Settings,
    /// `--policy`.
    pub table: policy::table::Table,
}

/// What one address showed.
pub struct Probed {
    /// Where.
    pub address: SocketAddr,
    /// Who answered the handshake.
    pub peer: Option<Peer>,
    /// What mail would get.
    pub decision: Decision,
    /// What kept it from being asked at all, if anything: connection refused, no greeting, ...
    pub unreachable: Option<String>,
}

impl Asker {
    /// Asks `address` what mail for `domain` would get there.
    pub async fn ask(
        &self,
        domain: &Domain,
        address: SocketAddr,
        findings: &Arc<Findings>,
    ) -> Probed {
        let ask = Ask {
            next_hop: NextHop::Recipient(Recipient::Domain(domain.clone())),
            server: address.ip(),
            port: address.port(),
        };
        let now = clock::wall();
        let entry = self.table.find(&ask, now);
        let conclude = |demand: Option<Demand>, verdict, peer, unreachable| Probed {
            address,
            peer,
            decision: Decision::new(
                ask.clone(),
                Some(Arc::clone(findings)),
                demand,
                verdict,
                Moment::FirstRecipient,
                &self.settings,
                now,
            ),
            unreachable,
        };
        let demand = match policy::require(&ask, entry, findings, &self.settings) {
            Ok(demand) => demand,
            Err((reason, words)) => {
                return conclude(None, Verdict::Refused(reason, words), None, None);
            }
        };
        match timeout(LIMIT, self.shown(address, &demand)).await {
            Ok(Ok((shown, peer))) => {
                let verdict = policy::judge(&demand, &shown);
                conclude(Some(demand), verdict, peer, None)
            }
            Ok(Err(words)) => self.not_asked(conclude, demand, words),
            Err(_) => self.not_asked(
                conclude,
                demand,
                format!("no answer within {} s", LIMIT.as_secs()),
            ),
        }
    }

    fn not_asked(
        &self,
        conclude: impl FnOnce(Option<Demand>, Verdict, Option<Peer>, Option<String>) -> Probed,
        demand: Demand,
        words: String,
    ) -> Probed {
        let verdict = Verdict::Refused(policy::Reason::LookupFailed, words.clone());
        conclude(Some(demand), verdict, None, Some(words))
    }

    /// What mail for a domain would get of whose hosts none can be asked.
    pub fn decide_unasked(&self, domain: &Domain, findings: &Arc<Findings>) -> Probed {
        let ask = Ask {
            next_hop: NextHop::Recipient(Recipient::Domain(domain.clone())),
            server: [0, 0, 0, 0].into(),
            port: 25,
        };
        let now = clock::wall();
        let entry = self.table.find(&ask, now);
        let (demand, verdict) = match policy::require(&ask, entry, findings, &self.settings) {
            Ok(demand) => {
                let words = String::from("no address of a mail exchanger is known");
                (
                    Some(demand),
                    Verdict::Refused(policy::Reason::LookupFailed, words),
                )
            }
            Err((reason, words)) => (None, Verdict::Refused(reason, words)),
        };
        let findings = Some(Arc::clone(findings));
        let decision = Decision::new(
            ask,
            findings,
            demand,
            verdict,
            Moment::FirstRecipient,
            &self.settings,
            now,
        );
        Probed {
            address: ([0, 0, 0, 0], 25).into(),
            peer: None,
            decision,
            unreachable: None,
        }
    }

    async fn shown(
        &self,
        address: SocketAddr,
        demand: &Demand,
    ) -> Result<(Shown, Option<Peer>), String> {
        let dialled = self.dial.connect(ServerAddr(address), None).await;
        let (mut stream, _listed) = dialled.map_err(|error| error.to_string().to_lowercase())?;
        let greeting = reply(&mut stream).await?;
        if !greeting.starts_with("220") {
            return Err(format!("it greets with {}", first_line(&greeting)));
        }
        let hello = say(&mut stream, &format!("EHLO {}", self.hostname)).await?;
        if !hello.starts_with("250") {
            return Err(format!("it answers EHLO with {}", first_line(&hello)));
        }
        let offered = hello.lines().skip(1).any(|line| {
            line.get(4..)
                .is_some_and(|k| k.eq_ignore_ascii_case("STARTTLS"))
        });
        if demand.level == Level::None || !offered {
            quit(&mut stream).await;
            return Ok((Shown::NoStartTls, None));
        }
        if !say(&mut stream, "STARTTLS").await?.starts_with("220") {
            return Ok((Shown::NoStartTls, None));
        }
        self.secured(stream, demand).await
    }

    async fn secured(
        &self,
        stream: TcpStream,
        demand: &Demand,
    ) -> Result<(Shown, Option<Peer>), String> {
        let hello = Hello {
            sni: demand.sni.as_deref(),
            tls13_only: demand.tls13_only,
            classical_only: false,
        };
        match self.tls.connect(stream, hello).await {
            Ok((mut stream, peer)) => {
                let now = clock::wall();
                let shown = demand.shown(&peer.facts.version, |one| {
                    self.tls.trust.check(&peer, one, now)
                });
                quit(&mut stream).await;
                Ok((shown, Some(peer)))
            }
            Err(fault) => Ok((Shown::HandshakeFailed(fault.to_string()), None)),
        }
    }
}

async fn say<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    command: &str,
) -> Result<String, String> {
    let line = format!("{command}\r\n");
    stream
        .write_all(line.as_bytes())
        .await
        .map_err(|error| error.to_string().to_lowercase())?;
    reply(stream).await
}

/// Politeness; what it says to that changes nothing.
async fn quit<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    let _ = timeout(Duration::from_secs(2), say(stream, "QUIT")).await;
}

/// One whole reply, escaped, its lines apart by LF; nothing may stand behind it.
async fn reply<S: AsyncRead + Unpin>(stream: &mut S) -> Result<String, String> {
    let mut bytes = Vec::new();
    loop {
        let got = stream
            .read_buf(&mut bytes)
            .await
            .map_err(|error| error.to_string().to_lowercase())?;
        if got == 0 {
            return Err(String::from("it closed the connection"));
        }
        if bytes.len() > LONGEST_REPLY {
            return Err(String::from("its reply has no end"));
        }
        let mut lines = bytes.split_inclusive(|b| *b == b'\n');
        let last = lines.position(|line| line.ends_with(b"\n") && line.get(3) != Some(&b'-'));
        if let Some(last) = last {
            if lines.next().is_some() {
                return Err(String::from("it sends more than one reply to one command"));
            }
            let lines = bytes.split(|b| *b == b'\n').take(last + 1);
            let text: Vec<String> = lines
                .map(|line| line.trim_ascii_end().escape_ascii().to_string())
                .collect();
            return Ok(text.join("\n"));
        }
    }
}

fn first_line(reply: &str) -> &str {
    reply.lines().next().unwrap_or_default()
}

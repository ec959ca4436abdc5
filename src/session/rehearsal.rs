//! A session whose mail never leaves: it shows what mail would get, because it is the session that mail would have.
//!
//! Machine, hands and driver are those of [`outbound`](super::outbound). Only the client is ours, in memory, and says what
//! a mail server would say. The machine is stopped at the first command for the server that speaks of mail: what gets
//! that far would have been sent.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, duplex},
    sync::watch,
};

use super::{
    drive::{Stop, drive},
    leg::{Leg, Stream},
    outbound::begin,
    setup::OutboundSetup,
};
use crate::{
    net::{ClientAddr, IntendedAddr, ServerAddr},
    policy::Decision,
    smtp::{Action, Domain, Input, Machine, Note, Outbound, Question, Refusal, Side, Stage},
    tls::Peer,
};

/// The commands that no recipient's policy has to be asked for: nothing else is sent to the server.
const HARMLESS: [&[u8]; 4] = [b"EHLO ", b"HELO ", b"STARTTLS\r\n", b"QUIT\r\n"];
/// What our client and the machine have on the way to each other, in octets.
const PIPE: usize = 4096;

/// What a rehearsal showed.
#[derive(Debug)]
pub struct RehearsedSession {
    /// What came of it.
    pub outcome: RehearsalResult,
    /// What the policy decided last; `None`: it was not asked.
    pub decision: Option<Decision>,
    /// Who answered the handshake.
    pub peer: Option<Arc<Peer>>,
    /// What the server said in the clear that kept the session from going on. Anybody on the path can say it.
    pub heard: Vec<(Stage, Vec<u8>, bool)>,
    /// The server was not waited for as long as mail would wait for it.
    pub cut_short: bool,
}

/// What came of a rehearsal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RehearsalResult {
    /// MAIL and RCPT would have gone to the server.
    Passes,
    /// They would not.
    Refused {
        /// What the client was answered, word for word, its lines apart by LF and without the last CRLF.
        reply: String,
        /// The same as the machine says it.
        refusal: Option<Refusal>,
    },
}

/// Rehearses mail for the postmaster of `domain` over the server at `server`, for at most about `patience`: a server that is
/// silent for longer has the effect that it has after the minutes for which mail waits.
pub async fn rehearse(
    site: &Arc<OutboundSetup>,
    domain: &Domain,
    server: SocketAddr,
    patience: Duration,
) -> RehearsedSession {
    let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
    let (machine, hands) = begin(
        site,
        ClientAddr(nobody),
        IntendedAddr(server),
        Some(ServerAddr(server)),
    );
    let mut rehearsal = Rehearsal {
        machine,
        patience,
        last: None,
        asked: false,
        refusal: None,
        heard: Vec::new(),
        cut_short: false,
    };
    let (ours, theirs) = duplex(PIPE);
    let client = Leg::new(Stream::Memory(theirs), Vec::new());
    // Nobody asks this session to end.
    let (_stop, stopped) = watch::channel(Stop::Not);
    let (hands, reply) = tokio::join!(
        drive(&mut rehearsal, hands, client, stopped),
        talk(ours, &site.common.hostname, domain),
    );
    let (decision, peer) = hands.learned();
    RehearsedSession {
        outcome: match rehearsal.last {
            Some(_) if rehearsal.asked => RehearsalResult::Passes,
            _ => RehearsalResult::Refused {
                reply,
                refusal: rehearsal.refusal,
            },
        },
        decision,
        peer,
        heard: rehearsal.heard,
        cut_short: rehearsal.cut_short,
    }
}

/// Speaks as a mail server does until it is refused; gives the last reply that it got.
async fn talk(stream: DuplexStream, hostname: &str, domain: &Domain) -> String {
    let mut stream = BufReader::new(stream);
    let commands = [
        format!("EHLO {hostname}\r\n"),
        String::from("MAIL FROM:<>\r\n"),
        format!("RCPT TO:<postmaster@{domain}>\r\n"),
    ];
    let mut last = reply(&mut stream).await;
    for command in commands {
        if !last.starts_with('2') || stream.write_all(command.as_bytes()).await.is_err() {
            break;
        }
        last = reply(&mut stream).await;
    }
    last
}

/// A whole reply of ours, or as much of it as there is.
async fn reply(stream: &mut BufReader<DuplexStream>) -> String {
    let mut reply = String::new();
    let mut line = String::new();
    while stream.read_line(&mut line).await.is_ok_and(|got| got > 0) {
        let is_last = line.as_bytes().get(3) != Some(&b'-');
        reply.push_str(line.trim_end());
        if is_last {
            break;
        }
        reply.push('\n');
        line.clear();
    }
    reply
}

/// The machine, up to where it would hand mail over.
struct Rehearsal {
    machine: Outbound,
    patience: Duration,
    /// What is left to do once it was stopped.
    last: Option<VecDeque<Action>>,
    /// The policy was asked about the recipient.
    asked: bool,
    /// The last refusal.
    refusal: Option<Refusal>,
    heard: Vec<(Stage, Vec<u8>, bool)>,
    cut_short: bool,
}

impl Rehearsal {
    fn note(&mut self, note: &Note) {
        match note {
            Note::Refused(refusal) => self.refusal = Some(refusal.clone()),
            Note::Heard {
                stage,
                reply,
                proved,
            } => self.heard.push((*stage, reply.clone(), *proved)),
            _ => {}
        }
    }

    /// Mail would go on: in its place comes the end. `unsent` octets of the client were to be passed.
    fn stop(&mut self, unsent: Option<usize>) {
        let drop = unsent.map(|len| Action::Drop {
            from: Side::Client,
            len,
        });
        let close = |side| Action::Close { side, abort: false };
        let end = [
            // Whoever goes on in the clear says so when a message begins.
            Action::Note(Note::MessageBegins),
            Action::Send(Side::Server, b"QUIT\r\n".to_vec()),
            close(Side::Server),
            close(Side::Client),
        ];
        self.last = Some(drop.into_iter().chain(end).collect());
    }
}

impl Machine for &mut Rehearsal {
    fn receive(&mut self, side: Side, bytes: &[u8], now: Duration) {
        self.machine.receive(side, bytes, now);
    }

    fn handle(&mut self, input: Input, now: Duration) {
        let now = match (&input, self.machine.deadline()) {
            // The machine learns that its time is up, also where only ours is.
            (Input::Deadline, Some(due)) => {
                self.cut_short |= now < due;
                now.max(due)
            }
            _ => now,
        };
        self.machine.handle(input, now);
    }

    fn next_action(&mut self) -> Option<Action> {
        if self.last.is_none() {
            let action = self.machine.next_action()?;
            match &action {
                Action::Send(Side::Server, bytes)
                    if !HARMLESS.iter().any(|command| bytes.starts_with(command)) =>
                {
                    self.stop(None);
                }
                Action::Pass {
                    from: Side::Client,
                    len,
                    ..
                } => self.stop(Some(*len)),
                Action::Note(note) => {
                    self.note(note);
                    return Some(action);
                }
                Action::Authorise(question) => {
                    self.asked |= matches!(question, Question::Recipient(_));
                    return Some(action);
                }
                _ => return Some(action),
            }
        }
        self.last.as_mut()?.pop_front()
    }

    fn deadline(&self) -> Option<Duration> {
        self.machine.deadline().map(|due| due.min(self.patience))
    }

    fn set_trace(&mut self, line: Vec<u8>) {
        self.machine.set_trace(line);
    }

    fn finished(&self) -> bool {
        match &self.last {
            Some(left) => left.is_empty(),
            None => self.machine.finished(),
        }
    }
}

//! A session whose mail never leaves. It shows what mail would get, because it is the session that mail would have.
//!
//! Machine, hands and driver are those of [`outbound`](super::outbound). Only the client is the proxy's own: an asking client in
//! memory that says what a mail server would say. The machine is stopped at the first command for the server that speaks of
//! mail: mail that gets that far would have been sent.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite, duplex},
    sync::watch,
};

use super::{
    asking::{AskError, ask},
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

/// The only commands that are sent to the server. None of them needs a decision about a recipient.
const HARMLESS: [&[u8]; 4] = [b"EHLO ", b"HELO ", b"STARTTLS\r\n", b"QUIT\r\n"];
/// Capacity of the pipe between the asking client and the session, in octets.
const PIPE: usize = 4096;
/// How long the asking client still waits for a session whose patience is over. The session answers at once then.
const GRACE: Duration = Duration::from_secs(10);

/// What a rehearsal showed.
#[derive(Debug)]
pub(crate) struct RehearsedSession {
    pub(crate) result: RehearsalResult,
    /// The policy's last decision. `None`: the session ended before the policy was asked.
    pub(crate) decision: Option<Decision>,
    /// The server, if the handshake showed a certificate.
    pub(crate) peer: Option<Arc<Peer>>,
    /// The server's refusals before mail could pass.
    pub(crate) heard: Vec<HeardReply>,
    /// The mechanism by which the server accepted the proxy's own login.
    pub(crate) login: Option<&'static str>,
    /// The server was not given as much time as mail would give it.
    pub(crate) cut_short: bool,
}

/// Whether mail would have been sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RehearsalResult {
    /// MAIL and RCPT would have gone to the server.
    Passes,
    /// MAIL and RCPT would not have gone to the server.
    Refused {
        /// The reply to the client as sent, its lines separated by LF, without the last CRLF. Empty: the session ended without one.
        reply: String,
        /// The machine's refusal behind that reply.
        refusal: Option<Refusal>,
    },
}

/// A refusal of the server: see [`Note::Heard`].
#[derive(Debug)]
pub(crate) struct HeardReply {
    pub(crate) stage: Stage,
    pub(crate) reply: Vec<u8>,
    pub(crate) proved: bool,
}

/// Rehearses mail for the postmaster of `domain` over the server at this address, or where there is none, mail for the postmaster
/// over the smart host of `site`; for at most about `patience`. A server that is silent for longer has the effect that it has on mail
/// after some minutes.
pub(crate) async fn rehearse(
    site: &Arc<OutboundSetup>,
    mail: Option<(&Domain, SocketAddr)>,
    patience: Duration,
) -> RehearsedSession {
    let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
    let server = mail.map(|(_, server)| server);
    let recipient = match mail {
        Some((domain, _)) => format!("postmaster@{domain}"),
        None => String::from("postmaster"),
    };
    let (machine, mut hands) = begin(
        site,
        ClientAddr(nobody),
        IntendedAddr(server.unwrap_or(nobody)),
        server.map(ServerAddr),
    );
    hands.rehearse();
    let mut rehearsal = Rehearsal {
        machine,
        patience,
        end: None,
        recipient_judged: false,
        refusal: None,
        heard: Vec::new(),
        login: None,
        cut_short: false,
    };
    let (ours, theirs) = duplex(PIPE);
    let client = Leg::new(Stream::Memory(theirs), Vec::new());
    // Nobody asks this session to stop.
    let (_stop, stopped) = watch::channel(Stop::Not);
    let (hands, reply) = tokio::join!(
        drive(&mut rehearsal, hands, client, stopped),
        last_reply(ours, &site.common.hostname, &recipient, patience + GRACE),
    );
    let (decision, peer) = hands.learned();
    RehearsedSession {
        result: match rehearsal.end {
            Some(_) if rehearsal.recipient_judged => RehearsalResult::Passes,
            _ => RehearsalResult::Refused {
                reply: reply.unwrap_or_default(),
                refusal: rehearsal.refusal,
            },
        },
        decision,
        peer,
        heard: rehearsal.heard,
        login: rehearsal.login,
        cut_short: rehearsal.cut_short,
    }
}

/// Says to `session` what a mail server would say, up to RCPT, and gives the last reply.
async fn last_reply<S: AsyncRead + AsyncWrite + Unpin>(
    mut session: S,
    hostname: &str,
    recipient: &str,
    limit: Duration,
) -> Result<String, AskError> {
    let commands = [
        format!("EHLO {hostname}"),
        String::from("MAIL FROM:<>"),
        format!("RCPT TO:<{recipient}>"),
    ];
    let last = ask(&mut session, commands, limit).await?;
    let lines: Vec<_> = last.lines().map(String::from_utf8_lossy).collect();
    Ok(lines.join("\n"))
}

/// A machine that goes as far as the point where it would hand mail over.
struct Rehearsal {
    machine: Outbound,
    patience: Duration,
    /// Once the machine is stopped: the actions that end the session in place of its own.
    end: Option<VecDeque<Action>>,
    /// The policy was asked about the recipient.
    recipient_judged: bool,
    /// The machine's last refusal.
    refusal: Option<Refusal>,
    heard: Vec<HeardReply>,
    login: Option<&'static str>,
    cut_short: bool,
}

impl Rehearsal {
    fn note(&mut self, note: &Note) {
        match note {
            Note::LoggedIn { mechanism, .. } => self.login = Some(mechanism),
            Note::Refused(refusal) => self.refusal = Some(refusal.clone()),
            Note::Heard {
                stage,
                reply,
                proved,
            } => self.heard.push(HeardReply {
                stage: *stage,
                reply: reply.clone(),
                proved: *proved,
            }),
            _ => {}
        }
    }

    /// Mail would go on: the session ends in its place. `unsent` octets of the client were to be passed.
    fn stop(&mut self, unsent: Option<usize>) {
        let drop = unsent.map(|len| Action::Drop {
            from: Side::Client,
            len,
        });
        let close = |side| Action::Close { side, abort: false };
        let end = [
            // A session that goes on in the clear says so when a message begins.
            Action::Note(Note::MessageBegins),
            Action::Send(Side::Server, b"QUIT\r\n".to_vec()),
            close(Side::Server),
            close(Side::Client),
        ];
        self.end = Some(drop.into_iter().chain(end).collect());
    }
}

impl Machine for &mut Rehearsal {
    fn receive(&mut self, side: Side, bytes: &[u8], now: Duration) {
        self.machine.receive(side, bytes, now);
    }

    fn handle(&mut self, input: Input, now: Duration) {
        let now = match (&input, self.machine.deadline()) {
            // When the patience is over, the machine is told that its own time is up.
            (Input::Deadline, Some(due)) => {
                self.cut_short |= now < due;
                now.max(due)
            }
            _ => now,
        };
        self.machine.handle(input, now);
    }

    fn next_action(&mut self) -> Option<Action> {
        if self.end.is_none() {
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
                    self.recipient_judged |= matches!(question, Question::Recipient(_));
                    return Some(action);
                }
                _ => return Some(action),
            }
        }
        self.end.as_mut()?.pop_front()
    }

    fn deadline(&self) -> Option<Duration> {
        self.machine.deadline().map(|due| due.min(self.patience))
    }

    fn set_trace(&mut self, line: Vec<u8>) {
        self.machine.set_trace(line);
    }

    fn finished(&self) -> bool {
        match &self.end {
            Some(left) => left.is_empty(),
            None => self.machine.finished(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::asking::hostile_greetings;
    use tokio::io::AsyncWriteExt as _;

    async fn reply_of_session_that_says(greeting: &[u8]) -> Result<String, AskError> {
        let (ours, mut session) = duplex(1 << 16);
        session.write_all(greeting).await.expect("written");
        drop(session);
        last_reply(ours, "proxy.example", "postmaster@clinic.example", GRACE).await
    }

    #[tokio::test]
    async fn the_last_reply_is_given_line_by_line() {
        let reply = reply_of_session_that_says(b"554-5.7.1 no \r\n554 5.7.1 never\r\n").await;
        assert_eq!(reply.expect("a reply"), "554-5.7.1 no\n554 5.7.1 never");
    }

    #[tokio::test]
    async fn a_hostile_reply_is_no_answer() {
        for (greeting, fault) in hostile_greetings() {
            let reply = reply_of_session_that_says(&greeting).await;
            assert!(
                matches!(reply, Err(AskError::Reply(found)) if found == fault),
                "{}: {reply:?}",
                greeting.escape_ascii()
            );
        }
    }
}

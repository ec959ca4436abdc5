//! What both machines share: the client's commands, the replies owed to it in order, one transaction, and its message.
//!
//! A machine owns one `Relay` and does the rest: it opens the link to the server, and answers what the relay leaves
//! [`Pending`]. `client.rs` takes commands, `server.rs` takes replies, `transfer.rs` moves messages, `end.rs` knows how and when it ends.

mod client;
mod end;
mod pace;
mod server;
mod slots;
mod transaction;
mod transfer;
mod used;

use super::{
    Action, Authorised, End, Exempted, Note, Question, Refusal, Side, Stage, StartTlsConditions,
    command,
    extensions::{Extensions, Keyword, Offer},
    framing::{DataScanner, Rest},
    heard::{HeardOffer, Rule},
    path::{ForwardPath, Sender},
    reply::{Reply, ReplyReader},
    timer::Timer,
};
use pace::Pace;
use slots::{Awaited, Slots};
use std::{collections::VecDeque, time::Duration};
use transaction::{Budget, Transaction};

/// What became of the bytes that were offered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// That many were taken, or none but the phase changed; there may be more to do.
    Took(usize),
    /// Nothing can be decided without more bytes.
    Starved,
    /// They have to wait for something else.
    Blocked,
}

/// A command that the machine has to do something about before the next is taken.
#[derive(Debug)]
pub(super) enum Pending {
    Hello {
        esmtp: bool,
    },
    Mail {
        line: Vec<u8>,
        sender: Sender,
    },
    Rcpt {
        line: Vec<u8>,
        target: ForwardPath,
        /// DSN is used.
        dsn: bool,
    },
    StartTls,
}

/// Leave to hand one command over.
#[derive(Debug)]
pub(super) enum Permit {
    Authorised(Authorised),
    Exempted(Exempted),
}

impl Permit {
    /// Whether it is for a peer that proved who it is, so that its words may decide.
    pub(super) fn is_authenticated(&self) -> bool {
        matches!(self, Self::Authorised(authorised) if authorised.is_authenticated())
    }
}

/// Which commands are taken at all.
#[derive(Debug)]
pub(super) enum Manner {
    /// All that SMTP has.
    Mail,
    /// Until TLS is up, nothing of a transaction (RFC 3207 §4: 530).
    TlsFirst,
    /// TLS is up and not good enough: QUIT (RFC 3207 §4.1).
    QuitOnly(Refusal),
}

/// What STARTTLS is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StartTls {
    /// The client is inside: there is none.
    Unknown,
    Offered,
    /// There is no certificate (RFC 3207 §4: 454).
    Unavailable,
    /// It is up already (RFC 3207 §4.2).
    Up,
}

/// What differs between the directions.
#[derive(Clone, Copy, Debug)]
pub(super) enum Role {
    /// MAIL waits for the first recipient that may be handed over; each RCPT is judged.
    Outbound,
    /// Each MAIL is judged.
    Inbound,
}

/// The server, as far as commands go.
#[derive(Debug)]
enum Link {
    /// Nothing of a transaction may be sent.
    Shut,
    Open {
        pipelining: bool,
        /// Outbound, what the server offers inside TLS. `None`: commands pass as they are.
        judged: Option<Extensions>,
        /// Something was permitted here: the peer's replies count.
        permitted: bool,
    },
}

#[derive(Debug)]
enum Phase {
    Commands,
    /// A line that is too long is skipped; so many octets were.
    Overlong(usize),
    Pending(Pending),
    AwaitAuthReply,
    /// The server said 334.
    AuthResponse,
    /// DATA is with the server.
    AwaitGo,
    Message(DataScanner),
    Chunk {
        left: u64,
        last: bool,
    },
    AwaitFinalReply,
    AwaitRecord(Reply),
    /// The octets of a chunk that was refused are skipped.
    SkipChunk {
        left: u64,
        last: bool,
        then: Skipped,
    },
    /// The rest of a message that was given up is skipped, then this is said and the session ends.
    SkipMessage {
        rest: Rest,
        then: Reply,
    },
    /// The last reply is on its way; nothing more is taken.
    Leaving,
    Over,
}

/// What is said when a refused chunk's octets are through.
#[derive(Debug)]
enum Skipped {
    Refusal(Refusal),
    Reply(Reply),
    /// The session ends with it.
    Farewell(Reply),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Relay {
    /// The server, in words.
    pub(super) peer: String,
    /// Our own name, which goes out in place of an EHLO name that is none.
    hostname: String,
    role: Role,
    /// How the client is shown what the server offers; `None`: as it is.
    pub(super) rule: Option<Rule>,
    pub(super) manner: Manner,
    pub(super) starttls: StartTls,
    pub(super) conditions: StartTlsConditions,
    /// The client's last EHLO name, as written.
    pub(super) hello_name: Vec<u8>,
    /// What the last EHLO was told; `None` before the first.
    told: Option<Extensions>,
    link: Link,
    /// AUTH may pass.
    auth: bool,
    /// AUTH was refused because it would have passed in the clear.
    auth_denied: bool,
    /// What the server was found to lack has been told.
    taught: Vec<Keyword>,
    /// The server waits for a command and can be told QUIT.
    pub(super) courteous: bool,
    /// The server's connection is to be dropped, not closed.
    abrupt: bool,
    slots: Slots,
    transaction: Option<Transaction>,
    phase: Phase,
    /// A question about the pending command is with the policy.
    asked: bool,
    reader: ReplyReader,
    budget: Budget,
    trace: Vec<u8>,
    /// Records whose durability nothing waits for. As many answers release nothing, so that a reply goes out only when all
    /// records asked for so far are durable, in whatever order they became so.
    unawaited_records: u32,
    out: VecDeque<Action>,
    gone: [bool; 2],
    left: [usize; 2],
    starved: bool,
    draining: bool,
    /// The server's 421 behind a final reply that is being recorded.
    last_words: Option<Reply>,
    timer: Option<(Timer, Duration)>,
    moved: [bool; 2],
    pace: Pace,
    /// The server does not read what it was sent.
    held_back: bool,
    /// How the session ends, once that is known.
    end: Option<End>,
}

impl Relay {
    pub(super) fn new(role: Role, peer: String, hostname: String, auth: bool) -> Self {
        Self {
            peer,
            hostname,
            role,
            rule: None,
            manner: Manner::Mail,
            starttls: StartTls::Unknown,
            conditions: StartTlsConditions::default(),
            hello_name: Vec::new(),
            told: None,
            link: Link::Shut,
            auth,
            auth_denied: false,
            taught: Vec::new(),
            courteous: false,
            abrupt: false,
            slots: Slots::default(),
            transaction: None,
            phase: Phase::Commands,
            asked: false,
            reader: ReplyReader::default(),
            budget: Budget::default(),
            trace: Vec::new(),
            unawaited_records: 0,
            out: VecDeque::new(),
            gone: [false; 2],
            left: [0; 2],
            starved: true,
            draining: false,
            last_words: None,
            timer: None,
            moved: [false; 2],
            pace: Pace::default(),
            held_back: false,
            end: None,
        }
    }

    pub(super) fn act(&mut self, action: Action) {
        self.out.push_back(action);
    }

    pub(super) fn action(&mut self) -> Option<Action> {
        self.out.pop_front()
    }

    pub(super) fn send(&mut self, side: Side, bytes: Vec<u8>) {
        self.act(Action::Send(side, bytes));
    }

    pub(super) fn note(&mut self, note: Note) {
        self.act(Action::Note(note));
    }

    pub(super) fn incident(&mut self, what: &'static str) {
        self.note(Note::Incident(what));
    }

    /// The session is about to end in this way; the first that is said holds.
    pub(super) fn ends(&mut self, end: End) {
        self.end.get_or_insert(end);
    }

    pub(super) fn set_trace(&mut self, line: Vec<u8>) {
        self.trace = line;
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    pub(super) fn finished(&self) -> bool {
        self.is_over() && self.out.is_empty()
    }

    pub(super) fn pending(&self) -> Option<&Pending> {
        match &self.phase {
            Phase::Pending(pending) => Some(pending),
            _ => None,
        }
    }

    /// Whether the pending command is EHLO or HELO.
    pub(super) fn pending_hello(&self) -> bool {
        matches!(self.pending(), Some(Pending::Hello { .. }))
    }

    /// Takes `len` bytes that go nowhere.
    fn drop(&mut self, from: Side, len: usize) -> Step {
        if len == 0 {
            return Step::Starved;
        }
        if from == Side::Client {
            self.moved[from as usize] = true;
        }
        self.act(Action::Drop { from, len });
        Step::Took(len)
    }

    // ----- what the machine decides -----

    /// Asks the policy about the pending command.
    pub(super) fn ask(&mut self, question: Question) {
        self.asked = true;
        self.act(Action::Authorise(question));
    }

    /// Whether an answer is expected; there is one to each question.
    pub(super) fn takes_answer(&mut self) -> bool {
        std::mem::take(&mut self.asked) && self.pending().is_some()
    }

    /// The link is up; nothing of a transaction has been on it. `judged`: what the server offers inside TLS.
    pub(super) fn open(&mut self, pipelining: bool, judged: Option<Extensions>) {
        self.link = Link::Open {
            pipelining,
            judged,
            // Inbound the server is ours, and need not prove anything.
            permitted: matches!(self.role, Role::Inbound),
        };
        self.courteous = true;
    }

    /// The link is no more.
    pub(super) fn shut(&mut self) {
        self.link = Link::Shut;
        self.courteous = false;
        self.reader = ReplyReader::default();
        self.left[Side::Server as usize] = 0;
        self.gone[Side::Server as usize] = false;
    }

    /// The peer may speak with the client: its replies are passed on from now on.
    pub(super) fn permit(&mut self, permit: Permit) {
        let (Permit::Authorised(Authorised { .. }) | Permit::Exempted(Exempted(()))) = permit;
        if let Link::Open { permitted, .. } = &mut self.link {
            *permitted = true;
        }
    }

    pub(super) fn is_permitted(&self) -> bool {
        matches!(
            self.link,
            Link::Open {
                permitted: true,
                ..
            }
        )
    }

    /// The pending MAIL or RCPT goes to the server, RCPT behind its MAIL if that was held.
    pub(super) fn admit(&mut self, permit: Permit) {
        let authenticated = permit.is_authenticated();
        self.permit(permit);
        match std::mem::replace(&mut self.phase, Phase::Commands) {
            Phase::Pending(Pending::Mail { line, sender }) => {
                self.transaction = Some(Transaction::new(sender, None));
                self.slots.waiting(Awaited::Mail, line);
            }
            Phase::Pending(Pending::Rcpt { line, target, dsn }) => {
                let refused = self.transaction.as_ref().and_then(|t| t.refused.clone());
                if let Some(reply) = refused {
                    self.slots.ours(reply, false);
                } else if let Some(refusal) = self.lacking(dsn, authenticated) {
                    return self.decline(&refusal);
                } else if let Some(transaction) = &mut self.transaction {
                    transaction.authenticated |= authenticated;
                    if let Some(mail) = transaction.held.take() {
                        self.slots.waiting(Awaited::HeldMail, mail);
                    }
                    self.slots.waiting(Awaited::Rcpt(target), line);
                }
            }
            other => self.phase = other,
        }
        self.pump();
    }

    /// The pending command is refused. 421 ends the session, and so does any refusal of EHLO: a 5yz there would make the
    /// client try HELO (RFC 5321 §3.2). A sender that is refused helps no message along, and so has an end.
    pub(super) fn refuse(&mut self, mut refusal: Refusal) {
        if self.pending_hello() {
            refusal.code = 421;
        }
        if refusal.code == 421 {
            return self.part(refusal);
        }
        let is_mail = matches!(self.pending(), Some(Pending::Mail { .. }));
        self.phase = Phase::Commands;
        if !is_mail || self.idled() {
            self.decline(&refusal);
        }
    }

    /// Answers the pending EHLO or HELO; `greeting` is the text of its first line.
    pub(super) fn welcome(&mut self, greeting: &[u8], extensions: &Extensions) {
        let Phase::Pending(Pending::Hello { esmtp }) = self.phase else {
            return;
        };
        self.phase = Phase::Commands;
        // HELO must not be answered as EHLO is, and offers nothing (RFC 5321 §4.1.1.1).
        let (told, reply) = if esmtp {
            let more = match self.starttls {
                StartTls::Offered => &["STARTTLS"][..],
                _ => &[],
            };
            (extensions.clone(), extensions.reply(greeting, more))
        } else {
            let line = vec![greeting.to_vec()];
            (Extensions::default(), Reply::of_lines(250, line))
        };
        self.told = Some(told);
        self.slots.ours(reply, false);
        self.pump();
    }

    /// The same with our own name in the first line.
    pub(super) fn welcome_as_ourselves(&mut self, extensions: &Extensions) {
        let greeting = self.hostname.clone().into_bytes();
        self.welcome(&greeting, extensions);
    }

    /// The same by the rule for what nobody has proved.
    pub(super) fn welcome_by(&mut self, offer: &HeardOffer) {
        let shown = self.shown(offer);
        self.welcome_as_ourselves(&shown);
    }

    /// What the client is shown of what was heard in the clear.
    pub(super) fn shown(&self, offer: &HeardOffer) -> Extensions {
        self.rule
            .as_ref()
            .map_or_else(Extensions::default, |rule| offer.shown(rule))
    }

    /// The pending EHLO goes to the server, which has had one before; its reply is passed on.
    pub(super) fn forward_hello(&mut self) {
        self.send_hello();
        self.slots.sent(Awaited::Hello);
    }

    /// EHLO with the client's name as it wrote it. To the outside only a name without blank, control and 8-bit octets goes.
    pub(super) fn send_hello(&mut self) {
        self.send_hello_as(b"EHLO ");
    }

    /// The same with HELO, for a server that knows nothing else.
    pub(super) fn send_helo(&mut self) {
        self.send_hello_as(b"HELO ");
    }

    fn send_hello_as(&mut self, verb: &[u8]) {
        let name = self.hello_name.clone();
        let shown = match self.role {
            Role::Outbound if !command::may_cross(&name) => self.hostname.as_bytes(),
            _ => name.as_slice(),
        };
        let line = [verb, shown, b"\r\n"].concat();
        self.note(Note::Hello(name));
        self.send(Side::Server, line);
    }

    /// After TLS nothing from before counts (RFC 3207 §4.2).
    pub(super) fn forget(&mut self) {
        self.end_transaction(None);
        self.told = None;
        self.hello_name = Vec::new();
        self.phase = Phase::Commands;
        self.starttls = StartTls::Up;
    }

    /// Reads a line of the server while the machine waits for a reply of its own; `None`: it is not whole yet.
    pub(super) fn read_reply(&mut self, bytes: &[u8]) -> (Step, Option<Reply>) {
        use super::reply::ReplyPart;
        match self.reader.read(bytes) {
            ReplyPart::Partial => (Step::Starved, None),
            ReplyPart::More(len) => (self.drop(Side::Server, len), None),
            ReplyPart::Whole(len, reply) => {
                self.moved[Side::Server as usize] = true;
                (self.drop(Side::Server, len), Some(reply))
            }
            ReplyPart::Malformed => {
                self.incident("malformed-reply");
                self.lost((4, 2), "malformed reply");
                (Step::Took(0), None)
            }
        }
    }

    /// So much is here of that side and was not taken.
    pub(super) fn left_untaken(&mut self, side: Side, octets: usize) {
        self.left[side as usize] = octets;
    }

    /// Whether bytes of the server are here that no command of ours has asked for.
    pub(super) fn server_spoke(&self) -> bool {
        self.left[Side::Server as usize] > 0 || self.reader.is_amid()
    }

    /// `who: what`.
    pub(super) fn says(&self, what: &str) -> String {
        format!("{}: {what}", self.peer)
    }

    /// Reads an EHLO reply of a server that may be believed, or whose words are shown by the rule.
    pub(super) fn offer(&self, reply: &Reply) -> Extensions {
        Offer::read(reply, self.auth).extensions
    }

    /// The server refused EHLO or the connection: that is told to the administrator, and decides nothing.
    pub(super) fn heard(&mut self, stage: Stage, reply: &Reply, proved: bool) {
        let reply = reply.verbatim.clone();
        self.note(Note::Heard {
            stage,
            reply,
            proved,
        });
    }

    // ----- replies -----

    /// Sends what may be sent: waiting commands to the server, replies that are due to the client.
    fn pump(&mut self) {
        if let Link::Open { pipelining, .. } = self.link {
            while let Some(line) = self.slots.sendable(pipelining) {
                self.send(Side::Server, line);
            }
        }
        while let Some((reply, closes)) = self.slots.due() {
            self.deliver(&reply);
            if closes {
                return self.over();
            }
        }
    }

    fn deliver(&mut self, reply: &Reply) {
        let smtputf8 = self.smtputf8();
        self.send(Side::Client, reply.to_bytes(smtputf8));
    }

    fn smtputf8(&self) -> bool {
        self.transaction.as_ref().is_some_and(|t| t.sender.smtputf8)
    }

    fn refused(&mut self, refusal: &Refusal) {
        self.note(Note::Refused(refusal.clone()));
    }
}

fn goodbye() -> Reply {
    Reply::new(221, "2.0.0 bye")
}

#[cfg(test)]
mod tests;

//! What both machines share: the client's commands, the replies owed to the client in order, one transaction, and its message.
//!
//! A machine owns one `Relay`. The machine itself opens the link to the server, and answers the commands that the relay leaves
//! [`Pending`]. In this folder `state.rs` names the states, `hello.rs` introduces both sides, `client.rs` takes commands, `server.rs` takes replies,
//! `transfer.rs` moves messages, `end.rs` ends the session, and `missing.rs` refuses what the server lacks.

mod slots;
mod state;
mod timing;
mod transaction;

mod client;
mod end;
mod hello;
mod missing;
mod server;
mod transfer;

use super::{
    extensions::{Extensions, Keyword},
    heard::OfferRule,
    machine::{Action, End, Note, Question, Side, StartTlsConditions},
    proof::{Authorised, Exempted},
    refusal::Refusal,
    reply::{Reply, ReplyPart, ReplyReader},
};
pub(super) use state::{AllowedCommands, Auth, Pending, Permit, Role, StartTls, Step};

use slots::{Awaited, Slots};
use state::{Link, Phase, ServerEnding};
use std::collections::VecDeque;
use timing::Timing;
use transaction::{AbuseCounters, Transaction};

/// Actions for which there is room while none is to be done.
const ACTIONS_KEPT: usize = 64;

/// The relay of one session; the text of this module describes it.
#[derive(Debug, Default)]
pub(super) struct Relay {
    /// The server, in words.
    server_name: String,
    /// Our own name. It replaces an EHLO name that cannot go outside.
    hostname: String,
    role: Role,
    /// How the client is shown the server's offer; `None`: unchanged.
    pub(super) rule: Option<OfferRule>,
    pub(super) allowed: AllowedCommands,
    pub(super) starttls: StartTls,
    pub(super) conditions: StartTlsConditions,
    /// The client's last EHLO name, as written.
    hello_name: Vec<u8>,
    /// The extensions that the client was shown last; `None` before its first EHLO.
    shown: Option<Extensions>,
    link: Link,
    auth: Auth,
    /// Missing extensions that were told already ([`Note::MissingExtension`]).
    told_missing: Vec<Keyword>,
    server_ending: ServerEnding,
    slots: Slots,
    transaction: Option<Box<Transaction>>,
    phase: Phase,
    reader: ReplyReader,
    /// Octets of the server's reply that is being handled, while no action takes them.
    untaken_reply: usize,
    abuse: AbuseCounters,
    /// The trace line in front of each message; empty: none.
    pub(super) trace: Vec<u8>,
    /// Number of Record actions whose answer no reply waits for: that many answers are swallowed before one releases a reply.
    /// So a reply goes out only when all records asked for so far are durable, in whatever order they became durable.
    unawaited_records: u32,
    out: VecDeque<Action>,
    client_closed: bool,
    /// Bytes of the client are left that have to wait for something else.
    pub(super) client_blocked: bool,
    server_closed: bool,
    /// Octets of the server that were offered and not taken.
    pub(super) server_untaken: usize,
    /// The client has to get something that may not wait for other replies, and that the driver may not have written yet.
    must_flush: bool,
    /// The process is being stopped.
    draining: bool,
    /// The server's 421 behind a final reply whose record is awaited.
    reply_after_record: Option<Reply<'static>>,
    pub(super) timing: Timing,
    /// How the session ends, once that is known.
    end: Option<End>,
}

impl Relay {
    pub(super) fn new(role: Role, server_name: String, hostname: String, auth: Auth) -> Self {
        Self {
            role,
            server_name,
            hostname,
            auth,
            ..Self::default()
        }
    }

    // ----- actions -----

    /// Has this done behind all that is to be done already.
    pub(super) fn act(&mut self, action: Action) {
        self.drop_reply();
        self.out.push_back(action);
    }

    /// Passes the next octets of a side on, together with those before them if nothing is to be done in between.
    fn pass(&mut self, from: Side, len: usize, content: bool) {
        self.drop_reply();
        match self.out.back_mut() {
            Some(Action::Pass {
                from: side,
                len: before,
                content: of_message,
            }) if (*side, *of_message) == (from, content) => *before += len,
            _ => self.out.push_back(Action::Pass { from, len, content }),
        }
    }

    /// Takes the server's reply that was read and went nowhere, if there is one.
    pub(super) fn drop_reply(&mut self) {
        let len = std::mem::take(&mut self.untaken_reply);
        if len > 0 {
            self.out.push_back(Action::Drop {
                from: Side::Server,
                len,
            });
        }
    }

    pub(super) fn next_action(&mut self) -> Option<Action> {
        slots::take_first(&mut self.out, ACTIONS_KEPT)
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

    /// Takes `len` bytes that go nowhere.
    fn drop(&mut self, from: Side, len: usize) -> Step {
        if len == 0 {
            return Step::Starved;
        }
        if from == Side::Client {
            self.timing.moved(from);
        }
        self.act(Action::Drop { from, len });
        Step::Took(len)
    }

    // ----- state -----

    pub(super) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    pub(super) fn finished(&self) -> bool {
        self.is_over() && self.out.is_empty()
    }

    pub(super) fn pending(&self) -> Option<&Pending> {
        match &self.phase {
            Phase::Pending { command, .. } => Some(command),
            _ => None,
        }
    }

    /// Whether the pending command is EHLO or HELO.
    pub(super) fn is_hello_pending(&self) -> bool {
        matches!(self.pending(), Some(Pending::Hello { .. }))
    }

    /// Leaves a command to the machine.
    fn leave_pending(&mut self, command: Pending) {
        self.phase = Phase::Pending {
            command,
            asked: false,
        };
    }

    // ----- the link -----

    /// The link is up, and nothing of a transaction has been on it. `judged`: what the server offers inside TLS.
    pub(super) fn open_link(&mut self, pipelining: bool, judged: Option<Extensions>) {
        self.link = Link::Open {
            pipelining,
            judged,
            // Inbound the server is ours, and need not prove anything.
            permitted: self.role == Role::Inbound,
        };
        self.expect_command(true);
    }

    /// Closes the server's connection and forgets everything about it.
    pub(super) fn close_link(&mut self, abort: bool) {
        self.act(Action::Close {
            side: Side::Server,
            abort,
        });
        self.link = Link::Shut;
        self.expect_command(false);
        self.reader = ReplyReader::default();
        self.server_untaken = 0;
        self.server_closed = false;
    }

    /// Whether the server waits for a command, so that it can be told QUIT.
    pub(super) fn expect_command(&mut self, expected: bool) {
        if self.server_ending != ServerEnding::Abort {
            self.server_ending = match expected {
                true => ServerEnding::Quit,
                false => ServerEnding::Close,
            };
        }
    }

    /// Whether the server takes commands before it has answered those in front of them (RFC 2920 §3).
    fn may_pipeline(&self) -> bool {
        matches!(
            self.link,
            Link::Open {
                pipelining: true,
                ..
            }
        )
    }

    /// Whether a command may be sent now: pipelined only where the server offers that (RFC 2920 §3).
    fn may_send(&self) -> bool {
        let is_open = matches!(self.link, Link::Open { .. });
        is_open && (self.may_pipeline() || !self.slots.awaits_server())
    }

    /// Outbound, the session goes on in the clear, because an entry allows it.
    fn is_clear(&self) -> bool {
        self.role == Role::Outbound && matches!(self.link, Link::Open { judged: None, .. })
    }

    /// Reads a line of the server; `None`: the reply is not whole yet. A whole reply is taken with what it causes: the client gets it
    /// from where it is, or it is dropped before anything else is done.
    pub(super) fn read_reply<'a>(&mut self, bytes: &'a [u8]) -> (Step, Option<Reply<'a>>) {
        match self.reader.read(bytes) {
            ReplyPart::Partial => (Step::Starved, None),
            ReplyPart::More(len) => (self.drop(Side::Server, len), None),
            ReplyPart::Whole(len, reply) => {
                self.timing.moved(Side::Server);
                self.untaken_reply = len;
                (Step::Took(len), Some(reply))
            }
            ReplyPart::Malformed => {
                self.incident("malformed-reply");
                self.end_server_lost((4, 2), "malformed reply");
                (Step::Took(0), None)
            }
        }
    }

    /// Whether bytes of the server are here that answer no command of ours.
    pub(super) fn server_spoke(&self) -> bool {
        self.server_untaken > 0 || self.reader.is_amid()
    }

    // ----- what the machine decides -----

    /// Asks the policy about the pending command.
    pub(super) fn ask(&mut self, question: Question) {
        if let Phase::Pending { asked, .. } = &mut self.phase {
            *asked = true;
        }
        self.act(Action::Authorise(question));
    }

    /// Whether an answer is expected; each question has one answer.
    fn takes_answer(&mut self) -> bool {
        match &mut self.phase {
            Phase::Pending { asked, .. } => std::mem::take(asked),
            _ => false,
        }
    }

    /// The client hears the peer's replies from now on.
    pub(super) fn permit(&mut self, permit: Permit) {
        // Destructured, so that a permit is used up here.
        let (Permit::Authorised(Authorised { .. }) | Permit::Exempted(Exempted { .. })) = permit;
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

    /// The pending MAIL or RCPT goes to the server; a held MAIL goes in front of its first RCPT.
    pub(super) fn admit(&mut self, permit: Permit) {
        let authenticated = permit.is_authenticated();
        self.permit(permit);
        match std::mem::replace(&mut self.phase, Phase::Commands) {
            Phase::Pending {
                command: Pending::Mail { line, sender },
                ..
            } => {
                self.transaction = Some(Box::new(Transaction::new(sender, None)));
                self.slots.waiting(Awaited::Mail, line);
            }
            Phase::Pending {
                command: Pending::Rcpt { line, to, dsn },
                ..
            } => {
                let refused = self.transaction.as_ref().and_then(|t| t.refused.clone());
                if let Some(reply) = refused {
                    self.slots.ours_in_group(reply);
                } else if let Some(refusal) = self.lacking(dsn, authenticated) {
                    return self.decline_in_group(&refusal);
                } else if let Some(transaction) = &mut self.transaction {
                    transaction.authenticated |= authenticated;
                    if let Some(mail) = transaction.held.take() {
                        self.slots.waiting(Awaited::HeldMail, mail);
                    }
                    let to = self.slots.name(&to);
                    self.slots.waiting(Awaited::Rcpt(to), line);
                }
            }
            other => self.phase = other,
        }
        self.pump();
    }

    /// Refuses the pending command. 421 ends the session, and so does any refusal of EHLO, because a 5yz there would make the
    /// client try HELO (RFC 5321 §3.2). A refused MAIL helps no message along, so it counts as an idle command.
    pub(super) fn refuse(&mut self, mut refusal: Refusal) {
        if self.is_hello_pending() {
            refusal = refusal.closing();
        }
        if refusal.code == 421 {
            return self.end_after_replies(refusal);
        }
        let is_mail = matches!(self.pending(), Some(Pending::Mail { .. }));
        self.phase = Phase::Commands;
        if !is_mail || self.allows_idle_command() {
            self.decline_in_group(&refusal);
        }
    }

    // ----- replies to the client -----

    /// A refusal that is about the server: `server: what`.
    pub(super) fn about_server(&self, code: u16, enhanced: (u16, u16), what: &str) -> Refusal {
        Refusal::new(code, enhanced, format!("{}: {what}", self.server_name))
    }

    /// Queues a reply of our own in its place.
    fn say(&mut self, code: u16, text: &str) {
        self.slots.ours(Reply::new(code, text));
        self.pump();
    }

    /// Queues a refusal of our own in its place.
    fn decline(&mut self, refusal: &Refusal) {
        self.note(Note::Refused(refusal.clone()));
        self.slots.ours(Reply::from(refusal));
        self.pump();
    }

    /// Queues a refusal of MAIL or RCPT in its place.
    fn decline_in_group(&mut self, refusal: &Refusal) {
        self.note(Note::Refused(refusal.clone()));
        self.slots.ours_in_group(Reply::from(refusal));
        self.pump();
    }

    /// New bytes of the client are here, so the driver was free to write whatever the client had to get before.
    pub(in crate::smtp) fn hears_client(&mut self) {
        if !self.client_blocked && !self.slots.awaits_server() {
            self.must_flush = false;
        }
    }

    /// See [`Machine::holds_replies`](crate::smtp::Machine::holds_replies).
    pub(in crate::smtp) fn holds_replies(&self) -> bool {
        let needs_nothing = matches!(
            self.phase,
            Phase::Commands | Phase::AwaitGoAhead | Phase::AwaitFinalReply
        );
        needs_nothing && self.is_permitted() && !self.must_flush && self.slots.is_with_server()
    }

    /// Sends what may be sent: waiting commands to the server, replies that are due to the client. A recipient that was answered
    /// is not asked for behind this.
    fn pump(&mut self) {
        if let Link::Open { pipelining, .. } = self.link {
            while let Some(line) = self.slots.sendable(pipelining) {
                self.send(Side::Server, line);
            }
        }
        while let Some(own) = self.slots.due() {
            let closes = own.closes;
            if own.may_wait {
                self.write_reply(own.reply);
            } else {
                self.deliver(own.reply);
            }
            if closes {
                return self.close_both();
            }
        }
        self.slots.forget_answered();
    }

    fn deliver(&mut self, reply: Reply) {
        self.must_flush = true;
        self.write_reply(reply);
    }

    fn write_reply(&mut self, reply: Reply) {
        // Only the reply that is being handled can be passable.
        if reply.passable() == Some(self.untaken_reply) {
            let len = std::mem::take(&mut self.untaken_reply);
            return self.pass(Side::Server, len, false);
        }
        let smtputf8 = self.uses_smtputf8();
        self.send(Side::Client, reply.into_bytes(smtputf8));
    }

    fn uses_smtputf8(&self) -> bool {
        self.transaction.as_ref().is_some_and(|t| t.sender.smtputf8)
    }
}

#[cfg(test)]
mod tests;

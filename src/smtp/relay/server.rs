//! The server's replies: each belongs to the first command that waits for one.

use super::{
    Relay,
    slots::{Awaited, NamedRecipient},
    state::{AfterChunk, Phase, Role, ServerEnding, Step},
    transaction::MessageProgress,
    transfer::no_recipients,
};
use crate::smtp::{
    framing::MessageSkipper,
    machine::{Action, End, Note, Side},
    reply::Reply,
    scanner::DataScanner,
};

impl Relay {
    /// Takes what the server's bytes begin with, once the link is open.
    pub(in crate::smtp) fn server(&mut self, bytes: &[u8]) -> Step {
        if self.is_over() {
            return Step::Starved;
        }
        let (step, reply) = self.read_reply(bytes);
        if let Some(reply) = reply {
            self.replied(reply);
            self.drop_reply();
        }
        step
    }

    fn replied(&mut self, reply: Reply) {
        let ends_message = matches!(self.phase, Phase::AwaitFinalReply)
            && matches!(
                self.slots.awaited(),
                Some(Awaited::EndOfData | Awaited::Chunk { last: true })
            );
        if reply.code == 421 && !ends_message {
            return self.server_closes(reply);
        }
        self.must_flush = true;
        let impossible = match self.slots.awaited() {
            None | Some(Awaited::Auth) => false,
            Some(Awaited::Data) => reply.is_positive(),
            Some(_) => reply.is_intermediate(),
        };
        if impossible {
            return self.desynchronised("impossible-reply", "a reply that the command cannot have");
        }
        match self.slots.answered() {
            Some(awaited) => self.answered(awaited, reply),
            None => self.desynchronised("unsolicited-reply", "a reply to nothing"),
        }
    }

    fn answered(&mut self, awaited: Awaited, reply: Reply) {
        match awaited {
            Awaited::HeldMail if reply.is_negative() => self.held_mail_refused(reply.into_owned()),
            Awaited::HeldMail => {}
            Awaited::Mail => {
                let refusal = reply.is_negative().then(|| reply.clone().into_owned());
                self.deliver(reply);
                if let Some(refusal) = refusal {
                    self.mail_refused(refusal);
                }
            }
            Awaited::Rcpt(to) => self.recipient_reply(to, reply),
            Awaited::Data => self.go_ahead(reply),
            Awaited::EndOfData | Awaited::Chunk { last: true } => self.final_reply(reply),
            Awaited::Chunk { last: false } => self.chunk_reply(reply),
            Awaited::TraceChunk => {
                if let Some(transaction) = &mut self.transaction
                    && reply.is_negative()
                {
                    transaction.progress = MessageProgress::Broken(Some(reply.into_owned()));
                    transaction.trace_refused = true;
                }
            }
            Awaited::SilentRset | Awaited::Rset if !reply.is_positive() => {
                self.desynchronised("refused-reset", "RSET was refused");
            }
            // Whatever the server says to a message for nobody, nothing was handed over.
            Awaited::SilentRset | Awaited::EmptyMessage => {}
            Awaited::Rset | Awaited::Noop => self.deliver(reply),
            Awaited::Quit => {
                self.expect_command(false);
                self.deliver(reply);
                return self.close_both();
            }
            Awaited::Hello => self.hello_again(&reply),
            Awaited::Auth => {
                self.phase = if reply.is_intermediate() {
                    Phase::AuthResponse
                } else {
                    Phase::Commands
                };
                self.deliver(reply);
            }
        }
        self.pump();
    }

    /// The server refused a MAIL that the client has its answer to. The refusal answers the recipients.
    fn held_mail_refused(&mut self, reply: Reply<'static>) {
        self.slots.refuse_unsent(&reply);
        if let Some(transaction) = &mut self.transaction {
            transaction.refuse_sender(reply);
        }
    }

    /// The server refused a MAIL that the client sent through. There is no transaction, but if a chunk went behind the MAIL, the record
    /// must tell of it.
    fn mail_refused(&mut self, reply: Reply<'static>) {
        match &mut self.transaction {
            Some(transaction) if transaction.has_begun() => transaction.refuse_sender(reply),
            _ => self.transaction = None,
        }
    }

    /// Without a sender the server has no recipients, whatever it answers to them. The refusal of a held MAIL is told in its place.
    fn recipient_reply(&mut self, to: NamedRecipient, reply: Reply) {
        let Some(transaction) = &mut self.transaction else {
            return self.deliver(reply);
        };
        if let Some(refused) = transaction.refused.clone() {
            return self.deliver(match self.role {
                Role::Outbound => refused,
                Role::Inbound => reply,
            });
        }
        if reply.is_positive() {
            transaction.recipients.push(&self.slots.recipient(to));
            transaction.reached_somebody = true;
        } else {
            transaction.last_refusal = Some(reply.clone().into_owned());
        }
        self.deliver(reply);
    }

    /// The reply to DATA. By now all replies to the recipients are in.
    fn go_ahead(&mut self, reply: Reply) {
        if !matches!(self.phase, Phase::AwaitGoAhead) {
            // The session is ending: what ends it answers DATA, and no message begins.
            if reply.is_intermediate() {
                self.server_ending = ServerEnding::Abort;
            }
            return;
        }
        self.phase = Phase::Commands;
        let for_nobody = !self.reached_somebody();
        if reply.is_negative() {
            self.deliver(reply);
            // The server may have closed the transaction or not (RFC 5321 §4.1.1.4). RSET makes it certain.
            self.reset_server();
            if for_nobody {
                self.allows_idle_command();
            }
        } else if for_nobody {
            self.go_ahead_for_nobody();
        } else {
            self.deliver(reply);
            self.phase = Phase::Message(DataScanner::default());
            self.begin_message(MessageProgress::Data);
            let trace = self.trace.clone();
            if !trace.is_empty() {
                self.send(Side::Server, trace);
            }
        }
    }

    /// The server awaits a message although it accepted no recipient. It gets an empty one (RFC 2920 §3.1), and the client never hears
    /// of the 354, so that it sends none.
    fn go_ahead_for_nobody(&mut self) {
        self.end_transaction(None);
        self.send(Side::Server, b".\r\n".to_vec());
        self.slots.sent(Awaited::EmptyMessage);
        self.send_silent_rset();
        if self.allows_idle_command() {
            let refusal = no_recipients();
            self.note(Note::Refused(refusal.clone()));
            self.deliver(Reply::from(&refusal));
        }
    }

    /// Whether the server accepted a recipient of this transaction.
    fn reached_somebody(&self) -> bool {
        self.transaction
            .as_ref()
            .is_some_and(|transaction| transaction.reached_somebody)
    }

    /// A message begins to pass, or goes on with its next chunk.
    pub(super) fn begin_message(&mut self, progress: MessageProgress) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        let begins = !transaction.has_begun();
        transaction.unrecorded |= begins;
        transaction.progress = progress;
        if begins {
            self.note(Note::MessageBegins);
        }
    }

    /// Ends the transaction on both sides. The client gets no reply to that.
    pub(super) fn reset_server(&mut self) {
        let held = self.transaction.as_ref().is_none_or(|t| t.held.is_some());
        self.end_transaction(None);
        if !held {
            self.send_silent_rset();
        }
    }

    pub(super) fn send_silent_rset(&mut self) {
        self.slots
            .waiting(Awaited::SilentRset, b"RSET\r\n".to_vec());
        self.pump();
    }

    fn chunk_reply(&mut self, reply: Reply) {
        if matches!(self.phase, Phase::Chunk { .. }) && !self.slots.awaits_server() {
            return self.early_reply(reply, "a reply to a chunk that is not through");
        }
        let reply = self.unless_refused(reply);
        let refusal = reply.is_negative().then(|| reply.clone().into_owned());
        self.deliver(reply);
        if let Some(transaction) = &mut self.transaction
            && refusal.is_some()
            && transaction.progress == MessageProgress::Chunks
        {
            transaction.progress = MessageProgress::Broken(refusal);
        }
    }

    /// The server replies before it has all octets, which acknowledges something else. But it may refuse a chunk that is for nobody, as
    /// Exim does: where its next command begins is not certain then, so the client is told at the end of its chunk, and the session ends.
    fn early_reply(&mut self, reply: Reply, why: &str) {
        match self.phase {
            Phase::Chunk { left, last } if reply.is_negative() && !self.reached_somebody() => {
                let then = AfterChunk::LastReply(self.unless_refused(reply).into_owned());
                self.phase = Phase::SkipChunk { left, last, then };
                self.drop_server();
            }
            _ => self.desynchronised("early-reply", why),
        }
    }

    /// What the client is told for this reply to a chunk: it is refused if a part of its message was (RFC 3030 §2), or if the message is
    /// for nobody.
    fn unless_refused<'a>(&mut self, reply: Reply<'a>) -> Reply<'a> {
        if let Some(transaction) = &self.transaction
            && let MessageProgress::Broken(Some(refusal)) = &transaction.progress
            && (reply.is_positive() || transaction.trace_refused)
        {
            return refusal.clone();
        }
        if !reply.is_positive() || self.reached_somebody() {
            return reply;
        }
        let refusal = no_recipients();
        self.note(Note::Refused(refusal.clone()));
        Reply::from(&refusal)
    }

    /// The reply to a whole message waits for its record.
    fn final_reply(&mut self, reply: Reply) {
        if !matches!(self.phase, Phase::AwaitFinalReply) {
            return self.early_reply(reply, "a reply to a message that is not through");
        }
        // The record holds the server's own words.
        let completed = self
            .transaction
            .as_mut()
            .and_then(|transaction| transaction.completed(Some(&reply), std::iter::empty()));
        match completed {
            Some(completed) => {
                self.phase = Phase::AwaitRecord(self.unless_refused(reply).into_owned());
                self.act(Action::Record(Box::new(completed)));
            }
            None => self.desynchronised("unsolicited-reply", "a reply to no message"),
        }
    }

    /// The server's 421, in place of the reply that the client waits for (RFC 5321 §3.8).
    fn server_closes(&mut self, reply: Reply) {
        self.set_end(End::ServerClosed);
        // A recipient that got this reply has an answer, and it is no.
        if matches!(self.slots.awaited(), Some(Awaited::Rcpt(_))) {
            self.slots.answered();
            if let Some(transaction) = &mut self.transaction {
                transaction.last_refusal = Some(reply.clone().into_owned());
            }
        }
        if !self.is_permitted() {
            return self.end_server_lost((4, 2), "closes the connection");
        }
        match std::mem::replace(&mut self.phase, Phase::Leaving) {
            Phase::AwaitRecord(last) => {
                self.phase = Phase::AwaitRecord(last);
                self.reply_after_record = Some(reply.into_owned());
                return;
            }
            // The client can be told only at the end of its message or chunk.
            Phase::Message(scanner) => {
                self.phase = Phase::SkipMessage {
                    skipper: MessageSkipper::behind(scanner),
                    then: reply.into_owned(),
                };
            }
            Phase::Chunk { left, last } => {
                self.phase = Phase::SkipChunk {
                    left,
                    last,
                    then: AfterChunk::LastReply(reply.into_owned()),
                };
            }
            _ => {
                self.expect_command(false);
                self.deliver(reply);
                return self.close_both();
            }
        }
        self.drop_server();
    }

    /// Drops the server's connection while the rest of a message is skipped.
    pub(super) fn drop_server(&mut self) {
        self.end_transaction(None);
        self.slots.clear();
        self.server_ending = ServerEnding::Abort;
        self.server_closed = true;
        self.act(Action::Close {
            side: Side::Server,
            abort: true,
        });
    }

    fn desynchronised(&mut self, what: &'static str, why: &str) {
        self.incident(what);
        self.end_server_lost((5, 0), why);
    }
}

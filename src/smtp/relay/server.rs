//! The server's replies: each belongs to the first command that waits for one.

use super::{Link, Pace, Phase, Relay, Skipped, Step, slots::Awaited, transaction::Message};
use crate::smtp::{
    Action, Cause, End, Note, Side, Stage,
    command::refusal,
    extensions::Keyword,
    framing::DataScanner,
    heard::{self, HeardOffer},
    path::ForwardPath,
    reply::Reply,
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
            return self.closes(reply);
        }
        match self.slots.answered() {
            Some(awaited) => self.answer(awaited, reply),
            None => self.desynchronised("unsolicited-reply", "a reply to nothing"),
        }
    }

    fn answer(&mut self, awaited: Awaited, reply: Reply) {
        let impossible = match awaited {
            Awaited::Auth => false,
            Awaited::Data => reply.is_positive(),
            _ => reply.is_intermediate(),
        };
        if impossible {
            return self.desynchronised("impossible-reply", "a reply that the command cannot have");
        }
        match awaited {
            Awaited::HeldMail => {
                if reply.is_negative()
                    && let Some(transaction) = &mut self.transaction
                {
                    self.slots.refuse_unsent(&reply);
                    transaction.refused = Some(reply);
                }
            }
            Awaited::Mail => {
                self.deliver(&reply);
                if reply.is_negative() {
                    self.transaction = None;
                }
            }
            Awaited::Rcpt(target) => self.recipient(target, reply),
            Awaited::Data => self.go_ahead(reply),
            Awaited::EndOfData | Awaited::Chunk { last: true } => self.final_reply(reply),
            Awaited::Chunk { last: false } => self.chunk_reply(reply),
            Awaited::TraceChunk => {
                if let Some(transaction) = &mut self.transaction
                    && reply.is_negative()
                {
                    transaction.message = Message::Broken(Some(reply));
                }
            }
            Awaited::SilentRset | Awaited::Rset if !reply.is_positive() => {
                self.desynchronised("refused-reset", "RSET was refused");
            }
            Awaited::SilentRset => {}
            Awaited::Rset | Awaited::Noop => self.deliver(&reply),
            Awaited::Quit => {
                self.courteous = false;
                self.deliver(&reply);
                return self.over();
            }
            Awaited::Hello => self.hello_again(&reply),
            Awaited::Auth => {
                self.phase = if reply.is_intermediate() {
                    Phase::AuthResponse
                } else {
                    Phase::Commands
                };
                self.deliver(&reply);
            }
        }
        self.pump();
    }

    /// The refusal of the held MAIL answers its recipients; whatever the server thinks of them then does not matter.
    fn recipient(&mut self, target: ForwardPath, reply: Reply) {
        let refused = self.transaction.as_ref().and_then(|t| t.refused.clone());
        if let Some(refused) = refused {
            return self.deliver(&refused);
        }
        if let Some(transaction) = &mut self.transaction
            && reply.is_positive()
        {
            transaction.recipients.push(target);
        }
        self.deliver(&reply);
    }

    fn go_ahead(&mut self, reply: Reply) {
        self.deliver(&reply);
        if reply.is_intermediate() {
            self.phase = Phase::Message(DataScanner::default());
            self.begin(Message::Data);
            let trace = self.trace.clone();
            if !trace.is_empty() {
                self.send(Side::Server, trace);
            }
        } else {
            // Whether the transaction is still open is up to the server (RFC 5321 §4.1.1.4); RSET makes it certain.
            self.phase = Phase::Commands;
            self.reset_server();
        }
    }

    /// A message begins to pass.
    pub(super) fn begin(&mut self, message: Message) {
        if let Some(transaction) = &mut self.transaction {
            if transaction.message == Message::Ahead {
                transaction.unrecorded = true;
                self.out.push_back(Action::Note(Note::MessageBegins));
            }
            transaction.message = message;
        }
    }

    /// A MAIL is taken.
    pub(super) fn begin_transaction(&mut self) {
        self.pace = Pace::default();
        self.note(Note::TransactionBegins);
    }

    /// Ends the transaction on both sides; the client is answered otherwise.
    pub(super) fn reset_server(&mut self) {
        let held = self.transaction.as_ref().is_none_or(|t| t.held.is_some());
        self.end_transaction(None);
        if !held {
            self.slots
                .waiting(Awaited::SilentRset, b"RSET\r\n".to_vec());
            self.pump();
        }
    }

    fn chunk_reply(&mut self, reply: Reply) {
        if matches!(self.phase, Phase::Chunk { .. }) && !self.slots.awaits_server() {
            return self.desynchronised("early-reply", "a reply to a chunk that is not through");
        }
        self.deliver(&reply);
        if let Some(transaction) = &mut self.transaction
            && reply.is_negative()
            && transaction.message == Message::Chunks
        {
            transaction.message = Message::Broken(Some(reply));
        }
    }

    /// The reply to a whole message waits for its record.
    fn final_reply(&mut self, reply: Reply) {
        if !matches!(self.phase, Phase::AwaitFinalReply) {
            return self.desynchronised("early-reply", "a reply to a message that is not through");
        }
        // The record tells what the server said. To the client a message of which a part was refused is refused (RFC 3030 §2).
        let refused = match self.transaction.as_ref().map(|t| &t.message) {
            Some(Message::Broken(Some(refusal))) if reply.is_positive() => Some(refusal.clone()),
            _ => None,
        };
        let completed = self
            .transaction
            .as_mut()
            .and_then(|transaction| transaction.completed(Some(&reply)));
        match completed {
            Some(completed) => {
                self.act(Action::Record(completed));
                self.phase = Phase::AwaitRecord(refused.unwrap_or(reply));
            }
            None => self.desynchronised("unsolicited-reply", "a reply to no message"),
        }
    }

    fn hello_again(&mut self, reply: &Reply) {
        if reply.code != 250 {
            let proved = self.rule.is_none() && !self.is_clear();
            self.heard(Stage::Ehlo, reply, proved);
            let what = format!("EHLO was refused with {}", heard::told(reply));
            let refusal = refusal(421, (4, 0), &self.says(&what)).because(Cause::EhloRefused);
            return self.dead(refusal);
        }
        let offered = self.offer(reply);
        let shown = match &self.rule {
            None => offered.clone(),
            Some(_) if self.is_clear() => self.shown(&HeardOffer::read(reply)),
            Some(rule) => rule.shown(&offered),
        };
        if let Link::Open {
            pipelining, judged, ..
        } = &mut self.link
        {
            *pipelining = offered.has(Keyword::Pipelining);
            *judged = judged.take().map(|_| offered);
        }
        match self.rule {
            None => self.welcome(&reply.lines[0], &shown),
            Some(_) => self.welcome_as_ourselves(&shown),
        }
    }

    /// The server's 421, in place of what the client waits for (RFC 5321 §3.8).
    fn closes(&mut self, reply: Reply) {
        self.ends(End::ServerClosed);
        if !self.is_permitted() {
            return self.lost((4, 2), "closes the connection");
        }
        match std::mem::replace(&mut self.phase, Phase::Leaving) {
            Phase::AwaitRecord(last) => {
                self.phase = Phase::AwaitRecord(last);
                self.last_words = Some(reply);
                return;
            }
            // Amid a message the next reply point is behind its end.
            Phase::Message(scanner) => {
                self.phase = Phase::SkipMessage {
                    rest: scanner.rest(),
                    then: reply,
                };
            }
            Phase::Chunk { left, last } => {
                self.phase = Phase::SkipChunk {
                    left,
                    last,
                    then: Skipped::Farewell(reply),
                };
            }
            _ => {
                self.courteous = false;
                self.deliver(&reply);
                return self.over();
            }
        }
        self.drop_server();
    }

    /// The server's connection is dropped while the rest of a message is skipped.
    pub(super) fn drop_server(&mut self) {
        self.slots.clear();
        self.end_transaction(None);
        self.abrupt = true;
        self.gone[Side::Server as usize] = true;
        self.act(Action::Close {
            side: Side::Server,
            abort: true,
        });
    }

    fn desynchronised(&mut self, what: &'static str, why: &str) {
        self.incident(what);
        self.lost((5, 0), why);
    }
}

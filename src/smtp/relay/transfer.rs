//! Messages and AUTH lines: octets that pass as they are, or are skipped exactly.

use super::{Phase, Relay, Skipped, Step, slots::Awaited, transaction::Message};
use crate::smtp::{
    Action, End, Side,
    command::refusal,
    framing::{self, END_OF_DATA, Line, Scan},
    reply::Reply,
};

impl Relay {
    /// DATA: forwarded when all earlier replies are in and a recipient was accepted, so that no message is sent for nobody
    /// (RFC 2920 §3.1).
    pub(super) fn data(&mut self, length: usize, behind: &[u8]) -> Step {
        if !self.slots.is_empty() {
            return Step::Blocked;
        }
        if !behind.is_empty() {
            return self.early_data();
        }
        let (code, why) = match &self.transaction {
            None => (503, "need MAIL and RCPT before DATA"),
            Some(t) if t.message != Message::Ahead => (503, "BDAT was used in this transaction"),
            Some(t) if t.sender.binary => (503, "BINARYMIME needs BDAT (RFC 3030 3)"),
            Some(t) if t.recipients.is_empty() => (554, "no valid recipients"),
            Some(_) => {
                self.phase = Phase::AwaitGo;
                return self.forward(length, Awaited::Data);
            }
        };
        self.drop(Side::Client, length);
        if code != 554 {
            self.fault(refusal(code, (5, 1), why));
        } else if self.idled() {
            // Behind a group whose recipients were all refused this is no fault (RFC 2920 §3.1).
            self.decline(&refusal(code, (5, 1), why));
            self.reset_server();
        }
        Step::Took(length)
    }

    /// BDAT: the first waits until all earlier replies are in, as DATA does.
    pub(super) fn bdat(&mut self, length: usize, octets: u64, last: bool) -> Step {
        let no = |why| Skipped::Refusal(refusal(503, (5, 1), why));
        let first = match self.transaction.as_ref().map(|t| &t.message) {
            None => {
                let then = no("need MAIL and RCPT before BDAT");
                return self.refuse_chunk(length, octets, last, then);
            }
            Some(Message::Broken(reply)) => {
                let then = reply
                    .clone()
                    .map_or_else(|| no("a chunk of this message was refused"), Skipped::Reply);
                return self.refuse_chunk(length, octets, last, then);
            }
            Some(Message::Chunks) => false,
            Some(_) => true,
        };
        if (first && !self.slots.is_empty()) || !self.may_send_chunk() {
            return Step::Blocked;
        }
        if self
            .transaction
            .as_ref()
            .is_none_or(|t| t.recipients.is_empty())
        {
            let then = Skipped::Refusal(refusal(554, (5, 1), "no valid recipients"));
            return self.refuse_chunk(length, octets, last, then);
        }
        if let Some(refusal) = self.lacks_chunking() {
            return self.refuse_chunk(length, octets, last, Skipped::Refusal(refusal));
        }
        if octets == 0 && !last {
            if let Some(transaction) = &mut self.transaction {
                transaction.message = Message::Broken(None);
            }
            self.drop(Side::Client, length);
            self.fault(refusal(551, (7, 1), "an empty chunk that is not the last"));
            return Step::Took(length);
        }
        if !last && !self.budget.chunk(octets) {
            self.drop(Side::Client, length);
            self.exhausted("too many small chunks");
            return Step::Took(length);
        }
        if first && !self.trace.is_empty() && self.begins() {
            let chunk = [
                format!("BDAT {}\r\n", self.trace.len()).as_bytes(),
                &self.trace,
            ]
            .concat();
            self.begin(Message::Traced);
            self.send(Side::Server, chunk);
            self.slots.sent(Awaited::TraceChunk);
            return Step::Blocked;
        }
        self.begin(Message::Chunks);
        self.forward(length, Awaited::Chunk { last });
        self.phase = Phase::Chunk { left: octets, last };
        self.chunk(&[]);
        Step::Took(length)
    }

    fn begins(&self) -> bool {
        self.transaction
            .as_ref()
            .is_some_and(|t| t.message == Message::Ahead)
    }

    /// Without a link no recipient was accepted, which says more than waiting.
    fn may_send_chunk(&self) -> bool {
        self.may_send() || !self.is_permitted()
    }

    /// A chunk is refused only when its octets are through, and the message with it (RFC 3030 §2).
    fn refuse_chunk(&mut self, length: usize, octets: u64, last: bool, then: Skipped) -> Step {
        self.drop(Side::Client, length);
        if let Some(transaction) = &mut self.transaction
            && !transaction.is_dead()
        {
            let reply = match &then {
                Skipped::Refusal(refusal) => Some(Reply::from(refusal)),
                Skipped::Reply(reply) | Skipped::Farewell(reply) => Some(reply.clone()),
            };
            transaction.message = Message::Broken(reply);
        }
        if self.idled() {
            self.phase = Phase::SkipChunk {
                left: octets,
                last,
                then,
            };
            self.skip(&[]);
        }
        Step::Took(length)
    }

    /// Moves octets in the phases that have them.
    pub(super) fn transfer(&mut self, bytes: &[u8]) -> Step {
        match &self.phase {
            Phase::Message(_) => self.message(bytes),
            Phase::Chunk { .. } => self.chunk(bytes),
            Phase::SkipChunk { .. } => self.skip(bytes),
            Phase::SkipMessage { .. } => self.skip_message(bytes),
            _ => Step::Blocked,
        }
    }

    fn content(&mut self, len: usize) {
        if len == 0 {
            return;
        }
        self.moved[Side::Client as usize] = true;
        self.pace.moved(len);
        if let Some(transaction) = &mut self.transaction {
            transaction.octets += len as u64;
        }
        self.act(Action::Pass {
            from: Side::Client,
            len,
            content: true,
        });
    }

    fn message(&mut self, bytes: &[u8]) -> Step {
        let Phase::Message(scanner) = &mut self.phase else {
            return Step::Blocked;
        };
        let before = *scanner;
        match scanner.scan(bytes) {
            Scan::Content(0) => Step::Starved,
            Scan::Content(len) => {
                self.content(len);
                Step::Took(len)
            }
            Scan::End(len) => {
                self.content(len);
                self.forward(END_OF_DATA, Awaited::EndOfData);
                self.phase = Phase::AwaitFinalReply;
                Step::Took(len + END_OF_DATA)
            }
            Scan::Violation(_) => {
                self.incident("broken-line-in-message");
                self.ends(End::Refused);
                let refusal = refusal(
                    550,
                    (5, 2),
                    "bare CR, bare LF or NUL in the message (RFC 5321 2.3.8)",
                );
                self.refused(&refusal);
                self.phase = Phase::SkipMessage {
                    rest: before.rest(),
                    then: Reply::from(&refusal),
                };
                self.drop_server();
                Step::Took(0)
            }
        }
    }

    fn skip_message(&mut self, bytes: &[u8]) -> Step {
        let Phase::SkipMessage { rest, .. } = &mut self.phase else {
            return Step::Blocked;
        };
        let (len, ended) = rest.skip(bytes);
        if len == 0 {
            return Step::Starved;
        }
        self.drop(Side::Client, len);
        if ended
            && let Phase::SkipMessage { then, .. } =
                std::mem::replace(&mut self.phase, Phase::Leaving)
        {
            self.deliver(&then);
            self.over();
        }
        Step::Took(len)
    }

    fn chunk(&mut self, bytes: &[u8]) -> Step {
        let Phase::Chunk { left, last } = &mut self.phase else {
            return Step::Blocked;
        };
        let len = at_most(*left, bytes.len());
        *left -= len as u64;
        let last = *last;
        let through = *left == 0;
        self.content(len);
        if through {
            self.phase = if last {
                Phase::AwaitFinalReply
            } else {
                Phase::Commands
            };
        } else if len == 0 {
            return Step::Starved;
        }
        Step::Took(len)
    }

    fn skip(&mut self, bytes: &[u8]) -> Step {
        let Phase::SkipChunk { left, .. } = &mut self.phase else {
            return Step::Blocked;
        };
        let len = at_most(*left, bytes.len());
        *left -= len as u64;
        let through = *left == 0;
        self.drop(Side::Client, len);
        self.pace.moved(len);
        if through {
            self.skipped();
        } else if len == 0 {
            return Step::Starved;
        }
        Step::Took(len)
    }

    fn skipped(&mut self) {
        let Phase::SkipChunk { last, then, .. } =
            std::mem::replace(&mut self.phase, Phase::Commands)
        else {
            return;
        };
        match then {
            Skipped::Refusal(refusal) => self.decline(&refusal),
            Skipped::Reply(reply) => {
                self.slots.ours(reply, false);
                self.pump();
            }
            Skipped::Farewell(reply) => {
                self.deliver(&reply);
                return self.over();
            }
        }
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        if last {
            self.reset_server();
        } else if !transaction.unrecorded && transaction.held.is_none() {
            // Nothing of the message was sent. The server forgets the envelope; here it stays, refusing what comes behind.
            transaction.held = Some(Vec::new());
            self.slots
                .waiting(Awaited::SilentRset, b"RSET\r\n".to_vec());
            self.pump();
        }
    }

    /// One line of the client's side of an AUTH exchange (RFC 4954 §4): secret, never looked at.
    pub(super) fn auth_response(&mut self, bytes: &[u8]) -> Step {
        match framing::line(bytes, framing::MAX_AUTH_LINE) {
            Line::Whole(length) => {
                self.phase = Phase::AwaitAuthReply;
                self.forward(length, Awaited::Auth)
            }
            Line::Partial => Step::Starved,
            Line::TooLong => {
                self.part(refusal(500, (5, 6), "the authentication line is too long"));
                Step::Took(0)
            }
            Line::Broken => self.broken_line(),
        }
    }
}

fn at_most(left: u64, available: usize) -> usize {
    usize::try_from(left).map_or(available, |left| left.min(available))
}

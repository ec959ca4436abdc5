//! Messages and AUTH lines: octets that pass unchanged, or are skipped exactly.

use super::{
    Relay,
    slots::Awaited,
    state::{AfterChunk, Phase, Step},
    transaction::MessageProgress,
};
use crate::smtp::{
    framing::{self, Line, MessageSkipper},
    machine::{End, Note, Side},
    refusal::Refusal,
    reply::Reply,
    scanner::{END_OF_DATA, Scan},
};

impl Relay {
    /// DATA is forwarded behind a recipient that the server has accepted or can still accept, so that the server can refuse it only
    /// where it refused all recipients (RFC 2920 §3.1).
    pub(super) fn data(&mut self, length: usize, behind: &[u8]) -> Step {
        if !behind.is_empty() {
            return self.early_data();
        }
        if !self.slots.is_empty() && !self.may_follow_in_group() {
            return Step::Blocked;
        }
        let (code, why) = match &self.transaction {
            None => (503, "need MAIL and RCPT before DATA"),
            Some(t) if t.has_begun() => (503, "BDAT was used in this transaction"),
            Some(t) if t.sender.binary => (503, "BINARYMIME needs BDAT (RFC 3030 3)"),
            Some(_) if !self.may_reach_somebody() => (554, NO_RECIPIENTS),
            Some(_) => {
                self.phase = Phase::AwaitGoAhead;
                return self.forward(length, Awaited::Data);
            }
        };
        self.drop(Side::Client, length);
        if code != 554 {
            self.fault(Refusal::new(code, (5, 1), why));
        } else if self.allows_idle_command() {
            // Behind a group whose recipients were all refused, DATA is no fault (RFC 2920 §3.1).
            self.decline(&Refusal::new(code, (5, 1), why));
            self.reset_server();
        }
        Step::Took(length)
    }

    /// Whether the server has accepted a recipient of this transaction, or has one that it has not answered yet.
    fn may_reach_somebody(&self) -> bool {
        self.transaction.as_ref().is_some_and(|transaction| {
            transaction.reached_somebody
                || (transaction.refused.is_none()
                    && self.slots.unanswered_recipients().next().is_some())
        })
    }

    /// Whether a message may go to the server before the replies to the commands in front of it are in (RFC 2920 §3.1).
    fn may_follow_in_group(&self) -> bool {
        self.is_permitted()
            && self.may_pipeline()
            && self.may_reach_somebody()
            && self.slots.may_be_followed()
    }

    /// BDAT. The first of a message goes to the server when DATA would.
    pub(super) fn bdat(&mut self, length: usize, octets: u64, last: bool) -> Step {
        let no = |why| AfterChunk::Refusal(Refusal::new(503, (5, 1), why));
        let Some(transaction) = &self.transaction else {
            let then = no("need MAIL and RCPT before BDAT");
            return self.refuse_chunk(length, octets, last, then);
        };
        if let MessageProgress::Broken(reply) = &transaction.progress {
            // The replies to the rest of the group are told by what is known of this message, so it must not be forgotten before.
            if self.slots.awaits_server() {
                return Step::Blocked;
            }
            let then = reply.clone().map_or_else(
                || no("a chunk of this message was refused"),
                AfterChunk::Reply,
            );
            return self.refuse_chunk(length, octets, last, then);
        }
        let has_begun = transaction.has_begun();
        let is_first = transaction.progress != MessageProgress::Chunks;
        // Without a link no recipient was accepted, and refusing the chunk says more than waiting.
        let waits = self.is_permitted() && !self.may_send();
        // A chunk that will be refused here has no hurry.
        let goes = (octets > 0 || last) && self.takes_chunks() && self.may_follow_in_group();
        if (is_first && !self.slots.is_empty() && !goes) || waits {
            return Step::Blocked;
        }
        if !self.may_reach_somebody() {
            let then = AfterChunk::Refusal(no_recipients());
            return self.refuse_chunk(length, octets, last, then);
        }
        if let Some(refusal) = self.lacks_chunking() {
            return self.refuse_chunk(length, octets, last, AfterChunk::Refusal(refusal));
        }
        if octets == 0 && !last {
            if let Some(transaction) = &mut self.transaction {
                transaction.progress = MessageProgress::Broken(None);
            }
            self.drop(Side::Client, length);
            let text = "an empty chunk that is not the last";
            self.fault(Refusal::new(551, (7, 1), text));
            return Step::Took(length);
        }
        if !last && !self.abuse.allows_chunk(octets) {
            self.drop(Side::Client, length);
            self.exhausted("too many small chunks");
            return Step::Took(length);
        }
        if !self.trace.is_empty() && !has_begun {
            let command = format!("BDAT {}\r\n", self.trace.len());
            let chunk = [command.as_bytes(), &self.trace].concat();
            self.begin_message(MessageProgress::Traced);
            self.send(Side::Server, chunk);
            self.slots.sent(Awaited::TraceChunk);
            if !self.may_pipeline() {
                return Step::Blocked;
            }
        }
        self.begin_message(MessageProgress::Chunks);
        self.forward(length, Awaited::Chunk { last });
        self.phase = Phase::Chunk { left: octets, last };
        self.chunk(&[]);
        Step::Took(length)
    }

    /// A chunk is refused only when its octets are through, and the message with it (RFC 3030 §2).
    fn refuse_chunk(&mut self, length: usize, octets: u64, last: bool, then: AfterChunk) -> Step {
        self.drop(Side::Client, length);
        if let Some(transaction) = &mut self.transaction
            && !transaction.is_dead()
        {
            let reply = match &then {
                AfterChunk::Refusal(refusal) => Reply::from(refusal),
                AfterChunk::Reply(reply) | AfterChunk::LastReply(reply) => reply.clone(),
            };
            transaction.progress = MessageProgress::Broken(Some(reply));
        }
        if self.allows_idle_command() {
            self.phase = Phase::SkipChunk {
                left: octets,
                last,
                then,
            };
            self.skip_chunk(&[]);
        }
        Step::Took(length)
    }

    fn content(&mut self, len: usize) {
        if len == 0 {
            return;
        }
        self.timing.moved(Side::Client);
        self.timing.count(len);
        if let Some(transaction) = &mut self.transaction {
            transaction.octets += len as u64;
        }
        self.pass(Side::Client, len, true);
    }

    pub(super) fn message(&mut self, bytes: &[u8]) -> Step {
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
                self.set_end(End::Refused);
                let text = "bare CR, bare LF or NUL in the message (RFC 5321 2.3.8)";
                let refusal = Refusal::new(550, (5, 2), text);
                self.phase = Phase::SkipMessage {
                    skipper: MessageSkipper::behind(before),
                    then: Reply::from(&refusal),
                };
                self.note(Note::Refused(refusal));
                self.drop_server();
                Step::Took(0)
            }
        }
    }

    pub(super) fn skip_message(&mut self, bytes: &[u8]) -> Step {
        let Phase::SkipMessage { skipper, then } = &mut self.phase else {
            return Step::Blocked;
        };
        let (len, ended) = skipper.skip(bytes);
        let reply = ended.then(|| then.clone());
        let step = self.drop(Side::Client, len);
        if let Some(reply) = reply {
            self.deliver(reply);
            self.close_both();
        }
        step
    }

    pub(super) fn chunk(&mut self, bytes: &[u8]) -> Step {
        let Phase::Chunk { left, last } = &mut self.phase else {
            return Step::Blocked;
        };
        let len = take_at_most(left, bytes.len());
        let (through, last) = (*left == 0, *last);
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

    pub(super) fn skip_chunk(&mut self, bytes: &[u8]) -> Step {
        let Phase::SkipChunk { left, .. } = &mut self.phase else {
            return Step::Blocked;
        };
        let len = take_at_most(left, bytes.len());
        let through = *left == 0;
        self.drop(Side::Client, len);
        self.timing.count(len);
        if through {
            self.chunk_skipped();
        } else if len == 0 {
            return Step::Starved;
        }
        Step::Took(len)
    }

    fn chunk_skipped(&mut self) {
        let Phase::SkipChunk { last, then, .. } =
            std::mem::replace(&mut self.phase, Phase::Commands)
        else {
            return;
        };
        match then {
            AfterChunk::Refusal(refusal) => self.decline(&refusal),
            AfterChunk::Reply(reply) => {
                self.slots.ours(reply);
                self.pump();
            }
            AfterChunk::LastReply(reply) => {
                self.deliver(reply);
                return self.close_both();
            }
        }
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        if last {
            self.reset_server();
        } else if !transaction.unrecorded && transaction.held.is_none() {
            // Nothing of the message was sent. The server forgets the envelope. Here it stays, so that later chunks are refused.
            transaction.held = Some(Vec::new());
            self.send_silent_rset();
        }
    }

    /// One line of the client's side of an AUTH exchange (RFC 4954 §4). It is secret and never looked at.
    pub(super) fn auth_response(&mut self, bytes: &[u8]) -> Step {
        match framing::line(bytes, framing::MAX_AUTH_LINE) {
            Line::Whole(length) => {
                self.phase = Phase::AwaitAuthReply;
                self.forward(length, Awaited::Auth)
            }
            Line::Partial => Step::Starved,
            Line::TooLong => {
                let text = "the authentication line is too long";
                self.end_after_replies(Refusal::new(500, (5, 6), text));
                Step::Took(0)
            }
            Line::Broken => self.broken_line(),
        }
    }
}

const NO_RECIPIENTS: &str = "no valid recipients";

/// The refusal of a message whose recipients were all refused (RFC 2920 §3.1).
pub(super) fn no_recipients() -> Refusal {
    Refusal::new(554, (5, 1), NO_RECIPIENTS)
}

/// Takes at most `available` octets from `left`; returns how many.
fn take_at_most(left: &mut u64, available: usize) -> usize {
    let len = usize::try_from(*left).map_or(available, |left| left.min(available));
    *left -= len as u64;
    len
}

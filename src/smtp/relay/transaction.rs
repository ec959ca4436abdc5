//! One mail transaction (RFC 5321 §3.3), and the limits for a client that gets no message through.

use crate::smtp::{
    machine::Completed,
    path::{ForwardPath, ForwardPaths, Sender},
    reply::Reply,
};

/// A transaction from MAIL to its end. There is one at a time: nothing behind a message is taken before its final reply.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) sender: Sender,
    /// The MAIL line until it is sent. It waits for the first recipient that may be handed over.
    pub(super) held: Option<Vec<u8>>,
    /// The server's refusal of MAIL. Outbound it answers every recipient, because MAIL itself is answered already.
    pub(super) refused: Option<Reply<'static>>,
    /// The server's last refusal of a recipient.
    pub(super) last_refusal: Option<Reply<'static>>,
    /// The recipients that the server accepted.
    pub(super) recipients: ForwardPaths,
    /// The server accepted a recipient.
    pub(super) reached_somebody: bool,
    /// The server refused the trace line, of which the client knows nothing: that refusal answers its chunks.
    pub(super) trace_refused: bool,
    /// A recipient was handed over to a server that had proved who it is.
    pub(super) authenticated: bool,
    pub(super) progress: MessageProgress,
    /// Something of a message may have passed, and no record tells of it yet.
    pub(super) unrecorded: bool,
    /// Octets of content that passed.
    pub(super) octets: u64,
}

/// How far a message is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum MessageProgress {
    NotBegun,
    /// The trace line was sent as a chunk of its own; BDAT follows.
    Traced,
    /// DATA got its 354.
    Data,
    /// A BDAT was forwarded.
    Chunks,
    /// A chunk was refused. Later chunks are refused too, with the same reply if there is one (RFC 3030 §2).
    Broken(Option<Reply<'static>>),
}

impl Transaction {
    pub(super) fn new(sender: Sender, held: Option<Vec<u8>>) -> Self {
        Self {
            sender,
            held,
            refused: None,
            last_refusal: None,
            recipients: ForwardPaths::default(),
            reached_somebody: false,
            trace_refused: false,
            authenticated: false,
            progress: MessageProgress::NotBegun,
            unrecorded: false,
            octets: 0,
        }
    }

    /// The server refused MAIL: nobody can be reached, and a message that went behind it is dead.
    pub(super) fn refuse_sender(&mut self, reply: Reply<'static>) {
        if self.has_begun() {
            self.progress = MessageProgress::Broken(Some(reply.clone()));
        }
        self.refused = Some(reply);
    }

    /// Something of the message was sent or refused.
    pub(super) fn has_begun(&self) -> bool {
        self.progress != MessageProgress::NotBegun
    }

    /// The message is being sent in chunks.
    pub(super) fn is_in_chunks(&self) -> bool {
        matches!(
            self.progress,
            MessageProgress::Traced | MessageProgress::Chunks
        )
    }

    /// A chunk was refused. Only RSET or another MAIL can follow the message (RFC 3030 §2).
    pub(super) fn is_dead(&self) -> bool {
        matches!(self.progress, MessageProgress::Broken(_))
    }

    /// What is known of the message, if it has begun and was not recorded yet. `reply` is the server's final reply; `unanswered` are the
    /// recipients that the server had not answered when the transaction ended. They may have got the message, so they are recorded as
    /// recipients; a final reply never comes before theirs.
    pub(super) fn completed<'a>(
        &mut self,
        reply: Option<&Reply>,
        unanswered: impl Iterator<Item = ForwardPath<'a>>,
    ) -> Option<Completed> {
        if !std::mem::take(&mut self.unrecorded) {
            return None;
        }
        let refusal = match &self.progress {
            MessageProgress::Broken(refusal) => refusal.as_ref(),
            _ => None,
        };
        let mut recipients = std::mem::take(&mut self.recipients);
        if self.refused.is_none() {
            recipients.extend(unanswered);
        }
        let reply = reply
            .or(refusal)
            // A refusal of our own is no reply of the server's.
            .filter(|reply| !reply.verbatim().is_empty());
        // A message for nobody is not accepted, whatever the server says to it. Its outcome is that of its envelope.
        let reply = match reply {
            Some(reply) if !reply.is_positive() => Some(reply),
            _ if recipients.is_empty() => self.refused.as_ref().or(self.last_refusal.as_ref()),
            reply => reply,
        };
        Some(Completed {
            reply: reply.map(|reply| reply.verbatim().to_vec()),
            sender: std::mem::take(&mut self.sender.path),
            sender_domain: self.sender.domain.take(),
            recipients,
            octets: self.octets,
        })
    }
}

/// Most wrong commands in one session.
const MAX_FAULTS: u32 = 20;
/// Most commands between two messages that help no message along.
const MAX_IDLE: u32 = 100;
/// Most recipients between two messages; RFC 5321 §4.5.3.1.8 asks for 100 at least.
const MAX_RECIPIENTS: u32 = 1000;
/// Most chunks between two messages that are smaller than [`SMALL_CHUNK`]. The last chunk of a message does not count.
const MAX_SMALL_CHUNKS: u32 = 1000;
/// In octets.
const SMALL_CHUNK: u64 = 512;

/// Counts what costs this proxy and helps nobody (RFC 5321 §7.8).
#[derive(Debug, Default)]
pub(super) struct AbuseCounters {
    faults: u32,
    idle: u32,
    recipients: u32,
    small_chunks: u32,
}

/// Whether the client may name one more recipient.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Allowance {
    Granted,
    /// This recipient is refused.
    Denied,
    /// The session ends.
    Exhausted,
}

impl AbuseCounters {
    /// Counts a wrong command; false if there were too many.
    pub(super) fn allows_fault(&mut self) -> bool {
        self.faults += 1;
        self.faults <= MAX_FAULTS
    }

    /// Counts a command that helps no message along; false if there were too many.
    pub(super) fn allows_idle_command(&mut self) -> bool {
        self.idle += 1;
        self.idle <= MAX_IDLE
    }

    /// Counts a recipient. Twice the limit is no honest list.
    pub(super) fn next_recipient(&mut self) -> Allowance {
        self.recipients += 1;
        match self.recipients {
            ..=MAX_RECIPIENTS => Allowance::Granted,
            n if n <= 2 * MAX_RECIPIENTS => Allowance::Denied,
            _ => Allowance::Exhausted,
        }
    }

    /// Counts a chunk of this many octets; false if too many were too small.
    pub(super) fn allows_chunk(&mut self, octets: u64) -> bool {
        self.small_chunks += u32::from(octets < SMALL_CHUNK);
        self.small_chunks <= MAX_SMALL_CHUNKS
    }

    /// A message got its final reply, so all counters but that of wrong commands start afresh.
    pub(super) fn message_done(&mut self) {
        *self = Self {
            faults: self.faults,
            ..Self::default()
        };
    }
}

//! One mail transaction (RFC 5321 §3.3), and what a client may ask for without getting a message through.

use crate::smtp::{
    Completed,
    path::{ForwardPath, Sender},
    reply::Reply,
};

/// From MAIL to its end. There is one at a time: nothing behind a message is taken before its final reply.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) sender: Sender,
    /// The MAIL line while it has not been sent: it waits for the first recipient that may be handed over.
    pub(super) held: Option<Vec<u8>>,
    /// The server's refusal of the held MAIL: it answers every recipient, since MAIL itself is answered already.
    pub(super) refused: Option<Reply>,
    /// Those that the server accepted.
    pub(super) recipients: Vec<ForwardPath>,
    /// One of its recipients was handed over to a server that had proved who it is.
    pub(super) authenticated: bool,
    /// How far the message is.
    pub(super) message: Message,
    /// Something of a message may have passed that no record tells of yet.
    pub(super) unrecorded: bool,
    /// Octets of content that passed.
    pub(super) octets: u64,
}

/// How far a message is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Not begun.
    Ahead,
    /// The trace line was sent as a chunk of its own; BDAT follows.
    Traced,
    /// DATA got its 354.
    Data,
    /// A BDAT was forwarded.
    Chunks,
    /// A chunk was refused: what follows it is refused too, with the same words if there are any (RFC 3030 §2).
    Broken(Option<Reply>),
}

impl Transaction {
    pub(super) fn new(sender: Sender, held: Option<Vec<u8>>) -> Self {
        Self {
            sender,
            held,
            refused: None,
            recipients: Vec::new(),
            authenticated: false,
            message: Message::Ahead,
            unrecorded: false,
            octets: 0,
        }
    }

    /// A chunk was refused: nothing revives the message, only another MAIL or RSET goes on (RFC 3030 §2).
    pub(super) fn is_dead(&self) -> bool {
        matches!(self.message, Message::Broken(_))
    }

    /// What is known of its message, if that has begun and was not told yet. `reply` is the server's final one.
    pub(super) fn completed(&mut self, reply: Option<&Reply>) -> Option<Completed> {
        if !std::mem::take(&mut self.unrecorded) {
            return None;
        }
        let refusal = match &self.message {
            Message::Broken(refusal) => refusal.as_ref(),
            _ => None,
        };
        Some(Completed {
            reply: reply
                .or(refusal)
                .map(|reply| reply.verbatim.clone())
                // Words of ours are no reply of the server's.
                .filter(|reply| !reply.is_empty()),
            sender: std::mem::take(&mut self.sender.path),
            sender_domain: self.sender.domain.take(),
            recipients: std::mem::take(&mut self.recipients),
            octets: self.octets,
        })
    }
}

/// Refusals of ours for commands that were wrong, before the session ends.
const MAX_FAULTS: u32 = 20;
/// Commands between two messages that do not help a message along.
const MAX_IDLE: u32 = 100;
/// Recipients asked for between two messages; RFC 5321 §4.5.3.1.8 wants 100 at least.
const MAX_RECIPIENTS: u32 = 1000;
/// Chunks of one message that are smaller than [`SMALL_CHUNK`], the last one apart.
const MAX_SMALL_CHUNKS: u32 = 1000;
const SMALL_CHUNK: u64 = 512;

/// Counts what costs us and helps nobody (RFC 5321 §7.8).
#[derive(Debug, Default)]
pub(super) struct Budget {
    faults: u32,
    idle: u32,
    recipients: u32,
    small_chunks: u32,
}

/// Whether one more may be asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Allowance {
    Granted,
    /// This one is refused.
    Denied,
    /// The session ends.
    Exhausted,
}

impl Budget {
    /// A command was wrong; false: once too often.
    pub(super) fn fault(&mut self) -> bool {
        self.faults += 1;
        self.faults <= MAX_FAULTS
    }

    /// A command did not help a message along; false: once too often.
    pub(super) fn idle(&mut self) -> bool {
        self.idle += 1;
        self.idle <= MAX_IDLE
    }

    /// A recipient is asked for; twice the limit is no honest list.
    pub(super) fn recipient(&mut self) -> Allowance {
        self.recipients += 1;
        match self.recipients {
            ..=MAX_RECIPIENTS => Allowance::Granted,
            n if n <= 2 * MAX_RECIPIENTS => Allowance::Denied,
            _ => Allowance::Exhausted,
        }
    }

    /// A chunk begins; false: too many are too small.
    pub(super) fn chunk(&mut self, octets: u64) -> bool {
        self.small_chunks += u32::from(octets < SMALL_CHUNK);
        self.small_chunks <= MAX_SMALL_CHUNKS
    }

    /// A message got its final reply.
    pub(super) fn message_done(&mut self) {
        *self = Self {
            faults: self.faults,
            ..Self::default()
        };
    }
}

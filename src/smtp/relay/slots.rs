//! One FIFO of the replies that are owed to the client, our own and the server's, in the order of its commands (RFC 2920 §3.2).
//!
//! A server's reply belongs to the first command that waits for one. Only counting decides that (RFC 2920 §3.1).

use crate::smtp::{path::ForwardPath, reply::Reply};
use std::collections::VecDeque;

/// Most replies owed at once. Beyond them no command is taken.
const MAX_SLOTS: usize = 128;

/// The command that a server's reply answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    /// MAIL that was held, and to which the client has its answer already.
    HeldMail,
    Mail,
    /// RCPT for this recipient.
    Rcpt(ForwardPath),
    Data,
    /// The end of DATA.
    EndOfData,
    Chunk {
        last: bool,
    },
    /// Our own chunk with the trace line, which the client does not know of.
    TraceChunk,
    Rset,
    /// Our own RSET, which the client does not know of.
    SilentRset,
    Noop,
    Hello,
    Auth,
    Quit,
}

#[derive(Debug)]
enum Slot {
    Ours {
        reply: Reply,
        /// The session ends behind it.
        closes: bool,
    },
    Server {
        awaited: Awaited,
        /// The command, until it is sent.
        unsent: Option<Vec<u8>>,
    },
}

/// The replies that are owed; the text of this module describes them.
#[derive(Debug, Default)]
pub(super) struct Slots(VecDeque<Slot>);

impl Slots {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= MAX_SLOTS
    }

    /// Whether any reply of the server is awaited.
    pub(super) fn awaits_server(&self) -> bool {
        self.0
            .iter()
            .any(|slot| matches!(slot, Slot::Server { .. }))
    }

    /// The command that the server's next reply answers.
    pub(super) fn awaited(&self) -> Option<&Awaited> {
        match self.0.front() {
            Some(Slot::Server {
                awaited,
                unsent: None,
            }) => Some(awaited),
            _ => None,
        }
    }

    /// Takes the command that the server's next reply answers, because that reply is here.
    pub(super) fn answered(&mut self) -> Option<Awaited> {
        self.awaited()?;
        match self.0.pop_front() {
            Some(Slot::Server { awaited, .. }) => Some(awaited),
            _ => None,
        }
    }

    /// Queues a reply of our own; `closes`: the session ends behind it.
    pub(super) fn ours(&mut self, reply: Reply, closes: bool) {
        self.0.push_back(Slot::Ours { reply, closes });
    }

    /// Queues the reply to a command that has been sent.
    pub(super) fn sent(&mut self, awaited: Awaited) {
        self.0.push_back(Slot::Server {
            awaited,
            unsent: None,
        });
    }

    /// Queues a command that waits until it may be sent, and its reply.
    pub(super) fn waiting(&mut self, awaited: Awaited, line: Vec<u8>) {
        self.0.push_back(Slot::Server {
            awaited,
            unsent: Some(line),
        });
    }

    /// Takes the next reply of our own that is due, and whether the session ends behind it.
    pub(super) fn due(&mut self) -> Option<(Reply, bool)> {
        match self.0.pop_front()? {
            Slot::Ours { reply, closes } => Some((reply, closes)),
            slot => {
                self.0.push_front(slot);
                None
            }
        }
    }

    /// Takes the next waiting command that may be sent now: each in turn where the server accepts pipelined commands, otherwise only
    /// when no reply is outstanding.
    pub(super) fn sendable(&mut self, pipelining: bool) -> Option<Vec<u8>> {
        for slot in &mut self.0 {
            match slot {
                Slot::Ours { .. } => {}
                Slot::Server { unsent, .. } if unsent.is_some() => return unsent.take(),
                Slot::Server { .. } if pipelining => {}
                Slot::Server { .. } => return None,
            }
        }
        None
    }

    /// The held MAIL was refused: that refusal answers the recipients that were not sent yet.
    pub(super) fn refuse_unsent(&mut self, refusal: &Reply) {
        for slot in &mut self.0 {
            if let Slot::Server {
                awaited: Awaited::Rcpt(_),
                unsent: Some(_),
            } = slot
            {
                *slot = Slot::Ours {
                    reply: refusal.clone(),
                    closes: false,
                };
            }
        }
    }

    /// Forgets all replies that are owed.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
